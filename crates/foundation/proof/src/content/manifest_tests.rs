use super::*;
use crate::content::Content;

fn entry(path: &str) -> ManifestEntry {
    ManifestEntry { path: path.to_owned(), size: 5, root: Content::of_bytes(b"hello").root() }
}

fn manifest(paths: &[&str]) -> Result<Manifest, ManifestError> {
    Manifest::new(paths.iter().map(|path| entry(path)).collect())
}

#[test]
fn a_manifest_is_the_sorted_list_and_reads_back() {
    let written = manifest(&["b/2.csv", "b/1.csv", "a.csv", "数据/雨量.csv", "b.csv"]).unwrap();
    let paths: Vec<_> = written.entries().iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["a.csv", "b.csv", "b/1.csv", "b/2.csv", "数据/雨量.csv"]);
    assert_eq!(Manifest::decode(written.encoded()), Ok(written.clone()));
    assert_eq!(written.root().as_bytes(), blake3::hash(written.encoded()).as_bytes());
    // One array of arrays of a text, a number and 32 bytes, by hand.
    let mut by_hand = vec![0x81, 0x83, 0x61, b'x', 5, 0x58, 32];
    by_hand.extend_from_slice(blake3::hash(b"hello").as_bytes());
    assert_eq!(manifest(&["x"]).unwrap().encoded(), by_hand);
}

#[test]
fn no_path_leaves_the_directory() {
    let long_name = "x".repeat(256);
    let long_path = vec!["x".repeat(200); 6].join("/");
    let deep = vec!["x"; 33].join("/");
    for bad in [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a/..",
        "./a",
        "a/.",
        "a//b",
        "a/",
        "a\\b",
        "..\\x",
        "a\0b",
        "a\nb",
        "a\u{7f}",
        "a\u{85}b",
        "e\u{301}",
        &long_name,
        &long_path,
        &deep,
    ] {
        let refused = manifest(&[bad]);
        assert!(
            matches!(&refused, Err(ManifestError::Path { path, .. }) if path == bad),
            "{bad:?}: {refused:?}"
        );
    }
    for good in ["a", "...", "a b", ".hidden", "a/b/c", "é", &"x".repeat(255), "CON"] {
        assert!(manifest(&[good]).is_ok(), "{good:?}");
    }
}

#[test]
fn no_two_files_get_in_each_others_way() {
    for (paths, one, other) in [
        (["a", "a"], "a", "a"),
        (["a", "A"], "a", "A"),
        (["dir/x", "DIR/X"], "dir/x", "DIR/X"),
        (["a", "a/b"], "a/b", "a"),
        (["A", "a/b"], "a/b", "A"),
        (["é", "É"], "é", "É"),
        (["ß", "ss"], "ß", "ss"),
        (["ſ", "s"], "ſ", "s"),
        (["ς", "σ"], "σ", "ς"),
    ] {
        let refused = manifest(&paths);
        let expected = ManifestError::Collision { path: one.to_owned(), other: other.to_owned() };
        assert_eq!(refused, Err(expected), "{paths:?}");
    }
    assert!(manifest(&["a/b", "A/c", "ab", "a.b"]).is_ok());
}

#[test]
fn bounds_hold() {
    assert_eq!(Manifest::new(Vec::new()), Err(ManifestError::Files));
    let many: Vec<_> = (0..=MAX_FILES).map(|number| entry(&format!("{number}"))).collect();
    assert_eq!(Manifest::new(many), Err(ManifestError::Files));
    let huge = |path: &str| ManifestEntry { size: u64::MAX, ..entry(path) };
    assert_eq!(Manifest::new(vec![huge("a"), huge("b")]), Err(ManifestError::Size));
    let long = |number: usize| entry(&format!("{number:0>200}/{}", "y".repeat(200)));
    let too_long = Manifest::new((0..40_000).map(long).collect());
    assert!(matches!(too_long, Err(ManifestError::Cbor(CborError::TooLarge { .. }))));
}

#[test]
fn other_encodings_are_refused() {
    let good = manifest(&["a", "b"]).unwrap().encoded().to_vec();
    // Each shorter one ends inside an entry, each longer one has something behind the last.
    for end in 0..good.len() {
        assert!(Manifest::decode(&good[..end]).is_err(), "{end}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(Manifest::decode(&longer), Err(ManifestError::Cbor(CborError::Trailing { .. }))));
    let item = |path: &str| {
        Value::Array(vec![Value::Text(path.to_owned()), Value::Uint(5), Value::Bytes(vec![0; 32])])
    };
    let encode = |items: Vec<Value>| cbor::encode(&Value::Array(items));
    assert_eq!(
        Manifest::decode(&encode(vec![item("b"), item("a")])),
        Err(ManifestError::Order { number: 2 })
    );
    assert_eq!(
        Manifest::decode(&encode(vec![item("a"), item("a")])),
        Err(ManifestError::Order { number: 2 })
    );
    assert_eq!(Manifest::decode(&encode(Vec::new())), Err(ManifestError::Files));
    for wrong in [Value::Uint(1), Value::Array(Vec::new()), Value::Array(vec![Value::Uint(1); 3])] {
        let refused = Manifest::decode(&encode(vec![wrong]));
        assert_eq!(refused, Err(ManifestError::Shape { number: 1 }));
    }
    let mut short_root = vec![0x81, 0x83, 0x61, b'x', 5, 0x58, 31];
    short_root.extend_from_slice(&[0; 31]);
    assert_eq!(Manifest::decode(&short_root), Err(ManifestError::Shape { number: 1 }));
    // A length that is only declared.
    assert!(matches!(
        Manifest::decode(&[0x9a, 0, 1, 0, 0]),
        Err(ManifestError::Cbor(CborError::Truncated { .. }))
    ));
    assert_eq!(Manifest::decode(&[0x80, 0]), Err(ManifestError::Cbor(CborError::Trailing { at: 1 })));
}
