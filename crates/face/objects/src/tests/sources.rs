//! Published products, as the catalog delivers them: what ends a delivery for good, and what can be mended.

use huitong_catalog::{Elsewhere, RemoteFile};
use huitong_identity::ServiceError;
use zeroize::Zeroizing;

use super::server;
use crate::{Bucket, Objects};

async fn find(objects: &Objects, url: &str) -> Result<Vec<RemoteFile>, ServiceError> {
    Elsewhere::find(objects, url, &|path| path != "unwanted").await
}

async fn append(objects: &Objects, file: &RemoteFile) -> Result<(), ServiceError> {
    Elsewhere::reader(objects, file).unwrap().append(0, 1, &mut Vec::new()).await
}

fn is_busy<T: std::fmt::Debug>(outcome: &Result<T, ServiceError>) -> bool {
    matches!(outcome, Err(ServiceError::Busy { .. }))
}

#[tokio::test]
async fn only_what_is_surely_gone_ends_a_delivery() {
    let (server, objects) = server();
    server.put("data", "set/a", "12345");
    let file = find(&objects, "s3://data/set/a").await.unwrap().remove(0);
    // A key that was revoked, a proxy that has lost its server, an endpoint that has moved, a request nobody understands.
    for status in [401, 403, 404, 307, 400, 503] {
        for url in ["s3://data/set/", "s3://data/set/a"] {
            server.refuse("/data/", status, usize::MAX);
            let refused = find(&objects, url).await;
            assert!(is_busy(&refused), "{status} {url}: {refused:?}");
            let refused = append(&objects, &file).await;
            assert!(is_busy(&refused), "{status}: {refused:?}");
            server.refuse_nothing();
        }
    }
    let bucket = server.create_bucket("data");
    let wrong = Bucket { secret_access_key: Zeroizing::new("wrong".to_owned()), ..bucket.clone() };
    let missing = Bucket { name: "elsewhere".to_owned(), ..bucket };
    for (objects, url) in [(wrong, "s3://data/set/a"), (missing, "s3://elsewhere/set/a")]
        .map(|(bucket, url)| (super::objects(bucket), url))
    {
        let refused = find(&objects, url).await;
        assert!(is_busy(&refused), "{refused:?}");
        // The bucket of this one is not configured any more, or denied.
        assert!(is_busy(&append(&objects, &file).await));
    }
    find(&objects, "s3://data/set/a").await.unwrap();
    append(&objects, &file).await.unwrap();

    server.put("data", "set/a", "another");
    assert!(matches!(append(&objects, &file).await, Err(ServiceError::Conflict { .. })));
    server.remove("data", "set/a");
    for gone in [find(&objects, "s3://data/set/a").await.map(drop), append(&objects, &file).await] {
        assert!(matches!(gone, Err(ServiceError::Conflict { .. })), "{gone:?}");
    }
}

#[tokio::test]
async fn what_others_put_below_a_prefix_does_not_matter_once_it_is_published() {
    let (server, objects) = server();
    for key in ["set/a", "set/b/c", "set/unwanted"] {
        server.put("data", key, "12345");
    }
    let published = Elsewhere::list(&objects, "s3://data/set/", 10).await.unwrap();
    assert_eq!(published.len(), 3);
    for key in ["set/../../etc", "set//x", "set/what?", "set/dir/"] {
        server.put("data", key, "12345");
        let refused = Elsewhere::list(&objects, "s3://data/set/", 10).await;
        assert!(matches!(refused, Err(ServiceError::Invalid { .. })), "{key}: {refused:?}");
        let wanted = |path: &str| matches!(path, "a" | "b/c");
        let found = Elsewhere::find(&objects, "s3://data/set/", &wanted).await.unwrap();
        assert_eq!(found, published[..2], "{key}");
        server.remove("data", key);
    }
    for number in 0..2000 {
        server.put("data", &format!("set/{number:04}"), "x");
    }
    let found = Elsewhere::find(&objects, "s3://data/set/", &|path| path == "b/c").await.unwrap();
    assert_eq!(found, published[1..2]);
}

#[tokio::test]
async fn a_name_is_what_the_url_stands_for() {
    let (_server, objects) = server();
    for (url, expected) in [
        ("s3://data/set/a%20b", "a%20b"),
        ("s3://data/set/", "set"),
        ("s3://data/", "data"),
        ("https://data.example/%E6%95%B0%E6%8D%AE%201.csv?token=a/b", "数据 1.csv"),
    ] {
        assert_eq!(Elsewhere::file_name(&objects, url).unwrap(), expected, "{url}");
    }
    for url in ["https://data.example/a%2Fb", "https://data.example/%FF", "s3:data"] {
        let refused = Elsewhere::file_name(&objects, url);
        assert!(matches!(refused, Err(ServiceError::Invalid { .. })), "{url}: {refused:?}");
    }
}
