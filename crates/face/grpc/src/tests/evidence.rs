//! The operator's view of ledgers and witnesses.

use std::path::Path;
use std::time::Duration;

use huitong_evidence::LogPeer as _;
use huitong_identity::testing::TestNode;
use huitong_identity::{NodeKeys, ServiceError, remember};
use huitong_ledger::{Checkpoint, ForkProof, QuorumPolicy, SignedCheckpoint};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Kind, SeededEntropy, Statement};
use huitong_store::{Outgoing, Tx, TxError, outbox};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::admin::{Admin, PATIENCE, failed_as};
use super::ledgers::{say, tell};
use super::{REGISTRAR, Space};
use crate::error_detail;
use crate::proto::admin as wire;
use crate::proto::ledger::GetEntryRequest;
use crate::proto::ledger::get_entry_response::Content;

/// A statement that a node signed and does not have: its transaction was undone.
async fn undone(from: &TestNode, to: &TestNode, kind: Kind, detail: Map) -> Statement {
    let ledger = from.ledger.clone();
    let draft = Draft {
        kind,
        audience: to.membership.node().to_string(),
        subject: [7; 16],
        agreement: Digest::sha256(b"agreement"),
        reference: Digest::ZERO,
        detail,
    };
    let issue = move |tx: &mut Tx<'_>| -> Result<(), Statement> { Err(ledger.issue(tx, draft).unwrap()) };
    let undone = from.ledger.store().transact("test.lose", issue).await;
    let Err(TxError::Abort(statement)) = undone else { panic!("{undone:?}") };
    statement
}

/// The same, with another node that has it.
async fn lose(from: &TestNode, to: &TestNode, kind: Kind, detail: Map) -> Statement {
    let statement = undone(from, to, kind, detail).await;
    let (ledger, caller, told) = (to.ledger.clone(), from.caller.clone(), statement.clone());
    let admit = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
        remember(tx, &ledger, &caller)?;
        ledger.admit(tx, &told)?;
        Ok(())
    };
    to.ledger.store().transact("test.admit", admit).await.unwrap();
    statement
}

/// Everything a stream has, to its end.
async fn all<T>(stream: Result<tonic::Response<Streaming<T>>, Status>) -> Result<Vec<T>, Status> {
    let mut stream = stream?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = timeout(PATIENCE, stream.message()).await.unwrap()? {
        messages.push(message);
    }
    Ok(messages)
}

async fn evidence(admin: &mut Admin) -> wire::GetEvidenceResponse {
    admin.get_evidence(wire::GetEvidenceRequest {}).await.unwrap().into_inner()
}

async fn compare(admin: &mut Admin, resume_unconfirmed: bool) -> Result<wire::CompareLedgerResponse, Status> {
    admin.compare_ledger(wire::CompareLedgerRequest { resume_unconfirmed }).await.map(|it| it.into_inner())
}

#[track_caller]
fn refuses_field<T: std::fmt::Debug>(answer: Result<T, Status>, field: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().starts_with(&format!("{field}: ")), "{status:?}");
}

#[tokio::test]
async fn an_operator_sees_how_far_the_ledger_is_final() {
    let space = Space::new().await;
    let consumer = &space.consumer;
    let mut admin = space.connector_admin("consumer.sock", consumer);
    say(&consumer.node, &space.provider.node).await;
    let signed = consumer.node.ledger.checkpoint().await.unwrap().checkpoint().size;
    let before = evidence(&mut admin).await;
    assert_eq!((before.signed_size, before.final_size, before.cosigned.as_str()), (signed, 0, ""));
    assert_eq!(before.witnesses.len(), 1);
    assert_eq!(
        (before.witnesses[0].node.as_str(), before.witnesses[0].size),
        (space.registrar().as_str(), 0)
    );
    assert!(before.requirement.contains(space.registrar().as_str()), "{}", before.requirement);

    space.net.close(REGISTRAR);
    let peers = super::peers_of(&consumer.node, &space.net);
    consumer.evidence.cosign_once(&peers).await.unwrap();
    let failed = evidence(&mut admin).await;
    assert!(!failed.witnesses[0].last_error.is_empty());
    space.net.listen(REGISTRAR, space.registrar(), space.registrar_routes.clone());
    space.nodes.clock.advance(Duration::from_secs(60));
    consumer.evidence.cosign_once(&consumer.peers).await.unwrap();
    let after = evidence(&mut admin).await;
    assert_eq!((after.final_size, after.witnesses[0].size), (signed, signed));
    assert_eq!(after.witnesses[0].last_error, "");
    assert!(after.witnesses[0].time_milliseconds > 0);
    let cosigned = SignedCheckpoint::parse(&after.cosigned, &consumer.node.ledger.log_verifier()).unwrap();
    assert_eq!(cosigned.checkpoint().size, signed);

    // The policy that comes out satisfies whoever reads it.
    let policy = admin.get_quorum_policy(wire::GetQuorumPolicyRequest {}).await.unwrap().into_inner().policy;
    let policy: QuorumPolicy = policy.parse().unwrap();
    assert!(policy.evaluate(&cosigned).unwrap().satisfied);
}

