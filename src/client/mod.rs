//! Transfers that end with the same bytes or a clear reason, over a bad link and past a server that
//! is restarted.
//!
//! * Every chunk is checked by its CRC-32C, in both directions, and an upload as a whole.
//! * What fails in passing is tried again, from where it was. The [`Retry`] budget starts anew
//!   whenever bytes advanced, so a transfer on a bad link ends when it is done, and one that gets
//!   nowhere ends soon.
//! * The same upload of a file or download to a file, run again after an interruption, continues:
//!   an upload because its id follows from the file, a download because of what lies beside its
//!   target. Before either continues, what is already there is proven to be the same.
//! * The file of a name is replaced in one step, here and on the server. Nothing incomplete has the
//!   name.
//! * Dropping the future of a transfer resets its call. What is durable by then is kept.
//! * A server that wants an access token is shown one of [`Credentials`], in each call, where nobody
//!   can read it on its way. One that expires or is refused in the middle of a transfer is replaced,
//!   and the transfer continues.
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
//!         if let Event::Retrying { error, delay } = event {
//!             eprintln!("{error}; trying again in {delay:?}");
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

pub use self::{
    authorized_channel::AuthorizedChannel,
    credentials::{ClientCredentials, Credentials, TokenError},
    download::Download,
    endpoint::endpoint,
    error::Error,
    event::Event,
    retry::Retry,
    upload::Upload,
};
use self::{call::stat, event::EventSink, retry::Attempts, session::Session};
use crate::pb::{self, file_controller_client::FileControllerClient};

/// Transfers files to and from one server. Cheap to clone; clones share the connection, and the
/// token.
#[derive(Clone, Debug)]
pub struct Client {
    files: FileControllerClient<Channel>,
    credentials: Option<Credentials>,
    retry: Retry,
}

impl Client {
    /// Transfers over a [`Channel`], best made by [`endpoint`], or over an [`AuthorizedChannel`] one.
    pub fn new(channel: impl Into<AuthorizedChannel>) -> Self {
        // Taken apart, since a transfer has to know which token was refused.
        let (channel, credentials) = channel.into().into_parts();
        Self {
            files: FileControllerClient::new(channel),
            credentials,
            retry: Retry::default(),
        }
    }

    /// Tries again as `retry` says, in this and in what is started by it.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sends the local file `path` to be the remote `filename`. Awaiting it gives the file as it is
    /// on the server.
    pub fn upload<'a>(&self, path: impl Into<PathBuf>, filename: impl Into<String>) -> Upload<'a> {
        Upload::from_file(self.attempts(), path.into(), filename.into())
    }

    /// Sends what `reader` gives until its end. It is read once: what is not durable on the server
    /// yet is kept in memory, at most 256 MiB, so that this transfer can continue. Another run
    /// cannot.
    pub fn upload_from<'a>(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'a,
        filename: impl Into<String>,
    ) -> Upload<'a> {
        Upload::from_reader(self.attempts(), Box::new(reader), filename.into())
    }

    /// Receives the remote `filename` into the local file `path`, by way of `path.part` and
    /// `path.part.json`.
    pub fn download<'a>(
        &self,
        filename: impl Into<String>,
        path: impl Into<PathBuf>,
    ) -> Download<'a> {
        Download::to_file(self.attempts(), filename.into(), path.into())
    }

    /// Receives the remote `filename` into `writer`. It is written once: when the file changes on
    /// the server on the way, the download fails.
    pub fn download_to<'a>(
        &self,
        filename: impl Into<String>,
        writer: impl AsyncWrite + Send + Unpin + 'a,
    ) -> Download<'a> {
        Download::to_writer(self.attempts(), filename.into(), Box::new(writer))
    }

    /// Says what the remote `filename` is.
    ///
    /// # Errors
    ///
    /// [`Error::Call`], [`Error::Token`], [`Error::RetriesExhausted`].
    pub async fn stat(&self, filename: impl Into<String>) -> Result<pb::FileInfo, Error> {
        let filename = filename.into();
        let mut attempts = self.attempts();
        loop {
            match stat(&mut attempts.session, &filename).await {
                Ok(info) => return Ok(info),
                Err(error) => {
                    attempts
                        .wait_to_retry(error, &mut EventSink::default())
                        .await?
                }
            }
        }
    }

    fn attempts(&self) -> Attempts {
        let session = Session::new(self.files.clone(), self.credentials.clone());
        Attempts::new(self.retry, session)
    }
}
