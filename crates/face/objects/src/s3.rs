//! The requests of S3 that are needed here, one function each, without tries.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use quick_xml::escape::escape;
use ring::digest::{self, Digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;
use crate::location::{check_bucket, encode};
use crate::net::{self, Body, Net, collect, whole};
use crate::settings::Now;
use crate::sign::{Signed, Signer};
use crate::version;
use crate::{Bucket, Location, ObjectError, Settings};

/// Bytes of an XML answer: a thousand keys with everything that a server says of them.
const MAX_XML_BYTES: usize = 8 << 20;
/// Bytes of an error's XML.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Characters of a server's own words in an error.
const MAX_WORDS: usize = 200;
/// User metadata that says which upload an object came from.
const MARK: HeaderName = HeaderName::from_static("x-amz-meta-huitong-upload");

/// One bucket.
pub(crate) struct S3 {
    pub(crate) net: Net,
    signer: Signer,
    now: Now,
    /// `https://host[:port]`.
    base: String,
    host: HeaderValue,
    /// What stands before `/key` in a path.
    root: String,
}

/// What is known of an object.
pub(crate) struct Head {
    pub(crate) size: u64,
    pub(crate) version: String,
    /// Which upload of ours it came from.
    pub(crate) mark: Option<String>,
}

/// A page of a listing.
#[derive(Deserialize)]
struct Page {
    #[serde(rename = "Contents", default)]
    entries: Vec<Entry>,
    #[serde(rename = "IsTruncated")]
    more: bool,
    #[serde(rename = "NextContinuationToken")]
    next: Option<String>,
}

/// An object in a listing.
#[derive(Deserialize)]
pub(crate) struct Entry {
    #[serde(rename = "Key")]
    pub(crate) key: String,
    #[serde(rename = "Size")]
    pub(crate) size: u64,
    #[serde(rename = "ETag")]
    pub(crate) etag: Option<String>,
}

/// A page of the parts that a server has of an upload.
#[derive(Deserialize)]
pub(crate) struct Parts {
    #[serde(rename = "Part", default)]
    pub(crate) parts: Vec<Part>,
    #[serde(rename = "IsTruncated", default)]
    pub(crate) more: bool,
}

/// One part of an upload.
#[derive(Deserialize)]
pub(crate) struct Part {
    #[serde(rename = "PartNumber")]
    pub(crate) number: u32,
    #[serde(rename = "Size", default)]
    pub(crate) size: u64,
    #[serde(rename = "ETag")]
    pub(crate) etag: String,
}

/// What became of an object that was to be put where there is none.
pub(crate) enum Placed {
    /// It is there, in this version.
    Yes(String),
    /// There is one already.
    Taken,
    /// The server knows no such condition.
    Unconditional,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "UploadId")]
    upload_id: String,
}

#[derive(Deserialize, Default)]
struct Completed {
    #[serde(rename = "ETag")]
    etag: Option<String>,
    #[serde(rename = "Code")]
    code: Option<String>,
    #[serde(rename = "Message")]
    message: Option<String>,
}

/// A refused request.
struct Refusal {
    status: StatusCode,
    code: String,
    words: String,
}

/// One request.
struct Call<'a> {
    at: &'a Location,
    method: Method,
    /// Names in ascending order.
    query: &'a [(&'a str, &'a str)],
    headers: HeaderMap,
    digest: Digest,
    body: Body,
}

impl<'a> Call<'a> {
    fn new(at: &'a Location, method: Method, query: &'a [(&'a str, &'a str)]) -> Self {
        Self { at, method, query, headers: HeaderMap::new(), digest: sha256(b""), body: whole(Bytes::new()) }
    }

    fn with(mut self, name: HeaderName, value: &str) -> Result<Self, ObjectError> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| ObjectError::unusable(self.at, format!("{name} cannot be sent: {value:?}")))?;
        self.headers.insert(name, value);
        Ok(self)
    }
}

