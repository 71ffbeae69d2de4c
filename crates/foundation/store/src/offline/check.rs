//! Reading everything and changing nothing.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use super::{
    CHUNK_BYTES, Finding, FsckReport, Journal, ROWS_PER_REPORT, Severity, failed, is_foreign, lock, scratch,
};
use crate::OpenError;
use crate::blocks::StoredRow;
use crate::disk::Disk;
use crate::index::{Index, IndexPlace};
use crate::merge::{Interrupted, Merge};
use crate::opening::Layout;
use crate::progress::{Progress, Unit};
use crate::segment::{self, Survey};
use crate::snapshot::{self, DAMAGED_EXTENSION, Snapshot};

/// Checks a store that is not running: every snapshot and every journal group that is kept; each snapshot against the
/// one before it and the journal between them; the index against what snapshot and journal give. Memory is bounded;
/// time grows with what is read.
///
/// Changes nothing that a start would see. The index has to be opened to be read, which rewrites files of its own.
///
/// # Errors
/// [`OpenError::Locked`] if the store is in use, [`OpenError::Io`] if a file cannot be read, [`OpenError::Version`] if
/// only a newer program can tell. What does not check is a finding.
pub fn fsck(dir: &Path, disk: &Disk, progress: &mut dyn FnMut(Progress)) -> Result<FsckReport, OpenError> {
    let _lock = lock(dir, disk)?;
    let scratch = scratch(dir, disk)?;
    let mut check = Check { dir, disk, scratch: &scratch, report: FsckReport::default(), progress };
    check.run()?;
    Ok(check.report)
}

struct Check<'a> {
    dir: &'a Path,
    disk: &'a Disk,
    scratch: &'a Path,
    report: FsckReport,
    progress: &'a mut dyn FnMut(Progress),
}

