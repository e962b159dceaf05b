//! The threads that serve connections.
//!
//! Each has a runtime of its own. A connection, its calls and all tasks that they wake stay on one thread. For
//! small calls this is 1.5 times as fast as one runtime with as many threads.

use std::{
    io,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    net::{TcpStream, UnixStream},
    runtime::{self, Handle},
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    time::sleep,
};

use super::{
    connection::{ConnectionContext, Incoming},
    heartbeat::Heartbeat,
    shutdown::BACKGROUND_GRACE,
    transport::Stream,
};

/// The name of the threads, and of their blocking threads.
const THREAD_NAME: &str = "muxs-worker";

/// Where connections are served.
#[derive(Clone, Debug)]
pub(super) enum Threads {
    /// On so many threads, each with a runtime of its own.
    Own(NonZero<usize>),
    /// On the runtime of the embedding program.
    Runtime(Handle),
}

/// Dispatches connections to the workers, round robin. Clones share the position.
#[derive(Clone)]
pub(super) struct Workers {
    // Unbounded, since the limit on connections bounds them.
    queues: Arc<[UnboundedSender<Job>]>,
    next: Arc<AtomicUsize>,
}

enum Job {
    Serve(Incoming<StdStream>),
    /// Runs a function that does not block.
    Ping(Box<dyn FnOnce() + Send>),
}

/// A socket that is registered with no runtime.
enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Completes when all workers have ended.
pub(super) struct WorkersDone(mpsc::Receiver<()>);

impl Workers {
    /// Starts the workers, each with a context of its own: counters that all cores share would slow down each
    /// call.
    ///
    /// A worker ends when the last clone of `Workers` is dropped and the server's tasks have ended. After the
    /// abort, it ends with the tasks, or after [`BACKGROUND_GRACE`].
    pub(super) fn start(
        threads: Threads,
        context: impl Fn() -> ConnectionContext,
    ) -> io::Result<(Self, WorkersDone)> {
        let (running, done) = mpsc::channel(1);
        let queues = match threads {
            Threads::Own(count) => (0..count.get())
                .map(|_| start_thread(context(), running.clone()))
                .collect::<io::Result<_>>()?,
            Threads::Runtime(runtime) => {
                let (queue, jobs) = mpsc::unbounded_channel();
                let context = context();
                runtime.spawn(async move {
                    worker_main(jobs, context).await;
                    drop(running);
                });
                [queue].into()
            }
        };
        let next = Arc::default();
        Ok((Self { queues, next }, WorkersDone(done)))
    }

    pub(super) fn dispatch(&self, incoming: Incoming) {
        let Incoming {
            stream,
            peer,
            permit,
        } = incoming;
        let stream = match stream {
            Stream::Tcp(stream) => stream.into_std().map(StdStream::Tcp),
            Stream::Unix(stream) => stream.into_std().map(StdStream::Unix),
        };
        match stream {
            Ok(stream) => {
                let next = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
                let job = Job::Serve(Incoming {
                    stream,
                    peer,
                    permit,
                });
                if self.queues[next].send(job).is_err() {
                    tracing::debug!(%peer, "connection closed: its worker has ended");
                }
            }
            Err(error) => tracing::warn!(%peer, %error, "cannot dispatch a connection"),
        }
    }

    /// Waits until each worker has run a job; without end if one is stuck. False if a worker has ended.
    ///
    /// The ping of a stuck worker stays in its queue even when this future is dropped, so a caller has to
    /// await one result before it asks for the next.
    pub(super) async fn ping_all(&self) -> bool {
        let ping = |queue: &UnboundedSender<Job>| {
            let (pong, received) = oneshot::channel();
            let ping = Job::Ping(Box::new(|| {
                // It fails when the caller has stopped waiting.
                let _ = pong.send(());
            }));
            // If it fails, the sender is dropped with the job, which completes the receiver.
            let _ = queue.send(ping);
            received
        };
        let pongs: Vec<_> = self.queues.iter().map(ping).collect();
        for pong in pongs {
            if pong.await.is_err() {
                return false;
            }
        }
        true
    }

    /// Beats forever, or until a worker has ended.
    pub(super) async fn keep_beating(self, heartbeat: Heartbeat) {
        while self.ping_all().await {
            (heartbeat.beat)();
            sleep(heartbeat.every).await;
        }
    }
}

fn start_thread(
    context: ConnectionContext,
    running: mpsc::Sender<()>,
) -> io::Result<UnboundedSender<Job>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(THREAD_NAME)
        .build()?;
    let (queue, jobs) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name(THREAD_NAME.to_owned())
        .spawn(move || {
            runtime.block_on(worker_main(jobs, context));
            // Dropping the runtime would wait for blocking threads, and so for a disk that hangs.
            runtime.shutdown_background();
            drop(running);
        })?;
    Ok(queue)
}

