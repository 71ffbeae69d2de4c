//! The receipt (交易凭证): both sides' statements about one transfer with the proofs of both ledgers.
//!
//! A receipt is one strict CBOR map: `{1 "huitong-receipt/1", 2 agreement document, 3 [statement bytes], 4 [log], 5
//! [credential of a witness]}`, a log being `{1 checkpoint text, 2 [[index, [hash]]]}`: one entry for each shared
//! statement, in the order of key 3. Statements come in a fixed order: the provider's credential, the consumer's
//! credential, the product's asset certificate (these three signed by the registrar), then the shared ones: agreement,
//! verification, finalisation, usage (any number), offer, accept, acknowledgement, final. The provider's log comes
//! first. A checkpoint carries its log's signature and cosignatures of nodes whose credentials are in the receipt, and
//! no other line. Everything in the file is signed or leads to a signed checkpoint, so no byte of it can change
//! unnoticed. `docs/receipt-format.md` is the normative text.

mod ledgers;
mod report;
mod verify;

use std::collections::BTreeMap;

use huitong_contract::Side;
use huitong_identity::ServiceError;
use huitong_ids::NodeId;
use huitong_ledger::{Inclusion, LedgerError, LogVerifier, Proofs, SignedCheckpoint};
use huitong_proof::cbor::{Limits, Map, Value};

pub use report::{Claim, CosignatureFacts, Facts, LedgerFacts, Outcome, Problem, ProblemKind, Report};
pub use verify::verify;

use crate::model::TransferState;
use crate::service::Transfers;
use crate::tables;

/// First field of every receipt of this version.
pub(crate) const FORMAT: &str = "huitong-receipt/1";
/// A receipt holds a bounded number of small statements: anything larger is not one.
pub(crate) const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 8 };
/// Statements signed by the registrar at the head of the list.
pub(crate) const REGISTRAR_STATEMENTS: usize = 3;

/// Puts a receipt together. The proofs of our own ledger are made now; those of the other side were collected. It is
/// final only if the checkpoints are: that shows when it is verified.
pub(crate) async fn assemble(transfers: &Transfers, id: &[u8; 16]) -> Result<Vec<u8>, ServiceError> {
    let view = transfers.ledger().store().view();
    let transfer = tables::transfer(&view, id)?
        .ok_or_else(|| ServiceError::NotFound { what: "a transfer with this id".to_owned() })?;
    if transfer.state != TransferState::Completed {
        return Err(ServiceError::Conflict {
            reason: format!(
                "the transfer is {}; a receipt exists only for a completed one",
                transfer.state.name()
            ),
        });
    }
    let contract = transfers.contract_of(&view, &transfer)?;
    let theirs = tables::proofs(&view, id)?.ok_or_else(|| ServiceError::Busy {
        reason: "the other node's proofs are not here yet; they are fetched as soon as it is reachable"
            .to_owned(),
    })?;
    let negotiation = transfers
        .contracts()
        .negotiation(&contract.negotiation)?
        .ok_or_else(|| ServiceError::Internal("the negotiation of a contract is missing".to_owned()))?;
    let document = negotiation
        .agreement
        .ok_or_else(|| ServiceError::Internal("the agreement of a contract is missing".to_owned()))?;
    let (_, provider) = transfers.credential(&view, &contract.agreement.provider.node)?;
    let (_, consumer) = transfers.credential(&view, &contract.agreement.consumer.node)?;
    let certificate = transfer
        .statements
        .certificate
        .ok_or_else(|| ServiceError::Internal("the asset certificate of a transfer is missing".to_owned()))?;
    let certificate = transfers.stored(&view, "asset certificate", &certificate)?;
    let shared = transfers.shared_statements(&view, &transfer, &contract)?;
    let (peer, _) = transfers.credential(&view, &transfer.peer)?;
    drop(view);
    let digests = shared.iter().map(huitong_proof::Statement::digest).collect();
    let ours = transfers.ledger().prove(digests, 0).await?;
    let parties = [&contract.agreement.provider.node, &contract.agreement.consumer.node];
    // By node id, which is their order in the file.
    let mut witnesses = BTreeMap::new();
    let mut cosigned = |proofs: Proofs, log: &LogVerifier, keeper: &NodeId| {
        let signed = SignedCheckpoint::parse(&proofs.checkpoint, log).map_err(LedgerError::from)?;
        let witnessed = transfers.witnessed(&signed, keeper)?;
        for (credential, statement) in witnessed.witnesses {
            if !parties.contains(&&credential.node) {
                witnesses.insert(credential.node.to_string(), Value::Bytes(statement.bytes().to_vec()));
            }
        }
        Ok::<_, ServiceError>(Proofs { checkpoint: witnessed.checkpoint.text().to_owned(), ..proofs })
    };
    let ours = cosigned(ours, &transfers.ledger().log_verifier(), transfers.node())?;
    let theirs = cosigned(theirs, &peer.log, &transfer.peer)?;
    let logs = match transfer.side {
        Side::Provider => [ours, theirs],
        Side::Consumer => [theirs, ours],
    };
    let statements = [provider, consumer, certificate]
        .iter()
        .chain(&shared)
        .map(|statement| Value::Bytes(statement.bytes().to_vec()))
        .collect();
    Ok(Map::new()
        .text(1, FORMAT)
        .bytes(2, &document)
        .array(3, statements)
        .array(4, logs.iter().map(log_value).collect())
        .array(5, witnesses.into_values().collect())
        .encode())
}

fn log_value(proofs: &Proofs) -> Value {
    let inclusion = proofs.inclusion.iter().map(inclusion_value).collect();
    Map::new().text(1, &proofs.checkpoint).array(2, inclusion).build()
}

fn inclusion_value(inclusion: &Inclusion) -> Value {
    let path = inclusion.path.iter().map(|hash| Value::Bytes(hash.as_bytes().to_vec())).collect();
    Value::Array(vec![Value::Uint(inclusion.index), Value::Array(path)])
}
