//! `huitong store` on stopped and running nodes, and nodes whose disk takes nothing more.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;

use crate::starting::{PORT_0, function_node, largest_file, stopped_node};
use crate::support::{Demo, Running, ask, free_port, get, huitong, kill, log_of, stderr, stdout, wait_for};

/// A copy of the data directory that the demo's provider left.
struct Copy {
    directory: tempfile::TempDir,
}

impl Copy {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        copy(&Demo::shared().path("provider/data/store"), &directory.path().join("data/store"));
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `huitong store ARGUMENTS --data-dir ...`, in the copy's directory.
    fn store(&self, arguments: &[&str]) -> Output {
        self.store_at("data", arguments)
    }

    fn store_at(&self, data_dir: &str, arguments: &[&str]) -> Output {
        let mut command = huitong();
        command.current_dir(self.directory.path()).arg("store").args(arguments);
        command.args(["--data-dir", data_dir]).output().unwrap()
    }

    /// Runs it with an answer in JSON; the exit code must be this one.
    #[track_caller]
    fn answer(&self, data_dir: &str, arguments: &[&str], exit: i32) -> Value {
        let done = self.store_at(data_dir, &[arguments, &["-o", "json"][..]].concat());
        assert_eq!(done.status.code(), Some(exit), "{arguments:?}: {}{}", stdout(&done), stderr(&done));
        serde_json::from_str(&stdout(&done)).unwrap()
    }

    /// Runs it; it must be refused with this exit code, and say these words and a next step.
    #[track_caller]
    fn refused(&self, data_dir: &str, arguments: &[&str], exit: i32, words: &[&str]) {
        check_refused(&self.store_at(data_dir, arguments), exit, words);
    }
}

#[track_caller]
fn check_refused(done: &Output, exit: i32, words: &[&str]) {
    let said = stderr(done);
    assert_eq!(done.status.code(), Some(exit), "{}{said}", stdout(done));
    assert!(said.starts_with("error[store."), "{said}");
    assert!(said.contains("\n  next: "), "no next step: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing: {said}");
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn a_check_tells_clean_recoverable_and_damaged_apart() {
    let node = Copy::new();
    let clean = node.answer("data", &["fsck"], 0);
    assert_eq!((&clean["outcome"], &clean["findings"]), (&"clean".into(), &Value::Array(Vec::new())));
    let size = clean["ledger"]["size"].as_u64().unwrap();
    assert!(size > 20, "{clean}");
    let text = node.store(&["fsck"]);
    assert!(stdout(&text).ends_with("CLEAN\n"), "{}", stdout(&text));

    // Two things that the next start mends: no index, and a group that was never completed.
    std::fs::remove_dir_all(node.path("data/store/index")).unwrap();
    let segment = largest_file(&node.path("data/store/journal"));
    let whole = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, [&whole[..], &[7; 20][..]].concat()).unwrap();
    let found = node.answer("data", &["fsck"], 19);
    assert_eq!(found["outcome"], "recoverable");
    let places: Vec<_> =
        found["findings"].as_array().unwrap().iter().map(|one| one["place"].as_str().unwrap()).collect();
    assert!(places.iter().any(|place| place.ends_with("index")), "{places:?}");
    assert!(places.iter().any(|place| place.ends_with(".seg")), "{places:?}");
    assert!(!node.path("data/store/index").exists(), "a check changes nothing");
    let text = stdout(&node.store(&["fsck"]));
    assert!(text.contains("next: start the node") && text.ends_with("RECOVERABLE\n"), "{text}");
    assert_eq!(node.answer("data", &["rebuild"], 0)["last_sequence"], clean["last_sequence"]);
    assert_eq!(node.answer("data", &["fsck"], 0)["rows"], clean["rows"]);

    // A bit that flips in the middle is no accident of a crash.
    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&segment, damaged).unwrap();
    let found = node.answer("data", &["fsck"], 14);
    assert_eq!(found["outcome"], "damaged");
    assert!(found["findings"].as_array().unwrap().iter().any(|one| one["severity"] == "damage"), "{found}");
    node.refused("data", &["rebuild"], 14, &["damaged"]);
    node.refused("data", &["stats"], 14, &["damaged"]);
}