#[tokio::test]
async fn an_audit_says_what_it_looked_at() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    tell(&provider.node, &consumer.node).await;
    let mut admin = space.connector_admin("consumer.sock", consumer);
    let audit = async |admin: &mut Admin, node: String| {
        admin.audit_ledger(wire::AuditLedgerRequest { node }).await.map(|it| it.into_inner())
    };
    let report = audit(&mut admin, provider.id().to_string()).await.unwrap();
    let signed = SignedCheckpoint::parse(&report.checkpoint, &provider.node.ledger.log_verifier()).unwrap();
    assert!(signed.checkpoint().size > 0);
    assert!(report.fork_proof.is_empty());
    assert!(!report.checks.is_empty());
    for check in &report.checks {
        assert!(["ok", "skipped"].contains(&check.outcome.as_str()), "{check:?}");
        assert!(!check.name.is_empty() && !check.detail.is_empty(), "{check:?}");
    }

    refuses_field(audit(&mut admin, "nobody".to_owned()).await, "node");
    refuses_field(audit(&mut admin, consumer.id().to_string()).await, "node");
    let unknown = super::peers::some_node(provider.id()).to_string();
    failed_as(audit(&mut admin, unknown).await, Code::NotFound, "request.unknown");

    // A node that cannot be asked is reported, not an error.
    space.net.close(&provider.address());
    let peers = super::peers_of(&consumer.node, &space.net);
    let mut cut_off = space.connector_admin("other.sock", &super::Connector { peers, ..consumer.clone() });
    let report = audit(&mut cut_off, provider.id().to_string()).await.unwrap();
    assert_eq!(report.checkpoint, "");
    assert!(
        report.checks.iter().any(|check| check.outcome == "warning" || check.outcome == "failed"),
        "{report:?}"
    );
}

/// Signs with the log key of a node of the fixture.
fn forged(home: &Path, name: &str, node: &TestNode, size: u64) -> SignedCheckpoint {
    let keys = NodeKeys::load_or_create(&home.join(name).join("keys"), &SeededEntropy::new(0)).unwrap();
    let root = Digest::sha256(b"another history");
    SignedCheckpoint::sign(Checkpoint { origin: node.ledger.origin().to_owned(), size, root }, keys.log())
}

