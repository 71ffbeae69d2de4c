//! The consumer's side of an exchange.

use std::io;
use std::path::PathBuf;

use huitong_contract::{Side, Standing};
use huitong_identity::{Delivery, PeerError, ServiceError};
use huitong_store::Tx;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Transfers;
use super::destination::{Destination, has_room, make_destination, make_staging, remove_arrived, url};
use super::fetch::Fetch;
use super::standing::follow;
use crate::lanes::Confluence;
use crate::model::{
    Deposit, DepositState, Finality, FromConsumer, StartTransfer, Statements, Suspender, Transfer,
    TransferState, Want,
};
use crate::peer::TransferPeer;
use crate::rules::{self, Demand};
use crate::tables;

/// Frames to the provider that wait for the network.
const OUTGOING: usize = 16;

/// How one attempt ended short of completion.
pub(super) enum Stop {
    /// The connection or the disk failed: try again.
    Retry(String),
    /// The transfer is over for good; the consequence is on record.
    Over(String),
}

impl From<ServiceError> for Stop {
    fn from(error: ServiceError) -> Self {
        Self::Retry(error.to_string())
    }
}

impl Transfers {
    /// Starts a transfer, or gives the one with this id as it stands.
    pub async fn start(&self, request: StartTransfer) -> Result<Transfer, ServiceError> {
        let destination = self.destination(request.directory.clone()).await?;
        let this = self.clone();
        self.ledger()
            .store()
            .transact("transfer.start", move |tx| this.begin(tx, request, destination))
            .await
            .map_err(Into::into)
    }

    /// Where to deliver to: a directory, which is made if it is not there, or a place in the depot.
    pub(super) async fn destination(&self, directory: Option<PathBuf>) -> Result<Destination, ServiceError> {
        if let Some(url) = directory.as_deref().and_then(url) {
            return self.place(url).map(Destination::Depot);
        }
        let directory = match directory {
            Some(directory) if directory.is_absolute() => directory,
            Some(_) => {
                let reason =
                    "expected an absolute path, as the node has another directory, or s3://bucket/prefix/";
                return Err(ServiceError::invalid("directory", reason));
            }
            None => self.settings.received.clone(),
        };
        let made = directory.clone();
        tokio::task::spawn_blocking(move || make_destination(&made))
            .await
            .map_err(|error| ServiceError::Internal(error.to_string()))?
            .map_err(|error| {
                ServiceError::invalid("directory", format!("{}: {error}", directory.display()))
            })?;
        Ok(Destination::Directory(directory))
    }

    /// Stores a transfer that wants to run, unless it is known already.
    pub(super) fn begin(
        &self,
        tx: &mut Tx<'_>,
        request: StartTransfer,
        destination: Destination,
    ) -> Result<Transfer, ServiceError> {
        if let Some(existing) = tables::transfer(tx, &request.id)? {
            let same = existing.side == Side::Consumer && existing.contract == request.contract;
            return if same {
                Ok(existing)
            } else {
                Err(ServiceError::Conflict {
                    reason: "this transfer id belongs to another transfer; choose a new one".to_owned(),
                })
            };
        }
        let contract = self
            .contracts
            .contract(tx, &request.contract)?
            .filter(|contract| contract.side == Side::Consumer)
            .ok_or_else(|| ServiceError::NotFound {
                what: format!("contract {} with this node as consumer", request.contract),
            })?;
        if let Standing::Ended(_) = contract.standing {
            return Err(ServiceError::Conflict { reason: contract.standing.to_string() });
        }
        let (directory, deposit) = match destination {
            Destination::Directory(directory) => (directory, None),
            Destination::Depot(location) => {
                let deposit =
                    Deposit { location, path: None, state: DepositState::Open, reason: String::new() };
                (self.staging_directory(&request.id), Some(deposit))
            }
        };
        let mut transfer = Transfer {
            id: request.id,
            side: Side::Consumer,
            peer: contract.agreement.provider.node.clone(),
            contract: request.contract,
            product: request.product.unwrap_or_else(|| contract.agreement.product.clone()),
            state: TransferState::Requested,
            priority: request.priority,
            size: 0,
            acknowledged: 0,
            acknowledged_groups: 0,
            groups: 0,
            files: None,
            name: None,
            root: None,
            version: None,
            path: None,
            directory,
            deposit,
            suspended_by: None,
            code: String::new(),
            reason: String::new(),
            proven: false,
            finality: Finality::Provisional,
            started: self.ledger().clock().now(),
            finished: None,
            statements: Statements::default(),
        };
        follow(tx, self.ledger(), &mut transfer, &contract)?;
        tables::save(tx, &transfer)?;
        Ok(transfer)
    }

