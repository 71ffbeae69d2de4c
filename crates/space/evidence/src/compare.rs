//! Comparing this node's ledger with what others know of it: whether it was rolled back.
//!
//! Only what is under this node's own signature counts. Whoever shows a checkpoint or a statement that this node signed
//! and does not have proves that it has lost something, and it signs nothing from then on (safe mode): its next
//! statement could take a number that is used already. Whoever merely says so proves nothing.
//!
//! Once it signs again, what only one other node can know stays closed until that node has answered: the channel to each
//! counterparty, and each ledger that this node witnesses (see [`crate::recall`]).

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use huitong_identity::{PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::{EntryState, LedgerError, Resumption, SignedCheckpoint, leaf_hash};
use huitong_proof::{Envelope, Timestamp};
use huitong_store::Read;

use crate::edge::root_of;
use crate::model::{Answer, Asked, Compared, Comparison};
use crate::peer::LogPeer;
use crate::service::{Evidence, node_of_witness};
use crate::tables::{self, Ahead, Shown};

/// Entries at the end of the ledger in which the counterparties for the comparison at start are looked for.
const RECENT_ENTRIES: u64 = 1024;
/// Counterparties that are asked at start.
const MAX_AT_START: usize = 64;
/// Questions under way at once.
const AT_ONCE: usize = 16;
/// How long all questions may take when nobody waits for the node to start.
const LATE_TIMEOUT: Duration = Duration::from_secs(60);
/// A counterparty whose last statement is older, seen from the newest one, need not be asked before signing resumes.
const COUNTERPARTY_DAYS: Duration = Duration::from_secs(30 * 24 * 3600);

/// Who has answered since this process began, and who still has to.
#[derive(Debug, Default)]
pub(crate) struct Comparing {
    answered: BTreeSet<Question>,
    pending: BTreeSet<Question>,
}

/// Who is asked as what.
type Question = (Asked, NodeId);

/// What an answer proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing that this node does not have.
    NotAhead(String),
    /// The ledger does not hold this.
    Ahead(Ahead, String),
    /// It is not under this node's signature.
    Worthless(String),
}

impl Evidence {
    /// The comparison at start: witnesses of the policy for their size of this ledger, recent counterparties for the
    /// newest statement of ours that they hold, all at once, within [`crate::EvidenceSettings::start_timeout`]. Who
    /// does not answer in time is asked again by [`Evidence::compare_late`].
    ///
    /// Proof that somebody knows more closes the ledger for signing. A ledger that is closed already, because the
    /// directory was restored or an earlier proof is not met, opens only when every witness, or one witness and all
    /// counterparties of the last 30 days, have answered since this process began and nobody is ahead. To a counterparty
    /// that has not answered by then nothing is signed until it does: the number of the next statement to it is known to
    /// nobody else.
    pub async fn compare_once(&self, peer: &dyn LogPeer) -> Result<Comparison, ServiceError> {
        let mut questions = if self.safe_mode().is_some() {
            self.questions_before_signing()?
        } else {
            self.questions_at_start()?
        };
        questions.extend(self.questions_to_unconfirmed()?);
        self.ask_all(peer, questions, self.settings().start_timeout).await
    }

    /// Asks those who have not answered yet. Nobody is asked when all have.
    pub async fn compare_late(&self, peer: &dyn LogPeer) -> Result<Comparison, ServiceError> {
        let mut pending = self.comparing().pending.clone();
        if self.safe_mode().is_some() {
            let answered = self.comparing().answered.clone();
            pending.extend(self.questions_before_signing()?.difference(&answered).cloned());
        }
        pending.extend(self.questions_to_unconfirmed()?);
        pending.retain(|(_, node)| !self.is_revoked(node));
        let comparison = self.ask_all(peer, pending, LATE_TIMEOUT).await?;
        self.recall_witnessed(peer).await?;
        Ok(comparison)
    }

