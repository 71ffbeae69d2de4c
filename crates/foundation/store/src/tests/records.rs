//! The bytes of a group.

use proptest::prelude::*;

use crate::overlay::{Change, Origin, Overlay};
use crate::record::{self, FRAME_BYTES, GroupWriter, Seed};
use crate::table;

type Written = (u8, Vec<u8>, Option<Vec<u8>>, bool);

fn transaction() -> impl Strategy<Value = Vec<Written>> {
    let change = (0..3_u8, any::<Vec<u8>>(), any::<Option<Vec<u8>>>(), any::<bool>());
    proptest::collection::vec(change, 0..6)
}

fn overlay(written: &[Written], sequence: u64) -> Overlay {
    let mut overlay = Overlay::default();
    for (number, key, value, kept) in written {
        let name = format!("table.{number}");
        let origin = if *kept { Origin::WrittenWithHistory } else { Origin::Written };
        let change = Change { value: value.clone(), origin };
        overlay.write(table::row_key(name.as_bytes(), key), change, sequence, 7);
    }
    overlay
}

proptest! {
    #[test]
    fn a_group_decodes_to_what_was_written(
        transactions in proptest::collection::vec(transaction(), 1..5),
        identity in any::<[u8; 16]>(),
        first in 1..u64::MAX / 2,
    ) {
        let seed = Seed::of(&identity);
        let mut writer = GroupWriter::new();
        for (number, written) in transactions.iter().enumerate() {
            writer.push(number as u64, overlay(written, first).written());
        }
        let bytes = writer.finish(seed, first);
        let payload = &bytes[FRAME_BYTES..];
        prop_assert_eq!(u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize, payload.len());
        prop_assert_eq!(u32::from_be_bytes(bytes[4..8].try_into().unwrap()), seed.checksum(payload));
        prop_assert_eq!(record::recognise(&bytes, seed), Some((payload.len(), first)));

        let group = record::decode(payload).unwrap();
        prop_assert_eq!(group.first_sequence, first);
        prop_assert_eq!(group.entries.len(), transactions.len());
        for (number, (entry, written)) in group.entries.iter().zip(&transactions).enumerate() {
            prop_assert_eq!(entry.time, number as u64);
            let expected = overlay(written, first);
            let decoded: Vec<_> = entry
                .changes
                .iter()
                .map(|change| (table::row_key(change.table, change.key), change.value, change.origin))
                .collect();
            let expected: Vec<_> = expected
                .written()
                .map(|(key, change)| (key.to_vec(), change.value.as_deref(), change.origin))
                .collect();
            prop_assert_eq!(decoded, expected);
        }
    }

    #[test]
    fn foreign_bytes_are_refused_and_never_believed(bytes in any::<Vec<u8>>(), count in any::<u32>()) {
        // Whatever a group says of itself, decoding it ends; that it may fail is all that is asked here.
        let _ = record::decode(&bytes);
        let mut claims = vec![1; 13];
        claims.extend_from_slice(&count.to_be_bytes());
        claims.extend_from_slice(&bytes);
        if let Ok(group) = record::decode(&claims) {
            prop_assert_eq!(group.entries.len(), count as usize);
            prop_assert!(group.entries.len() <= bytes.len());
        }
    }
}

#[test]
fn a_group_of_another_journal_is_not_recognised() {
    let mut writer = GroupWriter::new();
    writer.push(1, overlay(&[(0, b"key".to_vec(), None, false)], 1).written());
    let bytes = writer.finish(Seed::of(&[1; 16]), 1);
    assert!(record::recognise(&bytes, Seed::of(&[1; 16])).is_some());
    assert_eq!(record::recognise(&bytes, Seed::of(&[2; 16])), None);
}

