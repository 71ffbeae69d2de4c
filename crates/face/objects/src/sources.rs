//! Published products in S3-compatible storage and on web servers, as the catalog reads them.

use async_trait::async_trait;
use huitong_catalog::{Elsewhere, RemoteFile, RemoteReader};
use huitong_identity::ServiceError;

use crate::{Location, Object, ObjectError, ObjectReader, Objects};

#[async_trait]
impl Elsewhere for Objects {
    fn file_name(&self, url: &str) -> Result<String, ServiceError> {
        Location::parse(url).and_then(|at| at.name()).map_err(as_service_error)
    }

    async fn list(&self, url: &str, most: usize) -> Result<Vec<RemoteFile>, ServiceError> {
        let at = Location::parse(url).map_err(as_service_error)?;
        let objects = Objects::list(self, &at, most).await.map_err(as_service_error)?;
        Ok(objects.into_iter().map(remote_file).collect())
    }

    async fn find(
        &self,
        url: &str,
        is_wanted: &(dyn for<'p> Fn(&'p str) -> bool + Send + Sync),
    ) -> Result<Vec<RemoteFile>, ServiceError> {
        let at = Location::parse(url).map_err(as_delivery_error)?;
        let objects = Objects::find(self, &at, is_wanted).await.map_err(as_delivery_error)?;
        Ok(objects.into_iter().map(remote_file).collect())
    }

    fn reader(&self, file: &RemoteFile) -> Result<Box<dyn RemoteReader>, ServiceError> {
        let RemoteFile { url, path, size, version } = file.clone();
        let location = Location::parse(&url).map_err(as_service_error)?;
        Ok(Box::new(Objects::reader(self, &Object { location, path, size, version })))
    }
}

#[async_trait]
impl RemoteReader for ObjectReader {
    async fn append(&mut self, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), ServiceError> {
        self.read_at(offset, buffer, length).await.map_err(as_delivery_error)
    }
}

fn remote_file(object: Object) -> RemoteFile {
    let Object { location, path, size, version } = object;
    RemoteFile { url: location.to_string(), path, size, version }
}

/// What trying again later may mend is told apart from what an operator has to mend.
fn as_service_error(error: ObjectError) -> ServiceError {
    match error {
        ObjectError::Unavailable { .. } => ServiceError::Busy { reason: error.to_string() },
        ObjectError::Changed { .. } => ServiceError::Conflict { reason: error.to_string() },
        _ => ServiceError::invalid("file", error.to_string()),
    }
}

/// Once published, only what is surely another by now, or surely gone, cannot be delivered any more: everything else can be mended
/// by people, as keys, certificates and clocks are.
fn as_delivery_error(error: ObjectError) -> ServiceError {
    let reason = error.to_string();
    match error {
        ObjectError::Changed { .. } | ObjectError::NotFound { is_certain: true, .. } => {
            ServiceError::Conflict { reason }
        }
        _ => ServiceError::Busy { reason },
    }
}
