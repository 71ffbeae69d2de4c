//! This node's ledger over its store: numbering and signing statements, recording those of peers, proving them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use huitong_proof::{
    Anchor, Clock, Digest, Draft, Entropy, Signing, SigningKey, SpaceId, Statement, Timestamp, VerifyingKey,
    random,
};
use huitong_store::{Read, Store, Tx};

use crate::archive::Archive;
use crate::checkpoint::Checkpoint;
use crate::entries::Found;
use crate::error::LedgerError;
use crate::evidence::Evidence;
use crate::gaps::EntryState;
use crate::gate::Gate;
use crate::lookup::{Fingerprint, Keys, Recent};
use crate::merkle::{ProofError, leaf_hash, verify_inclusion};
use crate::note::LogVerifier;
use crate::opening::Opening;
use crate::place::Place;
use crate::publish::Publishing;
use crate::tables::{self, ENTRY, Extent};
use crate::tree::Tree;

/// Origin of the first log of a node: `<node id in lower case>/huitong-log/1`.
pub fn origin_of(node_id: &str) -> String {
    format!("{}/huitong-log/1", node_id.to_ascii_lowercase())
}

/// Who this node is and what it signs with.
pub struct Identity {
    /// Node id, 32 characters: the issuer of this node's statements.
    pub node: String,
    /// Name of this node's log and of its log key; see [`origin_of`].
    pub origin: String,
    /// The data space every statement is bound to.
    pub space: SpaceId,
    /// Signs statements.
    pub statement_key: SigningKey,
    /// Signs checkpoints. Never the same key as `statement_key`.
    pub log_key: SigningKey,
}

/// Whether a peer's statement was recorded just now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Recorded and appended to the log now.
    New,
    /// Recorded before; nothing was written.
    Known,
}

/// Proofs of several statements against one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proofs {
    /// Text of the signed checkpoint.
    pub checkpoint: String,
    /// One proof for each statement, in the order asked for.
    pub inclusion: Vec<Inclusion>,
    /// Path from the size the asker knew to the checkpoint; empty when it knew none or exactly this one.
    pub consistency: Vec<Digest>,
}

/// Where a statement stands in the log, and the path from there to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// TBS digest of the statement.
    pub digest: Digest,
    /// Index of the entry, from 0.
    pub index: u64,
    /// Sibling hashes, the leaf's sibling first.
    pub path: Vec<Digest>,
}

/// Offline: does this log, at this checkpoint, hold this statement?
///
/// The checkpoint's signature is the business of [`crate::SignedCheckpoint::parse_exact`].
///
/// # Errors
/// [`ProofError`] when index or path do not lead from these bytes to the root.
pub fn verify_entry(
    statement_bytes: &[u8],
    index: u64,
    path: &[Digest],
    checkpoint: &Checkpoint,
) -> Result<(), ProofError> {
    verify_inclusion(&leaf_hash(statement_bytes), index, checkpoint.size, path, &checkpoint.root)
}

/// One node's ledger. Clones share it; a store has at most one that is not a clone of another.
///
/// # Where entries are
/// New entries are rows of the store, in memory and in its journal. [`Ledger::publish`] writes them to tiles and
/// bundles, and moves each complete block of 4,096 entries there for good: what remains in memory does not grow with
/// the log.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Entries that are settled together; 4,096 but in tests.
    pub(crate) block: u64,
    pub(crate) place: Place,
    pub(crate) archive: Archive,
    pub(crate) gate: Gate,
    /// Counterparties that must answer before anything is signed to them.
    pub(crate) awaited: Mutex<BTreeSet<String>>,
    /// Hashes of what is not settled.
    pub(crate) tree: Mutex<Tree>,
    /// Lookup records of what is not settled.
    pub(crate) recent: Mutex<Recent>,
    /// One publishes at a time.
    pub(crate) publishing: Arc<tokio::sync::Mutex<Publishing>>,
    /// Size of the published checkpoint.
    pub(crate) published: AtomicU64,
    opening: Opening,
}

