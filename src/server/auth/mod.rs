//! Who may call: those with an access token of one authorization server (OAuth 2.0, RFC 6750), a
//! signed JWT (RFC 9068) that says what it is good for.
//!
//! `gate` is what every call goes through. It has `token` look at the token, unless it has seen the
//! same one before, with the `keys` of the issuer, which `refresh` reads again and again. What a
//! method asks for is [`Access`], from the one table in `services`.

mod gate;
mod keys;
mod refresh;
mod token;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;

pub(super) use self::{
    gate::{Denied, Gate},
    refresh::Keys,
    token::{Caller, Flaw},
};
use self::{keys::KeySet, token::Expected};
use crate::oauth;

/// Lets in those with an access token of one authorization server. Cheap to clone; clones share
/// the keys.
#[derive(Clone, Debug)]
pub struct Auth {
    pub(super) expected: Arc<Expected>,
    pub(super) keys: Keys,
}

/// What access tokens have to be.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// The URL of the authorization server, as its tokens spell it (`iss`).
    pub issuer: String,
    /// What tokens have to be for (`aud`).
    pub audience: String,
    /// Where the issuer's keys are.
    pub keys: KeySource,
    /// The algorithms that a token may be signed with, by the names of RFC 7518. RS256, ES256 and
    /// EdDSA by default; those with a shared secret are not possible.
    pub algorithms: Vec<String>,
    /// The type that a token has to say it is of (`typ`). `at+jwt` by default, as RFC 9068 has it.
    pub token_type: String,
    /// What methods ask for.
    pub scopes: ScopeNames,
    /// The claim with the folder that its caller is restricted to. A token without it is good for
    /// the whole root. None by default.
    pub folder_claim: Option<String>,
    /// How often the keys are read again. 5 minutes by default.
    pub refresh: Duration,
    /// How long the last good keys are believed in when they cannot be read again. After that all
    /// calls that need a token fail. An hour by default.
    pub keys_max_age: Duration,
}

/// Where the keys of an authorization server are: a JWK set (RFC 7517).
#[derive(Clone, Debug)]
pub enum KeySource {
    /// Where the issuer says, by OpenID Connect Discovery.
    Discovery,
    /// At a URL: of https, or on a loopback address.
    Url(String),
    /// In a file.
    File(PathBuf),
}

/// The names of scopes in the claim `scope`.
#[derive(Clone, Debug)]
pub struct ScopeNames {
    /// For the greeters. `greeter` by default.
    pub greeter: String,
    /// For reading files. `files.read` by default.
    pub read: String,
    /// For writing files. `files.write` by default.
    pub write: String,
}

/// Why tokens cannot be checked as they were to be. The texts are for the person who starts the
/// server.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The name is not one of a known algorithm with a public key.
    #[error("{0} is no algorithm that tokens are signed with by a key pair")]
    Algorithm(String),
    /// No algorithm is left.
    #[error("no algorithm is allowed")]
    NoAlgorithm,
    /// Without it, tokens that say nothing would be good.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// A name of a scope is empty, or would be several.
    #[error("{0:?} is not the name of a scope")]
    Scope(String),
    /// The issuer, or the address of the keys, cannot be used.
    #[error("cannot use {address}: {why}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// The file with the keys cannot be used.
    #[error("cannot use the keys in {}: {why}", file.display())]
    Keys {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    Public,
    /// A token, whatever it is good for.
    Authenticated,
    /// A token with a scope.
    Scope(Scope),
}

/// What a token can be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Greeter,
    Read,
    Write,
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
            scopes: ScopeNames::default(),
            folder_claim: None,
            refresh: Duration::from_secs(5 * 60),
            keys_max_age: Duration::from_secs(60 * 60),
        }
    }
}

impl Default for ScopeNames {
    fn default() -> Self {
        Self {
            greeter: "greeter".to_owned(),
            read: "files.read".to_owned(),
            write: "files.write".to_owned(),
        }
    }
}

impl Auth {
    /// Checks what was said, and reads the keys, if they are in a file. Blocking. Keys of a URL are
    /// read when the server runs; until they are there, calls that need a token fail.
    ///
    /// # Errors
    ///
    /// See [`AuthError`].
    pub fn load(settings: AuthSettings) -> Result<Self, AuthError> {
        // Nothing is left to find out at the first token. Where another part of the program has
        // chosen, that is as good.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let algorithms = settings.algorithms.iter().map(|name| algorithm(name));
        let algorithms: Vec<_> = algorithms.collect::<Result<_, _>>()?;
        if algorithms.is_empty() {
            return Err(AuthError::NoAlgorithm);
        }
        for (name, text) in [
            ("issuer", &settings.issuer),
            ("audience", &settings.audience),
        ] {
            if text.is_empty() {
                return Err(AuthError::Empty(name));
            }
        }
        let names = &settings.scopes;
        for name in [&names.greeter, &names.read, &names.write] {
            // RFC 6749 3.3.
            if name.is_empty()
                || name.contains(|c: char| !c.is_ascii_graphic() || "\"\\".contains(c))
            {
                return Err(AuthError::Scope(name.clone()));
            }
        }
        let keys = Keys::new(&settings, algorithms)?;
        Ok(Self {
            expected: Arc::new(Expected::new(settings)),
            keys,
        })
    }
}

fn algorithm(name: &str) -> Result<Algorithm, AuthError> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match name.parse() {
        Ok(algorithm @ (RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | ES256 | ES384 | EdDSA)) => {
            Ok(algorithm)
        }
        _ => Err(AuthError::Algorithm(name.to_owned())),
    }
}
