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
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
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
    // As many wait as are let in.
    inboxes: Arc<[UnboundedSender<Incoming<Detached>>]>,
    turn: Arc<AtomicUsize>,
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
    /// server has ended.
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
                let _ = self.inboxes[turn].send(Incoming {
                    stream,
                    peer,
                    ticket,
                });
            }
            Err(error) => tracing::warn!(%peer, %error, "cannot hand a connection over"),
        }
    }
}

/// Serves what comes in, and waits until nothing is left of it.
async fn work(mut inbox: UnboundedReceiver<Incoming<Detached>>, connections: Connections) {
    while let Some(Incoming {
        stream,
        peer,
        ticket,
    }) = inbox.recv().await
    {
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
    // What is under way goes on until it is cut. After that, a disk that takes longer is not waited
    // for.
    let lifetime = &connections.lifetime;
    let late = async {
        lifetime.cut.cancelled().await;
        sleep(LAST_CHECKPOINTS).await;
    };
    tokio::select! {
        () = lifetime.ended() => {}
        () = late => {}
    }
}

impl Ended {
    pub(super) async fn wait(mut self) {
        // Nothing is ever sent.
        let _ = self.0.recv().await;
    }
}
