//! A local file of unknown size, read from its start to its end.

use std::{
    fs::File,
    io::{self, Read},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, ReadBuf},
    task::{JoinHandle, spawn_blocking},
};

/// The most bytes that are read at once.
const MAX_READ_BYTES: usize = 256 * 1024;

pub(in crate::client) struct FileReader {
    file: Arc<File>,
    /// The bytes that were read and not yet returned.
    ready: Bytes,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileReader {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self {
            file,
            ready: Bytes::new(),
            reading: None,
        }
    }

    fn start_reading(&self) -> JoinHandle<io::Result<Bytes>> {
        let file = Arc::clone(&self.file);
        spawn_blocking(move || {
            let mut data = vec![0; MAX_READ_BYTES];
            let len = (&*file).read(&mut data)?;
            data.truncate(len);
            Ok(data.into())
        })
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ready.is_empty() {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None => self.start_reading(),
            };
            let Poll::Ready(read) = Pin::new(&mut reading).poll(context) else {
                self.reading = Some(reading);
                return Poll::Pending;
            };
            self.ready = read.map_err(io::Error::other)??;
        }
        let len = self.ready.len().min(buffer.remaining());
        buffer.put_slice(&self.ready[..len]);
        self.ready.advance(len);
        Poll::Ready(Ok(()))
    }
}
