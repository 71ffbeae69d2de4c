//! Nodes that cannot start say why, and what to do next.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::{Running, huitong, log_of, stderr, stdout};

/// A function node on ports that the system chooses, with more lines of configuration under `[listen]`.
pub(crate) fn function_node(directory: &Path, listen: &str) -> PathBuf {
    let config = directory.join("node.toml");
    let text = format!(
        "[node]\nrole = \"function\"\n[identity]\ndomain = \"127.0.0.1\"\nentity = \"12440300MB2DEMA066\"\n\
         name = \"Operator\"\nsegment = \"4403\"\n[listen]\nenrolment = \"127.0.0.1:0\"\nhttp = \"\"\n{listen}\n"
    );
    std::fs::write(&config, text).unwrap();
    config
}

/// Starts a node that must not start: exit code, code and words of the message.
#[track_caller]
fn check(config: &Path, exit: i32, words: &[&str]) {
    let done = huitong().args(["serve", "-c"]).arg(config).output().unwrap();
    let said = stderr(&done);
    assert_eq!(done.status.code(), Some(exit), "{said}");
    assert!(said.contains("error[start."), "{said}");
    assert!(said.contains("\n  next: "), "no next step: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing: {said}");
    }
}

pub(crate) const PORT_0: &str = "peers = \"127.0.0.1:0\"";

/// A node that has run, and has drained on SIGTERM.
pub(crate) fn stopped_node(directory: &Path) -> PathBuf {
    let config = function_node(directory, PORT_0);
    let mut node = Running::serve_until_it_answers(&config);
    node.signal(Signal::TERM);
    assert_eq!(node.0.wait().unwrap().code(), Some(0), "{}", log_of(&config));
    config
}

#[test]
fn wrong_configurations() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    check(&missing, 10, &["missing.toml"]);
    let config = directory.path().join("node.toml");
    std::fs::write(&config, "node = 3").unwrap();
    check(&config, 10, &["node"]);
    check(&function_node(directory.path(), "peers = \"nowhere\""), 10, &["listen.peers", "nowhere"]);
    std::fs::write(&config, "identity.registrar_address = \"127.0.0.1:1\"\nlog.level = \"a=b=c\"").unwrap();
    check(&config, 10, &["log.level"]);

    let done = huitong().args(["config", "check", "-c"]).arg(&config).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "the filter is only known to who sets logging up");
    let done = huitong().args(["config", "check", "-c"]).arg(&missing).output().unwrap();
    assert_eq!(done.status.code(), Some(10));
}

#[test]
fn a_used_port() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = function_node(directory.path(), &format!("peers = \"{address}\""));
    check(&config, 11, &["listen.peers", &address]);
    let doctor = huitong().args(["doctor", "-c"]).arg(&config).output().unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    assert!(stdout(&doctor).contains("fail  peers"), "{}", stdout(&doctor));
}

#[test]
fn a_key_file_that_others_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let config = stopped_node(directory.path());
    let key = directory.path().join("data/keys/statement.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    check(&config, 12, &["statement.key"]);
    let doctor = huitong().args(["doctor", "-c"]).arg(&config).output().unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    assert!(stdout(&doctor).contains("fail  keys"), "{}", stdout(&doctor));
}

#[test]
fn a_damaged_journal() {
    let directory = tempfile::tempdir().unwrap();
    let config = stopped_node(directory.path());
    let journal = largest_file(&directory.path().join("data/store/journal"));
    let mut bytes = std::fs::read(&journal).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x40;
    std::fs::write(&journal, bytes).unwrap();
    check(&config, 14, &["damaged"]);
}

pub(crate) fn largest_file(directory: &Path) -> PathBuf {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_data_directory_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let config = function_node(directory.path(), PORT_0);
    let _first = Running::serve_until_it_answers(&config);
    check(&config, 15, &["data"]);
    // The first one is not disturbed.
    let status = huitong().args(["status", "--wait", "-c"]).arg(&config).output().unwrap();
    assert_eq!(status.status.code(), Some(0), "{}", stderr(&status));
    let doctor = huitong().args(["doctor", "-c"]).arg(&config).output().unwrap();
    assert_eq!(doctor.status.code(), Some(0), "{}", stdout(&doctor));
    assert!(stdout(&doctor).contains("ok    ready"), "{}", stdout(&doctor));
}

#[test]
fn a_connector_without_an_invite() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("node.toml");
    std::fs::write(&config, "identity.registrar_address = \"127.0.0.1:1\"").unwrap();
    check(&config, 16, &["not enrolled"]);
    let invite = directory.path().join("invite");
    std::fs::write(&invite, "no invite").unwrap();
    let done = huitong()
        .args(["identity", "enrol", "--invite"])
        .arg(&invite)
        .arg("-c")
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(16), "{}", stderr(&done));
}

#[test]
fn a_connector_enrols_by_command_and_an_invite_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let registrar_home = directory.path().join("registrar");
    std::fs::create_dir(&registrar_home).unwrap();
    let registrar = function_node(&registrar_home, PORT_0);
    let _running = Running::serve_until_it_answers(&registrar);
    let invite = directory.path().join("invite");
    let invited = huitong()
        .args(["identity", "invite", "--entity", "91440300MA5DEMA08P", "--name", "Provider", "--out"])
        .arg(&invite)
        .arg("-c")
        .arg(&registrar)
        .output()
        .unwrap();
    assert_eq!(invited.status.code(), Some(0), "{}", stderr(&invited));
    assert_eq!(std::fs::metadata(&invite).unwrap().permissions().mode() & 0o777, 0o600);

    let enrol = |home: &str| {
        let home = directory.path().join(home);
        std::fs::create_dir_all(&home).unwrap();
        let config = home.join("node.toml");
        std::fs::write(&config, "identity.registrar_address = \"127.0.0.1:1\"").unwrap();
        huitong()
            .args(["identity", "enrol", "--invite"])
            .arg(&invite)
            .arg("-c")
            .arg(&config)
            .output()
            .unwrap()
    };
    let first = enrol("provider");
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert!(stdout(&first).starts_with("enrolled as 5"), "{}", stdout(&first));
    assert_eq!(stdout(&enrol("provider")), stdout(&first), "the same node again");
    let second = enrol("another");
    assert_eq!(second.status.code(), Some(17), "{}", stderr(&second));
}
