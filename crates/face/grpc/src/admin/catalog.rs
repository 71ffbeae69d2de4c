//! Publishing and finding products.

use std::path::PathBuf;

use huitong_catalog::{
    CatalogPeer, Hit, Place, Publication, PublicationState, Publish, SearchPage, SecurityLevel, Shelf,
    UpdateFrequency, VerifiedProduct,
};
use huitong_contract::{ContractPeer, Terms};
use huitong_identity::{PeerError, ServiceError};
use huitong_ids::DataId;
use huitong_policy::Language;
use huitong_proof::{Digest, WantedDigests, id_text};
use tokio::sync::{mpsc, watch as progress};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::watch::{Look, progress as next_progress, watch};
use super::{AdminServices, MAX_LISTED, Watch, failed};
use crate::convert::{broken, data_id, fixed};
use crate::proto::admin as wire;

const DEFAULT_HITS: u64 = 20;
/// States that wait for a client that reads slowly.
const BUFFERED: usize = 4;

impl AdminServices {
    /// The publication goes on when the client goes away: asking again with the same id shows how far it has come.
    pub(super) async fn publish(
        &self,
        request: wire::PublishRequest,
    ) -> Result<Watch<wire::PublishResponse>, Status> {
        let shelf = self.shelf()?.clone();
        let publish = publish_command(&shelf, request).map_err(self.failed())?;
        let (out, stream) = mpsc::channel(BUFFERED);
        let (standing, id) = (self.standing.clone(), publish.id);
        let hashing = wire::Publication {
            id: id.to_vec().into(),
            state: "hashing".to_owned(),
            name: publish.name.clone(),
            path: publish.file.display().to_string(),
            ..wire::Publication::default()
        };
        let (hashed, mut ticks) = progress::channel(0);
        let mut working = {
            let shelf = shelf.clone();
            let progress = move |bytes: u64| hashed.send_modify(|done| *done = bytes.max(*done));
            tokio::spawn(async move { shelf.publish(publish, progress).await })
        };
        tokio::spawn(async move {
            let mut looked = Instant::now();
            let published = loop {
                tokio::select! {
                    published = &mut working => break published,
                    () = next_progress(Some(&mut ticks), looked) => {
                        looked = Instant::now();
                        let bytes_hashed = *ticks.borrow_and_update();
                        let publication = Some(hashing.clone());
                        // A client that does not keep up misses some progress, nothing else.
                        let _ = out.try_send(Ok(wire::PublishResponse { publication, bytes_hashed }));
                    }
                }
            };
            let published = published.unwrap_or_else(|error| {
                Err(ServiceError::Internal(format!("publishing was cut off: {error}")))
            });
            if let Err(error) = published {
                let _ = out.send(Err(failed(&standing)(error))).await;
                return;
            }
            let commits = standing.ledger.store().commits();
            let look = || look(&shelf, &id).map_err(failed(&standing));
            watch(out, commits, None, look, publish_response).await;
        });
        Ok(ReceiverStream::new(stream))
    }

    pub(super) async fn list_publications(
        &self,
        request: wire::ListPublicationsRequest,
    ) -> Result<wire::ListPublicationsResponse, Status> {
        let wire::ListPublicationsRequest {} = request;
        let mut publications = self.shelf()?.publications(None, MAX_LISTED).map_err(self.failed())?;
        publications.sort_by_key(|publication| std::cmp::Reverse(publication.created));
        let publications = publications.into_iter().map(publication_message).collect();
        Ok(wire::ListPublicationsResponse { publications })
    }

    pub(super) async fn search_catalog(
        &self,
        request: wire::SearchCatalogRequest,
    ) -> Result<wire::SearchCatalogResponse, Status> {
        let peers = self.peers()?;
        let wire::SearchCatalogRequest { keywords, offset, limit } = request;
        let limit = if limit == 0 { DEFAULT_HITS } else { limit };
        let registrar = self.standing.membership.registrar();
        let SearchPage { total, hits } = peers
            .search(registrar, &keywords, offset, limit)
            .await
            .map_err(ServiceError::Peer)
            .map_err(self.failed())?;
        Ok(wire::SearchCatalogResponse { total, hits: hits.into_iter().map(hit).collect() })
    }

    pub(super) async fn get_product(
        &self,
        request: wire::GetProductRequest,
    ) -> Result<wire::GetProductResponse, Status> {
        self.peers()?;
        let wire::GetProductRequest { product } = request;
        let product = data_id("product", &product).map_err(self.failed())?;
        let (found, terms) = self.offer(&product).await.map_err(self.failed())?;
        let explained = |language| match terms.policy() {
            Ok(policy) => policy.explain(language),
            Err(error) => vec![format!("{error}")],
        };
        Ok(wire::GetProductResponse {
            address: found.address.clone(),
            blake3: found.record.root.to_string(),
            file_name: found.record.file_name.as_str().to_owned(),
            files: found.record.files.unwrap_or(0),
            version: found.version,
            series: found.listing.series,
            sha256: text(found.record.digests.sha256.as_ref()),
            sm3: text(found.record.digests.sm3.as_ref()),
            price: terms.price.clone(),
            english: explained(Language::English),
            chinese: explained(Language::Chinese),
            hit: Some(verified_hit(found)),
            policy: terms.policy.into(),
        })
    }

