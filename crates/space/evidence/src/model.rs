//! What the operator sets, what is reported.

use std::collections::BTreeSet;
use std::time::Duration;

use huitong_ids::NodeId;
use huitong_ledger::{LogVerifier, QuorumPolicy, WitnessVerifier};
use huitong_proof::{Digest, Timestamp, VerifyingKey};

/// What the operator has configured.
#[derive(Debug, Clone)]
pub struct EvidenceSettings {
    /// Whose cosignatures make a checkpoint final. `None`: the registrar alone; on a function node nobody.
    pub policy: Option<QuorumPolicy>,
    /// Nodes whose ledgers this node witnesses. A function node witnesses all its members besides.
    pub witness_for: Vec<NodeId>,
    /// Nodes that may read every entry. Registrars on the root list always may.
    pub regulators: Vec<NodeId>,
    /// How long after it was received a statement may be missing in its issuer's ledger.
    pub statement_delay: Duration,
    /// How long a followed ledger may give no checkpoint, and how long one that this node witnesses may sign checkpoints and
    /// have none of them cosigned; likewise how long a witness of this node may be behind. An idle ledger has nothing to
    /// sign: its newest checkpoint may be of any age.
    pub stale_after: Duration,
    /// How long the comparison at start waits for everybody together.
    pub start_timeout: Duration,
    /// How long one request to another node may take.
    pub request_timeout: Duration,
}

impl Default for EvidenceSettings {
    fn default() -> Self {
        Self {
            policy: None,
            witness_for: Vec::new(),
            regulators: Vec::new(),
            statement_delay: Duration::from_secs(600),
            stale_after: Duration::from_secs(3600),
            start_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// Another node whose ledger this node follows, with the keys that check it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedLog {
    /// The node.
    pub node: NodeId,
    /// Origin and key of its ledger.
    pub log: LogVerifier,
    /// Checks its statements.
    pub statement_key: VerifyingKey,
    /// Checks its cosignatures.
    pub witness: WitnessVerifier,
    /// Whether this node is a witness of the ledger, and therefore mirrors its leaf hashes.
    pub witnessed: bool,
}

/// A witness of the policy in force, as this node has met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessStanding {
    /// Name in the policy.
    pub name: String,
    /// The node behind it; `None` for a witness that is no node of a space, which this node cannot ask.
    pub node: Option<NodeId>,
    /// Size of the newest checkpoint of ours that it has cosigned; 0 for none.
    pub size: u64,
    /// When it did.
    pub time: Option<Timestamp>,
    /// Why the last request failed, if it did.
    pub last_error: Option<String>,
}

/// How far this node's ledger is signed and final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerStanding {
    /// Entries in the ledger.
    pub size: u64,
    /// Entries under the newest signed checkpoint.
    pub signed_size: u64,
    /// Entries under the newest checkpoint that satisfies the policy; 0 without a policy.
    pub final_size: u64,
    /// The newest checkpoint with cosignatures.
    pub cosigned: Option<String>,
    /// What the policy demands, such as `2 of 3: a, b, c`.
    pub requirement: Option<String>,
    /// One for each witness of the policy.
    pub witnesses: Vec<WitnessStanding>,
    /// Why nothing is signed (safe mode).
    pub safe_mode: Option<String>,
}

/// What one round of asking the witnesses came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cosigning {
    /// Size of the checkpoint that was submitted; 0 if there was nothing to submit.
    pub size: u64,
    /// Witnesses of the policy that have cosigned it, by name.
    pub cosigned: Vec<String>,
    /// Those that have not, by name, with the reason.
    pub failed: Vec<(String, String)>,
    /// Whether the policy is satisfied at this size.
    pub is_final: bool,
}

/// What one question in a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It knows no more of us than we do ourselves.
    NotAhead {
        /// What it knows, in plain words.
        detail: String,
    },
    /// It showed something that we signed and no longer have.
    Ahead {
        /// What it showed, in plain words.
        detail: String,
    },
    /// It gave no answer, or one that proves nothing.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// In which part a node was asked about us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// As a witness, for the newest checkpoint of ours that it has cosigned.
    Witness,
    /// As a counterparty, for the newest statement of ours that it holds.
    Counterparty,
}

/// One question of a comparison and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Who was asked: a node id, or the name of a witness that is no node.
    pub who: String,
    /// As what.
    pub asked: Asked,
    /// What came of it.
    pub answer: Answer,
}

/// A comparison of this node's ledger with what others know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Every question.
    pub compared: Vec<Compared>,
    /// Why nothing is signed after it; `None` if the node signs.
    pub safe_mode: Option<String>,
}

/// A step of a recovery, for who watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: &'static str,
    /// Entries done.
    pub done: u64,
    /// Entries in all.
    pub total: u64,
}

/// What a recovery brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Entries before.
    pub from_size: u64,
    /// Entries afterwards.
    pub to_size: u64,
    /// Entries whose bytes came back in this run.
    pub recovered: u64,
    /// Indexes of entries of which only the hash is left, those of earlier recoveries included.
    pub lost: Vec<u64>,
    /// TBS digests of the statements that this run put back, in the order in which it did.
    pub statements: Vec<Digest>,
    /// Nodes whose contracts and transfers should be looked through: parties of recovered statements and, when
    /// something is lost, counterparties that could not be asked. Nodes that this one had met only after the backup are
    /// known to nobody here.
    pub affected: BTreeSet<String>,
    /// Agreements that recovered statements are bound to.
    pub agreements: BTreeSet<Digest>,
    /// Why the node still signs nothing; `None` if it signs again.
    pub safe_mode: Option<String>,
}
