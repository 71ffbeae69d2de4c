//! Collecting the other ledger's proofs, so that a receipt stands without either node.

use huitong_contract::Contract;
use huitong_identity::{Delivery, PeerError, ServiceError};
use huitong_ledger::{LedgerError, Proofs, SignedCheckpoint, verify_entry};
use huitong_proof::{Digest, Statement};
use huitong_store::Read;

use crate::model::{Transfer, TransferState};
use crate::peer::EvidencePeer;
use crate::service::Transfers;
use crate::tables;

impl Transfers {
    /// Asks the other side for its ledger's proofs of everything both signed, checks them, and keeps them.
    pub async fn collect(&self, id: &[u8; 16], peer: &dyn EvidencePeer) -> Result<(), Delivery> {
        let retry = |error: ServiceError| Delivery::Retry(error.to_string());
        let view = self.ledger().store().view();
        let Some(transfer) = tables::transfer(&view, id).map_err(retry)? else { return Ok(()) };
        if transfer.state != TransferState::Completed || transfer.proven {
            return Ok(());
        }
        let contract = self.contract_of(&view, &transfer).map_err(retry)?;
        let shared = self.shared_statements(&view, &transfer, &contract).map_err(retry)?;
        let (credential, _) = self.credential(&view, &transfer.peer).map_err(retry)?;
        let digests: Vec<Digest> = shared.iter().map(Statement::digest).collect();
        let observed = self.ledger().observed(&view, credential.log.name()).map_err(|e| retry(e.into()))?;
        let mut known_size = observed.map_or(0, |checkpoint| checkpoint.size);
        drop(view);
        // A second round is needed only when another exchange moved the remembered checkpoint in between.
        for _ in 0..2 {
            let proofs = peer.prove(&transfer.peer, digests.clone(), known_size).await.map_err(failed)?;
            let checkpoint = SignedCheckpoint::parse_exact(&proofs.checkpoint, &credential.log)
                .map_err(|error| Delivery::Retry(format!("the other node's checkpoint: {error}")))?;
            check(&shared, &proofs, &checkpoint).map_err(Delivery::Retry)?;
            let (ledger, id, log) = (self.ledger().clone(), transfer.id, credential.log.clone());
            let kept = self
                .ledger()
                .store()
                .transact("transfer.proven", move |tx| -> Result<Result<(), LedgerError>, ServiceError> {
                    if let Err(error) = ledger.observe(tx, &log, &proofs.checkpoint, &proofs.consistency) {
                        return Ok(Err(error));
                    }
                    if let Some(mut transfer) = tables::transfer(tx, &id)? {
                        tables::put_proofs(tx, &id, &proofs)?;
                        transfer.proven = true;
                        tables::save(tx, &transfer)?;
                    }
                    Ok(Ok(()))
                })
                .await
                .map_err(|error| retry(error.into()))?;
            match kept {
                Ok(()) => return Ok(()),
                Err(LedgerError::Unlinked { remembered, .. }) => known_size = remembered,
                Err(error) => {
                    tracing::error!(peer = %transfer.peer, %error, "the other node's ledger contradicts itself");
                    return Err(Delivery::Retry(error.to_string()));
                }
            }
        }
        Err(Delivery::Retry("the other node's ledger grows faster than it is followed".to_owned()))
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
        let mut digests = vec![
            signed.agreement.ok_or_else(|| missing("agreement"))?,
            signed.verification.ok_or_else(|| missing("verification"))?,
            signed.finalisation.ok_or_else(|| missing("finalisation"))?,
        ];
        digests.extend(&moved.usage);
        digests.push(moved.offer.ok_or_else(|| missing("offer"))?);
        digests.push(moved.accept.ok_or_else(|| missing("acceptance"))?);
        digests.push(moved.ack.ok_or_else(|| missing("acknowledgement"))?);
        digests.push(moved.last.ok_or_else(|| missing("final"))?);
        digests.iter().map(|digest| self.stored(read, digest)).collect()
    }

    pub(crate) fn stored(&self, read: &impl Read, digest: &Digest) -> Result<Statement, ServiceError> {
        self.ledger()
            .statement(read, digest)?
            .ok_or_else(|| ServiceError::Internal(format!("statement {digest} is missing from the ledger")))
    }
}

fn check(shared: &[Statement], proofs: &Proofs, checkpoint: &SignedCheckpoint) -> Result<(), String> {
    if proofs.inclusion.len() != shared.len() {
        return Err("the other node proves another number of statements than asked".to_owned());
    }
    for (statement, inclusion) in shared.iter().zip(&proofs.inclusion) {
        if inclusion.digest != statement.digest() {
            return Err("the other node proves other statements than asked".to_owned());
        }
        verify_entry(statement.bytes(), inclusion.index, &inclusion.path, checkpoint.checkpoint())
            .map_err(|error| format!("the other node's proof of a {}: {error}", statement.kind().name()))?;
    }
    Ok(())
}

fn failed(error: PeerError) -> Delivery {
    // Even a refusal may be a passing one: the other side may not have recorded the last statement yet.
    Delivery::Retry(error.to_string())
}
