//! Putting files into S3, so that an interruption costs little and nothing is ever replaced.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use ring::digest::{Context, Digest, SHA256};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::net::Body;
use crate::s3::{Placed, S3};
use crate::{Location, ObjectError, Objects};

/// What goes in one request, and the size of a part unless the file is larger than 80,000 MiB.
pub const PART_BYTES: u64 = 8 << 20;
/// Parts of one object, by the rules of S3.
const MAX_PARTS: u64 = 10_000;
/// Bytes of one object, by the rules of S3.
pub const MAX_OBJECT_BYTES: u64 = 5 << 40;
/// Parts that are sent at the same time.
const PARALLEL: usize = 4;
/// Putting parts together takes a server longer than anything else: it may take as long as putting so many bytes.
const MOST_PLACED: u64 = 16 << 20;
/// What is read of the file at a time; a part in flight holds three of them.
const PIECE_BYTES: usize = 256 << 10;
/// How often an upload is ended whose parts were still on their way.
const MAX_ABORTS: usize = 3;

/// An upload that was begun: plain data, which the caller stores before it goes on. Which parts have arrived is the
/// server's to say, so this never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Where the object will lie.
    pub location: Location,
    /// What tells this upload's object from everybody else's; it is kept as user metadata of the object.
    pub mark: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of every part but the last.
    pub part_size: u64,
    /// The server's name for the upload; `None` for a file that goes in one request.
    pub id: Option<String>,
}

