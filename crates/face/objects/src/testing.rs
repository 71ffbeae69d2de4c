//! An S3 server in the test process, on loopback. Its protocol and its check of signatures are those of the crate `s3s`;
//! what is stored lies in memory.

#![expect(clippy::expect_used, reason = "tests fail loudly")]

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use ring::digest;
use s3s::auth::SimpleAuth;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag,
    ETagCondition, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, Metadata, Object, Part, PutObjectInput,
    PutObjectOutput, StreamingBlob, Timestamp, UploadPartInput, UploadPartOutput,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::{Bucket, Settings};

const ACCESS_KEY_ID: &str = "TESTACCESSKEY";
const SECRET_ACCESS_KEY: &str = "test/secret+access+key";
/// Bytes of every part but the last, at least.
const LEAST_PART: usize = 5 << 20;
/// What goes into a connection at a time.
const PIECE: usize = 256 << 10;

/// A server with its own thread. What it stores outlives [`S3Server::stop`]; dropping it stops it.
pub struct S3Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: HashMap<String, BTreeMap<String, Stored>>,
    uploads: HashMap<String, Begun>,
    begun: u64,
    requests: Vec<String>,
    held: Option<String>,
    refused: Vec<(String, u16, usize)>,
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    metadata: Option<Metadata>,
}

struct Begun {
    bucket: String,
    key: String,
    metadata: Option<Metadata>,
    parts: BTreeMap<i32, Stored>,
}

impl S3Server {
    /// Starts a server without buckets on a free port.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn start() -> Self {
        let mut server = Self {
            shared: Arc::default(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            running: None,
        };
        server.restart();
        server
    }

