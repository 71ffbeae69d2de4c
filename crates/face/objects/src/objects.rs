//! Listing objects, and looking at them again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Failure;
use crate::net::Net;
use crate::reader::ObjectReader;
use crate::s3::S3;
use crate::web::Web;
use crate::{Bucket, Location, ObjectError, Settings};

/// The configured buckets, and all web servers. A clone is the same one.
#[derive(Clone)]
pub struct Objects(Arc<Servers>);

struct Servers {
    buckets: HashMap<String, S3>,
    web: Web,
}

/// One object, in the version in which it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Where it lies.
    pub location: Location,
    /// Where it lies below the prefix that was listed, with `/` between segments; the file's name if it was listed
    /// itself.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Its ETag in quotes; for a web server that gives none the text of `Last-Modified`.
    pub version: String,
}

/// What a location leads to.
pub(crate) enum Server<'a> {
    Bucket(&'a S3),
    Web(&'a Web),
}

impl Server<'_> {
    pub(crate) fn net(&self) -> &Net {
        match self {
            Self::Bucket(bucket) => &bucket.net,
            Self::Web(web) => &web.net,
        }
    }
}

impl Objects {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// `Invalid` when a bucket is configured twice, or a value is not acceptable.
    pub fn new(buckets: Vec<Bucket>, settings: &Settings) -> Result<Self, ObjectError> {
        let mut known = HashMap::with_capacity(buckets.len());
        for bucket in buckets {
            if known.insert(bucket.name.clone(), S3::new(&bucket, settings)?).is_some() {
                return Err(ObjectError::invalid("bucket", format!("{}: is configured twice", bucket.name)));
            }
        }
        Ok(Self(Arc::new(Servers { buckets: known, web: Web::new(settings)? })))
    }

    /// The object at a location, or the objects below a prefix, sorted by the bytes of their keys; none below a prefix
    /// is no error. Keys that end in `/` and have no bytes stand for directories and are left out, but they count: a
    /// prefix may have `most` keys.
    ///
    /// # Errors
    /// `NotFound` when there is no such object or bucket, `TooMany` beyond the bound, `Invalid` for a key that cannot
    /// be named as a location, and what the server fails with.
    pub async fn list(&self, at: &Location, most: usize) -> Result<Vec<Object>, ObjectError> {
        if !at.is_prefix() {
            let (size, version) = self.look(at).await?;
            return Ok(vec![Object { location: at.clone(), path: at.name()?, size, version }]);
        }
        let bucket = self.bucket(at)?;
        let (name, prefix) = at.bucket_and_key().unwrap_or_default();
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        let mut keys = 0_usize;
        loop {
            let (entries, next) = bucket.net.tried(at, || bucket.list(at, token.as_deref())).await?;
            keys = keys.saturating_add(entries.len());
            if keys > most {
                return Err(ObjectError::TooMany { object: at.shown(), most });
            }
            for entry in entries {
                if entry.key.ends_with('/') && entry.size == 0 {
                    continue;
                }
                let path =
                    entry.key.strip_prefix(prefix).filter(|path| !path.is_empty() && !path.ends_with('/'));
                let path = path.ok_or_else(|| {
                    ObjectError::unusable(
                        at,
                        format!("{:?} in the listing is no file below it; rename it", entry.key),
                    )
                })?;
                let etag = entry.etag.as_deref().filter(|etag| !etag.is_empty());
                objects.push(Object {
                    location: Location::object(name, &entry.key)?,
                    path: path.to_owned(),
                    size: entry.size,
                    version: crate::version::quoted(etag.ok_or_else(|| crate::version::missing(at))?),
                });
            }
            token = next;
            if token.is_none() {
                break;
            }
        }
        objects.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
        Ok(objects)
    }

    /// Looks whether the object is what it was: same size, same version.
    ///
    /// # Errors
    /// `Changed`, `NotFound`, and what the server fails with.
    pub async fn check_unchanged(&self, object: &Object) -> Result<(), ObjectError> {
        let (size, version) = self.look(&object.location).await?;
        if size != object.size {
            return Err(ObjectError::changed(
                &object.location,
                format!("{size} bytes instead of {}", object.size),
            ));
        }
        if version != object.version {
            return Err(ObjectError::changed(
                &object.location,
                format!("version {version} instead of {}", object.version),
            ));
        }
        Ok(())
    }

    /// Reads the object in this version. Nothing is asked of the server yet.
    #[must_use]
    pub fn reader(&self, object: &Object) -> ObjectReader {
        ObjectReader::new(self.clone(), object.clone())
    }

    /// Size and version.
    async fn look(&self, at: &Location) -> Result<(u64, String), ObjectError> {
        match self.server(at)? {
            Server::Web(web) => web.net.tried(at, || web.head(at)).await,
            Server::Bucket(bucket) => {
                let head = bucket.net.tried(at, || bucket.head(at)).await?;
                let head = head.ok_or_else(|| ObjectError::not_found(at, "no such key or no such bucket"))?;
                Ok((head.size, head.version))
            }
        }
    }

    pub(crate) fn server(&self, at: &Location) -> Result<Server<'_>, ObjectError> {
        match at.bucket() {
            None => Ok(Server::Web(&self.0.web)),
            Some(_) => self.bucket(at).map(Server::Bucket),
        }
    }

    /// The bucket of a location in S3.
    pub(crate) fn bucket(&self, at: &Location) -> Result<&S3, ObjectError> {
        let name = at.bucket().ok_or_else(|| {
            ObjectError::invalid("url", format!("{}: expected a location that begins with s3://", at.shown()))
        })?;
        self.0.buckets.get(name).ok_or_else(|| ObjectError::NotConfigured { bucket: name.to_owned() })
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut names: Vec<&str> = self.0.buckets.keys().map(String::as_str).collect();
        names.sort_unstable();
        formatter.debug_struct("Objects").field("buckets", &names).finish_non_exhaustive()
    }
}

impl Server<'_> {
    /// Asks for the object from an offset on.
    pub(crate) async fn get(
        &self,
        object: &Object,
        offset: u64,
    ) -> Result<hyper::Response<hyper::body::Incoming>, Failure> {
        match self {
            Self::Bucket(bucket) => bucket.get(&object.location, offset, &object.version).await,
            Self::Web(web) => web.get(&object.location, offset, &object.version).await,
        }
    }
}