impl Objects {
    /// Begins to put a file of `size` bytes at `s3://bucket/key`. `mark` is 1 to 128 letters, digits, `-`, `_`, `.` and
    /// names this file of this delivery and nothing else: an object with this mark and this size counts as put. An upload
    /// of which the caller never stored that it was begun holds no bytes.
    ///
    /// # Errors
    /// `Invalid` for a prefix, a mark or a size that cannot be, `Exists` when there is such an object already with another
    /// mark, and what the server fails with.
    pub async fn begin(&self, at: &Location, size: u64, mark: &str) -> Result<Upload, ObjectError> {
        let bucket = self.bucket(at)?;
        if at.is_prefix() {
            return Err(ObjectError::invalid(
                "url",
                format!("{}: expected a key that does not end in `/`", at.shown()),
            ));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if mark.is_empty() || mark.len() > 128 || !mark.bytes().all(allowed) {
            return Err(ObjectError::invalid("mark", "expected 1 to 128 letters, digits, `-`, `_` and `.`"));
        }
        if size > MAX_OBJECT_BYTES {
            return Err(ObjectError::invalid(
                "size",
                format!("an object has at most {MAX_OBJECT_BYTES} bytes"),
            ));
        }
        let part_size = size.div_ceil(MAX_PARTS).max(PART_BYTES);
        let mut upload = Upload { location: at.clone(), mark: mark.to_owned(), size, part_size, id: None };
        if bucket.put_already(&upload).await?.is_none() && size > PART_BYTES {
            upload.id = Some(bucket.net.tried(at, || bucket.create_upload(at, mark)).await?);
        }
        Ok(upload)
    }

    /// Puts the file that the upload was begun for, and gives the object's version. After an interruption of any kind
    /// it is called again with the same upload: parts that arrived are not sent again, and an object that an earlier
    /// call completed is recognised by its mark. At most 4 parts are under way, with 3 MiB of memory; a file that goes in
    /// one request is in memory as a whole, which is 8 MiB at most.
    ///
    /// An object of another mark is never replaced: it is looked for before the last step, and that step is conditional
    /// (`If-None-Match: *`). Only with a server that does not know the condition may an object be replaced that came into
    /// being between the two.
    ///
    /// # Errors
    /// `Exists`, `UploadLost` when the server no longer knows the upload, `File` when the file cannot be read or has
    /// another size, and what the server fails with.
    pub async fn put(&self, upload: &Upload, file: &Path) -> Result<String, ObjectError> {
        let bucket = self.bucket(&upload.location)?;
        match bucket.put_already(upload).await? {
            Some(version) => Ok(version),
            None => self.put_new(upload, file).await,
        }
    }

    /// The same right after [`Objects::begin`], which has looked for the object: that is not done again before the file is sent.
    ///
    /// # Errors
    /// As [`Objects::put`].
    pub async fn put_new(&self, upload: &Upload, file: &Path) -> Result<String, ObjectError> {
        let at = &upload.location;
        let bucket = self.bucket(at)?;
        let source = Source::open(file, upload.size).await?;
        let parts = match &upload.id {
            Some(id) => bucket.put_parts(upload, id, &source).await?,
            // It was not begun in parts because its object was there, and now it is not.
            None if upload.size > PART_BYTES => {
                let lost = || ObjectError::UploadLost { object: at.shown() };
                return bucket.put_already(upload).await?.ok_or_else(lost);
            }
            None => Vec::new(),
        };
        let small = if upload.id.is_none() { source.read().await? } else { Bytes::new() };
        let mut conditional = true;
        loop {
            let placed = bucket.net.tried_with(at, upload.size.min(MOST_PLACED), || {
                let small = small.clone();
                async {
                    match &upload.id {
                        Some(id) => bucket.complete(at, id, &parts, conditional).await,
                        None => bucket.put(at, &upload.mark, small, conditional).await,
                    }
                }
            });
            // An answer may have been lost on its way: the object decides.
            let failed = match placed.await {
                Ok(Placed::Yes(version)) => return Ok(version),
                Ok(Placed::Unconditional) if conditional => None,
                Ok(Placed::Unconditional) => {
                    Some(ObjectError::unusable(at, "the server cannot put objects; check the endpoint"))
                }
                Ok(Placed::Taken) => Some(ObjectError::exists(at)),
                Err(error @ ObjectError::UploadLost { .. }) => Some(error),
                Err(error) => return Err(error),
            };
            if let Some(version) = bucket.put_already(upload).await? {
                return Ok(version);
            }
            if let Some(error) = failed {
                return Err(error);
            }
            conditional = false;
        }
    }

    /// Ends the upload, so that the server keeps none of its parts; an object that it completed stays. No call of
    /// [`Objects::put`] with it may be running. Doing it twice is harmless.
    ///
    /// # Errors
    /// What the server fails with.
    pub async fn abort(&self, upload: &Upload) -> Result<(), ObjectError> {
        let at = &upload.location;
        let bucket = self.bucket(at)?;
        let Some(id) = &upload.id else { return Ok(()) };
        for _ in 0..MAX_ABORTS {
            bucket.net.tried(at, || bucket.abort(at, id)).await?;
            // A part that was on its way may have arrived after all.
            if bucket
                .net
                .tried(at, || bucket.parts(at, id, 0))
                .await?
                .is_none_or(|page| page.parts.is_empty())
            {
                return Ok(());
            }
        }
        Err(ObjectError::Unavailable { object: at.shown(), reason: "the upload does not end".to_owned() })
    }
}

impl S3 {
    /// The version of the object if this upload put it there already, `None` if there is none.
    async fn put_already(&self, upload: &Upload) -> Result<Option<String>, ObjectError> {
        let at = &upload.location;
        match self.net.tried(at, || self.head(at)).await? {
            None => Ok(None),
            Some(head) if head.size == upload.size && head.mark.as_ref() == Some(&upload.mark) => {
                Ok(Some(head.version))
            }
            Some(_) => Err(ObjectError::exists(at)),
        }
    }

    /// Sends the parts that the server has not, and gives the numbers and ETags of all.
    async fn put_parts(
        &self,
        upload: &Upload,
        id: &str,
        source: &Source,
    ) -> Result<Vec<(u32, String)>, ObjectError> {
        let at = &upload.location;
        let mut parts = self.parts_there(upload, id).await?;
        let there = |number: &u32| parts.binary_search_by_key(number, |(number, _)| *number).is_ok();
        let missing: Vec<u32> = (1..=part_count(upload)).filter(|number| !there(number)).collect();
        let sent = stream::iter(missing).map(|number| {
            let (offset, length) = part_range(upload, number);
            async move {
                let digest = source.digest(offset, length).await?;
                let run = || self.put_part(at, (id, number), (length, digest), source.body(offset, length));
                Ok::<_, ObjectError>((number, self.net.tried_with(at, length, run).await?))
            }
        });
        parts.extend(sent.buffer_unordered(PARALLEL).try_collect::<Vec<_>>().await?);
        parts.sort_unstable();
        Ok(parts)
    }

