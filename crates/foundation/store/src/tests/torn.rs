//! The last group, torn in every way, with and without snapshots before it: cut off, and what is left is exactly what
//! was there before it.

use std::fs;
use std::path::PathBuf;

use super::faults::copy_tree;
use super::snapshots::{LIMITS, add, check_sample, sample};
use super::*;
use crate::blocks::StoredRow;
use crate::merge::Merge;
use crate::offline::{self, Severity};
use crate::segment::{self, HEADER_BYTES, Survey};
use crate::snapshot::{self, Snapshot};

/// How many transactions, and so what lies before the last group: nothing; another group; a snapshot, segments behind
/// it, and another group; the same, and the group is alone in its segment.
const COUNTS: [u64; 4] = [1, 2, 30, 33];

/// A store without its index, whose last group is to be torn.
struct Torn {
    dir: tempfile::TempDir,
    count: u64,
    /// The last segment, whole.
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where the last group starts.
    start: usize,
    base: Option<Snapshot>,
    /// What is there without the last group.
    before: Vec<StoredRow>,
}

impl Torn {
    async fn new(count: u64) -> Self {
        let dir = sample(count).await;
        fs::remove_dir_all(dir.path().join("index")).unwrap();
        let newest = snapshot::list(&dir.path().join("snapshots")).unwrap().pop();
        let base = newest.map(|newest| Snapshot::open(&newest).unwrap());
        assert_eq!(base.is_some(), count > 2);
        let survey = segment::survey(&dir.path().join("journal"), 0, |_| ());
        let survey = survey.or_else(|_| segment::survey(&dir.path().join("journal"), 28, |_| ())).unwrap();
        let path = survey.segments.last().unwrap().path.clone();
        let bytes = fs::read(&path).unwrap();
        // Groups follow one another by their lengths.
        let (mut start, mut end) = (HEADER_BYTES, HEADER_BYTES);
        while end < bytes.len() {
            start = end;
            end += 8 + u32::from_be_bytes(bytes[start..start + 4].try_into().unwrap()) as usize;
        }
        assert_eq!((end, start > HEADER_BYTES), (bytes.len(), [2, 30].contains(&count)));
        // Of a store that never had it.
        let without = sample(count - 1).await;
        let newest = snapshot::list(&without.path().join("snapshots")).unwrap().pop();
        let older = newest.map(|newest| Snapshot::open(&newest).unwrap());
        let (_, before) = read(without.path(), older.as_ref()).unwrap();
        Self { dir, count, path, bytes, start, base, before }
    }

    fn after(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.header.sequence)
    }

    /// Reads the store with these bytes in its last segment. They are a torn group.
    fn check(&self, bytes: &[u8], context: &str) {
        overwrite(&self.path, bytes);
        let survey = self.survey().unwrap();
        let context = format!("{} transactions: {context}", self.count);
        assert_eq!(survey.last_sequence, self.count - 1, "{context}");
        assert_eq!(survey.torn_bytes as usize, bytes.len() - self.start, "{context}");
        assert_eq!(fs::read(&self.path).unwrap(), bytes, "{context}");
        assert_eq!(survey.last_time, u64::from(self.count > 1), "{context}");
        assert_eq!(survey.segments.last().unwrap().length as usize, self.start, "{context}");
    }

    fn survey(&self) -> Result<Survey, OpenError> {
        segment::survey(&self.dir.path().join("journal"), self.after(), |_| ())
    }

    /// Every way in which the last write can have reached the disk in part, and every byte of it altered.
    fn all(&self) -> Vec<(String, Vec<u8>)> {
        let mut ways = Vec::new();
        let length = self.bytes.len();
        for end in self.start..length {
            ways.push((format!("cut at {end}"), self.bytes[..end].to_vec()));
            let mut bytes = self.bytes.clone();
            bytes[end..].fill(0);
            if bytes != self.bytes {
                ways.push((format!("zeros from {end}"), bytes));
            }
            let mut bytes = self.bytes.clone();
            bytes[self.start..=end].fill(0);
            if bytes != self.bytes {
                ways.push((format!("zeros up to {end}"), bytes));
            }
            for mask in [0x01, 0x80] {
                let mut bytes = self.bytes.clone();
                bytes[end] ^= mask;
                ways.push((format!("byte {end} altered by {mask:#x}"), bytes));
            }
        }
        ways
    }
}

/// The journal behind a snapshot, and all rows that both give.
fn read(dir: &Path, base: Option<&Snapshot>) -> Result<(Survey, Vec<StoredRow>), OpenError> {
    let after = base.map_or(0, |base| base.header.sequence);
    let survey = segment::survey(&dir.join("journal"), after, |_| ())?;
    let merge = Merge {
        base,
        segments: segment::from(&survey.segments, after),
        scratch: dir,
        disk: &Disk::counting(),
        chunk_bytes: usize::MAX,
        go_on: &|| true,
    };
    let mut merged = merge.run().unwrap();
    let mut rows = Vec::new();
    while let Some(row) = merged.next().unwrap() {
        rows.push(row);
    }
    assert_eq!(merged.header().sequence, survey.last_sequence);
    drop(merged);
    Ok((survey, rows))
}

