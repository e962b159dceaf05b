//! How a chat ends.

use std::io;

use tonic::Status;

/// What the chat prints when the server begins to stop.
pub(super) const STOPPING: &str = "The server is stopping, and may end this chat soon.";

/// How a chat ends.
pub(crate) enum Ending {
    Complete,
    /// By Ctrl-C, which is a key like any other on a terminal in raw mode.
    Interrupted,
}

/// Why a chat ended early.
pub(super) enum ChatError {
    Call(Status),
    /// A local operation failed.
    Io(&'static str, io::Error),
}

impl From<Status> for ChatError {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}