    /// Numbers, in ascending order, and ETags of the parts that arrived whole.
    async fn parts_there(&self, upload: &Upload, id: &str) -> Result<Vec<(u32, String)>, ObjectError> {
        let at = &upload.location;
        let mut parts: Vec<(u32, String)> = Vec::new();
        let mut behind = 0;
        loop {
            let page = self.net.tried(at, || self.parts(at, id, behind)).await?;
            let Some(page) = page else { return Err(ObjectError::UploadLost { object: at.shown() }) };
            if page.more && page.parts.is_empty() {
                return Err(ObjectError::unusable(at, "the server's list of parts does not come to its end"));
            }
            for part in page.parts {
                if part.number <= behind || part.number > part_count(upload) {
                    return Err(ObjectError::unusable(at, "the server lists parts that were never sent"));
                }
                behind = part.number;
                if part.size == part_range(upload, part.number).1 {
                    parts.push((part.number, part.etag));
                }
            }
            if !page.more || behind == part_count(upload) {
                return Ok(parts);
            }
        }
    }
}

fn part_count(upload: &Upload) -> u32 {
    u32::try_from(upload.size.div_ceil(upload.part_size.max(1))).unwrap_or(u32::MAX)
}

/// Offset and length of a part in the file.
fn part_range(upload: &Upload, number: u32) -> (u64, u64) {
    let offset = u64::from(number.saturating_sub(1)).saturating_mul(upload.part_size);
    (offset, upload.size.saturating_sub(offset).min(upload.part_size))
}

/// The file that is put; every read happens on a thread that may block.
struct Source {
    file: Arc<File>,
    path: Arc<Path>,
    size: u64,
}

impl Source {
    async fn open(path: &Path, size: u64) -> Result<Self, ObjectError> {
        let path: Arc<Path> = Arc::from(path);
        let opened = Arc::clone(&path);
        let file = blocking(move || {
            let file = File::open(&opened)?;
            if file.metadata()?.len() == size {
                return Ok(file);
            }
            Err(io::Error::other(format!("expected {size} bytes; it has changed since the upload was begun")))
        });
        let file = file.await.map_err(|error| ObjectError::file(&path, error))?;
        Ok(Self { file: Arc::new(file), path, size })
    }

    /// All of it, which is not much.
    async fn read(&self) -> Result<Bytes, ObjectError> {
        let (file, size) = (Arc::clone(&self.file), self.size);
        let read = blocking(move || {
            let size = usize::try_from(size).ok().filter(|_| size <= PART_BYTES);
            let mut bytes = vec![0; size.ok_or(io::ErrorKind::FileTooLarge)?];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(Bytes::from(bytes))
        });
        read.await.map_err(|error| ObjectError::file(&self.path, error))
    }

    async fn digest(&self, offset: u64, length: u64) -> Result<Digest, ObjectError> {
        let file = Arc::clone(&self.file);
        let digest = blocking(move || {
            let mut context = Context::new(&SHA256);
            pieces(&file, offset, length, |piece| {
                context.update(&piece);
                true
            })?;
            Ok(context.finish())
        });
        digest.await.map_err(|error| ObjectError::file(&self.path, error))
    }

    /// The range as the body of a request; whoever drops it stops the reading.
    fn body(&self, offset: u64, length: u64) -> Body {
        let file = Arc::clone(&self.file);
        let (sender, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let outcome =
                pieces(&file, offset, length, |piece| sender.blocking_send(Ok(Frame::data(piece))).is_ok());
            if let Err(error) = outcome {
                let _ = sender.blocking_send(Err(error));
            }
        });
        let frames = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|frame| (frame, receiver))
        });
        StreamBody::new(frames).boxed_unsync()
    }
}

/// Reads a range in pieces, until one is not taken.
fn pieces(file: &File, mut offset: u64, length: u64, mut take: impl FnMut(Bytes) -> bool) -> io::Result<()> {
    let end = offset.saturating_add(length);
    while offset < end {
        let length = end.saturating_sub(offset).min(PIECE_BYTES as u64);
        let mut piece = vec![0; usize::try_from(length).unwrap_or(PIECE_BYTES)];
        file.read_exact_at(&mut piece, offset)?;
        if !take(Bytes::from(piece)) {
            break;
        }
        offset = offset.saturating_add(length);
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(run).await.map_err(io::Error::other)?
}
