//! The registrar, before this node has a certificate.

use std::sync::Arc;

use async_trait::async_trait;
use huitong_identity::peer::{EnrolmentPeer, SignedDocument};
use huitong_identity::{EnrolmentGrant, EnrolmentRequest, Invite, PeerError};

use super::{Dial, Target, channel, control_endpoint};
use crate::MAX_MESSAGE_BYTES;
use crate::proto::identity as wire;
use crate::proto::identity::enrolment_service_client::EnrolmentServiceClient;
use crate::status::to_peer_error;

/// Enrols over connections that are pinned to the invite's root certificate.
#[derive(Clone)]
pub struct EnrolmentClient {
    dial: Arc<dyn Dial>,
}

impl EnrolmentClient {
    /// Uses [`Dial::dial_pinned`] only.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial }
    }
}

#[async_trait]
impl EnrolmentPeer for EnrolmentClient {
    async fn enrol(&self, invite: &Invite, request: EnrolmentRequest) -> Result<EnrolmentGrant, PeerError> {
        let target = Target::Pinned(invite.root);
        let channel = channel(&control_endpoint(), Arc::clone(&self.dial), invite.address.clone(), target);
        let EnrolmentRequest { token, csr, statement_key, statement } = request;
        let request = wire::EnrolRequest {
            token: token.to_vec().into(),
            csr: csr.into(),
            statement_key: statement_key.to_vec().into(),
            statement,
        };
        let response = EnrolmentServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .enrol(request)
            .await
            .map_err(|status| to_peer_error(&status))?;
        let wire::EnrolResponse { credential, certificate, roots, status } = response.into_inner();
        Ok(EnrolmentGrant {
            credential,
            certificate: certificate.into(),
            roots: roots.map(signed).ok_or_else(|| missing("roots"))?,
            status: status.map(signed).ok_or_else(|| missing("status"))?,
        })
    }
}

pub(super) fn signed(document: wire::SignedDocument) -> SignedDocument {
    let wire::SignedDocument { statement, document } = document;
    SignedDocument { statement, document }
}

fn missing(field: &str) -> PeerError {
    PeerError::Broken(format!("{field} is missing from the registrar's answer"))
}
