//! What is done to a stopped node's data directory.

use std::path::Path;

use huitong_node::maintenance::{self, MaintenanceError, Severity};
use huitong_node::start;
use huitong_proof::{Clock as _, SystemClock};

use crate::ledger::{copy, is_final, issue};
use crate::sandbox::{Node, Space, http_get, sources, until};

const PROVIDER: &str = "91110000802100433B";

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, MaintenanceError>, exit: u8, code: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.exit_code(), error.code()), (exit, code), "{error}");
    assert!(error.to_string().contains("; "), "no next step: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_store_is_checked_counted_exported_and_mended() {
    let mut space = Space::new().await;
    let Node { node, config, directory } = space.connector("provider", PROVIDER).await;
    let store = config.store_dir();
    issue(&node, 300).await;
    until(|| is_final(&node)).await;
    check(maintenance::fsck(&store, &mut |_| {}), 15, "store.locked");
    check(maintenance::stats(&store, &mut |_| {}), 15, "store.locked");
    let size = node.evidence().ledger_standing().unwrap().size;
    node.shutdown().await;

    let mut steps = 0;
    let checked = maintenance::fsck(&store, &mut |_| steps += 1).unwrap();
    assert_eq!(checked.worst(), Severity::Note, "{checked:?}");
    assert_eq!(checked.ledger.as_ref().map(|ledger| (ledger.size, ledger.signed)), Some((size, Some(size))));
    assert!(steps > 0, "no progress was told");
    let stats = maintenance::stats(&store, &mut |_| {}).unwrap();
    assert_eq!(stats.ledger.map(|ledger| ledger.size), Some(size));
    assert!(stats.store.tables.contains_key("ledger.entry"), "{:?}", stats.store.tables.keys());
    let mut lines = Vec::new();
    assert_eq!(maintenance::export(&store, &mut lines, &mut |_| {}).unwrap(), size);
    let lines = String::from_utf8(lines).unwrap();
    assert_eq!(lines.lines().count() as u64, size);
    assert!(lines.lines().all(|line| line.starts_with('{') && line.ends_with('}')));

    // Without its index the store is as good as before.
    std::fs::remove_dir_all(store.join("index")).unwrap();
    let checked = maintenance::fsck(&store, &mut |_| {}).unwrap();
    assert_eq!(checked.worst(), Severity::Recoverable, "{checked:?}");
    assert!(checked.ledger.is_none());
    assert!(!store.join("index").exists(), "a check changes nothing");
    let rebuilt = maintenance::rebuild(&store, &mut |_| {}).unwrap();
    assert_eq!(rebuilt.sequence, checked.store.last_sequence);
    assert_eq!(maintenance::fsck(&store, &mut |_| {}).unwrap().worst(), Severity::Note);

    // An altered byte in the middle of the journal is something else.
    let damaged = directory.join("damaged");
    copy(&store, &damaged);
    let segment = only_file(&damaged.join("journal"));
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(maintenance::fsck(&damaged, &mut |_| {}).unwrap().worst(), Severity::Damage);
    check(maintenance::rebuild(&damaged, &mut |_| {}), 14, "store.damaged");
    check(maintenance::fsck(&directory.join("nothing"), &mut |_| {}), 18, "store.io");

    let node = start(config, sources()).await.unwrap();
    until(|| node.ready().is_ok()).await;
    node.shutdown().await;
    space.shutdown([]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_and_signs_once_it_is_known_to_be_whole() {
    let mut space = Space::new().await;
    let Node { node, mut config, directory } = space.connector("provider", PROVIDER).await;
    // It comes back where it was: at another port it would write its new address into its ledger.
    config.listen.peers = node.peers_address;
    let store = config.store_dir();
    issue(&node, 20).await;
    until(|| is_final(&node)).await;
    let size = node.evidence().ledger_standing().unwrap().size;
    let now = SystemClock.now();

    // From the running node, and from the stopped one.
    let running = directory.join("running");
    let ledger = node.standing().ledger.clone();
    let target = running.clone();
    let backup = tokio::task::spawn_blocking(move || ledger.backup(&target, &mut |_| {}));
    backup.await.unwrap().unwrap();
    node.shutdown().await;
    let stopped = directory.join("stopped");
    let made = maintenance::snapshot(&store, &stopped, now, &mut |_| {}).unwrap();
    assert!(made.files > 0 && made.sequence > 0, "{made:?}");
    check(maintenance::snapshot(&store, &stopped, now, &mut |_| {}), 2, "store.target");
    check(maintenance::restore(&stopped, &store, now, &mut |_| {}), 2, "store.target");
    check(
        maintenance::restore(&directory.join("nothing"), &directory.join("new"), now, &mut |_| {}),
        5,
        "store.backup",
    );
    let altered = directory.join("altered");
    copy(&stopped, &altered);
    let segment = only_file(&altered.join("journal"));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.pop();
    std::fs::write(&segment, bytes).unwrap();
    check(maintenance::restore(&altered, &directory.join("new/store"), now, &mut |_| {}), 5, "store.backup");
    assert!(!directory.join("new/store").exists());

    let mut signed = size;
    for backup in [running, stopped] {
        std::fs::remove_dir_all(&store).unwrap();
        maintenance::restore(&backup, &store, now, &mut |_| {}).unwrap();
        assert!(store.join("restored").exists());
        // Nobody to ask: the node starts, says why it signs nothing, and waits.
        let mut alone = config.clone();
        if let huitong_node::config::NodeRole::Connector(connector) = &mut alone.role {
            connector.registrar_address = "127.0.0.1:1".to_owned();
        }
        let node = start(alone, sources()).await.unwrap();
        let (status, why) = http_get(node.http_address.unwrap(), "/readyz").await;
        assert_eq!(status, 503);
        assert!(why.contains("restored from a backup"), "{why}");
        node.shutdown().await;
        assert!(store.join("restored").exists());

        // The registrar knows no more than the backup has: nothing was lost.
        let node = start(config.clone(), sources()).await.unwrap();
        until(|| node.ready().is_ok()).await;
        assert!(!store.join("restored").exists());
        assert_eq!(node.evidence().ledger_standing().unwrap().size, signed);
        node.shutdown().await;
        signed = size;
    }
    space.shutdown([]).await;
}

fn only_file(directory: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}