#[test]
fn counting_and_exporting() {
    let node = Copy::new();
    let stats = node.answer("data", &["stats"], 0);
    let size = stats["ledger"]["size"].as_u64().unwrap();
    assert_eq!(stats["tables"]["ledger.entry"]["rows"], size);
    assert!(stats["journal_bytes"].as_u64().unwrap() > 0 && stats["last_sequence"].as_u64().unwrap() > 0);
    let text = stdout(&node.store(&["stats"]));
    assert!(text.contains(&format!("{size} entries")) && text.contains("contract.contract"), "{text}");

    assert_eq!(node.answer("data", &["export", "ledger.jsonl"], 0)["entries"], size);
    let exported = std::fs::read_to_string(node.path("ledger.jsonl")).unwrap();
    let lines: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len() as u64, size);
    assert!(lines.iter().zip(0_u64..).all(|(line, index)| line["index"] == index), "{exported}");
    assert_eq!(stdout(&node.store(&["export", "-"])), exported);
    let again = node.store(&["export", "ledger.jsonl"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("ledger.jsonl exists already"), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(node.path("ledger.jsonl")).unwrap(), exported);

    // Who has read enough is no error; a disk that is full is one.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let export = |out: Stdio| {
        huitong()
            .args(["store", "export", "-", "--data-dir"])
            .arg(node.path("data"))
            .stdout(out)
            .output()
            .unwrap()
    };
    let done = export(writer.into());
    assert_eq!((done.status.code(), stderr(&done)), (Some(0), String::new()));
    let done = export(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
    assert_ne!(done.status.code(), Some(0));
    assert!(stderr(&done).contains("No space left"), "{}", stderr(&done));
}

#[test]
fn a_backup_of_a_stopped_node() {
    let node = Copy::new();
    let clean = node.answer("data", &["fsck"], 0);
    let made = node.answer("data", &["snapshot", "backup"], 0);
    assert_eq!(made["last_sequence"], clean["last_sequence"]);
    node.refused("data", &["snapshot", "backup"], 2, &["backup exists already"]);
    node.refused("data", &["restore", "backup"], 2, &["is not empty", "data/store away first"]);
    node.refused("other", &["restore", "nothing"], 5, &["nothing"]);
    node.refused("nothing", &["fsck"], 18, &["no store", "--data-dir"]);
    assert!(!node.path("other/store").exists());

    let restored = node.store_at("other/data", &["restore", "backup"]);
    assert_eq!(restored.status.code(), Some(0), "{}", stderr(&restored));
    for words in ["keys", "safe mode", "huitong ledger status", "huitong ledger recover"] {
        assert!(stdout(&restored).contains(words), "{words} is missing: {}", stdout(&restored));
    }
    let mark = std::fs::read_to_string(node.path("other/data/store/restored")).unwrap();
    assert!(mark.contains(node.path("backup").to_str().unwrap()), "{mark}");
    assert_eq!(node.answer("other/data", &["fsck"], 19)["last_sequence"], clean["last_sequence"]);
    node.answer("other/data", &["rebuild"], 0);
    let whole = node.answer("other/data", &["fsck"], 0);
    assert_eq!((&whole["rows"], &whole["ledger"]), (&clean["rows"], &clean["ledger"]));
    let exported = |data: &str| stdout(&node.store_at(data, &["export", "-"]));
    assert_eq!(exported("other/data"), exported("data"));

    let segment = largest_file(&node.path("backup/journal"));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    // A file of its own: the backup's may be the store's, too.
    std::fs::remove_file(&segment).unwrap();
    std::fs::write(&segment, bytes).unwrap();
    node.refused("third", &["restore", "backup"], 5, &["is not what the backup's manifest says"]);
    assert!(!node.path("third/store").exists());
}

