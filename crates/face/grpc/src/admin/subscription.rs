//! Standing orders for deliveries, and pushes.

use huitong_identity::ServiceError;
use huitong_transfer::{Schedule, Subscribe, Subscription};
use tonic::Status;

use super::AdminServices;
use super::transfer::{directory, priority};
use crate::convert::{contract_id, fixed};
use crate::proto::admin as wire;

impl AdminServices {
    pub(super) async fn subscribe(
        &self,
        request: wire::SubscribeRequest,
    ) -> Result<wire::SubscribeResponse, Status> {
        let command = command(request).map_err(self.failed())?;
        let subscription = self.transfers()?.subscribe(command).await.map_err(self.failed())?;
        Ok(wire::SubscribeResponse { subscription: Some(message(subscription)) })
    }

    pub(super) async fn unsubscribe(
        &self,
        request: wire::UnsubscribeRequest,
    ) -> Result<wire::UnsubscribeResponse, Status> {
        let wire::UnsubscribeRequest { contract } = request;
        let contract = contract_id("contract", &contract).map_err(self.failed())?;
        let subscription = self.transfers()?.unsubscribe(&contract).await.map_err(self.failed())?;
        Ok(wire::UnsubscribeResponse { subscription: Some(message(subscription)) })
    }

    pub(super) async fn list_subscriptions(
        &self,
        request: wire::ListSubscriptionsRequest,
    ) -> Result<wire::ListSubscriptionsResponse, Status> {
        let wire::ListSubscriptionsRequest {} = request;
        let listed = self.transfers()?.subscriptions().map_err(self.failed())?;
        Ok(wire::ListSubscriptionsResponse { subscriptions: listed.into_iter().map(message).collect() })
    }

    pub(super) async fn push_transfer(
        &self,
        request: wire::PushTransferRequest,
    ) -> Result<wire::PushTransferResponse, Status> {
        let wire::PushTransferRequest { contract, id } = request;
        let contract = contract_id("contract", &contract).map_err(self.failed())?;
        let id = fixed("id", &id).map_err(self.failed())?;
        self.transfers()?.push(&contract, id).await.map_err(self.failed())?;
        Ok(wire::PushTransferResponse {})
    }
}

fn command(request: wire::SubscribeRequest) -> Result<Subscribe, ServiceError> {
    let wire::SubscribeRequest { contract, directory: path, priority: name, cron, time_zone, push } = request;
    let zone = if time_zone.is_empty() { None } else { Some(time_zone.as_str()) };
    let schedule = match (cron.as_str(), zone) {
        ("", None) => None,
        ("", Some(_)) => return Err(ServiceError::invalid("time_zone", "is that of a schedule; name one")),
        (cron, zone) => Some(Schedule::parse(cron, zone)?),
    };
    Ok(Subscribe {
        contract: contract_id("contract", &contract)?,
        directory: directory(path),
        priority: priority(&name)?,
        schedule,
        push,
    })
}

fn message(subscription: Subscription) -> wire::Subscription {
    let due = subscription.due();
    let Subscription { contract, directory, priority, schedule, push, last, note, .. } = subscription;
    let schedule = schedule.as_ref();
    wire::Subscription {
        contract: contract.to_string(),
        directory: directory.display().to_string(),
        priority: priority.name().to_owned(),
        cron: schedule.map(|schedule| schedule.expression().to_owned()).unwrap_or_default(),
        time_zone: schedule.and_then(|schedule| schedule.zone()).unwrap_or_default().to_owned(),
        push,
        due_milliseconds: due.map_or(0, |due| due.millis()),
        last_transfer: last.map(|id| id.to_vec()).unwrap_or_default().into(),
        note,
    }
}
