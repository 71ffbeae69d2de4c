//! What each capability needs from other nodes, over [`Peers`].

use async_trait::async_trait;
use bytes::Bytes;
use huitong_catalog::{CatalogPeer, Hit, Resolved, SearchPage, SecurityLevel};
use huitong_contract::{ContractPeer, Terms};
use huitong_evidence::LogPeer;
use huitong_identity::peer::{RegistrarPeer, TrustUpdate};
use huitong_identity::{PeerError, ServiceError};
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_ledger::{Inclusion, Proofs};
use huitong_proof::{ContentRoot, Digest};
use huitong_transfer::{EvidencePeer, Frames, FromConsumer, SubscriptionPeer, TransferPeer};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;

use super::Peers;
use super::enrolment::signed;
use super::exchange;
use crate::MAX_MESSAGE_BYTES;
use crate::convert::{self, broken, bytes_of, data_id, digests, node_id};
use crate::proto::catalog::catalog_service_client::CatalogServiceClient;
use crate::proto::contract::contract_service_client::ContractServiceClient;
use crate::proto::identity::identity_service_client::IdentityServiceClient;
use crate::proto::ledger::ledger_service_client::LedgerServiceClient;
use crate::proto::transfer::push_service_client::PushServiceClient;
use crate::proto::{catalog, contract, identity, ledger, transfer};
use crate::status::to_peer_error;

/// Messages that wait between the connection and who reads them.
const BUFFERED: usize = 8;

/// One control call: the client's method on the node's channel, its answer or the error to return.
macro_rules! call {
    ($peers:ident, $node:ident, $client:ident :: $method:ident ($request:ident)) => {
        $peers
            .unary(
                $node,
                |channel| async move {
                    let mut client = $client::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
                    client.$method($request).await
                },
                to_peer_error,
            )
            .await?
    };
}

#[async_trait]
impl RegistrarPeer for Peers {
    async fn follow_trust(
        &self,
        registrar: &NodeId,
        roots_version: u64,
        status_version: u64,
    ) -> Result<mpsc::Receiver<Result<TrustUpdate, PeerError>>, PeerError> {
        let request = identity::FollowTrustRequest { roots_version, status_version };
        let response = self
            .call(registrar, |channel| async move {
                IdentityServiceClient::new(channel)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .follow_trust(request)
                    .await
            })
            .await?;
        self.hear_clock(response.metadata());
        Ok(pump(response.into_inner(), |message| {
            let identity::FollowTrustResponse { roots, status } = message;
            Ok(TrustUpdate { roots: roots.map(signed), status: status.map(signed) })
        }))
    }

    async fn report_address(&self, registrar: &NodeId, statement: Bytes) -> Result<(), PeerError> {
        let request = identity::ReportAddressRequest { statement };
        let identity::ReportAddressResponse {} =
            call!(self, registrar, IdentityServiceClient::report_address(request));
        Ok(())
    }
}

#[async_trait]
impl CatalogPeer for Peers {
    async fn register(&self, to: &NodeId, statement: Bytes, record: Bytes) -> Result<Bytes, PeerError> {
        let request = catalog::RegisterRequest { statement, record };
        let catalog::RegisterResponse { certificate } =
            call!(self, to, CatalogServiceClient::register(request));
        Ok(certificate)
    }

    async fn list(&self, to: &NodeId, statement: Bytes, record: Bytes) -> Result<(), PeerError> {
        let request = catalog::ListRequest { statement, record };
        let catalog::ListResponse {} = call!(self, to, CatalogServiceClient::list(request));
        Ok(())
    }

    async fn search(
        &self,
        to: &NodeId,
        keywords: &str,
        offset: u64,
        limit: u64,
    ) -> Result<SearchPage, PeerError> {
        let request = catalog::SearchRequest { keywords: keywords.to_owned(), offset, limit };
        let catalog::SearchResponse { total, hits } = call!(self, to, CatalogServiceClient::search(request));
        let hits = hits.into_iter().map(hit).collect::<Result<_, _>>().map_err(broken)?;
        Ok(SearchPage { total, hits })
    }

    async fn resolve(&self, to: &NodeId, product: &DataId) -> Result<Resolved, PeerError> {
        let request = catalog::ResolveRequest { product: product.to_string() };
        let catalog::ResolveResponse {
            product_record,
            certificate,
            listing_record,
            listing,
            provider,
            address,
            credential,
        } = call!(self, to, CatalogServiceClient::resolve(request));
        let provider = node_id("provider", &provider).map_err(broken)?;
        Ok(Resolved { product_record, certificate, listing_record, listing, provider, address, credential })
    }
}

#[async_trait]
impl ContractPeer for Peers {
    async fn submit(&self, to: &NodeId, statement: Bytes, document: Bytes) -> Result<(), PeerError> {
        let request = contract::SubmitRequest { statement, document };
        let contract::SubmitResponse {} = call!(self, to, ContractServiceClient::submit(request));
        Ok(())
    }

