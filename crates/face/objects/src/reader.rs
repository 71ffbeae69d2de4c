//! Reading an object, of one version only.

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::{HeaderMap, Response, StatusCode, header};
use tokio::time::timeout;

use crate::error::Failure;
use crate::net::Patience;
use crate::objects::{Object, Objects};
use crate::{ObjectError, net, version};

/// What is read and thrown away rather than asked for anew: bytes between two ranges.
const READ_OVER: u64 = 256 << 10;
/// What is read and thrown away of a server that sends the whole file where a part of it was asked for.
const MOST_SKIPPED: u64 = 64 << 20;

/// Reads ranges of one object in the version in which it was listed. Ranges that follow each other come out of one open
/// request, any other range opens one of its own; a reader has one connection at most.
pub struct ObjectReader {
    objects: Objects,
    object: Object,
    open: Option<Open>,
}

/// An answer that is being read.
struct Open {
    body: Incoming,
    /// What came and was not taken.
    rest: Bytes,
    /// Where the next byte belongs.
    at: u64,
}

impl ObjectReader {
    pub(crate) fn new(objects: Objects, object: Object) -> Self {
        Self { objects, object, open: None }
    }

    /// Appends exactly `length` bytes from `offset` on to the buffer, or nothing. A connection that breaks is taken up
    /// where it stopped, as often as [`Settings::tries`](crate::Settings::tries) says for each call, and for as long as
    /// [`Settings::request_timeout`](crate::Settings::request_timeout) says.
    ///
    /// # Errors
    /// `Invalid` beyond the end, `Changed` when the server has another version, `Unusable` when its answer is not the
    /// range, `Unavailable`, `NotFound` or `Denied` as it says.
    pub async fn read_at(
        &mut self,
        offset: u64,
        buffer: &mut Vec<u8>,
        length: usize,
    ) -> Result<(), ObjectError> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.object.size);
        let Some(end) = end else {
            let shown = self.object.location.shown();
            return Err(ObjectError::invalid(
                "range",
                format!("{shown}: {offset} + {length} lies beyond its end"),
            ));
        };
        let before = buffer.len();
        buffer.reserve(length);
        let (objects, location) = (self.objects.clone(), self.object.location.clone());
        let net = objects.server(&location)?.net();
        let mut patience = net.patience();
        let limit = net.limit(length as u64);
        let read = match timeout(limit, self.read_all(offset, end, buffer, &mut patience)).await {
            Ok(read) => read,
            Err(_) => Err(patience.over(&location)),
        };
        if read.is_err() {
            buffer.truncate(before);
        }
        read
    }

    async fn read_all(
        &mut self,
        offset: u64,
        end: u64,
        buffer: &mut Vec<u8>,
        patience: &mut Patience,
    ) -> Result<(), ObjectError> {
        let mut at = offset;
        while at < end {
            let Err(failure) = self.read(&mut at, end, buffer).await else { break };
            self.open = None;
            patience.after(&self.object.location, failure).await?;
        }
        match self.open.take_if(|_| end == self.object.size) {
            Some(open) => open.finish(&self.object).await,
            None => Ok(()),
        }
    }

    /// Reads up to `end` and says in `at` how far it came.
    async fn read(&mut self, at: &mut u64, end: u64, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let near = |open: &Open| (open.at..=open.at.saturating_add(READ_OVER)).contains(at);
        let mut open = match self.open.take().filter(near) {
            Some(open) => open,
            None => {
                let server = self.objects.server(&self.object.location)?;
                let answer = server.get(&self.object, *at).await?;
                Open { at: start(&self.object, *at, &answer)?, body: answer.into_body(), rest: Bytes::new() }
            }
        };
        while *at < end {
            if open.rest.is_empty() {
                match open.body.frame().await {
                    Some(Ok(frame)) => open.rest = frame.into_data().unwrap_or_default(),
                    Some(Err(error)) => return Err(Failure::Again(net::cause(&error))),
                    None => return Err(Failure::Again("the answer ended before its end".to_owned())),
                }
            }
            let unwanted = at.saturating_sub(open.at);
            let wanted = if unwanted > 0 { unwanted } else { end.saturating_sub(*at) };
            let length = open.rest.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            if unwanted > 0 {
                open.rest.advance(length);
            } else {
                buffer.extend_from_slice(&open.rest.split_to(length));
                *at = at.saturating_add(length as u64);
            }
            open.at = open.at.saturating_add(length as u64);
        }
        self.open = Some(open);
        Ok(())
    }
}

impl std::fmt::Debug for ObjectReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ObjectReader").field("object", &self.object).finish_non_exhaustive()
    }
}

impl Open {
    /// All bytes are taken: there must not be more of them. A server that breaks off here has sent everything.
    async fn finish(mut self, object: &Object) -> Result<(), ObjectError> {
        while self.rest.is_empty() && !self.body.is_end_stream() {
            match self.body.frame().await {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                Some(Err(_)) | None => return Ok(()),
            }
        }
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(ObjectError::changed(&object.location, format!("more than {} bytes", object.size)))
    }
}

/// Where in the object the body of an answer begins, which is the object's version from an offset on.
fn start(object: &Object, offset: u64, answer: &Response<Incoming>) -> Result<u64, ObjectError> {
    let (location, headers) = (&object.location, answer.headers());
    match version::like(&object.version, headers) {
        Some(found) if found == object.version => {}
        Some(found) => {
            let reason = format!("version {found} instead of {}", object.version);
            return Err(ObjectError::changed(location, reason));
        }
        None => return Err(ObjectError::changed(location, "the server no longer gives its version")),
    }
    if answer.status() == StatusCode::PARTIAL_CONTENT {
        let (first, size) = content_range(headers)
            .ok_or_else(|| ObjectError::unusable(location, "the server does not say which range it sends"))?;
        if size != object.size {
            return Err(ObjectError::changed(location, format!("{size} bytes instead of {}", object.size)));
        }
        if first != offset {
            let reason = format!("the server sends from byte {first} on where {offset} was asked for");
            return Err(ObjectError::unusable(location, reason));
        }
        return Ok(first);
    }
    if let Some(size) = version::length(headers).filter(|size| *size != object.size) {
        return Err(ObjectError::changed(location, format!("{size} bytes instead of {}", object.size)));
    }
    if offset > MOST_SKIPPED {
        let reason = "the server sends no ranges of a file; use one that does (Accept-Ranges: bytes)";
        return Err(ObjectError::unusable(location, reason));
    }
    Ok(0)
}

/// First byte and size of the whole in `bytes first-last/size`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = version::text(headers, header::CONTENT_RANGE)?.strip_prefix("bytes ")?;
    let (range, size) = text.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, size.trim().parse().ok()?))
}
