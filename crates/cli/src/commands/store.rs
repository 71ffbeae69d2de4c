//! `huitong store`: the files of journal, snapshots, index and ledger, on a node that is not running. Only a backup can
//! also be made by a running node.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use huitong_ledger::{LedgerError, offline as ledger};
use huitong_proof::{Clock as _, SystemClock};
use huitong_store::backup::BackupError;
use huitong_store::disk::Disk;
use huitong_store::offline::{self as store, Finding, Severity};
use huitong_store::{OpenError, Progress};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::cli::{Global, Store, StorePlace};
use crate::commands::load_config;
use crate::exit::{Exit, Failure};
use crate::output::{Output, bytes, moment};
use crate::operations;

pub(crate) async fn run(command: Store, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let disk = Disk::real();
    match command {
        Store::Fsck(place) => fsck(&directory(&place, global)?, &disk, output),
        Store::Rebuild(place) => rebuild(&directory(&place, global)?, &disk, output),
        Store::Snapshot { directory: to, place } => {
            if place.data_dir.is_none() {
                let admin = Admin::of(global, output)?.impatient();
                if admin.status().await.is_ok() {
                    return back_up_running(&admin, &to, output).await;
                }
            }
            back_up(&directory(&place, global)?, &to, &disk, output)
        }
        Store::Restore { directory: from, place } => restore(&from, &directory(&place, global)?, &disk, output),
        Store::Export { file, place } => export(&directory(&place, global)?, &file, &disk, output),
        Store::Stats(place) => stats(&directory(&place, global)?, &disk, output),
    }
}

/// Where the store lies.
fn directory(place: &StorePlace, global: &Global) -> Result<PathBuf, Failure> {
    match &place.data_dir {
        Some(data_dir) => Ok(data_dir.join("store")),
        None => Ok(load_config(global)?.store_dir()),
    }
}

