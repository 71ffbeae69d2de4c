//! A transfer, its frames, and its states.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use huitong_contract::Side;
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_ledger::QuorumPolicy;
use huitong_proof::{ContentRoot, Digest, Timestamp};

use crate::pace::Rates;
use crate::pieces::Pieces;
use crate::rules;
use crate::schedule::Schedule;

/// What a consumer wants: the first frame of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Chosen by the consumer; the same id resumes the same transfer.
    pub transfer: [u8; 16],
    /// Under which contract.
    pub contract: ContractId,
    /// Which product.
    pub product: DataId,
}

/// A frame from the consumer.
#[derive(Debug, Clone)]
pub enum FromConsumer {
    /// The first frame.
    Want(Want),
    /// ACCEPT, ACK or ABORT.
    Statement(Bytes),
}

/// A frame from the provider.
#[derive(Debug, Clone)]
pub enum FromProvider {
    /// ASSET CERTIFICATE, USAGE, OFFER, FINAL, ABORT or REFUSAL.
    Statement(Bytes),
    /// The next part of a dataset's manifest.
    Manifest(Bytes),
    /// The next part of the list of leaf values.
    Leaves(Bytes),
    /// Consecutive groups of the content, 1 MiB at most.
    Chunk {
        /// Index of the first group, from 0.
        group: u64,
        /// The bytes of all of them.
        data: Pieces,
    },
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct StartTransfer {
    /// Chosen by the operator's client; repeating it changes nothing.
    pub id: [u8; 16],
    /// The contract to fetch under.
    pub contract: ContractId,
    /// The product; `None` means the contract's.
    pub product: Option<DataId>,
    /// Directory to deliver into, or the URL of a place in a [`crate::Depot`]; `None` means the node's own directory.
    pub directory: Option<PathBuf>,
    /// Which transfers run first where not all can.
    pub priority: Priority,
}

/// A consumer's standing order for deliveries under a contract (订阅), as an operator gives it.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The contract to fetch under.
    pub contract: ContractId,
    /// Directory to deliver into, or the URL of a place in a [`crate::Depot`]; `None` means the node's own directory.
    pub directory: Option<PathBuf>,
    /// Which transfers run first where not all can.
    pub priority: Priority,
    /// When deliveries are due, if not only when the provider says so.
    pub schedule: Option<Schedule>,
    /// Whether the provider may say that there is something to fetch (推送).
    pub push: bool,
}

/// A standing order as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The contract to fetch under.
    pub contract: ContractId,
    /// Directory to deliver into, or the URL of a place in a [`crate::Depot`].
    pub directory: PathBuf,
    /// Which transfers run first where not all can.
    pub priority: Priority,
    /// When deliveries are due.
    pub schedule: Option<Schedule>,
    /// Whether the provider may say that there is something to fetch.
    pub push: bool,
    /// When it was given.
    pub created: Timestamp,
    /// When its schedule is due next.
    pub scheduled: Option<Timestamp>,
    /// Since when something that the provider has announced waits to be looked at.
    pub pushed: Option<Timestamp>,
    /// The transfer that it started last.
    pub last: Option<[u8; 16]>,
    /// Why nothing was delivered when something was due last, or is delivered now; empty if nothing is known against it.
    pub note: String,
}

impl Subscription {
    /// When it is looked at next; `None` until the provider says something.
    pub fn due(&self) -> Option<Timestamp> {
        self.scheduled.into_iter().chain(self.pushed).min()
    }

    /// Whether the time of its schedule has come.
    pub(crate) fn is_scheduled_by(&self, now: Timestamp) -> bool {
        self.scheduled.is_some_and(|due| due <= now)
    }
}

/// Which transfers a consumer runs first where not all can run at the same time; among equals, the older one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After all others.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl Priority {
    /// The word for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// Reads [`Priority::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Low, Self::Normal, Self::High].into_iter().find(|priority| priority.name() == name)
    }
}

/// Where files go, how many transfers run at once, and when their evidence is final.
#[derive(Debug, Clone)]
pub struct TransferSettings {
    /// Directory of received files.
    pub received: PathBuf,
    /// Exchanges that this node serves at the same time, as provider.
    pub max_outgoing: usize,
    /// Those of them that one peer may have.
    pub max_outgoing_per_peer: usize,
    /// Connections that this node opens for one transfer, as consumer; `None`: several where the line is long.
    pub connections: Option<usize>,
    /// How fast content may leave, until an operator says otherwise.
    pub rates: Rates,
    /// The witnesses whose cosignatures make evidence final, all of them nodes of this space; `None`: proofs are final
    /// without any.
    pub policy: Option<QuorumPolicy>,
}

