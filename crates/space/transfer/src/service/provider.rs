//! The provider's side of an exchange.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use huitong_catalog::ShelfProduct;
use huitong_contract::{Contract, Contracts, Side};
use huitong_identity::{Caller, PeerError, Refusal, ServiceError, refuse, remember, statement_from};
use huitong_ledger::Ledger;
use huitong_policy::{Action, Policy};
use huitong_proof::{Digest, Kind, Statement, Timestamp, group_count, random};
use huitong_store::{Read, Tx};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::{Transfers, check_belongs, issue, source};
use crate::details::{
    AcceptDetail, AckDetail, AckStatus, OfferDetail, UsageDetail, abort_detail, final_detail, read_abort,
};
use crate::model::{FromConsumer, FromProvider, Statements, Transfer, TransferState, Want};
use crate::{rules, tables};

/// How long the consumer may take for its first frame.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// How long nothing at all may move.
const IDLE: Duration = Duration::from_secs(60);
/// How often a running exchange asks whether it still may run.
const RECHECK: Duration = Duration::from_millis(500);
/// Bytes of the leaf list in one frame.
const LEAVES_FRAME: usize = 1 << 20;

/// What the decision about a `Want` led to, already durable.
enum Opening {
    Refused(Statement),
    Offered(Box<Offered>),
}

struct Offered {
    transfer: Transfer,
    contract: Contract,
    product: ShelfProduct,
    /// In the order in which they go out: certificate, usage, offer, and the final of a transfer that is over.
    statements: Vec<Statement>,
}

impl Transfers {
    /// Serves one exchange from its first frame to its end. A refusal is a signed statement in `out` and no error.
    pub async fn exchange(
        &self,
        caller: Caller,
        address: IpAddr,
        mut incoming: mpsc::Receiver<Result<FromConsumer, PeerError>>,
        out: mpsc::Sender<FromProvider>,
    ) -> Result<(), ServiceError> {
        let _place = self.outgoing.try_acquire().map_err(|_| ServiceError::Busy {
            reason: "this node serves as many transfers as it may; try again later".to_owned(),
        })?;
        let want = match timeout(FIRST_FRAME, incoming.recv()).await {
            Ok(Some(Ok(FromConsumer::Want(want)))) => want,
            Ok(Some(Ok(FromConsumer::Statement(_)))) => {
                return Err(ServiceError::invalid("frame", "the first frame must say what is wanted"));
            }
            Ok(Some(Err(error))) => return Err(error.into()),
            Ok(None) | Err(_) => return Err(ServiceError::invalid("frame", "no first frame came")),
        };
        let offered = match self.open(&caller, address, want).await? {
            Opening::Refused(statement) => {
                let _ = out.send(FromProvider::Statement(statement.bytes().clone())).await;
                return Ok(());
            }
            Opening::Offered(offered) => *offered,
        };
        let id = offered.transfer.id;
        let superseded = self.take_over(id);
        let outcome =
            Exchange { transfers: self, caller, address, incoming, out, superseded, offered }.run().await;
        if !matches!(outcome, Ok(Ended::Superseded)) {
            self.forget_run(&id);
        }
        outcome.map(|_| ())
    }

    /// Decides about a `Want` and commits the outcome: an offer with its counters consumed, or a refusal.
    async fn open(&self, caller: &Caller, address: IpAddr, want: Want) -> Result<Opening, ServiceError> {
        let product = self.shelf.product(&want.product)?;
        // Looking at the file happens before the transaction: the journal's writer must not wait for another disk.
        let unchanged = match &product {
            Some(product) => {
                let source = product.source.clone();
                tokio::task::spawn_blocking(move || source.check_unchanged())
                    .await
                    .map_err(|error| ServiceError::Internal(error.to_string()))?
                    .map_err(|error| error.to_string())
            }
            None => Err("this node no longer offers the product".to_owned()),
        };
        let (ledger, contracts, caller) = (self.ledger().clone(), self.contracts.clone(), caller.clone());
        self.ledger()
            .store()
            .transact("transfer.open", move |tx| -> Result<Opening, ServiceError> {
                remember(tx, &ledger, &caller)?;
                match decide(tx, &ledger, &contracts, &caller, address, &want, product, &unchanged)? {
                    Ok(offered) => Ok(Opening::Offered(Box::new(offered))),
                    Err((refusal, agreement)) => {
                        let asked = format!("deliver {} under contract {}", want.product, want.contract);
                        let statement = refuse(
                            tx,
                            &ledger,
                            caller.node().as_str(),
                            want.transfer,
                            agreement,
                            Digest::ZERO,
                            &refusal,
                            &asked,
                        )?;
                        Ok(Opening::Refused(statement))
                    }
                }
            })
            .await
            .map_err(Into::into)
    }
}

