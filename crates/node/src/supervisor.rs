//! Background work: each worker runs until the node stops, and is started again with a growing pause when it fails.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A run that lasted this long was well; the next failure is a new one.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// What a worker does when the node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopping {
    /// Its round is dropped where it stands; what it does is safe to repeat.
    AtOnce,
    /// It watches [`Supervisor::draining`] itself and finishes what it began, as long as the drain lasts.
    Drains,
}

/// A worker as an operator sees it.
#[derive(Debug, Clone)]
pub(crate) struct WorkerStatus {
    pub(crate) name: &'static str,
    /// Rounds that failed.
    pub(crate) failures: u64,
    /// Why the last round failed; empty while the present one is well.
    pub(crate) last_error: String,
}

/// Runs the workers. Clones share them.
#[derive(Clone)]
pub(crate) struct Supervisor {
    tasks: TaskTracker,
    drain: CancellationToken,
    stop: CancellationToken,
    workers: Arc<Mutex<Vec<Arc<Mutex<WorkerStatus>>>>>,
    metrics: Metrics,
}

impl Supervisor {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            workers: Arc::default(),
            metrics,
        }
    }

    /// Cancelled when the node begins to stop.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.drain
    }

    /// Starts a worker. `run` is one round, which goes on until the work is done for good or fails; a failed or panicked round is followed by a pause that doubles from 100 ms
    /// up to `longest_pause`.
    pub(crate) fn spawn<F, R>(&self, name: &'static str, stopping: Stopping, longest_pause: Duration, run: F)
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Result<(), String>> + Send,
    {
        let status = Arc::new(Mutex::new(WorkerStatus { name, failures: 0, last_error: String::new() }));
        lock(&self.workers).push(status.clone());
        let ended = match stopping {
            Stopping::AtOnce => self.drain.clone(),
            Stopping::Drains => self.stop.clone(),
        };
        let (drain, metrics) = (self.drain.clone(), self.metrics.clone());
        self.tasks.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let begun = Instant::now();
                let mut round = Box::pin(AssertUnwindSafe(run()).catch_unwind());
                let round = loop {
                    tokio::select! {
                        () = ended.cancelled() => return,
                        round = &mut round => break round,
                        () = tokio::time::sleep_until(begun + WELL_AFTER), if begun.elapsed() < WELL_AFTER => {
                            lock(&status).last_error.clear();
                        }
                    }
                };
                let error = match round {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error,
                    Err(_) => "it panicked; report this with the log".to_owned(),
                };
                if begun.elapsed() >= WELL_AFTER {
                    pause = FIRST_PAUSE;
                }
                metrics.worker_failed(name);
                {
                    let mut status = lock(&status);
                    status.failures = status.failures.saturating_add(1);
                    // The same reason over and over is one line in the log.
                    if status.last_error == error {
                        tracing::debug!(worker = name, %error, "still failing");
                    } else {
                        tracing::warn!(worker = name, %error, "background work failed and is tried again");
                        status.last_error = error;
                    }
                }
                tokio::select! {
                    () = drain.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = pause.saturating_mul(2).min(longest_pause);
            }
        });
    }

    /// What the workers are doing.
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        lock(&self.workers).iter().map(|status| lock(status).clone()).collect()
    }

    /// Tells the workers to come to an end.
    pub(crate) fn drain(&self) {
        self.drain.cancel();
        self.tasks.close();
    }

    /// Waits until all have ended; call [`Supervisor::drain`] first.
    pub(crate) async fn ended(&self) {
        self.tasks.wait().await;
    }

    /// Ends those that are still finishing something, and waits for it.
    pub(crate) async fn stop(&self) {
        self.drain();
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test]
    async fn a_failing_worker_is_started_again_and_its_reason_is_kept() {
        let supervisor = Supervisor::new(Metrics::new());
        let rounds = Arc::new(AtomicU64::new(0));
        let (counted, (reached, hit)) = (rounds.clone(), tokio::sync::oneshot::channel());
        let reached = Mutex::new(Some(reached));
        supervisor.spawn("test", Stopping::AtOnce, Duration::from_millis(1), move || {
            let round = counted.fetch_add(1, Ordering::SeqCst);
            let reached = if round == 3 { lock(&reached).take() } else { None };
            async move {
                match round {
                    0 => Err("first".to_owned()),
                    1 => panic!("a defect"),
                    2 => Err("third".to_owned()),
                    _ => {
                        if let Some(reached) = reached {
                            let _ = reached.send(());
                        }
                        std::future::pending().await
                    }
                }
            }
        });
        hit.await.unwrap();
        let status = supervisor.workers().remove(0);
        assert_eq!((status.name, status.failures, status.last_error.as_str()), ("test", 3, "third"));
        supervisor.drain();
        supervisor.ended().await;
    }

    #[tokio::test]
    async fn draining_workers_finish_and_others_stop_at_once() {
        let supervisor = Supervisor::new(Metrics::new());
        let finished = Arc::new(AtomicU64::new(0));
        for stopping in [Stopping::AtOnce, Stopping::Drains] {
            let (finished, drain) = (finished.clone(), supervisor.draining().clone());
            supervisor.spawn("test", stopping, Duration::from_secs(1), move || {
                let (finished, drain) = (finished.clone(), drain.clone());
                async move {
                    drain.cancelled().await;
                    tokio::task::yield_now().await;
                    finished.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                }
            });
        }
        tokio::task::yield_now().await;
        supervisor.drain();
        supervisor.ended().await;
        assert_eq!(finished.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn stop_ends_a_worker_that_does_not_finish() {
        let supervisor = Supervisor::new(Metrics::new());
        supervisor.spawn("test", Stopping::Drains, Duration::from_secs(1), std::future::pending);
        supervisor.stop().await;
    }
}
