//! `huitong transfer`: fetching data under a contract, controlling what moves, and looking at what has moved.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use huitong_grpc::proto::admin as api;
use serde_json::json;
use uuid::Uuid;

use crate::admin::{Admin, Client};
use crate::cli::{Global, Transfer, Wanted};
use crate::commands::{list, operation_id};
use crate::exit::{Exit, Failure};
use crate::output::{Output, bytes, content, moment, table};
use crate::{operations, views};

/// How long a completed fetch waits for the other ledger's proofs before it returns.
const PROOF_PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn run(command: Transfer, global: &Global, output: Output) -> Result<(), Failure> {
    let admin = Admin::open(global, output).await?;
    match command {
        Transfer::Fetch(wanted) => {
            let id = operations::start(&admin, request(wanted, output)?).await;
            follow(&admin, id.map_err(name_a_directory)?, output, |_| {}).await?;
        }
        Transfer::Start(wanted) => {
            let id = operations::start(&admin, request(wanted, output)?).await;
            let transfer = operations::transfer(&admin, id.map_err(name_a_directory)?).await?;
            output.result(&views::transfer(&transfer), || describe(&transfer));
        }
        Transfer::Watch { id: None } => watch_all(&admin, output).await?,
        Transfer::Watch { id: Some(id) } => {
            operations::transfer(&admin, id).await.map_err(|failure| unknown(failure, id))?;
            follow(&admin, id, output, |transfer| output.step(|| views::transfer(transfer))).await?;
        }
        Transfer::Pause { id, reason } => {
            control(&admin, id, api::TransferAction::Pause, reason, output).await?;
        }
        Transfer::Resume { id } => {
            control(&admin, id, api::TransferAction::Resume, String::new(), output).await?;
        }
        Transfer::Cancel { id, reason } => {
            control(&admin, id, api::TransferAction::Cancel, reason, output).await?;
        }
        Transfer::Limit { rate, each_peer, each_contract, transfer } => {
            let limit = match (rate, each_peer, each_contract, transfer) {
                (None, ..) => api::TransferLimit::Unspecified,
                (_, true, ..) => api::TransferLimit::EachPeer,
                (_, _, true, _) => api::TransferLimit::EachContract,
                (.., Some(_)) => api::TransferLimit::Transfer,
                (..) => api::TransferLimit::Node,
            };
            let id = transfer.map(operations::id_bytes).unwrap_or_default().into();
            let bytes_per_second = rate.unwrap_or_default();
            let request = api::LimitTransfersRequest { limit: limit.into(), id, bytes_per_second };
            let answer =
                admin.call(async |mut client: Client| client.limit_transfers(request.clone()).await).await?;
            output.result(&views::limits(answer), || {
                let shown =
                    |rate: u64| if rate == 0 { "no limit".to_owned() } else { bytes(rate) + " a second" };
                format!(
                    "node           {}\neach peer      {}\neach contract  {}\n",
                    shown(answer.node),
                    shown(answer.each_peer),
                    shown(answer.each_contract)
                )
            });
        }
        Transfer::Subscribe { contract, cron, time_zone, push, to, priority } => {
            let directory = directory(to)?;
            let (cron, time_zone) = (cron.unwrap_or_default(), time_zone.unwrap_or_default());
            let request = api::SubscribeRequest { contract, directory, priority, cron, time_zone, push };
            let answer = admin.call(async |mut client: Client| client.subscribe(request.clone()).await).await;
            show(answer.map_err(name_a_directory)?.subscription, output);
        }
        Transfer::Unsubscribe { contract } => {
            let request = api::UnsubscribeRequest { contract };
            let answer =
                admin.call(async |mut client: Client| client.unsubscribe(request.clone()).await).await?;
            show(answer.subscription, output);
        }
        Transfer::Subscriptions => {
            let request = api::ListSubscriptionsRequest {};
            let answer =
                admin.call(async |mut client: Client| client.list_subscriptions(request).await).await?;
            let listed = answer.subscriptions;
            output.result(&list("subscriptions", listed.iter().map(views::subscription)), || {
                let rows: Vec<_> = listed.iter().map(subscription_row).collect();
                table(&["contract", "when", "next", "last transfer", "note"], &rows, "no subscription yet")
            });
        }
        Transfer::Push { contract } => {
            operations::push(&admin, &contract).await?;
            output.result(&json!({ "contract": contract }), || {
                "the consumer is told; `huitong outbox list` shows what it has not heard or has refused"
                    .to_owned()
            });
        }
        Transfer::List => {
            let request = api::ListTransfersRequest {};
            let transfers =
                admin.call(async |mut client: Client| client.list_transfers(request).await).await?.transfers;
            output.result(&list("transfers", transfers.iter().map(views::transfer)), || {
                let rows: Vec<_> = transfers.iter().map(row).collect();
                let columns = [
                    "transfer", "side", "state", "bytes", "groups", "seconds", "bytes/s", "contract",
                    "reason",
                ];
                table(&columns, &rows, "no transfer yet")
            });
        }
        Transfer::Show { id } => {
            let transfer = operations::transfer(&admin, id).await.map_err(|failure| unknown(failure, id))?;
            output.result(&views::transfer(&transfer), || describe(&transfer));
        }
    }
    Ok(())
}

