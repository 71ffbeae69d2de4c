//! Negotiations.

use huitong_contract::{AcceptCounter, Agreement, Contracts, Negotiation, Side, Standing, State, explain};
use huitong_identity::ServiceError;
use huitong_policy::Language;
use huitong_proof::id_text;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::watch::{Look, watch};
use super::{AdminServices, MAX_LISTED, Watch, failed};
use crate::convert::{data_id, fixed};
use crate::proto::admin as wire;
use crate::proto::admin::NegotiationDecision;

const BUFFERED: usize = 4;

impl AdminServices {
    pub(super) async fn negotiate(
        &self,
        request: wire::NegotiateRequest,
    ) -> Result<wire::NegotiateResponse, Status> {
        let contracts = self.contracts()?;
        self.peers()?;
        let negotiation = self.begin(contracts, request).await.map_err(self.failed())?;
        Ok(wire::NegotiateResponse { negotiation: Some(message(negotiation)) })
    }

    async fn begin(
        &self,
        contracts: &Contracts,
        request: wire::NegotiateRequest,
    ) -> Result<Negotiation, ServiceError> {
        let wire::NegotiateRequest { id, product, policy, accept_counter_offer } = request;
        let id = fixed("id", &id)?;
        let product = data_id("product", &product)?;
        // A repeated command must find its negotiation also while registrar or provider cannot be reached.
        if let Some(found) = contracts.negotiation(&id)? {
            if found.product != product {
                let reason = "this negotiation id belongs to another product; choose a new one".to_owned();
                return Err(ServiceError::Conflict { reason });
            }
            return Ok(found);
        }
        let (found, mut terms) = self.offer(&product).await?;
        if !policy.is_empty() {
            terms.policy = policy.into();
        }
        let accept_counter = if accept_counter_offer { AcceptCounter::Yes } else { AcceptCounter::No };
        contracts.request(id, (found.provider, found.credential), terms, accept_counter).await
    }

    /// Ends once the negotiation is finalised or terminated. What waits for an operator is shown and goes on.
    pub(super) async fn watch_negotiation(
        &self,
        request: wire::WatchNegotiationRequest,
    ) -> Result<Watch<wire::WatchNegotiationResponse>, Status> {
        let contracts = self.contracts()?.clone();
        let wire::WatchNegotiationRequest { id } = request;
        let id = fixed("id", &id).map_err(self.failed())?;
        // An unknown id is the call's error, not the stream's.
        look(&contracts, &id).map_err(self.failed())?;
        let (out, stream) = mpsc::channel(BUFFERED);
        let standing = self.standing.clone();
        tokio::spawn(async move {
            let look = || look(&contracts, &id).map_err(failed(&standing));
            let show = |seen| wire::WatchNegotiationResponse { negotiation: Some(message(seen)) };
            watch(out, contracts.changes(), None, look, show).await;
        });
        Ok(ReceiverStream::new(stream))
    }

    pub(super) async fn list_negotiations(
        &self,
        request: wire::ListNegotiationsRequest,
    ) -> Result<wire::ListNegotiationsResponse, Status> {
        let wire::ListNegotiationsRequest {} = request;
        let negotiations = self.contracts()?.list(MAX_LISTED).map_err(self.failed())?;
        Ok(wire::ListNegotiationsResponse { negotiations: negotiations.into_iter().map(message).collect() })
    }

    pub(super) async fn decide_negotiation(
        &self,
        request: wire::DecideNegotiationRequest,
    ) -> Result<wire::DecideNegotiationResponse, Status> {
        let contracts = self.contracts()?;
        let negotiation = decide(contracts, request).await.map_err(self.failed())?;
        Ok(wire::DecideNegotiationResponse { negotiation: Some(message(negotiation)) })
    }
}

async fn decide(
    contracts: &Contracts,
    request: wire::DecideNegotiationRequest,
) -> Result<Negotiation, ServiceError> {
    let wire::DecideNegotiationRequest { id, decision, reason } = request;
    let id = fixed("id", &id)?;
    match NegotiationDecision::try_from(decision) {
        Ok(NegotiationDecision::Accept) => contracts.accept(id).await,
        Ok(NegotiationDecision::Approve) => contracts.approve(id).await,
        Ok(NegotiationDecision::Terminate) => contracts.terminate(id, &reason).await,
        Ok(NegotiationDecision::Suspend) => contracts.suspend(id, &reason).await,
        Ok(NegotiationDecision::Resume) => contracts.resume(id).await,
        Ok(NegotiationDecision::Unspecified) | Err(_) => {
            let expected = "expected accept, approve, terminate, suspend or resume";
            Err(ServiceError::invalid("decision", expected))
        }
    }
}

fn look(contracts: &Contracts, id: &[u8; 16]) -> Result<Look<Negotiation>, ServiceError> {
    let seen = contracts
        .negotiation(id)?
        .ok_or_else(|| ServiceError::NotFound { what: format!("negotiation {}", id_text(id)) })?;
    Ok(Look { over: seen.state.is_terminal(), seen })
}

fn message(negotiation: Negotiation) -> wire::Negotiation {
    wire::Negotiation {
        id: negotiation.id.to_vec().into(),
        side: negotiation.side.name().to_owned(),
        peer: negotiation.peer.to_string(),
        product: negotiation.product.to_string(),
        product_name: negotiation.product_name.clone(),
        state: negotiation.state.name().to_owned(),
        national_state: negotiation.national().to_owned(),
        contract: negotiation.contract.as_ref().map(ToString::to_string).unwrap_or_default(),
        agreement_hash: negotiation.agreement_hash.as_ref().map(ToString::to_string).unwrap_or_default(),
        reason: negotiation.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
        english: plain_words(&negotiation, Language::English),
        chinese: plain_words(&negotiation, Language::Chinese),
        updated_milliseconds: negotiation.updated.millis(),
        standing: match negotiation.state {
            State::Finalized => negotiation.standings.together().name().to_owned(),
            _ => String::new(),
        },
        holds: [Side::Provider, Side::Consumer]
            .into_iter()
            .filter_map(|side| hold(&negotiation.standings.of(side).standing))
            .collect(),
    }
}

fn hold(standing: &Standing) -> Option<wire::ContractHold> {
    let hold = standing.hold()?;
    Some(wire::ContractHold {
        by: hold.by.name().to_owned(),
        standing: standing.name().to_owned(),
        code: hold.reason.code.clone(),
        reason: hold.reason.text.clone(),
        since_milliseconds: hold.since.millis(),
    })
}

/// The contract once there is one, until then the policy on the table.
fn plain_words(negotiation: &Negotiation, language: Language) -> Vec<String> {
    let agreement = negotiation.agreement.as_deref().map(Agreement::decode);
    match (agreement, negotiation.terms.policy()) {
        (Some(Ok(agreement)), _) => explain(&agreement, language),
        (_, Ok(policy)) => policy.explain(language),
        (_, Err(error)) => vec![error.to_string()],
    }
}
