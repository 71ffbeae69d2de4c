//! Threads for content: one and the same thread takes what comes over a connection from the network, decrypts it, and hands it
//! on to those that verify and write. Among all threads of the process it would wander from core to core, and they would spend
//! their time on waking each other.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

/// The most threads, however many cores there are.
const MOST: usize = 16;
/// Blocking threads beside those that each of the expected tasks may have.
const SPARE: usize = 512;
/// Blocking threads of one transfer that is received: one writes, one makes durable.
const BLOCKING_EACH: usize = 2;

/// The threads. Clones are the same ones; they end with the last of them.
#[derive(Clone, Default)]
pub struct Threads(Arc<Runtimes>);

#[derive(Default)]
struct Runtimes(Vec<Runtime>);

impl Threads {
    /// One thread for each core, for so many transfers at a time.
    ///
    /// # Errors
    /// What the system says when it has no descriptors left for them.
    pub fn start(transfers: usize) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let blocking = transfers.saturating_mul(BLOCKING_EACH).saturating_add(SPARE);
        // Those that have started end without waiting when one of them cannot.
        let mut runtimes = Runtimes::default();
        for _ in 0..cores.min(MOST) {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1).max_blocking_threads(blocking);
            runtimes.0.push(builder.thread_name("huitong-content").enable_all().build()?);
        }
        Ok(Self(Arc::new(runtimes)))
    }

    /// The one with the fewest tasks; without any, the runtime of the caller.
    pub fn quietest(&self) -> Handle {
        let handles = self.0.0.iter().map(Runtime::handle);
        handles
            .min_by_key(|handle| handle.metrics().num_alive_tasks())
            .cloned()
            .unwrap_or_else(Handle::current)
    }
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        // The last clone may go in a task, which must not wait.
        self.0.drain(..).for_each(Runtime::shutdown_background);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn each_task_has_one_thread_and_they_are_spread() {
        let threads = Threads::start(1).unwrap();
        let (hold, held) = tokio::sync::watch::channel(());
        let mut tasks = Vec::new();
        let count = threads.0.0.len();
        for _ in 0..count {
            let mut held = held.clone();
            tasks.push(threads.quietest().spawn(async move {
                let before = thread::current().id();
                let _ = held.changed().await;
                assert_eq!(before, thread::current().id(), "it wandered");
                before
            }));
        }
        hold.send(()).unwrap();
        let mut seen = HashSet::new();
        for task in tasks {
            seen.insert(task.await.unwrap());
        }
        assert_eq!(seen.len(), count);
        assert!(!seen.contains(&thread::current().id()));
        // In a task, without a panic.
        drop(threads);
    }

    #[tokio::test]
    async fn without_any_the_callers_own_runs_it() {
        assert_eq!(Threads::default().quietest().id(), Handle::current().id());
    }
}
