//! The ledger and the witness, on every node.

use bytes::Bytes;
use huitong_evidence::{
    ChannelSide, ChannelStanding, Evidence, Included, MAX_LEAVES, MAX_STATEMENTS, WitnessAnswer,
};
use huitong_identity::{Caller, ServiceError, Standing, prove_for};
use huitong_ledger::{EntryState, Gap, Inclusion, Proofs};
use huitong_proof::Digest;
use tonic::{Request, Response, Status};

use super::{authenticated, failed};
use crate::blocking::blocking;
use crate::convert::{self, bytes_of, count, digests, millis};
use crate::proto::ledger as wire;
use crate::proto::ledger::get_entry_response::Content;
use crate::proto::ledger::ledger_service_server::LedgerService;

/// Nothing here writes a refusal into the ledger, so callers need no allowance; what a witness makes durable is bounded
/// by the rate of each ledger.
pub(super) struct Service {
    pub(super) standing: Standing,
    pub(super) evidence: Evidence,
}

#[tonic::async_trait]
impl LedgerService for Service {
    async fn prove(
        &self,
        request: Request<wire::ProveRequest>,
    ) -> Result<Response<wire::ProveResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::ProveRequest { digests: named, known_size } = request.into_inner();
        let named = digests("digests", &named).map_err(failed(&self.standing))?;
        let proofs = prove_for(&caller, &self.standing.ledger, named, known_size)
            .await
            .map_err(failed(&self.standing))?;
        let Proofs { checkpoint, inclusion, consistency } = proofs;
        Ok(Response::new(wire::ProveResponse {
            checkpoint,
            inclusions: inclusion.iter().map(inclusion_message).collect(),
            consistency: consistency.iter().map(bytes_of).collect(),
        }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<wire::GetCheckpointRequest>,
    ) -> Result<Response<wire::GetCheckpointResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::GetCheckpointRequest {} = request.into_inner();
        let checkpoint = self.evidence.checkpoint(&caller).await.map_err(failed(&self.standing))?;
        Ok(Response::new(wire::GetCheckpointResponse { checkpoint }))
    }

    async fn get_consistency(
        &self,
        request: Request<wire::GetConsistencyRequest>,
    ) -> Result<Response<wire::GetConsistencyResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::GetConsistencyRequest { old_size, new_size } = request.into_inner();
        let path =
            self.read(caller, move |evidence, caller| evidence.consistency(caller, old_size, new_size));
        let path = path.await?.iter().map(bytes_of).collect();
        Ok(Response::new(wire::GetConsistencyResponse { path }))
    }

    async fn get_inclusion(
        &self,
        request: Request<wire::GetInclusionRequest>,
    ) -> Result<Response<wire::GetInclusionResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::GetInclusionRequest { digest, size } = request.into_inner();
        let digest = convert::digest("digest", &digest).map_err(failed(&self.standing))?;
        let included = self.read(caller, move |evidence, caller| evidence.inclusion(caller, &digest, size));
        Ok(Response::new(inclusion_answer(digest, included.await?)))
    }

    async fn get_entry(
        &self,
        request: Request<wire::GetEntryRequest>,
    ) -> Result<Response<wire::GetEntryResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::GetEntryRequest { index } = request.into_inner();
        let entry = self.read(caller, move |evidence, caller| evidence.entry(caller, index)).await?;
        let content = match entry {
            EntryState::Present(statement) => Content::Statement(statement.into()),
            EntryState::Redacted(gap) => Content::Gap(gap_message(*gap)),
        };
        Ok(Response::new(wire::GetEntryResponse { content: Some(content) }))
    }

    async fn list_leaves(
        &self,
        request: Request<wire::ListLeavesRequest>,
    ) -> Result<Response<wire::ListLeavesResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::ListLeavesRequest { origin, from, limit } = request.into_inner();
        let limit = self.limit(limit, MAX_LEAVES)?;
        let leaves = self.read(caller, move |evidence, caller| evidence.leaves(caller, &origin, from, limit));
        let leaves: Vec<u8> = leaves.await?.iter().flat_map(|leaf| *leaf.as_bytes()).collect();
        Ok(Response::new(wire::ListLeavesResponse { leaves: leaves.into() }))
    }

    async fn add_checkpoint(
        &self,
        request: Request<wire::AddCheckpointRequest>,
    ) -> Result<Response<wire::AddCheckpointResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::AddCheckpointRequest { body } = request.into_inner();
        let answer = self.evidence.add_checkpoint(&caller, &body).await.map_err(failed(&self.standing))?;
        Ok(Response::new(witness_message(&answer)))
    }

    async fn get_witnessed(
        &self,
        request: Request<wire::GetWitnessedRequest>,
    ) -> Result<Response<wire::GetWitnessedResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::GetWitnessedRequest { origin } = request.into_inner();
        let checkpoint = self.evidence.witnessed(&caller, &origin).map_err(failed(&self.standing))?;
        Ok(Response::new(wire::GetWitnessedResponse { checkpoint: checkpoint.unwrap_or_default() }))
    }

    async fn get_channel(
        &self,
        request: Request<wire::GetChannelRequest>,
    ) -> Result<Response<wire::GetChannelResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::GetChannelRequest {} = request.into_inner();
        let standing = self.read(caller, |evidence, caller| evidence.channel(caller)).await?;
        let ChannelStanding { from_caller, to_caller } = standing;
        Ok(Response::new(wire::GetChannelResponse {
            from_caller: from_caller.unwrap_or_default(),
            to_caller: to_caller.unwrap_or_default(),
        }))
    }

    async fn list_channel_statements(
        &self,
        request: Request<wire::ListChannelStatementsRequest>,
    ) -> Result<Response<wire::ListChannelStatementsResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::ListChannelStatementsRequest { from_sequence, limit, side } = request.into_inner();
        let limit = self.limit(limit, MAX_STATEMENTS)?;
        let side = channel_side(side).map_err(failed(&self.standing))?;
        let statements = self
            .read(caller, move |evidence, caller| evidence.statements(caller, side, from_sequence, limit))
            .await?;
        Ok(Response::new(wire::ListChannelStatementsResponse { statements }))
    }
}

