//! Resumable file transfers.
//!
//! A transfer ends with the same bytes or a clear error, over a bad link and past a server restart.
//!
//! * Every chunk is checked by its CRC-32C, in both directions, and an upload as a whole. A file counts as uploaded
//!   only if the server tells the checksum that its bytes have now: neither size nor times prove it.
//! * A transient failure is retried from the offset that the transfer had reached. The [`Retry`] budget is
//!   renewed whenever bytes advance, so a transfer over a bad link ends when it is complete, and one
//!   without progress ends soon.
//! * The same upload of a file, or download to a file, continues when it is run again after an
//!   interruption. The upload's id is derived from the names of machine, file and target; a download keeps its
//!   state beside its target. Before either continues, a checksum proves that the bytes already transferred are
//!   still the same. Otherwise it starts over, and what an earlier run left is discarded.
//! * The target is replaced in one step, here and on the server. An incomplete file never has its name.
//! * A local file that no download made is never written or removed for being in the way.
//! * Dropping the future of a transfer resets its call. Bytes that are durable by then are kept.
//! * A server that requires access tokens gets one of [`Credentials`] with each call, over connections
//!   that nobody else can read. A token that expires or is refused during a transfer is replaced, and the
//!   transfer continues.
//!
//! ```
//! # use muxs::{files::{Settings, Store}, app::{self, Config}};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let store = Store::open(folder.path().join("root"), Settings::default())?;
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let address = listener.local_addr()?;
//! # tokio::spawn(app::run(vec![listener.into()], Config::new(store), std::future::pending()));
//! # let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
//! # std::fs::write(&original, "so long")?;
//! use muxs::client::{self, Client, Event};
//!
//! let channel = client::endpoint(format!("http://{address}"))?.connect_lazy();
//! let client = Client::new(channel);
//!
//! let sent = client.upload(&original, "remote/name").create_only().await?;
//! let received = client
//!     .download("remote/name", &copy)
//!     .on_event(|event| {
//!         if let Event::Retrying { error, delay, .. } = event {
//!             eprintln!("{error}; retrying in {delay:?}");
//!         }
//!     })
//!     .await?;
//! assert_eq!(sent.etag, received.etag);
//! assert_eq!(std::fs::read(original)?, std::fs::read(copy)?);
//! # Ok(())
//! # }
//! ```

mod authorized_channel;
mod call;
mod credentials;
mod download;
mod endpoint;
mod error;
mod event;
mod local;
mod reader_source;
mod retry;
mod session;
mod source;
mod upload;

use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::Channel;

#[cfg(feature = "client-oauth")]
pub use self::credentials::ClientCredentials;
pub use self::{
    authorized_channel::AuthorizedChannel,
    credentials::{Credentials, TokenError},
    download::Download,
    endpoint::{EndpointError, endpoint},
    error::Error,
    event::Event,
    retry::Retry,
    upload::Upload,
};
use self::{call::stat, event::EventSink, retry::Attempts, session::Session, upload::abort_upload};
use crate::pb::{self, file_controller_client::FileControllerClient};

/// Transfers files to and from one server. Cheap to clone; clones share the connection and the token.
#[derive(Clone, Debug)]
pub struct Client {
    files: FileControllerClient<Channel>,
    credentials: Option<Credentials>,
    retry: Retry,
}

impl Client {
    /// Creates a client over an [`AuthorizedChannel`], or a [`Channel`], best made by [`endpoint`].
    pub fn new(channel: impl Into<AuthorizedChannel>) -> Self {
        // A transfer has to know which token was refused, so it adds the tokens itself.
        let (channel, credentials) = channel.into().into_parts();
        Self {
            files: FileControllerClient::new(channel),
            credentials,
            retry: Retry::default(),
        }
    }

    /// Sets when failed attempts are retried, for this client and the transfers that it starts.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Uploads the local file `path` as the remote `filename`.
    ///
    /// A file whose size is not that of its bytes, such as those of `/proc`, is uploaded as if it were a reader.
    pub fn upload<'a>(&self, path: impl Into<PathBuf>, filename: impl Into<String>) -> Upload<'a> {
        Upload::from_file(self.attempts(), path.into(), filename.into())
    }

