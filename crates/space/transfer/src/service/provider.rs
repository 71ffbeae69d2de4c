//! The provider's side of an exchange.

mod content;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use huitong_contract::Contract;
use huitong_identity::{AuthenticationError, Caller, PeerError, Refusal, ServiceError, statement_from};
use huitong_ledger::Ledger;
use huitong_policy::ClauseId;
use huitong_proof::{Content, Digest, Kind, Statement};
use huitong_store::Tx;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::Stream;

use self::content::index_frames;
use super::opening::{Offered, Opening, held};
use super::{Abort, Order, Transfers, check_belongs, ended, issue, order};
use crate::details::{AcceptDetail, AckDetail, AckStatus, abort_detail, final_detail, read_abort};
use crate::lanes::{LaneEnds, Lanes};
use crate::model::{FromConsumer, FromProvider, Suspender, Transfer, TransferState};
use crate::places::Place;
use crate::ranges::Ranges;
use crate::{rules, tables};

/// How long the consumer may take for its first frame.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// How long a consumer may take, from our offer on, to look through what it has and to say what it wants: a terabyte at the
/// speed of a disk.
const STOCKTAKING: Duration = Duration::from_secs(600);
/// How long a consumer may take, from the offer of a transfer that is held up on, to say that it has cancelled it.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How long nothing at all may move.
const IDLE: Duration = Duration::from_secs(60);
/// The most statements before the acceptance with which bytes begin to move.
const OPENING: usize = 3;
/// New acceptances in one exchange: one that was lost with the connection before and is said again, and the exchange's own.
const ACCEPTANCES: usize = 2;
/// Statements in a row that are known already: what may have been lost with the connection before, twice over.
const REPEATED: usize = 8;

/// How an exchange ended.
pub struct Served {
    /// As the consumer is told.
    pub outcome: Result<(), ServiceError>,
    /// Whether it was for nothing: it neither brought the transfer forward nor was put off before it began. A caller may
    /// cause only so many of these.
    pub is_idle: bool,
    /// To be kept until everything has left that was sent, or never will.
    pub place: Option<Place>,
}

/// One more connection of an exchange: its chunks, until the exchange ends. It shares the exchange's place.
pub struct ServedLane {
    chunks: Pin<Box<dyn Stream<Item = FromProvider> + Send>>,
    orders: watch::Receiver<()>,
    place: Place,
}

impl ServedLane {
    /// Returns when the exchange has ended, whether or not all chunks were taken.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut orders = self.orders.clone();
        async move { while let Order::LookAgain = order(&mut orders).await {} }
    }

    /// The exchange's place, to be kept like [`Served::place`].
    pub fn place(&self) -> Place {
        self.place.clone()
    }
}

impl Stream for ServedLane {
    type Item = FromProvider;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FromProvider>> {
        self.chunks.as_mut().poll_next(context)
    }
}

impl Transfers {
    /// Serves one exchange from its first frame to its end. A refusal is a signed statement in `out` and no error.
    pub async fn serve(
        &self,
        caller: Caller,
        address: IpAddr,
        incoming: mpsc::Receiver<Result<FromConsumer, PeerError>>,
        out: mpsc::Sender<FromProvider>,
    ) -> Served {
        let (mut is_idle, mut place) = (true, None);
        let outcome = self.conduct(caller, address, incoming, out, &mut is_idle, &mut place).await;
        Served { outcome, is_idle, place }
    }

    /// An exchange whose frames do not lie about afterwards.
    #[cfg(test)]
    pub(crate) async fn exchange(
        &self,
        caller: Caller,
        address: IpAddr,
        incoming: mpsc::Receiver<Result<FromConsumer, PeerError>>,
        out: mpsc::Sender<FromProvider>,
    ) -> Result<(), ServiceError> {
        self.serve(caller, address, incoming, out).await.outcome
    }

