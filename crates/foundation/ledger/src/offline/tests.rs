use std::fs;
use std::sync::Arc;

use huitong_proof::Statement;
use huitong_store::backup::{BackupError, BackupReport};
use huitong_store::disk::{Fault, FaultPlan};
use huitong_store::offline::Severity;
use tempfile::TempDir;

use super::*;
use crate::fixture::{Node, copy_directory, draft, id, key};
use crate::gaps::Redaction;
use crate::log::Ledger;

const BLOCK: u64 = 256;

/// A stopped node with 1,300 entries of its own and of a peer: five settled blocks, four of them in a merged run.
async fn stopped() -> (Arc<TempDir>, Vec<Statement>) {
    let (node, statements) = running().await;
    (node.stop().await, statements)
}

async fn running() -> (Node, Vec<Statement>) {
    let node = Node::with_block(1, BLOCK);
    let peer = Node::new(2);
    let mut statements = node.issue_many(700, &id(2)).await;
    statements.extend(node.issue_many(300, &id(3)).await);
    let theirs = peer.issue_many(300, &id(1)).await;
    let admitted = theirs.clone();
    node.run(move |ledger, tx| {
        admitted.iter().try_for_each(|statement| ledger.admit(tx, statement).map(|_| ()))
    })
    .await
    .unwrap();
    statements.extend(theirs);
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    (node, statements)
}

fn check(directory: &TempDir) -> FsckReport {
    fsck(directory.path(), &Disk::real(), &mut |_| {}).unwrap()
}

fn open(directory: &Arc<TempDir>) -> Result<Node, LedgerError> {
    Node::open(directory, 1, BLOCK, Disk::real())
}