#[test]
fn the_format_of_a_group_is_pinned() {
    let mut writer = GroupWriter::new();
    let mut changes =
        overlay(&[(1, b"k".to_vec(), Some(b"value".to_vec()), true), (2, b"gone".to_vec(), None, false)], 5);
    let resident =
        |value: Option<&[u8]>| Change { value: value.map(<[u8]>::to_vec), origin: Origin::Resident };
    changes.write(table::row_key(b"table.3", b"r"), resident(Some(b"x")), 5, 7);
    changes.write(table::row_key(b"table.3", b"s"), resident(None), 5, 7);
    writer.push(0x0102, changes.written());
    let bytes = writer.finish(Seed::of(&[0xA5; 16]), 5);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let pinned = concat!(
        // length, checksum
        "0000005e",
        "b9f9ab04",
        // version, first sequence, mark, entries
        "02",
        "0000000000000005",
        "bc5f2e58",
        "00000001",
        // time, changes
        "0000000000000102",
        "00000004",
        // put with history: table.1, k, value
        "03077461626c652e3100016b0000000576616c7565",
        // delete: table.2, gone
        "02077461626c652e320004676f6e65",
        // put resident: table.3, r, x
        "05077461626c652e330001720000000178",
        // delete resident: table.3, s
        "06077461626c652e33000173",
    );
    assert_eq!(hex, pinned);
}

#[test]
fn a_group_of_version_1_is_still_read() {
    let pinned = concat!(
        "00000041",
        "b659c956",
        "01",
        "0000000000000005",
        "15e490fa",
        "00000001",
        "0000000000000102",
        "00000002",
        "03077461626c652e3100016b0000000576616c7565",
        "02077461626c652e320004676f6e65",
    );
    let byte = |place: usize| u8::from_str_radix(&pinned[place..place + 2], 16).unwrap();
    let mut bytes: Vec<u8> = (0..pinned.len()).step_by(2).map(byte).collect();
    let seed = Seed::of(&[0xA5; 16]);
    assert_eq!(record::recognise(&bytes, seed), Some((0x41, 5)));
    assert_eq!(seed.checksum(&bytes[FRAME_BYTES..]), 0xB659_C956);
    let group = record::decode(&bytes[FRAME_BYTES..]).unwrap();
    assert_eq!((group.first_sequence, group.entries[0].time), (5, 0x0102));
    let values: Vec<_> = group.entries[0].changes.iter().map(|change| (change.key, change.value)).collect();
    assert_eq!(values, [(&b"k"[..], Some(&b"value"[..])), (b"gone", None)]);

    // It knew no resident rows.
    let operation = bytes.iter().position(|byte| *byte == 3).unwrap();
    bytes[operation] = 5;
    let refused = record::decode(&bytes[FRAME_BYTES..]).unwrap_err();
    assert!(refused.to_string().contains("unknown operation 5"), "{refused}");
}

#[test]
fn broken_payloads_are_refused_with_their_reason() {
    let mut writer = GroupWriter::new();
    writer.push(1, overlay(&[(0, b"key".to_vec(), Some(b"v".to_vec()), false)], 1).written());
    let bytes = writer.finish(Seed::of(&[0; 16]), 1);
    let payload = &bytes[FRAME_BYTES..];

    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut changed = payload.to_vec();
        change(&mut changed);
        let error = record::decode(&changed).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    };
    check(&|bytes| bytes[0] = 3, "format version 3");
    check(&|bytes| bytes[16] = 0, "longer than it says");
    check(&|bytes| bytes.truncate(17), "shorter than it says");
    check(&|bytes| bytes.truncate(bytes.len() - 1), "shorter than it says");
    check(&|bytes| bytes.push(0), "longer than it says");
    check(&|bytes| bytes[29] = 9, "unknown operation 9");
    check(&|bytes| bytes[30] = 0, "impossible table name");
    check(&|bytes| bytes[31] = 0, "impossible table name");
    check(
        &|bytes| {
            bytes.truncate(17);
            bytes[16] = 0;
        },
        "no transaction",
    );
}
