//! The bytes of a connection, and the patience of the server with them.
//!
//! HTTP/2 has timeouts for nothing: h2 waits for ever for a client that connects and says
//! nothing, and for one that takes nothing from its socket. So they are kept here, where every byte
//! comes by.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    metrics::{Limit, Meters},
    wait::{Wait, after},
};

/// What every HTTP/2 client says first, in bytes: its preface, and the head of its SETTINGS.
const OPENING: usize = 24 + 9;

pin_project! {
    /// A socket whose reads fail when the client does not begin to speak in time, and whose writes
    /// fail when it takes nothing for too long.
    pub(super) struct Socket<S> {
        #[pin]
        inner: S,
        // None once the client has begun to speak.
        opening: Option<Opening>,
        stall: Wait,
        stall_timeout: Duration,
        moved: Moved,
        // None, too, once it has failed: that happens once.
        meters: Option<Arc<Meters>>,
    }
}

/// What a client still has to say, in bytes, and how long that may take.
struct Opening {
    left: usize,
    wait: Wait,
}

/// How many bytes a socket has moved.
#[derive(Clone, Debug, Default)]
pub(super) struct Moved(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Moved {
    /// In both directions.
    pub(super) fn bytes(&self) -> u64 {
        self.received() + self.0.sent.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }
}

impl<S> Socket<S> {
    /// Its failures are counted by `meters`.
    pub(super) fn new(
        inner: S,
        handshake_timeout: Duration,
        stall_timeout: Duration,
        meters: Option<Arc<Meters>>,
    ) -> Self {
        Self {
            inner,
            opening: Some(Opening {
                left: OPENING,
                wait: Wait::until(after(handshake_timeout)),
            }),
            stall: Wait::default(),
            stall_timeout,
            moved: Moved::default(),
            meters,
        }
    }

    /// The count of its bytes.
    pub(super) fn moved(&self) -> Moved {
        self.moved.clone()
    }
}

impl<S: AsyncRead> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let read = this.inner.poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        count(&this.moved.0.received, bytes);
        if let Some(opening) = this.opening {
            opening.left = opening.left.saturating_sub(bytes);
            if opening.left == 0 {
                *this.opening = None;
            } else if opening.wait.poll(cx).is_ready() {
                if let Some(meters) = this.meters.take() {
                    meters.refused(Limit::HandshakeTimeout);
                }
                return Poll::Ready(Err(late("the client did not begin to speak HTTP/2")));
            }
        }
        read
    }
}

impl<S: AsyncWrite> Socket<S> {
    /// Waits no longer than the timeout for what the client has to take. Each byte that it does
    /// take begins another.
    fn bounded<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let this = self.project();
        let polled = poll(this.inner, cx);
        if polled.is_ready() {
            this.stall.end();
            return polled;
        }
        this.stall.begin(*this.stall_timeout);
        ready!(this.stall.poll(cx));
        if let Some(meters) = this.meters.take() {
            meters.refused(Limit::WriteStallTimeout);
        }
        Poll::Ready(Err(late("the client takes nothing from its socket")))
    }
}

impl<S: AsyncWrite> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = |inner: Pin<&mut S>, cx: &mut Context<'_>| inner.poll_write(cx, bytes);
        let written = ready!(self.as_mut().bounded(cx, write))?;
        count(&self.moved.0.sent, written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write =
            |inner: Pin<&mut S>, cx: &mut Context<'_>| inner.poll_write_vectored(cx, buffers);
        let written = ready!(self.as_mut().bounded(cx, write))?;
        count(&self.moved.0.sent, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(cx, |inner, cx| inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(cx, |inner, cx| inner.poll_shutdown(cx))
    }
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn late(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
