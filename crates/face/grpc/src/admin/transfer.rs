//! Transfers and their receipts.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use huitong_identity::{ServiceError, Standing};
use huitong_proof::id_text;
use huitong_transfer::{
    Limited, Metering, Priority, Rates, StartTransfer, Suspender, Transfer, TransferState, Transfers,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::watch::{Look, PROGRESS_INTERVAL, changed, watch};
use super::{AdminServices, MAX_LISTED, Watch, failed};
use crate::convert::{contract_id, data_id, fixed};
use crate::proto::admin as wire;
use crate::proto::admin::{TransferAction, TransferLimit};

const BUFFERED: usize = 4;
/// Between two looks at all transfers, at most.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

impl AdminServices {
    pub(super) async fn start_transfer(
        &self,
        request: wire::StartTransferRequest,
    ) -> Result<wire::StartTransferResponse, Status> {
        let transfers = self.transfers()?;
        let command = command(request).map_err(self.failed())?;
        let transfer = transfers.start(command).await.map_err(self.failed())?;
        Ok(wire::StartTransferResponse { transfer: Some(message(transfers, transfer)) })
    }

    /// Ends once the transfer is terminated, or deposited and completed with the proofs of both ledgers: a client that does not wait
    /// for a complete receipt stops reading when it is completed.
    pub(super) async fn watch_transfer(
        &self,
        request: wire::WatchTransferRequest,
    ) -> Result<Watch<wire::WatchTransferResponse>, Status> {
        let transfers = self.transfers()?.clone();
        let wire::WatchTransferRequest { id } = request;
        let id = fixed("id", &id).map_err(self.failed())?;
        // An unknown id is the call's error, not the stream's.
        look(&transfers, &id).map_err(self.failed())?;
        let (out, stream) = mpsc::channel(BUFFERED);
        let standing = self.standing.clone();
        tokio::spawn(async move {
            let (commits, ticks) = (standing.ledger.store().commits(), transfers.changes());
            let look = || look(&transfers, &id).map_err(failed(&standing));
            let show = |(seen, _)| wire::WatchTransferResponse { transfer: Some(message(&transfers, seen)) };
            watch(out, commits, Some(ticks), look, show).await;
        });
        Ok(ReceiverStream::new(stream))
    }

    /// Never ends by itself.
    pub(super) async fn watch_transfers(
        &self,
        request: wire::WatchTransfersRequest,
    ) -> Result<Watch<wire::WatchTransfersResponse>, Status> {
        let wire::WatchTransfersRequest {} = request;
        let transfers = self.transfers()?.clone();
        let (out, stream) = mpsc::channel(BUFFERED);
        let standing = self.standing.clone();
        tokio::spawn(async move {
            if let Err(error) = watch_all(&transfers, &standing, &out).await {
                let _ = out.send(Err(failed(&standing)(error))).await;
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    pub(super) async fn control_transfer(
        &self,
        request: wire::ControlTransferRequest,
    ) -> Result<wire::ControlTransferResponse, Status> {
        let transfers = self.transfers()?;
        let transfer = control(transfers, request).await.map_err(self.failed())?;
        Ok(wire::ControlTransferResponse { transfer: Some(message(transfers, transfer)) })
    }

    pub(super) async fn limit_transfers(
        &self,
        request: wire::LimitTransfersRequest,
    ) -> Result<wire::LimitTransfersResponse, Status> {
        let rates = limit(self.transfers()?, request).map_err(self.failed())?;
        let Rates { node, each_peer, each_contract } = rates;
        Ok(wire::LimitTransfersResponse {
            node: node.unwrap_or(0),
            each_peer: each_peer.unwrap_or(0),
            each_contract: each_contract.unwrap_or(0),
        })
    }

    pub(super) async fn list_transfers(
        &self,
        request: wire::ListTransfersRequest,
    ) -> Result<wire::ListTransfersResponse, Status> {
        let wire::ListTransfersRequest {} = request;
        let transfers = self.transfers()?;
        let listed = transfers.list(MAX_LISTED).map_err(self.failed())?;
        let listed = listed.into_iter().map(|transfer| message(transfers, transfer));
        Ok(wire::ListTransfersResponse { transfers: listed.collect() })
    }

    pub(super) async fn export_receipt(
        &self,
        request: wire::ExportReceiptRequest,
    ) -> Result<wire::ExportReceiptResponse, Status> {
        let transfers = self.transfers()?;
        let wire::ExportReceiptRequest { id } = request;
        let id = fixed("id", &id).map_err(self.failed())?;
        let receipt = transfers.receipt(&id).await.map_err(self.failed())?;
        Ok(wire::ExportReceiptResponse { receipt: receipt.into() })
    }
}

/// Shows what has not ended, or is still to be deposited, whenever it has changed, and how it ends, until nobody reads.
async fn watch_all(
    transfers: &Transfers,
    standing: &Standing,
    out: &mpsc::Sender<Result<wire::WatchTransfersResponse, Status>>,
) -> Result<(), ServiceError> {
    let (mut commits, mut ticks) = (standing.ledger.store().commits(), transfers.changes());
    // What begins and ends between two looks is not to be missed.
    let mut newest = (standing.ledger.clock().now(), [0; 16]);
    let mut shown: HashMap<[u8; 16], (Transfer, u64)> = HashMap::new();
    loop {
        // Marked as seen before looking, so that a change in between wakes us again.
        commits.borrow_and_update();
        ticks.borrow_and_update();
        let looked = Instant::now();
        let mut ids: BTreeSet<[u8; 16]> = transfers.live()?.into_iter().collect();
        let begun = transfers.begun_after(newest, MAX_LISTED)?;
        newest = begun.last().copied().unwrap_or(newest);
        let is_behind = begun.len() == MAX_LISTED;
        ids.extend(begun.into_iter().map(|(_, id)| id));
        ids.extend(transfers.open_deposits()?);
        ids.extend(shown.keys());
        for id in ids {
            let Some(transfer) = transfers.transfer(&id)? else { continue };
            let seen = (transfer, transfers.moved(&id));
            if shown.get(&id) == Some(&seen) {
                continue;
            }
            if seen.0.state.is_terminal() && !seen.0.awaits_deposit() {
                shown.remove(&id);
            } else {
                shown.insert(id, seen.clone());
            }
            let answer = wire::WatchTransfersResponse { transfer: Some(message(transfers, seen.0)) };
            if out.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
        }
        // Many that do not end make a look long: it is never all that is done. Whoever reads slowly is not kept waiting for it.
        let next = looked + PROGRESS_INTERVAL.max(looked.elapsed() * 4).min(LONGEST_INTERVAL);
        tokio::select! {
            () = out.closed() => return Ok(()),
            // A node commits more often than anybody can read.
            changed = changed(&mut commits, next), if !is_behind => if changed.is_err() {
                return Err(ServiceError::Busy { reason: "the node is stopping".to_owned() });
            },
            Ok(()) = changed(&mut ticks, next), if !is_behind => {}
            () = sleep_until(next), if is_behind => {}
        }
    }
}

fn command(request: wire::StartTransferRequest) -> Result<StartTransfer, ServiceError> {
    let wire::StartTransferRequest { id, contract, product, directory, priority } = request;
    let product = if product.is_empty() { None } else { Some(data_id("product", &product)?) };
    Ok(StartTransfer {
        id: fixed("id", &id)?,
        contract: contract_id("contract", &contract)?,
        product,
        directory: self::directory(directory),
        priority: self::priority(&priority)?,
    })
}

pub(super) fn directory(path: String) -> Option<PathBuf> {
    (!path.is_empty()).then(|| PathBuf::from(path))
}

pub(super) fn priority(name: &str) -> Result<Priority, ServiceError> {
    match name {
        "" => Ok(Priority::default()),
        name => Priority::from_name(name)
            .ok_or_else(|| ServiceError::invalid("priority", "expected low, normal or high")),
    }
}

async fn control(
    transfers: &Transfers,
    request: wire::ControlTransferRequest,
) -> Result<Transfer, ServiceError> {
    let wire::ControlTransferRequest { id, action, reason } = request;
    let id = fixed("id", &id)?;
    match TransferAction::try_from(action) {
        Ok(TransferAction::Pause) => transfers.pause(&id, &reason).await,
        Ok(TransferAction::Resume) => transfers.resume(&id).await,
        Ok(TransferAction::Cancel) => transfers.cancel(&id, &reason).await,
        Ok(TransferAction::Unspecified) | Err(_) => {
            Err(ServiceError::invalid("action", "expected pause, resume or cancel"))
        }
    }
}

fn limit(transfers: &Transfers, request: wire::LimitTransfersRequest) -> Result<Rates, ServiceError> {
    let wire::LimitTransfersRequest { limit, id, bytes_per_second } = request;
    let limited = match TransferLimit::try_from(limit) {
        Ok(TransferLimit::Unspecified) => return Ok(transfers.rates()),
        Ok(TransferLimit::Node) => Limited::Node,
        Ok(TransferLimit::EachPeer) => Limited::EachPeer,
        Ok(TransferLimit::EachContract) => Limited::EachContract,
        Ok(TransferLimit::Transfer) => {
            let id = fixed("id", &id)?;
            let known = transfers.transfer(&id)?;
            known.ok_or_else(|| ServiceError::NotFound { what: format!("transfer {}", id_text(&id)) })?;
            Limited::Transfer(id)
        }
        Err(_) => return Err(ServiceError::invalid("limit", "is not known to this node")),
    };
    transfers.limit(limited, (bytes_per_second > 0).then_some(bytes_per_second))
}

/// A transfer with the bytes moved in this run.
fn look(transfers: &Transfers, id: &[u8; 16]) -> Result<Look<(Transfer, u64)>, ServiceError> {
    let seen = transfers
        .transfer(id)?
        .ok_or_else(|| ServiceError::NotFound { what: format!("transfer {}", id_text(id)) })?;
    let over = match seen.state {
        TransferState::Terminated => true,
        TransferState::Completed => seen.proven && !seen.awaits_deposit(),
        TransferState::Requested | TransferState::Started | TransferState::Suspended => false,
    };
    Ok(Look { seen: (seen, transfers.moved(id)), over })
}

fn message(transfers: &Transfers, transfer: Transfer) -> wire::Transfer {
    // Figures that cannot be read are left out.
    let metering = transfers.metering(&transfer).ok().map(|metering| {
        let Metering { bytes, groups, milliseconds } = metering;
        wire::Metering { bytes, groups, milliseconds, bytes_per_second: metering.bytes_per_second() }
    });
    wire::Transfer {
        bytes_moved: transfers.moved(&transfer.id),
        id: transfer.id.to_vec().into(),
        side: transfer.side.name().to_owned(),
        peer: transfer.peer.to_string(),
        contract: transfer.contract.to_string(),
        product: transfer.product.to_string(),
        state: transfer.state.name().to_owned(),
        size: transfer.size,
        files: transfer.files.unwrap_or(0),
        priority: transfer.priority.name().to_owned(),
        version: transfer.version.unwrap_or(0),
        bytes_acknowledged: transfer.acknowledged,
        blake3: transfer.root.map(|root| root.to_string()).unwrap_or_default(),
        path: path(&transfer),
        suspended_by: match transfer.suspended_by {
            None => "",
            Some(Suspender::Operator) => "operator",
            Some(Suspender::Peer) => "peer",
            Some(Suspender::Space) => "space",
            Some(Suspender::Contract) => "contract",
        }
        .to_owned(),
        code: transfer.code,
        reason: transfer.reason,
        proven: transfer.proven,
        finality: transfer.finality.name().to_owned(),
        started_milliseconds: transfer.started.millis(),
        finished_milliseconds: transfer.finished.map_or(0, |at| at.millis()),
        groups: transfer.groups,
        metering,
        deposit: transfer.deposit.map(|deposit| wire::Deposit {
            location: deposit.location,
            path: deposit.path.unwrap_or_default(),
            state: deposit.state.name().to_owned(),
            reason: deposit.reason,
        }),
    }
}

/// Where it lies, or will lie before it goes elsewhere.
fn path(transfer: &Transfer) -> String {
    let deposited = || transfer.deposit.as_ref().and_then(|deposit| deposit.path.clone());
    let path = transfer.path.as_ref().map(|path| path.display().to_string());
    path.or_else(deposited).unwrap_or_default()
}
