//! `huitong receipt`: export from a node; verify and read without one.

use std::path::Path;
use std::process::ExitCode;

use huitong_contract::{Agreement, explain};
use huitong_identity::Trust;
use huitong_ledger::{MAX_POLICY_BYTES, PolicyError, QuorumPolicy, TlogProof};
use huitong_policy::Language;
use huitong_proof::cbor::{Fields, Limits, Value};
use huitong_proof::{Digest, Envelope};
use huitong_transfer::Finality;
use huitong_transfer::receipt::{self, Facts, LedgerFacts, Outcome, ProblemKind, Report};
use serde_json::json;

use crate::admin::Admin;
use crate::cli::{Global, Receipt};
use crate::commands::read_input;
use crate::commands::transfer::unknown;
use crate::exit::{Exit, Failure};
use crate::operations;
use crate::output::{Output, bytes};

/// Larger files are neither receipts nor trust files.
const MAX_FILE_BYTES: u64 = 64 << 20;

pub(crate) async fn run(command: Receipt, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    match command {
        Receipt::Export { transfer, out, timeout } => {
            let admin = Admin::open(global, output).await?;
            let known = operations::proven(&admin, transfer, timeout)
                .await
                .map_err(|failure| unknown(failure, transfer))?;
            if known.state == "COMPLETED" && !known.proven {
                return Err(Failure::failed(
                    "receipt.unproven",
                    "the other node's proofs are not here yet, so the receipt would be incomplete",
                    "export it again once the other node is reachable; see `huitong outbox list`",
                ));
            }
            let receipt = operations::receipt(&admin, transfer).await?;
            std::fs::write(&out, &receipt).map_err(|error| Failure::file("write", &out, &error))?;
            output.result(&json!({ "receipt": out, "bytes": receipt.len() }), || {
                format!("receipt written to {}", out.display())
            });
            Ok(ExitCode::SUCCESS)
        }
        Receipt::Verify { file, trust, policy } => {
            let policy = policy.as_deref().map(read_policy).transpose()?;
            let receipt = read_input(&file, MAX_FILE_BYTES)?;
            let report = receipt::verify(&receipt, &read_trust(&trust)?, policy.as_ref());
            output.result(&report_json(&report), || report_text(&report).join("\n"));
            Ok(ExitCode::from(exit_of(&report)))
        }
        Receipt::Proofs { file, out } => {
            let files = proofs(&read_input(&file, MAX_FILE_BYTES)?).map_err(|reason| {
                Failure::new(Exit::Unreadable, "receipt.unreadable", reason, "get the file again")
            })?;
            std::fs::create_dir_all(&out).map_err(|error| Failure::file("create", &out, &error))?;
            for (name, bytes) in &files {
                let path = out.join(name);
                std::fs::write(&path, bytes).map_err(|error| Failure::file("write", &path, &error))?;
            }
            let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
            output.result(&json!({ "directory": out, "files": names }), || {
                format!("{} files written to {}; verify the receipt itself, too", names.len(), out.display())
            });
            Ok(ExitCode::SUCCESS)
        }
        Receipt::Show { file } => {
            let shown = contents(&read_input(&file, MAX_FILE_BYTES)?).map_err(|reason| {
                Failure::new(Exit::Unreadable, "receipt.unreadable", reason, "get the file again")
            })?;
            output.result(&json!({ "contents": shown }), || {
                format!("{}\nNothing of this is proven: use `huitong receipt verify`.", shown.join("\n"))
            });
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What a receipt says, unverified: its agreement in plain words and who issued its statements.
/// The layout is that of `docs/receipt-format.md`.
fn contents(receipt: &[u8]) -> Result<Vec<String>, String> {
    let limits = Limits { bytes: receipt.len(), depth: 8 };
    let mut fields = Fields::decode(receipt, limits, "receipt").map_err(|error| with_causes(&error))?;
    let format = fields.text(1, "format").map_err(|error| error.to_string())?;
    let agreement = fields.bytes(2, "agreement").map_err(|error| error.to_string())?;
    let statements = fields.array(3, "statements").map_err(|error| error.to_string())?;
    let agreement = Agreement::decode(&agreement).map_err(|error| error.to_string())?;
    let mut lines = vec![format!("{format}, {} statements", statements.len())];
    lines.extend(explain(&agreement, Language::English));
    for (index, statement) in statements.into_iter().enumerate() {
        let Value::Bytes(bytes) = statement else {
            return Err(format!("statements[{index}] is not a byte string"));
        };
        let digest = Digest::sha256(&bytes);
        let envelope = Envelope::decode(bytes).map_err(|error| format!("statements[{index}]: {error}"))?;
        lines.push(format!("statement {index}: from {}, {digest}", envelope.claimed_issuer()));
    }
    Ok(lines)
}

/// Names and contents of the files: the shared statements, and their proofs in both ledgers. Nothing is verified.
fn proofs(receipt: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let limits = Limits { bytes: receipt.len(), depth: 8 };
    let mut fields = Fields::decode(receipt, limits, "receipt").map_err(|error| with_causes(&error))?;
    let statements = fields.array(3, "statements").map_err(|error| error.to_string())?;
    let logs = fields.array(4, "logs").map_err(|error| error.to_string())?;
    let mut proofs = Vec::new();
    for (log, whose) in logs.into_iter().zip(["provider", "consumer"]) {
        let mut log = Fields::from_value(log, "log").map_err(|error| error.to_string())?;
        let checkpoint = log.text(1, "checkpoint").map_err(|error| error.to_string())?;
        proofs.push((whose, checkpoint, log.array(2, "inclusion").map_err(|error| error.to_string())?));
    }
    // Those of the registrar at the head of the list are in neither ledger.
    let shared = proofs.first().map_or(0, |(_, _, places)| places.len());
    let head = statements.len().saturating_sub(shared);
    let mut files = Vec::new();
    for (number, statement) in statements.into_iter().skip(head).enumerate() {
        let Value::Bytes(statement) = statement else {
            return Err("a statement is no byte string".to_owned());
        };
        files.push((format!("{number:02}.statement"), statement));
        for (whose, checkpoint, places) in &proofs {
            let place = places.get(number).ok_or("a statement has no proof")?;
            let (index, path) = read_place(place).ok_or("a proof is malformed")?;
            let text = TlogProof::new(index, path, checkpoint.as_str()).to_text();
            files.push((format!("{number:02}.{whose}.tlog-proof"), text.into_bytes()));
        }
    }
    Ok(files)
}

/// Index of an entry and the path from it.
fn read_place(place: &Value) -> Option<(u64, Vec<Digest>)> {
    let Value::Array(items) = place else { return None };
    let [Value::Uint(index), Value::Array(path)] = items.as_slice() else { return None };
    let hash = |hash: &Value| match hash {
        Value::Bytes(bytes) => Digest::from_slice(bytes),
        _ => None,
    };
    Some((*index, path.iter().map(hash).collect::<Option<Vec<_>>>()?))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub(crate) fn read_trust(path: &Path) -> Result<Trust, Failure> {
    let text = read_input(path, MAX_FILE_BYTES)?;
    Trust::from_json(&String::from_utf8_lossy(&text))
        .map_err(|error| Failure::from_sentence(Exit::Unreadable, "trust.unreadable", &error.to_string()))
}

fn read_policy(path: &Path) -> Result<QuorumPolicy, Failure> {
    let limit = u64::try_from(MAX_POLICY_BYTES).unwrap_or(u64::MAX);
    let text = read_input(path, limit)?;
    String::from_utf8_lossy(&text).parse().map_err(|error: PolicyError| {
        let message = format!("{}: {error}", path.display());
        Failure::new(
            Exit::Unreadable,
            "policy.unreadable",
            message,
            "see `huitong ledger policy` for one that is whole",
        )
    })
}

fn exit_of(report: &Report) -> u8 {
    match report.outcome() {
        Outcome::Valid => 0,
        Outcome::PolicyNotMet => Exit::PolicyNotMet.code(),
        Outcome::Invalid => Exit::ReceiptInvalid.code(),
        Outcome::Incomplete => Exit::ReceiptIncomplete.code(),
        Outcome::Unreadable => Exit::Unreadable.code(),
    }
}

/// One line for each proven claim, one for each problem, and the verdict last.
pub(crate) fn report_text(report: &Report) -> Vec<String> {
    let mut lines: Vec<_> =
        report.claims.iter().map(|claim| format!("proven  {}: {}", claim.name, claim.text)).collect();
    for problem in &report.problems {
        lines.push(format!("{}  {}: {}", kind_name(problem.kind), problem.what, problem.reason));
    }
    lines.push(match (&report.facts, report.outcome()) {
        (Some(facts), Outcome::Valid) => format!(
            "VALID   {} of {} went from {} to {} under contract {} between {} and {}{}",
            bytes(facts.bytes),
            facts.product_name,
            facts.provider_name,
            facts.consumer_name,
            facts.contract,
            facts.offered,
            facts.closed,
            finality_text(report)
        ),
        (_, outcome) => format!("{}  {}", outcome_name(outcome).to_uppercase(), verdict(outcome)),
    });
    lines
}

/// Whether witnesses have made the receipt final, and the end of the time bracket then.
fn finality_text(report: &Report) -> String {
    match (report.finality(), report.not_after()) {
        (Some(Finality::Final), Some(time)) => format!("; FINAL: witnesses had seen it all at {time}"),
        (Some(Finality::Final), None) => "; FINAL".to_owned(),
        (Some(Finality::Provisional), _) => {
            "; PROVISIONAL: not enough witnesses have cosigned yet".to_owned()
        }
        (None, _) => String::new(),
    }
}

/// What an outcome means for who holds the receipt.
fn verdict(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Valid => "everything in it is proven",
        Outcome::PolicyNotMet => {
            "everything in it is proven, but fewer witnesses cosigned than the policy demands"
        }
        Outcome::Incomplete => "nothing in it is false, but something is missing: export it again",
        Outcome::Invalid => "something in it is false: do not rely on it",
        Outcome::Unreadable => "this is not a whole receipt: get the file again",
    }
}

fn report_json(report: &Report) -> serde_json::Value {
    let claims: Vec<_> =
        report.claims.iter().map(|claim| json!({"name": claim.name, "text": claim.text})).collect();
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|problem| json!({"kind": kind_name(problem.kind), "what": problem.what, "reason": problem.reason}))
        .collect();
    json!({
        "outcome": outcome_name(report.outcome()), "claims": claims, "problems": problems,
        "facts": report.facts.as_ref().map(facts_json),
        "finality": report.finality().map(Finality::name),
        "not_after": report.not_after().map(|time| time.to_string()),
        "ledgers": report.ledgers.iter().map(ledger_json).collect::<Vec<_>>(),
    })
}

fn ledger_json(ledger: &LedgerFacts) -> serde_json::Value {
    let LedgerFacts { origin, size, root, cosignatures, finality, not_after } = ledger;
    let cosignatures: Vec<_> = cosignatures
        .iter()
        .map(|one| json!({ "node": one.node, "name": one.name, "time": one.time.to_string() }))
        .collect();
    json!({
        "origin": origin, "size": size, "root": root.to_string(), "cosignatures": cosignatures,
        "finality": finality.name(), "not_after": not_after.map(|time| time.to_string()),
    })
}

fn facts_json(facts: &Facts) -> serde_json::Value {
    let Facts {
        contract,
        product,
        product_name,
        provider,
        provider_name,
        consumer,
        consumer_name,
        bytes,
        blake3,
        offered,
        acknowledged,
        closed,
    } = facts;
    json!({
        "contract": contract, "product": product, "product_name": product_name, "provider": provider,
        "provider_name": provider_name, "consumer": consumer, "consumer_name": consumer_name,
        "bytes": bytes, "blake3": blake3.to_string(), "offered": offered.to_string(),
        "acknowledged": acknowledged.to_string(), "closed": closed.to_string(),
    })
}

fn kind_name(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::PolicyNotMet => "policy",
        ProblemKind::Incomplete => "incomplete",
        ProblemKind::Invalid => "invalid",
        ProblemKind::Unreadable => "unreadable",
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Valid => "valid",
        Outcome::PolicyNotMet => "policy_not_met",
        Outcome::Incomplete => "incomplete",
        Outcome::Invalid => "invalid",
        Outcome::Unreadable => "unreadable",
    }
}