impl S3 {
    pub(crate) fn new(bucket: &Bucket, settings: &Settings) -> Result<Self, ObjectError> {
        check_bucket(&bucket.name)?;
        let host_label = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if bucket.region.is_empty() || !host_label(&bucket.region) {
            return Err(ObjectError::invalid("region", "expected letters, digits and `-`, as in us-east-1"));
        }
        let id = &bucket.access_key_id;
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic() && !b"/,=".contains(&byte)) {
            return Err(ObjectError::invalid("access_key_id", "expected letters and digits"));
        }
        if bucket.secret_access_key.is_empty() {
            return Err(ObjectError::invalid("secret_access_key", "is empty"));
        }
        let (scheme, host) = endpoint(bucket)?;
        let is_address = host.starts_with('[')
            || host.split(':').next().is_some_and(|host| host.parse::<IpAddr>().is_ok());
        if !bucket.path_style && is_address {
            let reason = "an IP address has no subdomains for buckets; set path_style = true";
            return Err(ObjectError::invalid("endpoint", format!("{host}: {reason}")));
        }
        let (host, root) = match bucket.path_style {
            true => (host, format!("/{}", bucket.name)),
            false => (format!("{}.{host}", bucket.name), String::new()),
        };
        Ok(Self {
            net: Net::new(bucket.ca_certificate.as_deref(), settings)?,
            signer: Signer {
                region: bucket.region.clone(),
                access_key_id: bucket.access_key_id.clone(),
                secret_access_key: bucket.secret_access_key.clone(),
            },
            now: settings.now.clone(),
            base: format!("{scheme}://{host}"),
            host: HeaderValue::from_str(&host)
                .map_err(|error| ObjectError::invalid("endpoint", error.to_string()))?,
            root,
        })
    }

    /// Up to 1,000 keys that begin with the prefix, in ascending order, behind those of the page that gave the token; and the
    /// token for more, if there are more.
    pub(crate) async fn list(
        &self,
        at: &Location,
        token: Option<&str>,
    ) -> Result<(Vec<Entry>, Option<String>), Failure> {
        let (_, prefix) = at.bucket_and_key().unwrap_or_default();
        let mut query = vec![("list-type", "2"), ("max-keys", "1000"), ("prefix", prefix)];
        query.extend(token.map(|token| ("continuation-token", token)));
        query.sort_unstable();
        let bucket = Location::object(at.bucket().unwrap_or_default(), "")?;
        let answer = self.send(Call { at: &bucket, ..Call::new(at, Method::GET, &query) }).await?;
        let answer = answer.map_err(|refusal| refusal.failure(at))?;
        let Page { entries, more, next } = xml(at, answer.into_body()).await?;
        if !more {
            return Ok((entries, None));
        }
        match next.filter(|next| !next.is_empty() && !entries.is_empty()) {
            Some(next) => Ok((entries, Some(next))),
            None => Err(ObjectError::unusable(at, "the server's listing does not come to its end").into()),
        }
    }

    pub(crate) async fn head(&self, at: &Location) -> Result<Option<Head>, Failure> {
        let answer = match self.send(Call::new(at, Method::HEAD, &[])).await? {
            Ok(answer) => answer,
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => return Ok(None),
            Err(refusal) => return Err(refusal.failure(at)),
        };
        let headers = answer.headers();
        let size = version::length(headers)
            .ok_or_else(|| ObjectError::unusable(at, "the server does not say how long it is"))?;
        let mark = headers.get(MARK).and_then(|mark| mark.to_str().ok()).map(str::to_owned);
        Ok(Some(Head { size, version: version::etag(headers).ok_or_else(|| version::missing(at))?, mark }))
    }

    /// The object from an offset on, if it is in this version; a version that is no ETag is not asked for.
    pub(crate) async fn get(
        &self,
        at: &Location,
        offset: u64,
        version: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let mut call = Call::new(at, Method::GET, &[]);
        // A weak one never matches; the answer says which version it is of.
        if version::is_strong(version) {
            call = call.with(header::IF_MATCH, version)?;
        }
        if offset > 0 {
            call = call.with(header::RANGE, &format!("bytes={offset}-"))?;
        }
        self.send(call).await?.map_err(|refusal| match refusal.status {
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
                ObjectError::changed(at, "the server has another version").into()
            }
            _ => refusal.failure(at),
        })
    }

    /// Puts a small object where there is none, if the condition holds.
    pub(crate) async fn put(
        &self,
        at: &Location,
        mark: &str,
        bytes: Bytes,
        conditional: bool,
    ) -> Result<Placed, Failure> {
        let mut call = Call::new(at, Method::PUT, &[]).with(MARK, mark)?;
        if conditional {
            call = call.with(header::IF_NONE_MATCH, "*")?;
        }
        call.digest = sha256(&bytes);
        call.body = whole(bytes);
        match self.send(call).await? {
            Ok(answer) => {
                Ok(Placed::Yes(version::etag(answer.headers()).ok_or_else(|| version::missing(at))?))
            }
            Err(refusal) => refusal.placed(at),
        }
    }

    /// Begins an upload in parts and gives its id.
    pub(crate) async fn create_upload(&self, at: &Location, mark: &str) -> Result<String, Failure> {
        let call = Call::new(at, Method::POST, &[("uploads", "")]).with(MARK, mark)?;
        let answer = self.send(call).await?.map_err(|refusal| refusal.failure(at))?;
        let created: Created = xml(at, answer.into_body()).await?;
        Ok(created.upload_id)
    }

    /// The parts behind a number, in ascending order, that the server has; `None` when it does not know the upload.
    pub(crate) async fn parts(&self, at: &Location, id: &str, behind: u32) -> Result<Option<Parts>, Failure> {
        let behind = behind.to_string();
        let query = [("max-parts", "1000"), ("part-number-marker", behind.as_str()), ("uploadId", id)];
        match self.send(Call::new(at, Method::GET, &query)).await? {
            Ok(answer) => xml(at, answer.into_body()).await.map(Some),
            Err(refusal) if refusal.is_of_unknown_upload() => Ok(None),
            Err(refusal) => Err(refusal.failure(at)),
        }
    }

    /// Sends one part and gives its ETag.
    pub(crate) async fn put_part(
        &self,
        at: &Location,
        (id, number): (&str, u32),
        (size, digest): (u64, Digest),
        body: Body,
    ) -> Result<String, Failure> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", id)];
        let call = Call::new(at, Method::PUT, &query).with(header::CONTENT_LENGTH, &size.to_string())?;
        let answer =
            self.send(Call { digest, body, ..call }).await?.map_err(|refusal| refusal.of_upload(at))?;
        Ok(version::etag(answer.headers()).ok_or_else(|| version::missing(at))?)
    }

    /// Makes the object out of its parts where there is none, if the condition holds.
    pub(crate) async fn complete(
        &self,
        at: &Location,
        id: &str,
        parts: &[(u32, String)],
        conditional: bool,
    ) -> Result<Placed, Failure> {
        let mut text =
            String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        for (number, etag) in parts {
            text.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>",
                escape(etag)
            ));
        }
        text.push_str("</CompleteMultipartUpload>");
        let query = [("uploadId", id)];
        let mut call = Call::new(at, Method::POST, &query).with(header::CONTENT_TYPE, "application/xml")?;
        if conditional {
            call = call.with(header::IF_NONE_MATCH, "*")?;
        }
        call.digest = sha256(text.as_bytes());
        call.body = whole(text);
        let answer = match self.send(call).await? {
            Ok(answer) => answer,
            Err(refusal) => return refusal.placed(at),
        };
        // A server may say 200 to keep the connection, and the outcome when it knows it.
        let said: Completed = xml(at, answer.into_body()).await?;
        match (said.etag, said.code) {
            (Some(etag), None) => Ok(Placed::Yes(version::quoted(&etag))),
            (_, code) => {
                let code = code.unwrap_or_default();
                let status = match code.as_str() {
                    "PreconditionFailed" => StatusCode::PRECONDITION_FAILED,
                    "NotImplemented" => StatusCode::NOT_IMPLEMENTED,
                    "NoSuchUpload" => StatusCode::NOT_FOUND,
                    "InternalError" | "SlowDown" | "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::BAD_REQUEST,
                };
                Refusal { status, code, words: said.message.unwrap_or_default() }.placed(at)
            }
        }
    }

    /// Ends an upload without an object; one that is unknown is fine.
    pub(crate) async fn abort(&self, at: &Location, id: &str) -> Result<(), Failure> {
        match self.send(Call::new(at, Method::DELETE, &[("uploadId", id)])).await? {
            Err(refusal) if !refusal.is_of_unknown_upload() => Err(refusal.failure(at)),
            _ => Ok(()),
        }
    }

    async fn send(&self, call: Call<'_>) -> Result<Result<Response<Incoming>, Refusal>, Failure> {
        let (_, key) = call.at.bucket_and_key().unwrap_or_default();
        let path = format!("{}/{}", self.root, encode(key, "/"));
        let query: Vec<String> =
            call.query.iter().map(|(name, value)| format!("{name}={}", encode(value, ""))).collect();
        let query = query.join("&");
        let mut headers = call.headers;
        headers.insert(header::HOST, self.host.clone());
        // Of an empty body nothing would be said, and S3 wants to hear the length of everything that is put.
        if matches!(call.method, Method::PUT | Method::POST)
            && let Some(length) = call.body.size_hint().exact()
        {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let signed = Signed { method: call.method.as_str(), path: &path, query: &query, body: &call.digest };
        let unsigned =
            || ObjectError::unusable(call.at, "the request cannot be signed; check the machine's clock");
        self.signer.sign((self.now)(), &signed, &mut headers).ok_or_else(unsigned)?;
        let mut uri = format!("{}{path}", self.base);
        if !query.is_empty() {
            uri = format!("{uri}?{query}");
        }
        let uri = Uri::try_from(uri).map_err(|error| ObjectError::unusable(call.at, error.to_string()))?;
        let mut request = Request::new(call.body);
        *request.method_mut() = call.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let answer = self.net.send(call.at, request).await?;
        if answer.status().is_success() {
            return Ok(Ok(answer));
        }
        let status = answer.status();
        // What the server says in addition is not worth a second error.
        let body = collect(call.at, answer.into_body(), MAX_ERROR_BYTES).await.unwrap_or_default();
        let said: Completed = quick_xml::de::from_reader(&*body).unwrap_or_default();
        Ok(Err(Refusal {
            status,
            code: said.code.unwrap_or_default(),
            words: said.message.unwrap_or_default(),
        }))
    }
}

