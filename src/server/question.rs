//! Questions that may take long to answer.

use std::time::Duration;

use tokio::{sync::Mutex, task::JoinHandle, time::timeout};

/// A question, asked once at a time: however many want to know, and however often in vain, it is
/// under way once.
#[derive(Debug)]
pub(super) struct Question<T>(Mutex<Option<JoinHandle<T>>>);

impl<T> Default for Question<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Send + 'static> Question<T> {
    /// The answer, if it comes in time. What is asked anew is `work`; it goes on when nobody waits
    /// for it any more.
    pub(super) async fn ask<F>(&self, patience: Duration, work: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let answer = async {
            let mut asked = self.0.lock().await;
            let answer = asked.get_or_insert_with(|| tokio::spawn(work())).await;
            *asked = None;
            answer.ok()
        };
        timeout(patience, answer).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn who_asks_in_vain_does_not_ask_twice() {
        let question = Question::default();
        let (answer, answered) = oneshot::channel();
        let first = question.ask(PATIENCE, || async { answered.await.ok() });
        assert_eq!(first.await, None);
        answer.send(1).unwrap();
        let second = question.ask(PATIENCE, pending);
        assert_eq!(second.await, Some(Some(1)));
        let third = question.ask(PATIENCE, || async { Some(3) });
        assert_eq!(third.await, Some(Some(3)));
    }
}
