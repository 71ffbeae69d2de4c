//! `huitong ledger` and `huitong outbox`: what the node has put on record, and what it still has to tell others.

use huitong_grpc::proto::admin as api;
use serde_json::json;

use crate::admin::{Admin, Client};
use crate::cli::{Global, Ledger};
use crate::commands::list;
use crate::exit::Failure;
use crate::output::{Output, moment, table};
use crate::{operations, views};

pub(crate) async fn run(command: &Ledger, global: &Global, output: Output) -> Result<(), Failure> {
    let admin = Admin::open(global, output).await?;
    match command {
        Ledger::Checkpoint => {
            let request = api::GetCheckpointRequest {};
            let checkpoint =
                admin.call(async |mut client: Client| client.get_checkpoint(request).await).await?.checkpoint;
            output.result(&json!({ "checkpoint": checkpoint }), || checkpoint.clone());
        }
        Ledger::List { limit } => {
            let statements = operations::statements(&admin, *limit).await?;
            output.result(&list("statements", statements.iter().map(views::statement)), || {
                let rows: Vec<_> = statements.iter().map(statement_row).collect();
                table(&["index", "time", "kind", "issuer", "audience", "note"], &rows, "the ledger is empty")
            });
        }
    }
    Ok(())
}

pub(crate) async fn outbox(global: &Global, output: Output) -> Result<(), Failure> {
    let admin = Admin::open(global, output).await?;
    let request = api::ListOutboxRequest {};
    let messages = admin.call(async |mut client: Client| client.list_outbox(request).await).await?.messages;
    output.result(&list("messages", messages.iter().map(views::outbox_message)), || {
        let rows: Vec<_> = messages.iter().map(message_row).collect();
        table(&["id", "since", "to", "topic", "tries", "last error"], &rows, "nothing waits")
    });
    Ok(())
}

fn statement_row(statement: &api::LoggedStatement) -> Vec<String> {
    vec![
        statement.index.to_string(),
        moment(statement.time_milliseconds),
        statement.kind.clone(),
        statement.issuer.clone(),
        statement.audience.clone(),
        statement.note.clone(),
    ]
}

fn message_row(message: &api::OutboxMessage) -> Vec<String> {
    let error = match message.dead {
        true => format!("given up: {}", message.last_error),
        false => message.last_error.clone(),
    };
    vec![
        message.id.to_string(),
        moment(message.created_milliseconds),
        message.destination.clone(),
        message.topic.clone(),
        message.attempts.to_string(),
        error,
    ]
}
