//! `huitong doctor`: what keeps a node from running, or will soon.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use huitong_grpc::proto::admin::GetStatusResponse;
use huitong_identity::NodeKeys;
use huitong_node::config::NodeRole;
use huitong_node::{Config, StartError};
use huitong_proof::{Clock as _, SystemClock};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admin::Admin;
use crate::cli::Global;
use crate::commands::serve::{sources, start_failure};
use crate::commands::{config_path, load_config};
use crate::exit::{Exit, Failure};
use crate::output::{Output, moment};

const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
const LITTLE_SPACE: u64 = 1 << 30;
const TOO_LITTLE_SPACE: u64 = 64 << 20;
const DAY_MILLISECONDS: u64 = 24 * 3600 * 1000;
const EXPIRY_WARNING_DAYS: u64 = 30;
/// 2025-01-01: a machine that believes in an earlier day has lost its clock.
const EARLIEST_MILLISECONDS: u64 = 1_735_689_600_000;

/// Checks everything; exit code 1 when something fails.
pub(crate) async fn run(global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let mut findings = Findings::default();
    let config = match load_config(global) {
        Ok(config) => {
            findings.ok("config", &format!("{} is good", config_path(global)?.display()));
            Some(config)
        }
        Err(failure) => {
            findings.fail("config", &failure.message, &failure.next);
            None
        }
    };
    if let Some(config) = &config {
        check_keys(config, &mut findings);
        let admin = Admin::at(global.admin.clone().unwrap_or_else(|| config.listen.admin.clone()), output);
        let status = check_admin(&admin.impatient(), &mut findings).await;
        if status.is_none() && !findings.any_failed() {
            check_stopped(config, &mut findings).await;
        }
        check_data_directory(config, &mut findings);
        check_listeners(config, status.is_some(), &mut findings).await;
        check_registrar(config, &mut findings).await;
        check_clock(&mut findings);
        if let Some(status) = &status {
            check_running(config, status, &mut findings);
        }
    }
    let json: Vec<_> = findings
        .list
        .iter()
        .map(|one| {
            json!({"check": one.check, "state": one.state.name(), "found": one.found, "next": one.next})
        })
        .collect();
    output.result(&json!({ "findings": json, "good": !findings.any_failed() }), || findings.text());
    Ok(if findings.any_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Fail,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

struct Finding {
    check: &'static str,
    state: State,
    found: String,
    next: String,
}

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, check: &'static str, found: &str) {
        self.add(check, State::Ok, found, "");
    }

    fn warn(&mut self, check: &'static str, found: &str, next: &str) {
        self.add(check, State::Warn, found, next);
    }

    fn fail(&mut self, check: &'static str, found: &str, next: &str) {
        self.add(check, State::Fail, found, next);
    }

    fn add(&mut self, check: &'static str, state: State, found: &str, next: &str) {
        self.list.push(Finding { check, state, found: found.to_owned(), next: next.to_owned() });
    }

    fn any_failed(&self) -> bool {
        self.list.iter().any(|finding| finding.state == State::Fail)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Finding { check, state, found, next } in &self.list {
            text.push_str(&format!("{:<5} {check:<11} {found}", state.name()));
            if !next.is_empty() {
                text.push_str(&format!("; next: {next}"));
            }
            text.push('\n');
        }
        text
    }
}

fn check_keys(config: &Config, findings: &mut Findings) {
    let directory = config.keys_dir();
    if !directory.exists() {
        findings.ok("keys", "none yet; they are made at the first start");
        return;
    }
    match NodeKeys::check(&directory) {
        Ok(()) => {
            findings.ok("keys", &format!("in {} are readable by their owner only", directory.display()))
        }
        Err(error) => {
            let failure = Failure::from_sentence(Exit::Failed, "", &error.to_string());
            let next = failure.or_next("restore them from a backup");
            findings.fail("keys", &next.message, &next.next);
        }
    }
}

fn check_data_directory(config: &Config, findings: &mut Findings) {
    let directory = existing_ancestor(&config.data_dir);
    let probe = directory.join(format!(".huitong-doctor-{}", std::process::id()));
    let written = std::fs::OpenOptions::new().write(true).create_new(true).open(&probe);
    match written {
        Ok(_) => {
            let _ = std::fs::remove_file(&probe);
            findings.ok("data", &format!("{} can be written", config.data_dir.display()));
        }
        Err(error) => findings.fail(
            "data",
            &format!("{} cannot be written: {error}", config.data_dir.display()),
            "make it belong to the user that runs the node, or set node.data_dir",
        ),
    }
    match rustix::fs::statvfs(directory) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let found = format!("{} MiB free", free >> 20);
            match free {
                0..TOO_LITTLE_SPACE => {
                    findings.fail("space", &found, "free some space before starting the node")
                }
                TOO_LITTLE_SPACE..LITTLE_SPACE => {
                    findings.warn("space", &found, "free some space before larger transfers");
                }
                LITTLE_SPACE.. => findings.ok("space", &found),
            }
        }
        Err(error) => findings.warn("space", &format!("cannot be asked for: {error}"), "look with df"),
    }
}

fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

async fn check_admin(admin: &Admin, findings: &mut Findings) -> Option<GetStatusResponse> {
    match admin.status().await {
        Ok(status) => {
            findings.ok("node", &format!("{} runs version {}", status.node, status.version));
            Some(status)
        }
        Err(failure) => {
            let found = format!("does not answer on {}", admin.socket().display());
            findings.warn("node", &found, &failure.next);
            None
        }
    }
}

