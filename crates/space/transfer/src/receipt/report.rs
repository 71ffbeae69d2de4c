//! What a verification found.

use huitong_proof::{ContentRoot, Digest, Timestamp};

use crate::model::Finality;

/// One fact that the receipt proves, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Stable name, such as `agreement` or `acknowledgement`.
    pub name: &'static str,
    /// Who, what, how many bytes, root, between which times, under which contract.
    pub text: String,
}

/// What kind of fault was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The verifier's quorum policy asks for witnesses that are not there.
    PolicyNotMet,
    /// Something that must be there is not.
    Incomplete,
    /// Something that is there is false.
    Invalid,
    /// The bytes are no receipt at all.
    Unreadable,
}

/// One fault, with the statement or proof it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub kind: ProblemKind,
    /// Which statement or proof.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The figures of a receipt that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// 47-character contract id.
    pub contract: String,
    /// Product id.
    pub product: String,
    /// Product name.
    pub product_name: String,
    /// Provider's node id.
    pub provider: String,
    /// Provider's organisation.
    pub provider_name: String,
    /// Consumer's node id.
    pub consumer: String,
    /// Consumer's organisation.
    pub consumer_name: String,
    /// Bytes delivered.
    pub bytes: u64,
    /// BLAKE3 root of the content.
    pub blake3: ContentRoot,
    /// The provider's clock when it offered.
    pub offered: Timestamp,
    /// The consumer's clock when it acknowledged the last byte.
    pub acknowledged: Timestamp,
    /// The provider's clock when it closed the transfer.
    pub closed: Timestamp,
}

/// Who cosigned a ledger's checkpoint, and when by its own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignatureFacts {
    /// Node id of the witness.
    pub node: String,
    /// Its organisation.
    pub name: String,
    /// When it had seen no larger tree of this ledger, in whole seconds.
    pub time: Timestamp,
}

/// The ledger of one side, as the receipt shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerFacts {
    /// Name of the ledger.
    pub origin: String,
    /// Entries under its checkpoint.
    pub size: u64,
    /// Merkle root of these entries.
    pub root: Digest,
    /// In order of the witnesses' node ids.
    pub cosignatures: Vec<CosignatureFacts>,
    /// Whether they are enough.
    pub finality: Finality,
    /// When they were enough: all statements existed at this moment, by the witnesses' clocks.
    pub not_after: Option<Timestamp>,
}

/// The sum of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is there and true.
    Valid,
    /// Everything is there and true, but fewer witnesses cosigned than the verifier's policy asks for.
    PolicyNotMet,
    /// Something is missing, nothing is false.
    Incomplete,
    /// Something is false.
    Invalid,
    /// The bytes are no receipt.
    Unreadable,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is proven.
    pub claims: Vec<Claim>,
    /// What is not.
    pub problems: Vec<Problem>,
    /// The figures, when everything holds.
    pub facts: Option<Facts>,
    /// The provider's and the consumer's ledger, as far as they hold.
    pub ledgers: Vec<LedgerFacts>,
}

impl Report {
    /// The worst of what was found.
    pub fn outcome(&self) -> Outcome {
        match self.problems.iter().map(|problem| problem.kind).max() {
            None => Outcome::Valid,
            Some(ProblemKind::PolicyNotMet) => Outcome::PolicyNotMet,
            Some(ProblemKind::Incomplete) => Outcome::Incomplete,
            Some(ProblemKind::Invalid) => Outcome::Invalid,
            Some(ProblemKind::Unreadable) => Outcome::Unreadable,
        }
    }

    /// Final when both ledgers are: under the verifier's policy, or, without one, when at least one witness that is no
    /// party of the receipt has cosigned each. `None` when the receipt does not hold.
    pub fn finality(&self) -> Option<Finality> {
        match self.outcome() {
            Outcome::Valid if self.ledgers.iter().all(|ledger| ledger.finality == Finality::Final) => {
                Some(Finality::Final)
            }
            Outcome::Valid | Outcome::PolicyNotMet => Some(Finality::Provisional),
            Outcome::Incomplete | Outcome::Invalid | Outcome::Unreadable => None,
        }
    }

    /// Upper end of the time bracket: everything in the receipt existed at this moment, by the witnesses' clocks. `None`
    /// while neither ledger has enough witnesses.
    pub fn not_after(&self) -> Option<Timestamp> {
        // Each ledger holds all the statements, so the earlier of the two speaks for both.
        self.finality()?;
        self.ledgers.iter().filter_map(|ledger| ledger.not_after).min()
    }

    pub(super) fn claim(&mut self, name: &'static str, text: String) {
        self.claims.push(Claim { name, text });
    }

    pub(super) fn problem(
        &mut self,
        kind: ProblemKind,
        what: impl Into<String>,
        reason: impl std::fmt::Display,
    ) {
        self.problems.push(Problem { kind, what: what.into(), reason: reason.to_string() });
    }
}