#[test]
fn a_running_node_keeps_its_store_to_itself() {
    let directory = tempfile::tempdir().unwrap();
    let config = function_node(directory.path(), PORT_0);
    let running = Running::serve_until_it_answers(&config);
    let store = |arguments: &[&str]| {
        let mut command = huitong();
        command.current_dir(directory.path()).arg("store").args(arguments).output().unwrap()
    };
    let process = format!("process {}", running.0.id());
    for arguments in [
        &["fsck"][..],
        &["rebuild"],
        &["stats"],
        &["export", "out"],
        &["snapshot", "no", "--data-dir", "data"],
        &["fsck", "--data-dir", "data"],
    ] {
        check_refused(&store(arguments), 15, &[&process]);
    }
    check_refused(&store(&["restore", "backup"]), 5, &["backup"]);
    assert!(!directory.path().join("out").exists(), "nothing is left of an export that was refused");

    // The backup it makes itself.
    let done = store(&["snapshot", "backup", "-o", "json"]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let made: Value = serde_json::from_str(&stdout(&done)).unwrap();
    assert!(made["last_sequence"].as_u64().unwrap() > 0, "{made}");
    check_refused(&store(&["snapshot", "backup"]), 2, &["exists already"]);
    check_refused(&store(&["restore", "backup"]), 2, &["away first"]);
    let nobody = store(&["snapshot", "more", "--admin", "nobody.sock"]);
    assert_eq!(nobody.status.code(), Some(7), "who names a socket means a running node: {}", stderr(&nobody));
    running.signal(Signal::KILL);
    drop(running);
    assert_eq!(store(&["snapshot", "stopped"]).status.code(), Some(0));

    // A node that has met nobody has nobody to ask what it has forgotten. That is for its operator to know.
    std::fs::rename(directory.path().join("data/store"), directory.path().join("lost")).unwrap();
    assert_eq!(store(&["restore", "backup"]).status.code(), Some(0));
    let _running = Running::serve_until_it_answers(&config);
    let safe_mode = ask(&config, &["ledger", "status"])["safe_mode"].to_string();
    assert!(safe_mode.contains("restored from a backup"), "{safe_mode}");
    let ledger =
        |arguments: &[&str]| huitong().arg("ledger").args(arguments).arg("-c").arg(&config).output().unwrap();
    for arguments in [&["compare"][..], &["recover"]] {
        let done = ledger(arguments);
        assert_eq!(done.status.code(), Some(6), "{}{}", stdout(&done), stderr(&done));
        assert!(stdout(&done).contains("SAFE MODE"), "{}", stdout(&done));
    }
    let mut invite = huitong();
    invite.args(["identity", "invite", "--entity", "91440300MA5DEMA08P", "--name", "Member", "-c"]);
    let done = invite.arg(&config).output().unwrap();
    assert_ne!(done.status.code(), Some(0), "{}", stdout(&done));
    assert!(stderr(&done).contains("error[ledger.safe_mode]"), "{}", stderr(&done));
    assert!(stderr(&done).contains("huitong ledger recover"), "{}", stderr(&done));
    assert_eq!(ask(&config, &["ledger", "compare", "--resume-unconfirmed"])["signing"], true);
    assert_eq!(ask(&config, &["status", "--wait"])["ready"], true);
    assert_eq!(ask(&config, &["ledger", "recover"])["recovered"], 0);
    assert!(!directory.path().join("data/store/restored").exists());
}

#[test]
fn a_disk_that_takes_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let config = function_node(directory.path(), PORT_0);
    let address = format!("127.0.0.1:{}", free_port());
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("http = \"\"", &format!("http = \"{address}\""));
    // Invites name the address at which they count, also after a restart.
    let text =
        text.replace("enrolment = \"127.0.0.1:0\"", &format!("enrolment = \"127.0.0.1:{}\"", free_port()));
    std::fs::write(&config, text).unwrap();
    // The signal that would end the process is ignored, so that the write fails as it does on a full disk.
    let log = std::fs::File::create(directory.path().join("node.log")).unwrap();
    let serve = "trap '' XFSZ; exec \"$0\" serve -c \"$1\"";
    let shell = Command::new("bash")
        .args(["-c", serve, env!("CARGO_BIN_EXE_huitong")])
        .arg(&config)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut node = Running(shell);
    wait_for("the node takes work", || {
        assert!(node.0.try_wait().unwrap().is_none(), "{}", log_of(&config));
        huitong().args(["status", "-c"]).arg(&config).output().unwrap().status.success()
    });
    assert_eq!(ask(&config, &["status", "--wait"])["ready"], true);

    let journal = largest_file(&directory.path().join("data/store/journal"));
    let limit = Some(std::fs::metadata(&journal).unwrap().len() + 4_000);
    let pid = Pid::from_child(&node.0);
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: limit, maximum: limit }).unwrap();
    let mut acknowledged = Vec::new();
    for number in 0.. {
        assert!(number < 1_000, "the limit is never reached");
        let invite = directory.path().join(format!("invite-{number}"));
        let mut inviting = Running(
            huitong()
                .args(["identity", "invite", "--entity", "91440300MA5DEMA08P", "--name", "Provider", "--out"])
                .arg(&invite)
                .arg("-c")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        // A command waits for a node that cannot write, in case it is started again soon.
        let mut ended = None;
        wait_for("an answer or a failed disk", || {
            ended = inviting.0.try_wait().unwrap();
            ended.is_some() || get(&address, "/readyz").0 == 503
        });
        match ended {
            Some(status) if status.success() => acknowledged.push(invite),
            _ => break,
        }
    }
    assert!(acknowledged.len() > 3, "{}", acknowledged.len());

    // It says so, takes nothing more, and still answers.
    for path in ["/readyz", "/healthz"] {
        let (status, why) = get(&address, path);
        assert_eq!(status, 503, "{path}: {why}");
        assert!(why.contains("the journal cannot be written") && why.contains("free space"), "{path}: {why}");
    }
    assert!(get(&address, "/metrics").1.contains("\nhuitong_store_ok 0\n"));
    let status = ask(&config, &["status"]);
    assert_eq!(status["ready"], false);
    assert!(
        status["not_ready_reason"].as_str().unwrap().contains("the journal cannot be written"),
        "{status}"
    );
    let listed = ask(&config, &["ledger", "list", "--limit", "1000"]);
    let size = ask(&config, &["ledger", "status"])["size"].as_u64().unwrap();
    assert_eq!(listed["statements"].as_array().unwrap().len() as u64, size);

    kill(i32::try_from(node.0.id()).unwrap(), Signal::TERM);
    node.0.wait().unwrap();
    let store = |arguments: &[&str]| {
        huitong().arg("store").args(arguments).args(["-o", "json", "-c"]).arg(&config).output().unwrap()
    };
    let checked = store(&["fsck"]);
    assert_eq!(checked.status.code(), Some(19), "{}{}", stdout(&checked), stderr(&checked));

    // With room again nothing is missing that was acknowledged.
    let _node = Running::serve_until_it_answers(&config);
    assert_eq!(ask(&config, &["status", "--wait"])["ready"], true);
    let after = ask(&config, &["ledger", "list", "--limit", "1000"]);
    let after = after["statements"].as_array().unwrap();
    for statement in listed["statements"].as_array().unwrap() {
        assert!(after.contains(statement), "{statement} is missing");
    }
    let last = acknowledged.last().unwrap();
    let home = directory.path().join("member");
    std::fs::create_dir(&home).unwrap();
    let member = home.join("node.toml");
    std::fs::write(&member, "identity.registrar_address = \"127.0.0.1:1\"").unwrap();
    let enrolled =
        huitong().args(["identity", "enrol", "--invite"]).arg(last).arg("-c").arg(&member).output().unwrap();
    assert_eq!(enrolled.status.code(), Some(0), "the newest invite counts: {}", stderr(&enrolled));
}

