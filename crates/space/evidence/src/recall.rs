//! What a witness that was restored has cosigned since its backup.
//!
//! A witness may cosign a ledger again once it knows a checkpoint of it that is at least as large as every one that it has
//! cosigned. It has forgotten which those are, and the ledger itself may have a reason not to say: so the ledger and all
//! nodes that this one deals with must have answered, and all that they show must be one history that extends what is known
//! here.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::stream;
use huitong_identity::{PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::{
    AddCheckpoint, Checkpoint, SignedCheckpoint, WitnessRefusal, add_checkpoint, verify_consistency,
    witnessed,
};
use huitong_store::Tx;

use crate::model::FollowedLog;
use crate::monitor::within;
use crate::peer::LogPeer;
use crate::service::Evidence;

/// Questions under way at once.
const AT_ONCE: usize = 16;

/// Why a ledger cannot be witnessed yet, in words.
type Obstacle = String;

impl Evidence {
    /// The ledgers that this node is a witness of and cosigns no checkpoint of, because it may have forgotten some.
    pub(crate) fn forgotten(&self) -> Result<Vec<FollowedLog>, ServiceError> {
        let ledger = self.ledger();
        let view = ledger.store().view();
        if !ledger.is_in_doubt(&view)? {
            return Ok(Vec::new());
        }
        let mut forgotten = Vec::new();
        for log in self.followed()?.into_iter().filter(|log| log.witnessed) {
            if !ledger.is_confirmed(&view, log.log.name())? {
                forgotten.push(log);
            }
        }
        Ok(forgotten)
    }

    /// Asks the ledgers of [`Evidence::forgotten`], and everybody who may have seen them, for their newest checkpoints,
    /// once everybody can be reached. What is learned is cosigned like any checkpoint that extends the last one.
    pub(crate) async fn recall_witnessed(&self, peer: &dyn LogPeer) -> Result<(), ServiceError> {
        if self.safe_mode().is_some() {
            return Ok(());
        }
        let forgotten = self.forgotten()?;
        if forgotten.is_empty() {
            return Ok(());
        }
        let holders = self.recent_counterparties()?;
        // Each of them answers for itself first: nobody is asked about every ledger in vain.
        if self.unconfirmed()?.iter().any(|silent| holders.contains(silent)) {
            return Ok(());
        }
        for log in forgotten {
            let mut others = holders.clone();
            others.remove(&log.node);
            match self.recall(peer, &log, others).await? {
                Ok(()) => tracing::info!(node = %log.node, "this node witnesses a ledger again"),
                Err(obstacle) => {
                    tracing::warn!(node = %log.node, %obstacle, "this node does not witness a ledger yet");
                }
            }
        }
        Ok(())
    }

    async fn recall(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        holders: BTreeSet<NodeId>,
    ) -> Result<Result<(), Obstacle>, ServiceError> {
        let mut shown = match within(peer.checkpoint(&log.node)).await {
            Ok(text) => match SignedCheckpoint::parse(&text, &log.log) {
                Ok(signed) => vec![signed],
                Err(error) => return Ok(Err(format!("its checkpoint is refused: {error}"))),
            },
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut answers = stream::iter(holders)
            .map(|node| async move {
                let answer = within(peer.witnessed(&node, log.log.name())).await;
                (node, answer)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Err(PeerError::Unavailable(reason)) => return Ok(Err(format!("{node}: {reason}"))),
                // Only what the ledger has signed says anything about it.
                Ok(Some(text)) => shown.extend(SignedCheckpoint::parse(&text, &log.log)),
                Ok(None) | Err(PeerError::Refused { .. } | PeerError::Broken(_)) => {}
            }
        }
        drop(answers);
        self.take_up(peer, log, shown).await
    }

    /// Cosigns the largest of these checkpoints, if each of them extends the one before, and the first what is known here.
    async fn take_up(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        mut shown: Vec<SignedCheckpoint>,
    ) -> Result<Result<(), Obstacle>, ServiceError> {
        let known = witnessed(&self.ledger().store().view(), log.log.name())?;
        let old = known.as_ref().map_or(0, |known| known.checkpoint().size);
        shown.retain(|signed| signed.checkpoint().size > old);
        shown.extend(known);
        shown.sort_by_key(|signed| signed.checkpoint().size);
        for (before, after) in shown.iter().zip(shown.iter().skip(1)) {
            if let Err(obstacle) = extends(peer, log, before.checkpoint(), after.checkpoint()).await {
                return Ok(Err(obstacle));
            }
        }
        let largest = shown.last().filter(|largest| largest.checkpoint().size > old);
        let size = largest.map_or(old, |largest| largest.checkpoint().size);
        let proof = match largest {
            Some(_) if old > 0 => match within(peer.consistency(&log.node, old, size)).await {
                Ok(proof) => proof,
                Err(error) => return Ok(Err(not_extended(size, old, &error))),
            },
            _ => Vec::new(),
        };
        let note = largest.map(|largest| largest.text().to_owned());
        let request = note.map(|note| AddCheckpoint { old, proof, note });
        let (evidence, log, now) = (self.clone(), log.clone(), self.now());
        let recall = move |tx: &mut Tx<'_>| -> Result<Result<(), WitnessRefusal>, ServiceError> {
            let ledger = evidence.ledger();
            if let Some(request) = request
                && let Err(refusal) = add_checkpoint(tx, &request, &log.log, evidence.cosigner(), now)?
            {
                return Ok(Err(refusal));
            }
            ledger.confirm(tx, log.log.name())?;
            Ok(Ok(()))
        };
        let recalled = self.ledger().store().transact("evidence.recall", recall).await?;
        Ok(recalled.map_err(|refusal| refusal.to_string()))
    }
}

/// Whether a ledger shows that one of its checkpoints extends another.
async fn extends(
    peer: &dyn LogPeer,
    log: &FollowedLog,
    before: &Checkpoint,
    after: &Checkpoint,
) -> Result<(), Obstacle> {
    if before == after || before.size == 0 {
        return Ok(());
    }
    if before.size == after.size {
        return Err(format!("it has signed two roots for size {}", after.size));
    }
    let path = within(peer.consistency(&log.node, before.size, after.size)).await;
    let path = path.map_err(|error| not_extended(after.size, before.size, &error))?;
    verify_consistency(before.size, &before.root, after.size, &after.root, &path)
        .map_err(|error| not_extended(after.size, before.size, &error))
}

fn not_extended(size: u64, before: u64, why: &dyn std::fmt::Display) -> Obstacle {
    format!("it does not show that size {size} extends size {before}: {why}")
}
