//! What access tokens have to be, and what methods require.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

/// What access tokens have to be.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// The URL of the authorization server, exactly as in the claim `iss`.
    pub issuer: String,
    /// The audience that the claim `aud` has to contain.
    pub audience: String,
    /// The source of the issuer's keys.
    pub keys: KeySource,
    /// The accepted signature algorithms, by their names in RFC 7518. RS256, ES256 and EdDSA by default.
    /// Algorithms with a shared secret are not supported.
    pub algorithms: Vec<String>,
    /// The required token type (`typ`). `at+jwt` by default (RFC 9068).
    pub token_type: String,
    /// The interval at which the keys are fetched. 5 minutes by default.
    pub refresh: Duration,
    /// The age up to which keys are used when they cannot be fetched again. Beyond it, all calls that need a
    /// token fail. An hour by default.
    pub keys_max_age: Duration,
}

/// The source of an issuer's keys, a JWK set (RFC 7517).
#[derive(Clone, Debug)]
pub enum KeySource {
    /// The URL in the issuer's metadata (OpenID Connect Discovery).
    Discovery,
    /// A URL: https, or http on a loopback host.
    Url(String),
    /// A file.
    File(PathBuf),
}

/// The authentication settings cannot be used. The messages are for the person who starts the server.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The name is not that of a supported algorithm with a public key.
    #[error(
        "{0:?} is not supported for tokens; RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA \
             are"
    )]
    Algorithm(String),
    /// The list of algorithms is empty.
    #[error("the list of algorithms for tokens is empty")]
    NoAlgorithm,
    /// Issuer or audience is empty, which would match tokens that have none.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// The name of a scope is empty, or contains characters that scopes cannot.
    #[error(
        "{0:?} is not a scope name, which has no space, quotation mark, backslash or non-ASCII character"
    )]
    Scope(String),
    /// The URL of the issuer or of the keys cannot be used.
    #[error("cannot get the issuer's keys from {address}: {why}")]
    Address {
        /// The URL as given, but without a user name, a password and a query.
        address: String,
        /// The cause.
        why: String,
    },
    /// The file with the keys cannot be used.
    #[error("cannot use the keys in {}: {why}", file.display())]
    Keys {
        /// The file.
        file: PathBuf,
        /// The cause.
        why: String,
    },
}

/// What a method requires of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// A valid token.
    Authenticated,
    /// A valid token with a scope.
    Scope(Scope),
}

/// The name of an OAuth 2.0 scope (RFC 6749 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(Arc<str>);

impl Scope {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = AuthError;

    fn from_str(name: &str) -> Result<Self, AuthError> {
        let is_valid = |c: char| c.is_ascii_graphic() && !"\"\\".contains(c);
        match !name.is_empty() && name.chars().all(is_valid) {
            true => Ok(Self(name.into())),
            false => Err(AuthError::Scope(name.to_owned())),
        }
    }
}

impl AuthSettings {
    /// The defaults.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            keys: KeySource::Discovery,
            algorithms: ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
            token_type: "at+jwt".to_owned(),
            refresh: Duration::from_secs(5 * 60),
            keys_max_age: Duration::from_secs(60 * 60),
        }
    }
}