    /// `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The access key that it knows.
    #[must_use]
    pub fn access_key_id(&self) -> &'static str {
        ACCESS_KEY_ID
    }

    /// Its secret.
    #[must_use]
    pub fn secret_access_key(&self) -> &'static str {
        SECRET_ACCESS_KEY
    }

    /// A new and empty bucket, and how to reach it.
    pub fn create_bucket(&self, name: &str) -> Bucket {
        self.state().buckets.entry(name.to_owned()).or_default();
        Bucket {
            name: name.to_owned(),
            endpoint: Some(self.endpoint()),
            region: "us-east-1".to_owned(),
            path_style: true,
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_access_key: Zeroizing::new(SECRET_ACCESS_KEY.to_owned()),
            allow_http: true,
            ca_certificate: None,
        }
    }

    /// Puts an object, whatever was there.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) {
        let stored = Stored::new(bytes.into(), None);
        self.state().buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), stored);
    }

    /// Removes an object.
    pub fn remove(&self, bucket: &str, key: &str) {
        self.state().buckets.get_mut(bucket).map(|objects| objects.remove(key));
    }

    /// The bytes of an object.
    #[must_use]
    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        Some(self.state().buckets.get(bucket)?.get(key)?.bytes.clone())
    }

    /// The uploads in parts that are neither completed nor aborted: how many parts there are of each.
    #[must_use]
    pub fn uploads(&self) -> Vec<usize> {
        self.state().uploads.values().map(|begun| begun.parts.len()).collect()
    }

    /// The requests so far, in the order in which they came, each as `PUT /bucket/key?query`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Lets requests wait in whose line this text stands; `None` lets them go on.
    pub fn hold(&self, text: Option<&str>) {
        self.state().held = text.map(str::to_owned);
    }

    /// Answers the next `times` requests in whose line this text stands with a status, without doing them.
    pub fn refuse(&self, text: &str, status: u16, times: usize) {
        self.state().refused.push((text.to_owned(), status, times));
    }

    /// Refuses nothing any more.
    pub fn refuse_nothing(&self) {
        self.state().refused.clear();
    }

    /// Breaks all connections and takes no new ones.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Starts again on the same port, with what is stored.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn restart(&mut self) {
        self.stop();
        let listener = std::net::TcpListener::bind(self.address).expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        self.address = listener.local_addr().expect("an address");
        let mut builder = S3ServiceBuilder::new(Storage(Arc::clone(&self.shared)));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let (service, shared) = (builder.build(), Arc::clone(&self.shared));
        let (stop, stopped) = oneshot::channel();
        // The runtime goes with the thread, and every connection with the runtime.
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::from_std(listener).expect("a socket of the runtime");
                tokio::select! {
                    () = accept(listener, service, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        self.running = Some((stop, thread));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// [`Settings`] for tests: plain HTTP, 10 seconds of silence, 6 tries within a second and a half, the system's clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the server under test has no other clock")]
pub fn settings() -> Settings {
    Settings {
        allow_http: true,
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(10),
        pause: Duration::from_millis(50),
        ..Settings::new(Arc::new(SystemTime::now))
    }
}

async fn accept(listener: TcpListener, service: S3Service, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (service, shared) = (service.clone(), Arc::clone(&shared));
        let answer =
            hyper::service::service_fn(move |request| answer(request, service.clone(), Arc::clone(&shared)));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
        );
    }
}

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    shared: Arc<Shared>,
) -> Result<Response<Body>, s3s::HttpError> {
    let line = format!("{} {}", request.method(), request.uri());
    shared.state().requests.push(line.clone());
    while shared.state().held.as_ref().is_some_and(|text| line.contains(text)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = shared.state().refusal(&line);
    if let Some(status) = refused {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        return Ok(response);
    }
    // As AWS does: the length of what is put must be said, also where it is none.
    let is_put = matches!(*request.method(), Method::PUT | Method::POST);
    if is_put && !request.headers().contains_key(header::CONTENT_LENGTH) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::LENGTH_REQUIRED;
        return Ok(response);
    }
    service.call(request.map(Body::from)).await
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refusal(&mut self, line: &str) -> Option<u16> {
        let (_, status, times) =
            self.refused.iter_mut().find(|(text, _, times)| *times > 0 && line.contains(text.as_str()))?;
        *times = times.saturating_sub(1);
        Some(*status)
    }

    fn bucket(&mut self, name: &str) -> S3Result<&mut BTreeMap<String, Stored>> {
        self.buckets.get_mut(name).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    fn object(&mut self, bucket: &str, key: &str) -> S3Result<Stored> {
        self.bucket(bucket)?.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// Stores an object if the condition holds.
    fn place(
        &mut self,
        bucket: &str,
        key: String,
        stored: Stored,
        unless: Option<&ETagCondition>,
    ) -> S3Result<()> {
        let objects = self.bucket(bucket)?;
        if unless.is_some_and(ETagCondition::is_any) && objects.contains_key(&key) {
            return Err(s3_error!(PreconditionFailed));
        }
        objects.insert(key, stored);
        Ok(())
    }
}

impl Stored {
    fn new(bytes: Bytes, metadata: Option<Metadata>) -> Self {
        let digest = digest::digest(&digest::SHA256, &bytes);
        Self { etag: hex::encode(digest).chars().take(32).collect(), bytes, metadata }
    }

    fn etag(&self) -> Option<ETag> {
        Some(ETag::Strong(self.etag.clone()))
    }

    fn size(&self) -> Option<i64> {
        i64::try_from(self.bytes.len()).ok()
    }
}

/// What the server does with requests whose signature is right.
struct Storage(Arc<Shared>);

#[async_trait]
impl S3 for Storage {
    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let most = usize::try_from(input.max_keys.unwrap_or(1000)).unwrap_or(0).min(1000);
        let mut state = self.0.state();
        let from = match &input.continuation_token {
            Some(token) => Bound::Excluded(token.clone()),
            None => Bound::Included(prefix.clone()),
        };
        let mut contents: Vec<Object> = state
            .bucket(&input.bucket)?
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&prefix))
            .take(most.saturating_add(1))
            .map(|(key, stored)| Object {
                key: Some(key.clone()),
                size: stored.size(),
                e_tag: stored.etag(),
                last_modified: Some(Timestamp::from(SystemTime::UNIX_EPOCH)),
                ..Object::default()
            })
            .collect();
        let more = contents.len() > most;
        contents.truncate(most);
        let next = contents.last().and_then(|last| last.key.clone()).filter(|_| more);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(prefix),
            key_count: i32::try_from(contents.len()).ok(),
            is_truncated: Some(more),
            next_continuation_token: next,
            contents: Some(contents),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let stored = self.0.state().object(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: stored.size(),
            e_tag: stored.etag(),
            metadata: stored.metadata,
            ..HeadObjectOutput::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let stored = self.0.state().object(&input.bucket, &input.key)?;
        if let Some(ETagCondition::ETag(wanted)) = &input.if_match
            && wanted.value() != stored.etag
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let size = stored.bytes.len() as u64;
        let (mut bytes, mut content_range) = (stored.bytes.clone(), None);
        if let Some(range) = input.range {
            let range = range.check(size)?;
            content_range = Some(format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)));
            let place = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
            bytes = bytes.slice(place(range.start)..place(range.end));
        }
        let content_length = i64::try_from(bytes.len()).ok();
        let pieces = futures_util::stream::unfold(bytes, |mut rest| async move {
            let piece = rest.split_to(rest.len().min(PIECE));
            (!piece.is_empty()).then_some((Ok::<_, std::io::Error>(piece), rest))
        });
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(pieces)),
            content_length,
            content_range,
            e_tag: stored.etag(),
            metadata: stored.metadata,
            ..GetObjectOutput::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let stored = Stored::new(collect(input.body).await?, input.metadata);
        let e_tag = stored.etag();
        self.0.state().place(&input.bucket, input.key, stored, input.if_none_match.as_ref())?;
        Ok(S3Response::new(PutObjectOutput { e_tag, ..PutObjectOutput::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let CreateMultipartUploadInput { bucket, key, metadata, .. } = request.input;
        let mut state = self.0.state();
        state.bucket(&bucket)?;
        state.begun = state.begun.saturating_add(1);
        let id = format!("upload-{}", state.begun);
        state.uploads.insert(id.clone(), Begun { bucket, key, metadata, parts: BTreeMap::new() });
        Ok(S3Response::new(CreateMultipartUploadOutput {
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let stored = Stored::new(collect(input.body).await?, None);
        let e_tag = stored.etag();
        let mut state = self.0.state();
        let begun = state.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        begun.parts.insert(input.part_number, stored);
        Ok(S3Response::new(UploadPartOutput { e_tag, ..UploadPartOutput::default() }))
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        let state = self.0.state();
        let begun = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        // Pages of two, so that every test turns them.
        let behind = input.part_number_marker.unwrap_or(0);
        let mut parts: Vec<Part> = begun
            .parts
            .range((Bound::Excluded(behind), Bound::Unbounded))
            .take(3)
            .map(|(number, stored)| Part {
                part_number: Some(*number),
                size: stored.size(),
                e_tag: stored.etag(),
                ..Part::default()
            })
            .collect();
        let more = parts.len() > 2;
        parts.truncate(2);
        Ok(S3Response::new(ListPartsOutput {
            is_truncated: Some(more),
            next_part_number_marker: parts.last().and_then(|part| part.part_number),
            parts: Some(parts),
            ..ListPartsOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let mut state = self.0.state();
        let begun = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut bytes = BytesMut::new();
        let last = named.last().and_then(|part| part.part_number);
        for part in &named {
            let number = part.part_number.unwrap_or_default();
            let stored = begun.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().is_none_or(|etag| etag.value() != stored.etag) {
                return Err(s3_error!(InvalidPart));
            }
            if stored.bytes.len() < LEAST_PART && Some(number) != last {
                return Err(s3_error!(EntityTooSmall));
            }
            bytes.extend_from_slice(&stored.bytes);
        }
        let mut stored = Stored::new(bytes.freeze(), begun.metadata.clone());
        stored.etag = format!("{}-{}", stored.etag, named.len());
        let e_tag = stored.etag();
        let (bucket, key) = (begun.bucket.clone(), begun.key.clone());
        state.place(&bucket, key, stored, input.if_none_match.as_ref())?;
        state.uploads.remove(&input.upload_id);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            e_tag,
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        match self.0.state().uploads.remove(&request.input.upload_id) {
            Some(_) => Ok(S3Response::new(AbortMultipartUploadOutput::default())),
            None => Err(s3_error!(NoSuchUpload)),
        }
    }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let whole = body.try_fold(BytesMut::new(), |mut whole, piece| async move {
        whole.extend_from_slice(&piece);
        Ok(whole)
    });
    Ok(whole.await.map_err(|error| s3_error!(IncompleteBody, "{error}"))?.freeze())
}
