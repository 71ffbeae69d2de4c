//! Getting back what a restored or rolled-back node has signed and lost.
//!
//! Which entries the ledger had, and in which order, comes from a witness's copy of the leaf hashes, checked against a
//! checkpoint under this node's own signature. Their bytes come from the counterparties and count only where their hash
//! is one of those leaves. An entry that nobody has stays as a gap with its hash.

use std::collections::{BTreeMap, BTreeSet};

use huitong_identity::{PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::{
    Admission, Checkpoint, EntryState, LedgerError, Reinstated, SignedCheckpoint, leaf_hash,
};
use huitong_proof::{Digest, Envelope, Statement};
use huitong_store::Tx;

use crate::compare::Confirmation;
use crate::edge::{leaf_at, root_of, signed_edge};
use crate::model::{Progress, RecoveryReport};
use crate::peer::{LogPeer, MAX_LEAVES};
use crate::service::Evidence;
use crate::tables::{self, Ahead};

mod returned;

use returned::Returned;

/// Entries put back in one transaction.
const BATCH: usize = 128;

/// What the ledger has to become.
struct Target {
    checkpoint: Checkpoint,
    /// Leaf hashes from `from`, the size of the newest checkpoint here, to the checkpoint's size.
    from: u64,
    leaves: Vec<Digest>,
}

impl Evidence {
    /// Brings the ledger up to the newest checkpoint that this node is shown to have signed, and behind it the
    /// statements of this node that counterparties hold beyond that; has them taken up (see [`Evidence::taking_up`]); then
    /// signing resumes, if enough have answered (see
    /// [`Evidence::compare_once`]), to everybody who has. Can be run again after any failure and goes on where it was.
    ///
    /// # Errors
    /// [`ServiceError::Conflict`] when what was signed since excludes what was signed before: then the ledger cannot be
    /// mended. [`ServiceError::Peer`] when nobody gives the leaf hashes that are needed. Nothing of a ledger that
    /// lacks nothing is changed.
    pub async fn recover(
        &self,
        peer: &dyn LogPeer,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<RecoveryReport, ServiceError> {
        let ledger = self.ledger();
        let mut report =
            RecoveryReport { from_size: ledger.size(&ledger.store().view())?, ..Default::default() };
        progress(Progress { step: "asking witnesses and counterparties", done: 0, total: 0 });
        self.compare_all(peer).await?;
        let _deciding = self.deciding().await;
        if self.safe_mode().is_none() {
            report.to_size = report.from_size;
            return Ok(report);
        }

        let target = match self.newest_shown()? {
            Some(checkpoint) => Some(self.target(peer, checkpoint, progress).await?),
            None => None,
        };
        let returned = self.ask_for_statements(peer, target.as_ref(), progress).await?;
        if let Some(target) = &target {
            self.check_not_signed_since(target, &returned)?;
            self.keep_misplaced(target).await?;
            self.fill(target, progress, &mut report).await?;
        }
        self.fill_lost(&mut report).await?;
        self.append_returned(&returned, &mut report).await?;
        self.forget_recovered().await?;
        self.take_up_returned().await?;

        report.lost = tables::all_lost(&ledger.store().view())?.into_keys().collect();
        if !report.lost.is_empty() {
            report.affected.extend(returned.silent);
        }
        self.open_gate(Confirmation::Answers).await?;
        report.safe_mode = self.safe_mode();
        report.to_size = ledger.size(&ledger.store().view())?;
        Ok(report)
    }

    /// The largest checkpoint that was shown and is not met.
    fn newest_shown(&self) -> Result<Option<Checkpoint>, ServiceError> {
        let mut newest: Option<Checkpoint> = None;
        for (shown, _) in self.unmet()? {
            let Ahead::Checkpoint(text) = shown.ahead else { continue };
            let signed = SignedCheckpoint::parse(&text, &self.ledger().log_verifier());
            let shown = signed.map_err(LedgerError::from)?.checkpoint().clone();
            match &newest {
                Some(known) if known.size == shown.size && known.root != shown.root => {
                    return Err(contradiction(shown.size, "two roots were signed for it"));
                }
                Some(known) if known.size >= shown.size => {}
                _ => newest = Some(shown),
            }
        }
        Ok(newest)
    }

    /// Leaf hashes that lead from what this node has signed to the checkpoint, from whoever has them.
    async fn target(
        &self,
        peer: &dyn LogPeer,
        checkpoint: Checkpoint,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Target, ServiceError> {
        let view = self.ledger().store().view();
        let signed = signed_edge(self.ledger(), &view)?;
        let from = signed.size();
        if checkpoint.size <= from {
            return Err(contradiction(
                checkpoint.size,
                "it is below the newest checkpoint and has another root",
            ));
        }
        let mut reasons = Vec::new();
        for node in self.holders()? {
            let leaves = match self.leaves_of(peer, &node, from, checkpoint.size, progress).await {
                Ok(leaves) => leaves,
                Err(error) => {
                    reasons.push(format!("{node}: {error}"));
                    continue;
                }
            };
            let mut frontier = signed.clone();
            leaves.iter().for_each(|leaf| frontier.push(*leaf));
            if frontier.root() == checkpoint.root {
                return Ok(Target { checkpoint, from, leaves });
            }
            reasons.push(format!("{node}: its leaf hashes do not lead to the checkpoint"));
        }
        reasons.truncate(8);
        Err(ServiceError::Peer(PeerError::Unavailable(format!(
            "nobody gave the hashes of entries {from} to {} of this ledger ({}); try again when a witness is reachable",
            checkpoint.size,
            reasons.join("; ")
        ))))
    }

    async fn leaves_of(
        &self,
        peer: &dyn LogPeer,
        node: &NodeId,
        from: u64,
        to: u64,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Vec<Digest>, PeerError> {
        let mut leaves = Vec::new();
        let mut next = from;
        while next < to {
            progress(Progress { step: "fetching hashes", done: next, total: to });
            let wanted = usize::try_from(to.saturating_sub(next)).unwrap_or(MAX_LEAVES).min(MAX_LEAVES);
            let page = self.within(peer.leaves(node, self.ledger().origin(), next, wanted)).await?;
            if page.len() > wanted {
                return Err(PeerError::Broken(format!("gave {} hashes for {wanted}", page.len())));
            }
            if page.len() < wanted {
                let end = next.saturating_add(page.len() as u64);
                return Err(PeerError::Unavailable(format!("has only the hashes below {end}")));
            }
            next = next.saturating_add(page.len() as u64);
            leaves.extend(page);
        }
        Ok(leaves)
    }

    /// A statement of this node that stands where the true ledger has something else, and whose number the true ledger
    /// has given to another: nothing can make both right.
    fn check_not_signed_since(&self, target: &Target, returned: &Returned) -> Result<(), ServiceError> {
        let ledger = self.ledger();
        let view = ledger.store().view();
        let mut numbers: BTreeMap<(String, u64), Digest> = BTreeMap::new();
        let number = |statement: &Statement| (statement.body().audience.clone(), statement.body().seq);
        for leaf in &target.leaves {
            if let Some(bytes) = tables::recovered(&view, leaf)? {
                let statement = Envelope::decode(bytes)?.trusted(ledger.space())?;
                if statement.body().issuer == ledger.node() {
                    numbers.insert(number(&statement), statement.digest());
                }
            }
        }
        numbers.extend(returned.own.values().map(|statement| (number(statement), statement.digest())));
        for index in self.first_difference(target)?..ledger.size(&view)? {
            let Some(EntryState::Present(bytes)) = ledger.entry_state(&view, index)? else { continue };
            let statement = Envelope::decode(bytes)?.trusted(ledger.space())?;
            let body = statement.body();
            let other = numbers.get(&number(&statement));
            if body.issuer == ledger.node() && other.is_some_and(|other| *other != statement.digest()) {
                let what = format!("two statements have number {} to {}", body.seq, body.audience);
                return Err(contradiction(index, &what));
            }
        }
        Ok(())
    }

    /// Statements that are here, but at another index than the true one.
    async fn keep_misplaced(&self, target: &Target) -> Result<(), ServiceError> {
        let ledger = self.ledger();
        let view = ledger.store().view();
        let wanted: BTreeSet<Digest> = target.leaves.iter().copied().collect();
        let mut misplaced = Vec::new();
        for index in self.first_difference(target)?..ledger.size(&view)? {
            let Some(EntryState::Present(bytes)) = ledger.entry_state(&view, index)? else { continue };
            let leaf = leaf_hash(&bytes);
            if wanted.contains(&leaf) {
                misplaced.push((leaf, bytes));
            }
        }
        for batch in misplaced.chunks(BATCH) {
            let batch = batch.to_vec();
            let keep = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
                batch.iter().try_for_each(|(leaf, bytes)| tables::put_recovered(tx, leaf, bytes))
            };
            ledger.store().transact("evidence.recovered", keep).await?;
        }
        Ok(())
    }

    /// Puts the entries back, one after the other, each at its index. What was logged there meanwhile the ledger sets
    /// aside until it signs again.
    async fn fill(
        &self,
        target: &Target,
        progress: &mut (dyn FnMut(Progress) + Send),
        report: &mut RecoveryReport,
    ) -> Result<(), ServiceError> {
        let ledger = self.ledger();
        let mut index = self.first_difference(target)?;
        let total = target.checkpoint.size;
        while index < total {
            progress(Progress { step: "putting entries back", done: index, total });
            let at = usize::try_from(index.saturating_sub(target.from)).unwrap_or(usize::MAX);
            let batch: Vec<Digest> = target.leaves.iter().skip(at).take(BATCH).copied().collect();
            let (evidence, first) = (self.clone(), index);
            index = index.saturating_add(batch.len() as u64);
            let put_back = move |tx: &mut Tx<'_>| evidence.put_back(tx, first, &batch);
            for statement in ledger.store().transact("evidence.reinstate", put_back).await? {
                self.note_recovered(&statement, report);
            }
        }
        if root_of(ledger, &ledger.store().view(), total)? != target.checkpoint.root {
            return Err(ServiceError::Internal(
                "the recovered ledger has not the root of the checkpoint; keep the directory as it is"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// The first index from which on this ledger is not the target's.
    fn first_difference(&self, target: &Target) -> Result<u64, ServiceError> {
        let view = self.ledger().store().view();
        let mut index = target.from;
        for leaf in &target.leaves {
            if leaf_at(self.ledger(), &view, index)? != Some(*leaf) {
                break;
            }
            index = index.saturating_add(1);
        }
        Ok(index)
    }

    fn put_back(
        &self,
        tx: &mut Tx<'_>,
        first: u64,
        leaves: &[Digest],
    ) -> Result<Vec<Statement>, ServiceError> {
        let ledger = self.ledger();
        let mut statements = Vec::new();
        for (index, leaf) in (first..).zip(leaves) {
            match tables::recovered(tx, leaf)? {
                Some(bytes) => {
                    let statement = Envelope::decode(bytes.clone())?.trusted(ledger.space())?;
                    ledger.reinstate(tx, index, &Reinstated::Statement(bytes))?;
                    tables::put_returned(tx, &statement.digest())?;
                    statements.push(statement);
                }
                None => {
                    let reason = "lost with the disk; no counterparty gave it back".to_owned();
                    ledger.reinstate(tx, index, &Reinstated::Lost { leaf: *leaf, reason })?;
                    tables::put_lost(tx, leaf, index)?;
                }
            }
        }
        Ok(statements)
    }

    /// Lost entries of earlier recoveries whose bytes have turned up.
    async fn fill_lost(&self, report: &mut RecoveryReport) -> Result<(), ServiceError> {
        let store = self.ledger().store();
        for (index, leaf) in tables::all_lost(&store.view())? {
            let Some(bytes) = tables::recovered(&store.view(), &leaf)? else { continue };
            let statement = Envelope::decode(bytes)?.trusted(self.ledger().space())?;
            let (ledger, again) = (self.ledger().clone(), statement.clone());
            let fill = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
                let what = Reinstated::Statement(again.bytes().clone());
                ledger.reinstate(tx, index, &what)?;
                // A gap in a settled bundle cannot be filled: the statement is logged once more, at the end.
                if ledger.index_of(tx, &again.digest())?.is_none() {
                    let size = ledger.size(tx)?;
                    ledger.reinstate(tx, size, &what)?;
                }
                tables::put_returned(tx, &again.digest())?;
                tables::drop_lost(tx, &leaf)
            };
            store.transact("evidence.reinstate", fill).await?;
            self.note_recovered(&statement, report);
        }
        Ok(())
    }

    /// Statements beyond the target: our own first, in the order in which they were signed on each channel.
    async fn append_returned(
        &self,
        returned: &Returned,
        report: &mut RecoveryReport,
    ) -> Result<(), ServiceError> {
        let mut own: Vec<Statement> = returned.own.values().cloned().collect();
        own.sort_by(|a, b| {
            let order = |s: &Statement| (s.body().time, s.body().audience.clone(), s.body().seq);
            order(a).cmp(&order(b))
        });
        let others: Vec<Statement> = returned.others.values().cloned().collect();
        self.check_numbers_are_free(&own)?;
        for batch in own.chunks(BATCH) {
            let (ledger, batch) = (self.ledger().clone(), batch.to_vec());
            let append = move |tx: &mut Tx<'_>| -> Result<Vec<Statement>, ServiceError> {
                let mut appended = Vec::new();
                for statement in batch {
                    if ledger.index_of(tx, &statement.digest())?.is_none() {
                        let size = ledger.size(tx)?;
                        ledger.reinstate(tx, size, &Reinstated::Statement(statement.bytes().clone()))?;
                        tables::put_returned(tx, &statement.digest())?;
                        appended.push(statement);
                    }
                }
                Ok(appended)
            };
            for statement in self.ledger().store().transact("evidence.reinstate", append).await? {
                self.note_recovered(&statement, report);
            }
        }
        for statement in others {
            if self.admit_again(statement.clone()).await? {
                self.note_recovered(&statement, report);
            }
        }
        Ok(())
    }

    /// No number of a returned statement may have been used again since. Nothing is changed before this is known.
    fn check_numbers_are_free(&self, own: &[Statement]) -> Result<(), ServiceError> {
        let ledger = self.ledger();
        let view = ledger.store().view();
        for statement in own {
            let (audience, seq) = (&statement.body().audience, statement.body().seq);
            let here = ledger.statements_on_channel(&view, ledger.node(), audience, seq, 1)?;
            let taken = here.first().filter(|here| here.body().seq == seq);
            if taken.is_some_and(|here| here.digest() != statement.digest()) {
                let what = format!("two statements have number {seq} to {audience}");
                return Err(contradiction(ledger.size(&view)?, &what));
            }
        }
        Ok(())
    }

    /// Logs a statement of another node as if it arrived now; whether it was new. One that contradicts another is
    /// kept as evidence, like on arrival.
    async fn admit_again(&self, statement: Statement) -> Result<bool, ServiceError> {
        let ledger = self.ledger().clone();
        let admit = move |tx: &mut Tx<'_>| -> Result<bool, ServiceError> {
            match ledger.admit(tx, &statement) {
                Ok(Admission::New) => {
                    tables::put_returned(tx, &statement.digest())?;
                    Ok(true)
                }
                Ok(Admission::Known) => Ok(false),
                Err(LedgerError::Fork { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            }
        };
        Ok(self.ledger().store().transact("evidence.admit", admit).await?)
    }

    /// Has what this node keeps beside its ledger take notice of what came back, also in a run that was broken off.
    async fn take_up_returned(&self) -> Result<(), ServiceError> {
        let ledger = self.ledger();
        loop {
            let batch = tables::returned(&ledger.store().view(), BATCH)?;
            if batch.is_empty() {
                return Ok(());
            }
            let evidence = self.clone();
            let take_up = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
                for digest in &batch {
                    let statement = evidence.ledger().statement(tx, digest)?;
                    if let (Some(statement), Some(take_up)) = (statement, &evidence.take_up) {
                        take_up(tx, &statement)?;
                    }
                    tables::drop_returned(tx, digest)?;
                }
                Ok(())
            };
            ledger.store().transact("evidence.take_up", take_up).await?;
        }
    }

    async fn forget_recovered(&self) -> Result<(), ServiceError> {
        let store = self.ledger().store();
        while store.transact("evidence.recovered", tables::drop_recovered).await? {}
        Ok(())
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
        let patience = self.settings().request_timeout;
        match tokio::time::timeout(patience, call).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::Unavailable(format!("no answer within {patience:?}"))),
        }
    }

    fn note_recovered(&self, statement: &Statement, report: &mut RecoveryReport) {
        let body = statement.body();
        report.recovered = report.recovered.saturating_add(1);
        report.statements.push(statement.digest());
        let own = self.ledger().node();
        // A statement between two others, such as a credential, is no business between one of them and this node.
        if body.issuer == own {
            report.affected.insert(body.audience.clone());
        } else if body.audience == own {
            report.affected.insert(body.issuer.clone());
        }
        if body.agreement != Digest::ZERO {
            report.agreements.insert(body.agreement);
        }
    }
}

fn contradiction(size: u64, what: &str) -> ServiceError {
    ServiceError::Conflict {
        reason: format!(
            "this ledger has signed two histories at size {size}: {what}; it cannot be mended: keep the directory, and \
             enrol a new node"
        ),
    }
}
