//! Work that waits for the disk.

use huitong_identity::ServiceError;

/// Runs it on a thread that may wait.
///
/// # Errors
/// Those of the work, and [`ServiceError::Internal`] when it panicked or the node is stopping.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(ServiceError::Internal(format!("work was not finished: {error}"))),
    }
}
