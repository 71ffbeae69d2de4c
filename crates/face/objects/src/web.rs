//! Requests to plain web servers, without tries.

use std::str;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};

use crate::error::Failure;
use crate::location::encode;
use crate::net::{self, Net, whole};
use crate::version;
use crate::{Location, ObjectError, Settings};

/// How often one request may be sent elsewhere.
const MAX_REDIRECTS: usize = 4;

/// All web servers.
pub(crate) struct Web {
    pub(crate) net: Net,
    allow_http: bool,
}

impl Web {
    pub(crate) fn new(settings: &Settings) -> Result<Self, ObjectError> {
        let net = Net::new(settings.ca_certificate.as_deref(), settings)?;
        Ok(Self { net, allow_http: settings.allow_http })
    }

    /// Size and version of a file. A server that answers no HEAD, or not with a length, is asked for the first byte.
    pub(crate) async fn head(&self, at: &Location) -> Result<(u64, String), Failure> {
        let answer = self.send(at, Method::HEAD, HeaderMap::new()).await?;
        let status = answer.status();
        if status == StatusCode::OK {
            check_plain(at, answer.headers())?;
            if let Some(size) = version::length(answer.headers()) {
                return Ok((size, version::of(answer.headers()).ok_or_else(|| version::missing(at))?));
            }
        } else if !matches!(
            status,
            StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        ) {
            return Err(failure(at, status));
        }

        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let answer = self.send(at, Method::GET, headers).await?;
        let size = match answer.status() {
            StatusCode::OK => version::length(answer.headers()),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                version::text(answer.headers(), header::CONTENT_RANGE)
                    .and_then(|range| range.rsplit_once('/')?.1.parse().ok())
            }
            status => return Err(failure(at, status)),
        };
        check_plain(at, answer.headers())?;
        let size = size.ok_or_else(|| {
            ObjectError::unusable(
                at,
                "the server does not say how long the file is; use one that serves it as a file",
            )
        })?;
        Ok((size, version::of(answer.headers()).ok_or_else(|| version::missing(at))?))
    }

    /// The file from an offset on. Whether the answer is of this version remains to be looked at.
    pub(crate) async fn get(
        &self,
        at: &Location,
        offset: u64,
        known: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(known) {
            if version::is_strong(known) {
                headers.insert(header::IF_MATCH, value);
            } else if !version::is_etag(known) {
                headers.insert(header::IF_UNMODIFIED_SINCE, value);
            }
        }
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            headers
                .insert(header::RANGE, range.map_err(|error| ObjectError::unusable(at, error.to_string()))?);
        }
        let answer = self.send(at, Method::GET, headers).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                check_plain(at, answer.headers())?;
                Ok(answer)
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(ObjectError::changed(at, "the server has another version").into())
            }
            status => Err(failure(at, status)),
        }
    }

    async fn send(
        &self,
        at: &Location,
        method: Method,
        mut headers: HeaderMap,
    ) -> Result<Response<Incoming>, Failure> {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut uri = at.uri().cloned().unwrap_or_default();
        for _ in 0..=MAX_REDIRECTS {
            if !self.allow_http && uri.scheme_str() != Some("https") {
                let reason =
                    "http:// is not allowed; use https://, or allow http in the node's configuration";
                return Err(ObjectError::unusable(at, reason).into());
            }
            let mut request = Request::new(whole(Bytes::new()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            // Whom the operator has named may lie anywhere; whom a server names may not.
            let is_named = uri.host() == at.uri().and_then(Uri::host);
            let answer = match is_named {
                true => self.net.send(at, request).await?,
                false => self.net.send_outside(at, request).await?,
            };
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let target =
                version::text(answer.headers(), header::LOCATION).and_then(|target| resolve(&uri, target));
            let target = target.ok_or_else(|| {
                ObjectError::unusable(
                    at,
                    "the server sends elsewhere, but not to a URL; name the file's own URL",
                )
            })?;
            if uri.scheme_str() == Some("https") && target.scheme_str() != Some("https") {
                let reason = "the server sends from https:// to another scheme, which is not followed";
                return Err(ObjectError::unusable(at, reason).into());
            }
            uri = target;
        }
        let reason =
            format!("the server sends elsewhere more than {MAX_REDIRECTS} times; name the file's own URL");
        Err(ObjectError::unusable(at, reason).into())
    }
}

/// Where a `Location` header leads.
fn resolve(from: &Uri, target: &str) -> Option<Uri> {
    let scheme = from.scheme_str()?;
    let authority = from.authority()?;
    let scheme_end = target.find(['/', '?', '#']).unwrap_or(target.len());
    let url = if target.split_at(scheme_end).0.ends_with(':') {
        target.to_owned()
    } else if target.starts_with('?') {
        format!("{scheme}://{authority}{}{target}", from.path())
    } else if let Some(rest) = target.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if target.starts_with('/') {
        format!("{scheme}://{authority}{target}")
    } else {
        let (directory, _) = from.path().rsplit_once('/')?;
        format!("{scheme}://{authority}{directory}/{target}")
    };
    // The same rules as for every other URL; a fragment would never be sent.
    let url = url.split('#').next()?;
    Location::parse(&encode(url, "%/?:@!$&'()*+,;=[]")).ok()?.uri().cloned()
}

/// Bytes that were made smaller for the way are not the bytes of the file.
fn check_plain(at: &Location, headers: &HeaderMap) -> Result<(), ObjectError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(ObjectError::unusable(at, "the server sends it compressed; switch that off for this file"))
        }
        _ => Ok(()),
    }
}

fn failure(at: &Location, status: StatusCode) -> Failure {
    let reason = status.to_string();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ObjectError::denied(at, reason).into(),
        StatusCode::NOT_FOUND | StatusCode::GONE => ObjectError::not_found(at, reason).into(),
        status if net::is_passing(status) => Failure::Again(reason),
        _ => ObjectError::unusable(at, format!("the server refuses ({reason}); check the URL")).into(),
    }
}
