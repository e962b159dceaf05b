//! Access tokens of an OAuth 2.0 authorization server (RFC 6750): signed JWTs (RFC 9068).
//!
//! `authenticator` checks the token of each call, with `validator` unless it has seen the token before.
//! `key_store` fetches the issuer's keys periodically, and `jwks` parses them.

mod authenticator;
mod issuer;
mod jwks;
mod key_store;
mod settings;
mod validator;

pub(super) use self::{
    authenticator::{Authenticator, Denied},
    key_store::KeyStore,
    validator::InvalidToken,
};
pub use self::{
    issuer::Auth,
    settings::{Access, AuthError, AuthSettings, KeySource, Scope},
    validator::{Claims, ClaimsHook, Identity, InvalidClaims},
};