/// What [`crate::opening`] found, for a ledger over it.
pub(crate) struct Parts {
    pub(crate) block: u64,
    pub(crate) place: Place,
    pub(crate) archive: Archive,
    pub(crate) gate: Gate,
    pub(crate) tree: Tree,
    pub(crate) recent: Recent,
    pub(crate) publishing: Publishing,
    pub(crate) published: u64,
    pub(crate) opening: Opening,
}

impl Ledger {
    pub(crate) fn new(
        store: Store,
        identity: Identity,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        parts: Parts,
    ) -> Self {
        let Parts { block, place, archive, gate, tree, recent, publishing, published, opening } = parts;
        let inner = Inner {
            store,
            identity,
            clock,
            entropy,
            block,
            place,
            archive,
            gate,
            awaited: Mutex::default(),
            tree: Mutex::new(tree),
            recent: Mutex::new(recent),
            publishing: Arc::new(tokio::sync::Mutex::new(publishing)),
            published: AtomicU64::new(published),
            opening,
        };
        Self { inner: Arc::new(inner) }
    }

    /// This node's id.
    pub fn node(&self) -> &str {
        &self.inner.identity.node
    }

    /// Name of this node's log.
    pub fn origin(&self) -> &str {
        &self.inner.identity.origin
    }

    /// The data space of all statements here.
    pub fn space(&self) -> &SpaceId {
        &self.inner.identity.space
    }

    /// What peers check this node's checkpoints with.
    pub fn log_verifier(&self) -> LogVerifier {
        LogVerifier::unchecked(self.origin().to_owned(), self.inner.identity.log_key.verifying_key())
    }

    /// What peers check this node's statements with.
    pub fn statement_key(&self) -> VerifyingKey {
        self.inner.identity.statement_key.verifying_key()
    }

