//! The ledgers of other nodes, and other nodes as witnesses of ours, over [`Peers`].
//!
//! What comes back is of the length it must have, or the call fails. Whether it is true is for the asker to find out.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_evidence::{
    ChannelSide, ChannelStanding, Included, LogPeer, MAX_LEAVES, MAX_STATEMENTS, WitnessAnswer,
};
use huitong_identity::{PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::{MAX_NOTE_BYTES, MAX_PATH};
use huitong_proof::Digest;
use huitong_proof::cbor::Limits;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::Peers;
use crate::convert::{self, DIGEST_BYTES, bounded, broken, bytes_of, count, digests, digests_end_to_end};
use crate::proto::ledger as wire;
use crate::proto::ledger::ledger_service_client::LedgerServiceClient;
use crate::status::{error_detail, to_peer_error};

/// Tags and lengths of the fields of a message with one large field.
const FRAMING: usize = 64;
const MAX_STATEMENT_BYTES: usize = Limits::STATEMENT.bytes;
/// A node sends at most 1 MiB of statements at once, and whatever the last of them has more.
const MAX_PAGE_BYTES: usize = (1 << 20) + MAX_STATEMENT_BYTES + MAX_STATEMENTS * 8;
const MAX_PATH_BYTES: usize = MAX_PATH * (DIGEST_BYTES + 2) + 2 * DIGEST_BYTES;
/// Of another node's words; they end up in logs and before operators.
const MAX_REASON_CHARACTERS: usize = 512;
/// A witness cannot send us away for longer.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

type Client = LedgerServiceClient<Channel>;

#[async_trait]
impl LogPeer for Peers {
    async fn add_checkpoint(&self, to: &NodeId, body: &str) -> Result<WitnessAnswer, PeerError> {
        let request = wire::AddCheckpointRequest { body: body.to_owned() };
        let response = self
            .ask(to, MAX_NOTE_BYTES, |mut client| async move { client.add_checkpoint(request).await })
            .await?;
        witness_answer(response)
    }

    async fn witnessed(&self, to: &NodeId, origin: &str) -> Result<Option<String>, PeerError> {
        let request = wire::GetWitnessedRequest { origin: origin.to_owned() };
        let wire::GetWitnessedResponse { checkpoint } = self
            .ask(to, MAX_NOTE_BYTES, |mut client| async move { client.get_witnessed(request).await })
            .await?;
        Ok((!checkpoint.is_empty()).then_some(checkpoint))
    }

    async fn checkpoint(&self, to: &NodeId) -> Result<String, PeerError> {
        let request = wire::GetCheckpointRequest {};
        let wire::GetCheckpointResponse { checkpoint } = self
            .ask(to, MAX_NOTE_BYTES, |mut client| async move { client.get_checkpoint(request).await })
            .await?;
        if checkpoint.is_empty() {
            return Err(PeerError::Broken("checkpoint: expected a signed note, found nothing".to_owned()));
        }
        Ok(checkpoint)
    }

    async fn consistency(&self, to: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError> {
        let request = wire::GetConsistencyRequest { old_size: old, new_size: new };
        let wire::GetConsistencyResponse { path } = self
            .ask(to, MAX_PATH_BYTES, |mut client| async move { client.get_consistency(request).await })
            .await?;
        path_of("path", &path).map_err(broken)
    }

    async fn inclusion(&self, to: &NodeId, digest: &Digest, size: u64) -> Result<Included, PeerError> {
        let request = wire::GetInclusionRequest { digest: bytes_of(digest), size };
        let response = self
            .ask(to, MAX_PATH_BYTES, |mut client| async move { client.get_inclusion(request).await })
            .await?;
        included(response, digest, size).map_err(broken)
    }

    async fn leaves(
        &self,
        to: &NodeId,
        origin: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Digest>, PeerError> {
        let limit = limit.min(MAX_LEAVES);
        let Some(asked) = asked(limit) else { return Ok(Vec::new()) };
        let request = wire::ListLeavesRequest { origin: origin.to_owned(), from, limit: asked };
        let wire::ListLeavesResponse { leaves } = self
            .ask(to, limit.saturating_mul(DIGEST_BYTES), |mut client| async move {
                client.list_leaves(request).await
            })
            .await?;
        let leaves = digests_end_to_end("leaves", &leaves).map_err(broken)?;
        count("leaves", leaves.len(), limit).map_err(broken)?;
        Ok(leaves)
    }

    async fn channel(&self, to: &NodeId) -> Result<ChannelStanding, PeerError> {
        let request = wire::GetChannelRequest {};
        let wire::GetChannelResponse { from_caller, to_caller } = self
            .ask(to, 2 * MAX_STATEMENT_BYTES, |mut client| async move { client.get_channel(request).await })
            .await?;
        Ok(ChannelStanding {
            from_caller: statement("from_caller", from_caller).map_err(broken)?,
            to_caller: statement("to_caller", to_caller).map_err(broken)?,
        })
    }

    async fn statements(
        &self,
        to: &NodeId,
        side: ChannelSide,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Bytes>, PeerError> {
        let limit = limit.min(MAX_STATEMENTS);
        let Some(asked) = asked(limit) else { return Ok(Vec::new()) };
        let side = match side {
            ChannelSide::FromCaller => wire::ChannelSide::FromCaller,
            ChannelSide::ToCaller => wire::ChannelSide::ToCaller,
        };
        let request =
            wire::ListChannelStatementsRequest { from_sequence: from_seq, limit: asked, side: side.into() };
        let wire::ListChannelStatementsResponse { statements } =
            self.ask(to, MAX_PAGE_BYTES, |mut client| async move {
                client.list_channel_statements(request).await
            })
            .await?;
        count("statements", statements.len(), limit).map_err(broken)?;
        let statements = statements.into_iter().enumerate().map(|(index, bytes)| {
            let field = format!("statements[{index}]");
            statement(&field, bytes)?
                .ok_or_else(|| ServiceError::invalid(field, "expected a statement, found nothing"))
        });
        statements.collect::<Result<_, _>>().map_err(broken)
    }

    async fn credential(&self, of: &NodeId) -> Result<Bytes, PeerError> {
        self.credential_of(of).await
    }
}

impl Peers {
    /// One call of the ledger service whose answer holds at most `limit` bytes.
    async fn ask<T, F>(
        &self,
        node: &NodeId,
        limit: usize,
        call: impl FnOnce(Client) -> F + Send,
    ) -> Result<T, PeerError>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let limit = limit.saturating_add(FRAMING);
        let call = |channel| call(LedgerServiceClient::new(channel).max_decoding_message_size(limit));
        self.unary(node, call, |status| meaning(status, limit)).await
    }
}

/// No service answers OUT_OF_RANGE: it is what tonic makes of an answer that is longer than its reader takes.
fn meaning(status: &Status, limit: usize) -> PeerError {
    if status.code() == Code::OutOfRange && error_detail(status).is_none() {
        return PeerError::Broken(format!("its answer is longer than {limit} bytes"));
    }
    to_peer_error(status)
}

/// The field of a request that names a bound; nothing for 0, which means something else there.
fn asked(limit: usize) -> Option<u32> {
    u32::try_from(limit).ok().filter(|limit| *limit > 0)
}

fn witness_answer(response: wire::AddCheckpointResponse) -> Result<WitnessAnswer, PeerError> {
    let wire::AddCheckpointResponse { status, body, size, retry_after_milliseconds } = response;
    match u16::try_from(status) {
        Ok(200) => Ok(WitnessAnswer::Cosigned(body)),
        Ok(409) => Ok(WitnessAnswer::Conflict { size }),
        Ok(429) => {
            let retry_after = Duration::from_millis(retry_after_milliseconds).min(LONGEST_RETRY);
            Ok(WitnessAnswer::Busy { retry_after })
        }
        Ok(status @ (400 | 403 | 404 | 422)) => {
            let reason = body.trim().chars().take(MAX_REASON_CHARACTERS).collect();
            Ok(WitnessAnswer::Refused { status, reason })
        }
        _ => Err(PeerError::Broken(format!("status: no witness answers {status}"))),
    }
}

fn included(
    response: wire::GetInclusionResponse,
    asked: &Digest,
    size: u64,
) -> Result<Included, ServiceError> {
    let wire::GetInclusionResponse { inclusion, leaf } = response;
    let wire::Inclusion { digest, index, path } =
        inclusion.ok_or_else(|| ServiceError::invalid("inclusion", "is missing"))?;
    if convert::digest("inclusion.digest", &digest)? != *asked {
        return Err(ServiceError::invalid("inclusion.digest", "is another statement's"));
    }
    if index >= size {
        let reason = format!("expected less than the size {size}, found {index}");
        return Err(ServiceError::invalid("inclusion.index", reason));
    }
    let path = path_of("inclusion.path", &path)?;
    Ok(Included { index, path, leaf: convert::digest("leaf", &leaf)? })
}

fn path_of(field: &str, path: &[Bytes]) -> Result<Vec<Digest>, ServiceError> {
    count(field, path.len(), MAX_PATH)?;
    digests(field, path)
}

fn statement(field: &str, bytes: Bytes) -> Result<Option<Bytes>, ServiceError> {
    bounded(field, bytes.len(), MAX_STATEMENT_BYTES)?;
    // The message around it may be larger than the statement, and lives as long as any part of it.
    Ok((!bytes.is_empty()).then(|| Bytes::copy_from_slice(&bytes)))
}
