//! The index: every row, in sled, together with how far it has followed the journal.
//!
//! sled is never trusted for durability. All rows lie in one tree, so that one batch moves the index from one
//! commit to the next.

use std::borrow::Cow;
use std::fmt::Display;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::overlay::{Change, Entry, Overlay, Span};
use crate::record::{Cursor, Group};
use crate::segment::{self, Survey};
use crate::{OpenError, StoreError, files, table};

/// A handle; clones share the index.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    rows: sled::Db,
}

/// Where the index lies, beside the journal.
#[derive(Debug, Clone)]
pub(crate) struct IndexPlace {
    directory: PathBuf,
    marker: PathBuf,
}

/// How the index came to match the journal.
#[derive(Debug, Default)]
pub(crate) struct CaughtUp {
    pub(crate) applied: u64,
    pub(crate) rebuilt: Option<String>,
}

/// Which journal an index follows, and the last sequence it has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) identity: [u8; 16],
    pub(crate) applied: u64,
}

/// No table name is empty, so no row has this key.
const STANDING_KEY: &[u8] = b"\0standing";
/// Raised when the layout of row keys or derived rows changes; an index of another layout is rebuilt.
const LAYOUT: u8 = 1;
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
const BROKEN: &str = "broken";
/// Rows applied at once while catching up.
const CATCH_UP_ROWS: usize = 10_000;

impl IndexPlace {
    pub(crate) fn new(store: &Path) -> Self {
        Self { directory: store.join("index"), marker: store.join("index.open") }
    }

    /// Opens the index and brings it to the end of the journal, rebuilding it if it cannot be trusted.
    pub(crate) fn open(&self, identity: [u8; 16], survey: &Survey) -> Result<(Index, CaughtUp), OpenError> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim();
        let doubt = self.distrust(boot);
        if doubt.is_none() {
            // sled writes as soon as it is opened, so the marker comes first.
            self.mark(boot).map_err(OpenError::io("write", &self.marker))?;
        }
        let opened = doubt.map_or_else(|| self.open_trusted(identity, survey), Err);
        let (index, after, rebuilt) = match opened {
            Ok((index, standing)) => (index, standing.applied, None),
            Err(why) => {
                self.mark(BROKEN).map_err(OpenError::io("write", &self.marker))?;
                if self.directory.exists() {
                    fs::remove_dir_all(&self.directory).map_err(OpenError::io("remove", &self.directory))?;
                }
                let index = Index::open(&self.directory).map_err(|why| self.unusable(why))?;
                // A store without a journal has nothing to rebuild.
                (index, 0, (survey.last_sequence > 0).then_some(why))
            }
        };
        let applied = self.catch_up(&index, identity, survey, after)?;
        self.mark(boot).map_err(OpenError::io("write", &self.marker))?;
        Ok((index, CaughtUp { applied, rebuilt }))
    }

    /// Notes that the index went wrong, so that the next start rebuilds it.
    pub(crate) fn condemn(&self) {
        if let Err(error) = self.mark(BROKEN) {
            tracing::error!(%error, "cannot note that the index is broken; delete its directory before the restart");
        }
    }

    /// Makes the closed index durable, so that the next start may trust it whatever happens in between.
    pub(crate) fn seal(&self) -> std::io::Result<()> {
        files::sync_tree(&self.directory)?;
        fs::remove_file(&self.marker)
    }

    /// Why the index on disk must not even be opened.
    ///
    /// The marker stands while the index is open and names the machine's boot. If the process alone ended, the
    /// kernel still has all that sled wrote; if the machine went down, sled's files may be any mixture of old and
    /// new.
    fn distrust(&self, boot: &str) -> Option<String> {
        if !self.directory.exists() {
            return Some("the index was missing".to_owned());
        }
        match fs::read_to_string(&self.marker) {
            Ok(marked) if marked == BROKEN => Some("the index had failed or was being rebuilt".to_owned()),
            Ok(marked) if marked != boot || boot.is_empty() => {
                Some("the machine stopped while the index was open".to_owned())
            }
            _ => None,
        }
    }

    fn open_trusted(&self, identity: [u8; 16], survey: &Survey) -> Result<(Index, Standing), String> {
        let index = Index::open(&self.directory).map_err(|why| format!("the index does not open: {why}"))?;
        let standing = match guarded(|| index.standing()) {
            Ok(Some(standing)) => standing,
            Ok(None) => return Err("the index does not say what it holds".to_owned()),
            Err(why) => return Err(format!("the index does not read: {why}")),
        };
        if standing.identity != identity {
            return Err("the index belongs to another journal".to_owned());
        }
        if standing.applied > survey.last_sequence {
            return Err(format!(
                "the index was ahead of the journal: it had applied sequence {}, the journal ends at {}; \
                 acknowledged changes may be missing from the journal",
                standing.applied, survey.last_sequence
            ));
        }
        Ok((index, standing))
    }

    /// Applies what the journal holds after `after`; says how many transactions that was.
    fn catch_up(
        &self,
        index: &Index,
        identity: [u8; 16],
        survey: &Survey,
        after: u64,
    ) -> Result<u64, OpenError> {
        let mut pending = Overlay::default();
        let mut reached = after;
        let apply = |pending: &mut Overlay, applied: u64| {
            let changes = std::mem::take(pending);
            index.apply(changes, Standing { identity, applied }).map_err(|error| self.unusable(error))
        };
        if after < survey.last_sequence {
            segment::replay(&survey.segments, after, |group| {
                collect(&mut pending, group, &mut reached);
                if pending.len() >= CATCH_UP_ROWS { apply(&mut pending, reached) } else { Ok(()) }
            })?;
        }
        apply(&mut pending, reached)?;
        // A process killed soon after this must not cost the index once more.
        index.flush().map_err(|error| self.unusable(error))?;
        Ok(reached.saturating_sub(after))
    }

    fn mark(&self, state: &str) -> std::io::Result<()> {
        files::write_durably(&self.marker, state.as_bytes())
    }

    fn unusable(&self, why: impl Display) -> OpenError {
        OpenError::Index { directory: self.directory.clone(), why: why.to_string() }
    }
}