    async fn standing_terms(&self, provider: &NodeId, product: &DataId) -> Result<Bytes, PeerError> {
        let request = contract::GetTermsRequest { product: product.to_string() };
        let contract::GetTermsResponse { terms } =
            call!(self, provider, ContractServiceClient::get_terms(request));
        Ok(terms)
    }
}

#[async_trait]
impl TransferPeer for Peers {
    async fn exchange(
        &self,
        provider: &NodeId,
        size: u64,
        outgoing: mpsc::Receiver<FromConsumer>,
    ) -> Result<Frames, PeerError> {
        let (channel, window, generation) = self.exchange_channel(provider, size).await?;
        let answer = exchange::exchange(channel, window, outgoing).await;
        Ok(Box::pin(answer.map_err(|status| self.failed(provider, generation, &status))?))
    }

    async fn lane(&self, provider: &NodeId, transfer: [u8; 16]) -> Result<Frames, PeerError> {
        let (peers, provider) = (self.clone(), provider.clone());
        let opening = self.threads().quietest().spawn(async move {
            let (channel, window, _) = peers.exchange_channel(&provider, u64::MAX).await?;
            let answer = exchange::lane(channel, window, transfer).await;
            answer.map_err(|status| to_peer_error(&status))
        });
        let answer = AbortOnDropHandle::new(opening)
            .await
            .map_err(|error| PeerError::Unavailable(error.to_string()))?;
        Ok(Box::pin(answer?))
    }
}

#[async_trait]
impl SubscriptionPeer for Peers {
    async fn push(&self, consumer: &NodeId, contract: &ContractId, id: [u8; 16]) -> Result<(), PeerError> {
        let request = transfer::PushRequest { contract: contract.to_string(), id: id.to_vec().into() };
        let transfer::PushResponse {} = call!(self, consumer, PushServiceClient::push(request));
        Ok(())
    }

    async fn current_root(&self, provider: &NodeId, product: &DataId) -> Result<ContentRoot, PeerError> {
        let terms = ContractPeer::standing_terms(self, provider, product).await?;
        let terms = Terms::decode(&terms).map_err(|error| broken(error.into()))?;
        if terms.product == *product {
            return Ok(terms.root);
        }
        Err(PeerError::Broken(format!("{provider} answers with terms for something else than {product}")))
    }
}

#[async_trait]
impl EvidencePeer for Peers {
    async fn prove(&self, node: &NodeId, digests: Vec<Digest>, known_size: u64) -> Result<Proofs, PeerError> {
        let digests = digests.iter().map(bytes_of).collect();
        let request = ledger::ProveRequest { digests, known_size };
        let response = call!(self, node, LedgerServiceClient::prove(request));
        proofs(response).map_err(broken)
    }

    async fn consistency(
        &self,
        node: &NodeId,
        old_size: u64,
        new_size: u64,
    ) -> Result<Vec<Digest>, PeerError> {
        LogPeer::consistency(self, node, old_size, new_size).await
    }

    async fn credential(&self, node: &NodeId) -> Result<Bytes, PeerError> {
        self.credential_of(node).await
    }
}

/// Hands the messages of a stream on until it ends or who reads them goes away. An error is the last thing handed on.
fn pump<M, T>(
    mut stream: Streaming<M>,
    convert: impl Fn(M) -> Result<T, ServiceError> + Send + 'static,
) -> mpsc::Receiver<Result<T, PeerError>>
where
    M: Send + 'static,
    T: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BUFFERED);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                () = sender.closed() => return,
                message = stream.message() => match message {
                    Ok(Some(message)) => convert(message).map_err(broken),
                    Ok(None) => return,
                    Err(status) => Err(to_peer_error(&status)),
                },
            };
            let over = next.is_err();
            if sender.send(next).await.is_err() || over {
                return;
            }
        }
    });
    receiver
}

fn hit(hit: catalog::SearchHit) -> Result<Hit, ServiceError> {
    let catalog::SearchHit { product, name, introduction, provider, provider_name, security_level, size } =
        hit;
    Ok(Hit {
        product: data_id("hits.product", &product)?,
        name,
        intro: introduction,
        provider: node_id("hits.provider", &provider)?,
        provider_name,
        security_level: SecurityLevel::from_code(&security_level).ok_or_else(|| {
            let expected = format!("expected one of {}, found {security_level:?}", SecurityLevel::codes());
            ServiceError::invalid("hits.security_level", expected)
        })?,
        size,
    })
}

fn proofs(response: ledger::ProveResponse) -> Result<Proofs, ServiceError> {
    let ledger::ProveResponse { checkpoint, inclusions, consistency } = response;
    let inclusion = inclusions
        .into_iter()
        .map(|inclusion| {
            let ledger::Inclusion { digest, index, path } = inclusion;
            Ok(Inclusion {
                digest: convert::digest("inclusions.digest", &digest)?,
                index,
                path: digests("inclusions.path", &path)?,
            })
        })
        .collect::<Result<_, ServiceError>>()?;
    Ok(Proofs { checkpoint, inclusion, consistency: digests("consistency", &consistency)? })
}