    /// Asks one node, as what it is to us, because it has become reachable.
    pub async fn compare_with(&self, peer: &dyn LogPeer, node: &NodeId) -> Result<Comparison, ServiceError> {
        let mut questions = BTreeSet::from([(Asked::Counterparty, node.clone())]);
        if self.policy_nodes()?.contains(node) {
            questions.insert((Asked::Witness, node.clone()));
        }
        let comparison = self.ask_all(peer, questions, LATE_TIMEOUT).await?;
        self.recall_witnessed(peer).await?;
        Ok(comparison)
    }

    /// Whether somebody has not answered yet.
    pub fn is_comparison_pending(&self) -> Result<bool, ServiceError> {
        Ok(!self.comparing().pending.is_empty()
            || !self.unconfirmed()?.is_empty()
            || !self.forgotten()?.is_empty())
    }

    /// Whether [`Evidence::compare_with`] that node would tell something, now that it can be reached.
    pub fn has_to_hear(&self, node: &NodeId) -> Result<bool, ServiceError> {
        let ledger = self.ledger();
        Ok(self.safe_mode().is_some()
            || !ledger.is_confirmed(&ledger.store().view(), node.as_str())?
            || self.is_comparison_pending()?)
    }

    /// Lets the node sign again, and to everybody, although not everybody could be asked, because its operator says so.
    ///
    /// # Errors
    /// [`ServiceError::Conflict`] while the ledger lacks something that somebody has shown.
    pub async fn resume_unconfirmed(&self) -> Result<Comparison, ServiceError> {
        let _deciding = self.deciding().await;
        self.open_gate(Confirmation::Operator).await?;
        match self.safe_mode() {
            None => Ok(Comparison::default()),
            Some(reason) => Err(ServiceError::Conflict { reason }),
        }
    }

    /// Asks everybody who has to answer before a closed ledger opens, whether they have answered before or not.
    pub async fn compare_all(&self, peer: &dyn LogPeer) -> Result<Comparison, ServiceError> {
        let mut questions = self.questions_before_signing()?;
        questions.extend(self.questions_to_unconfirmed()?);
        let comparison = self.ask_all(peer, questions, LATE_TIMEOUT).await?;
        self.recall_witnessed(peer).await?;
        Ok(comparison)
    }

