use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const BLOCK: u64 = 4;

fn record(fingerprint: u64, index: u64) -> Record {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&fingerprint.to_be_bytes());
    Record { fingerprint: Fingerprint(bytes), index }
}

fn print(fingerprint: u64) -> Fingerprint {
    record(fingerprint, 0).fingerprint
}

fn bytes(name: RunName, records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, name, records.len() as u64, records.iter().map(|record| Ok(*record))).unwrap();
    out
}

fn open(directory: &TempDir, name: RunName, records: &[Record]) -> Run {
    let path = directory.path().join(name.file());
    std::fs::write(&path, bytes(name, records)).unwrap();
    Run::open(&path, name).unwrap()
}

fn found(run: &Run, fingerprint: u64) -> Vec<u64> {
    run.find(print(fingerprint)).unwrap().map(Result::unwrap).collect()
}

const HUGE: RunName = RunName { level: 20, number: 0 };

#[test]
fn names_and_what_they_cover() {
    let name = RunName { level: 2, number: 3 };
    assert_eq!((name.file().as_str(), RunName::parse("2-3")), ("2-3", Some(name)));
    for other in ["", "-", "2", "2-", "-3", "02-3", "2-03", "+2-3", "2-3.tmp", "2-3-4"] {
        assert_eq!(RunName::parse(other), None, "{other}");
    }
    assert_eq!(name.span(4096), Some(3 * 16 * 4096..4 * 16 * 4096));
    assert_eq!(RunName { level: 40, number: 0 }.span(4096), None);
    assert_eq!(RunName { level: 0, number: u64::MAX }.span(4096), None);
    assert_eq!(name.parent(), RunName { level: 3, number: 0 });
    assert_eq!(name.children().unwrap().map(|child| child.number), [12, 13, 14, 15]);
    assert!(name.children().unwrap().iter().all(|child| child.parent() == name));
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let name = RunName { level: 0, number: 1 };
    let good = bytes(name, &[record(1, 4), record(1, 5), record(9, 4)]);
    let path = directory.path().join("0-1");
    let check = |bytes: &[u8]| -> io::Result<u64> {
        std::fs::write(&path, bytes)?;
        let run = Run::open(&path, name)?;
        run.scan(BLOCK)?.try_fold(0, |count, record| record.map(|_| count + 1))
    };
    assert_eq!(check(&good).unwrap(), 3);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(check(&bad).is_err(), "byte {at}");
        assert!(check(&good[..at]).is_err(), "cut at {at}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(check(&longer).is_err());
    // Order and span are checked beside the checksum.
    for records in [[record(2, 4), record(1, 4)], [record(1, 5), record(1, 4)], [record(1, 4), record(1, 4)]]
    {
        assert!(check(&bytes(name, &records)).unwrap_err().to_string().contains("order"));
    }
    assert!(check(&bytes(name, &[record(1, 8)])).unwrap_err().to_string().contains("outside"));
    assert!(check(&bytes(HUGE, &[])).unwrap_err().to_string().contains("another run"));
}

#[test]
fn many_records_of_one_key_are_found_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut records: Vec<Record> = (0..5_000).map(|index| record(u64::MAX / 3, index)).collect();
    records.extend((0..2_000).map(|n| record(n * (u64::MAX / 2_000), n)));
    records.sort();
    records.dedup();
    let run = open(&directory, HUGE, &records);
    assert_eq!(found(&run, u64::MAX / 3), (0..5_000).collect::<Vec<_>>());
    assert!(found(&run, u64::MAX / 3 + 1).is_empty());
    for n in 0..2_000 {
        assert!(found(&run, n * (u64::MAX / 2_000)).contains(&n), "{n}");
    }
}

#[test]
fn a_wrong_count_is_not_written() {
    let announced = write(&mut Vec::new(), HUGE, 2, [Ok(record(1, 1))].into_iter());
    assert!(announced.is_err());
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let values =
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..50_u64, (0..9_u64).prop_map(|n| n << 60)];
    prop::collection::vec((values, 0..1_000_u64), 0..1_500).prop_map(|pairs| {
        let mut records: Vec<_> = pairs.into_iter().map(|(value, index)| record(value, index)).collect();
        records.sort();
        records.dedup();
        records
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn finds_what_a_linear_search_finds(records in records(), others in prop::collection::vec(any::<u64>(), 20)) {
        let directory = tempfile::tempdir().unwrap();
        let run = open(&directory, HUGE, &records);
        prop_assert_eq!(run.scan(u64::MAX >> 42).unwrap().map(Result::unwrap).collect::<Vec<_>>(), records.clone());
        let present = records.iter().step_by(7).map(|record| leading(record.fingerprint));
        for value in present.chain(others).chain([0, u64::MAX]) {
            let expected: Vec<u64> = records
                .iter()
                .filter(|record| record.fingerprint == print(value))
                .map(|record| record.index)
                .collect();
            prop_assert_eq!(found(&run, value), expected, "{}", value);
        }
    }

    #[test]
    fn merging_is_sorting_and_sums_do_not_depend_on_order(parts in prop::collection::vec(records(), 1..5)) {
        let mut all: Vec<Record> = parts.concat();
        let mut sum = Sum::default();
        for record in &all {
            sum.add(*record);
        }
        all.sort();
        let sources = parts.iter().map(|part| part.iter().map(|record| Ok(*record))).collect();
        let merged: Vec<Record> = merge(sources).map(Result::unwrap).collect();
        prop_assert_eq!(&merged, &all);
        let mut joined = Sum::default();
        for part in &parts {
            let mut of_part = Sum::default();
            part.iter().rev().for_each(|record| of_part.add(*record));
            joined.join(of_part);
        }
        prop_assert_eq!(sum, joined);
        if let Some(first) = all.first_mut() {
            first.index ^= 1;
            let mut changed = Sum::default();
            all.iter().for_each(|record| changed.add(*record));
            prop_assert_ne!(sum, changed);
        }
    }
}