#[tokio::test]
async fn a_forked_ledger_becomes_a_proof_and_an_alert() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    tell(&provider.node, &consumer.node).await;
    let size = provider.node.ledger.checkpoint().await.unwrap().checkpoint().size;
    let forged = forged(space.home.path(), "provider", &provider.node, size);
    let (ledger, verifier) = (consumer.node.ledger.clone(), provider.node.ledger.log_verifier());
    let observe = move |tx: &mut Tx<'_>| ledger.observe(tx, &verifier, forged.text(), &[]).map(|_| ());
    consumer.node.ledger.store().transact("test.observe", observe).await.unwrap();

    let mut admin = space.connector_admin("consumer.sock", consumer);
    let node = provider.id().to_string();
    let report =
        admin.audit_ledger(wire::AuditLedgerRequest { node: node.clone() }).await.unwrap().into_inner();
    assert!(report.checks.iter().any(|check| check.outcome == "failed"), "{:?}", report.checks);
    let proof = ForkProof::parse(&report.fork_proof).unwrap();
    assert!(proof.verify().unwrap().to_lowercase().contains(&node.to_lowercase()));

    consumer.evidence.monitor_once(&consumer.peers).await.unwrap();
    let list = async |admin: &mut Admin, all| {
        admin.list_alerts(wire::ListAlertsRequest { all }).await.unwrap().into_inner().alerts
    };
    let alerts = list(&mut admin, false).await;
    let alert = alerts.iter().find(|alert| alert.code == "ledger.forked").unwrap();
    assert_eq!((alert.node.as_str(), alert.resolved_milliseconds), (node.as_str(), 0));
    assert!(!alert.text.is_empty() && alert.count > 0 && alert.first_seen_milliseconds > 0);
    assert_eq!(evidence(&mut admin).await.alerts, alerts.len() as u64);

    admin.resolve_alert(wire::ResolveAlertRequest { id: alert.id }).await.unwrap();
    assert_eq!(list(&mut admin, false).await.len(), alerts.len() - 1);
    let resolved = list(&mut admin, true).await;
    assert!(resolved.iter().any(|it| it.id == alert.id && it.resolved_milliseconds > 0));
    assert_eq!(evidence(&mut admin).await.alerts, alerts.len() as u64 - 1);
    let unknown = admin.resolve_alert(wire::ResolveAlertRequest { id: 1_000 }).await;
    failed_as(unknown, Code::NotFound, "request.unknown");
}

#[tokio::test]
async fn the_safe_mode_ends_when_everybody_has_answered_or_the_operator_says_so() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    tell(&consumer.node, &provider.node).await;
    // Nobody can be asked.
    space.net.close(REGISTRAR);
    space.net.close(&provider.address());
    let peers = super::peers_of(&consumer.node, &space.net);
    let mut cut_off = space.connector_admin("other.sock", &super::Connector { peers, ..consumer.clone() });
    let stop = || consumer.node.ledger.stop_signing("a disk was exchanged").unwrap();
    stop();
    say_nothing(&consumer.node).await;
    assert_eq!(evidence(&mut cut_off).await.safe_mode, "a disk was exchanged");
    let closed = compare(&mut cut_off, false).await.unwrap();
    assert_eq!((closed.signing, closed.safe_mode.as_str()), (false, "a disk was exchanged"));
    assert!(closed.checks.iter().all(|check| check.outcome == "warning"), "{:?}", closed.checks);
    let resumed = compare(&mut cut_off, true).await.unwrap();
    assert!(resumed.signing, "{resumed:?}");
    consumer.node.ledger.signing().unwrap();

    // Everybody answers.
    stop();
    space.net.listen(REGISTRAR, space.registrar(), space.registrar_routes.clone());
    space.net.listen(&provider.address(), provider.id(), crate::peer_routes(provider.services()));
    let mut admin = space.connector_admin("consumer.sock", consumer);
    let fine = compare(&mut admin, false).await.unwrap();
    assert!(fine.signing && fine.safe_mode.is_empty(), "{fine:?}");
    assert!(fine.checks.iter().all(|check| check.outcome == "ok"), "{:?}", fine.checks);
    assert!(fine.checks.iter().any(|check| check.name == format!("witness {}", space.registrar())));
}

/// A node in safe mode issues nothing.
async fn say_nothing(node: &TestNode) {
    let ledger = node.ledger.clone();
    let draft = Draft {
        kind: Kind::Offer,
        audience: node.membership.node().to_string(),
        subject: [7; 16],
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: Map::new(),
    };
    let issue = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
        ledger.issue(tx, draft)?;
        Ok(())
    };
    let error = ServiceError::from(node.ledger.store().transact("test.say", issue).await.unwrap_err());
    let status = crate::to_status(error, &SeededEntropy::new(1));
    assert_eq!(status.code(), Code::Unavailable);
    let detail = error_detail(&status).unwrap();
    assert_eq!(detail.code, "ledger.safe_mode");
    assert!(detail.reason.contains("a disk was exchanged"), "{detail:?}");
    assert!(detail.next_step.contains("huitong ledger"), "{detail:?}");
}