    /// The clock statements are dated by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Where salts come from.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.inner.entropy
    }

    /// The store that holds the ledger.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// What was found and mended when the ledger was opened.
    pub fn opening(&self) -> &Opening {
        &self.inner.opening
    }

    /// Signs the next statement of this node on the channel to the draft's audience, stores it and appends it to the
    /// log, all in `tx`.
    ///
    /// Sequence number and predecessor continue the channel; the anchor is the newest observed checkpoint of the
    /// audience's log ([`origin_of`]) or none; the time is the later of clock and transaction; the salt is fresh.
    ///
    /// # Errors
    /// [`LedgerError::SafeMode`] while nothing is signed; [`LedgerError::Unconfirmed`] while nothing is signed to this
    /// audience; [`LedgerError::Statement`] when the draft cannot be signed (too large, text not in NFC);
    /// [`LedgerError::ChannelFull`]; storage errors. Nothing of it is written then.
    pub fn issue(&self, tx: &mut Tx<'_>, draft: Draft) -> Result<Statement, LedgerError> {
        self.signing()?;
        let head = tables::head(tx, self.node(), &draft.audience)?;
        let channel = self.number_next(tx, head, &draft.audience)?;
        let anchor = self.anchor(tx, &draft.audience)?;
        let time = self.inner.clock.now().max(Timestamp::from_millis(tx.time()));
        let statement = Statement::sign(
            draft,
            Signing {
                key: &self.inner.identity.statement_key,
                space: self.space(),
                issuer: self.node(),
                channel,
                anchor,
                time,
                salt: random(self.inner.entropy.as_ref()),
            },
        )?;
        self.append(tx, &statement, head)?;
        Ok(statement)
    }

    /// Records a verified statement of a peer and appends it to the log on first sight.
    ///
    /// Arrival out of order is fine: links are checked against the neighbours that are here. It works in safe mode too.
    ///
    /// # Errors
    /// [`LedgerError::Fork`] when the issuer already signed another statement with this number on this channel, or
    /// the links between neighbours do not fit. The evidence is written in `tx` and carried in the error: a caller
    /// that aborts the transaction must hand it to [`Ledger::preserve`]. [`LedgerError::Redacted`] when the statement
    /// it would have to be compared with was removed. Storage errors.
    pub fn admit(&self, tx: &mut Tx<'_>, s: &Statement) -> Result<Admission, LedgerError> {
        let body = s.body();
        let head = tables::head(tx, &body.issuer, &body.audience)?;
        // Above the head everything is new, and only the head itself is a neighbour.
        let contradicted_by = match head {
            None => None,
            Some((seq, digest)) if body.seq > seq => {
                let breaks = seq.checked_add(1) == Some(body.seq) && digest != body.prev;
                breaks.then_some(seq)
            }
            Some(_) => {
                if self.by_digest(tx, &s.digest())?.is_some() {
                    return Ok(Admission::Known);
                }
                self.contradicted_by(tx, s)?
            }
        };
        let contradicting = match contradicted_by {
            Some(seq) => self.on_channel(tx, &body.issuer, &body.audience, seq)?,
            None => None,
        };
        if let Some((_, other)) = contradicting {
            let kept = other.into_statement()?.bytes().to_vec();
            let evidence = Evidence::Statements { kept, refused: s.bytes().to_vec() };
            evidence.keep(tx)?;
            return Err(LedgerError::Fork {
                issuer: body.issuer.clone(),
                audience: body.audience.clone(),
                seq: body.seq,
                evidence: Box::new(evidence),
            });
        }
        self.append(tx, s, head)?;
        Ok(Admission::New)
    }

    /// Writes evidence from an error into its own transaction, for callers whose transaction was aborted by it.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn preserve(&self, evidence: &Evidence) -> Result<(), LedgerError> {
        let evidence = evidence.clone();
        Ok(self.store().transact("ledger.preserve", move |tx| evidence.keep(tx)).await?)
    }

    /// The kept evidence of contradictions, at most `limit` pairs.
    ///
    /// # Errors
    /// Storage errors.
    pub fn evidence(&self, r: &impl Read, limit: usize) -> Result<Vec<Evidence>, LedgerError> {
        Evidence::all(r, limit)
    }

    /// At most `limit` pairs of that evidence behind the one with that key, each with its key. New pairs may come before
    /// or behind it.
    ///
    /// # Errors
    /// Storage errors.
    pub fn evidence_after(
        &self,
        r: &impl Read,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, Evidence)>, LedgerError> {
        Evidence::page(r, after, limit)
    }

    /// The statement with that TBS digest.
    ///
    /// # Errors
    /// [`LedgerError::Redacted`] when its bytes were removed; storage errors.
    pub fn statement(&self, r: &impl Read, digest: &Digest) -> Result<Option<Statement>, LedgerError> {
        self.by_digest(r, digest)?.map(|(_, found)| found.into_statement()).transpose()
    }

    /// All statements, of whichever issuer, that answer `reference`, in log order. Removed ones are passed over.
    ///
    /// # Errors
    /// Storage errors.
    pub fn answers(&self, r: &impl Read, reference: &Digest) -> Result<Vec<Statement>, LedgerError> {
        if *reference == Digest::ZERO {
            return Ok(Vec::new());
        }
        self.list(r, Fingerprint::of_reference(reference), usize::MAX, |keys| keys.reference == *reference)
    }

    /// The first `limit` statements with that subject, in log order. Removed ones are passed over.
    ///
    /// # Errors
    /// Storage errors.
    pub fn about(
        &self,
        r: &impl Read,
        subject: &[u8; 16],
        limit: usize,
    ) -> Result<Vec<Statement>, LedgerError> {
        self.list(r, Fingerprint::of_subject(subject), limit, |keys| keys.subject == *subject)
    }

    /// The bytes of one entry of the log.
    ///
    /// # Errors
    /// [`LedgerError::Redacted`] when they were removed; storage errors.
    pub fn entry(&self, r: &impl Read, index: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        match self.entry_state(r, index)? {
            None => Ok(None),
            Some(EntryState::Present(bytes)) => Ok(Some(bytes)),
            Some(EntryState::Redacted(gap)) => Err(gap.to_error()),
        }
    }

    /// Number of entries in the log.
    ///
    /// # Errors
    /// Storage errors.
    pub fn size(&self, r: &impl Read) -> Result<u64, LedgerError> {
        tables::size(r)
    }

    /// Index of the entry with that TBS digest, also of a removed one.
    ///
    /// # Errors
    /// Storage errors.
    pub fn index_of(&self, r: &impl Read, digest: &Digest) -> Result<Option<u64>, LedgerError> {
        Ok(self.by_digest(r, digest)?.map(|(index, _)| index))
    }

    /// Whether this node signs: `Ok`, or why not.
    ///
    /// # Errors
    /// [`LedgerError::SafeMode`] with the reason.
    pub fn signing(&self) -> Result<(), LedgerError> {
        self.inner.gate.check()
    }

    /// Stops signing, now and after every restart, until [`Ledger::resume_signing`]. The first reason given stays. Waits
    /// for one fsync.
    ///
    /// # Errors
    /// [`LedgerError::File`] when the reason cannot be written: then nothing is signed until the next restart only.
    pub fn stop_signing(&self, reason: &str) -> Result<(), LedgerError> {
        tracing::error!(origin = self.origin(), reason, "the ledger signs nothing from now on");
        self.inner.gate.close(&self.inner.place, reason)
    }

    /// Appends a statement to the log and notes what it is found by. `head` is that of its channel.
    pub(crate) fn append(
        &self,
        tx: &mut Tx<'_>,
        statement: &Statement,
        head: Option<(u64, Digest)>,
    ) -> Result<u64, LedgerError> {
        let index = self.append_row(tx, statement.bytes())?;
        raise_head(tx, statement, head)?;
        let keys = Keys::of(statement);
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner).note(&keys, index);
        Ok(index)
    }

    /// Appends an entry that is found by its index only. Empty bytes stand for a gap.
    pub(crate) fn append_row(&self, tx: &mut Tx<'_>, bytes: &[u8]) -> Result<u64, LedgerError> {
        let Extent { size: index, arrangement } = tables::extent(tx)?;
        let Some(size) = index.checked_add(1) else {
            return Err(LedgerError::Damaged { what: "the size is beyond counting" });
        };
        tx.put(&ENTRY, &index.to_be_bytes(), bytes)?;
        tables::put_extent(tx, Extent { size, arrangement })?;
        Ok(index)
    }

    fn anchor(&self, r: &impl Read, audience: &str) -> Result<Anchor, LedgerError> {
        let observed = tables::observed(r, &origin_of(audience))?;
        Ok(observed.map_or_else(Anchor::none, |signed| {
            let Checkpoint { origin, size, root } = signed.checkpoint().clone();
            Anchor { origin, size, root }
        }))
    }

    /// Number of a recorded statement of the same issuer and channel that cannot stand beside `s`.
    fn contradicted_by(&self, r: &impl Read, s: &Statement) -> Result<Option<u64>, LedgerError> {
        let body = s.body();
        let neighbour = |seq: Option<u64>| match seq {
            Some(seq) => Ok::<_, LedgerError>(
                self.on_channel(r, &body.issuer, &body.audience, seq)?.map(|(_, found)| found),
            ),
            None => Ok(None),
        };
        if neighbour(Some(body.seq))?.is_some() {
            return Ok(Some(body.seq));
        }
        let before = body.seq.checked_sub(1);
        if let Some(found) = neighbour(before)?
            && found.digest() != Some(body.prev)
        {
            return Ok(before);
        }
        let after = body.seq.checked_add(1);
        // Of a removed statement the link to its predecessor is not kept.
        if let Some(Found::Statement(found)) = neighbour(after)?
            && found.body().prev != s.digest()
        {
            return Ok(after);
        }
        Ok(None)
    }
}

/// The head of a channel moves to the statement if that has a higher number.
pub(crate) fn raise_head(
    tx: &mut Tx<'_>,
    statement: &Statement,
    head: Option<(u64, Digest)>,
) -> Result<(), LedgerError> {
    let body = statement.body();
    if head.is_none_or(|(seq, _)| body.seq > seq) {
        tables::put_head(tx, &body.issuer, &body.audience, body.seq, &statement.digest())?;
    }
    Ok(())
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("node", &self.node())
            .field("origin", &self.origin())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