impl Refusal {
    fn reason(&self) -> String {
        let words = format!("{} {} {}", self.status.as_u16(), self.code, self.words);
        let words = words.split(|character: char| character.is_control() || character == ' ');
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        words.join(" ").chars().take(MAX_WORDS).collect()
    }

    /// What the refusal means if nothing more is known of the request.
    fn failure(&self, at: &Location) -> Failure {
        let reason = self.reason();
        // What arrived was not what was sent, or not all of it.
        let damaged = ["RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"];
        match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ObjectError::denied(at, reason).into(),
            StatusCode::NOT_FOUND => {
                let is_certain = self.code == "NoSuchKey";
                ObjectError::NotFound { object: at.shown(), reason, is_certain }.into()
            }
            status if net::is_passing(status) || damaged.contains(&self.code.as_str()) => {
                Failure::Again(reason)
            }
            status if status.is_redirection() => ObjectError::unusable(
                at,
                format!("the server sends elsewhere ({reason}); check the bucket's region and endpoint"),
            )
            .into(),
            _ => ObjectError::unusable(
                at,
                format!("the server refuses ({reason}); check the bucket's configuration"),
            )
            .into(),
        }
    }

    /// Whether the server itself says that it does not know the upload. Any other 404 may come from whatever stands in front of
    /// it, or from a bucket that is away.
    fn is_of_unknown_upload(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.code == "NoSuchUpload"
    }

    fn of_upload(&self, at: &Location) -> Failure {
        match self.is_of_unknown_upload() {
            true => ObjectError::UploadLost { object: at.shown() }.into(),
            false => self.failure(at),
        }
    }

    /// What the refusal means to a request that puts an object where there is none.
    fn placed(&self, at: &Location) -> Result<Placed, Failure> {
        match self.status {
            StatusCode::PRECONDITION_FAILED => Ok(Placed::Taken),
            StatusCode::NOT_IMPLEMENTED => Ok(Placed::Unconditional),
            // Somebody else is putting one at this moment.
            StatusCode::CONFLICT => Err(Failure::Again(self.reason())),
            _ => Err(self.of_upload(at)),
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    digest::digest(&digest::SHA256, bytes)
}

async fn xml<T: DeserializeOwned>(at: &Location, body: Incoming) -> Result<T, Failure> {
    let body = collect(at, body, MAX_XML_BYTES).await?;
    quick_xml::de::from_reader(&*body).map_err(|error| {
        ObjectError::unusable(at, format!("the server's answer is not S3's ({error}); check the endpoint"))
            .into()
    })
}

/// Scheme and host with its port, if it is not the scheme's own.
fn endpoint(bucket: &Bucket) -> Result<(&'static str, String), ObjectError> {
    let region = &bucket.region;
    let Some(endpoint) = &bucket.endpoint else {
        let china = if region.starts_with("cn-") { ".cn" } else { "" };
        return Ok(("https", format!("s3.{region}.amazonaws.com{china}")));
    };
    let invalid = |reason: &str| ObjectError::invalid("endpoint", format!("{endpoint:?}: {reason}"));
    if endpoint.contains('@') {
        return Err(ObjectError::invalid("endpoint", "no user names and passwords; leave them out"));
    }
    let uri = Uri::try_from(endpoint.as_str()).map_err(|error| invalid(&error.to_string()))?;
    let (scheme, own) = match uri.scheme_str() {
        Some("https") => ("https", 443),
        Some("http") if bucket.allow_http => ("http", 80),
        Some("http") => return Err(invalid("http:// is not allowed; use https:// or set allow_http")),
        _ => return Err(invalid("expected https://host[:port]")),
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(invalid("expected https://host[:port] and nothing behind it"));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("has no host"))?;
    Ok(match uri.port_u16().filter(|port| *port != own) {
        Some(port) => (scheme, format!("{host}:{port}")),
        None => (scheme, host.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn a_bucket_stands_in_the_host_or_in_the_path() {
        for (endpoint, region, path_style, expected) in [
            (None, "eu-west-1", false, "https://data.s3.eu-west-1.amazonaws.com"),
            (None, "cn-north-1", false, "https://data.s3.cn-north-1.amazonaws.com.cn"),
            (None, "us-east-1", true, "https://s3.us-east-1.amazonaws.com/data"),
            (
                Some("https://oss-cn-beijing.aliyuncs.com/"),
                "oss-cn-beijing",
                false,
                "https://data.oss-cn-beijing.aliyuncs.com",
            ),
            (Some("https://minio.example:443"), "us-east-1", true, "https://minio.example/data"),
            (Some("http://10.0.0.1:9000"), "us-east-1", true, "http://10.0.0.1:9000/data"),
            (Some("http://[::1]:80"), "us-east-1", true, "http://[::1]/data"),
        ] {
            let bucket = Bucket {
                name: "data".to_owned(),
                endpoint: endpoint.map(str::to_owned),
                region: region.to_owned(),
                path_style,
                access_key_id: "KEY".to_owned(),
                secret_access_key: Zeroizing::new("secret".to_owned()),
                allow_http: true,
                ca_certificate: None,
            };
            let store = S3::new(&bucket, &crate::testing::settings()).unwrap();
            assert_eq!(format!("{}{}", store.base, store.root), expected);
            assert_eq!(store.host, store.base.split("://").nth(1).unwrap());
            assert!(!format!("{bucket:?}").contains("secret"));
        }
    }
}
