use std::io::Write as _;
use std::time::Duration;

use super::{MIB, at, bounded, sample, server};
use crate::testing::S3Server;
use crate::{ObjectError, Objects, Upload};

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn count(server: &S3Server, method: &str, text: &str) -> usize {
    server.requests().iter().filter(|line| line.starts_with(method) && line.contains(text)).count()
}

/// Every part that was sent, by its number.
pub(super) fn parts_sent(server: &S3Server) -> Vec<u32> {
    let lines = server.requests();
    let numbers =
        lines.iter().filter_map(|line| line.split_once("partNumber=")?.1.split('&').next()?.parse().ok());
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

async fn put(objects: &Objects, url: &str, mark: &str, bytes: &[u8]) -> Result<String, ObjectError> {
    let upload = objects.begin(&at(url), bytes.len() as u64, mark).await?;
    objects.put(&upload, file(bytes).path()).await
}

#[tokio::test]
async fn a_small_file_goes_in_one_request() {
    let (server, objects) = server();
    for (key, bytes) in [("a/数据.csv", sample(8 * MIB)), ("empty", Vec::new())] {
        let version = put(&objects, &format!("s3://data/{key}"), "mark-1", &bytes).await.unwrap();
        assert_eq!(server.get("data", key).unwrap(), bytes);
        let object = objects.list(&at(&format!("s3://data/{key}")), 1).await.unwrap().remove(0);
        assert_eq!(object.version, version);
    }
    assert_eq!(count(&server, "PUT", ""), 2);
    assert_eq!(count(&server, "POST", ""), 0);
}

#[tokio::test]
async fn a_large_file_goes_in_parts() {
    let (server, objects) = server();
    let bytes = sample(40 * MIB + 5);
    let version = put(&objects, "s3://data/large", "mark-1", &bytes).await.unwrap();
    assert!(server.get("data", "large").unwrap() == bytes);
    assert_eq!(parts_sent(&server), [1, 2, 3, 4, 5, 6]);
    assert!(server.uploads().is_empty());
    assert!(version.ends_with("-6\""), "{version}");
}

#[tokio::test]
async fn what_was_put_already_is_not_put_again() {
    let (server, objects) = server();
    for size in [100, 9 * MIB] {
        let bytes = sample(size);
        let url = at(&format!("s3://data/{size}"));
        let upload = objects.begin(&url, size as u64, "mark-1").await.unwrap();
        let upload = serde_json::from_str::<Upload>(&serde_json::to_string(&upload).unwrap()).unwrap();
        let version = objects.put(&upload, file(&bytes).path()).await.unwrap();
        let before = server.requests().len();
        assert_eq!(objects.put(&upload, file(&bytes).path()).await.unwrap(), version);
        // Even the local file is not needed any more.
        assert_eq!(objects.put(&upload, std::path::Path::new("gone")).await.unwrap(), version);
        let again = objects.begin(&url, size as u64, "mark-1").await.unwrap();
        assert_eq!(objects.put(&again, file(&bytes).path()).await.unwrap(), version);
        assert_eq!(server.requests().len(), before + 4, "one HEAD each");
        assert!(server.uploads().is_empty());
    }
}

#[tokio::test]
async fn a_file_in_parts_whose_object_is_gone_again_is_not_put_in_one_request() {
    let (server, objects) = server();
    let bytes = sample(9 * MIB);
    let url = at("s3://data/large");
    put(&objects, "s3://data/large", "mark-1", &bytes).await.unwrap();
    let upload = objects.begin(&url, bytes.len() as u64, "mark-1").await.unwrap();
    assert_eq!(upload.id, None);
    server.remove("data", "large");
    let lost = objects.put(&upload, file(&bytes).path()).await;
    assert!(matches!(lost, Err(ObjectError::UploadLost { .. })), "{lost:?}");
    assert!(server.get("data", "large").is_none());
}

#[tokio::test]
async fn an_upload_is_gone_only_if_the_server_itself_says_so() {
    let (server, objects) = server();
    let bytes = sample(9 * MIB);
    let upload = objects.begin(&at("s3://data/large"), bytes.len() as u64, "mark-1").await.unwrap();
    let file = file(&bytes);
    // A 404 of something in front of the server, which says nothing of uploads.
    for step in ["GET /data/large?max-parts", "partNumber=2", "POST /data/large?uploadId"] {
        server.refuse(step, 404, usize::MAX);
        let failed = objects.put(&upload, file.path()).await.unwrap_err();
        // A connection on which an answer comes early may break.
        let expected = matches!(failed, ObjectError::NotFound { .. } | ObjectError::Unavailable { .. });
        assert!(expected, "{step}: {failed:?}");
        server.refuse_nothing();
    }
    server.refuse("DELETE /data/large", 404, 1);
    let failed = objects.abort(&upload).await;
    assert!(matches!(failed, Err(ObjectError::NotFound { .. })), "{failed:?}");
    objects.put(&upload, file.path()).await.unwrap();
    assert!(server.get("data", "large").unwrap() == bytes);
}

#[tokio::test]
async fn an_existing_object_is_left_alone() {
    let (server, objects) = server();
    server.put("data", "a", "precious");
    for size in [8, 9 * MIB] {
        let refused = put(&objects, "s3://data/a", "mark-1", &sample(size)).await;
        assert!(matches!(refused, Err(ObjectError::Exists { .. })), "{refused:?}");
    }
    // Another delivery of the same size is somebody else's.
    put(&objects, "s3://data/b", "mark-1", b"12345678").await.unwrap();
    let refused = put(&objects, "s3://data/b", "mark-2", b"87654321").await;
    assert!(matches!(refused, Err(ObjectError::Exists { .. })), "{refused:?}");
    assert_eq!(server.get("data", "a").unwrap(), "precious");
    assert_eq!(server.get("data", "b").unwrap(), "12345678");
    assert!(server.uploads().is_empty());
}

#[tokio::test]
async fn an_object_that_comes_into_being_at_the_last_moment_is_left_alone() {
    let (server, objects) = server();
    for (size, last) in [(8, "PUT /data/8"), (9 * MIB, "POST /data/9437184?uploadId")] {
        let bytes = sample(size);
        let upload = objects.begin(&at(&format!("s3://data/{size}")), size as u64, "mark-1").await.unwrap();
        server.hold(Some(last));
        let task = tokio::spawn({
            let (objects, upload, file) = (objects.clone(), upload.clone(), file(&bytes));
            async move { objects.put(&upload, file.path()).await }
        });
        until(|| server.requests().iter().any(|line| line.starts_with(last))).await;
        server.put("data", &size.to_string(), "precious");
        server.hold(None);
        let refused = bounded(task).await.unwrap();
        assert!(matches!(refused, Err(ObjectError::Exists { .. })), "{refused:?}");
        assert_eq!(server.get("data", &size.to_string()).unwrap(), "precious");
        objects.abort(&upload).await.unwrap();
        assert!(server.uploads().is_empty());
    }
}

pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    bounded(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upload_whose_caller_died_goes_on_without_the_parts_that_arrived() {
    let (mut server, objects) = server();
    let bytes = sample(56 * MIB + 1);
    let file = file(&bytes);
    let upload = objects.begin(&at("s3://data/large"), bytes.len() as u64, "mark-1").await.unwrap();
    // All parts arrive but the sixth, which is stuck on its way.
    server.hold(Some("partNumber=6"));
    let task = tokio::spawn({
        let (objects, upload, path) = (objects.clone(), upload.clone(), file.path().to_owned());
        async move { objects.put(&upload, &path).await }
    });
    until(|| server.uploads() == [7]).await;
    assert_eq!(parts_sent(&server), [1, 2, 3, 4, 5, 6, 7, 8]);
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // What is in the buffers of the connection does not arrive later.
    server.stop();
    server.hold(None);
    server.restart();
    assert!(server.get("data", "large").is_none());

    objects.put(&upload, file.path()).await.unwrap();
    assert!(server.get("data", "large").unwrap() == bytes);
    let sent = parts_sent(&server);
    assert_eq!(sent.iter().filter(|number| **number == 6).count(), 2);
    assert_eq!(sent.len(), 9, "no other part is sent twice: {sent:?}");
    assert!(server.uploads().is_empty());
}

#[tokio::test]
async fn an_upload_outlives_its_server() {
    let (mut server, objects) = server();
    let bytes = sample(32 * MIB);
    let file = file(&bytes);
    let upload = objects.begin(&at("s3://data/large"), bytes.len() as u64, "mark-1").await.unwrap();
    server.hold(Some("partNumber=3"));
    let task = tokio::spawn({
        let (objects, upload, path) = (objects.clone(), upload.clone(), file.path().to_owned());
        async move { objects.put(&upload, &path).await }
    });
    until(|| server.uploads() == [3]).await;
    server.stop();
    let gone = bounded(task).await.unwrap();
    assert!(matches!(gone, Err(ObjectError::Unavailable { .. })), "{gone:?}");
    server.hold(None);
    server.restart();
    objects.put(&upload, file.path()).await.unwrap();
    assert!(server.get("data", "large").unwrap() == bytes);
    assert_eq!(parts_sent(&server), [1, 2, 3, 3, 4]);
}

#[tokio::test]
async fn an_answer_that_was_lost_does_not_matter() {
    let (mut server, objects) = server();
    let bytes = sample(9 * MIB);
    let file = file(&bytes);
    let upload = objects.begin(&at("s3://data/large"), bytes.len() as u64, "mark-1").await.unwrap();
    // Passing refusals of every step.
    for text in
        ["HEAD", "GET /data/large?max-parts", "partNumber=1", "partNumber=2", "POST /data/large?uploadId"]
    {
        server.refuse(text, 503, 2);
    }
    objects.put(&upload, file.path()).await.unwrap();
    server.stop();
    server.restart();
    // The object is there, its upload is gone, and the caller never heard of it.
    assert!(server.uploads().is_empty());
    objects.put(&upload, file.path()).await.unwrap();
    assert!(server.get("data", "large").unwrap() == bytes);
}

#[tokio::test]
async fn a_server_without_conditions_is_asked_whether_there_is_an_object() {
    let (server, objects) = server();
    for size in [8, 9 * MIB] {
        let bytes = sample(size);
        let last = if size == 8 { "PUT /data/8" } else { "POST /data/9437184?uploadId" };
        server.refuse(last, 501, 1);
        let before = count(&server, "HEAD", "");
        put(&objects, &format!("s3://data/{size}"), "mark-1", &bytes).await.unwrap();
        assert!(server.get("data", &size.to_string()).unwrap() == bytes);
        assert_eq!(count(&server, "HEAD", ""), before + 3);
    }
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing_behind() {
    let (server, objects) = server();
    let bytes = sample(24 * MIB);
    let file = file(&bytes);
    let upload = objects.begin(&at("s3://data/large"), bytes.len() as u64, "mark-1").await.unwrap();
    server.hold(Some("partNumber=3"));
    let task = tokio::spawn({
        let (objects, upload, path) = (objects.clone(), upload.clone(), file.path().to_owned());
        async move { objects.put(&upload, &path).await }
    });
    until(|| parts_sent(&server).len() == 3).await;
    task.abort();
    let _ = task.await;
    assert_eq!(server.uploads().len(), 1);
    objects.abort(&upload).await.unwrap();
    objects.abort(&upload).await.unwrap();
    server.hold(None);
    assert!(server.uploads().is_empty());
    assert!(server.get("data", "large").is_none());
    let lost = objects.put(&upload, file.path()).await;
    assert!(matches!(lost, Err(ObjectError::UploadLost { .. })), "{lost:?}");
}

#[tokio::test]
async fn a_file_that_is_not_the_one_is_not_put() {
    let (server, objects) = server();
    let upload = objects.begin(&at("s3://data/a"), 100, "mark-1").await.unwrap();
    for bytes in [sample(99), sample(101)] {
        let refused = objects.put(&upload, file(&bytes).path()).await;
        assert!(matches!(refused, Err(ObjectError::File { .. })), "{refused:?}");
    }
    let refused = objects.put(&upload, std::path::Path::new("gone")).await;
    assert!(matches!(refused, Err(ObjectError::File { .. })), "{refused:?}");
    assert_eq!(count(&server, "PUT", ""), 0);
    for (url, size, mark) in [
        ("s3://data/a/", 1, "m"),
        ("https://x/a", 1, "m"),
        ("s3://data/a", 1, "m m"),
        ("s3://data/a", u64::MAX, "m"),
    ] {
        let refused = objects.begin(&at(url), size, mark).await;
        assert!(matches!(refused, Err(ObjectError::Invalid { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn parts_grow_so_that_ten_thousand_are_enough() {
    let (_server, objects) = server();
    for size in [8 << 20, (8 << 20) + 1, 80_000 << 20, (80_000 << 20) + 1, 5 << 40] {
        let upload = objects.begin(&at("s3://data/a"), size, "mark-1").await.unwrap();
        assert_eq!(upload.id.is_some(), size > 8 << 20);
        assert!(upload.part_size >= 8 << 20 && size.div_ceil(upload.part_size) <= 10_000, "{size}");
        objects.abort(&upload).await.unwrap();
    }
}
