//! What a person gets wrong, and what the program says about it. No node runs here.

use std::fs::{File, OpenOptions};

use serde_json::Value;

use crate::support::{huitong, stderr, stdout};

const CONTRACT: &str = "8591440300MA5DEMA08P440320261123164424ASDDJAI8X";

#[test]
fn wrong_usage_is_json_when_json_is_asked_for() {
    for arguments in [
        &["nonsense", "-o", "json"][..],
        &["-ojson", "catalog", "show"],
        &["catalog", "show", CONTRACT, "--output=json"],
        &["catalog", "search", "--limit", "101", "--output", "json"],
    ] {
        let done = huitong().args(arguments).output().unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
        assert_eq!(stdout(&done), "");
        let error: Value = serde_json::from_str(&stderr(&done)).unwrap();
        assert_eq!(
            (&error["error"]["code"], &error["error"]["exit"]),
            (&"usage".into(), &2.into()),
            "{error}"
        );
    }
    let done = huitong().args(["catalog", "show", CONTRACT]).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(stderr(&done).contains("this is a contract id; `huitong catalog search`"), "{}", stderr(&done));
}

#[test]
fn everything_with_a_result_has_it_in_json() {
    for arguments in [&["config", "show-default"][..], &["completion", "bash"], &["doctor"]] {
        let nowhere = tempfile::tempdir().unwrap();
        let done =
            huitong().args(arguments).args(["-o", "json"]).current_dir(nowhere.path()).output().unwrap();
        let answer: Result<Value, _> = serde_json::from_str(&stdout(&done));
        assert!(answer.is_ok_and(|answer| answer.is_object()), "{arguments:?}: {}", stdout(&done));
    }
}

#[test]
fn a_result_that_does_not_arrive_is_a_failure() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let done = huitong().args(["config", "show-default"]).stdout(full).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(stderr(&done).starts_with("error[stdout]"), "{}", stderr(&done));

    // A reader that has seen enough is none.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = huitong().args(["config", "show-default"]).stdout(writer).output().unwrap();
    assert_eq!((done.status.code(), stderr(&done)), (Some(0), String::new()));
}

#[test]
fn files_that_are_no_receipts_are_told_apart_from_false_ones() {
    let directory = tempfile::tempdir().unwrap();
    let (huge, empty) = (directory.path().join("huge"), directory.path().join("empty"));
    File::create(&huge).unwrap().set_len(1 << 32).unwrap();
    File::create(&empty).unwrap();
    for file in [&huge, &empty, &directory.path().join("missing"), directory.path()] {
        for form in ["text", "json"] {
            let done = huitong().args(["receipt", "show", "-o", form]).arg(file).output().unwrap();
            assert_eq!(done.status.code(), Some(5), "{}", file.display());
            assert!(stderr(&done).contains("next"), "{}", stderr(&done));
        }
    }
}

#[test]
fn doctor_misses_the_invite_of_a_node_that_is_not_enrolled() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("node.toml");
    let text = "[identity]\ndomain = \"127.0.0.1\"\nregistrar_address = \"127.0.0.1:1\"\ninvite_file = \"invite\"\n\
                [listen]\npeers = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n";
    std::fs::write(&config, text).unwrap();
    let said = || {
        let done = huitong().args(["doctor", "-c"]).arg(&config).output().unwrap();
        assert_eq!(done.status.code(), Some(1), "nobody is at the registrar's address");
        stdout(&done)
    };
    assert!(said().contains("fail  identity    the node is not enrolled"), "{}", said());
    std::fs::write(directory.path().join("invite"), "huitong-invite-1:").unwrap();
    assert!(said().contains("ok    identity    none yet"), "{}", said());
    assert!(!directory.path().join("data").exists(), "doctor makes nothing");
}