fn fsck(dir: &Path, disk: &Disk, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.counter("checking");
    let stored = store::fsck(dir, disk, &mut |step| show(&bar, step)).map_err(opening)?;
    // The ledger's rows are read through the store: first that must be whole.
    let logged = match stored.is_clean() && dir.join("ledger").exists() {
        true => Some(ledger::fsck(dir, disk, &mut |step| show(&bar, step)).map_err(reading)?),
        false => None,
    };
    bar.finish_and_clear();
    let findings: Vec<&Finding> =
        stored.findings.iter().chain(logged.iter().flat_map(|logged| &logged.findings)).collect();
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Note);
    let outcome = match worst {
        Severity::Note => "clean",
        Severity::Recoverable => "recoverable",
        Severity::Damage => "damaged",
    };
    let json = json!({
        "outcome": outcome, "findings": findings.iter().map(|finding| finding_json(finding)).collect::<Vec<_>>(),
        "segments": stored.segments, "journal_bytes": stored.journal_bytes,
        "last_sequence": stored.last_sequence, "snapshots": stored.snapshots, "rows": stored.rows,
        "index_rows": stored.index_rows,
        "ledger": logged.as_ref().map(|logged| json!({
            "size": logged.size, "settled": logged.settled, "signed": logged.signed, "gaps": logged.gaps,
            "tiles": logged.tiles, "lookup_records": logged.records,
        })),
    });
    output.result(&json, || {
        let mut lines: Vec<String> = findings
            .iter()
            .map(|finding| {
                let Finding { severity, place, what, next_step } = finding;
                format!("{:<11} {place}: {what}\n            next: {next_step}", severity.name())
            })
            .collect();
        lines.push(format!(
            "journal     {} segments, {}, up to transaction {}; {} snapshots; {} rows",
            stored.segments,
            bytes(stored.journal_bytes),
            stored.last_sequence,
            stored.snapshots,
            stored.rows,
        ));
        match &logged {
            Some(logged) => lines.push(format!(
                "ledger      {} entries, {} of them settled, {} removed; {} tiles and {} lookup records compared",
                logged.size, logged.settled, logged.gaps, logged.tiles, logged.records
            )),
            None => lines.push("ledger      not checked: first the store must be whole".to_owned()),
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

fn rebuild(dir: &Path, disk: &Disk, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.counter("rebuilding");
    let sequence = store::rebuild(dir, disk, &mut |step| show(&bar, step)).map_err(opening)?;
    let entries = match dir.join("ledger").exists() {
        true => ledger::rebuild(dir, disk, &mut |step| show(&bar, step)).map_err(reading)?,
        false => 0,
    };
    bar.finish_and_clear();
    output.result(&json!({ "last_sequence": sequence, "entries": entries }), || {
        format!("the index holds transaction {sequence}; tiles and lookups of {entries} entries were made again")
    });
    Ok(ExitCode::SUCCESS)
}

async fn back_up_running(admin: &Admin, to: &Path, output: Output) -> Result<ExitCode, Failure> {
    let report = operations::back_up(admin, to, output).await?;
    let (sequence, size) = (report.sequence, report.bytes);
    told_backup(to, sequence, size, output);
    Ok(ExitCode::SUCCESS)
}

fn back_up(dir: &Path, to: &Path, disk: &Disk, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.counter("backing up");
    let made = SystemClock.now().millis();
    let mut report = store::backup(dir, to, made, disk, &mut |step| show(&bar, step)).map_err(backing_up)?;
    if dir.join("ledger").exists() {
        report = ledger::backup(dir, to, disk, &mut |step| show(&bar, step)).map_err(reading)?;
    }
    bar.finish_and_clear();
    told_backup(to, report.sequence, report.bytes, output);
    Ok(ExitCode::SUCCESS)
}

fn told_backup(to: &Path, sequence: u64, size: u64, output: Output) {
    output.result(&json!({ "backup": to, "last_sequence": sequence, "bytes": size }), || {
        format!(
            "backed up to {} ({}), up to transaction {sequence}\nKeys are not in it: keep a copy of the node's keys \
             directory in another safe place.",
            to.display(),
            bytes(size)
        )
    });
}

fn restore(from: &Path, dir: &Path, disk: &Disk, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.counter("restoring");
    let now = moment(SystemClock.now().millis());
    let note = format!("restored {now} from {}\n", from.display());
    let report = store::restore(from, dir, &note, disk, &mut |step| show(&bar, step)).map_err(backing_up)?;
    bar.finish_and_clear();
    let json = json!({ "store": dir, "last_sequence": report.sequence, "bytes": report.bytes });
    output.result(&json, || {
        format!(
            "restored {} to {}, up to transaction {}\nNext: put the node's keys back, start it, and look at `huitong \
             ledger status`: it signs nothing\nuntil its witnesses and counterparties have confirmed that nothing is \
             missing, or `huitong ledger recover` has\nbrought back what is.",
            bytes(report.bytes),
            dir.display(),
            report.sequence
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn export(dir: &Path, file: &Path, disk: &Disk, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.counter("exporting");
    let written = |error: std::io::Error| Failure::file("write", file, &error);
    let mut show = |step| show(&bar, step);
    if file == Path::new("-") {
        let mut out = BufWriter::new(std::io::stdout().lock());
        ledger::export(dir, disk, &mut out, &mut show).map_err(reading)?;
        out.flush().map_err(written)?;
        return Ok(ExitCode::SUCCESS);
    }
    let created: File = OpenOptions::new().write(true).create_new(true).open(file).map_err(written)?;
    let mut out = BufWriter::new(created);
    let entries = ledger::export(dir, disk, &mut out, &mut show).map_err(reading)?;
    out.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|file| file.sync_all()).map_err(written)?;
    bar.finish_and_clear();
    output.result(&json!({ "file": file, "entries": entries }), || {
        format!("{entries} entries written to {}", file.display())
    });
    Ok(ExitCode::SUCCESS)
}

fn stats(dir: &Path, disk: &Disk, output: Output) -> Result<ExitCode, Failure> {
    let bar = output.counter("counting");
    let stored = store::stats(dir, disk, &mut |step| show(&bar, step)).map_err(opening)?;
    let logged = match dir.join("ledger").exists() {
        true => Some(ledger::stats(dir, disk).map_err(reading)?),
        false => None,
    };
    bar.finish_and_clear();
    let tables: serde_json::Map<String, Value> = stored
        .tables
        .iter()
        .map(|(name, table)| (name.clone(), json!({ "rows": table.rows, "bytes": table.bytes })))
        .collect();
    let json = json!({
        "last_sequence": stored.last_sequence, "last_time_milliseconds": stored.last_time,
        "segments": stored.segments, "journal_bytes": stored.journal_bytes, "snapshots": stored.snapshots,
        "snapshot_bytes": stored.snapshot_bytes, "index_bytes": stored.index_bytes, "tables": tables,
        "ledger": logged.as_ref().map(|logged| json!({
            "origin": logged.origin, "size": logged.size, "settled": logged.settled, "signed": logged.signed,
            "gaps": logged.gaps, "channels": logged.channels, "bundle_bytes": logged.bundles.bytes,
            "tile_bytes": logged.tiles.bytes, "lookup_bytes": logged.runs.bytes,
        })),
    });
    output.result(&json, || {
        let mut lines = vec![
            format!("transactions  {}, the last at {}", stored.last_sequence, moment(stored.last_time)),
            format!("journal       {} segments, {}", stored.segments, bytes(stored.journal_bytes)),
            format!("snapshots     {}, {}", stored.snapshots, bytes(stored.snapshot_bytes)),
            format!("index         {}", bytes(stored.index_bytes)),
        ];
        if let Some(logged) = &logged {
            lines.push(format!(
                "ledger        {} entries ({} settled, {} removed): entries {}, tiles {}, lookups {}",
                logged.size,
                logged.settled,
                logged.gaps,
                bytes(logged.bundles.bytes),
                bytes(logged.tiles.bytes),
                bytes(logged.runs.bytes)
            ));
        }
        lines.extend(
            stored
                .tables
                .iter()
                .map(|(name, table)| format!("  {name:<28} {:>10} rows {:>14}", table.rows, bytes(table.bytes))),
        );
        lines.join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

fn finding_json(finding: &Finding) -> Value {
    let Finding { severity, place, what, next_step } = finding;
    json!({ "severity": severity.name(), "place": place, "what": what, "next_step": next_step })
}

fn show(bar: &ProgressBar, progress: Progress) {
    operations::show(bar, progress.step, progress.done, progress.total);
}

fn opening(error: OpenError) -> Failure {
    let (exit, code) = match &error {
        OpenError::Locked { .. } => (Exit::Start(15), "store.locked"),
        OpenError::Io { .. } | OpenError::Index { .. } => (Exit::Failed, "store.files"),
        OpenError::Damaged { .. } | OpenError::Snapshot { .. } | OpenError::Version { .. } => {
            (Exit::Start(14), "store.damaged")
        }
    };
    Failure::from_sentence(exit, code, &whole(&error))
}

fn backing_up(error: BackupError) -> Failure {
    match error {
        BackupError::Files(error) => opening(error),
        other => Failure::from_sentence(Exit::Failed, "store.backup", &whole(&other)),
    }
}

fn reading(error: LedgerError) -> Failure {
    match error {
        LedgerError::Open(error) => opening(error),
        other => Failure::from_sentence(Exit::Start(14), "store.ledger", &whole(&other)),
    }
}

/// An error and what is behind it, in one sentence.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let words = cause.to_string();
        if text.contains(&words) { text } else { format!("{text}: {words}") }
    })
}
