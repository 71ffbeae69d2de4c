//! What counterparties give back to a node that has lost it, believed as far as it is signed and asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use huitong_identity::{Credential, PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::leaf_hash;
use huitong_proof::{Digest, Envelope, Statement, VerifyingKey};
use huitong_store::Tx;

use super::Target;
use crate::model::Progress;
use crate::peer::{ChannelSide, LogPeer, MAX_STATEMENTS};
use crate::service::Evidence;
use crate::tables;

/// How far below the known end of a channel statements are asked for: they may have arrived out of order.
const OVERLAP: u64 = 64;
/// Bytes of a counterparty's own statements that are taken although no recovered leaf is theirs: it can sign as many as
/// it likes. Of this node's statements there are only so many.
const MAX_UNASKED_BYTES: usize = 64 << 20;
/// How long one channel may take in all: pages may be as small as their sender likes.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(600);

/// What the counterparties gave back.
#[derive(Default)]
pub(super) struct Returned {
    /// Statements of this node that the target does not cover.
    pub(super) own: BTreeMap<Digest, Statement>,
    /// Statements to this node that the target does not cover.
    pub(super) others: BTreeMap<Digest, Statement>,
    /// Counterparties that gave no answer.
    pub(super) silent: BTreeSet<String>,
}

impl Evidence {
    /// Both channels with every counterparty. What is a leaf of the target is kept in the store, the rest in memory.
    pub(super) async fn ask_for_statements(
        &self,
        peer: &dyn LogPeer,
        target: Option<&Target>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Returned, ServiceError> {
        let mut wanted: BTreeSet<Digest> =
            target.map(|target| target.leaves.iter().copied().collect()).unwrap_or_default();
        wanted.extend(tables::all_lost(&self.ledger().store().view())?.into_values());
        let holders = self.holders()?;
        let mut returned = Returned::default();
        for (done, node) in (0..).zip(&holders) {
            let total = holders.len() as u64;
            progress(Progress { step: "asking counterparties for statements", done, total });
            let key = match self.ask_for_credential(peer, node, &wanted).await? {
                Ok(key) => key,
                Err(error) => {
                    tracing::warn!(%node, %error, "the credential of a counterparty is not to be had");
                    returned.silent.insert(node.to_string());
                    None
                }
            };
            for side in [ChannelSide::FromCaller, ChannelSide::ToCaller] {
                let own = side == ChannelSide::FromCaller;
                let Some(key) = (if own { Some(self.ledger().statement_key()) } else { key.clone() }) else {
                    continue;
                };
                if let Err(error) =
                    self.ask_for_channel(peer, node, (side, &key), &wanted, &mut returned).await?
                {
                    tracing::warn!(%node, %error, "a counterparty gave not all statements back");
                    returned.silent.insert(node.to_string());
                }
            }
        }
        Ok(returned)
    }

    /// The key of a counterparty's statements. Its CREDENTIAL is an entry of this ledger too and may be lost itself.
    async fn ask_for_credential(
        &self,
        peer: &dyn LogPeer,
        node: &NodeId,
        wanted: &BTreeSet<Digest>,
    ) -> Result<Result<Option<VerifyingKey>, PeerError>, ServiceError> {
        let known = self.credential(node)?.map(|credential| credential.statement_key);
        let roots = self.standing().directory.roots();
        let given = match roots.entry(node.as_str()) {
            Some(entry) => Ok(entry.credential.clone()),
            None => self.within(peer.credential(node)).await,
        };
        let bytes = match given {
            Ok(bytes) => bytes,
            Err(_) if known.is_some() => return Ok(Ok(known)),
            Err(error) => return Ok(Err(error)),
        };
        let broken = |reason: &dyn std::fmt::Display| {
            Ok(Err(PeerError::Broken(format!("the credential of {node} is not right: {reason}"))))
        };
        let leaf = leaf_hash(&bytes);
        let envelope = match Envelope::decode(bytes) {
            Ok(envelope) => envelope,
            Err(error) => return broken(&error),
        };
        let Some(registrar) = roots.entry(envelope.claimed_issuer()) else {
            return broken(&"its issuer is not on the root list");
        };
        let verified = envelope.verify(&registrar.statement_key, self.ledger().space());
        let statement = match verified {
            Ok(statement) => statement,
            Err(error) => return broken(&error),
        };
        let credential = match Credential::from_statement(&statement) {
            Ok(credential) if credential.node == *node => credential,
            Ok(_) => return broken(&"it is another node's"),
            Err(error) => return broken(&error),
        };
        if wanted.contains(&leaf) {
            let keep = move |tx: &mut Tx<'_>| tables::put_recovered(tx, &leaf, statement.bytes());
            self.ledger().store().transact("evidence.recovered", keep).await?;
        }
        Ok(Ok(Some(credential.statement_key)))
    }

    /// One channel, page by page. The inner error is the counterparty's.
    async fn ask_for_channel(
        &self,
        peer: &dyn LogPeer,
        node: &NodeId,
        (side, key): (ChannelSide, &VerifyingKey),
        wanted: &BTreeSet<Digest>,
        returned: &mut Returned,
    ) -> Result<Result<(), PeerError>, ServiceError> {
        let ledger = self.ledger();
        let own = ledger.node();
        let (issuer, audience) = match side {
            ChannelSide::FromCaller => (own, node.as_str()),
            ChannelSide::ToCaller => (node.as_str(), own),
        };
        let head = ledger.channel_head(&ledger.store().view(), issuer, audience)?;
        let mut next = head.map_or(0, |(seq, _)| seq.saturating_sub(OVERLAP));
        let deadline = tokio::time::Instant::now() + CHANNEL_TIMEOUT;
        let (mut unasked, mut failure) = (0_usize, None);
        while failure.is_none() {
            if tokio::time::Instant::now() > deadline {
                return Ok(Err(PeerError::Unavailable("is too slow in giving statements back".to_owned())));
            }
            let page = match self.within(peer.statements(node, side, next, MAX_STATEMENTS)).await {
                Ok(page) if page.is_empty() => return Ok(Ok(())),
                Ok(page) if page.len() > MAX_STATEMENTS => {
                    return Ok(Err(PeerError::Broken(format!("gave {} statements at once", page.len()))));
                }
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            let mut matched = Vec::new();
            for bytes in page {
                let leaf = leaf_hash(&bytes);
                let statement = match self.channel_statement(bytes, issuer, audience, key, next) {
                    Ok(statement) => statement,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                };
                let Some(after) = statement.body().seq.checked_add(1) else {
                    failure = Some(PeerError::Broken("shows the last number there is".to_owned()));
                    break;
                };
                next = after;
                if wanted.contains(&leaf) {
                    matched.push((leaf, statement));
                    continue;
                }
                if ledger.index_of(&ledger.store().view(), &statement.digest())?.is_some() {
                    continue;
                }
                let kept = match side {
                    ChannelSide::FromCaller => &mut returned.own,
                    ChannelSide::ToCaller => {
                        unasked = unasked.saturating_add(statement.bytes().len());
                        if unasked > MAX_UNASKED_BYTES {
                            let reason = "gives more statements of its own than any node has lost";
                            failure = Some(PeerError::Broken(reason.to_owned()));
                            break;
                        }
                        &mut returned.others
                    }
                };
                kept.insert(statement.digest(), statement);
            }
            let keep = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
                for (leaf, statement) in &matched {
                    tables::put_recovered(tx, leaf, statement.bytes())?;
                }
                Ok(())
            };
            ledger.store().transact("evidence.recovered", keep).await?;
        }
        Ok(failure.map_or(Ok(()), Err))
    }

    /// A statement of exactly that channel, signed, and not before the one that is due.
    fn channel_statement(
        &self,
        bytes: Bytes,
        issuer: &str,
        audience: &str,
        key: &VerifyingKey,
        due: u64,
    ) -> Result<Statement, PeerError> {
        let broken = |reason: String| PeerError::Broken(format!("a statement on our channel {reason}"));
        let statement = Envelope::decode(bytes)
            .and_then(|envelope| envelope.verify(key, self.ledger().space()))
            .map_err(|error| broken(format!("does not verify: {error}")))?;
        let body = statement.body();
        if body.issuer != issuer || body.audience != audience {
            return Err(broken("is of another channel".to_owned()));
        }
        if body.seq < due {
            return Err(broken(format!("has number {} after {due} was due", body.seq)));
        }
        Ok(statement)
    }
}