/// Whether the evidence of a transfer can still change without the parties' witnesses noticing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Finality {
    /// Signed by both sides, but not yet under checkpoints of both ledgers that enough witnesses have cosigned.
    #[default]
    Provisional,
    /// Both ledgers' checkpoints carry the cosignatures that are asked for.
    Final,
}

impl Finality {
    /// The word for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Provisional => "provisional",
            Self::Final => "final",
        }
    }
}

/// The states of a transfer process (Dataspace Protocol 2025-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransferState {
    /// Wanted, not yet offered.
    Requested,
    /// Offered; bytes move.
    Started,
    /// Held up until somebody lets it go on; [`Transfer::suspended_by`] says who.
    Suspended,
    /// Acknowledged complete and final.
    Completed,
    /// Refused, failed or aborted, for good.
    Terminated,
}

impl TransferState {
    /// The protocol's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::Started => "STARTED",
            Self::Suspended => "SUSPENDED",
            Self::Completed => "COMPLETED",
            Self::Terminated => "TERMINATED",
        }
    }

    /// Whether nothing can follow.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Terminated)
    }
}

/// Who or what holds up a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspender {
    /// Our operator, until it is resumed.
    Operator,
    /// The other side, as it has signed.
    Peer,
    /// The destination has no room; the transfer goes on by itself when it has.
    Space,
    /// Its contract is suspended; the transfer goes on by itself when that is over.
    Contract,
}

/// What becomes of a delivery that does not stay on this node's disk: once the transfer is completed, it is put into a depot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deposit {
    /// Where it was ordered to, which ends in `/`.
    pub location: String,
    /// Where the file, or everything of the dataset, lies or will lie, once that is decided; a dataset's ends in `/`.
    pub path: Option<String>,
    /// How far it is.
    pub state: DepositState,
    /// Why it has failed, or why the last try came to nothing; empty otherwise.
    pub reason: String,
}

/// The states of a deposit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DepositState {
    /// Not all of it is there yet; it is tried again and again.
    Open,
    /// All of it is there, and nothing of it here.
    Done,
    /// It cannot be made, or an operator has given it up; what was received stays here, until an operator has it tried again.
    Failed,
}

impl DepositState {
    /// The word for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Reads [`DepositState::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Done, Self::Failed].into_iter().find(|state| state.name() == name)
    }
}

/// One transfer, as one of its two sides knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Transfer id.
    pub id: [u8; 16],
    /// Our side.
    pub side: Side,
    /// The other node.
    pub peer: NodeId,
    /// Under which contract.
    pub contract: ContractId,
    /// Which product.
    pub product: DataId,
    /// Where it stands.
    pub state: TransferState,
    /// When it runs, at the consumer.
    pub priority: Priority,
    /// Bytes in all; 0 until offered.
    pub size: u64,
    /// Bytes that are durable at the consumer and acknowledged by its signature.
    pub acknowledged: u64,
    /// The same in groups of the content.
    pub acknowledged_groups: u64,
    /// Groups in all; 0 until offered.
    pub groups: u64,
    /// How many files the dataset has, once offered; `None` for a product that is one file.
    pub files: Option<u64>,
    /// The provider's name of the file or directory, once offered.
    pub name: Option<String>,
    /// BLAKE3 root, once offered.
    pub root: Option<ContentRoot>,
    /// Which version of the product it delivers, as the registrar counts them; once offered.
    pub version: Option<u64>,
    /// Where the file, or the dataset's directory, lies or will lie on the consumer's disk, once offered; `None` again
    /// after a deposit.
    pub path: Option<PathBuf>,
    /// Directory it is delivered into, at the consumer; one of its own if a deposit follows.
    pub directory: PathBuf,
    /// What follows its completion, at the consumer, if it is not to stay on this disk.
    pub deposit: Option<Deposit>,
    /// Who or what holds it up; only in state `Suspended`.
    pub suspended_by: Option<Suspender>,
    /// Stable code of what ended or suspended it; empty otherwise.
    pub code: String,
    /// What ended or suspended it, in plain words; empty otherwise.
    pub reason: String,
    /// Whether the other ledger's inclusion proofs are here.
    pub proven: bool,
    /// Whether both ledgers' proofs are under checkpoints with the cosignatures that our policy asks for.
    pub finality: Finality,
    /// When it began here.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// The statements that carry it.
    pub statements: Statements,
}

