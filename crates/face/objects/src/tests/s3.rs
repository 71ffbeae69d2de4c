use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{MIB, at, bounded, dribbling, objects, read, sample, server};
use crate::testing::{S3Server, settings};
use crate::{Bucket, ObjectError, Objects};

#[tokio::test]
async fn one_object_is_listed_under_its_name() {
    let (server, objects) = server();
    server.put("data", "a/数据 +&=.csv", "12345");
    let found = objects.list(&at("s3://data/a/数据 +&=.csv"), 1).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].path.as_str(), found[0].size), ("数据 +&=.csv", 5));
    assert_eq!(found[0].location, at("s3://data/a/数据 +&=.csv"));
    assert!(found[0].version.starts_with('"'));

    let missing = objects.list(&at("s3://data/b"), 1).await;
    assert!(matches!(missing, Err(ObjectError::NotFound { .. })), "{missing:?}");
}

#[tokio::test]
async fn a_prefix_is_listed_through_all_pages_in_the_order_of_bytes() {
    let (server, objects) = server();
    for number in 0..2345 {
        server.put("data", &format!("set/{number:04}.csv"), format!("{number}"));
    }
    for key in ["set/", "set/sub/", "settle", "other/x", "set/sub/Z", "set/sub/a", "set/é & <ü>"] {
        server.put("data", key, if key.ends_with('/') { "" } else { "x" });
    }
    let found = objects.list(&at("s3://data/set/"), 3000).await.unwrap();
    assert_eq!(found.len(), 2348);
    assert_eq!(server.requests().len(), 3);
    assert!(found.is_sorted_by(|left, right| left.path.as_bytes() < right.path.as_bytes()));
    let tail: Vec<&str> = found[2345..].iter().map(|object| object.path.as_str()).collect();
    assert_eq!(tail, ["sub/Z", "sub/a", "é & <ü>"]);
    let object = &found[17];
    assert_eq!((object.path.as_str(), object.size), ("0017.csv", 2));
    assert_eq!(object.location, at("s3://data/set/0017.csv"));
    // What a listing calls a version is what the object itself calls it.
    assert_eq!(objects.list(&object.location, 1).await.unwrap()[0].version, object.version);

    assert_eq!(objects.list(&at("s3://data/"), 3000).await.unwrap().len(), 2350);
    assert!(objects.list(&at("s3://data/nothing/"), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_listing_ends_at_its_bound() {
    let (server, objects) = server();
    for number in 0..2100 {
        server.put("data", &format!("set/{number:04}"), "x");
    }
    let found = objects.list(&at("s3://data/set/"), 2100).await.unwrap();
    assert_eq!(found.len(), 2100);
    let before = server.requests().len();
    let refused = objects.list(&at("s3://data/set/"), 999).await;
    assert!(matches!(refused, Err(ObjectError::TooMany { most: 999, .. })), "{refused:?}");
    assert_eq!(server.requests().len(), before + 1);
}

#[tokio::test]
async fn a_listing_goes_on_exactly_as_long_as_the_server_says() {
    let server = S3Server::start();
    let entry = "<Contents><Key>set/a</Key><Size>1</Size><ETag>one</ETag></Contents>";
    for (rest, expected) in [
        ("<IsTruncated>false</IsTruncated>", Some(1)),
        ("<IsTruncated>false</IsTruncated><NextContinuationToken>again</NextContinuationToken>", Some(1)),
        ("<IsTruncated>true</IsTruncated>", None),
        ("<IsTruncated>true</IsTruncated><NextContinuationToken></NextContinuationToken>", None),
        ("", None),
    ] {
        let body = format!("<ListBucketResult>{entry}{rest}</ListBucketResult>");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let address = dribbling(move |_| answer.clone()).await;
        let bucket = Bucket { endpoint: Some(format!("http://{address}")), ..server.create_bucket("data") };
        let found = bounded(objects(bucket).list(&at("s3://data/set/"), 100)).await;
        match expected {
            Some(count) => assert_eq!(found.unwrap().len(), count, "{rest}"),
            None => assert!(matches!(found, Err(ObjectError::Unusable { .. })), "{rest}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_sends_a_byte_now_and_then_is_given_up() {
    let server = S3Server::start();
    let head = "HTTP/1.1 200 OK\r\netag: \"one\"\r\ncontent-length: 100000000\r\n\r\n";
    let address = dribbling(move |line| match line.starts_with("HEAD") {
        // What follows belongs to nothing.
        true => head.to_owned(),
        false if line.contains("refused") => head.replace("200 OK", "400 Bad Request"),
        false => head.to_owned(),
    })
    .await;
    let settings = crate::Settings { request_timeout: Duration::from_millis(300), ..settings() };
    let endpoint = format!("http://{address}");
    let bucket = Bucket { endpoint: Some(endpoint.clone()), ..server.create_bucket("data") };
    let objects = Objects::new(vec![bucket], &settings).unwrap();
    let upload = crate::Upload {
        location: at("s3://data/refused"),
        mark: "mark".to_owned(),
        size: 0,
        part_size: crate::PART_BYTES,
        id: Some("refused".to_owned()),
    };
    let content = objects.list(&at(&format!("{endpoint}/a")), 1).await.unwrap().remove(0);
    let mut buffer = Vec::new();
    for slow in [
        bounded(objects.list(&at("s3://data/set/"), 1)).await.map(drop),
        bounded(objects.abort(&upload)).await,
        bounded(objects.reader(&content).read_at(0, &mut buffer, 1000)).await,
    ] {
        assert!(matches!(slow, Err(ObjectError::Unavailable { .. })), "{slow:?}");
    }
    assert!(buffer.is_empty());
}

#[tokio::test]
async fn a_bucket_of_an_ip_address_stands_in_the_path() {
    let (server, _) = server();
    for endpoint in ["http://10.0.0.1:9000", "http://[::1]:9000"] {
        let bucket = Bucket { endpoint: Some(endpoint.to_owned()), ..server.create_bucket("data") };
        Objects::new(vec![bucket.clone()], &settings()).unwrap();
        let refused = Objects::new(vec![Bucket { path_style: false, ..bucket }], &settings()).unwrap_err();
        assert!(refused.to_string().contains("path_style"), "{refused}");
    }
}

#[tokio::test]
async fn a_key_that_is_no_path_is_named_in_the_error() {
    let (server, objects) = server();
    server.put("data", "set/a", "x");
    server.put("data", "set/../../etc", "x");
    let refused = objects.list(&at("s3://data/set/"), 10).await.unwrap_err();
    assert!(refused.to_string().contains("set/../../etc"), "{refused}");
}

#[tokio::test]
async fn an_object_is_read_whole_and_in_ranges() {
    let (server, objects) = server();
    let bytes = sample(5 * MIB + 7);
    server.put("data", "a", bytes.clone());
    server.put("data", "empty", "");
    assert_eq!(read(&objects, "s3://data/a").await.unwrap(), bytes);
    assert_eq!(read(&objects, "s3://data/empty").await.unwrap(), b"");

    let object = objects.list(&at("s3://data/a"), 1).await.unwrap().remove(0);
    let gets = |server: &S3Server| server.requests().iter().filter(|line| line.starts_with("GET")).count();
    let before = gets(&server);
    let mut reader = objects.reader(&object);
    let mut buffer = b"before".to_vec();
    // One after the other, and a small gap: one request.
    for (offset, length) in [(0, 1), (1, MIB), (MIB + 1, 100), (MIB + 1101, MIB)] {
        buffer.truncate(6);
        reader.read_at(offset as u64, &mut buffer, length).await.unwrap();
        assert_eq!(&buffer[6..], &bytes[offset..offset + length]);
    }
    assert_eq!(gets(&server), before + 1);
    // Back, far ahead, up to the end, and the end once more: one request each.
    for (offset, length) in [(5, 10), (3 * MIB, 5), (5 * MIB, 7), (5 * MIB + 6, 1)] {
        buffer.truncate(6);
        reader.read_at(offset as u64, &mut buffer, length).await.unwrap();
        assert_eq!(&buffer[6..], &bytes[offset..offset + length]);
    }
    assert_eq!(gets(&server), before + 5);
    let beyond = reader.read_at(object.size, &mut buffer, 1).await;
    assert!(matches!(beyond, Err(ObjectError::Invalid { .. })), "{beyond:?}");
    reader.read_at(object.size, &mut buffer, 0).await.unwrap();
}

#[tokio::test]
async fn an_object_that_changed_is_never_read() {
    let (server, objects) = server();
    server.put("data", "a", sample(4 * MIB));
    let object = objects.list(&at("s3://data/a"), 1).await.unwrap().remove(0);
    let mut between = objects.reader(&object);
    let mut buffer = Vec::new();
    between.read_at(0, &mut buffer, 10).await.unwrap();

    // Same length, other bytes.
    server.put("data", "a", vec![7; 4 * MIB]);
    for offset in [0, 3 * MIB] {
        let changed = objects.reader(&object).read_at(offset as u64, &mut buffer, 10).await;
        assert!(matches!(changed, Err(ObjectError::Changed { .. })), "{changed:?}");
    }
    let changed = between.read_at(3 * MIB as u64, &mut buffer, 10).await;
    assert!(matches!(changed, Err(ObjectError::Changed { .. })), "{changed:?}");
    assert_eq!(buffer, &sample(10)[..]);
}

#[tokio::test]
async fn wrong_credentials_are_denied_without_a_second_try() {
    let (server, _) = server();
    server.put("data", "a", "x");
    let bucket = server.create_bucket("data");
    let file = tempfile::NamedTempFile::new().unwrap();
    for wrong in [
        Bucket { secret_access_key: Zeroizing::new("wrong-secret".to_owned()), ..bucket.clone() },
        Bucket { access_key_id: "SOMEBODYELSE".to_owned(), ..bucket },
    ] {
        let objects = objects(wrong);
        let before = server.requests().len();
        let denied = [
            objects.list(&at("s3://data/"), 1).await.map(drop),
            objects.list(&at("s3://data/a"), 1).await.map(drop),
            objects.begin(&at("s3://data/b"), 9 << 20, "mark").await.map(drop),
        ];
        for denied in denied {
            let denied = denied.unwrap_err();
            assert!(matches!(denied, ObjectError::Denied { .. }), "{denied:?}");
            assert!(!denied.to_string().contains("wrong-secret"));
        }
        assert_eq!(server.requests().len(), before + 3);
        let upload = crate::Upload {
            location: at("s3://data/b"),
            mark: "mark".to_owned(),
            size: 0,
            part_size: crate::PART_BYTES,
            id: None,
        };
        let denied = objects.put(&upload, file.path()).await;
        assert!(matches!(denied, Err(ObjectError::Denied { .. })), "{denied:?}");
        assert!(!format!("{objects:?}").contains("secret"));
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_configured_or_not_there_says_so() {
    let (server, objects) = server();
    let unknown = objects.list(&at("s3://other/"), 1).await;
    assert!(
        matches!(unknown, Err(ObjectError::NotConfigured { ref bucket }) if bucket == "other"),
        "{unknown:?}"
    );
    let gone = Bucket { name: "gone".to_owned(), ..server.create_bucket("data") };
    let gone = super::objects(gone).list(&at("s3://gone/"), 1).await;
    assert!(matches!(gone, Err(ObjectError::NotFound { .. })), "{gone:?}");
}

#[tokio::test]
async fn configuration_that_cannot_be_is_refused_at_once() {
    let (server, _) = server();
    let bucket = server.create_bucket("data");
    let wrong = [
        Bucket { allow_http: false, ..bucket.clone() },
        Bucket { endpoint: Some("https://host/path".to_owned()), ..bucket.clone() },
        Bucket { endpoint: Some("https://user:pass@host".to_owned()), ..bucket.clone() },
        Bucket { endpoint: Some("host:9000".to_owned()), ..bucket.clone() },
        Bucket { name: "Not A Bucket".to_owned(), ..bucket.clone() },
        Bucket { region: String::new(), ..bucket.clone() },
        Bucket { access_key_id: "a/b".to_owned(), ..bucket.clone() },
        Bucket { secret_access_key: Zeroizing::new(String::new()), ..bucket.clone() },
        Bucket { ca_certificate: Some(b"no certificate".to_vec()), ..bucket.clone() },
    ];
    for bucket in wrong {
        let refused = Objects::new(vec![bucket], &settings());
        assert!(matches!(refused, Err(ObjectError::Invalid { .. })), "{refused:?}");
    }
    let twice = Objects::new(vec![bucket.clone(), bucket], &settings());
    assert!(matches!(twice, Err(ObjectError::Invalid { .. })), "{twice:?}");
}

#[tokio::test]
async fn a_server_that_comes_back_is_read_on_from_where_it_stopped() {
    let (mut server, objects) = server();
    let bytes = sample(32 * MIB);
    server.put("data", "a", bytes.clone());
    let object = objects.list(&at("s3://data/a"), 1).await.unwrap().remove(0);
    let mut reader = objects.reader(&object);
    let mut buffer = Vec::new();
    reader.read_at(0, &mut buffer, MIB).await.unwrap();
    server.stop();
    let rest = tokio::spawn(async move {
        let outcome = reader.read_at(MIB as u64, &mut buffer, 31 * MIB).await;
        (outcome, buffer)
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.restart();
    let (outcome, buffer) = bounded(rest).await.unwrap();
    outcome.unwrap();
    assert!(buffer == bytes, "the bytes are those of the object");

    // The same for passing refusals, as often as it is tried.
    server.refuse("GET /data/a", 503, 5);
    assert!(read(&objects, "s3://data/a").await.unwrap() == bytes);
}

#[tokio::test]
async fn a_server_that_is_gone_for_good_is_unavailable_in_time() {
    let (mut server, objects) = server();
    server.put("data", "a", sample(32 * MIB));
    let object = objects.list(&at("s3://data/a"), 1).await.unwrap().remove(0);
    let mut reader = objects.reader(&object);
    let mut buffer = Vec::new();
    reader.read_at(0, &mut buffer, MIB).await.unwrap();
    server.stop();
    let begun = Instant::now();
    let gone = bounded(reader.read_at(MIB as u64, &mut buffer, 31 * MIB)).await;
    assert!(matches!(gone, Err(ObjectError::Unavailable { .. })), "{gone:?}");
    assert_eq!(buffer.len(), MIB);
    let gone = objects.list(&at("s3://data/"), 1).await;
    assert!(matches!(gone, Err(ObjectError::Unavailable { .. })), "{gone:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_unavailable_in_time() {
    let (server, _) = server();
    let settings = crate::Settings { idle_timeout: Duration::from_millis(200), tries: 2, ..settings() };
    let objects = Objects::new(vec![server.create_bucket("data")], &settings).unwrap();
    server.hold(Some("list-type"));
    let begun = Instant::now();
    let silent = bounded(objects.list(&at("s3://data/"), 1)).await;
    assert!(matches!(silent, Err(ObjectError::Unavailable { .. })), "{silent:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    server.hold(None);
    objects.list(&at("s3://data/"), 1).await.unwrap();
}

#[tokio::test]
async fn a_server_that_sends_elsewhere_is_not_followed() {
    let (server, objects) = server();
    server.put("data", "a", "x");
    server.refuse("/data/", 307, 2);
    for refused in [objects.list(&at("s3://data/"), 1).await, objects.list(&at("s3://data/a"), 1).await] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, ObjectError::Unusable { .. }), "{refused:?}");
        assert!(refused.to_string().contains("region and endpoint"), "{refused}");
    }
}