#[tokio::test]
async fn however_the_last_group_is_torn_what_was_before_it_is_there() {
    for count in COUNTS {
        let torn = Torn::new(count).await;
        let ways = torn.all();
        assert!(ways.len() > 500, "{}", ways.len());
        for ((context, bytes), turn) in ways.iter().zip(0..) {
            torn.check(bytes, context);
            if turn % 19 == 0 {
                let (_, rows) = read(torn.dir.path(), torn.base.as_ref()).unwrap();
                assert!(rows == torn.before, "{context}: the rows are not those before it");
            }
        }
    }
}

#[tokio::test]
async fn a_start_after_a_torn_write_goes_on_and_the_check_says_the_same() {
    for count in COUNTS {
        let torn = Torn::new(count).await;
        for (context, bytes) in torn.all().into_iter().step_by(197) {
            overwrite(&torn.path, &bytes);
            let dir = tempfile::tempdir().unwrap();
            copy_tree(torn.dir.path(), dir.path());
            let report = offline::fsck(dir.path(), &Disk::counting(), &mut |_| ()).unwrap();
            let cut = bytes.len() - torn.start;
            let found: Vec<_> =
                report.findings.iter().filter(|finding| !finding.place.ends_with("index")).collect();
            if cut == 0 {
                assert_eq!(found.len(), 0, "{context}: {found:?}");
            } else {
                assert_eq!(
                    (found.len(), found[0].severity),
                    (1, Severity::Recoverable),
                    "{context}: {found:?}"
                );
                assert!(found[0].what.starts_with(&format!("the last {cut} bytes")), "{context}: {found:?}");
            }
            assert_eq!(report.last_sequence, count - 1, "{context}");

            let store = open_small(dir.path(), LIMITS).unwrap();
            let opening = store.opening();
            assert_eq!((opening.records, opening.dropped_bytes as usize), (count - 1, cut), "{context}");
            assert_eq!(opening.snapshot.unwrap_or(0), torn.after(), "{context}");
            commit(&store, move |tx| add(tx, count)).await;
            check_sample(&store, count);
            drop(store);
            assert_eq!(open_small(dir.path(), LIMITS).unwrap().opening().dropped_bytes, 0, "{context}");
            assert_eq!(
                fs::read(dir.path().join("journal").join(torn.path.file_name().unwrap())).unwrap(),
                torn.bytes
            );
        }
    }
}

#[tokio::test]
async fn an_index_that_had_applied_the_torn_group_tells_of_the_loss() {
    for count in COUNTS {
        let torn = Torn::new(count).await;
        // The start that finds it whole makes the index again.
        drop(open_small(torn.dir.path(), LIMITS).unwrap());
        for (context, bytes) in torn.all().into_iter().step_by(331) {
            overwrite(&torn.path, &bytes);
            let dir = tempfile::tempdir().unwrap();
            copy_tree(torn.dir.path(), dir.path());
            let report = offline::fsck(dir.path(), &Disk::counting(), &mut |_| ()).unwrap();
            assert_eq!(report.worst(), Severity::Damage, "{context}");
            let last = report.findings.last().unwrap();
            assert!(last.what.contains(&format!("applied transaction {count}")), "{context}: {last:?}");
            let store = open_small(dir.path(), LIMITS).unwrap();
            assert_eq!(store.opening().records, count - 1, "{context}");
            let rebuilt = store.opening().rebuilt.clone().unwrap();
            assert!(rebuilt.contains("ahead of the journal"), "{context}: {rebuilt}");
            if count > 1 {
                check_sample(&store, count - 1);
            } else {
                assert_eq!(all(&store.view(), PLAIN), []);
            }
        }
    }
}

#[tokio::test]
async fn a_journal_cut_further_back_is_never_shorter_than_its_snapshot() {
    let torn = Torn::new(33).await;
    let segments: Vec<PathBuf> =
        torn.survey().unwrap().segments.into_iter().map(|segment| segment.path).collect();
    let whole: Vec<Vec<u8>> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut refused = 0;
    // Everything from some byte on is gone, later segments included.
    for (place, (path, bytes)) in segments.iter().zip(&whole).enumerate() {
        for path in &segments[place + 1..] {
            let _ = fs::remove_file(path);
        }
        for end in 0..bytes.len() {
            overwrite(path, &bytes[..end]);
            match torn.survey() {
                Ok(survey) => {
                    assert!(end >= HEADER_BYTES && survey.last_sequence >= torn.after(), "{end} of {path:?}");
                }
                Err(OpenError::Damaged { .. }) => refused += 1,
                Err(other) => panic!("{end} of {path:?}: {other:?}"),
            }
        }
        for (path, bytes) in segments.iter().zip(&whole) {
            fs::write(path, bytes).unwrap();
        }
    }
    assert!(refused > 500, "only {refused} were refused");
}
