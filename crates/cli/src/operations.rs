//! What an operator does with a node, as functions over its admin client. The commands and the demo share them.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use huitong_grpc::proto::admin as api;
use huitong_proof::{SystemClock, SystemEntropy, time_ordered_id};
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::admin::{Admin, Client};
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// How often a node that starts is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(10);

/// A fresh operation id.
pub(crate) fn new_id() -> Uuid {
    Uuid::from_bytes(time_ordered_id(&SystemClock, &SystemEntropy))
}

/// An id of the interface as text; hex when it is no UUID.
pub(crate) fn id_text(id: &[u8]) -> String {
    Uuid::from_slice(id).map_or_else(|_| hex::encode(id), |id| id.to_string())
}

/// An id as the interface carries it.
pub(crate) fn id_bytes(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// The path as the node must be told it, which has its own working directory; a URL is the same everywhere.
pub(crate) fn absolute(path: &Path) -> Result<String, Failure> {
    if let Some(url) = path.to_str().filter(|text| text.contains("://")) {
        return Ok(url.to_owned());
    }
    let absolute = std::path::absolute(path).map_err(|error| Failure::file("find", path, &error))?;
    absolute.into_os_string().into_string().map_err(|name| {
        Failure::failed(
            "file.name",
            format!("the path {} is not UTF-8", Path::new(&name).display()),
            "rename the file or its directory",
        )
    })
}

/// Waits until the node takes work; gives its account of itself.
pub(crate) async fn ready(admin: &Admin, patience: Duration) -> Result<api::GetStatusResponse, Failure> {
    let deadline = Instant::now() + patience;
    let probe = admin.clone().impatient();
    loop {
        let failure = match probe.status().await {
            Ok(status) if status.ready => return Ok(status),
            Ok(status) => Failure::failed(
                "node.not-ready",
                format!("the node is not ready: {}", status.not_ready_reason),
                "look at the node's log, or run `huitong doctor`",
            ),
            Err(failure) => failure,
        };
        if Instant::now() >= deadline {
            return Err(failure);
        }
        sleep(READY_POLL).await;
    }
}

/// Publishes and waits until the product is listed. `progress` hears how many bytes are hashed.
pub(crate) async fn publish(
    admin: &Admin,
    request: api::PublishRequest,
    mut progress: impl FnMut(u64),
) -> Result<api::Publication, Failure> {
    let publication = admin
        .watch(
            async |mut client: Client| client.publish(request.clone()).await,
            |answer: api::PublishResponse| {
                let Some(publication) = answer.publication else { return ControlFlow::Continue(()) };
                progress(answer.bytes_hashed);
                match publication.state.as_str() {
                    "listed" | "failed" => ControlFlow::Break(publication),
                    _ => ControlFlow::Continue(()),
                }
            },
        )
        .await?;
    if publication.state == "failed" {
        return Err(Failure::new(
            Exit::Refused,
            "catalog.refused",
            format!("the product was not listed: {}", publication.reason),
            "correct what the reason names and publish again with a new id",
        ));
    }
    Ok(publication)
}

/// Tells the consumer of a contract that there is something to fetch.
pub(crate) async fn push(admin: &Admin, contract: &str) -> Result<(), Failure> {
    let id = id_bytes(new_id()).into();
    let request = api::PushTransferRequest { contract: contract.to_owned(), id };
    admin.call(async |mut client: Client| client.push_transfer(request.clone()).await).await?;
    Ok(())
}

/// Starts a negotiation, or finds the one with this id.
pub(crate) async fn negotiate(
    admin: &Admin,
    request: api::NegotiateRequest,
) -> Result<api::Negotiation, Failure> {
    let answer = admin.call(async |mut client: Client| client.negotiate(request.clone()).await).await?;
    answer.negotiation.ok_or_else(|| missing("negotiation"))
}

/// What a negotiation waits for before a command returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// It has ended, or our operator has to decide.
    Decision,
    /// It has ended.
    End,
}

/// Follows a negotiation. When `patience` is over, what is known then is the answer.
pub(crate) async fn settle(
    admin: &Admin,
    id: &[u8],
    until: Until,
    patience: Duration,
) -> Result<api::Negotiation, Failure> {
    let request = api::WatchNegotiationRequest { id: id.to_vec().into() };
    let mut latest = None;
    let watching = admin.watch(
        async |mut client: Client| client.watch_negotiation(request.clone()).await,
        |answer: api::WatchNegotiationResponse| {
            let Some(negotiation) = answer.negotiation else { return ControlFlow::Continue(()) };
            latest = Some(negotiation.clone());
            let over = is_over(&negotiation) || until == Until::Decision && needs_operator(&negotiation);
            if over { ControlFlow::Break(negotiation) } else { ControlFlow::Continue(()) }
        },
    );
    match timeout(patience, watching).await {
        Ok(settled) => settled,
        Err(_) => latest.ok_or_else(|| {
            Failure::failed(
                "timeout",
                "the node did not say where the negotiation stands in time",
                "ask again with `huitong contract show`",
            )
        }),
    }
}

