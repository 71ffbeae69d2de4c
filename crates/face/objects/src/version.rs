//! What tells one version of an object from another, in the headers of an answer.

use hyper::HeaderMap;
use hyper::header::{self, HeaderName};

use crate::{Location, ObjectError};

/// The version that an answer is of: its ETag in quotes, else its `Last-Modified`, which never begins with a quote.
pub(crate) fn of(headers: &HeaderMap) -> Option<String> {
    etag(headers).or_else(|| text(headers, header::LAST_MODIFIED).map(str::to_owned))
}

/// The same, of the kind that is known already.
pub(crate) fn like(known: &str, headers: &HeaderMap) -> Option<String> {
    if is_etag(known) { etag(headers) } else { text(headers, header::LAST_MODIFIED).map(str::to_owned) }
}

pub(crate) fn etag(headers: &HeaderMap) -> Option<String> {
    text(headers, header::ETAG).filter(|etag| !etag.is_empty()).map(quoted)
}

pub(crate) fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_LENGTH)?.parse().ok()
}

pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether it is an ETag that a server compares byte by byte.
pub(crate) fn is_strong(version: &str) -> bool {
    version.starts_with('"')
}

pub(crate) fn is_etag(version: &str) -> bool {
    is_strong(version) || version.starts_with("W/")
}

/// Some servers leave the quotes out in one place and not in another.
pub(crate) fn quoted(etag: &str) -> String {
    if is_etag(etag) { etag.to_owned() } else { format!("\"{etag}\"") }
}

pub(crate) fn missing(at: &Location) -> ObjectError {
    ObjectError::unusable(
        at,
        "the server gives neither ETag nor Last-Modified, so that a change would go unnoticed; use another server",
    )
}