impl Service {
    /// Reads from files of the ledger, where the runtime's threads do not wait for them.
    async fn read<T: Send + 'static>(
        &self,
        caller: Caller,
        read: impl FnOnce(&Evidence, &Caller) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, Status> {
        let evidence = self.evidence.clone();
        blocking(move || read(&evidence, &caller)).await.map_err(failed(&self.standing))
    }

    /// How many are asked for: all that one answer holds, unless it is said.
    fn limit(&self, asked: u32, most: usize) -> Result<usize, Status> {
        let asked = usize::try_from(asked).unwrap_or(usize::MAX);
        count("limit", asked, most).map_err(failed(&self.standing))?;
        Ok(if asked == 0 { most } else { asked })
    }
}

fn channel_side(side: i32) -> Result<ChannelSide, ServiceError> {
    match wire::ChannelSide::try_from(side) {
        Ok(wire::ChannelSide::FromCaller) => Ok(ChannelSide::FromCaller),
        Ok(wire::ChannelSide::ToCaller) => Ok(ChannelSide::ToCaller),
        Ok(wire::ChannelSide::Unspecified) | Err(_) => {
            Err(ServiceError::invalid("side", "expected from_caller or to_caller"))
        }
    }
}

fn inclusion_message(inclusion: &Inclusion) -> wire::Inclusion {
    let Inclusion { digest, index, path } = inclusion;
    wire::Inclusion { digest: bytes_of(digest), index: *index, path: path.iter().map(bytes_of).collect() }
}

fn inclusion_answer(digest: Digest, included: Included) -> wire::GetInclusionResponse {
    let Included { index, path, leaf } = included;
    let inclusion = inclusion_message(&Inclusion { digest, index, path });
    wire::GetInclusionResponse { inclusion: Some(inclusion), leaf: bytes_of(&leaf) }
}

fn witness_message(answer: &WitnessAnswer) -> wire::AddCheckpointResponse {
    let (size, retry_after_milliseconds) = match answer {
        WitnessAnswer::Conflict { size } => (*size, 0),
        WitnessAnswer::Busy { retry_after } => (0, millis(*retry_after)),
        WitnessAnswer::Cosigned(_) | WitnessAnswer::Refused { .. } => (0, 0),
    };
    let (status, body) = (answer.status().into(), answer.body());
    wire::AddCheckpointResponse { status, body, size, retry_after_milliseconds }
}

fn gap_message(gap: Gap) -> wire::Gap {
    let Gap { index: _, leaf, who, why, time, removed } = gap;
    let (digest, statement) = match &removed {
        Some(removed) => (bytes_of(&removed.digest), known(&removed.statement)),
        None => (Bytes::new(), Bytes::new()),
    };
    wire::Gap { leaf: bytes_of(&leaf), digest, who, why, time_milliseconds: time.millis(), statement }
}

/// Zeros stand for no statement.
fn known(digest: &Digest) -> Bytes {
    if *digest == Digest::ZERO { Bytes::new() } else { bytes_of(digest) }
}