impl Transfer {
    /// Whether the consumer's runner has something to do for it: move it, or tell the provider that it was cancelled.
    pub(crate) fn wants_to_run(&self) -> bool {
        self.side == Side::Consumer
            && match self.state {
                TransferState::Requested | TransferState::Started => true,
                TransferState::Suspended => !self.is_held(),
                TransferState::Completed => false,
                // Of the end of a contract the provider hears by itself.
                TransferState::Terminated => self.statements.abort.is_some() && self.code != rules::ENDED,
            }
    }

    /// Whether what it has delivered lies where it was ordered to. What lies in a depot is not looked for.
    pub(crate) fn is_there(&self) -> bool {
        match &self.path {
            Some(path) => path.exists(),
            None => self.deposit.as_ref().is_some_and(|deposit| deposit.state == DepositState::Done),
        }
    }

    /// Whether it was ordered into this directory, or place in a depot.
    pub(crate) fn goes_to(&self, directory: &Path) -> bool {
        let ordered =
            self.deposit.as_ref().map_or(self.directory.as_path(), |made| Path::new(&made.location));
        ordered == directory
    }

    /// Whether it has delivered this content, which still lies where it was ordered to.
    pub(crate) fn has_brought(&self, root: &ContentRoot) -> bool {
        self.state == TransferState::Completed && self.root.as_ref() == Some(root) && self.is_there()
    }

    /// Whether it is all here, and is still to be put into a depot.
    pub fn awaits_deposit(&self) -> bool {
        self.state == TransferState::Completed
            && self.deposit.as_ref().is_some_and(|deposit| deposit.state == DepositState::Open)
    }

    /// Holds it up.
    pub(crate) fn suspend(&mut self, by: Suspender, code: &str, reason: &str) {
        self.state = TransferState::Suspended;
        self.suspended_by = Some(by);
        code.clone_into(&mut self.code);
        reason.clone_into(&mut self.reason);
    }

    /// Lets it go on.
    pub(crate) fn release(&mut self) {
        let offered = self.statements.offer.is_some();
        self.state = if offered { TransferState::Started } else { TransferState::Requested };
        self.suspended_by = None;
        self.code.clear();
        self.reason.clear();
    }

    /// Ends it for good, short of completion.
    pub(crate) fn terminate(&mut self, code: &str, reason: &str, now: Timestamp) {
        self.state = TransferState::Terminated;
        self.suspended_by = None;
        code.clone_into(&mut self.code);
        reason.clone_into(&mut self.reason);
        self.finished = Some(now);
    }

    /// Whether our operator holds it up.
    pub(crate) fn is_paused(&self) -> bool {
        self.suspended_by == Some(Suspender::Operator)
    }

    /// Whether nothing moves before our operator, or a party of the contract, says so.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.suspended_by, Some(Suspender::Operator | Suspender::Contract))
    }

    /// Whether all of it is here and signed for: only the FINAL is missing.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.statements.ack.is_some() && self.acknowledged_groups == self.groups
    }
}

/// What a transfer has moved (计量); see [`crate::Transfers::metering`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metering {
    /// Bytes acknowledged.
    pub bytes: u64,
    /// Groups of the content acknowledged.
    pub groups: u64,
    /// How long that took, everything in between included.
    pub milliseconds: u64,
}

impl Metering {
    /// The effective rate; 0 where the time is too short to tell.
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes.saturating_mul(1000).checked_div(self.milliseconds).unwrap_or(0)
    }
}

/// Digests of a transfer's statements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statements {
    /// The registrar's ASSET CERTIFICATE of the product.
    pub certificate: Option<Digest>,
    /// The provider's USAGE statements, one for each counter consumed.
    pub usage: Vec<Digest>,
    /// The provider's OFFER.
    pub offer: Option<Digest>,
    /// The consumer's newest ACCEPT.
    pub accept: Option<Digest>,
    /// The consumer's newest ACK.
    pub ack: Option<Digest>,
    /// The provider's FINAL.
    pub last: Option<Digest>,
    /// Our own ABORT, where our operator has cancelled the transfer or the contract has ended.
    pub abort: Option<Digest>,
}