fn request(wanted: Wanted, output: Output) -> Result<api::StartTransferRequest, Failure> {
    let Wanted { contract, product, to, priority, id } = wanted;
    let directory = directory(to)?;
    let id = operations::id_bytes(operation_id(id, output)).into();
    Ok(api::StartTransferRequest { id, contract, product: product.unwrap_or_default(), directory, priority })
}

fn directory(to: Option<PathBuf>) -> Result<String, Failure> {
    to.map_or_else(|| Ok(String::new()), |directory| operations::absolute(&directory))
}

fn show(subscription: Option<api::Subscription>, output: Output) {
    let subscription = subscription.unwrap_or_default();
    output.result(&views::subscription(&subscription), || {
        let row = subscription_row(&subscription);
        let names = ["contract", "when    ", "next    ", "last    ", "note    "];
        let lines = names.into_iter().zip(row).filter(|(_, value)| !value.is_empty());
        let lines = lines.map(|(name, value)| format!("{name}  {value}\n"));
        lines.chain([format!("to        {}\n", subscription.directory)]).collect()
    });
}

fn subscription_row(subscription: &api::Subscription) -> Vec<String> {
    let when = match (subscription.cron.as_str(), subscription.push) {
        ("", _) => "when the provider pushes".to_owned(),
        (cron, false) => format!("{cron} {}", subscription.time_zone),
        (cron, true) => format!("{cron} {}, and when the provider pushes", subscription.time_zone),
    };
    let last = match subscription.last_transfer.is_empty() {
        true => String::new(),
        false => operations::id_text(&subscription.last_transfer),
    };
    vec![
        subscription.contract.clone(),
        when,
        moment(subscription.due_milliseconds),
        last,
        subscription.note.clone(),
    ]
}