/// What a stopped node would find at its next start: its own store, enrolment, keys, and clock.
async fn check_stopped(config: &Config, findings: &mut Findings) {
    let store = config.store_dir();
    let is_ours = match std::fs::metadata(&store) {
        Ok(metadata) => metadata.uid() == rustix::process::geteuid().as_raw(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return check_invite(config, findings),
        Err(_) => false,
    };
    if !is_ours {
        // Opening it may write files that the node's user could not read afterwards.
        let found = format!("{} belongs to another user and is not looked into", store.display());
        return findings.warn("store", &found, "run this as the user that runs the node");
    }
    match huitong_node::client(config, &sources()).await {
        Ok((standing, _)) => {
            findings.ok("store", &format!("is whole; this is node {}", standing.membership.node()));
        }
        Err(StartError::NotEnrolled { .. }) => check_invite(config, findings),
        Err(error) => {
            let failure = start_failure(&error).or_next("restore it from a backup");
            findings.fail("store", &failure.message, &failure.next);
        }
    }
}

/// A node without an identity needs an invite, unless it founds the data space.
fn check_invite(config: &Config, findings: &mut Findings) {
    let NodeRole::Connector(connector) = &config.role else {
        return findings.ok("identity", "none yet; the node founds a data space at its first start");
    };
    let next = "ask the registrar's operator for an invite; set identity.invite_file, or use `huitong identity enrol`";
    match connector.invite_file.as_ref().map(|path| (path, std::fs::metadata(path))) {
        None => {
            findings.fail("identity", "the node is not enrolled, and identity.invite_file is not set", next)
        }
        Some((path, Ok(file))) if file.is_file() => {
            findings
                .ok("identity", &format!("none yet; the node enrols with {} at its start", path.display()));
        }
        Some((path, found)) => {
            let why = found.err().map_or_else(|| "it is not a file".to_owned(), |error| error.to_string());
            let found = format!("the node is not enrolled, and there is no invite {}: {why}", path.display());
            findings.fail("identity", &found, next);
        }
    }
}

async fn check_listeners(config: &Config, running: bool, findings: &mut Findings) {
    let mut listeners = vec![("peers", config.listen.peers)];
    if let NodeRole::Function(function) = &config.role {
        listeners.push(("enrolment", function.enrolment));
    }
    listeners.extend(config.listen.http.map(|address| ("http", address)));
    for (name, address) in listeners {
        if address.port() == 0 {
            findings.ok(name, "takes any free port");
        } else if running {
            let reachable = SocketAddr::new(local(address), address.port());
            match timeout(CONNECT_PATIENCE, TcpStream::connect(reachable)).await {
                Ok(Ok(_)) => findings.ok(name, &format!("{address} is served by this node")),
                _ => findings.fail(
                    name,
                    &format!("nobody answers on {address} although the node runs"),
                    "restart the node if its configuration was changed",
                ),
            }
        } else {
            match TcpListener::bind(address) {
                Ok(_) => findings.ok(name, &format!("{address} is free")),
                Err(error) => findings.fail(
                    name,
                    &format!("{address} cannot be used: {error}"),
                    &format!(
                        "stop what uses it (ss -ltnp 'sport = :{}') or set another in [listen]",
                        address.port()
                    ),
                ),
            }
        }
    }
}

fn local(address: SocketAddr) -> std::net::IpAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    }
}

async fn check_registrar(config: &Config, findings: &mut Findings) {
    let NodeRole::Connector(connector) = &config.role else { return };
    let address = &connector.registrar_address;
    match timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => findings.ok("registrar", &format!("{address} can be reached")),
        Ok(Err(error)) => findings.fail(
            "registrar",
            &format!("{address} cannot be reached: {error}"),
            "check identity.registrar_address and the way to it, or ask its operator",
        ),
        Err(_) => findings.fail(
            "registrar",
            &format!("{address} does not answer"),
            "check the firewall on the way to it",
        ),
    }
}

fn check_clock(findings: &mut Findings) {
    let now = SystemClock.now().millis();
    if now < EARLIEST_MILLISECONDS {
        findings.fail("clock", &format!("stands at {}", moment(now)), "set the clock, and keep it with NTP");
    } else {
        findings.ok("clock", &moment(now));
    }
}

fn check_running(config: &Config, status: &GetStatusResponse, findings: &mut Findings) {
    if status.ready {
        findings.ok("ready", "takes work");
    } else {
        findings.fail("ready", &status.not_ready_reason, "correct what the reason names");
    }
    if let NodeRole::Connector(_) = &config.role {
        let age = status.status_age_milliseconds / 1_000;
        let bound = config.status_max_age.as_secs();
        let found = format!("version {} confirmed {age} s ago, counts for {bound} s", status.status_version);
        let next = "bring back the connection to the registrar";
        if age > bound {
            findings.fail("revocations", &found, next);
        } else if age > bound / 2 {
            findings.warn("revocations", &found, next);
        } else {
            findings.ok("revocations", &found);
        }
    }
    let left = status.credential_expires_milliseconds.saturating_sub(SystemClock.now().millis());
    let found = format!("valid until {}", moment(status.credential_expires_milliseconds));
    match left / DAY_MILLISECONDS {
        0 if left == 0 => findings.fail("credential", &found, "enrol again with a new invite"),
        0..EXPIRY_WARNING_DAYS => {
            findings.warn("credential", &found, "ask the registrar's operator for a new invite")
        }
        _ => findings.ok("credential", &found),
    }
}
