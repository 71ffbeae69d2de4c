//! The enrolment request: made by a node that wants to join, checked by the registrar.

use huitong_proof::cbor::Map;
use huitong_proof::{
    Anchor, ChannelHead, Digest, Draft, Envelope, Kind, Signing, SpaceId, Statement, VerifyingKey, random,
};

use super::standing::Sources;
use crate::certificate;
use crate::documents::{EnrolmentRequest, Invite};
use crate::error::ServiceError;
use crate::keys::NodeKeys;
use crate::rules::check_domain;

const LOG_KEY_PROOF: &[u8] = b"huitong/log-key/v1\0";
const WITNESS_KEY_PROOF: &[u8] = b"huitong/witness-key/v1\0";

/// What a node that wants to join says about itself.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The invite from the registrar's operator.
    pub invite: Invite,
    /// The certificate's CN: where this node will be reached.
    pub domain: String,
}

/// The request that [`crate::peer::EnrolmentPeer::enrol`] carries. The same keys and invite give the same outcome, so
/// it may be sent again after any failure.
pub fn enrolment_request(
    keys: &NodeKeys,
    request: &JoinRequest,
    sources: &Sources,
) -> Result<EnrolmentRequest, ServiceError> {
    check_domain(&request.domain)?;
    let csr = certificate::signing_request(keys.tls(), &request.domain)?;
    let csr_digest = Digest::sha256(&csr);
    let statement_key = keys.statement().verifying_key();
    let claim = |label| key_claim(label, &csr_digest, &statement_key);
    let token_digest = Digest::sha256(&request.invite.token);
    let detail = Map::new()
        .digest(1, &csr_digest)
        .bytes(2, statement_key.as_bytes())
        .bytes(3, keys.log().verifying_key().as_bytes())
        .bytes(4, &keys.log().sign(&claim(LOG_KEY_PROOF)))
        .text(5, &request.domain)
        .digest(6, &token_digest)
        .bytes(7, keys.witness().verifying_key().as_bytes())
        .bytes(8, &keys.witness().sign(&claim(WITNESS_KEY_PROOF)));
    let statement = Statement::sign(
        Draft {
            kind: Kind::Enrolment,
            audience: request.invite.registrar.to_string(),
            subject: random(&*sources.entropy),
            agreement: Digest::ZERO,
            reference: Digest::ZERO,
            detail,
        },
        Signing {
            key: keys.statement(),
            space: &request.invite.space,
            // No node id exists yet: the key's own thumbprint names who speaks.
            issuer: &statement_key.thumbprint().to_string(),
            channel: ChannelHead::START,
            anchor: Anchor::none(),
            time: sources.clock.now(),
            salt: random(&*sources.entropy),
        },
    )?;
    Ok(EnrolmentRequest {
        token: request.invite.token,
        csr,
        statement_key: *statement_key.as_bytes(),
        statement: statement.bytes().clone(),
    })
}

/// What an enrolment statement says, after its signature and its proofs of possession were checked.
pub(crate) struct CheckedEnrolment {
    pub(crate) statement: Statement,
    pub(crate) tls_key: rcgen::PublicKey,
    pub(crate) tls_digest: Digest,
    pub(crate) statement_key: VerifyingKey,
    pub(crate) log_key: VerifyingKey,
    pub(crate) witness_key: VerifyingKey,
    pub(crate) domain: String,
}

/// Checks possession of all four keys, and that no two of the signing keys are one.
pub(crate) fn check_enrolment(
    request: &EnrolmentRequest,
    registrar: &str,
    space: &SpaceId,
) -> Result<CheckedEnrolment, ServiceError> {
    let tls_key = certificate::parse_request(&request.csr)?;
    let statement_key = VerifyingKey::from_bytes(&request.statement_key)
        .map_err(|error| ServiceError::invalid("statement_key", error))?;
    let statement = Envelope::decode(request.statement.clone())?.verify(&statement_key, space)?;
    if statement.kind() != Kind::Enrolment || statement.body().audience != registrar {
        return Err(ServiceError::invalid("statement", "is not an enrolment addressed to this registrar"));
    }
    // Who has no id yet speaks as its key. Any other name would put the statement on that node's channel.
    if statement.body().issuer != statement_key.thumbprint().to_string() {
        return Err(ServiceError::invalid("statement.issuer", "is not the thumbprint of statement_key"));
    }
    let mut detail = statement.detail("enrolment")?;
    let csr_digest = detail.digest(1, "csr")?;
    let named_key = detail.bytes(2, "statement_key")?;
    let log_key = VerifyingKey::from_bytes(&detail.bytes(3, "log_key")?)
        .map_err(|error| ServiceError::invalid("enrolment.log_key", error))?;
    let log_proof = detail.bytes(4, "log_key_proof")?;
    let domain = detail.text(5, "domain")?;
    let token_digest = detail.digest(6, "token")?;
    let witness_key = VerifyingKey::from_bytes(&detail.bytes(7, "witness_key")?)
        .map_err(|error| ServiceError::invalid("enrolment.witness_key", error))?;
    let witness_proof = detail.bytes(8, "witness_key_proof")?;
    detail.finish()?;
    check_domain(&domain)?;
    if csr_digest != Digest::sha256(&request.csr) {
        return Err(ServiceError::invalid("csr", "is not the one that the enrolment statement names"));
    }
    if named_key != statement_key.as_bytes() {
        return Err(ServiceError::invalid(
            "statement_key",
            "is not the one that the enrolment statement names",
        ));
    }
    if token_digest != Digest::sha256(&request.token) {
        return Err(ServiceError::invalid("token", "is not the one that the enrolment statement names"));
    }
    for (field, key, label, proof) in [
        ("log_key", &log_key, LOG_KEY_PROOF, &log_proof),
        ("witness_key", &witness_key, WITNESS_KEY_PROOF, &witness_proof),
    ] {
        key.verify(&key_claim(label, &csr_digest, &statement_key), proof)
            .map_err(|_| ServiceError::invalid(field, "its proof of possession does not verify"))?;
    }
    // One key in two places would let a signature made for one purpose pass for the other.
    if log_key == statement_key || witness_key == statement_key || witness_key == log_key {
        return Err(ServiceError::invalid(
            "enrolment",
            "two of statement_key, log_key and witness_key are the same; make each of its own",
        ));
    }
    let tls_digest = certificate::request_key_digest(&tls_key);
    Ok(CheckedEnrolment { statement, tls_key, tls_digest, statement_key, log_key, witness_key, domain })
}

/// What a key signs to prove that who asks has it: it is bound to the other keys of the same request.
fn key_claim(label: &[u8], csr: &Digest, statement_key: &VerifyingKey) -> Vec<u8> {
    [label, csr.as_bytes(), statement_key.as_bytes()].concat()
}
