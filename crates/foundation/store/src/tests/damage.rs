//! Journals cut short, altered and rearranged: recovered or reported, never silently wrong.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::journal::Journal;
use crate::overlay::{Change, Origin, Overlay};
use crate::record::GroupWriter;
use crate::segment::{self, HEADER_BYTES, Segment, Survey};
use crate::table;

/// A journal made by hand, and where in the last segment each group ends and which sequence it ends with.
struct Sample {
    dir: tempfile::TempDir,
    ends: Vec<(usize, u64)>,
    bytes: Vec<u8>,
}

impl Sample {
    /// One segment; each number says how many transactions a group holds.
    fn new(groups: &[u64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let survey = survey_all(dir.path()).unwrap();
        let mut journal = Journal::open(dir.path(), &survey, u64::MAX, &Disk::counting()).unwrap();
        let mut ends = vec![(HEADER_BYTES, 0)];
        for count in groups {
            let (offset, last) = *ends.last().unwrap();
            let group = group(&journal, last + 1, *count);
            journal.append(&group, last + 1, last + count).unwrap();
            ends.push((offset + group.len(), last + count));
        }
        let bytes = fs::read(Segment::path(dir.path(), 1)).unwrap();
        assert_eq!(bytes.len(), ends.last().unwrap().0);
        Self { dir, ends, bytes }
    }

    fn survey(&self, bytes: &[u8]) -> Result<Survey, OpenError> {
        let path = self.path();
        fs::write(&path, bytes).unwrap();
        let survey = survey_all(self.dir.path());
        assert_eq!(fs::read(&path).unwrap(), bytes, "a survey modifies nothing");
        survey
    }

    fn path(&self) -> PathBuf {
        Segment::path(self.dir.path(), 1)
    }

    /// The end of the last group that lies within `length` bytes.
    fn whole(&self, length: usize) -> (usize, u64) {
        *self.ends.iter().rev().find(|(end, _)| *end <= length).unwrap()
    }
}

fn survey_all(journal: &Path) -> Result<Survey, OpenError> {
    segment::survey(journal, 0, |_| ())
}

fn group(journal: &Journal, first: u64, count: u64) -> Vec<u8> {
    let mut writer = GroupWriter::new();
    for sequence in first..first + count {
        let mut changes = Overlay::default();
        let change = Change { value: Some(sequence.to_be_bytes().to_vec()), origin: Origin::Written };
        changes.write(table::row_key(b"test", &sequence.to_be_bytes()), change, sequence, sequence);
        writer.push(sequence, changes.written());
    }
    writer.finish(journal.seed(), first)
}

fn damage(result: Result<Survey, OpenError>) -> (u64, String) {
    match result {
        Err(OpenError::Damaged { offset, why, .. }) => (offset, why),
        Err(other) => panic!("reported as {other:?}"),
        Ok(survey) => panic!("accepted as {survey:?}"),
    }
}

#[test]
fn every_truncation_is_recovered_or_reported() {
    let sample = Sample::new(&[1, 3, 2]);
    for length in 0..=sample.bytes.len() {
        let result = sample.survey(&sample.bytes[..length]);
        if length < HEADER_BYTES {
            assert!(damage(result).1.contains("header"), "length {length}");
            continue;
        }
        let survey = result.unwrap();
        let (end, last) = sample.whole(length);
        assert_eq!(survey.last_sequence, last, "length {length}");
        assert_eq!(survey.last_time, last, "length {length}");
        assert_eq!(survey.torn_bytes as usize, length - end, "length {length}");
        assert_eq!(survey.segments[0].length as usize, end, "length {length}");
    }
}

#[test]
fn every_altered_byte_is_noticed() {
    let sample = Sample::new(&[1, 3, 2]);
    let (last_group, before) = sample.ends[sample.ends.len() - 2];
    for place in 0..sample.bytes.len() {
        for mask in [0x01, 0x80, 0xFF] {
            let mut bytes = sample.bytes.clone();
            bytes[place] ^= mask;
            let result = sample.survey(&bytes);
            if place < last_group {
                let (offset, why) = damage(result);
                let expected = if place < HEADER_BYTES { 0 } else { sample.whole(place).0 };
                assert_eq!(offset as usize, expected, "byte {place}: {why}");
            } else {
                let survey = result.unwrap();
                assert_eq!(survey.last_sequence, before, "byte {place}");
                assert_eq!(survey.torn_bytes as usize, sample.bytes.len() - last_group, "byte {place}");
            }
        }
    }
}

#[test]
fn zeros_and_rubbish_behind_the_end_are_a_torn_tail() {
    let sample = Sample::new(&[2, 2]);
    for tail in [vec![0; 1], vec![0; 600_000], vec![0xFF; 5_000], (0..=255).cycle().take(9_999).collect()] {
        let mut bytes = sample.bytes.clone();
        bytes.extend_from_slice(&tail);
        let survey = sample.survey(&bytes).unwrap();
        assert_eq!((survey.last_sequence, survey.torn_bytes as usize), (4, tail.len()));
    }
}

#[test]
fn damage_is_told_from_a_torn_tail_however_far_the_next_group_lies() {
    let sample = Sample::new(&[1]);
    let survey = sample.survey(&sample.bytes).unwrap();
    let journal = Journal::open(sample.dir.path(), &survey, u64::MAX, &Disk::counting()).unwrap();
    let later = group(&journal, 7, 1);
    // Around the borders of the windows that are searched, and everywhere within a few bytes.
    for gap in (1..40).chain([262_000, 262_100, 262_124, 262_125, 262_143, 262_144, 262_145, 600_000]) {
        let mut bytes = sample.bytes.clone();
        bytes.extend(std::iter::repeat_n(0xEE, gap));
        bytes.extend_from_slice(&later);
        let (offset, why) = damage(sample.survey(&bytes));
        assert_eq!(offset as usize, sample.bytes.len());
        let found = sample.bytes.len() + gap;
        assert!(why.contains(&format!("a complete group follows at byte {found}")), "gap {gap}: {why}");
    }
    // A group from before is no sign of damage: it can only be a copy inside a torn write.
    let mut bytes = sample.bytes.clone();
    bytes.push(0xEE);
    bytes.extend_from_slice(&group(&journal, 1, 1));
    assert_eq!(sample.survey(&bytes).unwrap().last_sequence, 1);
}

#[test]
fn groups_out_of_order_are_damage() {
    let sample = Sample::new(&[1, 2, 1]);
    let [_, (first, _), (second, _), (third, _)] = sample.ends[..] else { panic!("four ends") };
    let check = |pieces: &[&[u8]], expected: &str| {
        let (_, why) = damage(sample.survey(&pieces.concat()));
        assert!(why.contains(expected), "{why:?} does not say {expected:?}");
    };
    let bytes = &sample.bytes;
    check(&[&bytes[..first], &bytes[second..]], "starts at sequence 4, expected 2");
    check(&[&bytes[..second], &bytes[first..]], "starts at sequence 2, expected 4");
    check(&[&bytes[..third], &bytes[second..third]], "starts at sequence 4, expected 5");
}

#[tokio::test]
async fn segments_rotate_and_each_must_be_there_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = small(400, u64::MAX);
    let keys: Vec<Vec<u8>> = (0..40_u8).map(|number| vec![number]).collect();
    let store = open_small(dir.path(), options).unwrap();
    for key in keys.clone() {
        commit(&store, move |tx| tx.put(&PLAIN, &key, &key)).await;
    }
    drop(store);
    let journal = dir.path().join("journal");
    let mut segments: Vec<PathBuf> =
        fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    assert!(segments.len() > 4, "{segments:?}");
    assert_eq!(segments[0].file_name().unwrap(), "000000000001.seg");

