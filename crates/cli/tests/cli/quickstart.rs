//! Follows `docs/quickstart.md` to the letter, in three shells, with other ports.

use crate::document::{Reader, blocks};

pub(crate) const DOCUMENT: &str = include_str!("../../../../docs/quickstart.md");
const CHINESE: &str = include_str!("../../../../docs/quickstart.zh-CN.md");

#[test]
fn both_languages_show_the_same_commands() {
    assert!(blocks(DOCUMENT).len() > 10);
    assert_eq!(blocks(DOCUMENT), blocks(CHINESE));
}

#[test]
fn the_quickstart_works_as_written() {
    let printed = Reader::of(DOCUMENT).follow(DOCUMENT, |_, _| {});
    for sign in
        ["listed Daily weather observations", "FINALIZED", "合约 8", "COMPLETED", "VALID   121,417 bytes"]
    {
        assert!(printed.contains(sign), "{sign} is missing:\n{printed}");
    }
    assert!(printed.contains("policy.permission[0].count"), "{printed}");
    assert!(!printed.contains("fail "), "{printed}");
}
