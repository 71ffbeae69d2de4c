//! The newest checkpoint of another ledger: that it extends what this node, and witnesses, have seen of it.

use std::collections::BTreeSet;
use std::time::Duration;

use huitong_identity::{PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::{Checkpoint, LedgerError, SignedCheckpoint, verify_consistency, witnessed};
use huitong_proof::Digest;
use huitong_store::Tx;

use super::LogState;
use super::rows::{self, history};
use crate::model::FollowedLog;
use crate::peer::LogPeer;
use crate::service::{Evidence, node_of_witness};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The newest checkpoint of a ledger, or why there is none to go by.
pub(crate) enum Head {
    Verified(SignedCheckpoint),
    Not(LogState),
}

/// How what a ledger shows agrees with what a witness holds of it.
pub(crate) enum Agreement {
    /// One extends the other.
    Agrees(Checkpoint),
    /// The witness holds nothing, or could not be asked.
    Unknown(String),
    /// Not at all.
    Not(LogState),
}

/// How often the proof of a fork is looked for, which may take the leaf hashes of a whole ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// When a contradiction is met for the first time.
    Once,
    /// Whenever it is met.
    Always,
}

impl Evidence {
    /// The newest checkpoint of a ledger, shown to extend what was seen of it before. A contradiction is kept as
    /// evidence, and as a fork proof where one can be made.
    pub(super) async fn head_of(&self, peer: &dyn LogPeer, log: &FollowedLog) -> Result<Head, ServiceError> {
        if self.is_forked(log)? {
            return Ok(Head::Not(LogState::Forked));
        }
        let text = match within(peer.checkpoint(&log.node)).await {
            Ok(text) => text,
            Err(error) => return Ok(unreachable(error.to_string())),
        };
        let offered = match SignedCheckpoint::parse(&text, &log.log) {
            Ok(offered) => offered,
            Err(error) => return Ok(unreachable(format!("its checkpoint is refused: {error}"))),
        };
        self.compare_with_seen(peer, log, offered, Effort::Once).await
    }

    /// The same for a checkpoint that is here.
    pub(crate) async fn compare_with_seen(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        offered: SignedCheckpoint,
        effort: Effort,
    ) -> Result<Head, ServiceError> {
        let seen = self.ledger().observed(&self.ledger().store().view(), log.log.name())?;
        let Some(seen) = seen else { return self.observe(peer, log, offered, Vec::new()).await };
        let (size, before) = (offered.checkpoint().size, seen.size);
        if seen == *offered.checkpoint() {
            return Ok(Head::Verified(offered));
        }
        if size == before || before == 0 {
            return self.observe(peer, log, offered, Vec::new()).await;
        }
        if size > before {
            let path = match within(peer.consistency(&log.node, before, size)).await {
                Ok(path) => path,
                Err(PeerError::Unavailable(reason)) => return Ok(unreachable(reason)),
                Err(error) => {
                    let reason = format!("it does not show that size {size} extends size {before}: {error}");
                    return self.contradicted(peer, log, &offered, reason, effort).await;
                }
            };
            let false_path =
                verify_consistency(before, &seen.root, size, &offered.checkpoint().root, &path).err();
            return match false_path {
                // The first time, the pair is kept as evidence; after that it would only fill the disk.
                Some(error) if self.row(&log.node)?.inconsistent => {
                    let reason =
                        format!("its proof that size {size} extends size {before} is false: {error}");
                    self.contradicted(peer, log, &offered, reason, effort).await
                }
                _ => self.observe(peer, log, offered, path).await,
            };
        }

        // Smaller than before: an old answer, a rolled back ledger, or another history.
        if let head @ Head::Not(LogState::Forked | LogState::Inconsistent { .. }) =
            self.observe(peer, log, offered.clone(), Vec::new()).await?
        {
            return Ok(head);
        }
        if size == 0 {
            return Ok(Head::Not(LogState::Shrunk { size, before }));
        }
        let path = match within(peer.consistency(&log.node, size, before)).await {
            Ok(path) => path,
            Err(PeerError::Unavailable(reason)) => return Ok(unreachable(reason)),
            Err(PeerError::Refused { .. } | PeerError::Broken(_)) => Vec::new(),
        };
        let root = &offered.checkpoint().root;
        if verify_consistency(size, root, before, &seen.root, &path).is_ok() {
            return Ok(Head::Verified(offered));
        }
        let forked = match self.last_shown(log)? {
            Some(kept) => self.has_forked_below(peer, log, &kept, &offered, effort).await?,
            None => false,
        };
        Ok(Head::Not(if forked { LogState::Forked } else { LogState::Shrunk { size, before } }))
    }