/// How bad it is, what it is, and what to do.
type Verdict = (Severity, String, &'static str);

/// So many bytes of keys are held of rows that an index behind the journal may or may not have.
const CHANGED_BYTES: usize = 64 * 1024 * 1024;
/// So many differing rows are named one by one.
const NAMED_ROWS: u64 = 20;
const FROM_A_BACKUP: &str = "copy the directory aside, then restore it from a backup";
const ONCE_CAUGHT_UP: &str = "start the node, which catches up, stop it, and check again";
const AT_THE_START: &str = "start the node: it rebuilds the index; or run `huitong store rebuild`";

impl Check<'_> {
    fn run(&mut self) -> Result<(), OpenError> {
        let Some(snapshots) = self.snapshots()? else { return Ok(()) };
        let Some(journal) = self.journal(snapshots)? else { return Ok(()) };
        match self.behind(&journal).and_then(|()| self.index(&journal)) {
            // It was whole a moment ago, and now the disk does not give it back.
            Err(error @ (OpenError::Damaged { .. } | OpenError::Snapshot { .. })) => {
                self.find_error(Severity::Damage, error, FROM_A_BACKUP)
            }
            checked => checked,
        }
    }

    /// Those that check, oldest first. Nothing if no start would get over what is there.
    fn snapshots(&mut self) -> Result<Option<Vec<Snapshot>>, OpenError> {
        let directory = Layout::of(self.dir).snapshots;
        let listed = match snapshot::list(&directory) {
            Err(error @ OpenError::Snapshot { .. }) => {
                self.find_error(Severity::Damage, error, "find out what it is, and move it elsewhere")?;
                return Ok(None);
            }
            listed => listed?,
        };
        let mut whole = Vec::new();
        for listed in listed {
            self.report.snapshots = self.report.snapshots.saturating_add(1);
            let progress = &mut *self.progress;
            let checked = Snapshot::open(&listed).and_then(|snapshot| {
                let total = snapshot.length;
                snapshot.check(|done| {
                    progress(Progress { step: "check snapshots", done, total, unit: Unit::Bytes });
                    true
                })?;
                Ok(snapshot)
            });
            match checked {
                Ok(snapshot) => whole.push(snapshot),
                Err(error) => {
                    let next =
                        "start the node: it uses an older snapshot and the journal, and makes a new one";
                    self.find_error(Severity::Recoverable, error, next)?;
                }
            }
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == DAMAGED_EXTENSION) {
                let what = "a snapshot that did not check was set aside here";
                self.find(Severity::Note, path.display(), what, "delete it once its cause is understood");
            }
        }
        Ok(Some(whole))
    }

    /// What a start reads, from the newest snapshot on. Nothing if it would not succeed.
    fn journal(&mut self, mut snapshots: Vec<Snapshot>) -> Result<Option<Journal>, OpenError> {
        let directory = Layout::of(self.dir).journal;
        if !directory.is_dir() {
            self.find(Severity::Damage, directory.display(), "it is missing", FROM_A_BACKUP);
            return Ok(None);
        }
        let survey = loop {
            let after = snapshots.last().map_or(0, |newest| newest.header.sequence);
            let Some(survey) = self.survey(after, Severity::Damage, FROM_A_BACKUP)? else { return Ok(None) };
            match snapshots.pop_if(|newest| is_foreign(newest, &survey)) {
                Some(foreign) => self.find_foreign(&foreign),
                None => break survey,
            }
        };
        snapshots.retain(|older| {
            let is_foreign = is_foreign(older, &survey);
            if is_foreign {
                self.find_foreign(older);
            }
            !is_foreign
        });
        if survey.segments.is_empty() && IndexPlace::new(self.dir, self.disk).exists() {
            let what = "there is an index, so there was a journal: its segments are missing";
            self.find(Severity::Damage, directory.display(), what, FROM_A_BACKUP);
            return Ok(None);
        }
        self.report.segments = survey.segments.len() as u64;
        self.report.journal_bytes = survey.segments.iter().map(|segment| segment.length).sum();
        self.report.last_sequence = survey.last_sequence;
        if survey.torn_bytes > 0 {
            let place =
                survey.segments.last().map(|last| last.path.display().to_string()).unwrap_or_default();
            let what = format!(
                "the last {} bytes are a group that was never completed, and so never acknowledged",
                survey.torn_bytes
            );
            self.find(Severity::Recoverable, place, what, "start the node: it cuts them off");
        }
        Ok(Some(Journal { survey, snapshots }))
    }

    /// Reads the journal from the transaction behind sequence `after` on. Nothing if it does not check, which is said.
    fn survey(
        &mut self,
        after: u64,
        severity: Severity,
        next_step: &str,
    ) -> Result<Option<Survey>, OpenError> {
        let mut transactions = 0_u64;
        let progress = &mut *self.progress;
        let surveyed = segment::survey(&Layout::of(self.dir).journal, after, |group| {
            transactions = transactions.saturating_add(group.entries.len() as u64);
            progress(Progress {
                step: "check the journal",
                done: transactions,
                total: 0,
                unit: Unit::Entries,
            });
        });
        match surveyed {
            Ok(survey) => Ok(Some(survey)),
            Err(error) => {
                self.find_error(severity, error, next_step)?;
                Ok(None)
            }
        }
    }

    /// The journal that only the older snapshots need, and the snapshots against it.
    fn behind(&mut self, journal: &Journal) -> Result<(), OpenError> {
        let begins = journal.survey.segments.first().map_or(1, |first| first.header.first_sequence);
        let before = begins.saturating_sub(1);
        if journal.snapshots.last().is_some_and(|newest| newest.header.sequence > before) {
            let next = "back the store up now: a start does not need this part, and it goes when the next \
                        snapshots are made, but until then nothing stands in for the newest one";
            if self.survey(before, Severity::Recoverable, next)?.is_none() {
                return Ok(());
            }
        }
        let mut older = None;
        for snapshot in &journal.snapshots {
            if snapshot.header.sequence < before {
                let what = format!("the journal behind it is missing: it starts at sequence {begins}");
                let next = "back the store up now: this snapshot cannot stand in for the newest one";
                self.find(Severity::Recoverable, snapshot.path.display(), what, next);
                continue;
            }
            if before == 0 || older.is_some() {
                self.succession(older, snapshot, &journal.survey)?;
            }
            older = Some(snapshot);
        }
        Ok(())
    }

    /// Whether a snapshot holds what the one before it and the journal between them give.
    fn succession(
        &mut self,
        older: Option<&Snapshot>,
        newer: &Snapshot,
        survey: &Survey,
    ) -> Result<(), OpenError> {
        let after = older.map_or(0, |older| older.header.sequence);
        let until = newer.header.sequence;
        // A snapshot ends where a segment ends.
        let segments: Vec<_> = segment::from(&survey.segments, after)
            .iter()
            .filter(|segment| segment.header.first_sequence <= until)
            .cloned()
            .collect();
        let merge = Merge {
            base: older,
            segments: &segments,
            scratch: self.scratch,
            disk: self.disk,
            chunk_bytes: CHUNK_BYTES,
            go_on: &|| true,
        };
        let mut expected = merge.run().map_err(|error| failed(self.dir, error))?;
        let next = "stop using this directory: restore it from a backup";
        if expected.header() != newer.header {
            let what = "it does not end where a segment of the journal ends, or not at that time";
            self.find(Severity::Damage, newer.path.display(), what, next);
            return Ok(());
        }
        let mut found = newer.all_rows()?;
        let progress = &mut *self.progress;
        let differing = compare(
            || expected.next(),
            || Ok(found.next()?),
            |done| {
                progress(Progress {
                    step: "compare snapshots with the journal",
                    done,
                    total: 0,
                    unit: Unit::Rows,
                });
            },
        )
        .map_err(|error| failed(self.dir, error))?;
        if let Some(what) = differing.describe("what the journal before it gives") {
            self.find(Severity::Damage, newer.path.display(), what, next);
        }
        Ok(())
    }

    fn index(&mut self, journal: &Journal) -> Result<(), OpenError> {
        let place = IndexPlace::new(self.dir, self.disk);
        let directory = self.dir.join("index");
        for aside in place.aside() {
            let what = "an index that had applied more than the journal holds was set aside here";
            self.find(Severity::Note, aside.display(), what, "delete it once it is known what was lost");
        }
        let looked = match place.open_as_it_is().map_err(OpenError::io("open", &directory))? {
            Ok(looked) => looked,
            Err(why) => {
                let (severity, next) = match self.report.last_sequence {
                    0 => (Severity::Note, "nothing: the next start makes it"),
                    _ => (Severity::Recoverable, AT_THE_START),
                };
                self.find(severity, directory.display(), why, next);
                return self.count(journal);
            }
        };
        let compared = self.compare_index(journal, &looked.index);
        let closed = place.close_as_it_was(looked);
        match compared? {
            // One that does not read may not close either.
            Some((severity, what, next)) => self.find(severity, directory.display(), what, next),
            None => closed.map_err(OpenError::io("close", &directory))?,
        }
        Ok(())
    }

    fn compare_index(&mut self, journal: &Journal, index: &Index) -> Result<Option<Verdict>, OpenError> {
        let applied = match self.standing(journal, index) {
            Ok(applied) => applied,
            Err(verdict) => {
                self.count(journal)?;
                return Ok(Some(verdict));
            }
        };
        // A process killed while it applied these leaves some of their rows and not the others.
        let changed = match IndexPlace::changed_rows(&journal.survey.segments, applied, CHANGED_BYTES) {
            Ok(Some(changed)) => changed,
            Ok(None) => {
                self.count(journal)?;
                let what = "it is too far behind the journal to be compared".to_owned();
                return Ok(Some((Severity::Recoverable, what, ONCE_CAUGHT_UP)));
            }
            Err(OpenError::Damaged { why, .. }) => {
                self.count(journal)?;
                let what = format!("it is behind the snapshot, and the journal there is damaged: {why}");
                return Ok(Some((Severity::Recoverable, what, AT_THE_START)));
            }
            Err(error) => return Err(error),
        };
        let mut expected = journal
            .rows(journal.snapshots.last(), self.scratch, self.disk)
            .map_err(|error| failed(self.dir, error))?;
        let mut rows = 0_u64;
        let mut found = index.all();
        let mut index_rows = 0_u64;
        let progress = &mut *self.progress;
        let compared = compare(
            || loop {
                let row = expected.next()?;
                rows = rows.saturating_add(u64::from(row.is_some()));
                if row.as_ref().is_none_or(|row| !row.is_resident && !changed.contains(&row.row_key)) {
                    return Ok(row);
                }
            },
            || loop {
                let row = found.next().transpose()?;
                index_rows = index_rows.saturating_add(u64::from(row.is_some()));
                if row.as_ref().is_none_or(|row| !changed.contains(&row.row_key)) {
                    return Ok(row);
                }
            },
            |done| {
                progress(Progress {
                    step: "compare the index with the journal",
                    done,
                    total: 0,
                    unit: Unit::Rows,
                });
            },
        );
        drop(expected);
        self.report.index_rows = index_rows;
        let what = match compared {
            Ok(differing) => {
                self.report.rows = rows;
                match differing.describe("what snapshot and journal give") {
                    Some(what) => what,
                    None => return Ok(self.behind_by(applied)),
                }
            }
            Err(Interrupted::Failed(error)) => return Err(error),
            Err(other) => {
                self.count(journal)?;
                other.to_string()
            }
        };
        Ok(Some((Severity::Recoverable, what, "run `huitong store rebuild` before the node is started")))
    }

    /// How far the index has followed the journal, or what is to be said of one that no start can use.
    fn standing(&self, journal: &Journal, index: &Index) -> Result<u64, Verdict> {
        let last = self.report.last_sequence;
        let standing = match index.standing() {
            Ok(Some(standing)) => standing,
            Ok(None) => {
                let what = "it does not say what it holds".to_owned();
                return Err((Severity::Recoverable, what, AT_THE_START));
            }
            Err(why) => return Err((Severity::Recoverable, why.to_string(), AT_THE_START)),
        };
        let applied = standing.applied;
        // A store without a journal was not let here.
        let Some(first) = journal.survey.segments.first().map(|first| first.header) else {
            return Ok(applied);
        };
        if standing.identity != first.identity {
            let what = "it belongs to another journal".to_owned();
            return Err((Severity::Recoverable, what, AT_THE_START));
        }
        if applied > last {
            let what = format!("it has applied transaction {applied}, the journal ends at {last}");
            let next = "find out what shortened the journal: acknowledged changes are missing, and the node will sign \
                        nothing before they are back";
            return Err((Severity::Damage, what, next));
        }
        if applied.saturating_add(1) < first.first_sequence {
            let begins = first.first_sequence;
            let what = format!("it has applied transaction {applied}, the journal now starts at {begins}");
            return Err((Severity::Recoverable, what, AT_THE_START));
        }
        Ok(applied)
    }

    /// What is to be said of an index whose rows are right as far as it goes.
    fn behind_by(&self, applied: u64) -> Option<Verdict> {
        let behind = self.report.last_sequence.saturating_sub(applied);
        (behind > 0).then(|| {
            let what = format!("it is {behind} transactions behind the journal");
            (Severity::Note, what, "nothing: the next start catches up")
        })
    }

    /// Reads all rows, to know how many there are.
    fn count(&mut self, journal: &Journal) -> Result<(), OpenError> {
        self.report.rows = 0;
        let mut rows = journal
            .rows(journal.snapshots.last(), self.scratch, self.disk)
            .map_err(|error| failed(self.dir, error))?;
        while rows.next().map_err(|error| failed(self.dir, error))?.is_some() {
            self.report.rows = self.report.rows.saturating_add(1);
        }
        Ok(())
    }

    fn find_foreign(&mut self, snapshot: &Snapshot) {
        let next = "find out where it comes from; the node sets it aside at the start";
        self.find(Severity::Recoverable, snapshot.path.display(), "it belongs to another journal", next);
    }

    /// Turns what does not check into a finding. Other errors stay errors.
    fn find_error(&mut self, severity: Severity, error: OpenError, next_step: &str) -> Result<(), OpenError> {
        match error {
            OpenError::Damaged { segment: file, offset, why }
            | OpenError::Snapshot { snapshot: file, offset, why } => {
                self.find(severity, file.display(), format!("at byte {offset}: {why}"), next_step);
                Ok(())
            }
            OpenError::Io { action: "read", path, source } => {
                self.find(severity, path.display(), format!("it cannot be read: {source}"), next_step);
                Ok(())
            }
            other => Err(other),
        }
    }

    fn find(&mut self, severity: Severity, place: impl Display, what: impl Display, next_step: &str) {
        self.report.findings.push(Finding {
            severity,
            place: place.to_string(),
            what: what.to_string(),
            next_step: next_step.to_owned(),
        });
    }
}

