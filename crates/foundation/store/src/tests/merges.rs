//! What snapshots are made of: merged rows, and the bytes they are written as.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::blocks::StoredRow;
use crate::journal::Journal;
use crate::merge::{Interrupted, Merge};
use crate::overlay::{Change, Origin, Overlay};
use crate::record::GroupWriter;
use crate::segment::{self, Segment};
use crate::snapshot::{self, Checked, Snapshot, SnapshotWriter};
use crate::table;

/// Transactions: of each change the table, the key, and the value if it is not a deletion.
type Journaled = Vec<Vec<(u8, u8, Option<u8>)>>;

type Rows = BTreeMap<Vec<u8>, (Vec<u8>, bool)>;

fn journaled() -> impl Strategy<Value = Journaled> {
    let change = (0..4_u8, 0..6_u8, proptest::option::weighted(0.7, any::<u8>()));
    proptest::collection::vec(proptest::collection::vec(change, 1..5), 1..40)
}

fn kind(table: u8) -> (&'static str, Origin) {
    match table {
        0 => ("kind.kept", Origin::WrittenWithHistory),
        1 => ("kind.resident", Origin::Resident),
        2 => ("kind", Origin::Written),
        _ => ("kind.plain", Origin::Written),
    }
}

fn value(value: u8) -> Vec<u8> {
    vec![value; usize::from(value)]
}

/// Writes each transaction as a group, and applies it to `rows` as simply as can be.
fn write(journal: &mut Journal, transactions: &Journaled, last: &mut u64, rows: &mut Rows) {
    for changes in transactions {
        *last += 1;
        let mut overlay = Overlay::default();
        let mut latest = BTreeMap::new();
        for (table, key, written) in changes {
            let (name, origin) = kind(*table);
            let row_key = table::row_key(name.as_bytes(), &[*key]);
            let change = Change { value: written.map(value), origin };
            overlay.write(row_key.clone(), change.clone(), *last, *last * 10);
            latest.insert(row_key, (*table, *key, change));
        }
        for (row_key, (_, key, change)) in latest {
            if change.origin == Origin::WrittenWithHistory {
                let mut past = b"store.history\0kind.kept\0\0\0\0\x01".to_vec();
                past.push(key);
                past.extend_from_slice(&last.to_be_bytes());
                let mut entry = (*last * 10).to_be_bytes().to_vec();
                entry.push(u8::from(change.value.is_some()));
                entry.extend(change.value.clone().unwrap_or_default());
                rows.insert(past, (entry, false));
            }
            match change.value {
                Some(value) => rows.insert(row_key, (value, change.origin == Origin::Resident)),
                None => rows.remove(&row_key),
            };
        }
        let mut group = GroupWriter::new();
        group.push(*last * 10, overlay.written());
        journal.append(&group.finish(journal.seed(), *last), *last, *last).unwrap();
    }
}

fn make(dir: &Path, base: Option<&Snapshot>, segments: &[Segment], chunk_bytes: usize) -> (Snapshot, u64) {
    let disk = Disk::counting();
    let mut merged =
        Merge { base, segments, scratch: dir, disk: &disk, chunk_bytes, go_on: &|| true }.run().unwrap();
    let held = disk.directory(dir).unwrap();
    let mut writer = SnapshotWriter::start(&disk, &held, merged.header()).unwrap();
    while let Some(row) = merged.next().unwrap() {
        writer.push(&row).unwrap();
    }
    (writer.finish(|| true).unwrap().unwrap().publish().unwrap(), merged.chunks_written())
}