    /// Lets the ledger remember a checkpoint; `path` leads there from the newest that it remembers.
    async fn observe(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        offered: SignedCheckpoint,
        path: Vec<Digest>,
    ) -> Result<Head, ServiceError> {
        let (ledger, verifier, text, node) =
            (self.ledger().clone(), log.log.clone(), offered.text().to_owned(), log.node.clone());
        let now = self.now();
        let observe = move |tx: &mut Tx<'_>| -> Result<Result<(), LedgerError>, ServiceError> {
            match ledger.observe(tx, &verifier, &text, &path) {
                Ok(signed) => {
                    let newest = ledger.observed(tx, verifier.name())?;
                    if newest.as_ref() == Some(signed.checkpoint()) {
                        rows::put_newest(tx, &node, now, signed.with_log_signature_only().text())?;
                    }
                    Ok(Ok(()))
                }
                // Committed all the same: the evidence is in this transaction.
                Err(error @ (LedgerError::Inconsistent { .. } | LedgerError::Unlinked { .. })) => {
                    Ok(Err(error))
                }
                Err(error) => Err(error.into()),
            }
        };
        match self.ledger().store().transact("evidence.observe", observe).await? {
            Ok(()) => Ok(Head::Verified(offered)),
            Err(LedgerError::Inconsistent { evidence, .. }) => {
                let kept = match *evidence {
                    huitong_ledger::Evidence::Checkpoints { kept, .. } => {
                        SignedCheckpoint::parse(&kept, &log.log).ok()
                    }
                    huitong_ledger::Evidence::Statements { .. } => None,
                };
                let size = offered.checkpoint().size;
                let before = kept.as_ref().map_or(0, |kept| kept.checkpoint().size);
                if let Some(kept) = kept {
                    let mirrors = self.mirrors_of(log, &[&kept, &offered])?;
                    if let Some(proof) = self.prove_fork(peer, log, &kept, &offered, &mirrors).await? {
                        self.keep_fork(&log.node, proof).await?;
                        return Ok(Head::Not(LogState::Forked));
                    }
                }
                let reason = format!("its proof that size {size} extends size {before} is false");
                Ok(Head::Not(LogState::Inconsistent { reason }))
            }
            // Somebody else has seen a newer one in between, or this one is old.
            Err(error) => Ok(unreachable(error.to_string())),
        }
    }

    /// A ledger offers what it does not link to what it showed: tries to prove a fork out of what was seen before.
    async fn contradicted(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        offered: &SignedCheckpoint,
        reason: String,
        effort: Effort,
    ) -> Result<Head, ServiceError> {
        if self.is_worth_proving(log, effort)?
            && let Some(kept) = self.last_shown(log)?
            && self.is_shown_to_fork(peer, log, &kept, offered).await?
        {
            return Ok(Head::Not(LogState::Forked));
        }
        Ok(Head::Not(LogState::Inconsistent { reason }))
    }

    /// Whether a ledger that shows fewer entries than before was not rolled back, but shows another, shorter history.
    async fn has_forked_below(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        kept: &SignedCheckpoint,
        offered: &SignedCheckpoint,
        effort: Effort,
    ) -> Result<bool, ServiceError> {
        let worth_proving = effort == Effort::Always || self.row(&log.node)?.shrunk_since.is_none();
        Ok(worth_proving && self.is_shown_to_fork(peer, log, kept, offered).await?)
    }

    /// Tries to prove a fork, and keeps the proof.
    async fn is_shown_to_fork(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        kept: &SignedCheckpoint,
        offered: &SignedCheckpoint,
    ) -> Result<bool, ServiceError> {
        let mirrors = self.mirrors_of(log, &[kept, offered])?;
        let Some(proof) = self.prove_fork(peer, log, kept, offered, &mirrors).await? else {
            return Ok(false);
        };
        self.keep_fork(&log.node, proof).await?;
        Ok(true)
    }

    /// The newest checkpoint that a ledger has shown to this node.
    pub(crate) fn last_shown(&self, log: &FollowedLog) -> Result<Option<SignedCheckpoint>, ServiceError> {
        let texts = history(&self.ledger().store().view(), &log.node)?;
        Ok(texts.iter().rev().filter_map(|text| SignedCheckpoint::parse(text, &log.log).ok()).next())
    }

    /// Other nodes that may hold a copy of a ledger's leaf hashes: who has cosigned it, and the registrar.
    pub(crate) fn mirrors_of(
        &self,
        log: &FollowedLog,
        checkpoints: &[&SignedCheckpoint],
    ) -> Result<Vec<NodeId>, ServiceError> {
        let names = checkpoints.iter().flat_map(|signed| signed.cosigner_names());
        let mut nodes: BTreeSet<NodeId> = names.filter_map(|(name, _)| node_of_witness(&name)).collect();
        nodes.extend(self.policy_nodes()?);
        nodes.insert(self.standing().membership.registrar().clone());
        nodes.retain(|node| {
            *node != log.node && node.as_str() != self.ledger().node() && !self.is_revoked(node)
        });
        Ok(nodes.into_iter().collect())
    }

    /// What a witness holds of a ledger, against what the ledger shows here. `None`: this node is the witness.
    pub(crate) async fn agreement(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        signed: &SignedCheckpoint,
        witness: Option<&NodeId>,
        effort: Effort,
    ) -> Result<Agreement, ServiceError> {
        let held = match witness {
            None => {
                let held = witnessed(&self.ledger().store().view(), log.log.name())?;
                held.map(|held| held.text().to_owned())
            }
            Some(witness) => match within(peer.witnessed(witness, log.log.name())).await {
                Ok(held) => held,
                Err(error) => return Ok(Agreement::Unknown(error.to_string())),
            },
        };
        let Some(held) = held else { return Ok(Agreement::Unknown("holds no checkpoint of it".to_owned())) };
        let held = match SignedCheckpoint::parse(&held, &log.log) {
            Ok(held) => held,
            Err(error) => return Ok(Agreement::Unknown(format!("shows no checkpoint of it: {error}"))),
        };
        let (a, b) = if held.checkpoint().size <= signed.checkpoint().size {
            (held.checkpoint(), signed.checkpoint())
        } else {
            (signed.checkpoint(), held.checkpoint())
        };
        let agrees = Agreement::Agrees(held.checkpoint().clone());
        if a == b || a.size == 0 {
            return Ok(agrees);
        }
        let path = if a.size == b.size {
            Ok(Vec::new())
        } else {
            within(peer.consistency(&log.node, a.size, b.size)).await
        };
        let reason = match path {
            Ok(path) => match verify_consistency(a.size, &a.root, b.size, &b.root, &path) {
                Ok(()) => return Ok(agrees),
                Err(error) => format!("size {} does not extend size {}: {error}", b.size, a.size),
            },
            Err(PeerError::Unavailable(reason)) => return Ok(Agreement::Unknown(reason)),
            Err(_) if held.checkpoint().size > signed.checkpoint().size => {
                let (size, before) = (signed.checkpoint().size, held.checkpoint().size);
                let forked = self.has_forked_below(peer, log, &held, signed, effort).await?;
                let state = if forked { LogState::Forked } else { LogState::Shrunk { size, before } };
                return Ok(Agreement::Not(state));
            }
            Err(error) => format!("it does not show that size {} extends size {}: {error}", b.size, a.size),
        };
        let forked =
            self.is_worth_proving(log, effort)? && self.is_shown_to_fork(peer, log, &held, signed).await?;
        Ok(Agreement::Not(if forked { LogState::Forked } else { LogState::Inconsistent { reason } }))
    }

    fn is_worth_proving(&self, log: &FollowedLog, effort: Effort) -> Result<bool, ServiceError> {
        Ok(match effort {
            Effort::Once => !self.row(&log.node)?.inconsistent,
            Effort::Always => true,
        })
    }
}

/// A request that takes no longer than it may.
pub(crate) async fn within<T>(asking: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(PeerError::Unavailable("it did not answer in time".to_owned())),
    }
}

fn unreachable(reason: String) -> Head {
    Head::Not(LogState::Unreachable { reason })
}
