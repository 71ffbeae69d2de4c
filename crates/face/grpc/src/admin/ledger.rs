//! The ledger and the outbox, for reading.

use huitong_identity::{ServiceError, read_refusal};
use huitong_ledger::{EntryState, Gap, Ledger, LedgerError};
use huitong_proof::{Envelope, Kind, Statement};
use huitong_store::{Pending, Read, outbox};
use tonic::Status;

use super::{AdminServices, MAX_LISTED};
use crate::proto::admin as wire;

const DEFAULT_STATEMENTS: u64 = 50;
const MAX_STATEMENTS: u64 = 1_000;

impl AdminServices {
    pub(super) async fn get_checkpoint(
        &self,
        request: wire::GetCheckpointRequest,
    ) -> Result<wire::GetCheckpointResponse, Status> {
        let wire::GetCheckpointRequest {} = request;
        let signed =
            self.standing.ledger.checkpoint().await.map_err(ServiceError::from).map_err(self.failed())?;
        Ok(wire::GetCheckpointResponse { checkpoint: signed.text().to_owned() })
    }

    pub(super) async fn list_statements(
        &self,
        request: wire::ListStatementsRequest,
    ) -> Result<wire::ListStatementsResponse, Status> {
        let wire::ListStatementsRequest { limit } = request;
        let limit = if limit == 0 { DEFAULT_STATEMENTS } else { limit.min(MAX_STATEMENTS) };
        let statements = newest(&self.standing.ledger, limit).map_err(self.failed())?;
        Ok(wire::ListStatementsResponse { statements })
    }

    pub(super) async fn list_outbox(
        &self,
        request: wire::ListOutboxRequest,
    ) -> Result<wire::ListOutboxResponse, Status> {
        let wire::ListOutboxRequest {} = request;
        let view = self.standing.ledger.store().view();
        let messages = waiting(&view).map_err(ServiceError::from).map_err(self.failed())?;
        Ok(wire::ListOutboxResponse { messages: messages.into_iter().map(outbox_message).collect() })
    }
}

fn newest(ledger: &Ledger, limit: u64) -> Result<Vec<wire::LoggedStatement>, ServiceError> {
    let view = ledger.store().view();
    let size = ledger.size(&view)?;
    (size.saturating_sub(limit)..size)
        .rev()
        .map(|index| {
            let entry = ledger
                .entry_state(&view, index)?
                .ok_or(LedgerError::Damaged { what: "an entry below the log's size is missing" })?;
            match entry {
                EntryState::Present(bytes) => {
                    Ok(logged(index, &Envelope::decode(bytes)?.trusted(ledger.space())?))
                }
                EntryState::Redacted(gap) => Ok(gone(*gap)),
            }
        })
        .collect()
}

fn gone(gap: Gap) -> wire::LoggedStatement {
    let Gap { index, leaf: _, who, why, time, removed } = gap;
    let time_milliseconds = time.millis();
    let Some(removed) = removed else {
        let kind = "lost".to_owned();
        return wire::LoggedStatement { index, kind, time_milliseconds, note: why, ..Default::default() };
    };
    let was = Kind::from_number(removed.kind).map_or("statement", Kind::name);
    wire::LoggedStatement {
        index,
        kind: "removed".to_owned(),
        issuer: removed.issuer,
        audience: removed.audience,
        time_milliseconds,
        digest: removed.digest.to_string(),
        note: format!("{was}, removed by {who}: {why}"),
    }
}

fn logged(index: u64, statement: &Statement) -> wire::LoggedStatement {
    let body = statement.body();
    let note = match statement.kind() {
        Kind::Refusal => read_refusal(statement).map(|refusal| refusal.to_string()).unwrap_or_default(),
        _ => String::new(),
    };
    wire::LoggedStatement {
        index,
        kind: statement.kind().name().to_owned(),
        issuer: body.issuer.clone(),
        audience: body.audience.clone(),
        time_milliseconds: body.time.millis(),
        digest: statement.digest().to_string(),
        note,
    }
}

/// Messages still to be delivered and messages given up, the oldest first.
fn waiting(read: &impl Read) -> Result<Vec<Pending>, huitong_store::StoreError> {
    let mut messages = outbox::pending(read, None, MAX_LISTED)?;
    messages.extend(outbox::dead(read, 0, MAX_LISTED)?);
    messages.sort_by_key(|message| message.id);
    messages.truncate(MAX_LISTED);
    Ok(messages)
}

fn outbox_message(message: Pending) -> wire::OutboxMessage {
    let Pending { id, destination, topic, payload: _, created, attempts, next_attempt: _, last_error, dead } =
        message;
    wire::OutboxMessage {
        id,
        destination,
        topic,
        attempts: attempts.into(),
        last_error,
        dead,
        created_milliseconds: created,
    }
}
