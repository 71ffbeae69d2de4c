//! `huitong store`: the files of journal, snapshots, index and ledger, on a node that is not running. Only a backup can
//! also be made by a running node.

use std::error::Error as _;
use std::fs::OpenOptions;
use std::io::{BufWriter, ErrorKind, IntoInnerError, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use huitong_node::maintenance::{self, Finding, MaintenanceError, Progress, Severity, Unit};
use huitong_proof::{Clock as _, SystemClock};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};

use crate::admin::Admin;
use crate::cli::{Global, Store, StorePlace};
use crate::commands::load_config;
use crate::exit::{Exit, Failure};
use crate::operations;
use crate::output::{Output, bytes, moment};

pub(crate) async fn run(command: Store, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    match command {
        Store::Fsck(place) => fsck(&store_at(&place, global)?, output),
        Store::Rebuild(place) => rebuild(&store_at(&place, global)?, output),
        Store::Snapshot { directory: to, place } => {
            refuse_existing(&to)?;
            match running(&place, global, output).await? {
                Some(admin) => back_up_running(&admin, &to, output).await?,
                None => back_up(&store_at(&place, global)?, &to, output)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Store::Restore { directory: from, place } => restore(&from, &place_of(&place, global)?, output),
        Store::Export { file, place } => export(&store_at(&place, global)?, &file, output),
        Store::Stats(place) => stats(&store_at(&place, global)?, output),
    }
}

/// The node that can make the backup itself, if one is meant and runs.
async fn running(place: &StorePlace, global: &Global, output: Output) -> Result<Option<Admin>, Failure> {
    if place.data_dir.is_some() {
        return Ok(None);
    }
    let admin = Admin::of(global, output)?;
    match admin.clone().impatient().status().await {
        Ok(_) => Ok(Some(admin)),
        // Who names a socket means a running node.
        Err(failure) if global.admin.is_some() => Err(failure),
        Err(_) => Ok(None),
    }
}

/// The same for a running node, which takes no other directory, and for a stopped one.
fn refuse_existing(to: &Path) -> Result<(), Failure> {
    match to.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => Err(Failure::new(
            Exit::Usage,
            "store.target",
            format!("{} exists already", to.display()),
            "name a directory that does not exist yet",
        )),
    }
}

/// Where the store is to lie.
fn place_of(place: &StorePlace, global: &Global) -> Result<PathBuf, Failure> {
    match &place.data_dir {
        Some(data_dir) => Ok(data_dir.join("store")),
        None => Ok(load_config(global)?.store_dir()),
    }
}

/// Where the store lies.
fn store_at(place: &StorePlace, global: &Global) -> Result<PathBuf, Failure> {
    let directory = place_of(place, global)?;
    if directory.is_dir() {
        return Ok(directory);
    }
    Err(Failure::new(
        Exit::Start(18),
        "store.missing",
        format!("there is no store at {}", directory.display()),
        "name the node's configuration with -c, or its data directory with --data-dir",
    ))
}

fn fsck(directory: &Path, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.steps();
    let checked = maintenance::fsck(directory, &mut |step| show(&bar, step)).map_err(failed)?;
    bar.finish_and_clear();
    let worst = checked.worst();
    let outcome = match worst {
        Severity::Note => "clean",
        Severity::Recoverable => "recoverable",
        Severity::Damage => "damaged",
    };
    let (store, ledger) = (&checked.store, checked.ledger.as_ref());
    let json = json!({
        "outcome": outcome, "findings": checked.findings().map(finding_json).collect::<Vec<_>>(),
        "segments": store.segments, "journal_bytes": store.journal_bytes, "last_sequence": store.last_sequence,
        "snapshots": store.snapshots, "rows": store.rows, "index_rows": store.index_rows,
        "ledger": ledger.map(|ledger| json!({
            "size": ledger.size, "settled": ledger.settled, "signed": ledger.signed, "gaps": ledger.gaps,
            "tiles": ledger.tiles, "lookup_records": ledger.records,
        })),
    });
    output.result(&json, || {
        let mut lines: Vec<String> = checked.findings().map(finding_text).collect();
        lines.push(format!(
            "journal      {} segments, {}, up to transaction {}; {} snapshots; {} rows",
            store.segments,
            bytes(store.journal_bytes),
            store.last_sequence,
            store.snapshots,
            store.rows,
        ));
        if let Some(ledger) = ledger {
            lines.push(format!(
                "ledger       {} entries, {} of them settled, {} removed; {} tiles and {} lookup records compared",
                ledger.size, ledger.settled, ledger.gaps, ledger.tiles, ledger.records
            ));
        }
        lines.push(outcome.to_uppercase());
        lines.join("\n")
    });
    Ok(match worst {
        Severity::Note => ExitCode::SUCCESS,
        Severity::Recoverable => ExitCode::from(Exit::Recoverable.code()),
        Severity::Damage => ExitCode::from(Exit::Start(14).code()),
    })
}

fn rebuild(directory: &Path, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.steps();
    let rebuilt = maintenance::rebuild(directory, &mut |step| show(&bar, step)).map_err(failed)?;
    bar.finish_and_clear();
    output.result(&json!({ "last_sequence": rebuilt.sequence, "entries": rebuilt.entries }), || {
        format!(
            "the index was built anew up to transaction {}, and the hash tree and lookups of {} entries",
            rebuilt.sequence, rebuilt.entries
        )
    });
    Ok(ExitCode::SUCCESS)
}

async fn back_up_running(admin: &Admin, to: &Path, output: Output) -> Result<(), Failure> {
    let report = operations::back_up(admin, to, output).await?;
    tell_backup(to, report.sequence, report.bytes, output);
    Ok(())
}

fn back_up(directory: &Path, to: &Path, output: Output) -> Result<(), Failure> {
    let bar = output.steps();
    let now = SystemClock.now();
    let made = maintenance::snapshot(directory, to, now, &mut |step| show(&bar, step)).map_err(failed)?;
    bar.finish_and_clear();
    tell_backup(to, made.sequence, made.bytes, output);
    Ok(())
}

fn tell_backup(to: &Path, sequence: u64, size: u64, output: Output) {
    output.result(&json!({ "backup": to, "last_sequence": sequence, "bytes": size }), || {
        format!(
            "backed up to {} ({}), up to transaction {sequence}\nThe keys are not in it: keep a copy of the node's \
             `keys` directory in another safe place.",
            to.display(),
            bytes(size)
        )
    });
}

fn restore(from: &Path, directory: &Path, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.steps();
    let now = SystemClock.now();
    // The mark that the restored store carries names it, and is read in another working directory.
    let from = std::path::absolute(from).map_err(|error| Failure::file("find", from, &error))?;
    let restored = maintenance::restore(&from, directory, now, &mut |step| show(&bar, step));
    bar.finish_and_clear();
    let restored = restored.map_err(|error| occupied(failed(error), directory))?;
    let json = json!({ "store": directory, "last_sequence": restored.sequence, "bytes": restored.bytes });
    output.result(&json, || {
        format!(
            "restored {} to {}, up to transaction {}\nNext: put the node's keys back, start it, and look at `huitong \
             ledger status`. It is in safe mode: it signs\nnothing until witnesses and counterparties have confirmed \
             that nothing is missing, or `huitong ledger recover`\nhas brought back what is.",
            bytes(restored.bytes),
            directory.display(),
            restored.sequence
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn export(directory: &Path, file: &Path, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.steps();
    let mut show = |step| show(&bar, step);
    if file == Path::new("-") {
        let mut out = BufWriter::new(std::io::stdout().lock());
        let written = maintenance::export(directory, &mut out, &mut show).map(|_| out.flush());
        bar.finish_and_clear();
        return match written {
            Ok(Ok(())) => Ok(ExitCode::SUCCESS),
            // A reader that has seen enough is not an error of ours.
            Ok(Err(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
            Ok(Err(error)) => Err(Failure::file("write", file, &error)),
            Err(error) => Err(failed(error)),
        };
    }
    let written = |error: std::io::Error| Failure::file("write", file, &error);
    let created =
        OpenOptions::new().write(true).create_new(true).open(file).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Failure::failed(
                "file",
                format!("{} exists already", file.display()),
                "name a file that does not exist yet",
            ),
            _ => written(error),
        })?;
    let mut out = BufWriter::new(created);
    let exported = maintenance::export(directory, &mut out, &mut show).map_err(failed).and_then(|entries| {
        let file = out.into_inner().map_err(IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).map_err(written)?;
        Ok(entries)
    });
    if exported.is_err() {
        // Half an export looks like a whole one. What is wrong is told already.
        let _ = std::fs::remove_file(file);
    }
    let entries = exported?;
    bar.finish_and_clear();
    output.result(&json!({ "file": file, "entries": entries }), || {
        format!("{entries} entries written to {}", file.display())
    });
    Ok(ExitCode::SUCCESS)
}

fn stats(directory: &Path, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.steps();
    let maintenance::Stats { store, ledger } =
        maintenance::stats(directory, &mut |step| show(&bar, step)).map_err(failed)?;
    bar.finish_and_clear();
    let tables: Map<String, Value> = store
        .tables
        .iter()
        .map(|(name, table)| (name.clone(), json!({ "rows": table.rows, "bytes": table.bytes })))
        .collect();
    let json = json!({
        "last_sequence": store.last_sequence, "last_time_milliseconds": store.last_time,
        "segments": store.segments, "journal_bytes": store.journal_bytes, "snapshots": store.snapshots,
        "snapshot_bytes": store.snapshot_bytes, "index_bytes": store.index_bytes, "tables": tables,
        "ledger": ledger.as_ref().map(|ledger| json!({
            "origin": ledger.origin, "size": ledger.size, "settled": ledger.settled, "signed": ledger.signed,
            "gaps": ledger.gaps, "channels": ledger.channels, "bundle_bytes": ledger.bundles.bytes,
            "tile_bytes": ledger.tiles.bytes, "lookup_bytes": ledger.runs.bytes,
        })),
    });
    output.result(&json, || {
        let mut lines = vec![
            format!("transactions  {}, the last at {}", store.last_sequence, moment(store.last_time)),
            format!("journal       {} segments, {}", store.segments, bytes(store.journal_bytes)),
            format!("snapshots     {}, {}", store.snapshots, bytes(store.snapshot_bytes)),
            format!("index         {}", bytes(store.index_bytes)),
        ];
        if let Some(ledger) = &ledger {
            lines.push(format!(
                "ledger        {} entries, {} of them settled, {} removed; files: entries {}, tiles {}, lookups {}",
                ledger.size,
                ledger.settled,
                ledger.gaps,
                bytes(ledger.bundles.bytes),
                bytes(ledger.tiles.bytes),
                bytes(ledger.runs.bytes)
            ));
        }
        lines.push("tables".to_owned());
        let tables = store.tables.iter();
        lines.extend(tables.map(|(name, table)| {
            format!("  {name:<28} {:>10} rows {:>20}", table.rows, bytes(table.bytes))
        }));
        lines.join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

fn finding_json(finding: &Finding) -> Value {
    let Finding { severity, place, what, next_step } = finding;
    json!({ "severity": severity.name(), "place": place, "what": what, "next_step": next_step })
}

fn finding_text(finding: &Finding) -> String {
    let Finding { severity, place, what, next_step } = finding;
    format!("{:<12} {place}: {what}\n             next: {next_step}", severity.name())
}

fn show(bar: &ProgressBar, progress: Progress) {
    let Progress { step, done, total, unit } = progress;
    let unit = match unit {
        Unit::Bytes => "bytes",
        Unit::Rows => "rows",
        Unit::Files => "files",
        Unit::Entries => "entries",
    };
    operations::show(bar, step, done, total, unit);
}

/// An error with everything behind it before the next step.
fn failed(error: MaintenanceError) -> Failure {
    let mut failure =
        Failure::from_sentence(Exit::Start(error.exit_code()), error.code(), &error.to_string());
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    for words in causes.map(|cause| cause.to_string()) {
        if !failure.message.contains(&words) && !failure.next.contains(&words) {
            failure.message = format!("{}: {words}", failure.message);
        }
    }
    failure
}

/// What is in the way of a restored store is a store: nobody is told to put it elsewhere.
fn occupied(failure: Failure, directory: &Path) -> Failure {
    if failure.code != "store.target" {
        return failure;
    }
    let next = format!("move {} away first, and keep it until the restored node works", directory.display());
    Failure { next, ..failure }
}

fn is_broken_pipe(error: &MaintenanceError) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == ErrorKind::BrokenPipe)
}
