use super::*;
use proptest::prelude::*;
use std::io::Write as _;

const MIB: usize = 1 << 20;

const SIZES: &[usize] = &[
    0,
    1,
    63,
    64,
    65,
    1023,
    1024,
    1025,
    MIB - 1,
    MIB,
    MIB + 1,
    2 * MIB - 1,
    2 * MIB,
    2 * MIB + 1,
    3 * MIB + 5,
    4 * MIB,
    5 * MIB,
    6 * MIB + 1024,
    7 * MIB - 1,
    9 * MIB + 1,
];

/// Bytes in which no two groups are alike.
fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(b"content").finalize_xof().fill(&mut bytes);
    bytes
}

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[track_caller]
fn check(size: usize) {
    let bytes = content(size);
    let tree = Content::of_bytes(&bytes);
    assert_eq!(tree.root().as_bytes(), blake3::hash(&bytes).as_bytes(), "{size}");
    assert_eq!(tree.size(), size as u64);
    assert_eq!(tree.groups(), group_count(size as u64));
    assert_eq!(tree.groups() as usize, bytes.chunks(MIB).count());

    let leaves = tree.leaf_bytes();
    let expected = if tree.groups() > 1 { 32 * tree.groups() } else { 0 };
    assert_eq!(leaves.len() as u64, expected);
    assert_eq!(Content::leaf_byte_count([size as u64]), expected);
    assert_eq!(Content::of_file_leaves(size as u64, tree.root(), &leaves).as_ref(), Ok(&tree));

    for (index, group) in (0..).zip(bytes.chunks(MIB)) {
        let place = tree.place(index).unwrap();
        assert_eq!(place.file, 0);
        assert_eq!(&bytes[place.offset as usize..][..place.length as usize], group);
        assert_eq!(tree.prefix_bytes(index), place.offset);
        assert_eq!(tree.verify_group(index, &[group]), Ok(()));
    }
    assert_eq!(tree.prefix_bytes(tree.groups()), size as u64);
    assert_eq!(tree.place(tree.groups()), None);
    assert_eq!(tree.place(u64::MAX), None);
}

#[test]
fn the_root_is_the_plain_hash_at_every_size() {
    for size in SIZES {
        check(*size);
    }
}

#[test]
fn a_file_hashes_as_its_bytes_and_reports_progress() {
    for size in SIZES {
        let bytes = content(*size);
        let file = file_of(&bytes);
        let mut reports = Vec::new();
        let tree = Content::of_file(file.path(), &mut |done| reports.push(done)).unwrap();
        assert_eq!(tree, Content::of_bytes(&bytes));
        assert_eq!(reports.len() as u64, tree.groups());
        assert!(reports.is_sorted());
        assert_eq!(reports.last().copied().unwrap_or(0), *size as u64);
    }
}

