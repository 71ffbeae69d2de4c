//! One attempt of a consumer to bring a transfer to its end.

mod content;
mod offer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use huitong_contract::Contract;
use huitong_identity::{Credential, PeerError, Refusal, ServiceError, read_refusal, statement_of};
use huitong_ledger::{Ledger, LedgerError};
use huitong_proof::{Envelope, Kind, MAX_MANIFEST_BYTES, Statement};
use huitong_store::Tx;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::consumer::Stop;
use super::destination::{marked_path, part_path, publish};
use super::{Abort, Order, Transfers, check_belongs, issue, order, stopped};
use crate::details::{AckDetail, AckStatus, abort_detail, read_abort, read_final};
use crate::lanes::Confluence;
use crate::model::{FromConsumer, FromProvider, Transfer, TransferState};
use crate::peer::TransferPeer;
use crate::tables;

/// How long nothing may come from the provider.
const IDLE: Duration = Duration::from_secs(60);
/// How long no content may come: under a low limit of the provider a transfer's turn comes seldom. That the provider is there
/// at all is for the connection to find out.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the statements before content and index may take.
const OPENING: Duration = Duration::from_secs(600);
/// Bytes per second of an index that come at least: its provider's limits may be shared by many, but it does not trickle.
const SLOWEST_INDEX: u64 = 8 << 10;
/// Bytes of one leaf value.
const LEAF_BYTES: u64 = 32;
/// How long the provider may take to read our ABORT.
const LAST_WORD: Duration = Duration::from_secs(5);

/// One attempt.
pub(super) struct Fetch<'a> {
    pub(super) transfers: &'a Transfers,
    pub(super) transfer: Transfer,
    pub(super) contract: Contract,
    pub(super) credential: Credential,
    pub(super) peer: &'a dyn TransferPeer,
    /// Connections to open beside the first one.
    pub(super) lanes: usize,
    pub(super) frames: Confluence,
    pub(super) out: mpsc::Sender<FromConsumer>,
    pub(super) orders: watch::Receiver<()>,
    /// The provider, or the connection to it, has gone: what is said now is not heard.
    pub(super) is_cut_off: bool,
}