impl Index {
    /// sled panics on some damaged files, so a panic counts as a file that does not open.
    fn open(directory: &Path) -> Result<Self, String> {
        let config = sled::Config::new()
            .path(directory)
            .mode(sled::Mode::HighThroughput)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        guarded(|| config.open().map(|rows| Self { rows }))
    }

    fn standing(&self) -> Result<Option<Standing>, StoreError> {
        let Some(bytes) = self.rows.get(STANDING_KEY).map_err(broken)? else { return Ok(None) };
        let mut cursor = Cursor::new(&bytes);
        let read = |cursor: &mut Cursor<'_>| {
            let layout = cursor.u8()?;
            let standing = Standing { identity: cursor.array()?, applied: cursor.u64()? };
            (layout == LAYOUT).then_some(standing)
        };
        Ok(read(&mut cursor))
    }

    pub(crate) fn get(&self, row_key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.get(row_key).map_err(broken)?.map(|value| value.to_vec()))
    }

    pub(crate) fn range<'a>(&self, span: &Span) -> impl DoubleEndedIterator<Item = Entry<'a>> + use<'a> {
        self.rows.range::<&Vec<u8>, _>(span.bounds()).map(|row| {
            let (row_key, value) = row.map_err(broken)?;
            Ok((Cow::Owned(row_key.to_vec()), Some(Cow::Owned(value.to_vec()))))
        })
    }

    /// Moves the index on, all at once.
    pub(crate) fn apply(&self, changes: Overlay, standing: Standing) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (row_key, value) in changes.into_changes() {
            match value {
                Some(value) => batch.insert(row_key, value),
                None => batch.remove(row_key),
            }
        }
        let mut bytes = vec![LAYOUT];
        bytes.extend_from_slice(&standing.identity);
        bytes.extend_from_slice(&standing.applied.to_be_bytes());
        batch.insert(STANDING_KEY, bytes);
        guarded(|| self.rows.apply_batch(batch)).map_err(|reason| StoreError::Index { reason })
    }

    /// Hands everything to the kernel.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        guarded(|| self.rows.flush()).map(|_| ()).map_err(|reason| StoreError::Index { reason })
    }
}

/// Adds a group's changes after sequence `reached`, and moves `reached` on.
fn collect(pending: &mut Overlay, group: &Group<'_>, reached: &mut u64) {
    for (entry, sequence) in group.entries.iter().zip(group.first_sequence..) {
        if sequence <= *reached {
            continue;
        }
        for change in &entry.changes {
            let row_key = table::row_key(change.table, change.key);
            let written = Change { value: change.value.map(<[u8]>::to_vec), origin: change.origin };
            pending.write(row_key, written, sequence, entry.time);
        }
        *reached = sequence;
    }
}

fn broken(error: sled::Error) -> StoreError {
    StoreError::Index { reason: error.to_string() }
}

/// Runs a call into sled; an error or a panic becomes its text.
fn guarded<T, E: Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked".to_owned()),
    }
}