/// Serves the connections of one queue until they and the server's tasks have ended.
async fn worker_main(jobs: UnboundedReceiver<Job>, context: ConnectionContext) {
    let shutdown = &context.shutdown;
    // Senders may outlive the abort.
    let serving = serve_queue(jobs, &context);
    shutdown.abort.run_until_cancelled(serving).await;
    let grace_is_over = async {
        shutdown.abort.cancelled().await;
        sleep(BACKGROUND_GRACE).await;
    };
    tokio::select! {
        () = shutdown.wait_until_idle() => {}
        () = grace_is_over => {}
    }
}

async fn serve_queue(mut jobs: UnboundedReceiver<Job>, context: &ConnectionContext) {
    while let Some(job) = jobs.recv().await {
        let Incoming {
            stream,
            peer,
            permit,
        } = match job {
            Job::Serve(incoming) => incoming,
            Job::Ping(ping) => {
                ping();
                continue;
            }
        };
        let stream = match stream {
            StdStream::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            StdStream::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        };
        match stream {
            Ok(stream) => context.serve(Incoming {
                stream,
                peer,
                permit,
            }),
            Err(error) => tracing::warn!(%peer, %error, "cannot register a connection"),
        }
    }
}

impl WorkersDone {
    pub(super) async fn wait(mut self) {
        // Nothing is ever sent; the channel closes with the last worker.
        let _ = self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc as blocking, time::Duration};

    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;
    use crate::server::{
        Limits,
        calls::{CallContext, CallLimit, Methods, Routes},
        shutdown::Shutdown,
    };

    const COUNT: NonZero<usize> = NonZero::new(2).unwrap();

    struct Fixture {
        workers: Workers,
        done: WorkersDone,
        shutdown: Shutdown,
    }

    fn start() -> Fixture {
        let shutdown = Shutdown::default();
        let limits = Arc::new(Limits::default());
        let context = || ConnectionContext {
            calls: CallContext::new(
                Routes::default(),
                Methods::default(),
                CallLimit::new(1),
                Arc::clone(&limits),
            ),
            tls: None,
            limits: Arc::clone(&limits),
            grace: Duration::ZERO,
            shutdown: shutdown.clone(),
        };
        let (workers, done) = Workers::start(Threads::Own(COUNT), context).unwrap();
        Fixture {
            workers,
            done,
            shutdown,
        }
    }

    impl Workers {
        fn run(&self, worker: usize, job: impl FnOnce() + Send + 'static) {
            let sent = self.queues[worker].send(Job::Ping(Box::new(job)));
            assert!(sent.is_ok(), "the worker has ended");
        }

        /// Blocks a worker until the returned sender is dropped.
        fn block(&self, worker: usize) -> blocking::Sender<()> {
            let (release, released) = blocking::channel();
            self.run(worker, move || {
                let _ = released.recv();
            });
            release
        }

        /// Waits until a worker has run the jobs in its queue.
        async fn wait_for(&self, worker: usize) {
            let (pong, received) = oneshot::channel();
            self.run(worker, || pong.send(()).unwrap());
            received.await.unwrap();
        }
    }

    #[tokio::test]
    async fn heartbeat_pauses_while_a_worker_is_stuck() {
        for stuck in 0..COUNT.get() {
            let fixture = start();
            let workers = &fixture.workers;
            let (sender, mut beats) = mpsc::unbounded_channel();
            let heartbeat = Heartbeat {
                every: Duration::from_millis(1),
                beat: Arc::new(move || sender.send(()).unwrap()),
            };
            let release = workers.block(stuck);
            let beating = tokio::spawn(workers.clone().keep_beating(heartbeat));
            // The heartbeat pings first, so its pong from the other worker is there when this one is.
            tokio::task::yield_now().await;
            workers.wait_for(1 - stuck).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(beats.try_recv(), Err(TryRecvError::Empty));

            drop(release);
            for _ in 0..3 {
                beats.recv().await.unwrap();
            }
            beating.abort();
        }
    }

    #[tokio::test]
    async fn abort_ends_workers_with_live_senders() {
        let fixture = start();
        assert!(fixture.workers.ping_all().await);
        fixture.shutdown.drain();
        assert!(fixture.workers.ping_all().await);
        fixture.shutdown.abort.cancel();
        let done = tokio::time::timeout(Duration::from_secs(40), fixture.done.wait());
        done.await.unwrap();
        assert!(!fixture.workers.ping_all().await);
    }
}