impl Fetch<'_> {
    pub(super) async fn run(mut self) -> Result<(), Stop> {
        if self.transfer.state == TransferState::Terminated {
            return self.tell_that_it_was_cancelled().await;
        }
        let outcome = self.deliver().await;
        if outcome.is_err() {
            self.say_last_word().await?;
        }
        outcome
    }

    /// The provider takes our ABORT once it has made its offer again; any other answer means that it is over there too.
    async fn tell_that_it_was_cancelled(&mut self) -> Result<(), Stop> {
        loop {
            match self.next().await {
                Ok(FromProvider::Statement(bytes)) => match self.statement(bytes)?.kind() {
                    Kind::Offer | Kind::Refusal | Kind::Abort => break,
                    _ => {}
                },
                Ok(_) => {}
                // It does not know of it any more, or does not deal with us.
                Err(Stop::Over(_)) => return Ok(self.transfers.told(&self.transfer.id).await?),
                Err(stop) => return Err(stop),
            }
        }
        self.say_last_word().await
    }

    /// Before we leave a transfer that was paused, suspended or cancelled: what we have signed about that.
    async fn say_last_word(&mut self) -> Result<(), Stop> {
        let ledger = self.transfers.ledger();
        let view = ledger.store().view();
        let Some(stored) = tables::transfer(&view, &self.transfer.id)? else { return Ok(()) };
        let Some(digest) = self.transfers.last_word(&stored) else { return Ok(()) };
        let found = ledger.statement(&view, &digest).map_err(ServiceError::from)?;
        drop(view);
        let Some(statement) = found else { return Ok(()) };
        self.send(&statement).await?;
        let told = self.wait_for_the_end().await;
        if told && stored.state == TransferState::Terminated {
            self.transfers.told(&stored.id).await?;
        }
        Ok(())
    }

    /// Leaving at once could cut the connection under our last word: the provider hangs up when it has read it. Says
    /// whether it did, and the connection did not break before.
    async fn wait_for_the_end(&mut self) -> bool {
        let hangs_up = async {
            loop {
                match self.frames.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => return false,
                    None => return true,
                }
            }
        };
        timeout(LAST_WORD, hangs_up).await.unwrap_or(false) && !self.is_cut_off
    }

    async fn deliver(&mut self) -> Result<(), Stop> {
        let offer = in_time(OPENING, self.opening()).await?;
        if let Some(last) = self.already_acknowledged().await? {
            return self.finish(last).await;
        }
        let content = Arc::new(in_time(index_time(&self.transfer), self.index(&offer)).await?);
        let missing = self.missing(&content).await?;
        self.accept(missing.clone()).await?;
        let last = self.receive(content, missing).await?;
        self.finish(last).await
    }

    /// After a crash behind the complete ACK: only the FINAL is missing. Says again, in the same bytes, what the
    /// provider may not have heard.
    async fn already_acknowledged(&mut self) -> Result<Option<Statement>, Stop> {
        let Some(digest) = self.transfer.statements.ack else { return Ok(None) };
        let ledger = self.transfers.ledger();
        let ack = ledger
            .statement(&ledger.store().view(), &digest)
            .map_err(ServiceError::from)?
            .ok_or_else(|| Stop::Retry("our own acknowledgement is missing".to_owned()))?;
        if AckDetail::read(&ack)?.status != AckStatus::Complete {
            return Ok(None);
        }
        self.say_again(&ack).await?;
        in_time(index_time(&self.transfer), self.await_final()).await.map(Some)
    }

    async fn await_final(&mut self) -> Result<Statement, Stop> {
        let mut skipped = 0_u64;
        let bytes = loop {
            match self.next_within(PATIENCE).await? {
                FromProvider::Statement(bytes) => break bytes,
                // A provider that had not heard our acknowledgement begins with these.
                FromProvider::Manifest(part) | FromProvider::Leaves(part) => {
                    skipped = skipped.saturating_add(part.len() as u64);
                    if part.is_empty() || skipped > index_bytes(&self.transfer) {
                        return Err(broken("more leaf values or manifest than there can be"));
                    }
                }
                FromProvider::Chunk { .. } => return Err(broken("bytes where the final was due")),
            }
        };
        let statement = self.statement(bytes.clone())?;
        if statement.kind() != Kind::Final {
            return Err(self.unexpected(bytes).await?);
        }
        let root = read_final(&statement)?;
        if Some(root) != self.transfer.root
            || Some(statement.body().reference) != self.transfer.statements.ack
        {
            return Err(broken("the final does not answer our acknowledgement"));
        }
        Ok(statement)
    }

    /// Puts the file in its place, then records the end.
    async fn finish(&mut self, last: Statement) -> Result<(), Stop> {
        let (part, path) = (self.part_path()?, self.transfer.path.clone().unwrap_or_default());
        let marked = marked_path(&path, &self.transfer.id);
        let path = tokio::task::spawn_blocking(move || publish(&part, &path, marked))
            .await
            .map_err(|error| Stop::Retry(error.to_string()))?
            .map_err(|error| Stop::Retry(format!("the received file cannot be put in its place: {error}")))?;
        self.change("transfer.completed", move |tx, ledger, transfer, _| {
            ledger.admit(tx, &last)?;
            transfer.path = Some(path);
            transfer.statements.last = Some(last.digest());
            transfer.state = TransferState::Completed;
            transfer.finished = Some(ledger.clock().now());
            tables::put_last_completed(tx, transfer)?;
            Ok(())
        })
        .await?;
        Ok(())
    }

    async fn next(&mut self) -> Result<FromProvider, Stop> {
        self.next_within(IDLE).await
    }

    async fn next_within(&mut self, patience: Duration) -> Result<FromProvider, Stop> {
        loop {
            let frame = tokio::select! {
                biased;
                order = order(&mut self.orders) => {
                    self.obey(&order)?;
                    continue;
                }
                frame = timeout(patience, self.frames.next()) => frame.map_err(|_| silent(patience))?,
            };
            return self.frame(frame).await;
        }
    }

    /// Ends this run if the order says so.
    fn obey(&self, order: &Order) -> Result<(), Stop> {
        match order {
            Order::TakenOver => Err(taken_over()),
            Order::LookAgain => {
                let stored = tables::transfer(&self.transfers.ledger().store().view(), &self.transfer.id)?;
                match stored.as_ref().map(stopped) {
                    Some(None) => Ok(()),
                    Some(Some(reason)) => Err(Stop::Retry(reason.to_owned())),
                    None => Err(Stop::Retry("the transfer is gone".to_owned())),
                }
            }
        }
    }

    async fn frame(&mut self, frame: Option<Result<FromProvider, PeerError>>) -> Result<FromProvider, Stop> {
        match frame {
            Some(Ok(frame)) => Ok(frame),
            Some(Err(error)) => {
                self.is_cut_off = true;
                Err(self.transfers.peer_failed(&self.transfer, error).await)
            }
            None => {
                self.is_cut_off = true;
                Err(Stop::Retry("the provider closed the exchange".to_owned()))
            }
        }
    }

    /// A statement of the provider about this transfer, or the registrar's certificate of the product.
    fn statement(&self, bytes: Bytes) -> Result<Statement, ServiceError> {
        let ledger = self.transfers.ledger();
        let envelope = Envelope::decode(bytes.clone())?;
        let roots = self.transfers.standing.directory.roots();
        if let Some(root) = roots.entry(envelope.claimed_issuer()) {
            let statement = envelope.verify(&root.statement_key, ledger.space())?;
            // A registrar that is also the provider speaks about the transfer like any other provider.
            if statement.kind() == Kind::AssetCertificate {
                return Ok(statement);
            }
        }
        let statement = statement_of(&self.credential, bytes, ledger)?;
        if statement.kind() == Kind::Refusal {
            if statement.body().subject != self.transfer.id {
                return Err(ServiceError::invalid("statement.subject", "is another transfer"));
            }
        } else {
            check_belongs(&statement, &self.transfer, &self.contract)?;
        }
        Ok(statement)
    }

    /// A statement where none was due: the end of the transfer, or a breach of the protocol.
    async fn unexpected(&mut self, bytes: Bytes) -> Result<Stop, Stop> {
        let statement = self.statement(bytes)?;
        match statement.kind() {
            Kind::Abort => self.aborted(statement).await,
            Kind::Refusal => self.refused(statement).await,
            other => Err(broken(&format!("an unexpected {}", other.name()))),
        }
    }

    async fn refused(&mut self, statement: Statement) -> Result<Stop, Stop> {
        let refusal = read_refusal(&statement)?;
        self.ended_by(statement, refusal.code, refusal.reason).await
    }

    async fn aborted(&mut self, statement: Statement) -> Result<Stop, Stop> {
        let (code, reason) = read_abort(&statement)?;
        self.ended_by(statement, code, reason).await
    }

    async fn ended_by(&mut self, statement: Statement, code: String, reason: String) -> Result<Stop, Stop> {
        let shown = format!("{code}: {reason}");
        self.change("transfer.ended", move |tx, ledger, transfer, _| {
            ledger.admit(tx, &statement)?;
            transfer.terminate(&code, &reason, ledger.clock().now());
            Ok(())
        })
        .await?;
        Ok(Stop::Over(shown))
    }

    /// Ends the transfer for good with our own signed ABORT.
    async fn abort(&mut self, refusal: &Refusal, answered: &Statement) -> Result<Stop, Stop> {
        let (code, reason, answered) = (refusal.code.clone(), refusal.reason.clone(), answered.clone());
        let shown = refusal.to_string();
        let statement = self
            .change("transfer.abort", move |tx, ledger, transfer, contract| {
                // What made us stop is evidence: it is kept with our answer, and where it contradicts what the
                // provider signed before, both are kept as a pair by this very call.
                match ledger.admit(tx, &answered) {
                    Ok(_) | Err(LedgerError::Fork { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                let detail = abort_detail(&code, &reason);
                let statement =
                    issue(tx, ledger, Kind::Abort, transfer, contract, answered.digest(), detail)?;
                transfer.terminate(&code, &reason, ledger.clock().now());
                Ok(statement)
            })
            .await?;
        // It is over and on record, whether or not the provider still listens.
        let _ = self.send(&statement).await;
        self.wait_for_the_end().await;
        Ok(Stop::Over(shown))
    }

    async fn send(&mut self, statement: &Statement) -> Result<(), Stop> {
        let frame = FromConsumer::Statement(statement.bytes().clone());
        match timeout(IDLE, self.out.send(frame)).await {
            // Where the provider has hung up, what it said last is still to be read: it may be a signed end.
            Ok(Ok(()) | Err(_)) => Ok(()),
            Err(_) => Err(Stop::Retry("the provider took nothing for 60 seconds".to_owned())),
        }
    }

    fn part_path(&self) -> Result<PathBuf, Stop> {
        part_path(&self.transfer).ok_or_else(|| Stop::Retry("the destination is not known yet".to_owned()))
    }

    /// Changes the stored transfer in one commit and keeps our copy equal to it.
    async fn change<T: Send + 'static>(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Tx<'_>, &Ledger, &mut Transfer, &Contract) -> Result<T, Abort> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let (transfer, value) = self.transfers.change(name, self.transfer.id, &self.contract, step).await?;
        self.transfer = transfer;
        Ok(value)
    }
}

