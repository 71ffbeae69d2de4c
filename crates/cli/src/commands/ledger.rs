//! `huitong ledger` and `huitong outbox`: what the node has put on record, who vouches for it, and what it still has to
//! tell others.

use std::path::Path;
use std::process::ExitCode;

use huitong_grpc::proto::admin as api;
use huitong_identity::{Attribution, Trust};
use huitong_ledger::{ForkProof, MAX_FORK_PROOF_BYTES, QuorumPolicy};
use serde_json::json;

use crate::admin::{Admin, Client};
use crate::cli::{Alerts, Fork, Global, Ledger};
use crate::commands::receipt::read_trust;
use crate::commands::{list, read_input};
use crate::exit::{Exit, Failure};
use crate::output::{Output, moment, table};
use crate::{operations, views};

pub(crate) async fn run(command: Ledger, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    if let Ledger::Fork(Fork::Verify { file, trust }) = &command {
        return verify_fork(file, trust.as_deref(), output);
    }
    let admin = Admin::open(global, output).await?;
    match command {
        Ledger::Checkpoint => {
            let request = api::GetCheckpointRequest {};
            let checkpoint =
                admin.call(async |mut client: Client| client.get_checkpoint(request).await).await?.checkpoint;
            output.result(&json!({ "checkpoint": checkpoint }), || checkpoint.clone());
        }
        Ledger::List { limit } => {
            let statements = operations::statements(&admin, limit).await?;
            output.result(&list("statements", statements.iter().map(views::statement)), || {
                let rows: Vec<_> = statements.iter().map(statement_row).collect();
                table(&["index", "time", "kind", "issuer", "audience", "note"], &rows, "the ledger is empty")
            });
        }
        Ledger::Status => {
            let standing = operations::evidence(&admin).await?;
            output.result(&views::evidence(&standing), || standing_text(&standing));
        }
        Ledger::Policy => {
            let policy = operations::policy(&admin).await?;
            let warning = policy.parse::<QuorumPolicy>().ok().and_then(|policy| policy.split_view_warning());
            if let Some(warning) = &warning {
                output.note(warning);
            }
            output.result(&json!({ "policy": policy, "warning": warning }), || policy.clone());
        }
        Ledger::Audit { node, fork_proof } => {
            return audit(&admin, node, fork_proof.as_deref(), output).await;
        }
        Ledger::Fork(Fork::Verify { file, trust }) => return verify_fork(&file, trust.as_deref(), output),
        Ledger::Alerts { command: Some(Alerts::Resolve { id }), .. } => {
            let request = api::ResolveAlertRequest { id };
            admin.call(async |mut client: Client| client.resolve_alert(request).await).await?;
            output.result(&json!({ "resolved": id }), || format!("alert {id} is marked as dealt with"));
        }
        Ledger::Alerts { all, command: None } => {
            let request = api::ListAlertsRequest { all };
            let alerts =
                admin.call(async |mut client: Client| client.list_alerts(request).await).await?.alerts;
            output.result(&list("alerts", alerts.iter().map(views::alert)), || {
                let rows: Vec<_> = alerts.iter().map(alert_row).collect();
                table(&["id", "code", "first seen", "last seen", "node", "what"], &rows, "no alerts")
            });
        }
        Ledger::Compare { resume_unconfirmed } => {
            return compare(&admin, resume_unconfirmed, output).await;
        }
        Ledger::Recover => return recover(&admin, output).await,
        Ledger::Redact { digest, who, reason } => {
            let request = api::RedactStatementRequest { digest, reason, who };
            let redacted =
                admin.call(async |mut client: Client| client.redact_statement(request.clone()).await).await?;
            output.result(&json!({ "index": redacted.index, "statement": redacted.statement }), || {
                format!(
                    "the bytes of entry {} are gone; statement {} says who removed them and why",
                    redacted.index, redacted.statement
                )
            });
        }
        Ledger::Logs { state, limit, checkpoints } => {
            let statements = if state {
                operations::state_logs(&admin).await?
            } else {
                operations::logs(&admin, limit, checkpoints).await?
            };
            output.result(&list("statements", statements.iter().map(views::logs_statement)), || {
                logs_text(&statements, checkpoints)
            });
        }
    }
    Ok(ExitCode::SUCCESS)
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

async fn audit(
    admin: &Admin,
    node: String,
    fork_proof: Option<&Path>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let request = api::AuditLedgerRequest { node };
    let report = admin.call(async |mut client: Client| client.audit_ledger(request.clone()).await).await?;
    let forked = !report.fork_proof.is_empty();
    if let (Some(path), true) = (fork_proof, forked) {
        std::fs::write(path, &report.fork_proof).map_err(|error| Failure::file("write", path, &error))?;
    }
    let json = json!({
        "checkpoint": report.checkpoint, "checks": report.checks.iter().map(views::check).collect::<Vec<_>>(),
        "fork_proof": report.fork_proof,
    });
    output.result(&json, || {
        let mut lines: Vec<_> = report.checks.iter().map(check_line).collect();
        lines.push(match (forked, fork_proof) {
            (false, _) => "no contradiction was found".to_owned(),
            (true, Some(path)) => format!("FORKED  the proof is in {}", path.display()),
            (true, None) => "FORKED  write the proof to a file with --fork-proof".to_owned(),
        });
        lines.join("\n")
    });
    let failed = forked || report.checks.iter().any(|check| check.outcome == "failed");
    Ok(if failed { ExitCode::from(Exit::ReceiptInvalid.code()) } else { ExitCode::SUCCESS })
}

/// A proof convicts a node only where somebody trusted says that the keys in it are that node's.
fn verify_fork(file: &Path, trust: Option<&Path>, output: Output) -> Result<ExitCode, Failure> {
    let trust = trust.map(read_trust).transpose()?;
    let limit = u64::try_from(MAX_FORK_PROOF_BYTES).unwrap_or(u64::MAX);
    let bytes = read_input(file, limit)?;
    let unreadable = |error: String| {
        Failure::new(
            Exit::Unreadable,
            "fork_proof.unreadable",
            error,
            "get the file again from whoever made it",
        )
    };
    let text = String::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
    let proof = ForkProof::parse(&text).map_err(|error| unreadable(error.to_string()))?;
    let not_proven = |reason: String| {
        output.result(&json!({ "outcome": "not_proven", "reason": reason }), || {
            format!("NOT PROVEN  {reason}")
        });
        Ok(ExitCode::from(Exit::ReceiptInvalid.code()))
    };
    let sentence = match proof.verify() {
        Ok(sentence) => sentence,
        Err(error) => return not_proven(error.to_string()),
    };
    let attribution = trust.as_ref().map_or(Attribution::Nobody, |trust: &Trust| trust.attribute(&proof));
    let advice = match (attribution, &trust) {
        (Attribution::Wrong { reason }, _) => return not_proven(reason),
        (Attribution::Node { node, entity, name }, _) => {
            let json = json!({
                "outcome": "forked", "sentence": sentence, "node": node.as_str(), "entity": entity.as_str(),
                "name": name,
            });
            output.result(&json, || {
                format!("FORKED  {sentence}\nsigned by {node} of {name} ({entity}), as its registrar says")
            });
            return Ok(ExitCode::SUCCESS);
        }
        (Attribution::Nobody, None) => {
            "name a trust file with --trust, so that the credential in the proof can be checked"
        }
        (Attribution::Nobody, Some(_)) => {
            "the proof carries no credential: have it made again with `huitong ledger audit NODE --fork-proof FILE`"
        }
    };
    let reason =
        "two signatures contradict each other, but whose key made them is not known: anybody can make a key";
    let json = json!({
        "outcome": "not_attributed", "sentence": sentence, "reason": reason, "next_step": advice,
    });
    output.result(&json, || format!("NOT ATTRIBUTED  {sentence}\n{reason}\nnext: {advice}"));
    Ok(ExitCode::from(Exit::ReceiptIncomplete.code()))
}

async fn compare(admin: &Admin, resume_unconfirmed: bool, output: Output) -> Result<ExitCode, Failure> {
    let request = api::CompareLedgerRequest { resume_unconfirmed };
    let compared = admin.call(async |mut client: Client| client.compare_ledger(request).await).await?;
    let json = json!({
        "signing": compared.signing, "safe_mode": compared.safe_mode,
        "checks": compared.checks.iter().map(views::check).collect::<Vec<_>>(),
    });
    output.result(&json, || {
        let mut lines: Vec<_> = compared.checks.iter().map(check_line).collect();
        lines.push(signing_line(compared.signing, &compared.safe_mode));
        lines.join("\n")
    });
    Ok(if compared.signing { ExitCode::SUCCESS } else { ExitCode::from(Exit::Refused.code()) })
}

async fn recover(admin: &Admin, output: Output) -> Result<ExitCode, Failure> {
    let report = operations::recover(admin, output).await?;
    output.result(&views::recovery(&report), || {
        let mut lines = vec![match (report.recovered, report.lost, report.done == report.total) {
            (0, 0, true) => format!("nothing is missing among {} entries", report.total),
            (recovered, lost, _) => format!(
                "{recovered} statements came back, of {lost} only the hash is left; the ledger had {} entries and now \
                 has {}",
                report.done, report.total
            ),
        }];
        let look = |what: &str, name: &String| format!("look through the contracts and transfers {what} {name}");
        lines.extend(report.affected.iter().map(|node| look("with", node)));
        lines.extend(report.agreements.iter().map(|hash| look("under agreement", hash)));
        lines.push(signing_line(report.signing, &report.safe_mode));
        lines.join("\n")
    });
    Ok(if report.signing { ExitCode::SUCCESS } else { ExitCode::from(Exit::Refused.code()) })
}

fn logs_text(statements: &[api::LogsStatement], checkpoints: bool) -> String {
    let mut lines = Vec::new();
    for statement in statements {
        let time = moment(statement.time_milliseconds);
        lines.push(format!("{time}  entry {}  {}", statement.index, statement.digest));
        for log in &statement.logs {
            lines.push(format!("  {} {} {}", log.size, log.root, log.origin));
            let note = log.checkpoint.lines().filter(|_| checkpoints);
            lines.extend(note.map(|line| format!("    {line}").trim_end().to_owned()));
        }
    }
    if lines.is_empty() { "no statement yet; make one with --state".to_owned() } else { lines.join("\n") }
}

fn standing_text(standing: &api::GetEvidenceResponse) -> String {
    let demanded = if standing.requirement.is_empty() { "nobody" } else { &standing.requirement };
    let signing = signing_line(standing.safe_mode.is_empty(), &standing.safe_mode);
    let mut lines = vec![
        format!("entries       {}", standing.size),
        format!("signed        {}", standing.signed_size),
        format!("final         {} (cosigned by {demanded})", standing.final_size),
        format!("signing       {signing}"),
        format!("alerts        {}", standing.alerts),
    ];
    for witness in &standing.witnesses {
        let state = match (witness.time_milliseconds, witness.last_error.as_str()) {
            (_, error) if !error.is_empty() => format!("failing: {error}"),
            (0, _) => "has not cosigned yet".to_owned(),
            (time, _) => format!("cosigned {} entries at {}", witness.size, moment(time)),
        };
        lines.push(format!("witness       {}: {state}", witness.name));
    }
    lines.join("\n")
}

fn signing_line(signing: bool, safe_mode: &str) -> String {
    if signing { "the node signs".to_owned() } else { format!("SAFE MODE, nothing is signed: {safe_mode}") }
}

fn check_line(check: &api::AuditCheck) -> String {
    format!("{:<8} {}: {}", check.outcome, check.name, check.detail)
}

fn alert_row(alert: &api::Alert) -> Vec<String> {
    vec![
        alert.id.to_string(),
        alert.code.clone(),
        moment(alert.first_seen_milliseconds),
        moment(alert.last_seen_milliseconds),
        alert.node.clone(),
        match alert.resolved_milliseconds {
            0 => alert.text.clone(),
            time => format!("{} (dealt with {})", alert.text, moment(time)),
        },
    ]
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