#[tokio::test]
async fn what_was_lost_is_noticed_and_brought_back() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    tell(&consumer.node, &provider.node).await;
    // A use that the counter does not know of any more.
    let used = |after| {
        let clause = "permission[0].count";
        let detail = Map::new().bytes(1, &[1; 16]).text(2, "delivery").text(3, clause).uint(4, 1);
        detail.uint(5, after).digest(6, &Digest::ZERO)
    };
    let lost = lose(&consumer.node, &provider.node, Kind::Usage, used(2)).await;
    let mut admin = space.connector_admin("consumer.sock", consumer);
    let noticed = compare(&mut admin, false).await.unwrap();
    assert!(!noticed.signing);
    let check = noticed.checks.iter().find(|check| check.outcome == "failed").unwrap();
    assert_eq!(check.name, format!("counterparty {}", provider.id()));
    // Not even the operator can say that nothing is missing.
    failed_as(compare(&mut admin, true).await, Code::Aborted, "request.conflict");

    let mut messages = all(admin.recover_ledger(wire::RecoverLedgerRequest {}).await).await.unwrap();
    let report = messages.pop().unwrap();
    assert_eq!(report.step, "");
    assert_eq!((report.recovered, report.lost, report.signing), (1, 0, true), "{report:?}");
    assert_eq!(report.affected, [provider.id().as_str()]);
    assert_eq!(report.agreements, [Digest::sha256(b"agreement").to_string()]);
    assert_eq!(report.total, report.done + 1);
    for step in messages {
        assert!(!step.step.is_empty(), "{step:?}");
    }
    let view = consumer.node.ledger.store().view();
    let back = consumer.node.ledger.statement(&view, &lost.digest()).unwrap().unwrap();
    assert_eq!(back.bytes(), lost.bytes());
    let first = undone(&consumer.node, &provider.node, Kind::Usage, used(1)).await;
    let transfers = consumer.transfers.clone();
    let count = move |tx: &mut Tx<'_>| transfers.recount(tx, &first);
    let counted = consumer.node.ledger.store().transact("test.count", count).await.unwrap();
    assert_eq!(counted, 2, "the counter stands where the recovered statement says");
    let again = all(admin.recover_ledger(wire::RecoverLedgerRequest {}).await).await.unwrap();
    assert_eq!(again.last().unwrap().recovered, 0);
    compare(&mut admin, false).await.unwrap();
    say(&consumer.node, &provider.node).await;
}

#[tokio::test]
async fn a_node_signs_only_when_all_that_came_back_is_taken_up() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    tell(&consumer.node, &provider.node).await;
    let used = |after| {
        let clause = "permission[0].count";
        let detail = Map::new().bytes(1, &[1; 16]).text(2, "delivery").text(3, clause).uint(4, 1);
        detail.uint(5, after).digest(6, &Digest::ZERO)
    };
    lose(&consumer.node, &provider.node, Kind::Usage, used(2)).await;
    let mut admin = space.connector_admin("consumer.sock", consumer);
    assert!(!compare(&mut admin, false).await.unwrap().signing);
    // It goes down when the statement is back, and its counter is not.
    let broken = consumer.evidence.clone().taking_up(|_, _| {
        let reason = "the machine goes down".to_owned();
        Err(ServiceError::Busy { reason })
    });
    let error = broken.recover(&consumer.peers, &mut |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("goes down"), "{error}");
    // Nothing is missing in the ledger any more, and yet neither answers nor the operator open it.
    assert!(!compare(&mut admin, false).await.unwrap().signing);
    failed_as(compare(&mut admin, true).await, Code::Aborted, "request.conflict");

    let report = all(admin.recover_ledger(wire::RecoverLedgerRequest {}).await).await.unwrap().pop().unwrap();
    assert_eq!((report.recovered, report.signing), (0, true), "{report:?}");
    let first = undone(&consumer.node, &provider.node, Kind::Usage, used(1)).await;
    let transfers = consumer.transfers.clone();
    let count = move |tx: &mut Tx<'_>| transfers.recount(tx, &first);
    let counted = consumer.node.ledger.store().transact("test.count", count).await.unwrap();
    assert_eq!(counted, 2, "the counter stands where the recovered statement says");
}

