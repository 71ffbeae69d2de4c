//! Where objects lie.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use crate::ObjectError;

/// Bytes of a URL.
pub const MAX_LOCATION_BYTES: usize = 2048;
/// Bytes of a key, by the rules of S3.
const MAX_KEY_BYTES: usize = 1024;

/// Where objects lie, as a URL in one of these shapes:
///
/// * `s3://bucket/key`, one object. The key is taken as it stands: `%` in it is a percent sign.
/// * `s3://bucket/prefix/`, everything below a prefix; `s3://bucket/` is the whole bucket.
/// * `https://host[:port]/path[?query]` or `http://`, one file of a web server.
///
/// At most 2,048 bytes without user info, fragment, control characters, or segments `.` and `..`; a key has no empty
/// segments and no `?` or `#` either. `Display` gives the URL back; `Debug` leaves the query out, which may be a secret.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location(Place);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Object { bucket: String, key: String },
    Web { url: String, uri: Uri },
}

impl Location {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Invalid` that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ObjectError> {
        if text.len() > MAX_LOCATION_BYTES {
            return Err(invalid(format!("longer than {MAX_LOCATION_BYTES} bytes")));
        }
        if text.chars().any(char::is_control) {
            return Err(invalid("has a control character in it"));
        }
        if text.contains('#') {
            return Err(invalid("a fragment (`#`) names no object; leave it out"));
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let Some((bucket, key)) = rest.split_once('/') else {
                return Err(invalid("expected s3://bucket/key, or s3://bucket/prefix/ with `/` at its end"));
            };
            return Self::object(bucket, key);
        }
        match text.split_once("://") {
            Some((scheme @ ("https" | "http"), rest)) => web(scheme, rest, text).map(Self),
            _ => Err(invalid("expected a URL that begins with s3://, https:// or http://")),
        }
    }

    /// An object or a prefix of a bucket.
    pub(crate) fn object(bucket: &str, key: &str) -> Result<Self, ObjectError> {
        check_bucket(bucket)?;
        check_key(key)?;
        let at = Self(Place::Object { bucket: bucket.to_owned(), key: key.to_owned() });
        if at.to_string().len() > MAX_LOCATION_BYTES {
            return Err(invalid(format!("longer than {MAX_LOCATION_BYTES} bytes")));
        }
        Ok(at)
    }

    /// Whether this names everything below a prefix, and not one object.
    #[must_use]
    pub fn is_prefix(&self) -> bool {
        matches!(&self.0, Place::Object { key, .. } if key.is_empty() || key.ends_with('/'))
    }

    /// The bucket in which it lies; `None` for a file of a web server.
    #[must_use]
    pub fn bucket(&self) -> Option<&str> {
        self.bucket_and_key().map(|(bucket, _)| bucket)
    }

    pub(crate) fn bucket_and_key(&self) -> Option<(&str, &str)> {
        match &self.0 {
            Place::Object { bucket, key } => Some((bucket, key)),
            Place::Web { .. } => None,
        }
    }

    /// What a web server is asked for.
    pub(crate) fn uri(&self) -> Option<&Uri> {
        match &self.0 {
            Place::Web { uri, .. } => Some(uri),
            Place::Object { .. } => None,
        }
    }

    /// The last segment, which is the name of the file or of everything below a prefix; the bucket's for all of it.
    pub(crate) fn name(&self) -> Result<String, ObjectError> {
        match &self.0 {
            Place::Object { bucket, key } => {
                let key = key.trim_end_matches('/');
                let name = key.rsplit('/').next().filter(|name| !name.is_empty());
                Ok(name.unwrap_or(bucket).to_owned())
            }
            Place::Web { uri, .. } => {
                let name = decode(uri.path().rsplit('/').next().unwrap_or_default());
                let name = name.and_then(|name| String::from_utf8(name).ok());
                name.filter(|name| !name.contains('/') && !name.chars().any(char::is_control)).ok_or_else(
                    || {
                        invalid(format!(
                            "{}: the name of the file must be UTF-8 in one segment",
                            self.shown()
                        ))
                    },
                )
            }
        }
    }

    /// The URL without its query.
    pub(crate) fn shown(&self) -> String {
        let url = self.to_string();
        match (self.uri(), url.split_once('?')) {
            (Some(_), Some((path, _))) => format!("{path}?..."),
            _ => url,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Object { bucket, key } => write!(formatter, "s3://{bucket}/{key}"),
            Place::Web { url, .. } => formatter.write_str(url),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown())
    }
}

