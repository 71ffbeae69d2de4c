//! What the operator's own tools may do with the node.

mod catalog;
mod contract;
mod evidence;
mod identity;
mod ledger;
mod redaction;
mod store;
mod subscription;
mod transfer;
mod watch;
mod work;

use std::sync::Arc;

use huitong_catalog::Shelf;
use huitong_contract::Contracts;
use huitong_evidence::Evidence;
use huitong_identity::{Registrar, ServiceError, Standing};
use huitong_transfer::Transfers;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::MAX_MESSAGE_BYTES;
use crate::client::Peers;
use crate::peer::Served;
use crate::proto::OPERATOR_DESCRIPTORS;
use crate::proto::admin as wire;
use crate::proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use crate::status::{not_this_node, to_status};

/// Most rows that a listing gives.
const MAX_LISTED: usize = 1_000;

/// What this node has for its operator. A capability that is `None` answers `FAILED_PRECONDITION` and says on which
/// kind of node to ask.
#[derive(Clone)]
pub struct AdminServices {
    /// The node's ledger, credential and trust view.
    pub standing: Standing,
    /// What nodes do with each other's ledgers.
    pub evidence: Evidence,
    /// Function node: identity.
    pub registrar: Option<Registrar>,
    /// Connector: what it publishes.
    pub shelf: Option<Shelf>,
    /// Connector: contracts.
    pub contracts: Option<Contracts>,
    /// Connector: deliveries.
    pub transfers: Option<Transfers>,
    /// The other nodes.
    pub peers: Peers,
    /// `host:port` that peers use.
    pub address: String,
    /// `host:port` that invites name; empty on a connector.
    pub enrolment_address: String,
    /// Whether the node takes work, and if not, why.
    pub readiness: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// The operator's service, with the standard health service and reflection. Serve it on a socket that only the
/// operator can open: whoever can call it is the operator.
pub fn admin_routes(services: AdminServices) -> Routes {
    let mut served = Served::default();
    served.add(
        AdminServiceServer::new(Service(Arc::new(services))).max_decoding_message_size(MAX_MESSAGE_BYTES),
    );
    served.routes(OPERATOR_DESCRIPTORS)
}

/// A stream of one watched object.
type Watch<T> = ReceiverStream<Result<T, Status>>;

struct Service(Arc<AdminServices>);

impl AdminServices {
    fn registrar(&self) -> Result<&Registrar, Status> {
        self.registrar.as_ref().ok_or_else(|| not_this_node("connector", "function node"))
    }

    fn shelf(&self) -> Result<&Shelf, Status> {
        self.shelf.as_ref().ok_or_else(not_a_connector)
    }

    fn contracts(&self) -> Result<&Contracts, Status> {
        self.contracts.as_ref().ok_or_else(not_a_connector)
    }

    fn transfers(&self) -> Result<&Transfers, Status> {
        self.transfers.as_ref().ok_or_else(not_a_connector)
    }

    /// The other nodes, for a connector, which buys from them.
    fn peers(&self) -> Result<&Peers, Status> {
        if self.standing.membership.is_registrar() {
            return Err(not_a_connector());
        }
        Ok(&self.peers)
    }

    /// For `map_err`: a service's error as this node tells it.
    fn failed(&self) -> impl Fn(ServiceError) -> Status + '_ {
        failed(&self.standing)
    }
}

/// For `map_err`: a service's error as this node tells it to its operator.
fn failed(standing: &Standing) -> impl Fn(ServiceError) -> Status + '_ {
    |error| to_status(error, &**standing.ledger.entropy())
}

fn not_a_connector() -> Status {
    not_this_node("function node", "connector")
}

/// Writes the service out of methods of [`AdminServices`], which lie in the room of their capability.
macro_rules! serve {
    (
        calls { $($call:ident: $request:ident => $response:ident;)* }
        streams { $($stream:ident as $name:ident: $watched:ident => $message:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl AdminService for Service {
            $(
                async fn $call(&self, request: Request<wire::$request>) -> Result<Response<wire::$response>, Status> {
                    self.0.$call(request.into_inner()).await.map(Response::new)
                }
            )*
            $(
                type $name = Watch<wire::$message>;

                async fn $stream(&self, request: Request<wire::$watched>) -> Result<Response<Self::$name>, Status> {
                    self.0.$stream(request.into_inner()).await.map(Response::new)
                }
            )*
        }
    };
}

serve! {
    calls {
        get_status: GetStatusRequest => GetStatusResponse;
        create_invite: CreateInviteRequest => CreateInviteResponse;
        list_nodes: ListNodesRequest => ListNodesResponse;
        revoke_node: RevokeNodeRequest => RevokeNodeResponse;
        export_trust: ExportTrustRequest => ExportTrustResponse;
        list_publications: ListPublicationsRequest => ListPublicationsResponse;
        search_catalog: SearchCatalogRequest => SearchCatalogResponse;
        get_product: GetProductRequest => GetProductResponse;
        negotiate: NegotiateRequest => NegotiateResponse;
        list_negotiations: ListNegotiationsRequest => ListNegotiationsResponse;
        limit_transfers: LimitTransfersRequest => LimitTransfersResponse;
        control_transfer: ControlTransferRequest => ControlTransferResponse;
        decide_negotiation: DecideNegotiationRequest => DecideNegotiationResponse;
        start_transfer: StartTransferRequest => StartTransferResponse;
        list_transfers: ListTransfersRequest => ListTransfersResponse;
        subscribe: SubscribeRequest => SubscribeResponse;
        unsubscribe: UnsubscribeRequest => UnsubscribeResponse;
        list_subscriptions: ListSubscriptionsRequest => ListSubscriptionsResponse;
        push_transfer: PushTransferRequest => PushTransferResponse;
        export_receipt: ExportReceiptRequest => ExportReceiptResponse;
        get_checkpoint: GetCheckpointRequest => GetCheckpointResponse;
        list_statements: ListStatementsRequest => ListStatementsResponse;
        list_outbox: ListOutboxRequest => ListOutboxResponse;
        get_evidence: GetEvidenceRequest => GetEvidenceResponse;
        get_quorum_policy: GetQuorumPolicyRequest => GetQuorumPolicyResponse;
        audit_ledger: AuditLedgerRequest => AuditLedgerResponse;
        list_alerts: ListAlertsRequest => ListAlertsResponse;
        resolve_alert: ResolveAlertRequest => ResolveAlertResponse;
        compare_ledger: CompareLedgerRequest => CompareLedgerResponse;
        redact_statement: RedactStatementRequest => RedactStatementResponse;
        state_logs: StateLogsRequest => StateLogsResponse;
        list_logs: ListLogsRequest => ListLogsResponse;
    }
    streams {
        publish as PublishStream: PublishRequest => PublishResponse;
        watch_negotiation as WatchNegotiationStream: WatchNegotiationRequest => WatchNegotiationResponse;
        watch_transfer as WatchTransferStream: WatchTransferRequest => WatchTransferResponse;
        watch_transfers as WatchTransfersStream: WatchTransfersRequest => WatchTransfersResponse;
        recover_ledger as RecoverLedgerStream: RecoverLedgerRequest => RecoverLedgerResponse;
        back_up_store as BackUpStoreStream: BackUpStoreRequest => BackUpStoreResponse;
    }
}