    async fn conduct(
        &self,
        caller: Caller,
        address: IpAddr,
        mut incoming: mpsc::Receiver<Result<FromConsumer, PeerError>>,
        out: mpsc::Sender<FromProvider>,
        is_idle: &mut bool,
        place: &mut Option<Place>,
    ) -> Result<(), ServiceError> {
        let want = match timeout(FIRST_FRAME, incoming.recv()).await {
            Ok(Some(Ok(FromConsumer::Want(want)))) => want,
            Ok(Some(Ok(FromConsumer::Statement(_)))) => {
                return Err(ServiceError::invalid("frame", "the first frame must say what is wanted"));
            }
            Ok(Some(Err(error))) => return Err(error.into()),
            Ok(None) => return Err(ServiceError::invalid("frame", "no first frame came")),
            Err(_) => {
                return Err(ServiceError::Busy {
                    reason: "no first frame came in time; come again".to_owned(),
                });
            }
        };
        // A place is for those who may have something: a stranger is told off without one.
        let may_open = self.may_open(&caller, &want)?;
        if may_open {
            *place = self.places.wait(caller.node()).await;
            if place.is_none() {
                *is_idle = false;
                let reason = "this node serves as many transfers as it may; try again later".to_owned();
                return Err(ServiceError::Busy { reason });
            }
        }
        let opened = self.open(&caller, address, want, may_open).await;
        if let Err(ServiceError::Busy { .. }) = opened {
            *is_idle = false;
        }
        let offered = match opened? {
            Opening::Refused(statement) => {
                let _ = out.send(FromProvider::Statement(statement.bytes().clone())).await;
                return Ok(());
            }
            Opening::Offered(offered) => *offered,
        };
        if offered.transfer.is_held() {
            // It is put off, and nothing of its content leaves.
            (*is_idle, *place) = (false, None);
        }
        let id = offered.transfer.id;
        let (lanes, ends) = Lanes::new(caller.node().clone());
        let orders = self.take_over(id, place.clone().map(|place| (ends, place)));
        let _registered = Registered { transfers: self, id, run: orders.clone() };
        let exchange = Exchange {
            transfers: self,
            caller,
            address,
            incoming,
            early: None,
            out,
            lanes,
            orders,
            offered,
            acceptances: 0,
            repeated: 0,
            is_idle,
        };
        let outcome = exchange.run().await;
        if self.transfer(&id)?.is_none_or(|transfer| transfer.state.is_terminal()) {
            self.pace.forget(&id);
        }
        outcome
    }

    /// One more connection for the chunks of an exchange with this caller that is open.
    ///
    /// # Errors
    /// `Busy` where there is none, or it has as many as it may.
    pub fn lane(&self, caller: &Caller, id: &[u8; 16]) -> Result<ServedLane, ServiceError> {
        let opened = self.with_running(id, |running| {
            let (ends, place): &(LaneEnds, Place) = running.lanes.as_ref()?;
            let chunks = Box::pin(ends.open(caller.node())?);
            Some(ServedLane { chunks, orders: running.orders.subscribe(), place: place.clone() })
        });
        opened.flatten().ok_or_else(|| ServiceError::Busy {
            reason: "no exchange of this transfer takes another connection".to_owned(),
        })
    }
}

/// A run that is known to others until it ends, however it does: its place would be held for ever.
struct Registered<'a> {
    transfers: &'a Transfers,
    id: [u8; 16],
    run: watch::Receiver<()>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.transfers.forget_run(&self.id, &self.run);
    }
}

/// What something that came in means for the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    GoOn,
    Over,
}

struct Exchange<'a> {
    transfers: &'a Transfers,
    caller: Caller,
    address: IpAddr,
    incoming: mpsc::Receiver<Result<FromConsumer, PeerError>>,
    /// What came before anybody waited for it.
    early: Option<Option<Result<FromConsumer, PeerError>>>,
    out: mpsc::Sender<FromProvider>,
    lanes: Lanes,
    orders: watch::Receiver<()>,
    offered: Offered,
    /// New ones, so far.
    acceptances: usize,
    /// Statements that changed nothing, since it last came forward.
    repeated: usize,
    /// Whether it has not brought the transfer forward yet.
    is_idle: &'a mut bool,
}

