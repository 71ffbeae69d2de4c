use proptest::prelude::*;

use super::at;
use crate::{Location, ObjectError};

fn refused(url: &str) -> String {
    match Location::parse(url) {
        Err(ObjectError::Invalid { reason, .. }) => reason,
        other => panic!("{url}: {other:?}"),
    }
}

#[test]
fn a_location_is_shown_as_it_was_read() {
    for url in [
        "s3://data/a",
        "s3://data/",
        "s3://data/a/b/",
        "s3://my-bucket.of.mine/数据 集/100%25.csv",
        "https://example.org/a.csv",
        "https://example.org:8443/a%20b.csv?token=x&y=%2F",
        "http://127.0.0.1:80/数据.csv",
        "https://[::1]:8443/a",
    ] {
        let location = at(url);
        assert_eq!(location.to_string(), url);
        let stored = serde_json::to_string(&location).unwrap();
        assert_eq!(serde_json::from_str::<Location>(&stored).unwrap(), location);
    }
    assert!(at("s3://data/").is_prefix() && at("s3://data/a/").is_prefix() && !at("s3://data/a").is_prefix());
}

#[test]
fn what_names_no_object_is_refused() {
    let long = format!("https://example.org/{}", "a".repeat(2048));
    for url in [
        "",
        "data/a",
        "ftp://example.org/a",
        "file:///a",
        "s3://data",
        "s3:///a",
        "s3://Data/a",
        "s3://-ab/a",
        "s3://data//a",
        "s3://data/a//b",
        "s3://data/a//",
        "s3://data/../a",
        "s3://data/a/./b",
        "s3://data/a/..",
        "s3://data/a?versionId=1",
        "s3://data/a#b",
        "s3://data/a\nb",
        "s3://key:secret@data/a",
        "https://user:password@example.org/a",
        "https://example.org",
        "https://example.org/",
        "https://example.org/a/",
        "https://example.org/a#b",
        "https://example.org/a/../b",
        "https://example.org/a/%2e%2E/b",
        "https://example.org/a%2",
        "https://example.org/a%zz",
        "https:///a",
        "https://:443/a",
        "https://example.org:0/a",
        "https://example.org:99999/a",
        "https://exa mple.org/a",
        "https://example.org/a\u{7f}",
        &long,
    ] {
        refused(url);
    }
    refused(&format!("s3://data/{}", "a".repeat(1025)));
}

#[test]
fn a_query_is_never_printed() {
    let location = at("https://example.org/a?signature=secret");
    assert!(!format!("{location:?}").contains("secret"));
    assert!(!ObjectError::exists(&location).to_string().contains("secret"));
    assert!(!refused("https://user:secret@example.org/a").contains("secret"));
}

proptest! {
    #[test]
    fn reading_never_fails_otherwise_than_by_saying_so(url in "(s3|https?)://[a-z./%?#@:é\u{0}-\u{20}-]{0,40}") {
        if let Ok(location) = Location::parse(&url) {
            prop_assert_eq!(location.to_string(), url);
        }
    }
}
