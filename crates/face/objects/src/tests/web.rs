use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{MIB, at, bounded, read, sample};
use crate::testing::settings;
use crate::{Object, ObjectError, Objects, Settings};

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// A web server of this test's runtime that answers as it is told.
struct Site {
    address: SocketAddr,
    scheme: &'static str,
    /// `GET /path range`, one for each request.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn start(answer: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static) -> Self {
        Self::open(None, answer).await
    }

    async fn open(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, answer) = (Arc::clone(&requests), Arc::new(answer));
        let scheme = if tls.is_some() { "https" } else { "http" };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answer, tls) = (Arc::clone(&log), Arc::clone(&answer), tls.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    assert_eq!(header(&request, "accept-encoding"), Some("identity"));
                    let range = header(&request, "range").unwrap_or_default();
                    let line = format!("{} {} {range}", request.method(), request.uri());
                    log.lock().unwrap().push(line.trim_end().to_owned());
                    let answer = answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(async move {
                    let server = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => server.serve_connection(TokioIo::new(stream), service).await.ok(),
                        Some(tls) => {
                            let stream = tls.accept(stream).await.ok()?;
                            server.serve_connection(TokioIo::new(stream), service).await.ok()
                        }
                    }
                });
            }
        });
        Self { address, scheme, requests }
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn header<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()).unwrap()
}

/// As an ordinary server answers for a file: conditions, ranges, HEAD. `version` is `etag` or `last-modified`.
fn ordinary(request: &Request<Incoming>, bytes: &[u8], version: (&str, &str)) -> Answer {
    let condition = if version.0 == "etag" { "if-match" } else { "if-unmodified-since" };
    if header(request, condition).is_some_and(|wanted| wanted != version.1) {
        return answer(412, &[], "");
    }
    let size = bytes.len();
    if let Some(range) = header(request, "range").and_then(|range| range.strip_prefix("bytes=")) {
        let (first, last) = range.split_once('-').unwrap();
        let first: usize = first.parse().unwrap();
        if first >= size {
            return answer(416, &[version, ("content-range", &format!("bytes */{size}"))], "");
        }
        let last: usize = last.parse().unwrap_or(size - 1);
        let range = format!("bytes {first}-{last}/{size}");
        return answer(206, &[version, ("content-range", &range)], bytes[first..=last].to_vec());
    }
    let body = if request.method() == "HEAD" { Vec::new() } else { bytes.to_vec() };
    answer(200, &[version, ("content-length", &size.to_string())], body)
}

/// A body that comes in pieces; it has no length unless the headers say one.
fn streamed(
    headers: &[(&str, &str)],
    pieces: impl Iterator<Item = io::Result<Bytes>> + Send + 'static,
) -> Answer {
    let frames = stream::iter(pieces).map(|piece| piece.map(Frame::data));
    answer(200, headers, "").map(|_| StreamBody::new(frames).boxed_unsync())
}

fn web(settings: &Settings) -> Objects {
    Objects::new(Vec::new(), settings).unwrap()
}

