//! Access tokens: authentication, scopes, keys and expiry.

mod expiry;
mod forged_tokens;
mod keys;
mod owners;
mod scopes;
mod secrecy;
mod settings;
