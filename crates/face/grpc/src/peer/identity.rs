//! Enrolment, trust lists and addresses, on a function node.

use std::time::Duration;

use huitong_identity::peer::{SignedDocument, TrustUpdate};
use huitong_identity::{
    Caller, EnrolmentGrant, EnrolmentRequest, NodeLocation, Registrar, ServiceError, Standing,
};
use huitong_proof::{Digest, SystemEntropy};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::allowance::Allowances;
use super::{authenticated, failed};
use crate::convert::{bounded, fixed, node_id};
use crate::proto::identity as wire;
use crate::proto::identity::enrolment_service_server::EnrolmentService;
use crate::proto::identity::identity_service_server::IdentityService;
use crate::status::{not_authenticated, to_status};

/// Response header of a trust stream: the registrar's clock in milliseconds since 1970.
pub(crate) const TIME_HEADER: &str = "x-huitong-time";

const MAX_REQUEST_BYTES: usize = 8 << 10;
const MAX_STATEMENT_BYTES: usize = 16 << 10;
/// A follower that does not read holds at most this many messages.
const NEWS: usize = 4;

pub(super) struct Service {
    pub(super) standing: Standing,
    pub(super) registrar: Registrar,
    pub(super) heartbeat: Duration,
    pub(super) allowances: Allowances,
}

#[tonic::async_trait]
impl IdentityService for Service {
    type FollowTrustStream = ReceiverStream<Result<wire::FollowTrustResponse, Status>>;

    async fn follow_trust(
        &self,
        request: Request<wire::FollowTrustRequest>,
    ) -> Result<Response<Self::FollowTrustStream>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::FollowTrustRequest { roots_version, status_version } = request.into_inner();
        let (news, stream) = mpsc::channel(NEWS);
        let feed = Feed {
            standing: self.standing.clone(),
            registrar: self.registrar.clone(),
            heartbeat: self.heartbeat,
            caller,
            roots_version,
            status_version,
        };
        tokio::spawn(feed.run(news));
        let mut response = Response::new(ReceiverStream::new(stream));
        let now = self.standing.ledger.clock().now().millis();
        response.metadata_mut().insert(TIME_HEADER, now.into());
        Ok(response)
    }

    async fn report_address(
        &self,
        request: Request<wire::ReportAddressRequest>,
    ) -> Result<Response<wire::ReportAddressResponse>, Status> {
        let caller = authenticated(&request, &self.standing)?;
        let wire::ReportAddressRequest { statement } = request.into_inner();
        // Every report is a record, and a node has a new address once in a while.
        self.allowances.take(caller.node().as_str()).map_err(failed(&self.standing))?;
        self.registrar.report_address(&caller, statement).await.map_err(failed(&self.standing))?;
        Ok(Response::new(wire::ReportAddressResponse {}))
    }

    async fn locate_node(
        &self,
        request: Request<wire::LocateNodeRequest>,
    ) -> Result<Response<wire::LocateNodeResponse>, Status> {
        authenticated(&request, &self.standing)?;
        let wire::LocateNodeRequest { node } = request.into_inner();
        let NodeLocation { address, credential } = node_id("node", &node)
            .and_then(|node| self.registrar.locate(&node))
            .map_err(failed(&self.standing))?;
        Ok(Response::new(wire::LocateNodeResponse { address, credential }))
    }
}

/// One follower's news.
struct Feed {
    standing: Standing,
    registrar: Registrar,
    heartbeat: Duration,
    caller: Caller,
    roots_version: u64,
    status_version: u64,
}

impl Feed {
    async fn run(mut self, news: mpsc::Sender<Result<wire::FollowTrustResponse, Status>>) {
        let mut changes = self.standing.directory.changes();
        loop {
            // Seen before reading, so that a change in between wakes us again.
            changes.borrow_and_update();
            let next = self.next();
            let over = next.is_err();
            if news.send(next).await.is_err() || over {
                return;
            }
            tokio::select! {
                () = news.closed() => return,
                () = tokio::time::sleep(self.heartbeat) => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    fn next(&mut self) -> Result<wire::FollowTrustResponse, Status> {
        let now = self.standing.ledger.clock().now();
        self.standing.directory.recheck(&self.caller, now).map_err(|error| not_authenticated(&error))?;
        let (update, roots_version, status_version) = self
            .registrar
            .trust_since(self.roots_version, self.status_version)
            .map_err(failed(&self.standing))?;
        (self.roots_version, self.status_version) = (roots_version, status_version);
        let TrustUpdate { roots, status } = update;
        Ok(wire::FollowTrustResponse { roots: roots.map(signed), status: status.map(signed) })
    }
}

pub(super) struct Enrolment {
    pub(super) registrar: Registrar,
    /// By invite: nothing else is known of a stranger.
    pub(super) allowances: Allowances,
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn enrol(
        &self,
        request: Request<wire::EnrolRequest>,
    ) -> Result<Response<wire::EnrolResponse>, Status> {
        // The entropy only tells failures apart in the log.
        let failed = |error| to_status(error, &SystemEntropy);
        let request = enrolment(request.into_inner()).map_err(failed)?;
        let invite = format!("invite {}", Digest::sha256(&request.token));
        let grant = self.allowances.spend(&invite, self.registrar.enrol(request)).await.map_err(failed)?;
        let EnrolmentGrant { credential, certificate, roots, status } = grant;
        Ok(Response::new(wire::EnrolResponse {
            credential,
            certificate: certificate.into(),
            roots: Some(signed(roots)),
            status: Some(signed(status)),
        }))
    }
}

fn enrolment(request: wire::EnrolRequest) -> Result<EnrolmentRequest, ServiceError> {
    let wire::EnrolRequest { token, csr, statement_key, statement } = request;
    bounded("csr", csr.len(), MAX_REQUEST_BYTES)?;
    bounded("statement", statement.len(), MAX_STATEMENT_BYTES)?;
    Ok(EnrolmentRequest {
        token: fixed("token", &token)?,
        csr: csr.into(),
        statement_key: fixed("statement_key", &statement_key)?,
        statement,
    })
}

fn signed(document: SignedDocument) -> wire::SignedDocument {
    let SignedDocument { statement, document } = document;
    wire::SignedDocument { statement, document }
}
