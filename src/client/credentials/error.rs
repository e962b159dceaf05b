//! Failures to get a token.

use std::{io, path::PathBuf};

use super::token::MAX_TOKEN_BYTES;

/// Why there is no token for a call, or why none is sent. No token and no secret is in here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The server would be told the token where others can read it.
    #[error(
        "{0} is not encrypted, and whoever is on the way there could read the token; tokens are \
         sent to https://, to unix: and to loopback addresses"
    )]
    Plaintext(String),
    /// What is there is no token.
    #[error("the token{0} is not one line of visible ASCII of at most {MAX_TOKEN_BYTES} bytes")]
    Malformed(String),
    /// The file with the token cannot be read.
    #[error("cannot read the token in {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The command that prints tokens failed.
    #[error("the command for tokens {0}")]
    Command(String),
    /// The authorization server cannot be reached, or is not able to answer now. It is asked again.
    #[error("no token from the issuer: {0}")]
    Unreachable(String),
    /// The authorization server gave no token, or is not to be trusted with the secret.
    #[error("no token from the issuer: {0}")]
    Refused(String),
}

impl TokenError {
    /// Whether there may be a token a little later.
    pub(in crate::client) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}
