//! Objects that are shown again whenever they change.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

/// Progress is shown at most this often; changes of state at once.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What a look at the watched object gives.
pub(super) enum Look<T> {
    /// Show it when it differs from what was shown, and look again.
    Goes(T),
    /// Show it when it differs from what was shown, and end.
    Ends(T),
}

/// Looks at an object now, after every commit and after ticks of progress, and sends it whenever it has changed, until
/// it ends or nobody reads.
pub(super) async fn watch<T, F>(
    out: mpsc::Sender<Result<T, Status>>,
    mut commits: watch::Receiver<u64>,
    mut ticks: Option<watch::Receiver<u64>>,
    look: F,
) where
    T: Clone + PartialEq + Send,
    F: Fn() -> Result<Look<T>, Status> + Send,
{
    let mut shown: Option<T> = None;
    let mut last_look;
    loop {
        // Marked as seen before looking, so that a change in between wakes us again.
        commits.borrow_and_update();
        if let Some(ticks) = ticks.as_mut() {
            ticks.borrow_and_update();
        }
        last_look = Instant::now();
        let (now, over) = match look() {
            Ok(Look::Goes(now)) => (now, false),
            Ok(Look::Ends(now)) => (now, true),
            Err(status) => {
                let _ = out.send(Err(status)).await;
                return;
            }
        };
        if shown.as_ref() != Some(&now) {
            shown = Some(now.clone());
            if out.send(Ok(now)).await.is_err() {
                return;
            }
        }
        if over {
            return;
        }
        tokio::select! {
            () = out.closed() => return,
            changed = commits.changed() => if changed.is_err() {
                let _ = out.send(Err(Status::unavailable("the node is stopping"))).await;
                return;
            },
            () = progress(ticks.as_mut(), last_look) => {}
        }
    }
}

/// The next tick, but not before the interval is over.
async fn progress(ticks: Option<&mut watch::Receiver<u64>>, last_look: Instant) {
    if let Some(ticks) = ticks
        && ticks.changed().await.is_ok()
    {
        tokio::time::sleep_until(last_look + PROGRESS_INTERVAL).await;
        return;
    }
    std::future::pending().await
}