/// Rows that two sources do not agree on.
struct Differing {
    count: u64,
    /// The first few, by table and key.
    examples: Vec<String>,
}

impl Differing {
    /// Nothing if they agree on all of them.
    fn describe(&self, expected: &str) -> Option<String> {
        let examples = self.examples.join(", ");
        match self.count {
            0 => None,
            1 => Some(format!("1 row is not {expected}: {examples}")),
            count => Some(format!("{count} rows are not {expected}, among them {examples}")),
        }
    }
}

/// Reads two sources of rows in order side by side.
fn compare(
    mut expected: impl FnMut() -> Result<Option<StoredRow>, Interrupted>,
    mut found: impl FnMut() -> Result<Option<StoredRow>, Interrupted>,
    mut told: impl FnMut(u64),
) -> Result<Differing, Interrupted> {
    let mut examples = Vec::new();
    let (mut count, mut read) = (0_u64, 0_u64);
    let (mut left, mut right) = (expected()?, found()?);
    loop {
        let differs = match (&left, &right) {
            (None, None) => break,
            (Some(one), Some(other)) if one.row_key == other.row_key => {
                let named = (one != other).then(|| name(one, "altered"));
                left = expected()?;
                right = found()?;
                named
            }
            (Some(one), other) if other.as_ref().is_none_or(|other| one.row_key < other.row_key) => {
                let named = name(one, "missing");
                left = expected()?;
                Some(named)
            }
            (_, Some(other)) => {
                let named = name(other, "not expected");
                right = found()?;
                Some(named)
            }
            (Some(_), None) => break,
        };
        if let Some(named) = differs {
            count = count.saturating_add(1);
            if count <= NAMED_ROWS {
                examples.push(named);
            }
        }
        read = read.saturating_add(1);
        if read.is_multiple_of(ROWS_PER_REPORT) {
            told(read);
        }
    }
    Ok(Differing { count, examples })
}

fn name(row: &StoredRow, how: &str) -> String {
    let (table, key) = crate::history::split_row_key(&row.row_key);
    format!("{} {} ({how})", String::from_utf8_lossy(table), crate::backup::hex(key))
}
