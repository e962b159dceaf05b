//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection, its calls and all that they wake stay on one thread; nothing is handed from core to
//! core. For small calls that is worth half as much again as one runtime with as many threads.

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
    runtime,
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    time::sleep,
};

use super::{
    LAST_CHECKPOINTS,
    accept::{Incoming, Stream},
    connection::Connections,
};

/// The name of the threads, and of those that they leave the disk to.
const THREAD: &str = "muxs-worker";

/// Hands connections to the workers, to one after the other. Clones take the same turns.
#[derive(Clone)]
pub(super) struct Workers {
    // As many connections wait as are let in.
    inboxes: Arc<[UnboundedSender<Errand>]>,
    turn: Arc<AtomicUsize>,
}

/// What a worker is to do.
enum Errand {
    Serve(Incoming<Detached>),
    /// Something that does not block.
    Call(Box<dyn FnOnce() + Send>),
}

/// A stream that no runtime knows.
enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Completes when all workers have ended.
pub(super) struct Ended(mpsc::Receiver<()>);

impl Workers {
    /// Starts `count` of them, each with connections of its own: what they share is counted by all
    /// cores, at each call. They end when the last clone is dropped and what belongs to the
    /// server has ended, and when it is cut.
    pub(super) fn start(
        count: NonZero<usize>,
        connections: impl Fn() -> Connections,
    ) -> io::Result<(Self, Ended)> {
        let (running, ended) = mpsc::channel(1);
        let start = |_| {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .thread_name(THREAD)
                .build()?;
            let (inbox, incoming) = mpsc::unbounded_channel();
            let (connections, running) = (connections(), running.clone());
            thread::Builder::new()
                .name(THREAD.to_owned())
                .spawn(move || {
                    runtime.block_on(work(incoming, connections));
                    // Dropping it would wait for a disk that does not answer.
                    runtime.shutdown_background();
                    drop(running);
                })?;
            Ok(inbox)
        };
        let inboxes = (0..count.get()).map(start).collect::<io::Result<_>>()?;
        let turn = Arc::default();
        Ok((Self { inboxes, turn }, Ended(ended)))
    }