    let reopen = || open_small(dir.path(), options);
    let found = |store: &Store| -> Vec<Vec<u8>> {
        store.view().scan(&PLAIN, b"", None, usize::MAX).unwrap().into_iter().map(|row| row.key).collect()
    };
    assert_eq!(found(&reopen().unwrap()), keys);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = reopen().unwrap();
    assert_eq!(found(&store), keys);
    assert_eq!(store.opening().replayed, 40);
    drop(store);

    let refused = |what: &str| match reopen().map(|_| ()).unwrap_err() {
        error @ OpenError::Damaged { .. } => {
            assert!(error.to_string().contains(what), "{error} does not say {what}");
            assert!(error.to_string().contains("restore it from a backup"), "{error}");
        }
        other => panic!("{what}: reported as {other:?}"),
    };
    let middle = &segments[2];
    let whole = fs::read(middle).unwrap();

    // A torn tail is only a torn tail in the last segment.
    fs::write(middle, &whole[..whole.len() - 1]).unwrap();
    refused("later segments exist");
    fs::write(middle, &whole[..HEADER_BYTES]).unwrap();
    refused("the segment starts at sequence");
    fs::remove_file(middle).unwrap();
    refused("the segment is missing");
    fs::write(middle, fs::read(&segments[1]).unwrap()).unwrap();
    refused("says it is segment 2");
    fs::write(middle, &whole).unwrap();
    fs::write(journal.join("first.seg"), b"").unwrap();
    refused("not a segment number");
    fs::remove_file(journal.join("first.seg")).unwrap();

    // What a crash while creating a segment leaves.
    fs::write(journal.join("next.tmp"), b"HTJ").unwrap();
    assert_eq!(found(&reopen().unwrap()), keys);
    assert!(!journal.join("next.tmp").exists());
}

#[tokio::test]
async fn a_segment_of_another_journal_is_damage() {
    let options = small(100, u64::MAX);
    let make = async |dir: &Path| {
        let store = open_small(dir, options).unwrap();
        for key in ["a", "b", "c", "d"] {
            put(&store, PLAIN, key, "1").await;
        }
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(one.path()).await;
    make(two.path()).await;
    let name = "journal/000000000002.seg";
    fs::copy(two.path().join(name), one.path().join(name)).unwrap();
    let error = Store::open(one.path(), Time::at(1).clock()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("another journal"), "{error}");
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_journal_continues() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, PLAIN, "a", "1").await;
    put(&store, PLAIN, "b", "2").await;
    drop(store);
    let segment = dir.path().join("journal/000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let whole = bytes.len();
    bytes.extend_from_slice(&[0, 0, 0, 90, 1, 2, 3]);
    fs::write(&segment, &bytes).unwrap();

    let store = open(dir.path());
    assert_eq!(store.opening().dropped_bytes, 7);
    assert_eq!(store.opening().rebuilt, None);
    assert_eq!(fs::metadata(&segment).unwrap().len() as usize, whole);
    put(&store, PLAIN, "c", "3").await;
    drop(store);
    let store = open(dir.path());
    assert_eq!((store.opening().dropped_bytes, store.opening().records), (0, 3));
    assert_eq!(all(&store.view(), PLAIN), pairs(&[("a", "1"), ("b", "2"), ("c", "3")]));
}