async fn only(objects: &Objects, url: &str) -> Object {
    objects.list(&at(url), 1).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_file_is_listed_and_read_in_ranges() {
    let bytes = sample(3 * MIB + 1);
    for version in
        [("etag", "\"one\""), ("etag", "W/\"weak\""), ("last-modified", "Tue, 01 Sep 2026 08:00:00 GMT")]
    {
        let served = bytes.clone();
        let site = Site::start(move |request| ordinary(request, &served, version)).await;
        let objects = web(&settings());
        let url = site.url("/data/%E6%95%B0%E6%8D%AE%201.csv?token=x");
        let object = only(&objects, &url).await;
        assert_eq!((object.path.as_str(), object.size), ("数据 1.csv", bytes.len() as u64));
        assert_eq!(object.version, version.1);
        assert!(read(&objects, &url).await.unwrap() == bytes);
        let mut reader = objects.reader(&object);
        for (offset, length) in [(2 * MIB, 5), (2 * MIB + 5, MIB - 4), (7, 1)] {
            let mut buffer = Vec::new();
            reader.read_at(offset as u64, &mut buffer, length).await.unwrap();
            assert_eq!(buffer, &bytes[offset..offset + length]);
        }
        let gets: Vec<String> = site.requests().into_iter().filter(|line| line.starts_with("GET")).collect();
        assert_eq!(gets.len(), 3);
        assert!(gets[1].ends_with("x bytes=2097152-") && gets[2].ends_with("x bytes=7-"), "{gets:?}");
    }
}

#[tokio::test]
async fn a_server_without_head_is_asked_for_the_first_byte() {
    for refusal in [403, 405, 501] {
        for bytes in [sample(1000), Vec::new()] {
            let served = bytes.clone();
            let site = Site::start(move |request| match request.method().as_str() {
                "HEAD" => answer(refusal, &[], ""),
                _ => ordinary(request, &served, ("etag", "\"one\"")),
            })
            .await;
            let objects = web(&settings());
            assert_eq!(read(&objects, &site.url("/a")).await.unwrap(), bytes);
            assert_eq!(site.requests()[..2], ["HEAD /a", "GET /a bytes=0-0"]);
        }
    }
}

#[tokio::test]
async fn a_server_without_versions_is_refused() {
    let site = Site::start(|_| answer(200, &[], "12345")).await;
    let refused = web(&settings()).list(&at(&site.url("/a")), 1).await.unwrap_err();
    assert!(matches!(refused, ObjectError::Unusable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("neither ETag nor Last-Modified"), "{refused}");
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_beginning_within_bounds() {
    let bytes = sample(2 * MIB);
    let served = bytes.clone();
    let site = Site::start(move |request| match request.uri().path() {
        "/a" => answer(200, &[("etag", "\"one\"")], served.clone()),
        // Nobody will read as much.
        _ => streamed(
            &[("etag", "\"one\""), ("content-length", "1000000000")],
            std::iter::repeat_with(|| Ok(Bytes::from_static(&[0; 1000]))),
        ),
    })
    .await;
    let objects = web(&settings());
    let mut reader = objects.reader(&only(&objects, &site.url("/a")).await);
    for offset in [MIB, 0, 2 * MIB - 5] {
        let mut buffer = Vec::new();
        reader.read_at(offset as u64, &mut buffer, 5).await.unwrap();
        assert_eq!(buffer, &bytes[offset..offset + 5]);
    }
    let mut reader = objects.reader(&only(&objects, &site.url("/large")).await);
    let mut buffer = Vec::new();
    reader.read_at(1_000_000, &mut buffer, 5).await.unwrap();
    let refused = reader.read_at(900_000_000, &mut buffer, 5).await.unwrap_err();
    assert!(matches!(refused, ObjectError::Unusable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("sends no ranges"), "{refused}");
    assert_eq!(buffer.len(), 5);
}

#[tokio::test]
async fn a_length_that_is_a_lie_is_found_out() {
    let site = Site::start(|request| {
        let etag = ("etag", "\"one\"");
        match (request.method().as_str(), request.uri().path()) {
            ("HEAD", _) => answer(200, &[etag, ("content-length", "100")], ""),
            (_, "/shorter") => answer(200, &[etag], sample(50)),
            (_, "/longer") => answer(200, &[etag], sample(150)),
            (_, "/longer-without-length") => streamed(&[etag], std::iter::once(Ok(Bytes::from(sample(150))))),
            (_, "/endless") => streamed(&[etag], std::iter::repeat_with(|| Ok(Bytes::from_static(b"more")))),
            // Says 100, sends less, closes.
            _ => streamed(&[etag, ("content-length", "100")], std::iter::once(Ok(Bytes::from(sample(50))))),
        }
    })
    .await;
    let objects = web(&settings());
    for path in ["/shorter", "/longer", "/longer-without-length", "/endless"] {
        let refused = bounded(read(&objects, &site.url(path))).await.unwrap_err();
        assert!(matches!(refused, ObjectError::Changed { .. }), "{path}: {refused:?}");
    }
    let before = site.requests().len();
    let refused = bounded(read(&objects, &site.url("/broken"))).await.unwrap_err();
    // The rest is asked for, and the answer is not the rest.
    assert!(matches!(refused, ObjectError::Unavailable { .. }), "{refused:?}");
    assert!(site.requests().len() <= before + 7);
}

#[tokio::test]
async fn a_file_without_end_has_no_size() {
    let site = Site::start(|_| {
        streamed(&[("etag", "\"one\"")], std::iter::repeat_with(|| Ok(Bytes::from_static(b"more"))))
    })
    .await;
    let refused = bounded(web(&settings()).list(&at(&site.url("/a")), 1)).await.unwrap_err();
    assert!(refused.to_string().contains("how long"), "{refused}");
}

#[tokio::test]
async fn another_version_between_two_ranges_is_found_out() {
    let bytes = sample(2 * MIB);
    let first = bytes.clone();
    let changed = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&changed);
    // A server that knows no conditions, and says what it sends.
    let site = Site::start(move |request| {
        let (kind, before, after) = match request.uri().path() {
            "/etag" => ("etag", "\"one\"", "\"two\""),
            "/weak" => ("etag", "W/\"one\"", "W/\"two\""),
            "/time" => ("last-modified", "Tue, 01 Sep 2026 08:00:00 GMT", "Tue, 01 Sep 2026 08:00:01 GMT"),
            _ => ("etag", "\"one\"", "\"one\""),
        };
        let changed = now.load(Ordering::SeqCst) > 0;
        let mut bytes = first.clone();
        if changed && request.uri().path() == "/size" {
            bytes.push(0);
        }
        let mut answer = ordinary(request, &bytes, (kind, if changed { after } else { before }));
        if answer.status() == 412 {
            let range = bytes.get(MIB..).unwrap().to_vec();
            let place = format!("bytes {MIB}-{}/{}", bytes.len() - 1, bytes.len());
            answer = super::web::answer(206, &[(kind, after), ("content-range", &place)], range);
        }
        answer
    })
    .await;
    let objects = web(&settings());
    for path in ["/etag", "/weak", "/time", "/size"] {
        changed.store(0, Ordering::SeqCst);
        let object = only(&objects, &site.url(path)).await;
        let mut reader = objects.reader(&object);
        let mut buffer = Vec::new();
        reader.read_at(0, &mut buffer, 10).await.unwrap();
        changed.store(1, Ordering::SeqCst);
        let refused = reader.read_at(MIB as u64, &mut buffer, 10).await;
        assert!(matches!(refused, Err(ObjectError::Changed { .. })), "{path}: {refused:?}");
        assert_eq!(buffer, &bytes[..10]);
    }
}

#[tokio::test]
async fn another_range_than_the_one_asked_for_is_not_taken() {
    let site = Site::start(|request| {
        let etag = ("etag", "\"one\"");
        match (request.method().as_str(), request.uri().path()) {
            ("HEAD", _) => answer(200, &[etag, ("content-length", "100")], ""),
            (_, "/elsewhere") => answer(206, &[etag, ("content-range", "bytes 0-99/100")], sample(100)),
            (_, "/unknown") => answer(206, &[etag, ("content-range", "bytes 50-99/*")], sample(50)),
            (_, "/several") => {
                answer(206, &[etag, ("content-type", "multipart/byteranges; boundary=x")], "--x")
            }
            _ => answer(206, &[etag, ("content-range", "bytes 50-998/999")], sample(949)),
        }
    })
    .await;
    let objects = web(&settings());
    for path in ["/elsewhere", "/unknown", "/several", "/size"] {
        let object = only(&objects, &site.url(path)).await;
        let mut buffer = Vec::new();
        let refused = objects.reader(&object).read_at(50, &mut buffer, 10).await.unwrap_err();
        match path {
            "/size" => assert!(matches!(refused, ObjectError::Changed { .. }), "{path}: {refused:?}"),
            _ => assert!(matches!(refused, ObjectError::Unusable { .. }), "{path}: {refused:?}"),
        }
        assert!(buffer.is_empty());
    }
}

#[tokio::test]
async fn compressed_bytes_are_refused() {
    let site = Site::start(|request| {
        let gzip = [("etag", "\"one\""), ("content-encoding", "gzip")];
        match (request.method().as_str(), request.uri().path()) {
            ("HEAD", "/get") => answer(200, &[("etag", "\"one\""), ("content-length", "10")], ""),
            _ => answer(200, &gzip, sample(10)),
        }
    })
    .await;
    let objects = web(&settings());
    for path in ["/head", "/get"] {
        let refused = read(&objects, &site.url(path)).await.unwrap_err();
        assert!(refused.to_string().contains("compressed"), "{path}: {refused}");
    }
}

#[tokio::test]
async fn a_broken_answer_is_taken_up_where_it_stopped() {
    let bytes = sample(MIB);
    let served = bytes.clone();
    let site = Site::start(move |request| {
        let etag = ("etag", "\"one\"");
        if request.method() == "GET" && header(request, "range").is_none() {
            let half = Bytes::copy_from_slice(&served[..MIB / 2]);
            let pieces = [Ok(half), Err(io::Error::other("broken"))];
            return streamed(&[etag, ("content-length", &served.len().to_string())], pieces.into_iter());
        }
        ordinary(request, &served, etag)
    })
    .await;
    assert!(read(&web(&settings()), &site.url("/a")).await.unwrap() == bytes);
    assert_eq!(site.requests()[1..], ["GET /a".to_owned(), format!("GET /a bytes={}-", MIB / 2)]);
}

#[tokio::test]
async fn an_answer_that_falls_silent_is_given_up() {
    let site = Site::start(|request| {
        let headers = [("etag", "\"one\""), ("content-length", "100")];
        if request.method() == "HEAD" {
            return answer(200, &headers, "");
        }
        let silent =
            stream::once(async { Ok(Frame::data(Bytes::from_static(b"12345"))) }).chain(stream::pending());
        answer(200, &headers, "").map(|_| StreamBody::new(silent).boxed_unsync())
    })
    .await;
    let settings = Settings { idle_timeout: Duration::from_millis(200), tries: 3, ..settings() };
    let begun = Instant::now();
    let refused = bounded(read(&web(&settings), &site.url("/a"))).await.unwrap_err();
    assert!(matches!(refused, ObjectError::Unavailable { .. }), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn what_a_server_refuses_says_which_kind_of_refusal_it_is() {
    let tries = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&tries);
    let site = Site::start(move |request| match request.uri().path() {
        "/flaky" if seen.fetch_add(1, Ordering::SeqCst) < 5 => answer(503, &[], ""),
        "/flaky" => ordinary(request, b"12345", ("etag", "\"one\"")),
        path => answer(path.trim_start_matches('/').parse().unwrap(), &[], ""),
    })
    .await;
    let objects = web(&settings());
    let refused = async |path: &str| objects.list(&at(&site.url(path)), 1).await.unwrap_err();
    assert!(matches!(refused("/401").await, ObjectError::Denied { .. }));
    assert!(matches!(refused("/403").await, ObjectError::Denied { .. }));
    assert!(matches!(refused("/404").await, ObjectError::NotFound { .. }));
    assert!(matches!(refused("/400").await, ObjectError::Unusable { .. }));
    assert!(matches!(refused("/500").await, ObjectError::Unavailable { .. }));
    assert_eq!(only(&objects, &site.url("/flaky")).await.size, 5);
}

#[tokio::test]
async fn a_few_redirects_are_followed() {
    let site = Site::start(|request| {
        let path = request.uri().path();
        match path.rsplit_once('/').unwrap().1.parse::<u32>() {
            Ok(left) if left > 0 => answer(302, &[("location", &format!("{}?x", left - 1))], ""),
            Ok(_) => ordinary(request, b"12345", ("etag", "\"one\"")),
            Err(_) => {
                let target = match path {
                    "/rooted" => "/dir/0".to_owned(),
                    "/whole" => format!("http://{}/dir/0", header(request, "host").unwrap()),
                    "/query" if request.uri().query() == Some("url=http://here") => "?left".to_owned(),
                    "/query" if request.uri().query() == Some("left") => "/dir/0".to_owned(),
                    "/query" => "query?url=http://here".to_owned(),
                    "/around" => "/around".to_owned(),
                    "/file" => "file:///etc/passwd".to_owned(),
                    _ => "http://user:secret@127.0.0.1/".to_owned(),
                };
                answer(301, &[("location", &target)], "")
            }
        }
    })
    .await;
    let objects = web(&settings());
    for path in ["/dir/0", "/dir/1", "/dir/4", "/rooted", "/whole", "/query"] {
        assert_eq!(read(&objects, &site.url(path)).await.unwrap(), b"12345", "{path}");
        // The name is the one that was published.
        assert_eq!(only(&objects, &site.url(path)).await.location, at(&site.url(path)));
    }
    for path in ["/dir/5", "/around", "/file", "/user"] {
        let refused = bounded(objects.list(&at(&site.url(path)), 1)).await.unwrap_err();
        assert!(matches!(refused, ObjectError::Unusable { .. }), "{path}: {refused:?}");
        assert!(!refused.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn nobody_is_sent_inside_by_another_host() {
    let inside = Site::start(|request| ordinary(request, b"precious", ("etag", "\"one\""))).await;
    let target = format!("http://localhost:{}/a", inside.address.port());
    let named = target.clone();
    let site = Site::start(move |_| answer(302, &[("location", &target)], "")).await;
    let objects = web(&settings());
    // The operator may name it, and its open connection is not the one that is sent to.
    assert_eq!(read(&objects, &named).await.unwrap(), b"precious");
    let before = inside.requests().len();
    let refused = objects.list(&at(&site.url("/a")), 1).await.unwrap_err();
    assert!(matches!(refused, ObjectError::Unusable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("inside this network"), "{refused}");
    assert_eq!((site.requests().len(), inside.requests().len()), (1, before));
}

/// A server's side of TLS for 127.0.0.1, and the PEM to trust.
fn tls() -> (TlsAcceptor, Vec<u8>) {
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), issued.cert.pem().into_bytes())
}

#[tokio::test]
async fn https_trusts_what_it_was_told_to() {
    let (acceptor, pem) = tls();
    let plain = Site::start(|request| ordinary(request, b"12345", ("etag", "\"one\""))).await;
    let target = plain.url("/a");
    let site = Site::open(Some(acceptor), move |request| match request.uri().path() {
        "/down" => answer(302, &[("location", &target)], ""),
        _ => ordinary(request, b"12345", ("etag", "\"one\"")),
    })
    .await;
    let trusting = Settings { ca_certificate: Some(pem), ..settings() };
    assert_eq!(read(&web(&trusting), &site.url("/a")).await.unwrap(), b"12345");
    // Down to plain HTTP nothing is followed, even where plain HTTP is allowed.
    let refused = read(&web(&trusting), &site.url("/down")).await.unwrap_err();
    assert!(matches!(refused, ObjectError::Unusable { .. }), "{refused:?}");

    let (_, other) = tls();
    for distrusting in [settings(), Settings { ca_certificate: Some(other), ..settings() }] {
        let before = site.requests().len();
        let refused = read(&web(&distrusting), &site.url("/a")).await.unwrap_err();
        assert!(refused.to_string().contains("certificate is not trusted"), "{refused}");
        assert_eq!(site.requests().len(), before);
    }
}

#[tokio::test]
async fn plain_http_must_be_allowed() {
    let site = Site::start(|request| ordinary(request, b"12345", ("etag", "\"one\""))).await;
    let refused = web(&Settings { allow_http: false, ..settings() }).list(&at(&site.url("/a")), 1).await;
    assert!(matches!(refused, Err(ObjectError::Unusable { .. })), "{refused:?}");
    assert!(site.requests().is_empty());
}