/// A peer that breaks the protocol may be restarting in the middle of a frame; what it signed is checked anew next time.
fn broken(what: &str) -> Stop {
    Stop::Retry(format!("the provider broke the protocol: {what}"))
}

/// The most bytes that manifest and leaf values of a transfer have.
fn index_bytes(transfer: &Transfer) -> u64 {
    let manifest = if transfer.files.is_some() { MAX_MANIFEST_BYTES as u64 } else { 0 };
    transfer.groups.saturating_mul(LEAF_BYTES).saturating_add(manifest)
}

/// How long those may take.
fn index_time(transfer: &Transfer) -> Duration {
    OPENING.saturating_add(Duration::from_secs(index_bytes(transfer) / SLOWEST_INDEX))
}

/// One deadline for several frames: each by itself may take its time.
async fn in_time<T>(limit: Duration, step: impl Future<Output = Result<T, Stop>> + Send) -> Result<T, Stop> {
    let late = || Stop::Retry(format!("the provider was not through within {} seconds", limit.as_secs()));
    timeout(limit, step).await.map_err(|_| late())?
}

/// Does what may take long on a thread that may wait.
async fn blocking<T: Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> Result<T, Stop> {
    tokio::task::spawn_blocking(step).await.map_err(|error| Stop::Retry(error.to_string()))
}

fn silent(within: Duration) -> Stop {
    Stop::Retry(format!("nothing came from the provider for {} seconds", within.as_secs()))
}

fn taken_over() -> Stop {
    Stop::Retry("another run of this transfer took over".to_owned())
}
