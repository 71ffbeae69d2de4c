//! This node's ledger over its store: numbering and signing statements, recording those of peers, proving them.

use std::fmt;
use std::sync::Arc;

use huitong_proof::{
    Anchor, Clock, Digest, Draft, Entropy, Envelope, Signing, SigningKey, SpaceId, Statement, Timestamp,
    VerifyingKey, random,
};
use huitong_store::{Read, Store, Tx};

use crate::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::error::LedgerError;
use crate::evidence::Evidence;
use crate::merkle::{
    ProofError, consistency_path, inclusion_path, leaf_hash, root, verify_consistency, verify_inclusion,
};
use crate::note::LogVerifier;
use crate::tables::{self, StoredNodes};

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
/// The checkpoint's signature is the business of [`SignedCheckpoint::parse_exact`].
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

/// One node's ledger. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    identity: Identity,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Ledger {
    /// A ledger in that store. Nothing is read or written yet.
    pub fn new(store: Store, identity: Identity, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { inner: Arc::new(Inner { store, identity, clock, entropy }) }
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

    /// Signs the next statement of this node on the channel to the draft's audience, stores it and appends it to the
    /// log, all in `tx`.
    ///
    /// Sequence number and predecessor continue the channel; the anchor is the newest observed checkpoint of the
    /// audience's log ([`origin_of`]) or none; the time is the later of clock and transaction; the salt is fresh.
    ///
    /// # Errors
    /// [`LedgerError::Statement`] when the draft cannot be signed (too large, text not in NFC), and storage errors.
    /// Nothing of it is written then.
    pub fn issue(&self, tx: &mut Tx<'_>, draft: Draft) -> Result<Statement, LedgerError> {
        let channel = tables::channel_head(tx, self.node(), &draft.audience)?;
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
        tables::append(tx, &statement)?;
        Ok(statement)
    }

    /// Records a verified statement of a peer and appends it to the log on first sight.
    ///
    /// Arrival out of order is fine: links are checked against the neighbours that are here.
    ///
    /// # Errors
    /// [`LedgerError::Fork`] when the issuer already signed another statement with this number on this channel, or
    /// the links between neighbours do not fit. The evidence is written in `tx` and carried in the error: a caller
    /// that aborts the transaction must hand it to [`Ledger::preserve`].
    pub fn admit(&self, tx: &mut Tx<'_>, s: &Statement) -> Result<Admission, LedgerError> {
        if tables::index_of(tx, &s.digest())?.is_some() {
            return Ok(Admission::Known);
        }
        let body = s.body();
        if let Some(other) = self.contradicted_by(tx, s)? {
            let evidence = Evidence::Statements { kept: other, refused: s.bytes().to_vec() };
            evidence.keep(tx)?;
            return Err(LedgerError::Fork {
                issuer: body.issuer.clone(),
                audience: body.audience.clone(),
                seq: body.seq,
                evidence: Box::new(evidence),
            });
        }
        tables::append(tx, s)?;
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

    /// The statement with that TBS digest.
    ///
    /// # Errors
    /// Storage errors.
    pub fn statement(&self, r: &impl Read, digest: &Digest) -> Result<Option<Statement>, LedgerError> {
        let Some(index) = tables::index_of(r, digest)? else {
            return Ok(None);
        };
        let bytes =
            tables::entry(r, index)?.ok_or(LedgerError::Damaged { what: "an indexed entry is missing" })?;
        Ok(Some(Envelope::decode(bytes)?.trusted(self.space())?))
    }

    /// All statements, of whichever issuer, that answer `reference`, in log order.
    ///
    /// # Errors
    /// Storage errors.
    pub fn answers(&self, r: &impl Read, reference: &Digest) -> Result<Vec<Statement>, LedgerError> {
        self.statements(r, &tables::answers(r, reference)?)
    }

    /// The first `limit` statements with that subject, in log order.
    ///
    /// # Errors
    /// Storage errors.
    pub fn about(
        &self,
        r: &impl Read,
        subject: &[u8; 16],
        limit: usize,
    ) -> Result<Vec<Statement>, LedgerError> {
        self.statements(r, &tables::about(r, subject, limit)?)
    }

    /// The bytes of one entry of the log.
    ///
    /// # Errors
    /// Storage errors.
    pub fn entry(&self, r: &impl Read, index: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        tables::entry(r, index)
    }

    /// Number of entries in the log.
    ///
    /// # Errors
    /// Storage errors.
    pub fn size(&self, r: &impl Read) -> Result<u64, LedgerError> {
        tables::size(r)
    }

    /// Index of the entry with that TBS digest.
    ///
    /// # Errors
    /// Storage errors.
    pub fn index_of(&self, r: &impl Read, digest: &Digest) -> Result<Option<u64>, LedgerError> {
        tables::index_of(r, digest)
    }

    /// The newest checkpoint this node signed.
    ///
    /// # Errors
    /// Storage errors.
    pub fn latest_checkpoint(&self, r: &impl Read) -> Result<Option<SignedCheckpoint>, LedgerError> {
        tables::latest_checkpoint(r)
    }

    /// The checkpoint of the current size, signed now unless there is one.
    ///
    /// A size never gets two roots: the signed row is written in one commit and only returned when durable. Before
    /// signing, the root is computed again from the stored hashes and shown to extend the checkpoint before it.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] or [`LedgerError::Proof`] when the stored hashes do not extend what was signed
    /// before; [`LedgerError::OtherLog`] when the store belongs to another origin; [`LedgerError::Note`] when the
    /// origin is no valid name or the log key has changed; storage errors.
    pub async fn checkpoint(&self) -> Result<SignedCheckpoint, LedgerError> {
        let view = self.store().view();
        if let Some(signed) = tables::checkpoint_at(&view, tables::size(&view)?)? {
            return self.of_this_log(signed);
        }
        let ledger = self.clone();
        Ok(self.store().transact("ledger.checkpoint", move |tx| ledger.sign_checkpoint(tx)).await?)
    }

    /// Proofs that the given statements are in this log, all against one checkpoint, and that this checkpoint extends
    /// the one of `known_size` (0 = the asker knows none).
    ///
    /// # Errors
    /// [`LedgerError::NotLogged`] for a digest that is not in the log; [`LedgerError::Behind`] when `known_size` is
    /// larger than the log; those of [`Ledger::checkpoint`].
    pub async fn prove(&self, digests: Vec<Digest>, known_size: u64) -> Result<Proofs, LedgerError> {
        let mut indexed = Vec::with_capacity(digests.len());
        let view = self.store().view();
        for digest in digests {
            let index = tables::index_of(&view, &digest)?.ok_or(LedgerError::NotLogged { digest })?;
            indexed.push((digest, index));
        }
        let needed = indexed.iter().map(|(_, index)| index.saturating_add(1)).fold(known_size, u64::max);
        let signed = match tables::latest_checkpoint(&view)? {
            Some(latest) if latest.checkpoint().size >= needed => self.of_this_log(latest)?,
            _ => self.checkpoint().await?,
        };
        let size = signed.checkpoint().size;
        if known_size > size {
            return Err(LedgerError::Behind { known: known_size, size });
        }

        let view = self.store().view();
        let nodes = StoredNodes(&view);
        let inclusion = indexed
            .into_iter()
            .map(|(digest, index)| {
                Ok(Inclusion { digest, index, path: inclusion_path(&nodes, index, size)? })
            })
            .collect::<Result<_, LedgerError>>()?;
        let consistency = consistency_path(&nodes, known_size, size)?;
        Ok(Proofs { checkpoint: signed.text().to_owned(), inclusion, consistency })
    }

    fn sign_checkpoint(&self, tx: &mut Tx<'_>) -> Result<SignedCheckpoint, LedgerError> {
        let size = tables::size(tx)?;
        if let Some(signed) = tables::checkpoint_at(tx, size)? {
            return self.of_this_log(signed);
        }
        let verifier = LogVerifier::new(self.origin(), self.inner.identity.log_key.verifying_key())?;
        let root = root(&StoredNodes(tx), size)?;
        if let Some(before) = tables::latest_checkpoint(tx)? {
            let before = self.of_this_log(before)?;
            SignedCheckpoint::parse_exact(before.text(), &verifier)?;
            self.check_extends(tx, before.checkpoint(), size, &root)?;
        }
        let checkpoint = Checkpoint { origin: self.origin().to_owned(), size, root };
        let signed = SignedCheckpoint::sign(checkpoint, &self.inner.identity.log_key);
        tables::put_checkpoint(tx, &signed)?;
        Ok(signed)
    }

    /// A flipped bit or a rolled-back row must stop the log before it signs something its past contradicts.
    fn check_extends(
        &self,
        tx: &Tx<'_>,
        old: &Checkpoint,
        size: u64,
        root: &Digest,
    ) -> Result<(), LedgerError> {
        if old.size == 0 {
            return Ok(());
        }
        let path = consistency_path(&StoredNodes(tx), old.size, size)?;
        Ok(verify_consistency(old.size, &old.root, size, root, &path)?)
    }

    fn of_this_log(&self, signed: SignedCheckpoint) -> Result<SignedCheckpoint, LedgerError> {
        if signed.checkpoint().origin == self.origin() {
            return Ok(signed);
        }
        Err(LedgerError::OtherLog {
            stored: signed.checkpoint().origin.clone(),
            configured: self.origin().to_owned(),
        })
    }

    fn anchor(&self, r: &impl Read, audience: &str) -> Result<Anchor, LedgerError> {
        let observed = tables::observed(r, &origin_of(audience))?;
        Ok(observed.map_or_else(Anchor::none, |signed| {
            let Checkpoint { origin, size, root } = signed.checkpoint().clone();
            Anchor { origin, size, root }
        }))
    }

    /// Bytes of a recorded statement of the same issuer and channel that cannot stand beside `s`.
    fn contradicted_by(&self, r: &impl Read, s: &Statement) -> Result<Option<Vec<u8>>, LedgerError> {
        let body = s.body();
        let neighbour = |seq: Option<u64>| match seq {
            Some(seq) => tables::on_channel(r, &body.issuer, &body.audience, seq),
            None => Ok(None),
        };
        let recorded = |digest: &Digest| {
            self.statement(r, digest)?.ok_or(LedgerError::Damaged { what: "a numbered statement is missing" })
        };

        if let Some(same) = neighbour(Some(body.seq))? {
            return Ok(Some(recorded(&same)?.bytes().to_vec()));
        }
        if let Some(before) = neighbour(body.seq.checked_sub(1))?
            && before != body.prev
        {
            return Ok(Some(recorded(&before)?.bytes().to_vec()));
        }
        if let Some(after) = neighbour(body.seq.checked_add(1))? {
            let after = recorded(&after)?;
            if after.body().prev != s.digest() {
                return Ok(Some(after.bytes().to_vec()));
            }
        }
        Ok(None)
    }

    fn statements(&self, r: &impl Read, digests: &[Digest]) -> Result<Vec<Statement>, LedgerError> {
        digests
            .iter()
            .map(|digest| {
                self.statement(r, digest)?
                    .ok_or(LedgerError::Damaged { what: "a listed statement is missing" })
            })
            .collect()
    }
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