#[test]
fn a_store_that_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let config = stopped_node(directory.path());
    let store = directory.path().join("data/store");
    let lock = store.join("lock");
    let journal = store.join("journal");
    let segment = largest_file(&journal);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let set = |file, dir| {
        mode(&lock, file);
        mode(&segment, file);
        mode(&journal, dir);
        mode(&store, dir);
    };
    let refused = |why: &str| {
        let done = huitong().args(["serve", "-c"]).arg(&config).output().unwrap();
        assert_eq!(done.status.code(), Some(18), "{}", stderr(&done));
        assert!(stderr(&done).contains("store") && stderr(&done).contains(why), "{}", stderr(&done));
        assert!(stderr(&done).contains("\n  next: "), "{}", stderr(&done));
    };
    // A directory takes no bytes, not even root's.
    let aside = directory.path().join("lock");
    std::fs::rename(&lock, &aside).unwrap();
    std::fs::create_dir(&lock).unwrap();
    refused("s a directory");
    std::fs::remove_dir(&lock).unwrap();
    std::fs::rename(&aside, &lock).unwrap();

    set(0o400, 0o500);
    let root = std::fs::File::options().append(true).open(&lock).is_ok();
    if root {
        eprintln!("skipped: this user may write everywhere, so no mode keeps the node from writing");
    } else {
        refused("ermission");
    }
    set(0o600, 0o700);
    let _running = Running::serve_until_it_answers(&config);
}
