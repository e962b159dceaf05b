//! A socket with timeouts for its first bytes and for blocked writes.
//!
//! h2 has neither: it waits forever for a client that connects and sends nothing, and for one that reads
//! nothing.

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

use crate::server::{
    metrics::{Limit, WorkerCounters},
    timer::{LazyTimeout, deadline_after},
};

/// The length of what every HTTP/2 client sends first: the preface and the head of its SETTINGS.
const PREFACE_LEN: usize = 24 + 9;

pin_project! {
    /// A socket whose reads fail if the client does not send its preface in time, and whose writes fail if
    /// the client reads nothing for too long.
    pub(in crate::server) struct TimeoutIo<S> {
        #[pin]
        inner: S,
        // None once the preface has been received.
        preface: Option<Preface>,
        write_timeout: LazyTimeout,
        write_stall_timeout: Duration,
        bytes: ByteCounters,
        // Taken by the first timeout, so that a connection counts once.
        counters: Option<Arc<WorkerCounters>>,
    }
}

/// The part of the preface that has not been received.
struct Preface {
    remaining: usize,
    timeout: LazyTimeout,
}

/// The bytes that a socket has received and sent. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct ByteCounters(Arc<ByteCounts>);

#[derive(Debug, Default)]
struct ByteCounts {
    received: AtomicU64,
    sent: AtomicU64,
}

impl ByteCounters {
    /// The bytes in both directions.
    pub(in crate::server) fn total(&self) -> u64 {
        self.received() + self.0.sent.load(Ordering::Relaxed)
    }

    pub(in crate::server) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }
}

impl<S> TimeoutIo<S> {
    pub(in crate::server) fn new(
        inner: S,
        handshake_timeout: Duration,
        write_stall_timeout: Duration,
        counters: Option<Arc<WorkerCounters>>,
    ) -> Self {
        Self {
            inner,
            preface: Some(Preface {
                remaining: PREFACE_LEN,
                timeout: LazyTimeout::at(deadline_after(handshake_timeout)),
            }),
            write_timeout: LazyTimeout::default(),
            write_stall_timeout,
            bytes: ByteCounters::default(),
            counters,
        }
    }

    pub(in crate::server) fn byte_counters(&self) -> ByteCounters {
        self.bytes.clone()
    }
}

impl<S: AsyncRead> AsyncRead for TimeoutIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let read = this.inner.poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        add(&this.bytes.0.received, bytes);
        if let Some(preface) = this.preface {
            preface.remaining = preface.remaining.saturating_sub(bytes);
            if preface.remaining == 0 {
                *this.preface = None;
            } else if preface.timeout.poll(cx).is_ready() {
                if let Some(counters) = this.counters.take() {
                    counters.hit(Limit::HandshakeTimeout);
                }
                return Poll::Ready(Err(timed_out("the client did not send its HTTP/2 preface")));
            }
        }
        read
    }
}

impl<S: AsyncWrite> TimeoutIo<S> {
    /// Fails a write that stays blocked for the timeout. Each write that proceeds restarts the timeout.
    fn with_write_timeout<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let this = self.project();
        let polled = poll(this.inner, cx);
        if polled.is_ready() {
            this.write_timeout.disarm();
            return polled;
        }
        this.write_timeout.arm(*this.write_stall_timeout);
        ready!(this.write_timeout.poll(cx));
        if let Some(counters) = this.counters.take() {
            counters.hit(Limit::WriteStallTimeout);
        }
        Poll::Ready(Err(timed_out(
            "the client does not read the data that waits for it",
        )))
    }
}

impl<S: AsyncWrite> AsyncWrite for TimeoutIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = |inner: Pin<&mut S>, cx: &mut Context<'_>| inner.poll_write(cx, bytes);
        let written = ready!(self.as_mut().with_write_timeout(cx, write))?;
        add(&self.bytes.0.sent, written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write =
            |inner: Pin<&mut S>, cx: &mut Context<'_>| inner.poll_write_vectored(cx, buffers);
        let written = ready!(self.as_mut().with_write_timeout(cx, write))?;
        add(&self.bytes.0.sent, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_write_timeout(cx, |inner, cx| inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_write_timeout(cx, |inner, cx| inner.poll_shutdown(cx))
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn timed_out(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, message)
}
