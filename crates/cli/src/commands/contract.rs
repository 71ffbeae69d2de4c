//! `huitong contract`: negotiating, reading and deciding, and what becomes of a contract.

use huitong_grpc::proto::admin as api;
use uuid::Uuid;

use crate::admin::{Admin, Client};
use crate::cli::{Contract, Global, Lang};
use crate::commands::catalog::read_policy;
use crate::commands::{list, operation_id};
use crate::exit::{Exit, Failure};
use crate::operations::{self, Until};
use crate::output::{Output, columns, moment, table};
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
            let asked = tokio::time::timeout(timeout, operations::negotiate(&admin, request)).await;
            asked.map_err(|_| {
                let id = operations::id_text(&id);
                Failure::failed(
                    "timeout",
                    format!("the provider or the registrar did not answer within {} s", timeout.as_secs()),
                    format!("repeat the command with --id {id}, or wait longer with --timeout"),
                )
            })??;
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
                let columns = ["negotiation", "side", "product", "state", "standing", "contract"];
                table(&columns, &rows, "no negotiation yet")
            });
            Ok(())
        }
        Contract::Accept { id, timeout } => {
            let id = negotiation_id(&admin, &id).await?;
            operations::decide(&admin, &id, api::NegotiationDecision::Accept, "").await?;
            conclude(&operations::settle(&admin, &id, Until::End, timeout).await?, output)
        }
        Contract::Approve { id } => decide(&admin, &id, api::NegotiationDecision::Approve, "", output).await,
        Contract::Suspend { id, reason } => {
            decide(&admin, &id, api::NegotiationDecision::Suspend, &reason, output).await
        }
        Contract::Resume { id } => decide(&admin, &id, api::NegotiationDecision::Resume, "", output).await,
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
        let shown = |what: &str| format!("{} is {what}", operations::id_text(&negotiation.id));
        match negotiation.standing.as_str() {
            "" => shown(&negotiation.state),
            standing => shown(&format!("{}, {standing}", negotiation.state)),
        }
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
        Ok(id) => match operations::negotiation(admin, id).await {
            Err(failure) if failure.is_unknown() => None,
            found => Some(found?),
        },
        Err(_) => negotiations(admin).await?.into_iter().find(|one| one.contract == text),
    };
    found.ok_or_else(|| unknown(text))
}

async fn negotiation_id(admin: &Admin, text: &str) -> Result<Vec<u8>, Failure> {
    Ok(find(admin, text).await?.id.to_vec())
}

fn unknown(text: &str) -> Failure {
    Failure::failed(
        "contract.unknown",
        format!("this node has no negotiation and no contract with the id {text}"),
        "see `huitong contract list`",
    )
}

fn describe(negotiation: &api::Negotiation, lang: Lang) -> String {
    let (labels, national, lines) = match lang {
        Lang::En => (
            [
                "negotiation",
                "state",
                "standing",
                "contract",
                "agreement",
                "product",
                "other node",
                "reason",
                "last change",
            ],
            "national code",
            &negotiation.english,
        ),
        Lang::Zh => (
            [
                "协商标识",
                "状态",
                "履约状态",
                "合约标识",
                "合约摘要",
                "产品标识",
                "对方节点",
                "原因",
                "最近变更",
            ],
            "国家标准状态码",
            &negotiation.chinese,
        ),
    };
    let state = &negotiation.state;
    let state = match lang {
        Lang::En => {
            format!("{state}, {} ({national} {})", state_words(state, lang), negotiation.national_state)
        }
        Lang::Zh => {
            format!("{}，{state}（{national} {}）", state_words(state, lang), negotiation.national_state)
        }
    };
    let values = [
        operations::id_text(&negotiation.id),
        state,
        standing(negotiation, lang),
        negotiation.contract.clone(),
        negotiation.agreement_hash.clone(),
        negotiation.product.clone(),
        negotiation.peer.clone(),
        negotiation.reason.clone(),
        moment(negotiation.updated_milliseconds),
    ];
    let width = labels.iter().map(|label| columns(label)).max().unwrap_or_default();
    let mut text = String::new();
    for (label, value) in labels.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
        let padding = " ".repeat(width.saturating_sub(columns(label)));
        text.push_str(&format!("{label}{padding}  {value}\n"));
    }
    for line in lines {
        text.push_str(&format!("  - {line}\n"));
    }
    text
}

/// What has become of a contract: who suspended or ended it, since when and why.
fn standing(negotiation: &api::Negotiation, lang: Lang) -> String {
    let words = |hold: &api::ContractHold| {
        let since = moment(hold.since_milliseconds);
        match lang {
            Lang::En => format!("{} by the {} since {since}: {}", hold.standing, hold.by, hold.reason),
            Lang::Zh => {
                format!("{}自 {since} 起{}：{}", chinese(&hold.by), chinese(&hold.standing), hold.reason)
            }
        }
    };
    let holds: Vec<_> = negotiation.holds.iter().map(words).collect();
    match (holds.is_empty(), lang) {
        (true, Lang::En) => negotiation.standing.clone(),
        (true, Lang::Zh) => chinese(&negotiation.standing).to_owned(),
        (false, Lang::En) => holds.join("; "),
        (false, Lang::Zh) => holds.join("；"),
    }
}

/// A word of the interface about a contract's standing in Chinese.
fn chinese(word: &str) -> &str {
    match word {
        "in force" => "有效",
        "suspended" => "中止",
        "ended" => "提前终止",
        "provider" => "提供方",
        "consumer" => "使用方",
        other => other,
    }
}

/// A state of the Dataspace Protocol in words.
fn state_words(state: &str, lang: Lang) -> &'static str {
    let (english, chinese) = match state {
        "REQUESTED" => ("the consumer has asked", "使用方已提出请求"),
        "OFFERED" => ("the provider has made an offer", "提供方已给出要约"),
        "ACCEPTED" => ("the consumer has accepted the offer", "使用方已接受要约"),
        "AGREED" => ("the provider has signed", "提供方已签名"),
        "VERIFIED" => ("both sides have signed", "双方均已签名"),
        "FINALIZED" => ("the contract is concluded", "合约已订立"),
        "TERMINATED" => ("ended", "已终止"),
        _ => ("unknown to this program", "本程序未知的状态"),
    };
    match lang {
        Lang::En => english,
        Lang::Zh => chinese,
    }
}

fn row(negotiation: &api::Negotiation) -> Vec<String> {
    vec![
        operations::id_text(&negotiation.id),
        negotiation.side.clone(),
        negotiation.product_name.clone(),
        negotiation.state.clone(),
        negotiation.standing.clone(),
        negotiation.contract.clone(),
    ]
}
