//! Long work of the node for an operator who watches it.

use huitong_identity::{ServiceError, Standing};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::watch::progress;
use super::{Watch, failed};

/// Messages that wait for a client that reads slowly.
const BUFFERED: usize = 4;

/// Where the work puts how far it has come. Only the newest is shown.
pub(super) type Steps<T> = watch::Sender<Option<T>>;

/// Begins the work, shows its progress, and ends with its report or its error. It goes on when the client goes away.
pub(super) fn show_work<T, F>(standing: Standing, begin: impl FnOnce(Steps<T>) -> F) -> Watch<T>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Result<T, ServiceError>> + Send + 'static,
{
    let (steps, mut ticks) = watch::channel(None);
    let mut working = tokio::spawn(begin(steps));
    let (out, stream) = mpsc::channel(BUFFERED);
    tokio::spawn(async move {
        let mut looked = Instant::now();
        let report = loop {
            tokio::select! {
                report = &mut working => break report,
                () = progress(Some(&mut ticks), looked) => {
                    looked = Instant::now();
                    if let Some(step) = ticks.borrow_and_update().clone() {
                        // A client that does not keep up misses some progress, nothing else.
                        let _ = out.try_send(Ok(step));
                    }
                }
            }
        };
        let report = report
            .unwrap_or_else(|error| Err(ServiceError::Internal(format!("the work was cut off: {error}"))));
        let _ = out.send(report.map_err(failed(&standing))).await;
    });
    ReceiverStream::new(stream)
}