#[test]
fn only_unchanging_regular_files_are_hashed() {
    let directory = tempfile::tempdir().unwrap();
    let error = Content::of_file(directory.path(), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let error = Content::of_file(&directory.path().join("absent"), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);

    let file = file_of(&content(3 * MIB));
    let error = Content::of_file(file.path(), &mut |_| file.as_file().set_len(4 << 20).unwrap());
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
    // More groups than results can wait, so that some are still unread when the file shrinks.
    let file = file_of(&[]);
    file.as_file().set_len(200 << 20).unwrap();
    let error = Content::of_file(file.path(), &mut |_| file.as_file().set_len(5).unwrap());
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn altered_groups_are_refused() {
    for size in [1, 1025, MIB, 2 * MIB + 70_000] {
        let bytes = content(size);
        let tree = Content::of_bytes(&bytes);
        for (index, group) in (0..).zip(bytes.chunks(MIB)) {
            let last = group.len() - 1;
            let places =
                [0, 1, 63, 64, 1023, 1024, 65_535, 65_536, group.len() / 2, last - last % 1024, last];
            for place in places.into_iter().filter(|place| *place <= last) {
                let mut altered = group.to_vec();
                altered[place] ^= 0x10;
                let refused = Err(ContentError::GroupBytes { index });
                assert_eq!(tree.verify_group(index, &[&altered]), refused, "size {size}, byte {place}");
            }
            let (expected, short) = (group.len() as u64, &group[..last]);
            let found = expected - 1;
            assert_eq!(
                tree.verify_group(index, &[short]),
                Err(ContentError::GroupLength { index, expected, found })
            );
            let (long, found) = ([group, b"x"].concat(), expected + 1);
            assert_eq!(
                tree.verify_group(index, &[&long]),
                Err(ContentError::GroupLength { index, expected, found })
            );
        }
    }
}

#[test]
fn groups_do_not_change_places() {
    let bytes = vec![7; 3 * MIB];
    let tree = Content::of_bytes(&[&bytes[..], b"end"].concat());
    // Equal bytes at different places have different leaves.
    assert_eq!(tree.verify_group(0, &[&bytes[..MIB]]), Ok(()));
    let leaves = tree.leaf_bytes();
    assert_ne!(leaves[..32], leaves[32..64]);
    assert_eq!(tree.verify_group(4, &[b"end"]), Err(ContentError::NoSuchGroup { index: 4, groups: 4 }));
    assert!(matches!(tree.verify_group(u64::MAX, &[b""]), Err(ContentError::NoSuchGroup { .. })));
    assert!(matches!(Content::of_bytes(b"").verify_group(0, &[b""]), Err(ContentError::NoSuchGroup { .. })));
}

#[test]
fn leaves_of_another_count_root_or_order_are_refused() {
    let tree = Content::of_bytes(&content(5 * MIB + 1));
    let (size, leaves, root) = (tree.size(), tree.leaf_bytes(), tree.root());
    let check = |size: u64, bytes: &[u8], expect| {
        assert_eq!(Content::of_file_leaves(size, root, bytes), Err(expect), "{size}, {}", bytes.len());
    };
    let count = |expected, found| ContentError::LeafBytes { expected, found };
    check(size, &leaves[..leaves.len() - 1], count(192, 191));
    check(size, &leaves[..leaves.len() - 32], count(192, 160));
    check(size, &[&leaves[..], b"x"].concat(), count(192, 193));
    check(size, &[&leaves[..], &[0; 32]].concat(), count(192, 224));
    check(size, b"", count(192, 0));
    check(size - 1, &leaves, count(160, 192));
    check(size + (1 << 20), &leaves, count(224, 192));
    check(0, &leaves, count(0, 192));
    check(u64::MAX, &leaves, count(32 << 44, 192));
    check(0, b"", ContentError::Root { file: 0 });
    for place in 0..leaves.len() {
        let mut altered = leaves.clone();
        altered[place] ^= 1;
        check(size, &altered, ContentError::Root { file: 0 });
    }
    let mut swapped = leaves.clone();
    swapped.rotate_left(32);
    check(size, &swapped, ContentError::Root { file: 0 });

    let empty = Content::of_bytes(b"");
    assert_eq!(empty.root().to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    assert_eq!(Content::of_file_leaves(0, empty.root(), b""), Ok(empty));
}

/// A dataset on the disk: files of these sizes under these paths.
fn dataset(files: &[(&str, usize)]) -> (tempfile::TempDir, Content, Vec<Vec<u8>>) {
    let home = tempfile::tempdir().unwrap();
    let bytes: Vec<Vec<u8>> = files
        .iter()
        .zip(1u8..)
        .map(|((_, size), mark)| content(size + 1)[1..].iter().map(|b| b ^ mark).collect())
        .collect();
    let named: Vec<_> = files
        .iter()
        .zip(&bytes)
        .zip(0..)
        .map(|(((path, _), bytes), number)| {
            let place = home.path().join(format!("{number}"));
            std::fs::write(&place, bytes).unwrap();
            ((*path).to_owned(), place)
        })
        .collect();
    let content = Content::of_dataset(&named, &mut |_| {}).unwrap();
    (home, content, bytes)
}

const FILES: &[(&str, usize)] = &[
    ("a/empty", 0),
    ("a/first.csv", 3 * MIB + 7),
    ("b/one", MIB),
    ("b/small", 5),
    ("c/none", 0),
    ("c/zero", 0),
    ("d", 2 * MIB),
    ("e", 0),
];

#[test]
fn the_groups_of_a_dataset_are_those_of_its_files() {
    let (_home, dataset, bytes) = dataset(FILES);
    let entries = dataset.manifest().unwrap().entries();
    assert_eq!(entries.len(), FILES.len());
    assert_eq!(dataset.root(), dataset.manifest().unwrap().root());
    assert_eq!(dataset.size(), bytes.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
    let mut group = 0;
    let mut before = 0;
    for (file, (bytes, entry)) in bytes.iter().zip(entries).enumerate() {
        assert_eq!((entry.path.as_str(), entry.size), (FILES[file].0, bytes.len() as u64));
        assert_eq!(entry.root.as_bytes(), blake3::hash(bytes).as_bytes());
        assert_eq!(dataset.file_size(file), Some(entry.size));
        let first = group;
        for part in bytes.chunks(MIB) {
            let place = dataset.place(group).unwrap();
            assert_eq!((place.file, place.length), (file, part.len() as u64));
            assert_eq!(&bytes[place.offset as usize..][..part.len()], part);
            assert_eq!(dataset.prefix_bytes(group), before);
            assert_eq!(dataset.verify_group(group, &[part]), Ok(()));
            assert!(dataset.verify_group(group + 1, &[part]).is_err(), "{group}");
            before += part.len() as u64;
            group += 1;
        }
        assert_eq!(dataset.file_groups(file), first..group);
    }
    assert_eq!((dataset.groups(), dataset.prefix_bytes(group)), (group, dataset.size()));
    assert_eq!(dataset.prefix_bytes(u64::MAX), dataset.size());
    assert_eq!(dataset.place(group), None);
}

#[test]
fn a_manifest_and_the_leaves_of_larger_files_make_the_dataset() {
    let (_home, dataset, _) = dataset(FILES);
    let manifest = dataset.manifest().unwrap().clone();
    let leaves = dataset.leaf_bytes();
    // Four groups and two; a file of one group is its own leaf.
    assert_eq!(leaves.len(), 6 * 32);
    for (skip, most) in
        [(0, 0), (0, 32), (0, 4 * 32), (1, 7), (96, 64), (128, 1000), (191, 2), (192, 1), (9999, 1)]
    {
        let expected: Vec<u8> = leaves.iter().skip(skip).take(most).copied().collect();
        assert_eq!(dataset.leaf_bytes_from(skip, most), expected, "{skip} {most}");
    }
    assert_eq!(Content::leaf_byte_count(manifest.entries().iter().map(|entry| entry.size)), 6 * 32);
    assert_eq!(Content::of_manifest_leaves(manifest.clone(), &leaves), Ok(dataset));
    for (place, file) in [(0, 1), (127, 1), (128, 6), (191, 6)] {
        let mut altered = leaves.clone();
        altered[place] ^= 1;
        let refused = Content::of_manifest_leaves(manifest.clone(), &altered);
        assert_eq!(refused, Err(ContentError::Root { file }));
    }
    let short = Content::of_manifest_leaves(manifest.clone(), &leaves[32..]);
    assert_eq!(short, Err(ContentError::LeafBytes { expected: 192, found: 160 }));
    // An empty file with another root than that of nothing.
    let mut entries = manifest.entries().to_vec();
    entries[0].root = Content::of_bytes(b"x").root();
    let lying = Content::of_manifest_leaves(Manifest::new(entries).unwrap(), &leaves);
    assert_eq!(lying, Err(ContentError::Root { file: 0 }));
}

#[test]
fn runs_hold_whole_groups_up_to_a_number_of_bytes() {
    let (_home, dataset, _) = dataset(FILES);
    // Groups: 1 MiB, 1 MiB, 1 MiB, 7, 1 MiB, 5, 1 MiB, 1 MiB.
    let mib = MIB as u64;
    for (first, end, bytes, expected) in [
        (0, 8, mib, 1),
        (0, 8, 2 * mib, 2),
        (2, 8, mib + 7, 2),
        (3, 8, mib, 1),
        (3, 8, mib + 7, 2),
        (3, 8, mib + 12, 3),
        (0, 8, 0, 1),
        (0, 1, u64::MAX, 1),
        (0, 8, u64::MAX, 8),
        (0, 99, u64::MAX, 8),
        (4, 4, mib, 0),
        (8, 99, mib, 0),
    ] {
        assert_eq!(dataset.run(first, end, bytes), expected, "{first}..{end}, {bytes}");
    }
}

#[test]
fn a_dataset_names_the_file_that_cannot_be_read() {
    let (home, ..) = dataset(&[("a", 5)]);
    let absent = home.path().join("absent");
    let files = [("a".to_owned(), home.path().join("0")), ("b".to_owned(), absent.clone())];
    let error = Content::of_dataset(&files, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().starts_with(&absent.display().to_string()), "{error}");
    let twice = [("a".to_owned(), home.path().join("0")), ("A".to_owned(), home.path().join("0"))];
    let error = Content::of_dataset(&twice, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

/// BLAKE3's rule stated as recursion: the left side takes the largest power of two below the count.
fn naive_merge(leaves: &[LeafValue]) -> LeafValue {
    match leaves {
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            merge_subtrees_non_root(&naive_merge(left), &naive_merge(right), Mode::Hash)
        }
    }
}

#[test]
fn leaves_merge_as_the_recursive_rule_says() {
    let leaves: Vec<LeafValue> = (0..300_u16).map(|n| *blake3::hash(&n.to_be_bytes()).as_bytes()).collect();
    for count in 2..=leaves.len() {
        let (left, right) = leaves[..count].split_at(count.next_power_of_two() / 2);
        let root = merge_subtrees_root(&naive_merge(left), &naive_merge(right), Mode::Hash);
        assert_eq!(merge(&leaves[..count]).as_bytes(), root.as_bytes(), "{count}");
    }
}

#[test]
fn group_arithmetic_holds_at_the_largest_sizes() {
    assert_eq!(group_count(u64::MAX), 1 << 44);
    assert_eq!(group_range(u64::MAX, (1 << 44) - 1), Some(u64::MAX - (1 << 20) + 1..u64::MAX));
    assert_eq!(group_range(u64::MAX, 1 << 44), None);
}

#[test]
fn roots_are_written_in_one_form() {
    let root = Content::of_bytes(b"abc").root();
    assert_eq!(root.to_string().parse(), Ok(root));
    assert!(root.to_string().to_uppercase().parse::<ContentRoot>().is_err());
    assert_eq!(ContentRoot::from_slice(root.as_bytes()), Some(root));
    assert_eq!(ContentRoot::from_slice(&[0; 31]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_size_gives_the_plain_hash(size in 0..4 * MIB) {
        let bytes = content(size);
        let expect = ContentRoot::from_bytes(*blake3::hash(&bytes).as_bytes());
        prop_assert_eq!(Content::of_bytes(&bytes).root(), expect);
    }
}

#[test]
fn a_content_elsewhere_has_the_same_tree() {
    let directory = tempfile::tempdir().unwrap();
    let files =
        [("a", vec![1; 3 << 20]), ("b/c", Vec::new()), ("b/d", vec![2; 5]), ("e", vec![3; (1 << 20) + 1])];
    let paths: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(index, (name, bytes))| {
            let path = directory.path().join(index.to_string());
            std::fs::write(&path, bytes).unwrap();
            ((*name).to_owned(), path)
        })
        .collect();
    let read = |place: GroupPlace, buffer: &mut Vec<u8>| {
        let start = place.offset as usize;
        buffer.extend_from_slice(&files[place.file].1[start..start + place.length as usize]);
        Ok::<_, std::io::Error>(())
    };
    let sizes: Vec<u64> = files.iter().map(|(_, bytes)| bytes.len() as u64).collect();
    let names = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    let elsewhere = Content::of_groups(Some(names), &sizes, read).unwrap();
    assert_eq!(elsewhere, Content::of_dataset(&paths, &mut |_| ()).unwrap());
    let one = Content::of_groups(None, &sizes[..1], read).unwrap();
    assert_eq!(one, Content::of_file(&paths[0].1, &mut |_| ()).unwrap());
    assert_eq!(Content::of_groups(None, &[0], read).unwrap(), Content::of_bytes(b""));
    let large = Content::of_groups(None, &[u64::MAX], read).unwrap_err();
    assert_eq!(large.kind(), std::io::ErrorKind::FileTooLarge);
}
