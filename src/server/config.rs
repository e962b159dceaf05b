//! What a server can be told.

use std::time::Duration;

use crate::files::Store;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// The files to serve.
    pub store: Store,
    /// The size of the chunks that files are read in, in bytes, unless the client wants another; 1
    /// to 1 MiB, 256 KiB by default.
    pub chunk_bytes: u32,
    /// How long calls under way may go on after the server was told to stop. 30 s by default.
    pub shutdown_grace: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            chunk_bytes: 256 * 1024,
            shutdown_grace: Duration::from_secs(30),
        }
    }
}
