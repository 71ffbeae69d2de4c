//! The commands: each module turns arguments into calls and answers into what is printed.

pub(crate) mod catalog;
mod config;
mod contract;
mod doctor;
pub(crate) mod identity;
mod ledger;
pub(crate) mod receipt;
pub(crate) mod serve;
mod store;
mod transfer;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use huitong_node::Config;
use serde_json::json;
use uuid::Uuid;

use crate::admin::Admin;
use crate::cli::{Cli, Command, CompletionShell, Global};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output, moment};
use crate::{demo, operations, views};

/// How long `status --wait` waits.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Threads for what blocks, made as they are needed: one for each transfer that is served, of up to 1,024, and enough for
/// everything that these wait for. What is received has its own.
const MOST_BLOCKING: usize = 2048;

/// Reads the command line, runs the command, and gives the exit code.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error),
    };
    let output = Output { format: cli.global.output, quiet: cli.global.quiet };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(MOST_BLOCKING)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let message = format!("the system gives this process no threads: {error}");
            output.error(&Failure::failed("system", message, "raise the limit on processes"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(dispatch(cli, output));
    // A thread that still reads stdin must not hold the process back.
    runtime.shutdown_background();
    let told = match crate::output::lost() {
        Some(reason) => Err(Failure::failed(
            "stdout",
            format!("stdout took only a part of the result: {reason}"),
            "make room where it goes, and repeat the command",
        )),
        None => Ok(()),
    };
    match outcome.and_then(|code| told.map(|()| code)) {
        Ok(code) => code,
        Err(failure) => {
            output.error(&failure);
            ExitCode::from(failure.exit.code())
        }
    }
}

/// What the argument parser has to say: help and version on stdout, a mistake on stderr in the form that was asked for.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    let mut arguments = std::env::args().skip_while(|one| !matches!(one.as_str(), "-o" | "--output"));
    let json = arguments.nth(1).is_some_and(|form| form == "json")
        || std::env::args().any(|one| matches!(one.as_str(), "-ojson" | "-o=json" | "--output=json"));
    if !error.use_stderr() || !json {
        // Nothing can be done about a stream that is gone.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()));
    }
    let rendered = error.render().to_string();
    let said = rendered.split("\n\n").next().unwrap_or_default();
    let message = said.strip_prefix("error: ").unwrap_or(said).to_owned();
    let failure = Failure::new(Exit::Usage, "usage", message, "see the command's --help");
    Output { format: Format::Json, quiet: false }.error(&failure);
    ExitCode::from(failure.exit.code())
}

async fn dispatch(cli: Cli, output: Output) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(arguments) => serve::run(&arguments, &global).await?,
        Command::Demo(arguments) => demo::run(&arguments, output).await?,
        Command::Doctor => return doctor::run(&global, output).await,
        Command::Config(command) => config::run(&command, &global, output)?,
        Command::Identity(command) => identity::run(command, &global, output).await?,
        Command::Catalog(command) => catalog::run(command, &global, output).await?,
        Command::Contract(command) => contract::run(command, &global, output).await?,
        Command::Transfer(command) => transfer::run(command, &global, output).await?,
        Command::Receipt(command) => return receipt::run(command, &global, output).await,
        Command::Ledger(command) => return ledger::run(command, &global, output).await,
        Command::Store(command) => return store::run(command, &global, output).await,
        Command::Outbox(_) => ledger::outbox(&global, output).await?,
        Command::Status { wait } => status(wait, &global, output).await?,
        Command::Completion { shell } => completion(shell, output),
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(wait: bool, global: &Global, output: Output) -> Result<(), Failure> {
    let status = if wait {
        let admin = Admin::of(global, output)?;
        if !admin.clone().impatient().status().await.is_ok_and(|status| status.ready) {
            output.note(&format!("waiting up to {} s for the node", READY_PATIENCE.as_secs()));
        }
        operations::ready(&admin, READY_PATIENCE).await?
    } else {
        Admin::open(global, output).await?.impatient().status().await?
    };
    output.result(&views::status(&status), || {
        let ready = if status.ready { "yes".to_owned() } else { format!("no: {}", status.not_ready_reason) };
        format!(
            "node          {}\norganisation  {} {}\nroles         {}\naddress       {}\nregistrar     {}\n\
             ready         {ready}\nrevocations   list version {}, confirmed {} s ago\nledger        {} statements, {}\n\
             outbox        {} waiting\ncredential    until {}\nversion       {}",
            status.node,
            status.entity,
            status.name,
            status.roles.join(", "),
            status.address,
            status.registrar,
            status.status_version,
            status.status_age_milliseconds / 1_000,
            status.ledger_size,
            status.ledger_origin,
            status.outbox,
            moment(status.credential_expires_milliseconds),
            status.version,
        )
    });
    Ok(())
}

fn completion(shell: CompletionShell, output: Output) {
    let shell = match shell {
        CompletionShell::Bash => clap_complete::Shell::Bash,
        CompletionShell::Zsh => clap_complete::Shell::Zsh,
        CompletionShell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "huitong", &mut script);
    let script = String::from_utf8_lossy(&script);
    output.result(&json!({ "script": script }), || script.clone().into_owned());
}

/// The configuration file that applies: `--config`, else ./node.toml, else /etc/huitong/node.toml.
pub(crate) fn config_path(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(path) = &global.config {
        return Ok(path.clone());
    }
    ["node.toml", "/etc/huitong/node.toml"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| {
            Failure::new(
                Exit::Start(10),
                "start.config",
                "there is neither ./node.toml nor /etc/huitong/node.toml",
                "name the file with --config; `huitong config show-default` prints one to start from",
            )
        })
}

/// Reads and checks the configuration.
pub(crate) fn load_config(global: &Global) -> Result<Config, Failure> {
    Config::read(&config_path(global)?)
        .map_err(|error| Failure::from_sentence(Exit::Start(10), "start.config", &error.to_string()))
}

/// A file's bytes, or stdin's for `-`; at most `limit`.
pub(crate) fn read_input(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit.saturating_add(1)).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes))
    };
    let unreadable = |message: String, next| Failure::new(Exit::Unreadable, "file.unreadable", message, next);
    read.map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        unreadable(message, "check the path and its permissions")
    })?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        let limit = crate::output::bytes(limit);
        let message = format!("{} is larger than {limit}, too large for what it should be", path.display());
        return Err(unreadable(message, "check that it is the right file"));
    }
    Ok(bytes)
}

/// The operation id of a command: the given one, or a new one that is told.
fn operation_id(given: Option<Uuid>, output: Output) -> Uuid {
    given.unwrap_or_else(|| {
        let id = operations::new_id();
        output.note(&format!("operation id {id} (repeat the command with --id {id} to continue it)"));
        id
    })
}

/// One JSON list under one name.
fn list(name: &str, items: impl Iterator<Item = serde_json::Value>) -> serde_json::Value {
    json!({ name: items.collect::<Vec<_>>() })
}
