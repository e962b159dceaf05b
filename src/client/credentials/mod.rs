//! Sources of access tokens, and the cache of the current one.
//!
//! A token is requested when a call needs one, cached, and refreshed shortly before it expires. If the
//! refresh fails, the token is used until it has expired. Requests are single-flight over all clones.
//!
//! A token that a server refuses earlier, with UNAUTHENTICATED, is discarded, and the next call requests
//! another. `session` decides whether a transfer makes that call.

mod command;
mod error;
#[cfg(feature = "client-oauth")]
mod grant;
mod token;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

pub use self::error::TokenError;
#[cfg(feature = "client-oauth")]
pub use self::grant::ClientCredentials;
#[cfg(feature = "client-oauth")]
use self::grant::ClientCredentialsGrant;
pub(super) use self::token::Token;
use self::token::{InvalidTokenText, MAX_TOKEN_BYTES};

/// The time between two attempts to refresh a token that is still valid.
const REFRESH_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The longest time for reading a token file: a FIFO without a writer, for example, never ends.
const FILE_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A source of access tokens for calls. Cheap to clone; clones share the token.
///
/// The source is first used when a call needs a token, so no constructor fails. A token is one line of
/// visible ASCII of at most 8 KiB; spaces around it are ignored.
///
/// ```
/// use muxs::client::{self, AuthorizedChannel, Client, ClientCredentials, Credentials};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let credentials = Credentials::client_credentials(ClientCredentials {
///     issuer: "https://issuer.example.com".to_owned(),
///     client_id: "nightly-backup".to_owned(),
///     client_secret: "from a file, never from the source".to_owned(),
///     scope: Some("files.read files.write".to_owned()),
///     audience: Some("https://files.example.com".to_owned()),
/// });
/// let endpoint = client::endpoint("https://files.example.com")?;
/// let channel = endpoint.connect_lazy();
/// let client = Client::new(AuthorizedChannel::new(&endpoint, channel, credentials)?);
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Credentials(Arc<CredentialsInner>);

struct CredentialsInner {
    source: TokenSource,
    cached: Mutex<Option<Token>>,
}

enum TokenSource {
    Fixed(String),
    File(PathBuf),
    Command(String),
    #[cfg(feature = "client-oauth")]
    Grant(Box<ClientCredentialsGrant>),
}

impl Credentials {
    /// Uses this token, which cannot be replaced.
    pub fn token(token: impl Into<String>) -> Self {
        Self::new(TokenSource::Fixed(token.into()))
    }

    /// Uses the token in a file, which is read for each call: a replaced token is used at once.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(TokenSource::File(path.into()))
    }

    /// Uses the token that `sh -c COMMAND` prints to its standard output. Its standard input is empty. After
    /// 30 seconds the command is killed, together with the processes that it started.
    ///
    /// The token is cached until shortly before its `exp` if it is a JWT, otherwise until a server refuses
    /// it.
    pub fn command(command: impl Into<String>) -> Self {
        Self::new(TokenSource::Command(command.into()))
    }

    /// Requests tokens from an authorization server by the client credentials grant (RFC 6749 4.4). Needs the feature
    /// `client-oauth`.
    #[cfg(feature = "client-oauth")]
    pub fn client_credentials(client: ClientCredentials) -> Self {
        Self::new(TokenSource::Grant(Box::new(ClientCredentialsGrant::new(
            client,
        ))))
    }

    fn new(source: TokenSource) -> Self {
        Self(Arc::new(CredentialsInner {
            source,
            cached: Mutex::new(None),
        }))
    }

    /// Returns the token for the next call, and whether it was requested for this call.
    pub(super) async fn current_token(&self) -> Result<(Token, bool), TokenError> {
        let mut cached = self.0.cached.lock().await;
        if let Some(token) = cached
            .as_ref()
            .filter(|token| !token.needs_refresh(Instant::now()))
        {
            return Ok((token.clone(), false));
        }
        match (self.0.source.request_token().await, cached.as_mut()) {
            (Ok(token), _) if self.is_cacheable() => {
                *cached = Some(token.clone());
                Ok((token, !matches!(self.0.source, TokenSource::Fixed(_))))
            }
            (Ok(token), _) => Ok((token, false)),
            (Err(_), Some(old)) if !old.is_expired(Instant::now()) => {
                old.postpone_refresh(Instant::now() + REFRESH_RETRY_INTERVAL);
                Ok((old.clone(), false))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Returns the header of the cached token, if there is one that needs no refresh. Does not wait.
    pub(super) fn cached_header(&self) -> Option<HeaderValue> {
        let cached = self.0.cached.try_lock().ok()?;
        let token = cached
            .as_ref()
            .filter(|token| !token.needs_refresh(Instant::now()))?;
        Some(token.header())
    }

    /// Discards a token that a server refused, so that the next call requests another.
    pub(super) async fn discard(&self, refused: &HeaderValue) {
        self.0
            .cached
            .lock()
            .await
            .take_if(|cached| self.is_renewable() && cached.header() == refused);
    }

    /// Whether the source may return another token than the current one.
    pub(super) fn is_renewable(&self) -> bool {
        !matches!(self.0.source, TokenSource::Fixed(_))
    }

    /// Whether a token is kept for further calls. A file is read for each call instead.
    fn is_cacheable(&self) -> bool {
        !matches!(self.0.source, TokenSource::File(_))
    }
}

/// Shows the kind of source, but nothing that may contain a secret, such as the command.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut output = f.debug_tuple("Credentials");
        match &self.0.source {
            TokenSource::Fixed(_) => output.field(&"token"),
            TokenSource::File(path) => output.field(path),
            TokenSource::Command(_) => output.field(&"command"),
            #[cfg(feature = "client-oauth")]
            TokenSource::Grant(grant) => output.field(grant.client()),
        };
        output.finish()
    }
}

