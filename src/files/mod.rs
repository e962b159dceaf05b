//! The file service: files below one root directory, by name.
//!
//! * Every filename is parsed before the disk is accessed. No valid filename leads out of the root, and the
//!   directory handle behind every access refuses links that do.
//! * Files are replaced, never changed in place: new content is staged inside the root, made durable, and
//!   renamed over the old file. An open file therefore keeps its version, and a crash leaves the old version
//!   or the new one.
//! * An upload is received in parts, by one stream after another, and committed only by the step `finish`.
//!   The end of a stream is a pause. Bytes before the last checkpoint are never sent again. The stream that
//!   opened the upload last is the only one that may write to it.
//! * The server's private directory `.muxs` in the root holds staged files and the lock against a second
//!   writing server. No filename reaches it.
//! * A read-only store writes nothing, not even the lock.
//!
//! `service` converts calls to domain types and errors to codes, `store` is asynchronous, `local` is blocking
//! access to the disk.

mod error;
mod local;
mod path;
mod principal;
mod service;
mod settings;
mod stats;
mod store;
mod upload;
mod version;

pub use error::{Error, NotAFile, OpenError};
pub use path::{FilePath, InvalidPath};
pub(crate) use principal::{Principal, parse_folder};
pub use service::MAX_CHUNK_BYTES;
pub(crate) use service::{FileService, WRITE, WRITE_STREAM, file_controller};
pub use settings::{AccessMode, Settings};
pub use store::Store;
pub use upload::InvalidUploadId;
pub use version::Version;
