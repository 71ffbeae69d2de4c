//! What one node keeps about a negotiation, and the contract that came out of it.

use std::fmt;

use huitong_ids::{ContractId, DataId, NodeId};
use huitong_proof::{Digest, Timestamp};

use super::agreement::Agreement;
use super::standing::{Standing, Standings};
use super::terms::Terms;

/// One negotiation, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiation {
    /// Chosen by the consumer's client; the subject of every statement of the negotiation.
    pub id: [u8; 16],
    /// Which side this node is.
    pub side: Side,
    /// The other node.
    pub peer: NodeId,
    /// The product it is about.
    pub product: DataId,
    /// The product's name.
    pub product_name: String,
    /// Where it stands.
    pub state: State,
    /// The terms on the table: those of the last request or offer.
    pub terms: Terms,
    /// The contract, once there is an agreement.
    pub contract: Option<ContractId>,
    /// The agreement's exact bytes, once the provider has signed them.
    pub agreement: Option<Vec<u8>>,
    /// The hash of the agreement with both signatures, once both have signed; see [`crate::agreement_hash`].
    pub agreement_hash: Option<Digest>,
    /// The statements that make the contract.
    pub statements: Statements,
    /// Why it was terminated, if it was.
    pub reason: Option<Reason>,
    /// Whether the other node has signed a termination of the negotiation.
    pub is_ended_by_peer: bool,
    /// What the parties have made of the contract since it was finalised.
    pub standings: Standings,
    /// When this node first heard of it.
    pub created: Timestamp,
    /// When its state last changed.
    pub updated: Timestamp,
    /// Digest of the last request, offer or acceptance: what the next answer must refer to.
    pub last: Digest,
    /// SHA-256 of the terms of the very first request; a repeated command is recognised by it.
    pub opened_with: Digest,
    /// Whether this node (as consumer) takes any counter-offer without asking its operator.
    pub accept_counter: AcceptCounter,
    /// How many offers have been made so far.
    pub rounds: u64,
}

/// Digests of the statements that make a contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    /// The provider's AGREEMENT (kind 27).
    pub agreement: Option<Digest>,
    /// The consumer's VERIFICATION (kind 28).
    pub verification: Option<Digest>,
    /// The provider's FINALISATION (kind 29).
    pub finalisation: Option<Digest>,
}

/// Which side of a contract a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Delivers.
    Provider,
    /// Receives.
    Consumer,
}

/// The states of a contract negotiation (Dataspace Protocol 2025-1, Contract Negotiation Protocol, states).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The consumer has asked, or asked anew after an offer.
    Requested,
    /// The provider has made an offer.
    Offered,
    /// The consumer has accepted the offer.
    Accepted,
    /// The provider has signed the agreement.
    Agreed,
    /// The consumer has signed it too.
    Verified,
    /// The contract is concluded; its [`Standing`] says whether it is in force.
    Finalized,
    /// It ended without, or before, a contract in force.
    Terminated,
}

/// Why a negotiation was terminated, or a contract suspended or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable code: lower-case words with dots, at most 64 characters.
    pub code: String,
    /// Plain words, at most 256 characters.
    pub text: String,
}

/// Whether a provider signs standing terms by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Whoever asks for the standing terms gets an agreement at once.
    Automatic,
    /// An operator approves each agreement.
    Manual,
}

/// What a consumer does with a counter-offer that differs from what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptCounter {
    /// Accept it at once.
    Yes,
    /// Keep it until an operator accepts or terminates.
    No,
}

/// A signed contract, as a transfer needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// The contract's identifier.
    pub contract: ContractId,
    /// What was agreed.
    pub agreement: Agreement,
    /// The hash of the agreement with both signatures; body field 7 of later statements.
    pub hash: Digest,
    /// Only [`State::Finalized`] permits a transfer; see [`Contract::in_force`].
    pub state: State,
    /// What has become of it since.
    pub standing: Standing,
    /// The negotiation it came out of.
    pub negotiation: [u8; 16],
    /// The other node.
    pub peer: NodeId,
    /// Which side this node is.
    pub side: Side,
}

impl Negotiation {
    /// The contract state on the wire of the national documents (contractStatus, S14 C.1): 01 发起, 02 协商,
    /// 0301 签订成功, 0302 签订失败, 05 履行中, 06 终止.
    #[must_use]
    pub fn national(&self) -> &'static str {
        match self.state {
            State::Requested if self.rounds == 0 => "01",
            State::Requested | State::Offered | State::Accepted => "02",
            State::Agreed | State::Verified => "0301",
            State::Finalized if matches!(self.standings.together(), Standing::Ended(_)) => "06",
            State::Finalized => "05",
            State::Terminated if self.statements.verification.is_some() => "06",
            State::Terminated => "0302",
        }
    }
}

impl Contract {
    /// Whether both sides have signed, the provider has finalised, and nobody has suspended or ended it since: the only
    /// case in which bytes may move.
    #[must_use]
    pub fn in_force(&self) -> bool {
        self.state == State::Finalized && self.standing == Standing::InForce
    }
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Requested,
        Self::Offered,
        Self::Accepted,
        Self::Agreed,
        Self::Verified,
        Self::Finalized,
        Self::Terminated,
    ];

    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Finalized | Self::Terminated)
    }

    /// The Dataspace Protocol's word, in upper case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::Offered => "OFFERED",
            Self::Accepted => "ACCEPTED",
            Self::Agreed => "AGREED",
            Self::Verified => "VERIFIED",
            Self::Finalized => "FINALIZED",
            Self::Terminated => "TERMINATED",
        }
    }

    /// The number in a stored row.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::Requested => 1,
            Self::Offered => 2,
            Self::Accepted => 3,
            Self::Agreed => 4,
            Self::Verified => 5,
            Self::Finalized => 6,
            Self::Terminated => 7,
        }
    }

    pub(crate) fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Side {
    /// The side across the table.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Provider => Self::Consumer,
            Self::Consumer => Self::Provider,
        }
    }

    /// In lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Consumer => "consumer",
        }
    }

    /// The number in a stored row.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::Provider => 1,
            Self::Consumer => 2,
        }
    }

    pub(crate) const fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Provider),
            2 => Some(Self::Consumer),
            _ => None,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

impl Reason {
    /// The longest code, in characters.
    pub(crate) const CODE_CHARACTERS: usize = 64;
    /// abnormalTermination's reason is C..256 (S15 section 9).
    pub(crate) const TEXT_CHARACTERS: usize = 256;

    /// A reason, cut to what a statement carries.
    pub(crate) fn new(code: &str, text: &str) -> Self {
        Self {
            code: super::short_text(code, Self::CODE_CHARACTERS),
            text: super::short_text(text, Self::TEXT_CHARACTERS),
        }
    }
}