/// Shows what moves, until the operator has seen enough.
async fn watch_all(admin: &Admin, output: Output) -> Result<(), Failure> {
    let request = api::WatchTransfersRequest {};
    let watching = admin.watch(
        async |mut client: Client| client.watch_transfers(request).await,
        |answer: api::WatchTransfersResponse| {
            if let Some(transfer) = answer.transfer {
                output.result(&views::transfer(&transfer), || row(&transfer).join("  "));
            }
            ControlFlow::<()>::Continue(())
        },
    );
    tokio::select! {
        ended = watching => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn control(
    admin: &Admin,
    id: Uuid,
    action: api::TransferAction,
    reason: String,
    output: Output,
) -> Result<(), Failure> {
    let transfer = operations::control(admin, id, action, reason).await;
    let transfer = transfer.map_err(|failure| unknown(failure, id))?;
    output.result(&views::transfer(&transfer), || describe(&transfer));
    Ok(())
}

/// Waits until the transfer has ended, and shows how. Each change on the way goes to `each`.
async fn follow(
    admin: &Admin,
    id: Uuid,
    output: Output,
    each: impl Fn(&api::Transfer),
) -> Result<(), Failure> {
    let bar = output.progress("moving");
    let mut obstacle = String::new();
    let moving = operations::follow(admin, id, |transfer| {
        each(transfer);
        bar.set_length(transfer.size);
        bar.set_position(transfer.bytes_acknowledged);
        let reason = match transfer.deposit.as_ref().filter(|deposit| deposit.state == "open") {
            Some(deposit) if transfer.state == "COMPLETED" => &deposit.reason,
            _ => &transfer.reason,
        };
        if transfer.state != "TERMINATED" && !reason.is_empty() && *reason != obstacle {
            obstacle.clone_from(reason);
            bar.suspend(|| output.note(&format!("held up: {obstacle}")));
        }
    });
    let transfer = tokio::select! {
        transfer = moving => transfer,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed(
            "interrupted",
            "not waiting any longer; the node goes on with the transfer",
            format!("look with `huitong transfer show {id}`, or wait again by repeating the command with --id {id}"),
        )),
    };
    bar.finish_and_clear();
    let mut transfer = transfer?;
    if transfer.state == "TERMINATED" {
        return Err(Failure::new(
            Exit::Refused,
            transfer.code,
            transfer.reason,
            "read the contract with `huitong contract show`, or negotiate a new one",
        ));
    }
    if let Some(deposit) = transfer.deposit.as_ref().filter(|deposit| deposit.state == "failed") {
        return Err(Failure::failed(
            "deposit.failed",
            format!("received, but not put into {}: {}", deposit.location, deposit.reason),
            format!(
                "what was received stays in {}; `huitong transfer resume {id}` tries again",
                transfer.path
            ),
        ));
    }
    if transfer.side == "consumer" {
        transfer = operations::proven(admin, id, PROOF_PATIENCE).await?;
    }
    output.result(&views::transfer(&transfer), || describe(&transfer));
    Ok(())
}

fn name_a_directory(failure: Failure) -> Failure {
    match failure.message.starts_with("directory: ") {
        true => failure.or_next("name with --to a directory that the node can make or write"),
        false => failure,
    }
}

/// A transfer that the node does not know, by the id as it is printed elsewhere.
pub(crate) fn unknown(failure: Failure, id: uuid::Uuid) -> Failure {
    if !failure.is_unknown() {
        return failure;
    }
    let message = format!("this node has no transfer with the id {id}");
    Failure::failed("transfer.unknown", message, "see `huitong transfer list`")
}

fn describe(transfer: &api::Transfer) -> String {
    let mut text = format!(
        "transfer   {}\nstate      {}\ncontract   {}\nproduct    {}\nbytes      {}\n",
        operations::id_text(&transfer.id),
        transfer.state,
        transfer.contract,
        transfer.product,
        match transfer.bytes_acknowledged == transfer.size {
            true => content(transfer.size, transfer.files),
            false => format!(
                "{} of {}",
                bytes(transfer.bytes_acknowledged),
                content(transfer.size, transfer.files)
            ),
        }
    );
    if transfer.version > 0 {
        text.push_str(&format!("version    {}\n", transfer.version));
    }
    let deposit = transfer.deposit.as_ref().map(deposited).unwrap_or_default();
    for (name, value) in [
        ("blake3    ", &transfer.blake3),
        ("file      ", &transfer.path),
        ("deposit   ", &deposit),
        ("code      ", &transfer.code),
        ("reason    ", &transfer.reason),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("{name} {value}\n"));
        }
    }
    if let Some(metering) = transfer.metering.as_ref().filter(|metering| metering.bytes > 0) {
        text.push_str(&format!("moved      {}\n", moved(metering, transfer.groups)));
    }
    let receipt = match (transfer.state.as_str(), transfer.proven) {
        (_, true) => "complete: both ledgers have proven their statements",
        ("COMPLETED", false) => "waits for the other ledger's proofs",
        _ => "none yet",
    };
    text + &format!(
        "receipt    {receipt}\nstarted    {}\nfinished   {}\n",
        moment(transfer.started_milliseconds),
        moment(transfer.finished_milliseconds)
    )
}

/// Where a delivery goes, and how far that is.
fn deposited(deposit: &api::Deposit) -> String {
    let api::Deposit { location, path, state, reason } = deposit;
    let place = if path.is_empty() { location } else { path };
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{place} {state}{why}")
}

/// What was moved, by the statements of both sides.
fn moved(metering: &api::Metering, groups: u64) -> String {
    let rate = match metering.bytes_per_second {
        0 => String::new(),
        rate => format!(", {} a second", bytes(rate)),
    };
    format!(
        "{} in {} of {groups} groups, {} s{rate}",
        bytes(metering.bytes),
        metering.groups,
        seconds(metering.milliseconds)
    )
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

fn row(transfer: &api::Transfer) -> Vec<String> {
    let reason = match (transfer.code.as_str(), &transfer.deposit) {
        ("", Some(deposit)) if transfer.state == "COMPLETED" => format!("deposit {}", deposited(deposit)),
        ("", _) => transfer.reason.clone(),
        (code, _) => format!("{code}: {}", transfer.reason),
    };
    let metering = transfer.metering.unwrap_or_default();
    vec![
        operations::id_text(&transfer.id),
        transfer.side.clone(),
        transfer.state.clone(),
        format!("{}/{}", transfer.bytes_acknowledged, transfer.size),
        format!("{}/{}", metering.groups, transfer.groups),
        seconds(metering.milliseconds),
        metering.bytes_per_second.to_string(),
        transfer.contract.clone(),
        reason,
    ]
}