impl Exchange<'_> {
    async fn run(mut self) -> Result<(), ServiceError> {
        let mut deadline = Instant::now() + STOCKTAKING;
        for statement in &self.offered.statements {
            if !self.send(statement).await {
                return Ok(());
            }
        }
        if self.offered.transfer.is_held() {
            return self.put_off().await;
        }
        let Some(goods) = self.offered.goods.clone() else { return Ok(()) };
        for (frame, bytes) in index_frames(Arc::clone(&goods.content)) {
            let began = Instant::now();
            if self.pay(bytes).await? == Heard::Over {
                return Ok(());
            }
            // What may not leave yet is not held against the consumer.
            deadline += began.elapsed();
            if !self.send_frame(frame).await || Instant::now() > deadline {
                return Ok(());
            }
        }
        // A consumer first says again what may have been lost with the connection before: its newest acknowledgement, without
        // which the window would stay closed, and the acceptance that it answers.
        for _ in 0..OPENING {
            let Some(said) = self.first_statement(deadline).await? else { return Ok(()) };
            match said.kind() {
                Kind::Ack => {
                    let arrived = self.can_have_arrived(&goods.content)?;
                    if self.acknowledged(said, &goods.content, arrived).await? == Heard::Over {
                        return Ok(());
                    }
                }
                Kind::Accept if self.is_known(&said)? => self.said_again()?,
                Kind::Accept => {
                    let wanted = self.accepted(said, &goods.content).await?;
                    return self.stream(goods, wanted).await;
                }
                Kind::Abort => return self.aborted(&said).await,
                other => return Err(cannot_come(other)),
            }
        }
        Err(ServiceError::invalid("statement.kind", "an acceptance of what is wanted was due"))
    }

    /// Hears only of the end of a transfer that is held up.
    async fn put_off(&mut self) -> Result<(), ServiceError> {
        match self.first_statement(Instant::now() + LAST_WORD).await {
            Ok(Some(said)) if said.kind() == Kind::Abort => self.aborted(&said).await,
            Ok(None) if self.orders.has_changed().is_err() => Ok(()),
            _ => Err(ServiceError::Busy { reason: held(&self.offered.transfer) }),
        }
    }

    /// The consumer has said something again that changes nothing: that costs us work, and it nothing.
    fn said_again(&mut self) -> Result<(), ServiceError> {
        self.repeated = self.repeated.saturating_add(1);
        if self.repeated > REPEATED {
            let expected = format!("at most {REPEATED} statements in a row may be known already");
            return Err(ServiceError::invalid("statement", expected));
        }
        Ok(())
    }

    /// The consumer's next statement before bytes move; `None` when it has gone or a newer exchange took over.
    async fn first_statement(&mut self, deadline: Instant) -> Result<Option<Statement>, ServiceError> {
        let frame = loop {
            if let Some(early) = self.early.take() {
                break Ok(early);
            }
            tokio::select! {
                biased;
                order = order(&mut self.orders) => if self.obey(&order).await? == Heard::Over { return Ok(None) },
                frame = timeout_at(deadline, self.incoming.recv()) => break frame,
            }
        };
        match frame {
            Ok(Some(Ok(FromConsumer::Statement(bytes)))) => self.statement(bytes).map(Some),
            Ok(Some(Ok(FromConsumer::Want(_)))) => Err(ServiceError::invalid("frame", "a second want")),
            Ok(Some(Err(_)) | None) => self.recheck().await.map(|_| None),
            Err(_) => Err(idle()),
        }
    }

    /// A statement of the caller about this transfer.
    fn statement(&self, bytes: Bytes) -> Result<Statement, ServiceError> {
        let statement = statement_from(&self.caller, bytes, self.transfers.ledger())?;
        check_belongs(&statement, &self.offered.transfer, &self.offered.contract)?;
        Ok(statement)
    }

    /// Whether we have this statement already: an acceptance that was taken before, which a newer one may have taken the place
    /// of, sets nothing off.
    fn is_known(&self, statement: &Statement) -> Result<bool, ServiceError> {
        let ledger = self.transfers.ledger();
        Ok(ledger.index_of(&ledger.store().view(), &statement.digest())?.is_some())
    }

    /// Takes an acceptance, and gives what the consumer wants.
    async fn accepted(&mut self, statement: Statement, content: &Content) -> Result<Ranges, ServiceError> {
        let AcceptDetail { wanted, .. } = AcceptDetail::read(&statement)?;
        if wanted.end() > content.groups() {
            return Err(ServiceError::invalid("accept.ranges", "must be groups of the content"));
        }
        if Some(statement.body().reference) != self.offered.transfer.statements.offer {
            return Err(ServiceError::invalid("accept.reference", "is not our offer"));
        }
        let digest = statement.digest();
        // Each one stays in the ledger for good.
        if self.offered.transfer.statements.accept != Some(digest) {
            self.acceptances = self.acceptances.saturating_add(1);
            if self.acceptances > ACCEPTANCES {
                let expected = format!("an exchange takes at most {ACCEPTANCES} new acceptances");
                return Err(ServiceError::invalid("statement.kind", expected));
            }
        }
        self.change("transfer.accepted", move |tx, ledger, transfer, _| {
            ledger.admit(tx, &statement)?;
            if transfer.suspended_by.is_some() {
                transfer.release();
            }
            transfer.statements.accept = Some(digest);
            Ok(())
        })
        .await?;
        Ok(wanted)
    }

    /// Takes an acknowledgement; the complete one is answered with FINAL in the same commit.
    async fn acknowledged(
        &mut self,
        statement: Statement,
        content: &Content,
        arrived: u64,
    ) -> Result<Heard, ServiceError> {
        let ack = AckDetail::read(&statement)?;
        let heard = match ack.status {
            AckStatus::Partial => Heard::GoOn,
            AckStatus::Complete | AckStatus::Stopped { .. } => Heard::Over,
        };
        if self.offered.transfer.statements.ack == Some(statement.digest()) {
            // Said again after a lost connection or a pause; nothing changes.
            self.said_again()?;
            return Ok(if ack.status == AckStatus::Complete { heard } else { Heard::GoOn });
        }
        if Some(statement.body().reference) != self.offered.transfer.statements.accept {
            return Err(ServiceError::invalid(
                "ack.reference",
                "is not the acceptance that bytes were sent for",
            ));
        }
        rules::check_ack(&ack, &self.offered.transfer, content, arrived)
            .map_err(|refusal| ServiceError::invalid(refusal.code, refusal.reason))?;
        let is_forward =
            ack.groups > self.offered.transfer.acknowledged_groups || ack.status == AckStatus::Complete;
        self.change("transfer.acknowledged", move |tx, ledger, transfer, contract| {
            ledger.admit(tx, &statement)?;
            transfer.statements.ack = Some(statement.digest());
            transfer.acknowledged = ack.bytes;
            transfer.acknowledged_groups = ack.groups;
            match &ack.status {
                AckStatus::Partial => {}
                AckStatus::Stopped { reason } => {
                    transfer.suspend(Suspender::Peer, "transfer.stopped", reason)
                }
                AckStatus::Complete => {
                    let detail = final_detail(&ack.root);
                    let last =
                        issue(tx, ledger, Kind::Final, transfer, contract, statement.digest(), detail)?;
                    transfer.statements.last = Some(last.digest());
                    transfer.state = TransferState::Completed;
                    transfer.finished = Some(ledger.clock().now());
                }
            }
            Ok(())
        })
        .await?;
        if is_forward {
            *self.is_idle = false;
            self.repeated = 0;
        }
        if let Some(digest) = self.offered.transfer.statements.last {
            let view = self.transfers.ledger().store().view();
            if let Some(last) = self.transfers.ledger().statement(&view, &digest)? {
                drop(view);
                self.send(&last).await;
            }
        }
        Ok(heard)
    }

    /// What an order means for this exchange: a transfer that our operator has cancelled, or whose contract has ended, ends
    /// with our ABORT; one that is held up, with an error that says so.
    async fn obey(&mut self, order: &Order) -> Result<Heard, ServiceError> {
        if let Order::TakenOver = order {
            return Ok(Heard::Over);
        }
        let ledger = self.transfers.ledger();
        let view = ledger.store().view();
        let Some(stored) = tables::transfer(&view, &self.offered.transfer.id)? else {
            return Ok(Heard::Over);
        };
        if stored.is_held() {
            return Err(ServiceError::Busy { reason: held(&stored) });
        }
        let Some(abort) = stored.statements.abort else { return Ok(Heard::GoOn) };
        let statement = ledger.statement(&view, &abort)?;
        drop(view);
        if let Some(statement) = statement {
            self.send(&statement).await;
        }
        Ok(Heard::Over)
    }

    async fn aborted(&mut self, statement: &Statement) -> Result<(), ServiceError> {
        let (code, reason) = read_abort(statement)?;
        let statement = statement.clone();
        // Also of one that is held up.
        let end = move |tx: &mut Tx<'_>, ledger: &Ledger, transfer: &mut Transfer, _: &Contract| {
            ledger.admit(tx, &statement)?;
            transfer.terminate(&code, &reason, ledger.clock().now());
            Ok(())
        };
        let Offered { transfer, contract, .. } = &self.offered;
        let changed =
            self.transfers.change_unless(ended, "transfer.aborted", transfer.id, contract, end).await;
        (self.offered.transfer, ()) = changed.map_err(put_off_by_another)?;
        Ok(())
    }

    /// Whether the exchange still may run: the caller's standing, the contract, the policy's clauses over time.
    async fn recheck(&mut self) -> Result<Heard, ServiceError> {
        let (ledger, contract) = (self.transfers.ledger(), &self.offered.contract);
        let now = ledger.clock().now();
        let refusal = if let Err(error) = self.transfers.standing.directory.recheck(&self.caller, now) {
            let code = match error {
                // We are the ones who have not heard from the registrar: the consumer may come back later.
                AuthenticationError::Stale { .. } => {
                    return Err(ServiceError::Busy { reason: error.to_string() });
                }
                AuthenticationError::NotValidNow { .. } => "identity.expired",
                _ => "identity.revoked",
            };
            Some(Refusal::new(code, error.to_string(), "ask the registrar"))
        } else {
            let stored = self.transfers.contracts.contract(&ledger.store().view(), &contract.contract)?;
            if !stored.is_some_and(|contract| contract.in_force()) {
                self.transfers.follow_now(self.offered.transfer.id).await?;
                return match self.obey(&Order::LookAgain).await? {
                    Heard::Over => Ok(Heard::Over),
                    Heard::GoOn => {
                        Err(ServiceError::Busy { reason: "the contract is not in force".to_owned() })
                    }
                };
            }
            let used = |clause: &ClauseId| rules::used_while_running(&self.offered.consumed, clause);
            rules::ask_policy(&contract.agreement, &self.caller, self.address, now, &used).err()
        };
        match refusal {
            None => Ok(Heard::GoOn),
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
                transfer.terminate(&code, &reason, ledger.clock().now());
                Ok(statement)
            })
            .await?;
        self.send(&statement).await;
        Ok(ServiceError::Refused { refusal, statement: Some(statement) })
    }

    /// Whether the consumer is still there. One that takes nothing does not hold its place for longer than any other.
    async fn send(&self, statement: &Statement) -> bool {
        self.send_frame(FromProvider::Statement(statement.bytes().clone())).await
    }

    async fn send_frame(&self, frame: FromProvider) -> bool {
        matches!(timeout(IDLE, self.out.send(frame)).await, Ok(Ok(())))
    }

    /// Changes the stored transfer in one commit and keeps our copy equal to it.
    async fn change<T: Send + 'static>(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Tx<'_>, &Ledger, &mut Transfer, &Contract) -> Result<T, Abort> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let offered = &self.offered;
        let changed = self.transfers.change(name, offered.transfer.id, &offered.contract, step).await;
        let (transfer, value) = changed.map_err(put_off_by_another)?;
        self.offered.transfer = transfer;
        Ok(value)
    }
}

/// Another exchange of the same transfer was faster. The consumer asks again, and hears how it ended.
fn put_off_by_another(error: ServiceError) -> ServiceError {
    match error {
        ServiceError::Conflict { reason } => ServiceError::Busy { reason },
        other => other,
    }
}

fn cannot_come(kind: Kind) -> ServiceError {
    ServiceError::invalid("statement.kind", format!("a {} cannot come here", kind.name()))
}

fn idle() -> ServiceError {
    ServiceError::Busy {
        reason: "nothing moved for 60 seconds; the exchange is closed and may be resumed".to_owned(),
    }
}