type Decided = Result<Offered, (Refusal, Digest)>;

#[expect(clippy::too_many_arguments, reason = "each is one fact that the decision rests on")]
fn decide(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    contracts: &Contracts,
    caller: &Caller,
    address: IpAddr,
    want: &Want,
    product: Option<ShelfProduct>,
    unchanged: &Result<(), String>,
) -> Result<Decided, ServiceError> {
    let existing = tables::transfer(tx, &want.transfer)?;
    let contract = contracts.contract(tx, &want.contract)?;
    let contract = match rules::may_open(want, caller, contract.as_ref(), existing.as_ref()) {
        Ok(contract) => contract.clone(),
        Err(refusal) => return Ok(Err((refusal, Digest::ZERO))),
    };
    let refused = |refusal: Refusal| Ok(Err((refusal, contract.hash)));
    if let Some(transfer) = &existing {
        match transfer.state {
            TransferState::Terminated => {
                return refused(Refusal::new(
                    "transfer.ended",
                    format!("this transfer ended ({}): {}", transfer.code, transfer.reason),
                    "start a new transfer",
                ));
            }
            // Nothing moves any more: the same statements once again, whatever the policy says by now.
            TransferState::Completed => {
                let Some(product) = product else {
                    return Err(ServiceError::NotFound { what: format!("product {}", want.product) });
                };
                let statements = stored_statements(tx, ledger, transfer)?;
                return Ok(Ok(Offered { transfer: transfer.clone(), contract, product, statements }));
            }
            TransferState::Requested | TransferState::Started => {}
        }
    }
    let product = match (product, unchanged) {
        (Some(product), Ok(())) => product,
        (_, Err(reason)) => {
            return refused(Refusal::new(
                "source.changed",
                reason.clone(),
                "ask the provider to publish it anew",
            ));
        }
        (None, Ok(())) => {
            return refused(Refusal::new(
                "source.gone",
                "the product is no longer offered",
                "ask the provider",
            ));
        }
    };
    let now = ledger.clock().now();
    let own_use = u64::from(existing.is_some());
    let used = counters(tx, &contract, own_use)?;
    let decision = match rules::ask_policy(&contract.agreement, caller, address, now, &|clause| {
        used.get(clause.as_str()).copied().unwrap_or(0)
    }) {
        Ok(decision) => decision,
        Err(refusal) => return refused(refusal),
    };
    if let Some(transfer) = existing {
        let statements = stored_statements(tx, ledger, &transfer)?;
        return Ok(Ok(Offered { transfer, contract, product, statements }));
    }
    let mut transfer = new_transfer(want, caller, &contract, product.certificate.digest(), now);
    // The counter is consumed before the first byte can leave: a crash over-counts, never under-counts.
    for clause in &decision.counts {
        let after = tables::counter(tx, &contract.hash, clause.as_str())?.saturating_add(1);
        tables::put_counter(tx, &contract.hash, clause.as_str(), after)?;
        let usage = UsageDetail {
            decision: random(&**ledger.entropy()),
            action: Action::Delivery.wire().to_owned(),
            counter: clause.as_str().to_owned(),
            after,
            context: Digest::sha256(format!("{now} {address} {} {}", caller.node(), want.product).as_bytes()),
        };
        let statement =
            issue(tx, ledger, Kind::Usage, &transfer, &contract, Digest::ZERO, usage.to_detail())?;
        transfer.statements.usage.push(statement.digest());
    }
    let offer = OfferDetail {
        product: want.product.clone(),
        root: contract.agreement.root,
        size: contract.agreement.size,
        window: contract.agreement.window_bytes,
        policy: Digest::sha256(&contract.agreement.policy),
        file_name: product.record.file_name.as_str().to_owned(),
    };
    let negotiation = contracts.negotiation(&contract.negotiation)?;
    let finalisation = negotiation.and_then(|found| found.statements.finalisation).unwrap_or(Digest::ZERO);
    let statement = issue(tx, ledger, Kind::Offer, &transfer, &contract, finalisation, offer.to_detail())?;
    transfer.statements.offer = Some(statement.digest());
    tables::save(tx, &transfer)?;
    let statements = stored_statements(tx, ledger, &transfer)?;
    Ok(Ok(Offered { transfer, contract, product, statements }))
}

