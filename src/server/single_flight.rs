//! Tasks that run at most once at a time.

use std::time::Duration;

use tokio::{sync::Mutex, task::JoinHandle, time::timeout};

/// Runs at most one instance of a task at a time. A caller that times out leaves the task running, and the next
/// one takes its result.
#[derive(Debug)]
pub(super) struct SingleFlight<T>(Mutex<Option<JoinHandle<T>>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Send + 'static> SingleFlight<T> {
    /// Returns the result of the running task, or of one that `start` starts; None after `limit`.
    pub(super) async fn run(
        &self,
        limit: Duration,
        start: impl FnOnce() -> JoinHandle<T>,
    ) -> Option<T> {
        let result = async {
            let mut running = self.0.lock().await;
            let result = running.get_or_insert_with(start).await;
            *running = None;
            result.ok()
        };
        timeout(limit, result).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn timed_out_caller_leaves_the_task_running() {
        let single_flight = SingleFlight::default();
        let (answer, answered) = oneshot::channel();
        let first = single_flight.run(TIMEOUT, || tokio::spawn(async { answered.await.ok() }));
        assert_eq!(first.await, None);
        answer.send(1).unwrap();
        let second = single_flight.run(TIMEOUT, || tokio::spawn(pending()));
        assert_eq!(second.await, Some(Some(1)));
        let third = single_flight.run(TIMEOUT, || tokio::spawn(async { Some(3) }));
        assert_eq!(third.await, Some(Some(3)));
    }
}