    /// A product as the registrar certified it, and what its provider offers this node now.
    pub(super) async fn offer(&self, product: &DataId) -> Result<(VerifiedProduct, Terms), ServiceError> {
        let standing = &self.standing;
        let resolved = self.peers.resolve(standing.membership.registrar(), product).await?;
        let found = resolved.verify(product, &standing.directory, standing.ledger.clock().now())?;
        let provider = &found.provider.node;
        if provider == standing.membership.node() {
            let reason = format!("this node itself offers {product}; ask for it on another node");
            return Err(ServiceError::Conflict { reason });
        }
        self.peers.learn(provider, &found.address);
        let terms = self.peers.standing_terms(provider, product).await?;
        let terms = Terms::decode(&terms).map_err(|error| broken(error.into()))?;
        let is_certified =
            terms.root == found.record.root && terms.version.is_none_or(|version| version == found.version);
        if terms.product != *product || terms.provider != *provider || !is_certified {
            let reason = format!(
                "{provider} answers with terms for something else than {product} as it is listed; try again, as a new \
                 version may just be coming"
            );
            return Err(PeerError::Broken(reason).into());
        }
        Ok((found, terms))
    }
}

fn publish_command(shelf: &Shelf, request: wire::PublishRequest) -> Result<Publish, ServiceError> {
    let wire::PublishRequest {
        id,
        path,
        name,
        introduction,
        policy,
        price,
        window_bytes,
        update_frequency,
        security_level,
        renews,
        series,
        sha256,
        sm3,
        push,
    } = request;
    let file = PathBuf::from(path);
    if matches!(Place::named(&file), Place::Here(path) if !path.is_absolute()) {
        return Err(ServiceError::invalid(
            "path",
            "expected an absolute path: the node has another directory",
        ));
    }
    let renews = if renews.is_empty() { None } else { Some(data_id("renews", &renews)?) };
    let name =
        if name.is_empty() && renews.is_none() { shelf.file_name(&file)?.as_str().to_owned() } else { name };
    let mut publish = Publish::new(fixed("id", &id)?, file, name, introduction, policy);
    publish.price = price;
    if window_bytes != 0 || renews.is_some() {
        publish.window_bytes = window_bytes;
    }
    publish.renews = renews;
    publish.series = series;
    publish.push = push;
    publish.digests = WantedDigests { sha256, sm3 };
    publish.classification.update_frequency = match update_frequency.as_str() {
        "" => UpdateFrequency::Irregular,
        code => UpdateFrequency::from_code(code)
            .ok_or_else(|| unknown_code("update_frequency", &UpdateFrequency::codes(), code))?,
    };
    publish.classification.security_level = match security_level.as_str() {
        "" => SecurityLevel::Public,
        code => SecurityLevel::from_code(code)
            .ok_or_else(|| unknown_code("security_level", &SecurityLevel::codes(), code))?,
    };
    Ok(publish)
}

/// Hex, or nothing.
fn text(digest: Option<&Digest>) -> String {
    digest.map(ToString::to_string).unwrap_or_default()
}

fn unknown_code(field: &str, codes: &str, found: &str) -> ServiceError {
    ServiceError::invalid(field, format!("expected one of {codes}, found {found:?}"))
}

fn look(shelf: &Shelf, id: &[u8; 16]) -> Result<Look<Publication>, ServiceError> {
    let seen = shelf
        .publication(id)?
        .ok_or_else(|| ServiceError::NotFound { what: format!("publication {}", id_text(id)) })?;
    Ok(Look { over: seen.state.is_final(), seen })
}

/// Where a publication stands whose file has been read.
fn publish_response(publication: Publication) -> wire::PublishResponse {
    let bytes_hashed = publication.size;
    wire::PublishResponse { publication: Some(publication_message(publication)), bytes_hashed }
}

fn publication_message(publication: Publication) -> wire::Publication {
    let Publication {
        id,
        state,
        name,
        place,
        size,
        files,
        root,
        resource,
        product,
        reason,
        series,
        digests,
        file_name: _,
        created: _,
        updated: _,
    } = publication;
    let state = match state {
        PublicationState::RegisteringResource => "registering_resource",
        PublicationState::RegisteringProduct => "registering_product",
        PublicationState::Listing => "listing",
        PublicationState::Listed => "listed",
        PublicationState::Failed => "failed",
    };
    wire::Publication {
        id: id.to_vec().into(),
        state: state.to_owned(),
        name,
        path: place.to_string(),
        size,
        files: files.unwrap_or(0),
        blake3: root.to_string(),
        resource: resource.map(|id| id.to_string()).unwrap_or_default(),
        product: product.map(|id| id.to_string()).unwrap_or_default(),
        reason: reason.map(|refusal| refusal.to_string()).unwrap_or_default(),
        series,
        sha256: text(digests.sha256.as_ref()),
        sm3: text(digests.sm3.as_ref()),
    }
}

fn hit(hit: Hit) -> wire::Hit {
    let Hit { product, name, intro, provider, provider_name, security_level, size } = hit;
    wire::Hit {
        product: product.to_string(),
        name,
        introduction: intro,
        provider: provider.to_string(),
        provider_name,
        security_level: security_level.code().to_owned(),
        size,
    }
}

fn verified_hit(found: VerifiedProduct) -> wire::Hit {
    hit(Hit {
        product: found.product,
        name: found.listing.name,
        intro: found.listing.intro,
        provider: found.provider.node,
        provider_name: found.provider.name,
        security_level: found.record.security_level,
        size: found.record.size,
    })
}
