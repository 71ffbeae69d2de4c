//! What a node serves to other nodes.

mod allowance;
mod catalog;
mod contract;
mod identity;
mod ledger;
mod transfer;

use std::net::SocketAddr;
use std::time::Duration;

use huitong_catalog::Registry;
use huitong_contract::Contracts;
use huitong_evidence::Evidence;
use huitong_identity::{Caller, Registrar, ServiceError, Standing};
use huitong_transfer::Transfers;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::RoutesBuilder;
use tonic::{Extensions, Request, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use self::allowance::Allowances;
#[cfg(test)]
pub(crate) use self::allowance::BURST;
pub(crate) use self::identity::TIME_HEADER;
#[cfg(test)]
pub(crate) use self::transfer::LEFTOVERS;
use crate::MAX_REQUEST_BYTES;
use crate::proto;
use crate::proto::catalog::catalog_service_server::CatalogServiceServer;
use crate::proto::contract::contract_service_server::ContractServiceServer;
use crate::proto::identity::enrolment_service_server::EnrolmentServiceServer;
use crate::proto::identity::identity_service_server::IdentityServiceServer;
use crate::proto::ledger::ledger_service_server::LedgerServiceServer;
use crate::proto::transfer::push_service_server::PushServiceServer;
use crate::status::{not_authenticated, to_peer_status, unauthenticated};

/// Who is at the other end of a connection. The listener makes it from the certificate of a finished handshake and
/// hands it to tonic as the connection's `Connected::ConnectInfo`.
#[derive(Debug, Clone)]
pub struct PeerConnection {
    /// The authenticated node.
    pub caller: Caller,
    /// Where it connects from.
    pub remote: SocketAddr,
    /// Ends the connection, for a peer that takes nothing of what it has asked for.
    pub close: CancellationToken,
}

/// What this node has for other nodes. A service that is `None` is not served.
#[derive(Clone)]
pub struct PeerServices {
    /// The node's ledger, credential and trust view.
    pub standing: Standing,
    /// What nodes do with each other's ledgers.
    pub evidence: Evidence,
    /// Function node: identity.
    pub registrar: Option<Registrar>,
    /// Function node: catalog; needs `registrar` for the addresses of providers.
    pub registry: Option<Registry>,
    /// Connector: contracts.
    pub contracts: Option<Contracts>,
    /// Connector: deliveries.
    pub transfers: Option<Transfers>,
    /// Longest silence of a trust stream: 5 s in service, less in tests.
    pub heartbeat: Duration,
}

/// The services of the listener for enrolled nodes, with the standard health service and reflection.
///
/// Every method but those two answers `UNAUTHENTICATED` on a connection without [`PeerConnection`].
pub fn peer_routes(services: PeerServices) -> Routes {
    let PeerServices { standing, evidence, registrar, registry, contracts, transfers, heartbeat } = services;
    let allowances = Allowances::default();
    // Of their own where what is taken costs as well: many of them must not keep transfers from going on.
    let (negotiating, pushing) = (Allowances::default(), Allowances::default());
    let mut served = Served::default();
    served.add(
        LedgerServiceServer::new(ledger::Service { standing: standing.clone(), evidence })
            .max_decoding_message_size(MAX_REQUEST_BYTES),
    );
    if let Some(registrar) = &registrar {
        let service = identity::Service {
            standing: standing.clone(),
            registrar: registrar.clone(),
            heartbeat,
            allowances: allowances.clone(),
        };
        served.add(IdentityServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES));
    }
    if let (Some(registry), Some(registrar)) = (registry, registrar) {
        let service = catalog::Service {
            standing: standing.clone(),
            registry,
            registrar,
            allowances: allowances.clone(),
        };
        served.add(CatalogServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES));
    }
    if let Some(contracts) = contracts {
        let service = contract::Service { standing: standing.clone(), contracts, allowances: negotiating };
        served.add(ContractServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES));
    }
    if let Some(transfers) = transfers {
        let pushes = transfer::Pushes {
            standing: standing.clone(),
            transfers: transfers.clone(),
            allowances: pushing,
        };
        served.add(PushServiceServer::new(pushes).max_decoding_message_size(MAX_REQUEST_BYTES));
        served.add(transfer::Service { standing, transfers, allowances });
    }
    served.routes(proto::PEER_DESCRIPTORS)
}

/// The service of the enrolment listener, whose callers have no certificate yet.
pub fn enrolment_routes(registrar: Registrar) -> Routes {
    let service = identity::Enrolment { registrar, allowances: Allowances::default() };
    Routes::new(EnrolmentServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES))
}

/// Collects services and their names, so that reflection names exactly what is served.
#[derive(Default)]
pub(crate) struct Served {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
}

impl Served {
    pub(crate) fn add<S>(&mut self, service: S)
    where
        S: tower::Service<
                tonic::codegen::http::Request<tonic::body::Body>,
                Response = tonic::codegen::http::Response<tonic::body::Body>,
                Error = std::convert::Infallible,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes.add_service(service);
    }

    pub(crate) fn routes(mut self, descriptors: &'static [u8]) -> Routes {
        self.routes
            .add_service(HealthServer::new(HealthService::from_health_reporter(HealthReporter::new())));
        let mut reflection =
            tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(descriptors);
        for name in self.names {
            reflection = reflection.with_service_name(name);
        }
        match reflection.build_v1() {
            Ok(reflection) => {
                self.routes.add_service(reflection);
            }
            // The descriptors are part of the program; without reflection everything else still works.
            Err(error) => tracing::error!(%error, "reflection is not served: its descriptors do not decode"),
        }
        self.routes.routes()
    }
}

/// The connection a request came on, after checking again that its node still counts: a connection may outlive the
/// credential it was opened with.
pub(crate) fn connection(extensions: &Extensions, standing: &Standing) -> Result<PeerConnection, Status> {
    let connection = extensions.get::<PeerConnection>().ok_or_else(unauthenticated)?;
    standing
        .directory
        .recheck(&connection.caller, standing.ledger.clock().now())
        .map_err(|error| not_authenticated(&error))?;
    Ok(connection.clone())
}

/// The node that makes a request; see [`connection`].
pub(crate) fn authenticated<T>(request: &Request<T>, standing: &Standing) -> Result<Caller, Status> {
    Ok(connection(request.extensions(), standing)?.caller)
}

/// For `map_err`: a service's error as this node tells it to another.
pub(crate) fn failed(standing: &Standing) -> impl Fn(ServiceError) -> Status + '_ {
    |error| to_peer_status(error, &**standing.ledger.entropy())
}
