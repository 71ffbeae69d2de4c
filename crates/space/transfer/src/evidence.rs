//! Collecting the other ledger's proofs until they are final, so that a receipt stands without either node.
//!
//! Completion never waits for any of this. Proofs are kept as soon as the other side gives them; they are final when the
//! checkpoints of both ledgers carry the cosignatures that the quorum policy asks for.

use std::time::Duration;

use huitong_contract::Contract;
use huitong_identity::{Credential, Delivery, PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::{
    Checkpoint, LedgerError, LogVerifier, Proofs, QuorumPolicy, SignedCheckpoint, verify_consistency,
    verify_entry,
};
use huitong_proof::{Digest, Statement};
use huitong_store::Read;

use crate::model::{Finality, Transfer, TransferState};
use crate::peer::EvidencePeer;
use crate::service::Transfers;
use crate::tables::{self, Attempts};

/// So many attempts follow each other as fast as who drives them likes: witnesses usually answer within seconds.
const EAGER_ATTEMPTS: u64 = 8;
/// The pause after them, which doubles with every further attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// A receipt cannot be had before the proofs are here, so who is away is asked more often than who has no witnesses.
const LONGEST_PAUSE_UNPROVEN: Duration = Duration::from_secs(300);
const LONGEST_PAUSE_PROVISIONAL: Duration = Duration::from_secs(3600);

/// What the other side is asked to prove.
struct Question {
    keeper: Credential,
    shared: Vec<Statement>,
    digests: Vec<Digest>,
}

impl Transfers {
    /// One attempt to complete the evidence of a transfer: asks the other side for its ledger's proofs of everything both
    /// signed, checks and keeps them, and sees whether both ledgers' checkpoints have the witnesses that make them
    /// final. `Ok` means that nothing is left to do.
    pub async fn collect(&self, id: &[u8; 16], peer: &dyn EvidencePeer) -> Result<(), Delivery> {
        let view = self.ledger().store().view();
        let transfer = match tables::transfer(&view, id) {
            Ok(Some(found)) if found.state == TransferState::Completed => found,
            Ok(_) => return Ok(()),
            Err(error) => return Err(Delivery::Retry(error.to_string())),
        };
        drop(view);
        if transfer.finality == Finality::Final {
            return Ok(());
        }
        let outcome = self.gather(&transfer, peer).await;
        let (result, again) = match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(waits)) => (Err(Delivery::Retry(waits)), true),
            // What a receipt is made of is gone for good.
            Err(error @ ServiceError::Redacted { .. }) => (Err(Delivery::Dead(error.to_string())), false),
            // Even a refusal may be a passing one: the other side may not have recorded the last statement yet.
            Err(error) => (Err(Delivery::Retry(error.to_string())), true),
        };
        let (id, now) = (transfer.id, self.ledger().clock().now());
        let noted = self.ledger().store().transact("transfer.waits", move |tx| -> Result<(), ServiceError> {
            if !again {
                return tables::conclude(tx, &id);
            }
            let Some(before) = tables::attempts(tx, &id)? else { return Ok(()) };
            let proven = tables::transfer(tx, &id)?.is_some_and(|transfer| transfer.proven);
            let longest = if proven { LONGEST_PAUSE_PROVISIONAL } else { LONGEST_PAUSE_UNPROVEN };
            let made = before.made.saturating_add(1);
            let due = match made.checked_sub(EAGER_ATTEMPTS) {
                None | Some(0) => before.due,
                Some(late) => now.saturating_add(pause(late).min(longest)),
            };
            tables::postpone(tx, &id, Attempts { due, made })
        });
        noted.await.map_err(|error| Delivery::Retry(ServiceError::from(error).to_string()))?;
        result
    }

    /// `None` when the evidence is final, else what it waits for.
    async fn gather(
        &self,
        transfer: &Transfer,
        peer: &dyn EvidencePeer,
    ) -> Result<Option<String>, ServiceError> {
        let question = self.question(transfer)?;
        let theirs = if transfer.proven {
            self.kept_checkpoint(&transfer.id, &question)?
        } else {
            self.first_proofs(transfer, &question, peer).await?
        };
        let Some(policy) = self.policy() else { return Ok(None) };
        if !satisfies(policy, &theirs)? && !self.cosigned_proofs(transfer, &question, policy, peer).await? {
            return Ok(Some(format!(
                "the checkpoint of {} waits for witnesses: {}",
                transfer.peer,
                policy.requirement()
            )));
        }
        if !self.is_final_here(&question, policy, peer).await? {
            return Ok(Some(format!("this node's checkpoint waits for witnesses: {}", policy.requirement())));
        }
        let id = transfer.id;
        self.ledger()
            .store()
            .transact("transfer.final", move |tx| -> Result<(), ServiceError> {
                if let Some(mut transfer) = tables::transfer(tx, &id)? {
                    transfer.finality = Finality::Final;
                    tables::save(tx, &transfer)?;
                }
                Ok(())
            })
            .await?;
        Ok(None)
    }

    fn question(&self, transfer: &Transfer) -> Result<Question, ServiceError> {
        let view = self.ledger().store().view();
        let contract = self.contract_of(&view, transfer)?;
        let shared = self.shared_statements(&view, transfer, &contract)?;
        let (keeper, _) = self.credential(&view, &transfer.peer)?;
        let digests = shared.iter().map(Statement::digest).collect();
        Ok(Question { keeper, shared, digests })
    }

    fn kept_checkpoint(&self, id: &[u8; 16], question: &Question) -> Result<SignedCheckpoint, ServiceError> {
        let kept = tables::proofs(&self.ledger().store().view(), id)?.ok_or_else(|| {
            ServiceError::Internal("the proofs of a proven transfer are missing".to_owned())
        })?;
        Ok(SignedCheckpoint::parse(&kept.checkpoint, &question.keeper.log).map_err(LedgerError::from)?)
    }

    /// Proofs against whatever checkpoint the other side has, linked to the newest one that we know, and kept.
    async fn first_proofs(
        &self,
        transfer: &Transfer,
        question: &Question,
        peer: &dyn EvidencePeer,
    ) -> Result<SignedCheckpoint, ServiceError> {
        let log = &question.keeper.log;
        let observed = self.ledger().observed(&self.ledger().store().view(), log.name())?;
        let mut known_size = observed.map_or(0, |checkpoint| checkpoint.size);
        // A second round is needed only when another exchange moved the remembered checkpoint in between.
        for _ in 0..2 {
            let proofs = peer.prove(&transfer.peer, question.digests.clone(), known_size).await?;
            let signed = question.check(&proofs)?;
            let witnessed = self.witnessed_by_all(&signed, &transfer.peer, peer).await?.checkpoint;
            let finality = match self.policy() {
                Some(_) => Finality::Provisional,
                None => Finality::Final,
            };
            let kept = Proofs { checkpoint: witnessed.text().to_owned(), ..proofs };
            let (ledger, id, log) = (self.ledger().clone(), transfer.id, log.clone());
            let linked = self
                .ledger()
                .store()
                .transact("transfer.proven", move |tx| -> Result<Result<(), LedgerError>, ServiceError> {
                    if let Err(error) = ledger.observe(tx, &log, &kept.checkpoint, &kept.consistency) {
                        return Ok(Err(error));
                    }
                    if let Some(mut transfer) = tables::transfer(tx, &id)? {
                        tables::put_proofs(tx, &id, &kept)?;
                        transfer.proven = true;
                        transfer.finality = finality;
                        tables::save(tx, &transfer)?;
                    }
                    Ok(Ok(()))
                })
                .await?;
            match linked {
                Ok(()) => return Ok(witnessed),
                Err(LedgerError::Unlinked { remembered, .. }) => known_size = remembered,
                Err(error) => return Err(contradicted(&transfer.peer, error)),
            }
        }
        Err(ServiceError::Busy {
            reason: "the other node's ledger grows faster than it is followed".to_owned(),
        })
    }

    /// Replaces the kept proofs by ones under a checkpoint with enough witnesses, if the other side has such a one yet.
    ///
    /// It is asked without a known size: the newest checkpoint that we have seen may well be ahead of what the witnesses
    /// have come to, and would rule their checkpoint out.
    async fn cosigned_proofs(
        &self,
        transfer: &Transfer,
        question: &Question,
        policy: &QuorumPolicy,
        peer: &dyn EvidencePeer,
    ) -> Result<bool, ServiceError> {
        let proofs = peer.prove(&transfer.peer, question.digests.clone(), 0).await?;
        let signed = question.check(&proofs)?;
        let witnessed = self.witnessed_by_all(&signed, &transfer.peer, peer).await?.checkpoint;
        if !satisfies(policy, &witnessed)? {
            return Ok(false);
        }
        self.link(&transfer.peer, &question.keeper.log, &signed, peer).await?;
        let id = transfer.id;
        let kept = Proofs { checkpoint: witnessed.text().to_owned(), consistency: Vec::new(), ..proofs };
        self.ledger()
            .store()
            .transact("transfer.cosigned", move |tx| tables::put_proofs(tx, &id, &kept))
            .await?;
        Ok(true)
    }

    /// Shows that a checkpoint and the newest one that we have seen of this log belong to one history.
    async fn link(
        &self,
        node: &NodeId,
        log: &LogVerifier,
        signed: &SignedCheckpoint,
        peer: &dyn EvidencePeer,
    ) -> Result<(), ServiceError> {
        let observed = self.ledger().observed(&self.ledger().store().view(), log.name())?;
        let Checkpoint { size, root, .. } = signed.checkpoint();
        let path = match &observed {
            Some(newest) if newest.size > *size => {
                let path = peer.consistency(node, *size, newest.size).await?;
                return verify_consistency(*size, root, newest.size, &newest.root, &path)
                    .map_err(|error| contradicted(node, error.into()));
            }
            Some(newest) if 0 < newest.size && newest.size < *size => {
                peer.consistency(node, newest.size, *size).await?
            }
            _ => Vec::new(),
        };
        let (ledger, log, text) = (self.ledger().clone(), log.clone(), signed.text().to_owned());
        // Committed even if it fails: the evidence of a contradiction is in this transaction.
        let linked = self
            .ledger()
            .store()
            .transact("transfer.observed", move |tx| -> Result<Result<(), LedgerError>, ServiceError> {
                Ok(ledger.observe(tx, &log, &text, &path).map(|_| ()))
            })
            .await?;
        match linked {
            Ok(()) => Ok(()),
            Err(error @ LedgerError::Unlinked { .. }) => Err(error.into()),
            Err(error) => Err(contradicted(node, error)),
        }
    }

    /// Whether our own ledger's side of the receipt would satisfy the policy as well.
    async fn is_final_here(
        &self,
        question: &Question,
        policy: &QuorumPolicy,
        peer: &dyn EvidencePeer,
    ) -> Result<bool, ServiceError> {
        let proofs = self.ledger().prove(question.digests.clone(), 0).await?;
        let signed = SignedCheckpoint::parse(&proofs.checkpoint, &self.ledger().log_verifier())
            .map_err(LedgerError::from)?;
        let own = self.node();
        // Whoever exports the receipt later needs the credentials of our witnesses, which are learnt here.
        satisfies(policy, &self.witnessed_by_all(&signed, own, peer).await?.checkpoint)
    }

    pub(crate) fn contract_of(
        &self,
        read: &impl Read,
        transfer: &Transfer,
    ) -> Result<Contract, ServiceError> {
        self.contracts()
            .contract(read, &transfer.contract)?
            .ok_or_else(|| ServiceError::NotFound { what: format!("contract {}", transfer.contract) })
    }

    /// The statements that both ledgers hold, in the order of a receipt: agreement, verification, finalisation, usage,
    /// offer, accept, complete acknowledgement, final.
    pub(crate) fn shared_statements(
        &self,
        read: &impl Read,
        transfer: &Transfer,
        contract: &Contract,
    ) -> Result<Vec<Statement>, ServiceError> {
        let missing =
            |what: &str| ServiceError::Internal(format!("the {what} of a completed transfer is missing"));
        let negotiation =
            self.contracts().negotiation(&contract.negotiation)?.ok_or_else(|| missing("negotiation"))?;
        let (signed, moved) = (negotiation.statements, &transfer.statements);
        let agreed = [
            ("agreement", signed.agreement),
            ("verification", signed.verification),
            ("finalisation", signed.finalisation),
        ];
        let delivered = [
            ("offer", moved.offer),
            ("acceptance", moved.accept),
            ("acknowledgement", moved.ack),
            ("final", moved.last),
        ];
        let usage = moved.usage.iter().map(|digest| ("usage record", Some(*digest)));
        agreed
            .into_iter()
            .chain(usage)
            .chain(delivered)
            .map(|(what, digest)| self.stored(read, what, &digest.ok_or_else(|| missing(what))?))
            .collect()
    }

    /// A statement of a receipt. Fails with [`ServiceError::Redacted`], which names it, when its bytes are gone.
    pub(crate) fn stored(
        &self,
        read: &impl Read,
        what: &str,
        digest: &Digest,
    ) -> Result<Statement, ServiceError> {
        match self.ledger().statement(read, digest) {
            Ok(Some(statement)) => Ok(statement),
            Ok(None) => {
                Err(ServiceError::Internal(format!("the {what}, statement {digest}, is not in the ledger")))
            }
            Err(LedgerError::Redacted { who, why, .. }) => Err(ServiceError::Redacted {
                what: format!("the {what} (statement {digest}), without which there is no receipt,"),
                who,
                why,
            }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Question {
    /// The answer's checkpoint, if it and all proofs hold.
    fn check(&self, proofs: &Proofs) -> Result<SignedCheckpoint, ServiceError> {
        let signed = SignedCheckpoint::parse(&proofs.checkpoint, &self.keeper.log)
            .map_err(|error| broken(format!("the other node's checkpoint: {error}")))?;
        if proofs.inclusion.len() != self.shared.len() {
            return Err(broken("the other node proves another number of statements than asked".to_owned()));
        }
        for (statement, inclusion) in self.shared.iter().zip(&proofs.inclusion) {
            if inclusion.digest != statement.digest() {
                return Err(broken("the other node proves other statements than asked".to_owned()));
            }
            verify_entry(statement.bytes(), inclusion.index, &inclusion.path, signed.checkpoint()).map_err(
                |error| broken(format!("the other node's proof of a {}: {error}", statement.kind().name())),
            )?;
        }
        Ok(signed)
    }
}

fn satisfies(policy: &QuorumPolicy, checkpoint: &SignedCheckpoint) -> Result<bool, ServiceError> {
    let quorum = policy
        .evaluate(checkpoint)
        .map_err(|error| ServiceError::Conflict { reason: format!("the quorum policy: {error}") })?;
    Ok(quorum.satisfied)
}

fn pause(late: u64) -> Duration {
    let doublings = u32::try_from(late.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    FIRST_PAUSE.saturating_mul(1 << doublings)
}

fn broken(what: String) -> ServiceError {
    PeerError::Broken(what).into()
}

fn contradicted(peer: &NodeId, error: LedgerError) -> ServiceError {
    tracing::error!(%peer, %error, "the other node's ledger contradicts itself");
    error.into()
}
