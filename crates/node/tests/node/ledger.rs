//! The ledger of whole nodes: witnessed, served over HTTP, compared and recovered after a restored backup.

use std::path::Path;
use std::time::Duration;

use huitong_grpc::proto::admin;
use huitong_ledger::{AddCheckpoint, Checkpoint, SignedCheckpoint, leaf_hash, node_hash, origin_of};
use huitong_node::{Config, RunningNode, start};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Envelope, Kind, key_file, random};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::sandbox::{
    Answer, Node, Space, function_config, http, http_get, peer_get, sources, until, until_async,
};

const PROVIDER: &str = "91110000802100433B";
const CONSUMER: &str = "91330100799655058B";

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_cosigns_and_a_dead_one_delays_only_what_is_final() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", PROVIDER).await;
    let node = &provider.node;
    issue(node, 3).await;
    until(|| is_final(node)).await;
    let standing = node.evidence().ledger_standing().unwrap();
    assert_eq!(standing.requirement.as_deref(), Some(space.registrar.node.node_id.as_str()));
    assert_eq!(standing.witnesses.len(), 1);

    let http_address = node.http_address.unwrap();
    let (_, metrics) = http_get(http_address, "/metrics").await;
    for metric in [
        format!("huitong_ledger_statements {}", standing.size),
        format!("huitong_ledger_signed_size {}", standing.size),
        format!("huitong_ledger_final_size {}", standing.size),
        "huitong_ledger_safe_mode 0".to_owned(),
        "huitong_alerts_open 0".to_owned(),
        "huitong_store_ok 1".to_owned(),
        "huitong_store_snapshot_sequence ".to_owned(),
        "huitong_store_journal_bytes ".to_owned(),
        "huitong_store_index_rebuilt 0".to_owned(),
        "huitong_store_dropped_bytes 0".to_owned(),
        format!("huitong_witness_last_success_seconds{{witness=\"{}\"}} 1", space.registrar.node.node_id),
    ] {
        assert!(metrics.contains(&metric), "{metric} is missing in:\n{metrics}");
    }

    // The witness goes. The node goes on signing, and stays ready; nothing more becomes final.
    let (mut config, address) = (space.registrar.config.clone(), space.registrar.node.peers_address);
    space.registrar.node.shutdown().await;
    let before = standing.final_size;
    issue(node, 2).await;
    until(|| node.evidence().ledger_standing().unwrap().signed_size == before + 2).await;
    until(|| {
        let standing = node.evidence().ledger_standing().unwrap();
        standing.witnesses[0].last_error.is_some()
    })
    .await;
    assert_eq!(node.evidence().ledger_standing().unwrap().final_size, before);
    node.ready().unwrap();

    // It comes back, and all is final again without anything being asked of the operator.
    config.listen.peers = address;
    space.registrar.node = start(config, sources()).await.unwrap();
    until(|| is_final(node)).await;
    space.shutdown([provider]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_served_in_the_paths_of_tlog_tiles() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", PROVIDER).await;
    let consumer = space.connector("consumer", CONSUMER).await;
    issue(&provider.node, 600).await;
    until(|| is_final(&provider.node)).await;
    let address = provider.node.http_address.unwrap();
    let ledger = provider.node.standing().ledger.clone();
    let witness = &space.registrar.node.standing().membership.credential().witness;
    // The cosignature is published with the next look.
    let mut text = String::new();
    until_async(async || http_get(address, "/log/checkpoint").await.1.lines().count() == 6).await;
    let answer = http(address, "GET", "/log/checkpoint", &[]).await;
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "text/plain; charset=utf-8"));
    text.push_str(std::str::from_utf8(&answer.body).unwrap());
    let signed = SignedCheckpoint::parse(&text, &ledger.log_verifier()).unwrap();
    assert!(signed.cosigned_by(witness).unwrap().is_some());
    let Checkpoint { size, root: signed_root, .. } = signed.checkpoint().clone();
    assert!(size > 600);
    let on_disk = provider.config.store_dir().join("ledger");
    assert_eq!(std::fs::read_to_string(on_disk.join("checkpoint")).unwrap(), text);

    // Every leaf from the tiles, byte for byte as on disk, and the root from the leaves.
    let mut leaves = Vec::new();
    for number in 0..=size / 256 {
        let path = match size - number * 256 {
            0 => continue,
            width @ 1..256 => format!("tile/0/{number:03}.p/{width}"),
            _ => format!("tile/0/{number:03}"),
        };
        let answer = http(address, "GET", &format!("/log/{path}"), &[]).await;
        assert_eq!(
            (answer.status, answer.content_type.as_str()),
            (200, "application/octet-stream"),
            "{path}"
        );
        assert_eq!(answer.body, std::fs::read(on_disk.join(&path)).unwrap(), "{path}");
        leaves.extend(answer.body.as_chunks::<32>().0.iter().map(|hash| Digest::from_bytes(*hash)));
    }
    assert_eq!(naive_root(&leaves), signed_root);
    let upper = http(address, "GET", "/log/tile/1/000.p/2", &[]).await;
    assert_eq!(upper.status, 200);
    let tiles: Vec<u8> = leaves.chunks_exact(256).flat_map(|tile| *naive_root(tile).as_bytes()).collect();
    assert_eq!(upper.body, tiles);
    for missing in
        ["tile/0/003", "tile/0/000.p/0", "tile/0/0", "tile/64/000", "tile/0/x000/000", "tile/2/000", "x", ""]
    {
        assert_eq!(http_get(address, &format!("/log/{missing}")).await.0, 404, "{missing}");
    }

    // Entries: not over plain HTTP, not to a stranger, but to a regulator.
    let (status, why) = http_get(address, "/log/tile/entries/000").await;
    assert_eq!(status, 403);
    assert!(why.contains("listen.peers"), "{why}");
    let ask = async |of: &Node, path: &str| {
        let certificate = of.node.standing().membership.certificate().to_vec();
        peer_get(provider.node.peers_address, &of.directory, &certificate, path).await
    };
    assert_eq!(ask(&consumer, "/log/tile/entries/000").await.status, 403);
    assert_eq!(
        ask(&consumer, "/log/tile/0/000").await.body,
        std::fs::read(on_disk.join("tile/0/000")).unwrap()
    );
    assert_eq!(ask(&consumer, "/log/checkpoint").await.body, text.as_bytes());
    let bundle = ask(&space.registrar, "/log/tile/entries/001").await;
    assert_eq!((bundle.status, bundle.content_type.as_str()), (200, "application/octet-stream"));
    assert_eq!(bundle.body, std::fs::read(on_disk.join("tile/entries/001")).unwrap());
    assert_eq!(bundle_leaves(&bundle), leaves[256..512]);
    assert_eq!(ask(&space.registrar, "/log/tile/entries/9").await.status, 404);
    assert_eq!(ask(&space.registrar, "/log/redacted/entries/001").await.status, 404, "nothing was removed");
    // The node itself is party to all that it says to itself.
    let own = ask(&provider, "/log/tile/entries/001").await;
    assert_eq!(own.body, bundle.body);

    // A removed statement leaves its bundle, which moves; the leaves and the root are what they were.
    let (ledger, index) = (provider.node.standing().ledger.clone(), 300_u64);
    let bytes = ledger.entry(&ledger.store().view(), index).unwrap().unwrap();
    let statement = Envelope::decode(bytes).unwrap().trusted(ledger.space()).unwrap();
    drop(ledger);
    let redaction = admin::RedactStatementRequest {
        digest: statement.digest().to_string(),
        reason: "retention is over".to_owned(),
        who: "the data protection officer".to_owned(),
    };
    assert_eq!(provider.admin().redact_statement(redaction).await.unwrap().into_inner().index, index);
    assert_eq!(ask(&space.registrar, "/log/tile/entries/001").await.status, 404);
    assert_eq!(ask(&consumer, "/log/redacted/entries/001").await.status, 403);
    assert_eq!(http_get(address, "/log/redacted/entries/001").await.0, 403);
    let redacted = ask(&space.registrar, "/log/redacted/entries/001").await;
    assert_eq!((redacted.status, redacted.content_type.as_str()), (200, "application/octet-stream"));
    let (kept, gap) = (bundle_leaves(&redacted), usize::try_from(index).unwrap() - 256);
    assert_eq!(kept.len(), 256);
    for (position, (kept, before)) in kept.iter().zip(&leaves[256..512]).enumerate() {
        assert_eq!(kept == before, position != gap, "entry {}", position + 256);
    }
    assert_eq!(kept[gap], leaf_hash(b""));
    assert_eq!(http(address, "GET", "/log/tile/0/001", &[]).await.body, naive_tile(&leaves[256..512]));

    // The other interface of the same listener is not in the way.
    until(|| provider.node.ready().is_ok()).await;
    space.shutdown([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_witness_answers_over_http_as_specified() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", PROVIDER).await;
    issue(&provider.node, 5).await;
    until(|| is_final(&provider.node)).await;
    let address = space.registrar.node.http_address.unwrap();
    let origin = origin_of(provider.node.node_id.as_str());
    let key = key_file::load(&provider.directory.join("data/keys/log.key")).unwrap();
    let ledger = provider.node.standing().ledger.clone();
    let signed = ledger.latest_checkpoint(&ledger.store().view()).unwrap().unwrap();
    let size = signed.checkpoint().size;
    // Nothing is asked of the witness meanwhile.
    provider.node.shutdown().await;

    let post = async |request: &AddCheckpoint| {
        let body = request.to_text();
        http(address, "POST", "/witness/add-checkpoint", body.as_bytes()).await
    };
    let good = AddCheckpoint { old: size, proof: Vec::new(), note: signed.text().to_owned() };
    let answer = post(&good).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let line = String::from_utf8(answer.body).unwrap();
    let cosigned = signed.with_lines(&[line.trim_end().to_owned()]).unwrap();
    let witness = space.registrar.node.standing().membership.credential().witness.clone();
    assert!(cosigned.cosigned_by(&witness).unwrap().is_some());

    let sign = |size, root| SignedCheckpoint::sign(Checkpoint { origin: origin.clone(), size, root }, &key);
    let text = |signed: SignedCheckpoint| signed.text().to_owned();
    let other = Digest::sha256(b"another root");
    let larger = text(sign(size + 1, other));
    let stranger = Checkpoint { origin: origin_of("nobody"), ..signed.checkpoint().clone() };
    let cases = [
        (409, AddCheckpoint { old: 0, ..good.clone() }),
        (404, AddCheckpoint { note: text(SignedCheckpoint::sign(stranger, &key)), ..good.clone() }),
        (
            403,
            AddCheckpoint {
                note: good.note.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1),
                ..good.clone()
            },
        ),
        (422, AddCheckpoint { note: text(sign(size, other)), ..good.clone() }),
        (422, AddCheckpoint { note: larger.clone(), proof: vec![other], ..good.clone() }),
        (400, AddCheckpoint { old: size + 1, ..good.clone() }),
    ];
    for (status, request) in cases {
        let answer = post(&request).await;
        assert_eq!(answer.status, status, "{request:?}: {answer:?}");
        if status == 409 {
            assert_eq!(
                (answer.content_type.as_str(), answer.body),
                ("text/x.tlog.size", format!("{size}\n").into())
            );
        }
    }
    for body in [&b"old x\n\n"[..], b"", &[0xff; 40]] {
        assert_eq!(http(address, "POST", "/witness/add-checkpoint", body).await.status, 400);
    }
    let endless = vec![b'a'; 1 << 20];
    assert_eq!(http(address, "POST", "/witness/add-checkpoint", &endless).await.status, 413);
    assert_eq!(http_get(address, "/witness/add-checkpoint").await.0, 405);

    let monitoring = |origin: &str| format!("/witness/{}/checkpoint", Digest::sha256(origin.as_bytes()));
    let (status, kept) = http_get(address, &monitoring(&origin)).await;
    assert_eq!(status, 200);
    let kept = SignedCheckpoint::parse(&kept, &ledger.log_verifier()).unwrap();
    assert_eq!(kept.checkpoint(), signed.checkpoint(), "no refused request has moved the witness");
    assert!(kept.cosigned_by(&witness).unwrap().is_some());
    assert_eq!(http_get(address, &monitoring("another")).await.0, 404);
    assert_eq!(http_get(address, "/witness/x/checkpoint").await.0, 404);
    drop(ledger);
    space.shutdown([]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_it_is_served_when_the_operator_does_not_want_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = function_config(directory.path());
    config.ledger.http_log = false;
    let node = start(config, sources()).await.unwrap();
    let address = node.http_address.unwrap();
    assert_eq!(http_get(address, "/log/checkpoint").await.0, 404);
    assert_eq!(http(address, "POST", "/witness/add-checkpoint", b"").await.status, 404);
    assert_eq!(http_get(address, "/healthz").await.0, 200);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_signs_nothing_until_it_is_recovered() {
    // Its monitor fetches what it could not fetch at once, when the provider was at another address.
    let mut space = Space::with(|config| config.ledger.monitor_interval = Duration::from_secs(1)).await;
    let provider = space.connector("provider", PROVIDER).await;
    let registrar = space.registrar.node.node_id.to_string();
    issue(&provider.node, 4).await;
    until(|| is_final(&provider.node)).await;
    let (config, directory) = (provider.config.clone(), provider.directory.clone());
    let (data, aside) = (directory.join("data"), directory.join("yesterday"));
    provider.node.shutdown().await;
    copy(&data, &aside);

    // A day of work that the backup does not know.
    let node = start(config.clone(), sources()).await.unwrap();
    issue(&node, 6).await;
    issue_to(&node, &registrar, 1).await;
    until(|| is_final(&node)).await;
    let size = node.evidence().ledger_standing().unwrap().size;
    until(|| mirrored(&space, &node) == size).await;
    node.shutdown().await;

    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    let node = start(config.clone(), sources()).await.unwrap();
    let address = node.http_address.unwrap();
    let (status, why) = http_get(address, "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("the ledger signs nothing") && why.contains("huitong ledger recover"), "{why}");
    assert_eq!(http_get(address, "/healthz").await.0, 200, "a restart would not help");
    assert!(http_get(address, "/metrics").await.1.contains("huitong_ledger_safe_mode 1"));
    let ledger = node.standing().ledger.clone();
    let before = ledger.latest_checkpoint(&ledger.store().view()).unwrap();
    assert!(try_issue(&node, node.node_id.as_str()).await.is_err(), "a statement was signed in safe mode");
    assert!(before.as_ref().is_some_and(|signed| signed.checkpoint().size < size));
    drop(ledger);
    // A restart changes nothing about that.
    node.shutdown().await;
    let node = start(config.clone(), sources()).await.unwrap();
    assert!(node.ready().is_err());

    let node = Node { node, config, directory };
    let mut steps = node.admin().recover_ledger(admin::RecoverLedgerRequest {}).await.unwrap().into_inner();
    let mut report = admin::RecoverLedgerResponse::default();
    while let Some(step) = steps.message().await.unwrap() {
        report = step;
    }
    assert!(report.signing, "{report:?}");
    assert_eq!(report.step, "", "the last message is the report: {report:?}");
    // What was said to the registrar came back from it; what nobody else was told is gone but for its hash.
    assert!(report.recovered >= 1 && report.lost >= 6, "{report:?}");
    until(|| node.node.ready().is_ok()).await;
    issue(&node.node, 1).await;
    until(|| is_final(&node.node)).await;
    let after = node.node.evidence().ledger_standing().unwrap();
    assert!(after.final_size > size, "{after:?}");
    space.shutdown([node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_that_cannot_be_had_holds_up_nothing_but_finality() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", PROVIDER).await;
    let consumer = space.connector("consumer", CONSUMER).await;
    let registrar = &space.registrar.node.standing().membership.credential().witness;
    let member = &consumer.node.standing().membership.credential().witness;
    // The consumer does not witness the provider's ledger, as its operator has not said so.
    let policy = format!(
        "witness registrar {registrar}\nwitness consumer {member}\ngroup both all registrar consumer\nquorum both\n"
    );
    std::fs::write(provider.directory.join("quorum.policy"), policy).unwrap();
    let Node { node, mut config, directory } = provider;
    node.shutdown().await;
    config.ledger.policy = with_policy(&directory, "quorum.policy").ledger.policy;
    let node = start(config.clone(), sources()).await.unwrap();
    until(|| node.ready().is_ok()).await;
    issue(&node, 2).await;
    until(|| {
        let standing = node.evidence().ledger_standing().unwrap();
        let [first, second] = &standing.witnesses[..] else { panic!("{standing:?}") };
        first.size == standing.size && second.last_error.is_some()
    })
    .await;
    let standing = node.evidence().ledger_standing().unwrap();
    assert_eq!(standing.final_size, 0);
    assert_eq!(standing.requirement.as_deref(), Some("2 of 2: registrar, consumer"));

    // Now it does. (The provider, which would ask it again after a while, starts anew only to ask at once.)
    let Node { node: other, config: mut other_config, directory: other_directory } = consumer;
    other_config.listen.peers = other.peers_address;
    other.shutdown().await;
    other_config.ledger.witness_for = vec![node.node_id.clone()];
    let other = start(other_config.clone(), sources()).await.unwrap();
    node.shutdown().await;
    let node = start(config.clone(), sources()).await.unwrap();
    until(|| is_final(&node)).await;
    let provider = Node { node, config, directory };
    let consumer = Node { node: other, config: other_config, directory: other_directory };
    space.shutdown([provider, consumer]).await;
}

/// Runs in a process of its own, because the limit on the size of files is the whole process's.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_told_and_goes_on_answering() {
    if std::env::args().all(|argument| argument != FAILING) {
        let test = "ledger::a_store_that_fails_is_told_and_goes_on_answering";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--skip", FAILING])
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        assert!(child.status.success() && out.contains("1 passed"), "{out}{err}");
        return;
    }
    // With a handler, a write beyond the limit fails instead of ending the process.
    let _handled = signal(SignalKind::from_raw(SIGXFSZ)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = function_config(directory.path());
    let node = start(config.clone(), sources()).await.unwrap();
    let address = node.http_address.unwrap();
    issue(&node, 3).await;
    let signed = || node.evidence().ledger_standing().unwrap().signed_size;
    until(|| signed() == node.evidence().ledger_standing().unwrap().size).await;
    until_async(async || http_get(address, "/log/checkpoint").await.0 == 200).await;
    let size = signed();

    let limit = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(0), ..limit }).unwrap();
    assert!(try_issue(&node, node.node_id.as_str()).await.is_err());
    for path in ["/healthz", "/readyz"] {
        let (status, why) = http_get(address, path).await;
        assert_eq!(status, 503, "{path}");
        assert!(why.contains("the journal cannot be written"), "{path}: {why}");
    }
    let (_, metrics) = http_get(address, "/metrics").await;
    for metric in [
        "huitong_store_ok 0",
        "huitong_up 0",
        "huitong_ready 0",
        &format!("huitong_ledger_statements {size}"),
    ] {
        assert!(metrics.contains(metric), "{metric} is missing in:\n{metrics}");
    }
    // Reading goes on.
    assert_eq!(http_get(address, "/log/checkpoint").await.0, 200);
    assert_eq!(node.evidence().ledger_standing().unwrap().size, size);
    node.shutdown().await;

    // With the cause gone, a restart is all it takes.
    setrlimit(Resource::Fsize, limit).unwrap();
    let node = start(config, sources()).await.unwrap();
    until(|| node.ready().is_ok()).await;
    assert!(node.evidence().ledger_standing().unwrap().size >= size);
    issue(&node, 1).await;
    node.shutdown().await;
}

/// Not the name of any test: tells the child that it is one.
const FAILING: &str = "the-child-with-the-failing-store";
const SIGXFSZ: i32 = 25;

fn with_policy(directory: &Path, file: &str) -> Config {
    let text = format!("identity.registrar_address = \"127.0.0.1:1\"\nledger.policy_file = \"{file}\"");
    Config::from_toml(&text, directory).unwrap()
}

/// How many leaf hashes of the node's ledger its registrar keeps.
fn mirrored(space: &Space, node: &RunningNode) -> u64 {
    let registrar = space.registrar.node.evidence();
    let certificate = node.standing().membership.certificate();
    let caller = registrar.standing().directory.authenticate(certificate, registrar.now()).unwrap();
    let leaves = registrar.leaves(&caller, node.standing().ledger.origin(), 0, 4_096);
    leaves.map_or(0, |leaves| leaves.len() as u64)
}

pub(crate) async fn issue(node: &RunningNode, count: u64) {
    let own = node.node_id.to_string();
    issue_to(node, &own, count).await;
}

async fn issue_to(node: &RunningNode, audience: &str, count: u64) {
    for _ in 0..count {
        try_issue(node, audience).await.unwrap();
    }
}

async fn try_issue(node: &RunningNode, audience: &str) -> Result<(), huitong_ledger::LedgerError> {
    let ledger = node.standing().ledger.clone();
    let draft = Draft {
        kind: Kind::Usage,
        audience: audience.to_owned(),
        subject: random(&**ledger.entropy()),
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: Map::new().text(1, "test"),
    };
    let issuing = ledger.clone();
    ledger.store().transact("test.issue", move |tx| issuing.issue(tx, draft).map(drop)).await?;
    Ok(())
}

pub(crate) fn is_final(node: &RunningNode) -> bool {
    let standing = node.evidence().ledger_standing().unwrap();
    standing.size > 0 && standing.final_size == standing.size
}

/// RFC 9162 section 2.1.1, as it is written there.
fn naive_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [leaf] => *leaf,
        _ => {
            let middle = leaves.len().next_power_of_two() / 2;
            node_hash(&naive_root(&leaves[..middle]), &naive_root(&leaves[middle..]))
        }
    }
}

fn naive_tile(leaves: &[Digest]) -> Vec<u8> {
    leaves.iter().flat_map(|leaf| *leaf.as_bytes()).collect()
}

fn bundle_leaves(answer: &Answer) -> Vec<Digest> {
    let (mut leaves, mut rest) = (Vec::new(), &answer.body[..]);
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        leaves.push(leaf_hash(&rest[2..2 + length]));
        rest = &rest[2 + length..];
    }
    leaves
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &target),
            kind if kind.is_file() => {
                std::fs::copy(entry.path(), target).unwrap();
            }
            _ => {}
        }
    }
}