    /// Uploads the bytes of `reader`, up to its end, as the remote `filename`.
    ///
    /// The reader is read once. Bytes that are not yet durable on the server are kept in memory, at most
    /// 256 MiB, so that this transfer can continue after a failure; another run cannot continue it.
    pub fn upload_from<'a>(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'a,
        filename: impl Into<String>,
    ) -> Upload<'a> {
        Upload::from_reader(self.attempts(), Box::new(reader), filename.into())
    }

    /// Downloads the remote `filename` into the local file `path`, through `path.part` and
    /// `path.part.json`. If `path` is a symbolic link, what it leads to is replaced.
    pub fn download<'a>(
        &self,
        filename: impl Into<String>,
        path: impl Into<PathBuf>,
    ) -> Download<'a> {
        Download::to_file(self.attempts(), filename.into(), path.into())
    }

    /// Downloads the remote `filename` into `writer`.
    ///
    /// The writer is written once: the download fails if the file changes on the server meanwhile.
    pub fn download_to<'a>(
        &self,
        filename: impl Into<String>,
        writer: impl AsyncWrite + Send + Unpin + 'a,
    ) -> Download<'a> {
        Download::to_writer(self.attempts(), filename.into(), Box::new(writer))
    }

    /// Returns size, etag and modification time of the remote `filename`.
    ///
    /// # Errors
    ///
    /// [`Error::Call`], [`Error::Token`], [`Error::RetriesExhausted`].
    pub async fn stat(&self, filename: impl Into<String>) -> Result<pb::FileInfo, Error> {
        self.stat_with_events(filename, |_| {}).await
    }

    /// The same as [`stat`](Self::stat), and calls `watch` before each retry, with [`Event::Retrying`].
    ///
    /// # Errors
    ///
    /// Those of [`stat`](Self::stat).
    pub async fn stat_with_events(
        &self,
        filename: impl Into<String>,
        watch: impl FnMut(Event) + Send,
    ) -> Result<pb::FileInfo, Error> {
        let filename = filename.into();
        let mut attempts = self.attempts();
        let mut events = EventSink::new(watch);
        loop {
            match stat(&mut attempts.session, &filename).await {
                Ok(info) => return Ok(info),
                Err(error) => attempts.wait_to_retry(error, &mut events).await?,
            }
        }
    }

    /// Discards the unfinished upload of the remote `filename` that has this id.
    ///
    /// [`Upload::abort`] discards the one that the upload of a file would continue. A run that is sending the upload
    /// fails with ABORTED, reason `SUPERSEDED`.
    ///
    /// # Errors
    ///
    /// [`Error::Call`] with NOT_FOUND: the server has no such unfinished upload of this caller. [`Error::Call`],
    /// [`Error::Token`], [`Error::RetriesExhausted`].
    pub async fn abort_upload(
        &self,
        filename: impl Into<String>,
        upload_id: impl Into<String>,
    ) -> Result<(), Error> {
        self.abort_upload_with_events(filename, upload_id, |_| {})
            .await
    }

    /// The same as [`abort_upload`](Self::abort_upload), and calls `watch` before each retry, with
    /// [`Event::Retrying`].
    ///
    /// # Errors
    ///
    /// Those of [`abort_upload`](Self::abort_upload).
    pub async fn abort_upload_with_events(
        &self,
        filename: impl Into<String>,
        upload_id: impl Into<String>,
        watch: impl FnMut(Event) + Send,
    ) -> Result<(), Error> {
        let (filename, upload_id) = (filename.into(), upload_id.into());
        let mut events = EventSink::new(watch);
        abort_upload(&mut self.attempts(), &mut events, &filename, &upload_id).await
    }

    fn attempts(&self) -> Attempts {
        let session = Session::new(self.files.clone(), self.credentials.clone());
        Attempts::new(self.retry, session)
    }
}