/// One negotiation as it stands now.
pub(crate) async fn negotiation(admin: &Admin, id: Uuid) -> Result<api::Negotiation, Failure> {
    let request = api::WatchNegotiationRequest { id: id_bytes(id).into() };
    admin
        .watch(
            async |mut client: Client| client.watch_negotiation(request.clone()).await,
            |answer: api::WatchNegotiationResponse| match answer.negotiation {
                Some(negotiation) => ControlFlow::Break(negotiation),
                None => ControlFlow::Continue(()),
            },
        )
        .await
}

/// Whether a negotiation has reached its contract or its end.
pub(crate) fn is_over(negotiation: &api::Negotiation) -> bool {
    matches!(negotiation.state.as_str(), "FINALIZED" | "TERMINATED")
}

/// Whether a counter-offer waits for us, or a request for our approval.
pub(crate) fn needs_operator(negotiation: &api::Negotiation) -> bool {
    negotiation.side == "consumer" && negotiation.state == "OFFERED"
}

/// Decides about a negotiation.
pub(crate) async fn decide(
    admin: &Admin,
    id: &[u8],
    decision: api::NegotiationDecision,
    reason: &str,
) -> Result<api::Negotiation, Failure> {
    let request = api::DecideNegotiationRequest {
        id: id.to_vec().into(),
        decision: decision.into(),
        reason: reason.to_owned(),
    };
    let answer =
        admin.call(async |mut client: Client| client.decide_negotiation(request.clone()).await).await?;
    answer.negotiation.ok_or_else(|| missing("negotiation"))
}

/// Starts a transfer, or finds the one with this id.
pub(crate) async fn start(admin: &Admin, request: api::StartTransferRequest) -> Result<Uuid, Failure> {
    let answer = admin.call(async |mut client: Client| client.start_transfer(request.clone()).await).await?;
    let transfer = answer.transfer.ok_or_else(|| missing("transfer"))?;
    Uuid::from_slice(&transfer.id).map_err(|_| missing("transfer id"))
}

/// Starts a transfer and follows it to its end, which may be a refusal: look at its state.
pub(crate) async fn fetch(
    admin: &Admin,
    request: api::StartTransferRequest,
    progress: impl FnMut(&api::Transfer),
) -> Result<api::Transfer, Failure> {
    let id = start(admin, request).await?;
    follow(admin, id, progress).await
}

/// Pauses, resumes or cancels a transfer.
pub(crate) async fn control(
    admin: &Admin,
    id: Uuid,
    action: api::TransferAction,
    reason: String,
) -> Result<api::Transfer, Failure> {
    let request = api::ControlTransferRequest { id: id_bytes(id).into(), action: action.into(), reason };
    let answer =
        admin.call(async |mut client: Client| client.control_transfer(request.clone()).await).await?;
    answer.transfer.ok_or_else(|| missing("transfer"))
}

/// Follows a transfer to its end, which may be a refusal: look at its state.
pub(crate) async fn follow(
    admin: &Admin,
    id: Uuid,
    mut progress: impl FnMut(&api::Transfer),
) -> Result<api::Transfer, Failure> {
    let request = api::WatchTransferRequest { id: id_bytes(id).into() };
    admin
        .watch(
            async |mut client: Client| client.watch_transfer(request.clone()).await,
            |answer: api::WatchTransferResponse| {
                let Some(transfer) = answer.transfer else { return ControlFlow::Continue(()) };
                progress(&transfer);
                match transfer.state.as_str() {
                    "COMPLETED" if deposit_state(&transfer) == "open" => ControlFlow::Continue(()),
                    "COMPLETED" | "TERMINATED" => ControlFlow::Break(transfer),
                    _ => ControlFlow::Continue(()),
                }
            },
        )
        .await
}

/// How far the deposit of a transfer is; empty for one that stays where it is received.
pub(crate) fn deposit_state(transfer: &api::Transfer) -> &str {
    transfer.deposit.as_ref().map_or("", |deposit| &deposit.state)
}

/// One transfer as it stands now.
pub(crate) async fn transfer(admin: &Admin, id: Uuid) -> Result<api::Transfer, Failure> {
    let request = api::WatchTransferRequest { id: id_bytes(id).into() };
    admin
        .watch(
            async |mut client: Client| client.watch_transfer(request.clone()).await,
            |answer: api::WatchTransferResponse| match answer.transfer {
                Some(transfer) => ControlFlow::Break(transfer),
                None => ControlFlow::Continue(()),
            },
        )
        .await
}