fn rows_of(snapshot: &Snapshot) -> Rows {
    let mut rows = snapshot.all_rows().unwrap();
    let mut found = Rows::new();
    while let Some(StoredRow { row_key, value, is_resident }) = rows.next().unwrap() {
        assert_eq!(found.insert(row_key, (value.unwrap(), is_resident)), None);
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Snapshots made one from the other, in pieces of any size, hold what replaying everything gives.
    #[test]
    fn a_snapshot_holds_what_the_journal_says(
        parts in proptest::collection::vec(journaled(), 1..4),
        chunk_bytes in prop_oneof![Just(1_usize), 100..3000_usize, Just(usize::MAX)],
        segment_bytes in prop_oneof![Just(1_u64), 200..2000_u64],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("snapshots");
        fs::create_dir(&place).unwrap();
        let journal_directory = dir.path().join("journal");
        fs::create_dir(&journal_directory).unwrap();
        let empty = segment::survey(&journal_directory, 0, |_| ()).unwrap();
        let mut journal = Journal::open(&journal_directory, &empty, segment_bytes, &Disk::counting()).unwrap();
        let (mut last, mut rows, mut base) = (0, Rows::new(), None::<Snapshot>);
        for part in &parts {
            write(&mut journal, part, &mut last, &mut rows);
            journal.seal(last + 1).unwrap();
            let durable = journal.extent().durable();
            prop_assert_eq!(durable.sealed_until(), last);
            let (made, _) = make(&place, base.as_ref(), durable.sealed(), chunk_bytes);
            prop_assert_eq!((made.header.sequence, made.header.time), (last, last * 10));
            prop_assert_eq!(&rows_of(&made), &rows);
            prop_assert_eq!(made.check(|_| true).unwrap(), Checked::Whole);
            prop_assert_eq!(made.rows as usize, rows.len());

            let listed = snapshot::list(&place).unwrap().pop().unwrap();
            let read = Snapshot::open(&listed).unwrap();
            prop_assert_eq!(&read, &made);
            let mut resident = BTreeMap::new();
            read.resident_rows(|row_key, value| { resident.insert(row_key, value); }).unwrap();
            let expected = rows.iter().filter(|(_, (_, is_resident))| *is_resident);
            prop_assert_eq!(resident, expected.map(|(key, (value, _))| (key.clone(), value.clone())).collect());
            base = Some(made);
        }
        // Nothing but snapshots is left.
        prop_assert_eq!(fs::read_dir(&place).unwrap().count(), parts.len());
    }
}

/// A journal by hand, whose groups each hold one row of 100 bytes.
fn journal_of(dir: &Path, rows: u64) -> Journal {
    let survey = segment::survey(dir, 0, |_| ()).unwrap();
    let mut journal = Journal::open(dir, &survey, 10_000, &Disk::counting()).unwrap();
    let transactions: Journaled = (0..rows).map(|row| vec![(3, row.to_le_bytes()[0], Some(100))]).collect();
    write(&mut journal, &transactions, &mut 0, &mut Rows::new());
    journal.seal(rows + 1).unwrap();
    journal
}

#[test]
fn merging_holds_no_more_than_its_limit_however_long_the_journal_is() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal_of(dir.path(), 3_000);
    let scratch = tempfile::tempdir().unwrap();
    let durable = journal.extent().durable();
    let disk = Disk::counting();
    let open = std::cell::Cell::new(0);
    let watch = || {
        open.set(open.get().max(fs::read_dir(scratch.path()).unwrap().count()));
        true
    };
    let merge = Merge {
        base: None,
        segments: durable.sealed(),
        scratch: scratch.path(),
        disk: &disk,
        chunk_bytes: 2_400,
        go_on: &watch,
    };
    let merged = merge.run().unwrap();
    // Each row counts 239 bytes, so ten fill a chunk: 300 chunks, and 18 times 16 of them were merged into one, and
    // once 16 of these.
    assert_eq!(merged.chunks_written(), 300 + 18 + 1);
    // Never more than 15 of a level beside those that were just being merged.
    assert!(open.get() <= 3 * 15 + 1, "{} chunks at once", open.get());
    drop(merged);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn a_merge_stops_when_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal_of(dir.path(), 500);
    let scratch = tempfile::tempdir().unwrap();
    let durable = journal.extent().durable();
    let disk = Disk::counting();
    for limit in [0, 1, 250, 499] {
        let asked = std::cell::Cell::new(0);
        let go_on = || asked.replace(asked.get() + 1) < limit;
        let segments = durable.sealed();
        let merge = Merge {
            base: None,
            segments,
            scratch: scratch.path(),
            disk: &disk,
            chunk_bytes: 900,
            go_on: &go_on,
        };
        assert!(matches!(merge.run(), Err(Interrupted::Stopped)), "after {limit} questions");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[test]
fn every_altered_or_missing_byte_of_a_snapshot_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let journal_directory = dir.path().join("journal");
    fs::create_dir(&journal_directory).unwrap();
    let survey = segment::survey(&journal_directory, 0, |_| ()).unwrap();
    let mut journal = Journal::open(&journal_directory, &survey, u64::MAX, &Disk::counting()).unwrap();
    let sample = vec![vec![(0, 1, Some(3)), (1, 2, Some(2)), (3, 3, Some(4))], vec![(0, 1, None)]];
    write(&mut journal, &sample, &mut 0, &mut Rows::new());
    journal.seal(3).unwrap();
    let (made, _) = make(dir.path(), None, journal.extent().durable().sealed(), usize::MAX);
    let whole = fs::read(&made.path).unwrap();
    let read = || -> Result<(), OpenError> {
        let listed = snapshot::list(dir.path()).unwrap().pop().unwrap();
        let checked = Snapshot::open(&listed)?.check(|_| true)?;
        assert_eq!(checked, Checked::Whole);
        Ok(())
    };
    read().unwrap();
    for place in 0..whole.len() {
        for mask in [0x01, 0x80, 0xFF] {
            let mut bytes = whole.clone();
            bytes[place] ^= mask;
            fs::write(&made.path, bytes).unwrap();
            assert!(matches!(read(), Err(OpenError::Snapshot { .. })), "byte {place} with {mask}");
        }
    }
    for length in 0..whole.len() {
        fs::write(&made.path, &whole[..length]).unwrap();
        assert!(matches!(read(), Err(OpenError::Snapshot { .. })), "{length} bytes");
    }
    let mut longer = whole.clone();
    longer.push(0);
    fs::write(&made.path, longer).unwrap();
    assert!(matches!(read(), Err(OpenError::Snapshot { .. })));
}

#[test]
fn the_format_of_a_snapshot_is_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::counting();
    let held = disk.directory(dir.path()).unwrap();
    let header = crate::blocks::Header { identity: [0xA5; 16], sequence: 5, time: 0x0102 };
    let mut writer = SnapshotWriter::start(&disk, &held, header).unwrap();
    for (table, key, value, is_resident) in
        [("a", "k", "v", false), ("a", "l", "", false), ("b", "", "w", true)]
    {
        let row_key = table::row_key(table.as_bytes(), key.as_bytes());
        writer.push(&StoredRow { row_key, value: Some(value.into()), is_resident }).unwrap();
    }
    let made = writer.finish(|| true).unwrap().unwrap().publish().unwrap();
    assert_eq!(made.path, dir.path().join("000000000005.snap"));
    let bytes = fs::read(&made.path).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let pinned = concat!(
        // magic, format version, journal identity, sequence, time, checksum
        "4854534e41505348",
        "00000001",
        "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5",
        "0000000000000005",
        "0000000000000102",
        "85a99ec6",
        // block: length, checksum, table; rows: flags, key, value
        "0000001781ed416d0161",
        "00000000016b0000000176",
        "00000000016c00000000",
        "0000000ca9722e730162",
        "01000000000000000177",
        // sections block: length, checksum, version, rows, sections
        "00000053906911f3010000000000000003",
        "00000002",
        // table, flags, rows, bytes, offset, length
        "016100",
        "000000000000000200000000000000030000000000000030000000000000001f",
        "016201",
        "00000000000000010000000000000001000000000000004f0000000000000014",
        // footer: offset of the sections block, checksum, magic
        "0000000000000063d9adfc214854534e41504e44",
    );
    assert_eq!(hex, pinned);
}