    async fn ask_all(
        &self,
        peer: &dyn LogPeer,
        questions: BTreeSet<Question>,
        within: Duration,
    ) -> Result<Comparison, ServiceError> {
        self.comparing().pending.extend(questions.iter().cloned());
        let mut comparison = Comparison::default();
        let deadline = tokio::time::Instant::now() + within;
        let mut answers = stream::iter(questions)
            .map(|(asked, node)| async move {
                let until = deadline.min(tokio::time::Instant::now() + self.settings().request_timeout);
                let answer = tokio::time::timeout_at(until, self.ask(peer, asked, &node)).await;
                let answer = answer.unwrap_or_else(|_| Ok(Err("did not answer in time".to_owned())));
                (asked, node, answer)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((asked, node, answer)) = answers.next().await {
            let answer = match answer? {
                Ok(verdicts) => self.heed((asked, node.clone()), verdicts).await?,
                Err(reason) => Answer::Unknown { reason },
            };
            comparison.compared.push(Compared { who: node.to_string(), asked, answer });
        }
        drop(answers);
        comparison.compared.sort_by(|a, b| (a.asked, &a.who).cmp(&(b.asked, &b.who)));
        let deciding = self.deciding().await;
        self.open_gate(Confirmation::Answers).await?;
        drop(deciding);
        comparison.safe_mode = self.safe_mode();
        Ok(comparison)
    }

    /// Draws the consequences of one answer. All that it proves is kept: each thing must be met before the gate opens.
    async fn heed(&self, question: Question, verdicts: Vec<Verdict>) -> Result<Answer, ServiceError> {
        let _deciding = self.deciding().await;
        let mut answer = None;
        let mut worthless = None;
        for verdict in verdicts {
            // A recovery may have put it back since it was shown.
            let verdict = match verdict {
                Verdict::Ahead(ahead, _) => self.judge_shown(ahead)?,
                other => other,
            };
            match verdict {
                Verdict::Ahead(ahead, detail) => {
                    let by = question.1.to_string();
                    self.close_gate(Shown { by, ahead }, &detail).await?;
                    answer = answer.filter(|known| matches!(known, Answer::Ahead { .. }));
                    answer.get_or_insert(Answer::Ahead { detail });
                }
                Verdict::NotAhead(detail) => {
                    answer.get_or_insert(Answer::NotAhead { detail });
                }
                Verdict::Worthless(reason) => worthless = Some(reason),
            }
        }
        match worthless {
            None => {
                if matches!(answer, Some(Answer::NotAhead { .. })) {
                    self.confirm_channel(&question).await?;
                }
                let mut comparing = self.comparing();
                comparing.pending.remove(&question);
                comparing.answered.insert(question);
                Ok(answer.unwrap_or_else(|| Answer::Unknown { reason: "said nothing".to_owned() }))
            }
            // A half that proves nothing is no answer, whatever the other half proves.
            Some(reason) => Ok(answer
                .filter(|known| matches!(known, Answer::Ahead { .. }))
                .unwrap_or(Answer::Unknown { reason })),
        }
    }

    /// One question; the inner error says why there is no answer.
    async fn ask(
        &self,
        peer: &dyn LogPeer,
        asked: Asked,
        node: &NodeId,
    ) -> Result<Result<Vec<Verdict>, String>, ServiceError> {
        let checkpoint = match peer.witnessed(node, self.ledger().origin()).await {
            Ok(Some(text)) => self.judge_checkpoint(&text)?,
            Ok(None) => Verdict::NotAhead("has cosigned nothing of this ledger".to_owned()),
            // Who is no witness may keep no checkpoints, but whether it does is not known while it cannot be asked.
            Err(error @ (PeerError::Refused { .. } | PeerError::Broken(_)))
                if asked == Asked::Counterparty =>
            {
                Verdict::NotAhead(format!("shows no checkpoint of this ledger: {error}"))
            }
            Err(error) => return Ok(Err(error.to_string())),
        };
        if asked == Asked::Witness {
            return Ok(Ok(vec![checkpoint]));
        }
        let statement = match peer.channel(node).await {
            Ok(channel) => match channel.from_caller {
                Some(bytes) => self.judge_statement(bytes)?,
                None => Verdict::NotAhead("holds no statement of this node".to_owned()),
            },
            Err(error) => return Ok(Err(error.to_string())),
        };
        // A text that is no checkpoint of ours is a witness's failure, not a counterparty's.
        let checkpoint = Some(checkpoint).filter(|verdict| matches!(verdict, Verdict::Ahead(..)));
        Ok(Ok(checkpoint.into_iter().chain([statement]).collect()))
    }

    /// What a text proves that is said to be a checkpoint of this ledger.
    pub(crate) fn judge_checkpoint(&self, text: &str) -> Result<Verdict, ServiceError> {
        let ledger = self.ledger();
        let signed = match SignedCheckpoint::parse(text, &ledger.log_verifier()) {
            Ok(signed) => signed.with_log_signature_only(),
            Err(error) => {
                return Ok(Verdict::Worthless(format!("showed no checkpoint of this node: {error}")));
            }
        };
        let shown = signed.checkpoint();
        let view = ledger.store().view();
        let size = ledger.size(&view)?;
        if shown.size > size {
            let detail =
                format!("shows a checkpoint of size {} of this ledger, which has {size}", shown.size);
            return Ok(Verdict::Ahead(Ahead::Checkpoint(signed.text().to_owned()), detail));
        }
        if root_of(ledger, &view, shown.size)? != shown.root {
            let detail = format!(
                "shows a checkpoint of size {} of this ledger with another root than the ledger has now",
                shown.size
            );
            return Ok(Verdict::Ahead(Ahead::Checkpoint(signed.text().to_owned()), detail));
        }
        Ok(Verdict::NotAhead(format!("knows size {} of {size}", shown.size)))
    }

    /// What bytes prove that are said to be a statement of this node.
    pub(crate) fn judge_statement(&self, bytes: Bytes) -> Result<Verdict, ServiceError> {
        let ledger = self.ledger();
        let verified = Envelope::decode(bytes)
            .and_then(|envelope| envelope.verify(&ledger.statement_key(), ledger.space()));
        let statement = match verified {
            Ok(statement) if statement.body().issuer == ledger.node() => statement,
            Ok(_) => return Ok(Verdict::Worthless("showed a statement of another node".to_owned())),
            Err(error) => {
                return Ok(Verdict::Worthless(format!("showed no statement of this node: {error}")));
            }
        };
        let (audience, seq) = (&statement.body().audience, &statement.body().seq);
        let view = ledger.store().view();
        if ledger.index_of(&view, &statement.digest())?.is_some() {
            return Ok(Verdict::NotAhead(format!("holds statement {seq} to {audience}")));
        }
        // Of a statement that nobody gave back the ledger holds the hash. That is enough once its number is used up.
        if tables::lost(&view, &leaf_hash(statement.bytes()))?.is_some() {
            let head = ledger.channel_head(&view, ledger.node(), audience)?;
            let after = ledger.statements_on_channel(&view, ledger.node(), audience, *seq, 1)?;
            let taken = after.first().is_some_and(|other| other.body().seq == *seq);
            if head.is_some_and(|(last, _)| last >= *seq) && !taken {
                return Ok(Verdict::NotAhead(format!(
                    "holds statement {seq} to {audience}, which is lost here"
                )));
            }
        }
        let detail =
            format!("shows statement {seq} of this node to {audience}, which this ledger does not hold");
        Ok(Verdict::Ahead(Ahead::Statement(statement.bytes().clone()), detail))
    }

    /// What was shown and is not in the ledger yet.
    pub(crate) fn unmet(&self) -> Result<Vec<(Shown, String)>, ServiceError> {
        let mut unmet = Vec::new();
        for shown in tables::all_ahead(&self.ledger().store().view())? {
            if let Verdict::Ahead(_, detail) = self.judge_shown(shown.ahead.clone())? {
                unmet.push((shown, detail));
            }
        }
        Ok(unmet)
    }

    fn judge_shown(&self, shown: Ahead) -> Result<Verdict, ServiceError> {
        match shown {
            Ahead::Checkpoint(text) => self.judge_checkpoint(&text),
            Ahead::Statement(bytes) => self.judge_statement(bytes),
        }
    }

    /// A counterparty holds nothing of this node that is not here. In safe mode it is enough to remember that it has
    /// answered: see [`Evidence::open_gate`].
    async fn confirm_channel(&self, (asked, node): &Question) -> Result<(), ServiceError> {
        let (ledger, name) = (self.ledger().clone(), node.to_string());
        let settled = ledger.is_confirmed(&ledger.store().view(), &name)? || self.safe_mode().is_some();
        if *asked == Asked::Witness || settled {
            return Ok(());
        }
        let confirm = move |tx: &mut huitong_store::Tx<'_>| ledger.confirm(tx, &name);
        Ok(self.ledger().store().transact("evidence.confirm", confirm).await.map_err(LedgerError::from)?)
    }

    /// Nothing is signed from here on. The gate closes first: writing down why may fail.
    async fn close_gate(&self, shown: Shown, detail: &str) -> Result<(), ServiceError> {
        let reason = closed_because(&shown.by, detail);
        tracing::error!(%reason, "this node signs nothing from now on");
        self.ledger().stop_signing(&reason)?;
        let write = move |tx: &mut huitong_store::Tx<'_>| tables::put_ahead(tx, &shown);
        self.ledger().store().transact("evidence.ahead", write).await?;
        Ok(())
    }

    /// Opens the gate if it is closed, nothing that was shown is missing, what came back is taken up, and enough have answered: towards those who
    /// have. The caller holds [`Evidence::deciding`], so that nothing is shown meanwhile.
    pub(crate) async fn open_gate(&self, confirmation: Confirmation) -> Result<(), ServiceError> {
        let in_doubt = self.ledger().is_in_doubt(&self.ledger().store().view())?;
        let ends_doubt = confirmation == Confirmation::Operator && in_doubt;
        if self.safe_mode().is_none() && !ends_doubt {
            return Ok(());
        }
        // A recovery that was broken off has to be run again.
        let is_taken_up = tables::returned(&self.ledger().store().view(), 1)?.is_empty();
        if !is_taken_up || !self.unmet()?.is_empty() {
            return Ok(());
        }
        let resumption = match confirmation {
            Confirmation::Operator => Resumption::Operator,
            Confirmation::Answers if self.is_confirmed()? => {
                let answered = self.comparing().answered.clone();
                let heard = answered.into_iter().filter(|(asked, _)| *asked == Asked::Counterparty);
                Resumption::Answers(heard.map(|(_, node)| node.to_string()).collect())
            }
            Confirmation::Answers => return Ok(()),
        };
        self.ledger().resume_signing(resumption).await?;
        tracing::info!("nobody who has answered knows more of this ledger than this node: it signs again");
        let forget = |tx: &mut huitong_store::Tx<'_>| -> Result<(), ServiceError> {
            for shown in tables::all_ahead(tx)? {
                tables::drop_ahead(tx, &shown)?;
            }
            Ok(())
        };
        self.ledger().store().transact("evidence.met", forget).await?;
        Ok(())
    }

    /// Every witness, or one witness and all recent counterparties, have answered. Without anybody to ask there is no
    /// confirmation: only the operator can say then that nothing is missing.
    fn is_confirmed(&self) -> Result<bool, ServiceError> {
        let policy = self.policy()?;
        let witnesses = policy.as_ref().map_or(0, |policy| policy.witnesses().len());
        let nodes = self.policy_nodes()?;
        let counterparties = self.recent_counterparties()?;
        let comparing = self.comparing();
        let answered = |asked: Asked, node: &NodeId| comparing.answered.contains(&(asked, node.clone()));
        let witnessed = nodes.iter().filter(|node| answered(Asked::Witness, node)).count();
        let all_counterparties = counterparties.iter().all(|node| answered(Asked::Counterparty, node));
        let all_witnesses = witnesses > 0 && witnessed == witnesses;
        let enough = if witnesses > 0 { witnessed > 0 } else { !counterparties.is_empty() };
        Ok(all_witnesses || (enough && all_counterparties))
    }

    fn questions_at_start(&self) -> Result<BTreeSet<Question>, ServiceError> {
        let mut questions = self.questions_to_witnesses()?;
        questions.extend(self.newest_counterparties()?.into_iter().map(|node| (Asked::Counterparty, node)));
        Ok(questions)
    }

    fn questions_before_signing(&self) -> Result<BTreeSet<Question>, ServiceError> {
        let mut questions = self.questions_to_witnesses()?;
        questions.extend(self.recent_counterparties()?.into_iter().map(|node| (Asked::Counterparty, node)));
        Ok(questions)
    }

    fn questions_to_unconfirmed(&self) -> Result<BTreeSet<Question>, ServiceError> {
        Ok(self.unconfirmed()?.into_iter().map(|node| (Asked::Counterparty, node)).collect())
    }

    /// Counterparties to whom nothing is signed before they have answered.
    pub(crate) fn unconfirmed(&self) -> Result<BTreeSet<NodeId>, ServiceError> {
        let ledger = self.ledger();
        let view = ledger.store().view();
        if !ledger.is_in_doubt(&view)? {
            return Ok(BTreeSet::new());
        }
        let awaited = ledger.awaited(&view)?;
        let awaited = awaited.iter().filter_map(|name| NodeId::parse(name).ok());
        let mut open = BTreeSet::new();
        for node in self.counterparties()?.into_iter().chain(awaited) {
            if !self.is_revoked(&node) && !ledger.is_confirmed(&view, node.as_str())? {
                open.insert(node);
            }
        }
        Ok(open)
    }

    /// A witness is asked for statements, too: this node may have exchanged the first ones with it after the backup.
    fn questions_to_witnesses(&self) -> Result<BTreeSet<Question>, ServiceError> {
        let nodes = self.policy_nodes()?.into_iter();
        Ok(nodes.flat_map(|node| [(Asked::Witness, node.clone()), (Asked::Counterparty, node)]).collect())
    }

    /// Everybody who may hold what this node has lost, witnesses first: also those of whom it knows only because they
    /// showed something that it does not have.
    pub(crate) fn holders(&self) -> Result<Vec<NodeId>, ServiceError> {
        let mut nodes: Vec<NodeId> = self.policy_nodes()?.into_iter().collect();
        let shown = tables::all_ahead(&self.ledger().store().view())?;
        let shown = shown.iter().filter_map(|shown| NodeId::parse(&shown.by).ok());
        for node in self.counterparties()?.into_iter().chain(shown) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        Ok(nodes)
    }

    /// The witnesses of the policy that are other nodes.
    pub(crate) fn policy_nodes(&self) -> Result<BTreeSet<NodeId>, ServiceError> {
        let Some(policy) = self.policy()? else { return Ok(BTreeSet::new()) };
        let nodes = policy.witnesses().iter().filter_map(|(_, verifier, _)| node_of_witness(verifier.name()));
        Ok(nodes.filter(|node| node.as_str() != self.ledger().node()).collect())
    }

    /// Counterparties in the newest entries: cheap however many there are in all.
    fn newest_counterparties(&self) -> Result<Vec<NodeId>, ServiceError> {
        let view = self.ledger().store().view();
        let size = self.ledger().size(&view)?;
        let mut nodes = Vec::new();
        for index in (size.saturating_sub(RECENT_ENTRIES)..size).rev() {
            let Some(EntryState::Present(bytes)) = self.ledger().entry_state(&view, index)? else { continue };
            let statement = Envelope::decode(bytes)?.trusted(self.ledger().space())?;
            if let Some(node) = self.counterparty_in(&statement.body().issuer, &statement.body().audience)
                && !nodes.contains(&node)
            {
                nodes.push(node);
            }
            if nodes.len() >= MAX_AT_START {
                break;
            }
        }
        nodes.retain(|node| !self.is_revoked(node));
        Ok(nodes)
    }

    /// Counterparties whose last statement, either way, is at most 30 days older than the newest one here: a ledger
    /// restored after a long time must not find everybody too old to ask.
    pub(crate) fn recent_counterparties(&self) -> Result<BTreeSet<NodeId>, ServiceError> {
        let view = self.ledger().store().view();
        let mut last = Vec::new();
        for node in self.counterparties()? {
            let times = [
                self.last_time(&view, self.ledger().node(), node.as_str())?,
                self.last_time(&view, node.as_str(), self.ledger().node())?,
            ];
            last.push((times.into_iter().flatten().max(), node));
        }
        let newest = last.iter().filter_map(|(time, _)| *time).max().unwrap_or_default().min(self.now());
        let recent = |time: Option<Timestamp>| {
            // A member without any statement, or one whose last statement was removed: better ask than not.
            time.is_none_or(|time| newest.saturating_since(time) <= COUNTERPARTY_DAYS)
        };
        Ok(last.into_iter().filter(|(time, _)| recent(*time)).map(|(_, node)| node).collect())
    }

    fn last_time(
        &self,
        view: &impl Read,
        issuer: &str,
        audience: &str,
    ) -> Result<Option<Timestamp>, ServiceError> {
        let Some((_, digest)) = self.ledger().channel_head(view, issuer, audience)? else { return Ok(None) };
        match self.ledger().statement(view, &digest) {
            Ok(statement) => Ok(statement.map(|statement| statement.body().time)),
            Err(LedgerError::Redacted { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn counterparty_in(&self, issuer: &str, audience: &str) -> Option<NodeId> {
        let own = self.ledger().node();
        let other = if issuer == own { audience } else { issuer };
        let other = NodeId::parse(other).ok().filter(|node| node.as_str() != own)?;
        (issuer == own || audience == own).then_some(other)
    }
}

/// Who says that signing may resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// The nodes that were asked.
    Answers,
    /// The operator, who need not wait for them.
    Operator,
}

fn closed_because(by: &str, detail: &str) -> String {
    format!(
        "{by} {detail}: the ledger was restored from an old backup, or its machine was rolled back; \
         run `huitong ledger recover`"
    )
}
