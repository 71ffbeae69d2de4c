//! From what lies in a directory to a store that can run.

use std::path::{Path, PathBuf};

use crate::committed::{Committed, Resident};
use crate::disk::{Directory, Disk};
use crate::index::{IndexPlace, Wish};
use crate::journal::Journal;
use crate::segment::Segment;
use crate::snapshot::{self, DAMAGED_EXTENSION, DRAFT_EXTENSION, Listed, Snapshot};
use crate::{OpenError, OpenReport, Options, segment};

/// Where the parts of a store lie in its directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) journal: PathBuf,
    pub(crate) snapshots: PathBuf,
}

/// A store's parts, at the end of its journal.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) committed: Committed,
    pub(crate) place: IndexPlace,
    /// Those that are usable, oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) report: OpenReport,
}

impl Layout {
    pub(crate) fn of(store: &Path) -> Self {
        Self { journal: store.join("journal"), snapshots: store.join("snapshots") }
    }

    fn create(&self, disk: &Disk) -> Result<(), OpenError> {
        for directory in [&self.journal, &self.snapshots] {
            disk.create_directory(directory).map_err(OpenError::io("create directory", directory))?;
        }
        Ok(())
    }
}

/// Opens what lies in a directory that is locked. Starts from the newest snapshot; if that one does not check,
/// from the one before, and so on to the start of the journal.
pub(crate) fn open(
    store: &Path,
    disk: &Disk,
    options: &Options,
    wish: Wish<'_>,
) -> Result<Opened, OpenError> {
    let layout = Layout::of(store);
    layout.create(disk)?;
    let mut older = snapshot::list(&layout.snapshots)?;
    let mut refused = Vec::new();
    let mut dropped_bytes = 0;
    let mut opened = loop {
        let newest = older.pop();
        let opened = match &newest {
            Some(listed) => Snapshot::open(listed).and_then(|snapshot| {
                open_from(store, Some(snapshot), disk, options, wish, &mut dropped_bytes)
            }),
            None => open_from(store, None, disk, options, wish, &mut dropped_bytes),
        };
        match (opened, newest) {
            (Ok(opened), _) => break opened,
            (Err(error @ OpenError::Snapshot { .. }), Some(listed)) => {
                tracing::error!(%error, "a snapshot cannot be used; an older one and the journal are tried");
                refused.push((listed, error));
            }
            // Without a snapshot the journal does not suffice, because of the snapshot that was refused.
            (Err(OpenError::Damaged { .. }), None) if !refused.is_empty() => {
                return Err(refused.swap_remove(0).1);
            }
            (Err(error), _) => return Err(error),
        }
    };
    opened.report.dropped_bytes = dropped_bytes;
    keep_usable(&layout, older, refused, &mut opened, disk)?;
    Ok(opened)
}

fn open_from(
    store: &Path,
    base: Option<Snapshot>,
    disk: &Disk,
    options: &Options,
    wish: Wish<'_>,
    dropped_bytes: &mut u64,
) -> Result<Opened, OpenError> {
    let layout = Layout::of(store);
    let after = base.as_ref().map_or(0, |base| base.header.sequence);
    let mut resident = Resident::default();
    if let Some(base) = &base {
        base.resident_rows(|row_key, value| resident.write(row_key, Some(value)))?;
    }
    let survey = segment::survey(&layout.journal, after, |group| resident.follow(group, after))?;
    let place = IndexPlace::new(store, disk);
    match (survey.segments.first(), &base) {
        (Some(first), Some(base)) => check_identity(base, first.header.identity)?,
        // The first segment is there before the first index.
        (None, None) if place.exists() => {
            let segment = Segment::path(&layout.journal, 1);
            let why = "the segment is missing: there is an index, so there was a journal".to_owned();
            return Err(OpenError::Damaged { segment, offset: 0, why });
        }
        _ => {}
    }

    let journal = Journal::open(&layout.journal, &survey, options.segment_bytes, disk)?;
    // Once it is cut off, a second attempt does not see it any more.
    *dropped_bytes = dropped_bytes.saturating_add(survey.torn_bytes);
    let (index, caught_up) = place.open(journal.identity(), &survey, base.as_ref(), wish)?;
    let report = OpenReport {
        records: survey.last_sequence,
        replayed: caught_up.applied,
        dropped_bytes: survey.torn_bytes,
        rebuilt: caught_up.rebuilt,
        index_ahead: caught_up.ahead,
        last_time: survey.last_time.max(base.as_ref().map_or(0, |base| base.header.time)),
        snapshot: base.as_ref().map(|base| base.header.sequence),
        refused_snapshots: Vec::new(),
    };
    let committed = Committed::new(index, resident, place.clone());
    Ok(Opened { journal, committed, place, snapshots: base.into_iter().collect(), report })
}

/// Adds the snapshots before the one that was opened, sets aside those that cannot be used, so that nobody counts
/// on them, and removes what was left unfinished.
fn keep_usable(
    layout: &Layout,
    older: Vec<Listed>,
    mut refused: Vec<(Listed, OpenError)>,
    opened: &mut Opened,
    disk: &Disk,
) -> Result<(), OpenError> {
    for listed in older.into_iter().rev() {
        let checked = Snapshot::open(&listed)
            .and_then(|older| check_identity(&older, opened.journal.identity()).map(|()| older));
        match checked {
            Ok(snapshot) => opened.snapshots.insert(0, snapshot),
            Err(error @ OpenError::Snapshot { .. }) => refused.push((listed, error)),
            Err(error) => return Err(error),
        }
    }
    let held = disk.directory(&layout.snapshots).map_err(OpenError::io("open", &layout.snapshots))?;
    for (listed, error) in &refused {
        opened.report.refused_snapshots.push(error.to_string());
        set_aside(&listed.path, &held, disk)?;
    }
    remove_drafts(&layout.snapshots, disk);
    Ok(())
}

fn check_identity(snapshot: &Snapshot, journal: [u8; 16]) -> Result<(), OpenError> {
    if snapshot.header.identity == journal {
        return Ok(());
    }
    let why = "the snapshot belongs to another journal".to_owned();
    Err(OpenError::Snapshot { snapshot: snapshot.path.clone(), offset: 0, why })
}

/// Renames a snapshot that does not check. It is kept for whoever wants to know what happened to it.
pub(crate) fn set_aside(snapshot: &Path, held: &Directory, disk: &Disk) -> Result<(), OpenError> {
    disk.rename(snapshot, &snapshot.with_extension(DAMAGED_EXTENSION))
        .and_then(|()| held.sync())
        .map_err(OpenError::io("rename", snapshot))
}

fn remove_drafts(directory: &Path, disk: &Disk) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_some_and(|extension| extension == DRAFT_EXTENSION)
            && let Err(error) = disk.remove(&path)
        {
            tracing::warn!(%error, path = %path.display(), "an unfinished file cannot be removed");
        }
    }
}
