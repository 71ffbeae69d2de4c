//! Negotiations, on a connector.

use huitong_contract::{Contracts, MAXIMUM_DOCUMENT_BYTES, Received};
use huitong_identity::Standing;
use tonic::{Request, Response, Status};

use super::allowance::{Allowances, is_recorded};
use super::{authenticated, failed};
use crate::convert::{bounded, data_id};
use crate::proto::contract as wire;
use crate::proto::contract::contract_service_server::ContractService;

pub(super) struct Service {
    pub(super) standing: Standing,
    pub(super) contracts: Contracts,
    pub(super) allowances: Allowances,
}

#[tonic::async_trait]
impl ContractService for Service {
    async fn get_terms(
        &self,
        request: Request<wire::GetTermsRequest>,
    ) -> Result<Response<wire::GetTermsResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::GetTermsRequest { product } = request.into_inner();
        let terms = data_id("product", &product)
            .and_then(|product| self.contracts.standing_terms(&caller, &product))
            .map_err(failed(&self.standing))?;
        Ok(Response::new(wire::GetTermsResponse { terms: terms.encode().into() }))
    }

    async fn submit(
        &self,
        request: Request<wire::SubmitRequest>,
    ) -> Result<Response<wire::SubmitResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::SubmitRequest { statement, document } = request.into_inner();
        bounded("document", document.len(), MAXIMUM_DOCUMENT_BYTES).map_err(failed(&self.standing))?;
        let name = caller.node().as_str();
        self.allowances.take(name).map_err(failed(&self.standing))?;
        let received = self.contracts.receive(&caller, statement, document).await;
        // Each negotiation leaves statements for good, wherever it leads.
        let costs = matches!(received, Ok(Received::Begun)) || received.as_ref().is_err_and(is_recorded);
        if !costs {
            self.allowances.give_back(name);
        }
        received.map_err(failed(&self.standing))?;
        Ok(Response::new(wire::SubmitResponse {}))
    }
}