fn file(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join("ledger").join(name)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn check_statements(ledger: &Ledger, statements: &[Statement]) {
    let view = ledger.store().view();
    assert_eq!(ledger.size(&view).unwrap(), statements.len() as u64);
    for (index, statement) in (0..).zip(statements).step_by(7) {
        assert_eq!(
            ledger.statement(&view, &statement.digest()).unwrap().as_ref(),
            Some(statement),
            "{index}"
        );
        assert_eq!(ledger.index_of(&view, &statement.digest()).unwrap(), Some(index));
    }
}

#[tokio::test]
async fn a_whole_ledger_is_clean_and_its_figures_are_right() {
    let (directory, statements) = stopped().await;
    let mut last = 0;
    let report = fsck(directory.path(), &Disk::real(), &mut |step| {
        if step.step == "read entries" {
            assert!(step.done >= last && step.done <= step.total);
            last = step.done;
        }
    })
    .unwrap();
    assert_eq!(report.findings, []);
    let figures = (report.size, report.settled, report.signed, report.gaps, report.tiles, report.records);
    assert_eq!(figures, (1_300, 1_280, Some(1_300), 0, 5, 5 * 256 * 3));
    let stats = stats(directory.path(), &Disk::real()).unwrap();
    assert_eq!((stats.size, stats.settled, stats.signed, stats.channels), (1_300, 1_280, Some(1_300), 3));
    assert_eq!((stats.bundles.files, stats.tiles.files, stats.runs.files), (5, 5, 2));
    assert_eq!(stats.tiles.bytes, 5 * 8_192);
    assert_eq!(stats.origin, crate::log::origin_of(&id(1)));
    check_statements(&open(&directory).unwrap().ledger, &statements);
}

#[tokio::test]
async fn missing_and_damaged_derived_files_are_found_and_made_again() {
    let (base, statements) = stopped().await;
    let derived = ["tile/0/002", "lookup/1-0", "lookup/0-4"];
    for (name, remove) in derived.into_iter().flat_map(|name| [(name, true), (name, false)]) {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        copy_directory(base.path(), directory.path());
        let path = file(&directory, name);
        let good = fs::read(&path).unwrap();
        // A run whose header is whole is trusted until it is read; a flipped hash is found by the root at once.
        if remove {
            fs::remove_file(&path).unwrap();
        } else {
            flip(&path, 12);
        }
        let report = check(&directory);
        assert_eq!(report.worst(), Severity::Recoverable, "{name}: {:?}", report.findings);
        assert!(report.findings.iter().all(|finding| finding.next_step.contains("rebuild")));

        let node = open(&directory).unwrap();
        assert!(!node.ledger.opening().rebuilt.is_empty(), "{name} {remove}");
        check_statements(&node.ledger, &statements);
        let directory = node.stop().await;
        assert_eq!(check(&directory).findings, [], "{name} {remove}");
        assert_eq!(fs::read(&path).unwrap(), good, "{name}");
    }
}

#[tokio::test]
async fn a_run_that_is_altered_inside_is_found_and_rebuilt() {
    let (directory, statements) = stopped().await;
    let path = file(&directory, "lookup/1-0");
    let good = fs::read(&path).unwrap();
    flip(&path, good.len() / 2);
    let report = check(&directory);
    assert_eq!(report.worst(), Severity::Recoverable, "{:?}", report.findings);
    assert_eq!(rebuild(directory.path(), &Disk::real(), &mut |_| {}).unwrap(), 1_280);
    assert_eq!(check(&directory).findings, []);
    assert_eq!(fs::read(&path).unwrap(), good);
    check_statements(&open(&directory).unwrap().ledger, &statements);
}

#[tokio::test]
async fn a_missing_or_altered_bundle_is_damage() {
    let (directory, _) = stopped().await;
    let path = file(&directory, "tile/entries/003");
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(check(&directory).worst(), Severity::Damage);
    match open(&directory) {
        Err(LedgerError::DamagedFile { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{:?}", other.map(|_| ())),
    }

    // The tile tells which entry it is: its hashes lead to the signed root.
    for at in [40, good.len() - 3] {
        fs::write(&path, &good).unwrap();
        flip(&path, at);
        let report = check(&directory);
        assert_eq!(report.worst(), Severity::Damage);
        let altered: Vec<_> =
            report.findings.iter().filter(|finding| finding.what.contains("was altered")).collect();
        let entry = if at == 40 { "entry 768" } else { "entry 1023" };
        assert_eq!(altered.iter().map(|finding| finding.place.as_str()).collect::<Vec<_>>(), [entry]);
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(check(&directory).findings, []);
}

#[tokio::test]
async fn every_derived_file_can_be_made_again_at_once() {
    let (directory, statements) = stopped().await;
    let snapshot = |name: &str| files_below(&file(&directory, name), directory.path()).unwrap();
    let before: Vec<(PathBuf, Vec<u8>)> = ["tile/0", "lookup"]
        .iter()
        .flat_map(|name| snapshot(name))
        .map(|path| (path.clone(), fs::read(directory.path().join(path)).unwrap()))
        .collect();
    assert_eq!(before.len(), 7);
    for name in ["tile/0", "tile/1", "lookup"] {
        fs::remove_dir_all(file(&directory, name)).unwrap();
    }
    let node = open(&directory).unwrap();
    assert_eq!(node.ledger.opening().rebuilt.len(), 10);
    check_statements(&node.ledger, &statements);
    let directory = node.stop().await;
    for (path, bytes) in before {
        assert_eq!(fs::read(directory.path().join(&path)).unwrap(), bytes, "{}", path.display());
    }
    assert_eq!(check(&directory).findings, []);
}

#[tokio::test]
async fn a_published_checkpoint_from_the_future_is_damage() {
    let (directory, _) = stopped().await;
    let path = file(&directory, "checkpoint");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\n1300\n", "\n1301\n")).unwrap();
    assert_eq!(check(&directory).worst(), Severity::Damage);
    fs::write(&path, "nonsense").unwrap();
    assert_eq!(check(&directory).worst(), Severity::Recoverable);
    fs::remove_file(&path).unwrap();
    assert_eq!(check(&directory).findings, []);
}

#[tokio::test]
async fn holes_in_our_own_channel_are_damage() {
    // A statement of ours with number 5 and nothing before it.
    let node = Node::with_block(1, BLOCK);
    let signing = huitong_proof::Signing {
        key: &key(1),
        space: &crate::fixture::space(),
        issuer: &id(1),
        channel: huitong_proof::ChannelHead { seq: 5, prev: huitong_proof::Digest::sha256(b"x") },
        anchor: huitong_proof::Anchor::none(),
        time: huitong_proof::Timestamp::from_millis(crate::fixture::START),
        salt: [0; 16],
    };
    let statement = Statement::sign(draft(&id(2), 0), signing).unwrap();
    node.run(move |ledger, tx| ledger.admit(tx, &statement)).await.unwrap();
    let report = check(node.stop().await.as_ref());
    assert_eq!(report.worst(), Severity::Damage);
    assert!(report.findings[0].what.contains("holes"), "{:?}", report.findings);
}

#[tokio::test]
async fn the_export_has_a_line_for_each_entry() {
    let (node, statements) = running().await;
    for (index, statement) in [(3, &statements[3]), (1_299, &statements[1_299])] {
        let redaction = Redaction {
            digest: statement.digest(),
            who: "court \"A\"".to_owned(),
            why: "case 7".to_owned(),
            statement: huitong_proof::Digest::ZERO,
        };
        node.run(move |ledger, tx| ledger.redact(tx, index, &redaction)).await.unwrap();
    }
    let directory = node.stop().await;
    let mut out = Vec::new();
    assert_eq!(export(directory.path(), &Disk::real(), &mut out, &mut |_| {}).unwrap(), 1_300);
    let lines: Vec<serde_json::Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1_300);
    use base64::Engine as _;
    let decode = |text: &serde_json::Value| {
        base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap()
    };
    for (index, (line, statement)) in lines.iter().zip(&statements).enumerate() {
        assert_eq!(line["index"], index);
        assert_eq!(line["leaf"], crate::merkle::leaf_hash(statement.bytes()).to_string());
        assert_eq!(line["digest"], statement.digest().to_string());
        assert_eq!(line["seq"], statement.body().seq);
        if index == 3 || index == 1_299 {
            assert_eq!(
                (&line["removed"]["who"], &line["removed"]["why"]),
                (&"court \"A\"".into(), &"case 7".into())
            );
            assert_eq!(line.get("bytes"), None);
        } else {
            assert_eq!(decode(&line["bytes"]), statement.bytes().as_ref());
            assert_eq!(
                (&line["kind"], &line["issuer"]),
                (&"offer".into(), &statement.body().issuer.as_str().into())
            );
        }
    }
}

#[tokio::test]
async fn backups_of_running_and_stopped_nodes_restore() {
    let (node, mut statements) = running().await;
    let backups = tempfile::tempdir().unwrap();
    let (while_running, while_stopped) = (backups.path().join("running"), backups.path().join("stopped"));
    let (ledger, to) = (node.ledger.clone(), while_running.clone());
    let report = tokio::task::spawn_blocking(move || ledger.backup(&to, &mut |_| {})).await.unwrap().unwrap();
    assert!(report.linked >= 12, "settled files take no space on the same disk: {report:?}");
    // The node goes on: a merge and new files must not show in the backup.
    let signed = node.ledger.checkpoint().await.unwrap();
    let early = statements.clone();
    statements.extend(node.issue_many(900, &id(2)).await);
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    let directory = node.stop().await;
    back_up_stopped(directory.path(), &while_stopped, &Disk::real()).unwrap();

    for (from, statements, size) in [(while_running, early, 1_300), (while_stopped, statements, 2_200)] {
        let to = Arc::new(tempfile::tempdir().unwrap());
        huitong_store::offline::restore(&from, to.path(), "of yesterday", &Disk::real(), &mut |_| {})
            .unwrap();
        let report = check(&to);
        assert_eq!((report.worst(), report.size), (Severity::Note, size), "{:?}", report.findings);
        let node = open(&to).unwrap();
        assert_eq!(node.ledger.opening().rebuilt, Vec::<String>::new());
        check_statements(&node.ledger, &statements);
        // It may be old: it signs nothing but what it signed already.
        let refused = node.run(|ledger, tx| ledger.issue(tx, draft(&id(2), 0))).await;
        assert!(matches!(refused, Err(LedgerError::SafeMode { .. })), "{refused:?}");
        if size == 1_300 {
            assert_eq!(node.ledger.checkpoint().await.unwrap(), signed);
        }
    }
}

fn back_up_stopped(directory: &Path, to: &Path, disk: &Disk) -> Result<BackupReport, LedgerError> {
    let mut made = huitong_store::offline::backup(directory, to, 1, disk, &mut |_| {})?;
    backup(directory, &mut made, disk, &mut |_| {})?;
    Ok(made.finish()?)
}

#[tokio::test]
async fn a_backup_that_was_not_finished_is_refused_wherever_it_stopped() {
    let node = Node::with_block(1, 256);
    node.issue_many(300, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    let directory = node.stop().await;
    let (mut refused, mut accepted) = (0, 0);
    for at in 1.. {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("backup"), place.path().join("store"));
        let disk = Disk::failing(FaultPlan::nth(at, Fault::Everything));
        let made = back_up_stopped(directory.path(), &from, &disk);
        assert_eq!(made.is_err(), disk.has_failed(), "at {at}: {made:?}");
        match huitong_store::offline::restore(&from, &to, "x", &Disk::real(), &mut |_| {}) {
            Ok(_) => {
                let report = fsck(&to, &Disk::counting(), &mut |_| {}).unwrap();
                assert_eq!(
                    (report.worst(), report.size),
                    (Severity::Note, 300),
                    "at {at}: {:?}",
                    report.findings
                );
                accepted += 1;
            }
            Err(error) => {
                assert!(matches!(error, BackupError::Manifest { .. }), "at {at}: {error}");
                refused += 1;
            }
        }
        if made.is_ok() {
            break;
        }
    }
    // The whole one, and the one whose manifest is there but not known to be durable.
    assert_eq!(accepted, 2);
    assert!(refused > 30, "only {refused} operations mattered");
}