impl TokenSource {
    async fn request_token(&self) -> Result<Token, TokenError> {
        match self {
            Self::Fixed(token) => {
                Token::parse(token.as_bytes()).map_err(|InvalidTokenText| malformed(""))
            }
            Self::File(path) => {
                let text = read_file(path).await?;
                let origin = || format!(" in {}", path.display());
                Token::parse(&text).map_err(|InvalidTokenText| malformed(origin()))
            }
            Self::Command(command) => {
                let printed = command::run(command).await?;
                let token = Token::parse(&printed);
                let token =
                    token.map_err(|InvalidTokenText| malformed(" that the command printed"))?;
                Ok(token.expiry_from_jwt())
            }
            #[cfg(feature = "client-oauth")]
            Self::Grant(grant) => grant.request_token().await,
        }
    }
}

/// Reads as much of a file as a token can have. The path may name a FIFO or a device.
async fn read_file(path: &Path) -> Result<Vec<u8>, TokenError> {
    let failed = |source| TokenError::File {
        path: path.to_owned(),
        source,
    };
    let opened = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_head(&opened));
    match timeout(FILE_READ_TIMEOUT, read).await {
        Ok(Ok(text)) => text.map_err(failed),
        Ok(Err(error)) => Err(failed(io::Error::other(error))),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this file is the user's, not a server's store"
)]
fn read_head(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // Twice the limit leaves space for whitespace around the token.
    let limit = 2 * MAX_TOKEN_BYTES as u64;
    File::open(path)?.take(limit).read_to_end(&mut text)?;
    Ok(text)
}

fn malformed(origin: impl Into<String>) -> TokenError {
    TokenError::Malformed(origin.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "client-oauth")]
    #[test]
    fn debug_output_contains_no_secret() {
        let shown = format!(
            "{:?} {:?} {:?} {:?}",
            Credentials::token("secret"),
            Credentials::command("echo secret"),
            Credentials::file("/run/token"),
            Credentials::client_credentials(ClientCredentials {
                issuer: "https://issuer".to_owned(),
                client_id: "somebody".to_owned(),
                client_secret: "secret".to_owned(),
                scope: None,
                audience: None,
            })
        );
        assert!(!shown.contains("secret\""), "{shown}");
        assert!(!shown.contains("echo"), "{shown}");
        assert!(shown.contains("/run/token"), "{shown}");
        assert!(shown.contains("somebody"), "{shown}");
    }

    #[tokio::test]
    async fn invalid_token_is_not_repeated_in_the_error() {
        for bad in ["", "two secrets", "se\ncret", "s\u{e9}cret"] {
            let error = Credentials::token(bad).current_token().await.unwrap_err();
            assert!(matches!(error, TokenError::Malformed(_)), "{error}");
            assert!(!format!("{error:?} {error}").contains("cret"), "{error:?}");
        }
    }
}
