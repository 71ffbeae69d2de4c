//! Inclusion proofs, on every node.

use huitong_identity::{ServiceError, Standing, prove_for};
use huitong_ledger::{Inclusion, Proofs};
use huitong_proof::Digest;
use tonic::{Request, Response, Status};

use super::{authenticated, failed};
use crate::convert;
use crate::proto::ledger as wire;
use crate::proto::ledger::ledger_service_server::LedgerService;

pub(super) struct Service {
    pub(super) standing: Standing,
}

#[tonic::async_trait]
impl LedgerService for Service {
    async fn prove(
        &self,
        request: Request<wire::ProveRequest>,
    ) -> Result<Response<wire::ProveResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::ProveRequest { digests, known_size } = request.into_inner();
        let digests = digests
            .iter()
            .enumerate()
            .map(|(index, digest)| convert::digest(&format!("digests[{index}]"), digest))
            .collect::<Result<Vec<Digest>, ServiceError>>()
            .map_err(failed(&self.standing))?;
        let proofs = prove_for(&caller, &self.standing.ledger, digests, known_size)
            .await
            .map_err(failed(&self.standing))?;
        let Proofs { checkpoint, inclusion, consistency } = proofs;
        Ok(Response::new(wire::ProveResponse {
            checkpoint,
            inclusions: inclusion.iter().map(inclusion_message).collect(),
            consistency: consistency.iter().map(bytes).collect(),
        }))
    }
}

fn inclusion_message(inclusion: &Inclusion) -> wire::Inclusion {
    let Inclusion { digest, index, path } = inclusion;
    wire::Inclusion { digest: bytes(digest), index: *index, path: path.iter().map(bytes).collect() }
}

fn bytes(digest: &Digest) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(digest.as_bytes())
}
