//! Where access tokens come from, and for how long one is used.
//!
//! A token is asked for when a call needs one, cached, and replaced shortly before it expires. When it
//! cannot be replaced, it is used until it has expired. One asks at a time, for all clones: the
//! others wait for what comes of it.
//!
//! A server may refuse a token earlier, with UNAUTHENTICATED. Then it is forgotten, and another is
//! asked for. Whether that is worth another attempt is decided where the attempts are counted: see
//! `session`.

mod command;
mod error;
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

pub(super) use self::token::Token;
pub use self::{error::TokenError, grant::ClientCredentials};
use self::{
    grant::ClientCredentialsGrant,
    token::{InvalidTokenText, MAX_TOKEN_BYTES},
};

/// How long a token that could not be replaced is used before that is tried again.
const REFRESH_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long a file may take to be read. Of those that take longer, nothing is to be expected.
const FILE_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How a client gets the access tokens that it shows to servers. Cheap to clone; clones share the
/// token.
///
/// Nothing happens before the first call needs a token, so no constructor fails. A token is one line
/// of visible ASCII of at most 8 KiB, with spaces around it that are ignored.
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
    Grant(Box<ClientCredentialsGrant>),
}

impl Credentials {
    /// This token, for as long as servers take it.
    pub fn token(token: impl Into<String>) -> Self {
        Self::new(TokenSource::Fixed(token.into()))
    }

    /// What the file holds. It is read for each token that is asked for, so that whoever replaces
    /// tokens in a file need not tell.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(TokenSource::File(path.into()))
    }

    /// What `sh -c COMMAND` prints to its standard output. It has 30 seconds, after which it and
    /// what it started are killed, and nothing on its standard input.
    ///
    /// The token is cached until shortly before its `exp` if it is a JWT, otherwise until a server
    /// refuses it.
    pub fn command(command: impl Into<String>) -> Self {
        Self::new(TokenSource::Command(command.into()))
    }

    /// What an authorization server grants to a client of its own: RFC 6749 4.4.
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

    /// The token to use now, and whether it was made for this.
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

    /// A token that can be had without waiting, if there is one.
    pub(super) fn cached_header(&self) -> Option<HeaderValue> {
        let cached = self.0.cached.try_lock().ok()?;
        let token = cached
            .as_ref()
            .filter(|token| !token.needs_refresh(Instant::now()))?;
        Some(token.header())
    }

    /// Forgets a token that a server refused, so that the next one is asked for.
    pub(super) async fn discard(&self, refused: &HeaderValue) {
        self.0
            .cached
            .lock()
            .await
            .take_if(|cached| self.is_renewable() && cached.header() == refused);
    }

    /// Whether there can be another token than the one there is now.
    pub(super) fn is_renewable(&self) -> bool {
        !matches!(self.0.source, TokenSource::Fixed(_))
    }

    /// Whether a token is good for more than one call. A file is read again instead.
    fn is_cacheable(&self) -> bool {
        !matches!(self.0.source, TokenSource::File(_))
    }
}

/// What the source is, and nothing that could be a secret or contain one, such as a command.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_tuple("Credentials");
        match &self.0.source {
            TokenSource::Fixed(_) => shown.field(&"token"),
            TokenSource::File(path) => shown.field(path),
            TokenSource::Command(_) => shown.field(&"command"),
            TokenSource::Grant(grant) => shown.field(grant.client()),
        };
        shown.finish()
    }
}

impl TokenSource {
    async fn request_token(&self) -> Result<Token, TokenError> {
        match self {
            Self::Fixed(token) => {
                Token::parse(token.as_bytes()).map_err(|InvalidTokenText| malformed(""))
            }
            Self::File(path) => {
                let text = read(path).await?;
                let of = || format!(" in {}", path.display());
                Token::parse(&text).map_err(|InvalidTokenText| malformed(of()))
            }
            Self::Command(command) => {
                let printed = command::run(command).await?;
                let token = Token::parse(&printed);
                let token =
                    token.map_err(|InvalidTokenText| malformed(" that the command printed"))?;
                Ok(token.expiry_from_jwt())
            }
            Self::Grant(grant) => grant.request_token().await,
        }
    }
}

/// Reads a file that may be anything, to the length that a token can have.
async fn read(path: &Path) -> Result<Vec<u8>, TokenError> {
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
    // With room for the spaces around a token; what is longer is none.
    let most = 2 * MAX_TOKEN_BYTES as u64;
    File::open(path)?.take(most).read_to_end(&mut text)?;
    Ok(text)
}

fn malformed(what: impl Into<String>) -> TokenError {
    TokenError::Malformed(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_a_secret() {
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
    async fn what_is_no_token_is_not_repeated_in_the_error() {
        for bad in ["", "two secrets", "se\ncret", "s\u{e9}cret"] {
            let error = Credentials::token(bad).current_token().await.unwrap_err();
            assert!(matches!(error, TokenError::Malformed(_)), "{error}");
            assert!(!format!("{error:?} {error}").contains("cret"), "{error:?}");
        }
    }
}