#[tokio::test]
async fn a_recovery_that_fails_says_why_at_the_end_of_the_stream() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    lose(&consumer.node, &provider.node, Kind::Offer, Map::new()).await;
    // It signed the same number again: that cannot be mended.
    say(&consumer.node, &provider.node).await;
    let mut admin = space.connector_admin("consumer.sock", consumer);
    let answer = all(admin.recover_ledger(wire::RecoverLedgerRequest {}).await).await;
    failed_as(answer, Code::Aborted, "request.conflict");
}

#[tokio::test]
async fn a_function_node_states_the_ledgers_of_its_members() {
    let space = Space::new().await;
    let consumer = &space.consumer;
    consumer.node.ledger.checkpoint().await.unwrap();
    consumer.evidence.cosign_once(&consumer.peers).await.unwrap();
    let mut admin = space.registrar_admin();
    let none =
        admin.list_logs(wire::ListLogsRequest { limit: 0, checkpoints: false }).await.unwrap().into_inner();
    assert!(none.statements.is_empty());
    let stated = admin.state_logs(wire::StateLogsRequest {}).await.unwrap().into_inner().statement.unwrap();
    let head = stated.logs.iter().find(|head| head.origin == consumer.node.ledger.origin()).unwrap();
    let checkpoint = consumer.node.ledger.checkpoint().await.unwrap().checkpoint().clone();
    assert_eq!((head.size, head.root.as_str()), (checkpoint.size, checkpoint.root.to_string().as_str()));
    assert!(head.cosigned_milliseconds > 0);
    let listed =
        admin.list_logs(wire::ListLogsRequest { limit: 5, checkpoints: true }).await.unwrap().into_inner();
    assert_eq!(listed.statements, [stated]);

    let mut connector = space.connector_admin("consumer.sock", consumer);
    let role = |answer: Result<(), Status>| failed_as(answer, Code::FailedPrecondition, "node.role");
    role(connector.state_logs(wire::StateLogsRequest {}).await.map(|_| ()));
    role(connector.list_logs(wire::ListLogsRequest { limit: 5, checkpoints: true }).await.map(|_| ()));
}

/// Whether a file below the directory holds these bytes.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        std::fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes)
    })
}

