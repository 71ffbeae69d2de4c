//! Objects that are shown again whenever they change.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// Progress is shown at most this often; changes of the state of one object at once.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What a look at the watched object gives.
pub(super) struct Look<S> {
    /// The object as it is.
    pub(super) seen: S,
    /// Whether this is the last look.
    pub(super) over: bool,
}

/// Looks at an object now, after every commit and after ticks of progress, and shows it whenever it has changed, until
/// it is over or nobody reads. Looking happens after every commit of a busy node; only what changed is put into words.
pub(super) async fn watch<S, T>(
    out: mpsc::Sender<Result<T, Status>>,
    mut commits: watch::Receiver<u64>,
    mut ticks: Option<watch::Receiver<u64>>,
    look: impl Fn() -> Result<Look<S>, Status> + Send,
    show: impl Fn(S) -> T + Send,
) where
    S: Clone + PartialEq + Send,
    T: Send,
{
    let mut shown: Option<S> = None;
    loop {
        // Marked as seen before looking, so that a change in between wakes us again.
        commits.borrow_and_update();
        if let Some(ticks) = ticks.as_mut() {
            ticks.borrow_and_update();
        }
        let looked = Instant::now();
        let (next, over) = match look() {
            Ok(Look { seen, .. }) if shown.as_ref() == Some(&seen) => (None, false),
            Ok(Look { seen, over }) => {
                shown = Some(seen.clone());
                (Some(Ok(show(seen))), over)
            }
            Err(status) => (Some(Err(status)), true),
        };
        if let Some(next) = next
            && out.send(next).await.is_err()
        {
            return;
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
            () = progress(ticks.as_mut(), looked) => {}
        }
    }
}

/// The next tick, but not before the interval since the last look is over. Without further ticks, never.
pub(super) async fn progress<T>(ticks: Option<&mut watch::Receiver<T>>, looked: Instant) {
    if let Some(ticks) = ticks
        && changed(ticks, looked + PROGRESS_INTERVAL).await.is_ok()
    {
        return;
    }
    pending().await
}

/// The next change, but not before that moment.
///
/// # Errors
/// There are no further changes.
pub(super) async fn changed<T>(changes: &mut watch::Receiver<T>, next: Instant) -> Result<(), RecvError> {
    changes.changed().await?;
    sleep_until(next).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_changes_are_one_look() {
        let (changes, mut seen) = watch::channel(0);
        let next = Instant::now() + PROGRESS_INTERVAL;
        for change in 1..100 {
            changes.send_replace(change);
        }
        assert!(changed(&mut seen, next).await.is_ok());
        assert!(Instant::now() >= next);
        assert_eq!(*seen.borrow_and_update(), 99);
        drop(changes);
        assert!(changed(&mut seen, next).await.is_err());
    }
}
