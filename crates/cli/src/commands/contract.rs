//! `huitong contract`: negotiating, reading and deciding.

use huitong_grpc::proto::admin as api;
use uuid::Uuid;

use crate::admin::{Admin, Client};
use crate::cli::{Contract, Global, Lang};
use crate::commands::catalog::read_policy;
use crate::commands::{list, operation_id};
use crate::exit::{Exit, Failure};
use crate::operations::{self, Until};
use crate::output::{Output, moment, table};
use crate::views;

pub(crate) async fn run(command: Contract, global: &Global, output: Output) -> Result<(), Failure> {
    let admin = Admin::open(global, output).await?;
    match command {
        Contract::Negotiate { product, policy, accept_counter, id, timeout } => {
            let policy = policy.map(|path| read_policy(&path)).transpose()?.unwrap_or_default();
            let id = operations::id_bytes(operation_id(id, output));
            let request = api::NegotiateRequest {
                id: id.clone().into(),
                product,
                policy: policy.into(),
                accept_counter_offer: accept_counter,
            };
            operations::negotiate(&admin, request).await?;
            conclude(&operations::settle(&admin, &id, Until::Decision, timeout).await?, output)
        }
        Contract::Show { id, lang } => {
            let negotiation = find(&admin, &id).await?;
            output.result(&views::negotiation(&negotiation), || describe(&negotiation, lang));
            Ok(())
        }
        Contract::List => {
            let negotiations = negotiations(&admin).await?;
            output.result(&list("negotiations", negotiations.iter().map(views::negotiation)), || {
                let rows: Vec<_> = negotiations.iter().map(row).collect();
                table(&["negotiation", "side", "product", "state", "contract"], &rows, "no negotiation yet")
            });
            Ok(())
        }
        Contract::Accept { id, timeout } => {
            let id = negotiation_id(&admin, &id).await?;
            operations::decide(&admin, &id, api::NegotiationDecision::Accept, "").await?;
            conclude(&operations::settle(&admin, &id, Until::End, timeout).await?, output)
        }
        Contract::Approve { id } => decide(&admin, &id, api::NegotiationDecision::Approve, "", output).await,
        Contract::Terminate { id, reason } => {
            decide(&admin, &id, api::NegotiationDecision::Terminate, &reason, output).await
        }
    }
}

async fn decide(
    admin: &Admin,
    id: &str,
    decision: api::NegotiationDecision,
    reason: &str,
    output: Output,
) -> Result<(), Failure> {
    let id = negotiation_id(admin, id).await?;
    let negotiation = operations::decide(admin, &id, decision, reason).await?;
    output.result(&views::negotiation(&negotiation), || {
        format!("{} is {}", operations::id_text(&negotiation.id), negotiation.state)
    });
    Ok(())
}

/// Prints where a negotiation stands after waiting, and what follows from it.
fn conclude(negotiation: &api::Negotiation, output: Output) -> Result<(), Failure> {
    let id = operations::id_text(&negotiation.id);
    if negotiation.state == "TERMINATED" {
        return Err(Failure::new(
            Exit::Refused,
            "contract.terminated",
            format!("negotiation {id} has ended without a contract: {}", negotiation.reason),
            "negotiate again with terms that the reason allows",
        ));
    }
    output.result(&views::negotiation(negotiation), || describe(negotiation, Lang::En));
    if operations::needs_operator(negotiation) {
        output.note(&format!(
            "the provider made a counter-offer: accept it with `huitong contract accept {id}`, or end it with \
             `huitong contract terminate {id}`"
        ));
    } else if !operations::is_over(negotiation) {
        output.note(&format!("not settled yet: look again with `huitong contract show {id}`"));
    }
    Ok(())
}

async fn negotiations(admin: &Admin) -> Result<Vec<api::Negotiation>, Failure> {
    let request = api::ListNegotiationsRequest {};
    Ok(admin.call(async |mut client: Client| client.list_negotiations(request).await).await?.negotiations)
}

/// Finds a negotiation by its own id or by its contract's.
async fn find(admin: &Admin, text: &str) -> Result<api::Negotiation, Failure> {
    let found = match Uuid::parse_str(text) {
        Ok(id) => Some(operations::negotiation(admin, id).await?),
        Err(_) => negotiations(admin).await?.into_iter().find(|one| one.contract == text),
    };
    found.ok_or_else(|| unknown(text))
}

async fn negotiation_id(admin: &Admin, text: &str) -> Result<Vec<u8>, Failure> {
    match Uuid::parse_str(text) {
        Ok(id) => Ok(operations::id_bytes(id)),
        Err(_) => Ok(find(admin, text).await?.id.to_vec()),
    }
}

fn unknown(text: &str) -> Failure {
    Failure::failed(
        "contract.unknown",
        format!("this node has no negotiation and no contract {text}"),
        "see `huitong contract list`",
    )
}

fn describe(negotiation: &api::Negotiation, lang: Lang) -> String {
    let mut text = format!(
        "negotiation  {}\nstate        {} (national {})\n",
        operations::id_text(&negotiation.id),
        negotiation.state,
        negotiation.national_state
    );
    for (name, value) in [
        ("contract    ", &negotiation.contract),
        ("agreement   ", &negotiation.agreement_hash),
        ("product     ", &negotiation.product),
        ("other node  ", &negotiation.peer),
        ("reason      ", &negotiation.reason),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("{name} {value}\n"));
        }
    }
    text.push_str(&format!("last change  {}\n", moment(negotiation.updated_milliseconds)));
    let lines = match lang {
        Lang::En => &negotiation.english,
        Lang::Zh => &negotiation.chinese,
    };
    for line in lines {
        text.push_str(&format!("  - {line}\n"));
    }
    text
}

fn row(negotiation: &api::Negotiation) -> Vec<String> {
    vec![
        operations::id_text(&negotiation.id),
        negotiation.side.clone(),
        negotiation.product_name.clone(),
        negotiation.state.clone(),
        negotiation.contract.clone(),
    ]
}