#[tokio::test]
async fn a_removed_statement_leaves_who_and_why() {
    let space = Space::new().await;
    let (provider, consumer) = (&space.provider, &space.consumer);
    let statement = tell(&provider.node, &consumer.node).await;
    let mut admin = space.connector_admin("provider.sock", provider);
    let request = wire::RedactStatementRequest {
        digest: statement.digest().to_string(),
        reason: "court order 17".to_owned(),
        who: "the data protection officer".to_owned(),
    };
    for (change, field) in [
        ((|it| it.digest = "abc".to_owned()) as fn(&mut wire::RedactStatementRequest), "digest"),
        (|it| it.who.clear(), "who"),
        (|it| it.reason = " ".to_owned(), "reason"),
    ] {
        let mut request = request.clone();
        change(&mut request);
        refuses_field(admin.redact_statement(request).await, field);
    }
    let own = provider.node.membership.credential_statement().digest().to_string();
    let own = wire::RedactStatementRequest { digest: own, ..request.clone() };
    failed_as(admin.redact_statement(own).await, Code::Aborted, "request.conflict");
    let unknown = wire::RedactStatementRequest { digest: Digest::ZERO.to_string(), ..request.clone() };
    failed_as(admin.redact_statement(unknown).await, Code::NotFound, "request.unknown");
    let files = space.home.path().join("provider");
    assert!(holds(&files, statement.bytes()));

    // As long as it waits to be delivered it stays; a message that was given up goes with it.
    let payload = [b"before ", statement.bytes().as_ref(), b" behind"].concat();
    let message = Outgoing { destination: consumer.id().to_string(), topic: "test".to_owned(), payload };
    let store = provider.node.ledger.store();
    let id = store.transact("test", move |tx| tx.send(message)).await.unwrap();
    failed_as(admin.redact_statement(request.clone()).await, Code::Aborted, "request.conflict");
    store.transact("test", move |tx| outbox::bury(tx, id, "gone")).await.unwrap();
    let removed = admin.redact_statement(request.clone()).await.unwrap().into_inner();
    assert_eq!(removed.statement.len(), 64);
    assert!(!holds(&files, statement.bytes()), "the bytes are gone from every file");

    let listed =
        admin.list_statements(wire::ListStatementsRequest { limit: 1_000 }).await.unwrap().into_inner();
    let gap = listed.statements.iter().find(|it| it.index == removed.index).unwrap();
    assert_eq!((gap.kind.as_str(), gap.digest.as_str()), ("removed", request.digest.as_str()));
    assert_eq!(gap.issuer, provider.id().as_str());
    assert!(
        gap.note.contains("court order 17") && gap.note.contains("the data protection officer"),
        "{gap:?}"
    );
    let again = admin.redact_statement(request).await;
    failed_as(again, Code::NotFound, "ledger.redacted");

    // Its parties hear the same, and can still prove that it was there.
    let request = GetEntryRequest { index: removed.index };
    let entry = space.at_provider().get_entry(request).await.unwrap().into_inner();
    let Some(Content::Gap(gap)) = entry.content else { panic!("{entry:?}") };
    assert_eq!(gap.digest, statement.digest().as_bytes().as_slice());
    assert_eq!(gap.leaf, huitong_ledger::leaf_hash(statement.bytes()).as_bytes().as_slice());
    assert_eq!((gap.who.as_str(), gap.why.as_str()), ("the data protection officer", "court order 17"));
    assert!(!gap.statement.is_empty() && gap.time_milliseconds > 0);
    let checkpoint = provider.node.ledger.checkpoint().await.unwrap().checkpoint().clone();
    let included =
        consumer.peers.inclusion(provider.id(), &statement.digest(), checkpoint.size).await.unwrap();
    huitong_ledger::verify_inclusion(
        &included.leaf,
        included.index,
        checkpoint.size,
        &included.path,
        &checkpoint.root,
    )
    .unwrap();
}

#[tokio::test]
async fn a_running_node_is_backed_up_into_a_new_directory() {
    let space = Space::new().await;
    let consumer = &space.consumer;
    let mut admin = space.connector_admin("consumer.sock", consumer);
    let back_up = async |admin: &mut Admin, directory: &Path| {
        let directory = directory.display().to_string();
        all(admin.back_up_store(wire::BackUpStoreRequest { directory }).await).await
    };
    refuses_field(back_up(&mut admin, Path::new("backup")).await, "directory");
    refuses_field(back_up(&mut admin, Path::new("")).await, "directory");
    refuses_field(back_up(&mut admin, space.home.path()).await, "directory");
    let dangling = space.home.path().join("link");
    std::os::unix::fs::symlink(space.home.path().join("nowhere"), &dangling).unwrap();
    refuses_field(back_up(&mut admin, &dangling).await, "directory");
    let orphan = space.home.path().join("weather.csv").join("backup");
    std::fs::write(space.home.path().join("weather.csv"), b"rain").unwrap();
    refuses_field(back_up(&mut admin, &orphan).await, "directory");

    let directory = space.home.path().join("backup");
    let mut messages = back_up(&mut admin, &directory).await.unwrap();
    let report = messages.pop().unwrap();
    let view = consumer.node.ledger.store().view();
    assert_eq!(report.ledger_size, consumer.node.ledger.size(&view).unwrap());
    assert!(report.step.is_empty() && report.sequence > 0 && report.bytes > 0, "{report:?}");
    assert!(directory.join("backup.json").is_file());
    for step in messages {
        assert!(!step.step.is_empty() && !step.unit.is_empty(), "{step:?}");
    }
    refuses_field(back_up(&mut admin, &directory).await, "directory");
}
