//! What other nodes may ask of this one. Every function takes the caller, or something that authenticates itself.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use huitong_identity::{Caller, Credential, ServiceError, remember};
use huitong_ids::NodeId;
use huitong_ledger::{
    AddCheckpoint, Checkpoint, EntryState, LedgerError, LogVerifier, NoteError, SignedCheckpoint,
    WitnessRefusal, add_checkpoint, origin_of, verify_consistency, witnessed,
};
use huitong_proof::{Digest, Envelope, Timestamp};
use huitong_store::Read;

use crate::mirror;
use crate::peer::{ChannelSide, ChannelStanding, Included, MAX_LEAVES, MAX_STATEMENTS, WitnessAnswer};
use crate::service::{Evidence, node_of_origin};

/// How long a cosignature of the very same checkpoint is given again instead of a fresh one: whoever has seen a
/// checkpoint can send it, and each fresh cosignature costs an fsync.
const SAME_COSIGNATURE: Duration = Duration::from_secs(60);
/// When to come again to a witness that signs nothing.
const SAFE_MODE_RETRY: Duration = Duration::from_secs(60);
/// Bytes of statements in one answer, unless the first alone is longer.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// How far back a removed statement is stepped over in [`Evidence::channel`].
const MAX_STEPS_BACK: u64 = 64;

impl Evidence {
    /// Cosigns a checkpoint of a ledger that this node witnesses, if it extends the one that it cosigned before
    /// (C2SP tlog-witness 1.0.0, add-checkpoint). `body` is the body of that request. State is durable before the
    /// answer. Any caller may hand in the checkpoint of any ledger: the ledger's signature is what counts.
    pub async fn add_checkpoint(&self, caller: &Caller, body: &str) -> Result<WitnessAnswer, ServiceError> {
        match AddCheckpoint::parse(body) {
            Ok(request) => self.witness(Some(caller), &request).await,
            Err(refusal) => Ok(refusal.into()),
        }
    }

    /// The same without a caller, as plain HTTP has it: only for nodes whose credential is here already.
    pub async fn add_checkpoint_signed(
        &self,
        request: &AddCheckpoint,
    ) -> Result<WitnessAnswer, ServiceError> {
        self.witness(None, request).await
    }

    /// The newest checkpoint of that ledger which this node has cosigned, with the ledger's and its own signature. The
    /// ledger's own node is told of a larger one, too, that this node has only seen: if that node was rolled back, it must
    /// not sign another of this size. So are regulators and the witnesses of this node: a witness that was rolled back must
    /// not cosign another. Nobody else learns with whom this node deals.
    pub fn witnessed(&self, caller: &Caller, origin: &str) -> Result<Option<String>, ServiceError> {
        let cosigned = witnessed(&self.ledger().store().view(), origin)?;
        let owner = node_of_origin(origin);
        let may_know = owner.as_ref() == Some(caller.node())
            || self.is_regulator(caller)
            || self.policy_nodes()?.contains(caller.node());
        let log = match owner.filter(|_| may_know) {
            Some(owner) => self.follow(&owner)?,
            None => None,
        };
        let seen = match log {
            Some(log) if log.log.name() == origin => self.last_shown(&log)?,
            _ => None,
        };
        let newest = cosigned.into_iter().chain(seen).max_by_key(|signed| {
            // Of one size the cosigned one says more.
            (signed.checkpoint().size, signed.cosigner_names().len())
        });
        Ok(newest.map(|signed| signed.text().to_owned()))
    }

    /// The newest cosigned checkpoint of the ledger whose origin has this SHA-256, for C2SP's monitoring address. Open
    /// to anybody: size and root of a ledger are no secret.
    pub fn witnessed_under(&self, origin_hash: &Digest) -> Result<Option<String>, ServiceError> {
        let mut nodes = self.members()?;
        nodes.extend(self.settings().witness_for.iter().cloned());
        let mut origins = nodes.iter().map(|node| origin_of(node.as_str()));
        let Some(origin) = origins.find(|origin| Digest::sha256(origin.as_bytes()) == *origin_hash) else {
            return Ok(None);
        };
        let signed = witnessed(&self.ledger().store().view(), &origin)?;
        Ok(signed.map(|signed| signed.text().to_owned()))
    }

