//! What a server can be told.

use std::time::Duration;

use crate::files::Store;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// The files to serve.
    pub store: Store,
    /// How long calls under way may go on after the server was told to stop. 30 s by default.
    pub shutdown_grace: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            shutdown_grace: Duration::from_secs(30),
        }
    }
}
