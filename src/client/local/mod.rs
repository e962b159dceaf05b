//! The local side of a transfer: the file that is uploaded, the partial file that a download fills.

#![expect(
    clippy::disallowed_methods,
    reason = "these files are the user's, not a server's store"
)]

mod background_task;
mod file_reader;
mod file_source;
mod partial_file;
mod paths;
mod read;
mod state_file;
mod target_file;

pub(super) use self::{file_source::FileSource, partial_file::PartialFile};
