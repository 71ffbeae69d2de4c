//! The catalog, on a function node.

use huitong_catalog::{Hit, Registry, Resolution, SearchPage};
use huitong_identity::{NodeLocation, Registrar, ServiceError, Standing};
use tonic::{Request, Response, Status};

use super::allowance::Allowances;
use super::{authenticated, failed};
use crate::convert::{bounded, data_id};
use crate::proto::catalog as wire;
use crate::proto::catalog::catalog_service_server::CatalogService;

const MAX_RECORD_BYTES: usize = 64 << 10;
const DEFAULT_HITS: u64 = 20;

pub(super) struct Service {
    pub(super) standing: Standing,
    pub(super) registry: Registry,
    pub(super) registrar: Registrar,
    pub(super) allowances: Allowances,
}

#[tonic::async_trait]
impl CatalogService for Service {
    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::RegisterResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::RegisterRequest { statement, record } = request.into_inner();
        bounded("record", record.len(), MAX_RECORD_BYTES).map_err(failed(&self.standing))?;
        let registered = self.registry.register(&caller, statement, record);
        let certificate = self
            .allowances
            .spend(caller.node().as_str(), registered)
            .await
            .map_err(failed(&self.standing))?;
        Ok(Response::new(wire::RegisterResponse { certificate: certificate.bytes().clone() }))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::ListRequest { statement, record } = request.into_inner();
        bounded("record", record.len(), MAX_RECORD_BYTES).map_err(failed(&self.standing))?;
        let listed = self.registry.list(&caller, statement, record);
        self.allowances.spend(caller.node().as_str(), listed).await.map_err(failed(&self.standing))?;
        Ok(Response::new(wire::ListResponse {}))
    }

    async fn search(
        &self,
        request: Request<wire::SearchRequest>,
    ) -> Result<Response<wire::SearchResponse>, Status> {
        authenticated(&request, &self.standing)?;
        let wire::SearchRequest { keywords, offset, limit } = request.into_inner();
        let limit = if limit == 0 { DEFAULT_HITS } else { limit };
        let SearchPage { total, hits } =
            self.registry.search(&keywords, offset, limit).map_err(failed(&self.standing))?;
        Ok(Response::new(wire::SearchResponse { total, hits: hits.into_iter().map(hit).collect() }))
    }

    async fn resolve(
        &self,
        request: Request<wire::ResolveRequest>,
    ) -> Result<Response<wire::ResolveResponse>, Status> {
        authenticated(&request, &self.standing)?;
        let wire::ResolveRequest { product } = request.into_inner();
        let resolved = self.resolution(&product).map_err(failed(&self.standing))?;
        Ok(Response::new(resolved))
    }
}

impl Service {
    fn resolution(&self, product: &str) -> Result<wire::ResolveResponse, ServiceError> {
        let resolution = self.registry.resolve(&data_id("product", product)?)?;
        let Resolution { product_record, certificate, listing_record, listing, provider } = resolution;
        let NodeLocation { address, credential } = self.registrar.locate(&provider)?;
        Ok(wire::ResolveResponse {
            product_record,
            certificate: certificate.bytes().clone(),
            listing_record,
            listing: listing.bytes().clone(),
            provider: provider.to_string(),
            address,
            credential,
        })
    }
}

fn hit(hit: Hit) -> wire::SearchHit {
    let Hit { product, name, intro, provider, provider_name, security_level, size } = hit;
    wire::SearchHit {
        product: product.to_string(),
        name,
        introduction: intro,
        provider: provider.to_string(),
        provider_name,
        security_level: security_level.code().to_owned(),
        size,
    }
}