fn new_transfer(
    want: &Want,
    caller: &Caller,
    contract: &Contract,
    certificate: Digest,
    now: Timestamp,
) -> Transfer {
    Transfer {
        id: want.transfer,
        side: Side::Provider,
        peer: caller.node().clone(),
        contract: want.contract.clone(),
        product: want.product.clone(),
        state: TransferState::Started,
        size: contract.agreement.size,
        acknowledged: 0,
        root: Some(contract.agreement.root),
        path: None,
        directory: std::path::PathBuf::new(),
        code: String::new(),
        reason: String::new(),
        proven: false,
        started: now,
        finished: None,
        statements: Statements { certificate: Some(certificate), ..Statements::default() },
    }
}

/// How often each clause has been used by other transfers under the same agreement.
fn counters(tx: &Tx<'_>, contract: &Contract, own_use: u64) -> Result<HashMap<String, u64>, ServiceError> {
    let Ok(policy) = Policy::parse(&contract.agreement.policy) else { return Ok(HashMap::new()) };
    let mut used = HashMap::new();
    for rule in policy.permissions() {
        let count = tables::counter(tx, &contract.hash, rule.id.as_str())?;
        used.insert(rule.id.as_str().to_owned(), count.saturating_sub(own_use));
    }
    Ok(used)
}

/// The statements that open (or, for a transfer that is over, close) an exchange, in the order in which they go out.
fn stored_statements(
    read: &impl Read,
    ledger: &Ledger,
    transfer: &Transfer,
) -> Result<Vec<Statement>, ServiceError> {
    let names = &transfer.statements;
    let digests = names.certificate.iter().chain(&names.usage).chain(&names.offer).chain(&names.last);
    digests
        .map(|digest| {
            ledger
                .statement(read, digest)?
                .ok_or_else(|| ServiceError::Internal(format!("statement {digest} of a transfer is missing")))
        })
        .collect()
}

enum Ended {
    Over,
    Superseded,
}

struct Exchange<'a> {
    transfers: &'a Transfers,
    caller: Caller,
    address: IpAddr,
    incoming: mpsc::Receiver<Result<FromConsumer, PeerError>>,
    out: mpsc::Sender<FromProvider>,
    superseded: watch::Receiver<()>,
    offered: Offered,
}