    /// This node's newest signed checkpoint, with the cosignatures that it has. One is signed if there is none yet.
    pub async fn checkpoint(&self, _caller: &Caller) -> Result<String, ServiceError> {
        let ledger = self.ledger();
        let view = ledger.store().view();
        let signed = match ledger.latest_checkpoint(&view)? {
            Some(signed) => signed,
            None => ledger.checkpoint().await?,
        };
        let cosigned = ledger.cosigned(&view)?;
        let newest =
            cosigned.filter(|cosigned| cosigned.checkpoint() == signed.checkpoint()).unwrap_or(signed);
        Ok(newest.text().to_owned())
    }

    /// The path from size `old` to size `new` of this node's ledger (RFC 9162 section 2.1.4), both covered by its
    /// newest checkpoint.
    pub fn consistency(&self, _caller: &Caller, old: u64, new: u64) -> Result<Vec<Digest>, ServiceError> {
        let view = self.ledger().store().view();
        self.check_signed("new_size", new, &view)?;
        if old == 0 || old > new {
            return Err(ServiceError::invalid("old_size", format!("must be 1 to {new}")));
        }
        Ok(self.ledger().consistency(old, new)?)
    }

    /// Where a statement stands at size `size` of this node's ledger. Only its issuer, its audience and a regulator
    /// may ask; for everybody else it does not exist.
    pub fn inclusion(&self, caller: &Caller, digest: &Digest, size: u64) -> Result<Included, ServiceError> {
        let view = self.ledger().store().view();
        let unknown = || ServiceError::NotFound { what: format!("statement {digest}") };
        let index = self.ledger().index_of(&view, digest)?.ok_or_else(unknown)?;
        if !self.may_read_entry(caller, &view, index)? {
            return Err(unknown());
        }
        self.check_signed("size", size, &view)?;
        if index >= size {
            return Err(ServiceError::invalid(
                "size",
                format!("the statement has index {index}; ask for more"),
            ));
        }
        let leaf = self.ledger().leaves(index, 1)?.first().copied();
        let leaf = leaf.ok_or_else(|| ServiceError::Internal("an entry has no leaf hash".to_owned()))?;
        let path = self.ledger().inclusion_at(index, size)?;
        Ok(Included { index, path, leaf })
    }

    /// The bytes of one entry, or why they are gone. Only its issuer, its audience and a regulator may ask; for
    /// everybody else it does not exist.
    pub fn entry(&self, caller: &Caller, index: u64) -> Result<EntryState, ServiceError> {
        let view = self.ledger().store().view();
        let state = self.ledger().entry_state(&view, index)?;
        match state {
            Some(state) if self.may_read_state(caller, &state)? => Ok(state),
            _ => Err(ServiceError::NotFound { what: format!("entry {index}") }),
        }
    }

