//! Failures to get a token.

use std::{io, path::PathBuf};

use super::token::MAX_TOKEN_BYTES;

/// Why there is no token for a call, or why the token is not sent. Contains no token and no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Others could read the token on its way to the server.
    #[error(
        "{0} is not encrypted, and others could read the token on its way there: tokens are sent \
         to https://, unix: and loopback addresses only"
    )]
    Plaintext(String),
    /// The text is not a token.
    #[error("the token{0} is not one line of visible ASCII of at most {MAX_TOKEN_BYTES} bytes")]
    Malformed(String),
    /// The file with the token cannot be read.
    #[error("cannot read the token in {}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The command that prints tokens failed.
    #[error("the command for tokens {0}")]
    Command(String),
    /// The authorization server cannot be reached or cannot answer now. Retried.
    #[error("no token from the issuer: {0}")]
    Unreachable(String),
    /// The authorization server refused to issue a token, or must not be sent the secret.
    #[error("no token from the issuer: {0}")]
    Refused(String),
}

impl TokenError {
    /// Whether a retry may succeed.
    pub(in crate::client) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}