impl Exchange<'_> {
    async fn run(mut self) -> Result<Ended, ServiceError> {
        for statement in &self.offered.statements {
            if self.out.send(FromProvider::Statement(statement.bytes().clone())).await.is_err() {
                return Ok(Ended::Over);
            }
        }
        if self.offered.transfer.state == TransferState::Completed {
            return Ok(Ended::Over);
        }
        let window = self.offered.contract.agreement.window_bytes;
        let arrived = rules::can_have_arrived(&self.offered.transfer, window);
        let first = match timeout(IDLE, self.incoming.recv()).await {
            Ok(Some(Ok(FromConsumer::Statement(bytes)))) => self.statement(bytes)?,
            Ok(Some(Ok(FromConsumer::Want(_)))) => {
                return Err(ServiceError::invalid("frame", "a second want"));
            }
            Ok(Some(Err(_)) | None) => return Ok(Ended::Over),
            Err(_) => return Err(idle()),
        };
        match first.kind() {
            Kind::Accept => {
                let accept = AcceptDetail::read(&first)?;
                let total = group_count(self.offered.transfer.size);
                if accept.end != total && total > 0 || accept.start > arrived {
                    return Err(ServiceError::invalid(
                        "accept.ranges",
                        "must run from what has arrived to the end",
                    ));
                }
                self.accepted(first).await?;
                self.stream(accept.start, total, window).await
            }
            // All bytes had arrived in an earlier run; only the end is missing.
            Kind::Ack => {
                self.acknowledged(first, arrived).await?;
                Ok(Ended::Over)
            }
            Kind::Abort => self.aborted(&first).await,
            other => {
                Err(ServiceError::invalid("statement.kind", format!("a {} cannot come here", other.name())))
            }
        }
    }

    async fn stream(&mut self, start: u64, total: u64, window: u64) -> Result<Ended, ServiceError> {
        let size = self.offered.transfer.size;
        let mut leaves: VecDeque<Bytes> = self.leaf_frames().await?;
        let mut reader = source::groups(self.offered.product.source.clone(), start, total);
        let mut next: Option<(u64, Bytes)> = None;
        let mut sent_groups = start;
        let mut recheck = interval(RECHECK);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut moved_at = Instant::now();
        let out = self.out.clone();
        loop {
            let unacknowledged =
                rules::prefix_bytes(sent_groups, size).saturating_sub(self.offered.transfer.acknowledged);
            let may_send = !leaves.is_empty()
                || next.as_ref().is_some_and(|(_, bytes)| {
                    unacknowledged.saturating_add(bytes.len() as u64) <= window.max(bytes.len() as u64)
                });
            tokio::select! {
                biased;
                _ = self.superseded.changed() => return Ok(Ended::Superseded),
                frame = self.incoming.recv() => {
                    let bytes = match frame {
                        Some(Ok(FromConsumer::Statement(bytes))) => bytes,
                        Some(Ok(FromConsumer::Want(_))) => return Err(ServiceError::invalid("frame", "a second want")),
                        Some(Err(_)) | None => return Ok(Ended::Over),
                    };
                    moved_at = Instant::now();
                    let statement = self.statement(bytes)?;
                    match statement.kind() {
                        Kind::Ack => {
                            if self.acknowledged(statement, sent_groups).await? == AckStatus::Complete {
                                return Ok(Ended::Over);
                            }
                        }
                        Kind::Abort => return self.aborted(&statement).await,
                        other => return Err(ServiceError::invalid("statement.kind", format!("a {} cannot come here", other.name()))),
                    }
                }
                _ = recheck.tick() => self.recheck().await?,
                () = sleep_until(moved_at + IDLE) => return Err(idle()),
                group = reader.recv(), if next.is_none() && sent_groups < total => match group {
                    Some(Ok(group)) => next = Some(group),
                    Some(Err(reason)) => return Err(self.abort("source.changed", &reason).await?),
                    None => return Err(ServiceError::Internal("the reader stopped early".to_owned())),
                },
                place = out.reserve(), if may_send => {
                    let Ok(place) = place else { return Ok(Ended::Over) };
                    moved_at = Instant::now();
                    if let Some(frame) = leaves.pop_front() {
                        place.send(FromProvider::Leaves(frame));
                    } else if let Some((group, data)) = next.take() {
                        self.transfers.add_moved(&self.offered.transfer.id, data.len() as u64);
                        sent_groups = group.saturating_add(1);
                        place.send(FromProvider::Chunk { group, data });
                    }
                }
            }
        }
    }

    /// The list of leaf values, cut into frames.
    async fn leaf_frames(&self) -> Result<VecDeque<Bytes>, ServiceError> {
        let (shelf, product) = (self.transfers.shelf.clone(), self.offered.product.clone());
        let tree = tokio::task::spawn_blocking(move || shelf.tree(&product))
            .await
            .map_err(|error| ServiceError::Internal(error.to_string()))??;
        let leaves = Bytes::from(tree.leaf_bytes());
        Ok((0..leaves.len())
            .step_by(LEAVES_FRAME)
            .map(|start| leaves.slice(start..leaves.len().min(start.saturating_add(LEAVES_FRAME))))
            .collect())
    }

    /// A statement of the caller about this transfer.
    fn statement(&self, bytes: Bytes) -> Result<Statement, ServiceError> {
        let statement = statement_from(&self.caller, bytes, self.transfers.ledger())?;
        check_belongs(&statement, &self.offered.transfer, &self.offered.contract)?;
        Ok(statement)
    }

    async fn accepted(&mut self, statement: Statement) -> Result<(), ServiceError> {
        if Some(statement.body().reference) != self.offered.transfer.statements.offer {
            return Err(ServiceError::invalid("accept.reference", "is not our offer"));
        }
        let digest = statement.digest();
        self.change("transfer.accepted", move |tx, ledger, transfer, _| {
            ledger.admit(tx, &statement)?;
            transfer.statements.accept = Some(digest);
            Ok(())
        })
        .await
    }

    /// Takes an acknowledgement; the complete one is answered with FINAL in the same commit.
    async fn acknowledged(&mut self, statement: Statement, arrived: u64) -> Result<AckStatus, ServiceError> {
        let ack = AckDetail::read(&statement)?;
        rules::check_ack(&ack, &self.offered.transfer, arrived)
            .map_err(|refusal| ServiceError::invalid(refusal.code, refusal.reason))?;
        let status = ack.status;
        self.change("transfer.acknowledged", move |tx, ledger, transfer, contract| {
            ledger.admit(tx, &statement)?;
            transfer.statements.ack = Some(statement.digest());
            transfer.acknowledged = ack.bytes;
            if ack.status == AckStatus::Complete {
                let detail = final_detail(&ack.root);
                let last = issue(tx, ledger, Kind::Final, transfer, contract, statement.digest(), detail)?;
                transfer.statements.last = Some(last.digest());
                transfer.state = TransferState::Completed;
                transfer.finished = Some(ledger.clock().now());
            }
            Ok(())
        })
        .await?;
        if let Some(digest) = self.offered.transfer.statements.last {
            let view = self.transfers.ledger().store().view();
            if let Some(last) = self.transfers.ledger().statement(&view, &digest)? {
                let _ = self.out.send(FromProvider::Statement(last.bytes().clone())).await;
            }
        }
        Ok(status)
    }

    async fn aborted(&mut self, statement: &Statement) -> Result<Ended, ServiceError> {
        let (code, reason) = read_abort(statement)?;
        let statement = statement.clone();
        self.change("transfer.aborted", move |tx, ledger, transfer, _| {
            ledger.admit(tx, &statement)?;
            terminate(transfer, &code, &reason, ledger.clock().now());
            Ok(())
        })
        .await?;
        Ok(Ended::Over)
    }

    /// Whether the exchange still may run: the caller's standing, the contract, the policy's clauses over time.
    async fn recheck(&mut self) -> Result<(), ServiceError> {
        let (ledger, contract) = (self.transfers.ledger(), &self.offered.contract);
        let now = ledger.clock().now();
        let refusal = if let Err(error) = self.transfers.standing.directory.recheck(&self.caller, now) {
            Some(Refusal::new("identity.revoked", error.to_string(), "ask the registrar"))
        } else {
            let in_force = self.transfers.contracts.contract(&ledger.store().view(), &contract.contract)?;
            if in_force.is_some_and(|contract| contract.in_force()) {
                // Counters were consumed when the transfer was opened; only time and place can change now.
                rules::ask_policy(&contract.agreement, &self.caller, self.address, now, &|_| 0).err()
            } else {
                Some(Refusal::new(
                    "contract.state",
                    "the contract is no longer in force",
                    "negotiate a new contract",
                ))
            }
        };
        match refusal {
            None => Ok(()),
            Some(refusal) => Err(self.abort(&refusal.code, &refusal.reason).await?),
        }
    }

    /// Ends the transfer for good with a signed ABORT, and gives the error that ends the exchange.
    async fn abort(&mut self, code: &str, reason: &str) -> Result<ServiceError, ServiceError> {
        let refusal = Refusal::new(code, reason, "start a new transfer when the cause is gone");
        let (code, reason) = (code.to_owned(), reason.to_owned());
        let statement = self
            .change("transfer.abort", move |tx, ledger, transfer, contract| {
                let reference = transfer.statements.offer.unwrap_or(Digest::ZERO);
                let detail = abort_detail(&code, &reason);
                let statement = issue(tx, ledger, Kind::Abort, transfer, contract, reference, detail)?;
                terminate(transfer, &code, &reason, ledger.clock().now());
                Ok(statement)
            })
            .await?;
        let _ = self.out.send(FromProvider::Statement(statement.bytes().clone())).await;
        Ok(ServiceError::Refused { refusal, statement: Some(statement) })
    }

    /// Changes the stored transfer in one commit and keeps our copy equal to it.
    async fn change<T: Send + 'static>(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Tx<'_>, &Ledger, &mut Transfer, &Contract) -> Result<T, ServiceError>
        + Send
        + 'static,
    ) -> Result<T, ServiceError> {
        let offered = &self.offered;
        let (transfer, value) =
            self.transfers.change(name, offered.transfer.id, &offered.contract, step).await?;
        self.offered.transfer = transfer;
        Ok(value)
    }
}

pub(super) fn terminate(transfer: &mut Transfer, code: &str, reason: &str, now: Timestamp) {
    transfer.state = TransferState::Terminated;
    code.clone_into(&mut transfer.code);
    reason.clone_into(&mut transfer.reason);
    transfer.finished = Some(now);
}

fn idle() -> ServiceError {
    ServiceError::Busy {
        reason: "nothing moved for 60 seconds; the exchange is closed and may be resumed".to_owned(),
    }
}
