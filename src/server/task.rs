//! The task of a call, from its first byte to its last.
//!
//! hyper asks a handler for nothing as long as the client does not take what is there. So a call
//! whose time is over could not be told to end, and would keep its file open for a client that
//! never reads: then the task itself ends, and with it all that the call holds.

use std::{cell::Cell, future::poll_fn, pin::pin, task::Poll, time::Duration};

use hyper::rt::Executor;
use tokio::{task_local, time::Instant};
use tokio_util::task::TaskTracker;

use super::wait::Wait;

/// How long after its time a call may take to say that it is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

task_local! {
    static END: Cell<Option<Instant>>;
}

/// Ends the task that runs this, the call's, a moment after `time`. Its client sees a reset.
pub(super) fn end_at(time: Instant) {
    END.with(|end| end.set(Some(time + LAST_WORDS)));
}

/// Runs the calls of one connection.
#[derive(Clone, Default)]
pub(super) struct Tasks(TaskTracker);

impl Tasks {
    /// Whether no call is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until no call is under way and none will be.
    pub(super) async fn ended(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.0.spawn(END.scope(Cell::new(None), async move {
            let mut call = pin!(call);
            let mut end = Wait::default();
            poll_fn(|cx| {
                if call.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if let Some(time) = END.with(Cell::take) {
                    end = Wait::until(time);
                }
                end.poll(cx)
            })
            .await;
        }));
    }
}
