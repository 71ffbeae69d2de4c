//! Deliveries into S3: what transfers ask of a depot, answered by the buckets of this node.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use huitong_transfer::{Depot, DepotError};

use crate::{Location, ObjectError, Objects, Upload};

#[async_trait]
impl Depot for Objects {
    fn check(&self, url: &str) -> Result<(), DepotError> {
        self.bucket(&Location::parse(url)?)?;
        Ok(())
    }

    async fn is_free(&self, url: &str) -> Result<bool, DepotError> {
        let at = Location::parse(url)?;
        match self.list(&at, 0).await {
            Ok(found) => Ok(found.is_empty()),
            Err(ObjectError::TooMany { .. }) => Ok(false),
            Err(ObjectError::NotFound { .. }) if !at.is_prefix() => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    async fn begin(&self, url: &str, size: u64, mark: &str) -> Result<Bytes, DepotError> {
        let upload = Objects::begin(self, &Location::parse(url)?, size, mark).await?;
        serde_json::to_vec(&upload).map(Bytes::from).map_err(|error| DepotError::Never(error.to_string()))
    }

    async fn put(&self, upload: &[u8], file: &Path, is_new: bool) -> Result<(), DepotError> {
        let upload = read(upload)?;
        match is_new {
            true => self.put_new(&upload, file).await?,
            false => Objects::put(self, &upload, file).await?,
        };
        Ok(())
    }

    async fn abort(&self, upload: &[u8]) -> Result<(), DepotError> {
        Ok(Objects::abort(self, &read(upload)?).await?)
    }
}

fn read(upload: &[u8]) -> Result<Upload, DepotError> {
    serde_json::from_slice(upload)
        .map_err(|error| DepotError::Never(format!("a stored upload is damaged: {error}")))
}

impl From<ObjectError> for DepotError {
    fn from(error: ObjectError) -> Self {
        let reason = error.to_string();
        match error {
            ObjectError::Exists { .. } => Self::Exists(reason),
            ObjectError::UploadLost { .. } => Self::Lost(reason),
            ObjectError::Invalid { .. } => Self::Never(reason),
            // Credentials, buckets and servers are put right by people.
            _ => Self::Again(reason),
        }
    }
}
