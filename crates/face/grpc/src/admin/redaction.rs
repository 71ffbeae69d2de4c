//! Removing the bytes of one statement (脱敏).

use huitong_identity::ServiceError;
use huitong_ledger::{EntryState, Ledger, Redaction, leaf_hash};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Envelope, Kind, Statement};
use huitong_store::{Pending, Tx, outbox};
use tonic::Status;

use super::AdminServices;
use crate::convert::digest_text;
use crate::proto::admin as wire;

/// Of who demanded it, and of the reason: both stay in the log for ever.
const MAX_WORDS_BYTES: usize = 2_000;

impl AdminServices {
    /// The decision is a statement in the log, in one transaction with the removal. The answer comes when the bytes are
    /// gone from all files; asked again, what is left of them is removed before it is said that they were removed.
    pub(super) async fn redact_statement(
        &self,
        request: wire::RedactStatementRequest,
    ) -> Result<wire::RedactStatementResponse, Status> {
        self.redact(request).await.map_err(self.failed())
    }

    async fn redact(
        &self,
        request: wire::RedactStatementRequest,
    ) -> Result<wire::RedactStatementResponse, ServiceError> {
        let wire::RedactStatementRequest { digest, reason, who } = request;
        let digest = digest_text("digest", &digest)?;
        let (who, why) = (words("who", &who)?, words("reason", &reason)?);
        let ledger = self.standing.ledger.clone();
        let remove = {
            let ledger = ledger.clone();
            move |tx: &mut Tx<'_>| redact(&ledger, tx, digest, who, why)
        };
        let removed = ledger.store().transact("admin.redact", remove).await.map_err(ServiceError::from);
        if matches!(removed, Ok(_) | Err(ServiceError::Redacted { .. })) {
            ledger.erase().await?;
            ledger.store().compact().await?;
        }
        let (index, statement) = removed?;
        Ok(wire::RedactStatementResponse { index, statement: statement.to_string() })
    }
}

/// The REDACTION statement (kind 32) goes from this node to itself, so that whoever verifies its log finds it. It refers
/// to the removed statement. Detail: {1 index of the entry, 2 its leaf hash, 3 who demanded it, 4 why}.
fn redact(
    ledger: &Ledger,
    tx: &mut Tx<'_>,
    digest: Digest,
    who: String,
    why: String,
) -> Result<(u64, Digest), ServiceError> {
    let unknown = || ServiceError::NotFound { what: format!("statement {digest}") };
    let index = ledger.index_of(tx, &digest)?.ok_or_else(unknown)?;
    let removed = match ledger.entry_state(tx, index)?.ok_or_else(unknown)? {
        EntryState::Present(bytes) => Envelope::decode(bytes)?.trusted(ledger.space())?,
        EntryState::Redacted(gap) => return Err(gap.to_error().into()),
    };
    check_removable(&removed)?;
    take_out_of_outbox(tx, &removed)?;
    let statement = ledger.issue(
        tx,
        Draft {
            kind: Kind::Redaction,
            audience: ledger.node().to_owned(),
            subject: removed.body().subject,
            agreement: Digest::ZERO,
            reference: digest,
            detail: Map::new()
                .uint(1, index)
                .digest(2, &leaf_hash(removed.bytes()))
                .text(3, who.as_str())
                .text(4, why.as_str()),
        },
    )?;
    let redaction = Redaction { digest, who, why, statement: statement.digest() };
    ledger.redact(tx, index, &redaction)?;
    Ok((index, statement.digest()))
}

/// A message that was given up goes with the statement in it. One that is still to be delivered must have arrived first.
fn take_out_of_outbox(tx: &mut Tx<'_>, removed: &Statement) -> Result<(), ServiceError> {
    let bytes = removed.bytes();
    let carries =
        |message: &Pending| message.payload.windows(bytes.len()).any(|window| window == bytes.as_ref());
    if let Some(waiting) = outbox::pending(tx, None, usize::MAX)?.into_iter().find(carries) {
        let reason = format!(
            "the statement still waits to be delivered to {}; remove it once it has arrived or was given up (see \
             `huitong outbox list`)",
            waiting.destination
        );
        return Err(ServiceError::Conflict { reason });
    }
    for given_up in outbox::dead(tx, 0, usize::MAX)?.into_iter().filter(carries) {
        outbox::settle(tx, given_up.id)?;
    }
    Ok(())
}

/// Without these the node would know neither itself nor the others, and the gaps would explain themselves no more.
fn check_removable(statement: &Statement) -> Result<(), ServiceError> {
    match statement.kind() {
        kind @ (Kind::Credential | Kind::Roots | Kind::Status | Kind::Redaction) => {
            let reason =
                format!("a statement of the kind {} is needed by the node itself and stays", kind.name());
            Err(ServiceError::Conflict { reason })
        }
        _ => Ok(()),
    }
}

fn words(field: &str, text: &str) -> Result<String, ServiceError> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_WORDS_BYTES {
        let expected = format!("expected 1 to {MAX_WORDS_BYTES} bytes, found {}", text.len());
        return Err(ServiceError::invalid(field, expected));
    }
    Ok(text.to_owned())
}
