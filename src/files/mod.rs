//! The file service: files below one root folder, by name.
//!
//! * A name is parsed before anything is touched; below the parser no name leaves the root, and a
//!   link that would is refused by the folder handle that every access goes through.
//! * A file is replaced, never changed in place: the new content is staged inside the root, made
//!   durable, then renamed over the old. So a reader that has opened a file sees one version of it,
//!   and a crash leaves the old or the new.
//! * An upload is staged in pieces, by one stream after another, and put in its place by the client
//!   that says so: the end of a stream means nothing. What a checkpoint has made durable is never
//!   sent again. The newest stream of an upload is the one that may write.
//! * The server's own folder `.muxs` in the root holds what is staged and the lock that keeps
//!   out a second server that would write. No name reaches it.
//! * A read-only store writes nothing at all, not even the lock.
//!
//! `service` turns calls into domain types and failures into codes, `store` is asynchronous,
//! `local` is the disk, plain blocking Rust.

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

pub use error::{Error, OpenError};
pub use path::{FilePath, InvalidPath};
pub(crate) use principal::{Principal, parse_folder};
pub use service::MAX_CHUNK_BYTES;
pub(crate) use service::{FileService, WRITE, WRITE_STREAM, file_controller};
pub use settings::{AccessMode, Settings};
pub use store::Store;
pub use upload::InvalidUploadId;
pub use version::Version;
