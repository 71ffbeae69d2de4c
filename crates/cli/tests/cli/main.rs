//! The binary `huitong` from outside: processes, exit codes, files, and the document that a newcomer follows.

// Always true here: it tells clippy that helpers of tests may unwrap too.
#[cfg(test)]
mod backup;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod deposits;
#[cfg(test)]
mod document;
#[cfg(test)]
mod killing;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod quickstart;
#[cfg(test)]
mod receipts;
#[cfg(test)]
mod starting;
#[cfg(test)]
mod store;
#[cfg(test)]
mod support;
#[cfg(test)]
mod transfers;

use support::{huitong, stderr, stdout};

#[test]
fn completion_scripts() {
    for (shell, sign) in
        [("bash", "_huitong()"), ("zsh", "#compdef huitong"), ("fish", "complete -c huitong")]
    {
        let done = huitong().args(["completion", shell]).output().unwrap();
        assert_eq!(done.status.code(), Some(0));
        assert!(stdout(&done).contains(sign), "{shell}: {}", stdout(&done));
    }
}

#[test]
fn the_default_configuration_is_the_documented_file() {
    let done = huitong().args(["config", "show-default"]).output().unwrap();
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(stdout(&done), include_str!("../../../../config/node.toml"));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    for arguments in
        [&["nonsense"][..], &["transfer", "fetch"], &["contract", "negotiate", "x", "--timeout", "1w"]]
    {
        let done = huitong().args(arguments).output().unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {}", stderr(&done));
    }
}

#[test]
fn a_node_that_does_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    for arguments in
        [&["status"][..], &["catalog", "list"], &["ledger", "checkpoint"], &["identity", "trust"]]
    {
        let done = huitong().args(arguments).arg("--admin").arg(&socket).output().unwrap();
        assert_eq!(done.status.code(), Some(7), "{arguments:?}: {}", stderr(&done));
        assert!(stderr(&done).contains("error[node.not-running]"), "{}", stderr(&done));
        assert!(stderr(&done).contains("next: start the node"), "{}", stderr(&done));
    }
    let done = huitong().args(["status", "-o", "json", "--admin"]).arg(&socket).output().unwrap();
    let error: serde_json::Value = serde_json::from_str(&stderr(&done)).unwrap();
    assert_eq!(error["error"]["exit"], 7);
}