    /// One attempt to bring a consumer transfer to its end.
    pub async fn run(&self, id: &[u8; 16], peer: &dyn TransferPeer) -> Result<(), Delivery> {
        let transfer = match tables::transfer(&self.ledger().store().view(), id) {
            Ok(Some(found)) if found.wants_to_run() => found,
            Ok(_) => return Ok(()),
            Err(error) => return Err(Delivery::Retry(error.to_string())),
        };
        if self.has_been_cancelled_for_long(&transfer) {
            return self.told(id).await.map_err(|error| Delivery::Retry(error.to_string()));
        }
        let run = self.take_over(*id, None);
        let ended = self.attempt(transfer, run.clone(), peer).await;
        self.remove_ended(id).await;
        match ended {
            Ok(()) => {
                self.forget_run(id, &run);
                Ok(())
            }
            Err(Stop::Over(reason)) => {
                self.forget_run(id, &run);
                Err(Delivery::Dead(reason))
            }
            Err(Stop::Retry(reason)) => {
                self.note_wait(id, &reason);
                Err(Delivery::Retry(reason))
            }
        }
    }

    /// Removes what has arrived of a transfer that has ended short of completion: only when its run, which may have made it anew,
    /// writes nothing any more.
    async fn remove_ended(&self, id: &[u8; 16]) {
        match tables::transfer(&self.ledger().store().view(), id) {
            Ok(Some(stored)) if stored.state == TransferState::Terminated => remove_arrived(&stored).await,
            _ => {}
        }
    }

    /// Whether its destination takes nothing although there is room, as with a quota that is used up.
    pub async fn is_denied_room(&self, id: &[u8; 16]) -> bool {
        match tables::transfer(&self.ledger().store().view(), id) {
            Ok(Some(found)) if found.suspended_by == Some(Suspender::Space) => has_room(&found).await,
            _ => false,
        }
    }

    async fn attempt(
        &self,
        transfer: Transfer,
        orders: watch::Receiver<()>,
        peer: &dyn TransferPeer,
    ) -> Result<(), Stop> {
        if transfer.suspended_by == Some(Suspender::Space) && !has_room(&transfer).await {
            return Err(Stop::Retry(transfer.reason));
        }
        let view = self.ledger().store().view();
        let contract = self
            .contracts
            .contract(&view, &transfer.contract)?
            .ok_or_else(|| ServiceError::NotFound { what: format!("contract {}", transfer.contract) })?;
        // It is about to wait, or to end.
        if let Demand::Wait | Demand::End = rules::demanded(&contract.standing, &transfer) {
            return Err(Stop::Retry(contract.standing.to_string()));
        }
        let (credential, _) = self.credential(&view, &transfer.peer)?;
        if transfer.deposit.is_some() && !transfer.state.is_terminal() {
            let directory = transfer.directory.clone();
            let made = tokio::task::spawn_blocking(move || make_staging(&directory)).await;
            made.map_err(io::Error::other).flatten().map_err(|error| {
                Stop::Retry(format!("{} cannot be made: {error}", transfer.directory.display()))
            })?;
        }
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let want = Want {
            transfer: transfer.id,
            contract: transfer.contract.clone(),
            product: transfer.product.clone(),
        };
        // The channel is empty and open: this cannot wait.
        let _ = out.send(FromConsumer::Want(want)).await;
        // Of a series it may be another version: this only chooses the connections.
        let size = if transfer.root.is_some() { transfer.size } else { contract.agreement.size };
        let began = Instant::now();
        let frames = match peer.exchange(&transfer.peer, size, outgoing).await {
            Ok(frames) => Confluence::new(frames),
            Err(error) => return Err(self.peer_failed(&transfer, error).await),
        };
        let lanes = rules::lanes(self.settings.connections, size, began.elapsed());
        Fetch {
            transfers: self,
            transfer,
            contract,
            credential,
            peer,
            lanes,
            frames,
            out,
            orders,
            is_cut_off: false,
        }
        .run()
        .await
    }

    /// A peer that is away is worth another try; one that said no without a statement of its own ends the transfer.
    pub(super) async fn peer_failed(&self, transfer: &Transfer, error: PeerError) -> Stop {
        match error {
            PeerError::Unavailable(reason) | PeerError::Broken(reason) => Stop::Retry(reason),
            PeerError::Refused { code, reason, .. } => {
                let (id, shown, ledger) = (transfer.id, format!("{code}: {reason}"), self.ledger().clone());
                let ended = self
                    .ledger()
                    .store()
                    .transact("transfer.refused", move |tx| -> Result<(), ServiceError> {
                        let Some(mut transfer) = tables::transfer(tx, &id)? else { return Ok(()) };
                        // Another run may have completed it.
                        if !transfer.state.is_terminal() {
                            transfer.terminate(&code, &reason, ledger.clock().now());
                            tables::save(tx, &transfer)?;
                        }
                        Ok(())
                    })
                    .await;
                match ended {
                    Ok(()) => Stop::Over(shown),
                    Err(error) => Stop::Retry(ServiceError::from(error).to_string()),
                }
            }
        }
    }
}