/// Waits until both ledgers' proofs of a completed transfer are here, so that its receipt is complete.
/// Gives the transfer as it is when `patience` is over.
pub(crate) async fn proven(admin: &Admin, id: Uuid, patience: Duration) -> Result<api::Transfer, Failure> {
    let request = api::WatchTransferRequest { id: id_bytes(id).into() };
    let watching = admin.watch(
        async |mut client: Client| client.watch_transfer(request.clone()).await,
        |answer: api::WatchTransferResponse| match answer.transfer {
            Some(transfer) if transfer.proven || transfer.state == "TERMINATED" => {
                ControlFlow::Break(transfer)
            }
            _ => ControlFlow::Continue(()),
        },
    );
    match timeout(patience, watching).await {
        Ok(transfer) => transfer,
        Err(_) => transfer(admin, id).await,
    }
}

/// Waits until witnesses have cosigned both proofs of a transfer as this node's policy demands. Gives the transfer as
/// it is when `patience` is over.
pub(crate) async fn made_final(
    admin: &Admin,
    id: Uuid,
    patience: Duration,
) -> Result<api::Transfer, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let known = transfer(admin, id).await?;
        if known.finality == "final" || Instant::now() >= deadline {
            return Ok(known);
        }
        sleep(READY_POLL).await;
    }
}

/// The quorum policy in force.
pub(crate) async fn policy(admin: &Admin) -> Result<String, Failure> {
    let request = api::GetQuorumPolicyRequest {};
    Ok(admin.call(async |mut client: Client| client.get_quorum_policy(request).await).await?.policy)
}

/// The receipt's bytes.
pub(crate) async fn receipt(admin: &Admin, id: Uuid) -> Result<Vec<u8>, Failure> {
    let request = api::ExportReceiptRequest { id: id_bytes(id).into() };
    let answer = admin.call(async |mut client: Client| client.export_receipt(request.clone()).await).await?;
    Ok(answer.receipt.to_vec())
}

/// The trust file's text.
pub(crate) async fn trust(admin: &Admin) -> Result<String, Failure> {
    let answer =
        admin.call(async |mut client: Client| client.export_trust(api::ExportTrustRequest {}).await).await?;
    Ok(answer.json)
}

/// The newest statements of the node's ledger.
pub(crate) async fn statements(admin: &Admin, limit: u64) -> Result<Vec<api::LoggedStatement>, Failure> {
    let request = api::ListStatementsRequest { limit };
    let answer = admin.call(async |mut client: Client| client.list_statements(request).await).await?;
    Ok(answer.statements)
}

/// How far the ledger is signed and final, and who vouches for it.
pub(crate) async fn evidence(admin: &Admin) -> Result<api::GetEvidenceResponse, Failure> {
    admin.call(async |mut client: Client| client.get_evidence(api::GetEvidenceRequest {}).await).await
}

/// Gets back what the node has lost; the answer is the report.
pub(crate) async fn state_logs(admin: &Admin) -> Result<Vec<api::LogsStatement>, Failure> {
    let request = api::StateLogsRequest {};
    let stated = admin.call(async |mut client: Client| client.state_logs(request).await).await?;
    Ok(stated.statement.into_iter().collect())
}

pub(crate) async fn logs(
    admin: &Admin,
    limit: u32,
    checkpoints: bool,
) -> Result<Vec<api::LogsStatement>, Failure> {
    let request = api::ListLogsRequest { limit, checkpoints };
    Ok(admin.call(async |mut client: Client| client.list_logs(request).await).await?.statements)
}

pub(crate) async fn recover(admin: &Admin, output: Output) -> Result<api::RecoverLedgerResponse, Failure> {
    let bar = output.steps();
    let report = admin
        .follow(
            async |mut client: Client| client.recover_ledger(api::RecoverLedgerRequest {}).await,
            |step: &api::RecoverLedgerResponse| show(&bar, &step.step, step.done, step.total, "entries"),
        )
        .await;
    bar.finish_and_clear();
    report?.filter(|report| report.step.is_empty()).ok_or_else(|| missing("report"))
}

/// Has a running node back up its store; the answer is the report.
pub(crate) async fn back_up(
    admin: &Admin,
    directory: &Path,
    output: Output,
) -> Result<api::BackUpStoreResponse, Failure> {
    let request = api::BackUpStoreRequest { directory: absolute(directory)? };
    let bar = output.steps();
    let report = admin
        .follow(
            async |mut client: Client| client.back_up_store(request.clone()).await,
            |step: &api::BackUpStoreResponse| show(&bar, &step.step, step.done, step.total, &step.unit),
        )
        .await;
    bar.finish_and_clear();
    report?.filter(|report| report.step.is_empty()).ok_or_else(|| missing("report"))
}

/// Moves a bar of [`Output::steps`] on.
pub(crate) fn show(bar: &ProgressBar, step: &str, done: u64, total: u64, unit: &str) {
    bar.set_message(step.to_owned());
    bar.set_prefix(unit.to_owned());
    bar.set_length(total.max(done));
    bar.set_position(done);
}

fn missing(what: &str) -> Failure {
    Failure::failed(
        "node.answer",
        format!("the node's answer carries no {what}"),
        "use a `huitong` of the node's version",
    )
}
