//! Who the node is, and who the others are.

use std::time::Duration;

use huitong_identity::{InviteRequest, NodeRecord, NodeState, Role, ServiceError, Trust};
use huitong_store::outbox;
use tonic::Status;

use super::{AdminServices, MAX_LISTED};
use crate::convert::{length, millis, node_id};
use crate::proto::admin as wire;

const DAY: u64 = 24 * 3600;
/// An outbox longer than this is reported as this long.
const MAX_COUNTED: usize = 100_000;

impl AdminServices {
    pub(super) async fn get_status(
        &self,
        request: wire::GetStatusRequest,
    ) -> Result<wire::GetStatusResponse, Status> {
        let wire::GetStatusRequest {} = request;
        self.status().map_err(self.failed())
    }

    fn status(&self) -> Result<wire::GetStatusResponse, ServiceError> {
        let (ledger, directory) = (&self.standing.ledger, &self.standing.directory);
        let membership = &self.standing.membership;
        let credential = membership.credential();
        let view = ledger.store().view();
        let now = ledger.clock().now();
        let age = now.saturating_since(directory.confirmed());
        let not_ready_reason = (self.readiness)().err();
        Ok(wire::GetStatusResponse {
            node: membership.node().to_string(),
            entity: credential.entity.to_string(),
            name: credential.name.clone(),
            roles: roles(&credential.roles),
            address: self.address.clone(),
            registrar: membership.registrar().to_string(),
            ready: not_ready_reason.is_none(),
            not_ready_reason: not_ready_reason.unwrap_or_default(),
            status_version: directory.status().version,
            // The registrar is its own source, so its lists are never old.
            status_age_milliseconds: if membership.is_registrar() { 0 } else { millis(age) },
            ledger_size: ledger.size(&view)?,
            ledger_origin: ledger.origin().to_owned(),
            outbox: length(outbox::pending(&view, None, MAX_COUNTED)?.len()),
            credential_expires_milliseconds: credential.not_after.millis(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time_milliseconds: now.millis(),
        })
    }

    pub(super) async fn create_invite(
        &self,
        request: wire::CreateInviteRequest,
    ) -> Result<wire::CreateInviteResponse, Status> {
        let registrar = self.registrar()?;
        let wire::CreateInviteRequest { entity, name, roles, lifetime_seconds } = request;
        let roles = roles
            .iter()
            .map(|role| {
                Role::parse(role).ok_or_else(|| {
                    ServiceError::invalid("roles", format!("expected provider or consumer, found {role:?}"))
                })
            })
            .collect::<Result<_, _>>()
            .map_err(self.failed())?;
        let lifetime = if lifetime_seconds == 0 { DAY } else { lifetime_seconds };
        let request = InviteRequest {
            entity,
            name,
            roles,
            lifetime: Duration::from_secs(lifetime),
            address: self.enrolment_address.clone(),
        };
        let invite = registrar.invite(request).await.map_err(self.failed())?;
        Ok(wire::CreateInviteResponse { invite: invite.to_text() })
    }

    pub(super) async fn list_nodes(
        &self,
        request: wire::ListNodesRequest,
    ) -> Result<wire::ListNodesResponse, Status> {
        let wire::ListNodesRequest {} = request;
        let nodes = self.registrar()?.nodes(MAX_LISTED).map_err(self.failed())?;
        Ok(wire::ListNodesResponse { nodes: nodes.into_iter().map(node).collect() })
    }

    pub(super) async fn revoke_node(
        &self,
        request: wire::RevokeNodeRequest,
    ) -> Result<wire::RevokeNodeResponse, Status> {
        let registrar = self.registrar()?;
        let wire::RevokeNodeRequest { node, reason } = request;
        let node = node_id("node", &node).map_err(self.failed())?;
        let status = registrar.revoke(&node, &reason).await.map_err(self.failed())?;
        Ok(wire::RevokeNodeResponse { status_version: status.version })
    }

    pub(super) async fn export_trust(
        &self,
        request: wire::ExportTrustRequest,
    ) -> Result<wire::ExportTrustResponse, Status> {
        let wire::ExportTrustRequest {} = request;
        Ok(wire::ExportTrustResponse { json: Trust::from_roots(&self.standing.directory.roots()).to_json() })
    }
}

fn node(record: NodeRecord) -> wire::Node {
    let NodeRecord { credential, statement: _, certificate: _, address, state } = record;
    let (revoked, revocation_reason) = match state {
        NodeState::Active => (false, String::new()),
        NodeState::Revoked { at: _, reason } => (true, reason),
    };
    wire::Node {
        node: credential.node.to_string(),
        entity: credential.entity.to_string(),
        name: credential.name,
        roles: roles(&credential.roles),
        address,
        revoked,
        revocation_reason,
    }
}

fn roles(roles: &[Role]) -> Vec<String> {
    roles.iter().map(|role| role.name().to_owned()).collect()
}