impl FromStr for Location {
    type Err = ObjectError;

    fn from_str(text: &str) -> Result<Self, ObjectError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Location {
    type Error = ObjectError;

    fn try_from(text: String) -> Result<Self, ObjectError> {
        Self::parse(&text)
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

fn invalid(reason: impl Into<String>) -> ObjectError {
    ObjectError::invalid("url", reason)
}

pub(crate) fn check_bucket(name: &str) -> Result<(), ObjectError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = name.bytes().next().is_some_and(plain) && name.bytes().last().is_some_and(plain);
    if (3..=63).contains(&name.len())
        && ends
        && name.bytes().all(|byte| plain(byte) || byte == b'-' || byte == b'.')
    {
        return Ok(());
    }
    Err(ObjectError::invalid(
        "bucket",
        format!("{name:?}: expected 3 to 63 lower-case letters, digits, `-` and `.`"),
    ))
}

fn check_key(key: &str) -> Result<(), ObjectError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(invalid(format!("the key is longer than {MAX_KEY_BYTES} bytes")));
    }
    if key.chars().any(|character| character.is_control() || matches!(character, '?' | '#')) {
        return Err(invalid(format!(
            "{key:?}: a key with `?`, `#` or a control character cannot be named; rename it"
        )));
    }
    let inner = key.strip_suffix('/').unwrap_or(key);
    if !key.is_empty() && inner.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(invalid(format!(
            "{key:?}: a key has no empty segments, and none that is `.` or `..`; rename it"
        )));
    }
    Ok(())
}

/// `url` is the whole text, `rest` what stands behind the scheme.
fn web(scheme: &str, rest: &str, url: &str) -> Result<Place, ObjectError> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains('@') {
        return Err(invalid("user names and passwords do not belong into a URL; leave them out"));
    }
    let path = target.split('?').next().unwrap_or_default();
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(invalid(
            "expected the path of a file behind the host: a web server lists no directories",
        ));
    }
    for segment in path.split('/') {
        let plain =
            decode(segment).ok_or_else(|| invalid("`%` stands before two hexadecimal digits; write %25"))?;
        if matches!(plain.as_slice(), b"." | b"..") {
            return Err(invalid("segments `.` and `..` are not followed; write the path itself"));
        }
    }
    let uri = Uri::try_from(format!("{scheme}://{authority}{}", encode_url(target)));
    let uri = uri.map_err(|error| invalid(format!("no URL: {error}")))?;
    if uri.host().is_none_or(str::is_empty)
        || (authority.contains(':') && uri.port_u16().is_none_or(|port| port == 0))
    {
        return Err(invalid("expected a host, and behind `:` a port from 1 to 65535"));
    }
    Ok(Place::Web { url: url.to_owned(), uri })
}

/// Percent signs replaced by what they stand for.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let mut value = [0];
            hex::decode_to_slice(digits, &mut value).ok()?;
            plain.extend(value);
        } else {
            plain.push(byte);
        }
    }
    Some(plain)
}

/// Everything but unreserved characters as percent signs; what is in `keep` stays.
pub(crate) fn encode(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A path and query as they may stand in a request: what is percent-encoded already stays so.
fn encode_url(text: &str) -> String {
    encode(text, "%/?:@!$&'()*+,;=")
}