    /// Whether a caller may read every entry of the range, as the files of entry bundles have them: its issuer, its
    /// audience and regulators. At most 256 entries.
    pub fn may_read(&self, caller: &Caller, entries: Range<u64>) -> Result<bool, ServiceError> {
        if self.is_regulator(caller) {
            return Ok(true);
        }
        let view = self.ledger().store().view();
        if entries.end.saturating_sub(entries.start) > 256 || entries.end > self.ledger().size(&view)? {
            return Ok(false);
        }
        for index in entries {
            if !self.may_read_entry(caller, &view, index)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Leaf hashes from index `from` on, at most `limit` and at most 4,096, of this node's ledger (empty `origin` or
    /// its own) or of one that it mirrors. Fewer when there are no more. They say nothing about what was logged:
    /// every statement is salted.
    pub fn leaves(
        &self,
        _caller: &Caller,
        origin: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Digest>, ServiceError> {
        let limit = limit.min(MAX_LEAVES);
        if origin.is_empty() || origin == self.ledger().origin() {
            return Ok(self.ledger().leaves(from, limit)?);
        }
        mirror::leaves(self, origin, from, limit)
    }

    /// The last statements on the two channels between this node and the caller.
    pub fn channel(&self, caller: &Caller) -> Result<ChannelStanding, ServiceError> {
        Ok(ChannelStanding {
            from_caller: self.last_on(caller.node().as_str(), self.ledger().node())?,
            to_caller: self.last_on(self.ledger().node(), caller.node().as_str())?,
        })
    }

    /// The statements on one channel between the caller and this node, from a sequence number on, in order, for a
    /// caller that has lost them. At most `limit`, at most 256 and 1 MiB; removed ones are left out. Empty when there
    /// are no more.
    pub fn statements(
        &self,
        caller: &Caller,
        side: ChannelSide,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Bytes>, ServiceError> {
        let (own, other) = (self.ledger().node(), caller.node().as_str());
        let (issuer, audience) = match side {
            ChannelSide::FromCaller => (other, own),
            ChannelSide::ToCaller => (own, other),
        };
        let view = self.ledger().store().view();
        let limit = limit.min(MAX_STATEMENTS);
        let (mut statements, mut bytes) = (Vec::new(), 0_usize);
        for statement in self.ledger().statements_on_channel(&view, issuer, audience, from_seq, limit)? {
            bytes = bytes.saturating_add(statement.bytes().len());
            if !statements.is_empty() && bytes > MAX_PAGE_BYTES {
                break;
            }
            statements.push(statement.bytes().clone());
        }
        Ok(statements)
    }

    async fn witness(
        &self,
        caller: Option<&Caller>,
        request: &AddCheckpoint,
    ) -> Result<WitnessAnswer, ServiceError> {
        let Some(log) = self.witnessed_log(caller, request.origin())? else {
            return Ok(WitnessRefusal::UnknownOrigin.into());
        };
        if !self.remembers(&self.ledger().store().view(), log.name())? {
            return Ok(WitnessAnswer::Busy { retry_after: SAFE_MODE_RETRY });
        }
        // The writer is spared what would be refused anyway, and whoever repeats what it has seen of a ledger uses up
        // none of the ledger's rate: that is for what only the ledger itself can have made.
        let stored = witnessed(&self.ledger().store().view(), log.name())?;
        let now = self.now();
        match examine(request, &log, stored.as_ref()) {
            Err(refusal) => return Ok(refusal.into()),
            Ok(Novelty::Known(stored)) => {
                if let Some(line) = self.recent_line(stored, now)? {
                    return Ok(WitnessAnswer::Cosigned(format!("{line}\n")));
                }
            }
            Ok(Novelty::New) => {
                if let Err(retry_after) = self.rates().take(log.name(), now) {
                    return Ok(WitnessAnswer::Busy { retry_after });
                }
            }
        }

        let (evidence, caller, request) = (self.clone(), caller.cloned(), request.clone());
        let answer = self
            .ledger()
            .store()
            .transact("evidence.witness", move |tx| -> Result<_, ServiceError> {
                if !evidence.remembers(tx, log.name())? {
                    return Ok(Err(WitnessRefusal::Rate { retry_after: SAFE_MODE_RETRY }));
                }
                let answer = add_checkpoint(tx, &request, &log, evidence.cosigner(), now)?;
                // Its key is what later checkpoints are checked with, also those that come without a caller.
                if let (Ok(_), Some(caller)) = (&answer, caller)
                    && caller.credential().log == log
                {
                    remember(tx, evidence.ledger(), &caller)?;
                }
                Ok(answer)
            })
            .await?;
        Ok(match answer {
            Ok(line) => WitnessAnswer::Cosigned(format!("{line}\n")),
            Err(refusal) => refusal.into(),
        })
    }

    /// A witness that may have lost what it has cosigned could cosign a fork.
    pub(crate) fn remembers(&self, r: &impl Read, origin: &str) -> Result<bool, ServiceError> {
        Ok(self.ledger().signing().is_ok() && self.ledger().is_confirmed(r, origin)?)
    }

    /// The key of a ledger that this node witnesses, if it does and its node is not revoked.
    fn witnessed_log(
        &self,
        caller: Option<&Caller>,
        origin: &str,
    ) -> Result<Option<LogVerifier>, ServiceError> {
        let own = caller.map(Caller::credential).filter(|credential| credential.log.name() == origin);
        let credential: Option<Credential> = match own {
            Some(credential) => Some(credential.clone()),
            None => match node_of_origin(origin) {
                Some(node) => self.credential(&node)?,
                None => None,
            },
        };
        let Some(credential) = credential else { return Ok(None) };
        let revoked = self.is_revoked(&credential.node);
        let configured = credential.log.name() == origin && self.witnesses(&credential) && !revoked;
        Ok(configured.then_some(credential.log))
    }

    /// This node's line under a checkpoint that it cosigned a moment ago.
    fn recent_line(&self, stored: &SignedCheckpoint, now: Timestamp) -> Result<Option<String>, ServiceError> {
        let verifier = self.cosigner().verifier();
        let Some(cosignature) = stored.cosigned_by(verifier).map_err(LedgerError::from)? else {
            return Ok(None);
        };
        let age = now.saturating_since(cosignature.time).max(cosignature.time.saturating_since(now));
        let log = &stored.checkpoint().origin;
        let named = |line: &String| line.split(' ').nth(1) == Some(verifier.name()) && verifier.name() != log;
        Ok(stored.signature_lines().into_iter().find(named).filter(|_| age <= SAME_COSIGNATURE))
    }

    /// Sizes that no checkpoint of this node covers are nobody's business, and may never be signed as they are.
    fn check_signed(&self, field: &str, size: u64, view: &impl Read) -> Result<(), ServiceError> {
        let signed = self.ledger().latest_checkpoint(view)?.map_or(0, |signed| signed.checkpoint().size);
        if size == 0 || size > signed {
            let reason = format!("must be 1 to {signed}, the size of the newest checkpoint");
            return Err(ServiceError::invalid(field, reason));
        }
        Ok(())
    }

    fn may_read_entry(&self, caller: &Caller, view: &impl Read, index: u64) -> Result<bool, ServiceError> {
        match self.ledger().entry_state(view, index)? {
            Some(state) => self.may_read_state(caller, &state),
            None => Ok(false),
        }
    }

    fn may_read_state(&self, caller: &Caller, state: &EntryState) -> Result<bool, ServiceError> {
        if self.is_regulator(caller) {
            return Ok(true);
        }
        let (issuer, audience) = match state {
            EntryState::Present(bytes) => {
                let statement = Envelope::decode(bytes.clone())?.trusted(self.ledger().space())?;
                let body = statement.body();
                (body.issuer.clone(), body.audience.clone())
            }
            EntryState::Redacted(gap) => match &gap.removed {
                Some(removed) => (removed.issuer.clone(), removed.audience.clone()),
                // Nobody knows whose it was.
                None => return Ok(false),
            },
        };
        let caller = caller.node().as_str();
        Ok(issuer == caller || audience == caller)
    }

    fn last_on(&self, issuer: &str, audience: &str) -> Result<Option<Bytes>, ServiceError> {
        let view = self.ledger().store().view();
        let Some((last, digest)) = self.ledger().channel_head(&view, issuer, audience)? else {
            return Ok(None);
        };
        match self.ledger().statement(&view, &digest) {
            Ok(statement) => return Ok(statement.map(|statement| statement.bytes().clone())),
            Err(LedgerError::Redacted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let from = last.saturating_sub(MAX_STEPS_BACK);
        let before = self.ledger().statements_on_channel(&view, issuer, audience, from, MAX_STATEMENTS)?;
        Ok(before.last().map(|statement| statement.bytes().clone()))
    }

    pub(crate) fn is_revoked(&self, node: &NodeId) -> bool {
        self.standing().directory.status().revoked.iter().any(|entry| entry.node == *node)
    }
}

/// What a request brings that is not refused at first sight.
enum Novelty<'a> {
    /// The very checkpoint that was cosigned last.
    Known(&'a SignedCheckpoint),
    /// A larger one with a valid proof, or one that contradicts the last: only the ledger can have signed it.
    New,
}

/// The checks of C2SP tlog-witness in their order, as far as they need no transaction; inside one they are made again.
fn examine<'a>(
    request: &AddCheckpoint,
    log: &LogVerifier,
    stored: Option<&'a SignedCheckpoint>,
) -> Result<Novelty<'a>, WitnessRefusal> {
    let offered = SignedCheckpoint::parse(&request.note, log).map_err(|refused| match refused {
        NoteError::NotSigned { .. } | NoteError::BadSignature { .. } => {
            WitnessRefusal::NotSigned { why: refused.to_string() }
        }
        other => WitnessRefusal::Malformed { why: other.to_string() },
    })?;
    let Checkpoint { size, root, .. } = offered.checkpoint();
    let stored_size = stored.map_or(0, |stored| stored.checkpoint().size);
    if request.old > *size {
        return Err(WitnessRefusal::OldAboveNew);
    }
    if request.old != stored_size {
        return Err(WitnessRefusal::Conflict { size: stored_size });
    }
    if (request.old == 0 || request.old == *size) && !request.proof.is_empty() {
        let why = "from size 0, and to the same size, the proof must be empty".to_owned();
        return Err(WitnessRefusal::NotConsistent { why });
    }
    let Some(stored) = stored else { return Ok(Novelty::New) };
    let known = stored.checkpoint();
    if known == offered.checkpoint() {
        return Ok(Novelty::Known(stored));
    }
    if known.size > 0 && known.size < *size {
        verify_consistency(known.size, &known.root, *size, root, &request.proof)
            .map_err(|refused| WitnessRefusal::NotConsistent { why: refused.to_string() })?;
    }
    Ok(Novelty::New)
}