    pub(super) fn hand_over(&self, incoming: Incoming) {
        let Incoming {
            stream,
            peer,
            ticket,
        } = incoming;
        let stream = match stream {
            Stream::Tcp(stream) => stream.into_std().map(Detached::Tcp),
            Stream::Unix(stream) => stream.into_std().map(Detached::Unix),
        };
        match stream {
            Ok(stream) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
                // A worker that is gone was told to go.
                let _ = self.inboxes[turn].send(Errand::Serve(Incoming {
                    stream,
                    peer,
                    ticket,
                }));
            }
            Err(error) => tracing::warn!(%peer, %error, "cannot hand a connection over"),
        }
    }

    /// Waits until each worker has come by, and one that is stuck without end. False when one is gone.
    ///
    /// A probe stays with a stuck worker even when this is dropped: whoever asks again and again has
    /// to wait for the answer before.
    pub(super) async fn turn(&self) -> bool {
        let probe = |inbox: &UnboundedSender<Errand>| {
            let (here, answer) = oneshot::channel();
            let probe = Errand::Call(Box::new(|| {
                // Whoever asked may have gone.
                let _ = here.send(());
            }));
            // Dropped with the probe, the other end says that the worker is gone.
            let _ = inbox.send(probe);
            answer
        };
        let answers: Vec<_> = self.inboxes.iter().map(probe).collect();
        for answer in answers {
            if answer.await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Serves what comes in, and waits until nothing is left of it.
async fn work(inbox: UnboundedReceiver<Errand>, connections: Connections) {
    let lifetime = &connections.lifetime;
    // Not longer, whoever may still send something.
    let taking_in = take_in(inbox, &connections);
    lifetime.cut.run_until_cancelled(taking_in).await;
    // What is under way goes on until it is cut. After that, a disk that takes longer is not waited
    // for.
    let late = async {
        lifetime.cut.cancelled().await;
        sleep(LAST_CHECKPOINTS).await;
    };
    tokio::select! {
        () = lifetime.ended() => {}
        () = late => {}
    }
}

async fn take_in(mut inbox: UnboundedReceiver<Errand>, connections: &Connections) {
    while let Some(errand) = inbox.recv().await {
        let Incoming {
            stream,
            peer,
            ticket,
        } = match errand {
            Errand::Serve(incoming) => incoming,
            Errand::Call(call) => {
                call();
                continue;
            }
        };
        let stream = match stream {
            Detached::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Detached::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        };
        match stream {
            Ok(stream) => connections.serve(Incoming {
                stream,
                peer,
                ticket,
            }),
            Err(error) => tracing::warn!(%peer, %error, "cannot take a connection over"),
        }
    }
}

impl Ended {
    pub(super) async fn wait(mut self) {
        // Nothing is ever sent.
        let _ = self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc as blocking, time::Duration};

    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;
    use crate::{
        files::{FileService, Settings, Store},
        server::{
            Heartbeat, Limits, Reflection,
            calls::{Calls, Room},
            lifetime::Lifetime,
            services,
        },
    };

    const COUNT: NonZero<usize> = NonZero::new(2).unwrap();

    struct Fixture {
        workers: Workers,
        ended: Ended,
        lifetime: Lifetime,
        _root: tempfile::TempDir,
    }

    async fn workers() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let lifetime = Lifetime::default();
        let files = FileService {
            store: Store::open(root.path(), Settings::default()).unwrap(),
            chunk_bytes: 1,
            tasks: lifetime.uploads.clone(),
            ending: lifetime.ending.clone(),
        };
        let health = services::serving().await;
        let limits = Arc::new(Limits::default());
        let connections = || Connections {
            calls: Calls::new(
                services::routes(files.clone(), health.clone(), Reflection::Off),
                services::methods(Reflection::Off),
                Room::new(1),
                Arc::clone(&limits),
            ),
            tls: None,
            limits: Arc::clone(&limits),
            grace: Duration::ZERO,
            lifetime: lifetime.clone(),
        };
        let (workers, ended) = Workers::start(COUNT, connections).unwrap();
        Fixture {
            workers,
            ended,
            lifetime,
            _root: root,
        }
    }

    impl Workers {
        fn call(&self, worker: usize, call: impl FnOnce() + Send + 'static) {
            let sent = self.inboxes[worker].send(Errand::Call(Box::new(call)));
            assert!(sent.is_ok(), "the worker is gone");
        }

        /// Blocks a thread until what this returns is dropped.
        fn block(&self, worker: usize) -> blocking::Sender<()> {
            let (release, released) = blocking::channel();
            self.call(worker, move || {
                let _ = released.recv();
            });
            release
        }

        /// Waits until a worker has done what it was given before.
        async fn caught_up(&self, worker: usize) {
            let (here, answer) = oneshot::channel();
            self.call(worker, || here.send(()).unwrap());
            answer.await.unwrap();
        }
    }

    #[tokio::test]
    async fn no_beat_comes_while_one_worker_is_stuck_and_they_go_on_when_it_is_not() {
        for stuck in 0..COUNT.get() {
            let fixture = workers().await;
            let workers = &fixture.workers;
            let (tell, mut beats) = mpsc::unbounded_channel();
            let heartbeat = Heartbeat {
                every: Duration::from_millis(1),
                beat: Arc::new(move || tell.send(()).unwrap()),
            };
            let release = workers.block(stuck);
            let beating = tokio::spawn(heartbeat.keep_beating(workers.clone()));
            // It asks, and then the other one answers, of which it hears before this does.
            tokio::task::yield_now().await;
            workers.caught_up(1 - stuck).await;
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

    /// Such as whoever still probes them.
    #[tokio::test]
    async fn the_cut_ends_workers_that_somebody_could_still_give_something_to() {
        let fixture = workers().await;
        assert!(fixture.workers.turn().await);
        fixture.lifetime.drain();
        assert!(fixture.workers.turn().await);
        fixture.lifetime.cut.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(40), fixture.ended.wait());
        ended.await.unwrap();
        assert!(!fixture.workers.turn().await);
    }
}
