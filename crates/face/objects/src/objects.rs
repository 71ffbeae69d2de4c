//! Listing objects, and looking at them again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Failure;
use crate::net::Net;
use crate::reader::ObjectReader;
use crate::s3::{Entry, S3};
use crate::web::Web;
use crate::{Bucket, Location, ObjectError, Settings};

/// Pages of a listing, of up to 1,000 keys each.
const MOST_PAGES: usize = 1000;

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

impl<'a> Server<'a> {
    pub(crate) fn net(&self) -> &'a Net {
        match *self {
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
        let (mut objects, mut keys) = (Vec::new(), 0_usize);
        self.each_key(at, |entry| {
            keys = keys.saturating_add(1);
            if keys > most {
                return Err(ObjectError::TooMany { object: at.shown(), most });
            }
            if !(entry.key.ends_with('/') && entry.size == 0) {
                objects.push(listed(at, entry)?);
            }
            Ok(())
        })
        .await?;
        objects.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
        Ok(objects)
    }

    /// Of the objects that [`Objects::list`] gives those whose paths are wanted, which were listed before. What others have put
    /// beside them does not matter, whatever it is and however it is called.
    ///
    /// # Errors
    /// `NotFound`, and what the server fails with; `Unavailable` when it takes longer than one request may.
    pub async fn find(
        &self,
        at: &Location,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Object>, ObjectError> {
        let net = self.server(at)?.net();
        let find = async {
            if !at.is_prefix() {
                return match self.list(at, 1).await {
                    Err(ObjectError::NotFound { .. }) if at.bucket().is_some() => {
                        Err(self.not_found(at).await?)
                    }
                    found => found,
                };
            }
            let (_, prefix) = at.bucket_and_key().unwrap_or_default();
            let mut objects = Vec::new();
            self.each_key(at, |entry| {
                if entry.key.strip_prefix(prefix).is_some_and(&is_wanted) {
                    objects.push(listed(at, entry)?);
                }
                Ok(())
            })
            .await?;
            Ok(objects)
        };
        match tokio::time::timeout(net.limit(0), find).await {
            Ok(found) => found,
            Err(_) => Err(net.patience().over(at)),
        }
    }

    /// Why an object is not found: the answer to HEAD, which has no body, does not say.
    async fn not_found(&self, at: &Location) -> Result<ObjectError, ObjectError> {
        let bucket = self.bucket(at)?;
        bucket.net.tried(at, || async { bucket.get(at, 0, "").await }).await?;
        Ok(ObjectError::Unavailable { object: at.shown(), reason: "it is there only now".to_owned() })
    }

    /// Takes all keys that begin with a prefix.
    async fn each_key(
        &self,
        at: &Location,
        mut take: impl FnMut(Entry) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let bucket = self.bucket(at)?;
        let mut token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let (entries, next) = bucket.net.tried(at, || bucket.list(at, token.as_deref())).await?;
            entries.into_iter().try_for_each(&mut take)?;
            token = next;
            if token.is_none() {
                return Ok(());
            }
        }
        Err(ObjectError::TooMany { object: at.shown(), most: MOST_PAGES.saturating_mul(1000) })
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

/// The object that a key below a prefix stands for.
fn listed(at: &Location, entry: Entry) -> Result<Object, ObjectError> {
    let (name, prefix) = at.bucket_and_key().unwrap_or_default();
    let path = entry.key.strip_prefix(prefix).filter(|path| !path.is_empty() && !path.ends_with('/'));
    let path = path.ok_or_else(|| {
        ObjectError::unusable(at, format!("{:?} in the listing is no file below it; rename it", entry.key))
    })?;
    let etag = entry.etag.as_deref().filter(|etag| !etag.is_empty());
    Ok(Object {
        location: Location::object(name, &entry.key)?,
        path: path.to_owned(),
        size: entry.size,
        version: crate::version::quoted(etag.ok_or_else(|| crate::version::missing(at))?),
    })
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
