use proptest::prelude::*;

use super::*;
use crate::merkle::leaf_hash;

#[track_caller]
fn check(path: FilePath, text: &str) {
    assert_eq!(path.to_string(), text);
    assert_eq!(text.parse(), Ok(path));
}

#[test]
fn paths_are_those_of_the_specification() {
    let tile = |level, number, width| FilePath::Tile(TileName { level, number, width });
    let entries = |number, width| FilePath::Entries(BundleName { number, width });
    check(FilePath::Checkpoint, "checkpoint");
    check(tile(0, 0, 256), "tile/0/000");
    check(tile(0, 1_234_067, 256), "tile/0/x001/x234/067");
    check(tile(63, 999, 1), "tile/63/999.p/1");
    check(tile(2, 1000, 255), "tile/2/x001/000.p/255");
    check(entries(5, 256), "tile/entries/005");
    check(entries(273, 112), "tile/entries/273.p/112");
    check(entries(u64::MAX, 256), "tile/entries/x018/x446/x744/x073/x709/x551/615");
}

#[test]
fn the_specifications_example_of_70_000_entries() {
    let size = 70_000;
    let expected = [(273, Some(112)), (1, Some(17)), (0, Some(1)), (0, None)];
    for (level, (full, partial)) in (0..).zip(expected) {
        assert_eq!(full_tiles(level, size), full, "level {level}");
        let name = partial.map(|width| TileName { level, number: full, width });
        assert_eq!(TileName::partial(level, size), name, "level {level}");
    }
    assert_eq!(BundleName::partial(size), Some(BundleName { number: 273, width: 112 }));
    assert_eq!((BundleName::partial(512), TileName::partial(0, 512)), (None, None));
    assert_eq!(TileName::partial(9, u64::MAX), None);
}

#[test]
fn other_texts_are_no_paths() {
    for text in [
        "",
        "/",
        "checkpoint/",
        "/checkpoint",
        "Checkpoint",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/+1/000",
        "tile/64/000",
        "tile/-1/000",
        "tile//000",
        "tile/0/x000/005",
        "tile/0/x001/x234/x067",
        "tile/0/001/000",
        "tile/0/X001/000",
        "tile/0/x1/000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/1.p/1",
        "tile/0/000.p/1/",
        "tile/0/x001.p/1/000",
        "tile/0/../0/000",
        "tile/0/000/..",
        "tile/entries/../checkpoint",
        "tile/entries/",
        "tile/entries/x000",
        "tile/0/٣٣٣",
        "tile/0/000 ",
        "tile/0/000\0",
        "tile/0/x018/x446/x744/x073/x709/x551/616",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/data/000",
        "redacted/entries/000",
    ] {
        assert_eq!(text.parse::<FilePath>(), Err(NotAPath), "{text:?}");
    }
}

#[test]
fn tiles_and_subtrees() {
    let hashes: Vec<Digest> = (0..8_u8).map(|n| leaf_hash(&[n])).collect();
    let bytes = encode_tile(&hashes);
    assert_eq!(bytes.len(), 256);
    assert_eq!(decode_tile(&bytes, 8), Some(hashes.clone()));
    assert_eq!((decode_tile(&bytes, 7), decode_tile(&bytes[1..], 8)), (None, None));
    let pairs: Vec<Digest> = hashes.chunks(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    assert_eq!(subtree_hash(&hashes), subtree_hash(&pairs));
    assert_eq!(subtree_hash(&hashes[..1]), Some(hashes[0]));
    assert_eq!((subtree_hash(&hashes[..3]), subtree_hash(&[])), (None, None));
}

#[test]
fn bundles() {
    let entries: [&[u8]; 3] = [b"one", b"", &[7; 65_535]];
    let bytes = encode_bundle(entries).unwrap();
    assert_eq!(bytes[..7], [0, 3, b'o', b'n', b'e', 0, 0]);
    for (width, whole) in [(2, false), (3, true), (4, false)] {
        assert_eq!(Bundle::decode(bytes.clone(), width).is_some(), whole, "{width}");
    }
    for cut in [1, 2, 4, 5, 6, 8, bytes.len() - 1] {
        assert!(Bundle::decode(bytes[..cut].to_vec(), 3).is_none(), "{cut}");
    }
    let bundle = Bundle::decode(bytes.clone(), 3).unwrap();
    assert_eq!(bundle.entries().collect::<Vec<_>>(), entries);
    assert_eq!(
        (bundle.entry(0), bundle.entry(1), bundle.entry(3)),
        (Some(entries[0]), Some(entries[1]), None)
    );
    assert_eq!(encode_bundle([&[0; 65_536][..]]), None);
}

proptest! {
    #[test]
    fn paths_round_trip(level in 0..64_u8, number: u64, width in 1..=256_u16) {
        for path in [FilePath::Tile(TileName { level, number, width }), FilePath::Entries(BundleName { number, width })] {
            prop_assert_eq!(path.to_string().parse(), Ok(path));
        }
    }

    #[test]
    fn whatever_parses_is_written_the_same(text in "(tile/)?([0-9]{1,2}|entries)?/(x?[0-9]{2,4}/){0,3}[0-9]{2,4}(\\.p/[0-9]{1,3})?") {
        if let Ok(path) = text.parse::<FilePath>() {
            prop_assert_eq!(path.to_string(), text);
        }
    }
}
