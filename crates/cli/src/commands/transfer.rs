//! `huitong transfer`: fetching data under a contract, and looking at what has moved.

use std::time::Duration;

use huitong_grpc::proto::admin as api;

use crate::admin::{Admin, Client};
use crate::cli::{Global, Transfer};
use crate::commands::{list, operation_id};
use crate::exit::{Exit, Failure};
use crate::output::{Output, bytes, moment, table};
use crate::{operations, views};

/// How long a completed fetch waits for the other ledger's proofs before it returns.
const PROOF_PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn run(command: Transfer, global: &Global, output: Output) -> Result<(), Failure> {
    let admin = Admin::open(global, output).await?;
    match command {
        Transfer::Fetch { contract, product, to, id } => {
            let id = operation_id(id, output);
            let directory = match to {
                Some(directory) => operations::absolute(&directory)?,
                None => String::new(),
            };
            let id = operations::id_bytes(id).into();
            let product = product.unwrap_or_default();
            let request = api::StartTransferRequest { id, contract, product, directory };
            fetch(&admin, request, output).await?;
        }
        Transfer::List => {
            let request = api::ListTransfersRequest {};
            let transfers =
                admin.call(async |mut client: Client| client.list_transfers(request).await).await?.transfers;
            output.result(&list("transfers", transfers.iter().map(views::transfer)), || {
                let rows: Vec<_> = transfers.iter().map(row).collect();
                table(&["transfer", "side", "state", "bytes", "contract", "reason"], &rows, "no transfer yet")
            });
        }
        Transfer::Show { id } => {
            let transfer = operations::transfer(&admin, id).await.map_err(|failure| unknown(failure, id))?;
            output.result(&views::transfer(&transfer), || describe(&transfer));
        }
    }
    Ok(())
}

async fn fetch(admin: &Admin, request: api::StartTransferRequest, output: Output) -> Result<(), Failure> {
    let bar = output.progress("receiving");
    let id = operations::id_text(&request.id);
    let mut obstacle = String::new();
    let moving = operations::fetch(admin, request, |transfer| {
        bar.set_length(transfer.size);
        bar.set_position(transfer.bytes_acknowledged);
        let reason = &transfer.reason;
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
    let mut transfer = transfer.map_err(|failure| match failure.message.starts_with("directory: ") {
        true => failure.or_next("name with --to a directory that the node can make or write"),
        false => failure,
    })?;
    if transfer.state == "TERMINATED" {
        return Err(Failure::new(
            Exit::Refused,
            transfer.code,
            transfer.reason,
            "read the contract with `huitong contract show`, or negotiate a new one",
        ));
    }
    if let Ok(id) = uuid::Uuid::from_slice(&transfer.id) {
        transfer = operations::proven(admin, id, PROOF_PATIENCE).await?;
    }
    output.result(&views::transfer(&transfer), || describe(&transfer));
    Ok(())
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
            true => bytes(transfer.size),
            false => format!("{} of {}", bytes(transfer.bytes_acknowledged), bytes(transfer.size)),
        }
    );
    for (name, value) in [
        ("blake3    ", &transfer.blake3),
        ("file      ", &transfer.path),
        ("code      ", &transfer.code),
        ("reason    ", &transfer.reason),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("{name} {value}\n"));
        }
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

fn row(transfer: &api::Transfer) -> Vec<String> {
    let reason = match transfer.code.as_str() {
        "" => transfer.reason.clone(),
        code => format!("{code}: {}", transfer.reason),
    };
    vec![
        operations::id_text(&transfer.id),
        transfer.side.clone(),
        transfer.state.clone(),
        format!("{}/{}", transfer.bytes_acknowledged, transfer.size),
        transfer.contract.clone(),
        reason,
    ]
}
