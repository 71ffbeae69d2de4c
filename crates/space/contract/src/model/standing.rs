//! What the parties have made of a contract since it was finalised.

use std::fmt;

use huitong_proof::{Digest, Timestamp};

use super::negotiation::{Reason, Side};

/// The standing of a finalised contract, or what one party makes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Bytes may move.
    #[default]
    InForce,
    /// Nothing moves until whoever suspended it resumes it.
    Suspended(Hold),
    /// It is over for good.
    Ended(Hold),
}

/// Who suspended or ended a contract, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The party that has signed it.
    pub by: Side,
    /// Why, in its words.
    pub reason: Reason,
    /// Since when, by its clock.
    pub since: Timestamp,
}

/// What one party has said about a contract's standing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// What it makes of the contract.
    pub standing: Standing,
    /// The number of its last statement about it: they are counted from 1.
    pub step: u64,
    /// Digest of that statement.
    pub statement: Option<Digest>,
}

/// What each party has said. The contract is in force only as long as both leave it so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standings {
    /// The provider's word.
    pub provider: Stated,
    /// The consumer's word.
    pub consumer: Stated,
}

impl Standing {
    /// In one word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::Suspended(_) => "suspended",
            Self::Ended(_) => "ended",
        }
    }

    /// Who keeps the contract from being in force, and why.
    #[must_use]
    pub const fn hold(&self) -> Option<&Hold> {
        match self {
            Self::InForce => None,
            Self::Suspended(hold) | Self::Ended(hold) => Some(hold),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InForce => f.write_str("the contract is in force"),
            Self::Suspended(hold) => {
                write!(f, "the {} has suspended the contract: {}", hold.by, hold.reason.text)
            }
            Self::Ended(hold) => write!(f, "the {} has ended the contract: {}", hold.by, hold.reason.text),
        }
    }
}

impl Standings {
    /// What that party has said.
    #[must_use]
    pub const fn of(&self, side: Side) -> &Stated {
        match side {
            Side::Provider => &self.provider,
            Side::Consumer => &self.consumer,
        }
    }

    pub(crate) fn set(&mut self, side: Side, stated: Stated) {
        match side {
            Side::Provider => self.provider = stated,
            Side::Consumer => self.consumer = stated,
        }
    }

    /// What follows from both: an end before a suspension, and of two alike the earlier one.
    #[must_use]
    pub fn together(&self) -> &Standing {
        let rank = |standing: &Standing| match standing {
            Standing::Ended(hold) => (0, hold.since.millis()),
            Standing::Suspended(hold) => (1, hold.since.millis()),
            Standing::InForce => (2, 0),
        };
        let (provider, consumer) = (&self.provider.standing, &self.consumer.standing);
        if rank(consumer) < rank(provider) { consumer } else { provider }
    }
}
