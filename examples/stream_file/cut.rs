//! A bad link: its first connection breaks.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Connects to the server behind `endpoint`, whose address is `address`. The first connection breaks
/// once so many bytes were sent.
pub(crate) fn link(endpoint: &Endpoint, address: &str, cut_after: u64) -> Channel {
    let socket = address.strip_prefix("unix:").map(str::to_owned);
    // For the connection that is made next.
    let limit = Arc::new(AtomicU64::new(cut_after));
    endpoint.connect_with_connector_lazy(service_fn(move |uri: Uri| {
        let (socket, limit) = (socket.clone(), Arc::clone(&limit));
        async move {
            let inner = match socket {
                Some(path) => Either::Left(UnixStream::connect(path).await?),
                None => Either::Right(connect(&uri).await?),
            };
            let left = limit.swap(u64::MAX, Ordering::Relaxed);
            io::Result::Ok(TokioIo::new(Link { inner, left }))
        }
    }))
}

async fn connect(uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().unwrap_or_default();
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    // An IPv6 address stands in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(default))).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that breaks after so many bytes.
struct Link {
    inner: Either<UnixStream, TcpStream>,
    left: u64,
}

impl Link {
    fn check(&self) -> io::Result<()> {
        match self.left {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = written {
            self.left = self.left.saturating_sub(length as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
