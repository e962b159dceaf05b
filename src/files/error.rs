//! What can go wrong with a file, and with opening a store.

use std::{io, path::PathBuf};

use super::{path::InvalidPath, upload::InvalidUploadId};

/// Why an operation on a file failed. The texts are fit for a client: they name no path of the
/// host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is not a legal filename.
    #[error("{0}")]
    FilenameInvalid(#[from] InvalidPath),
    /// The upload's id is not a legal one.
    #[error("{0}")]
    UploadIdInvalid(#[from] InvalidUploadId),
    /// A link on the way leads outside the root.
    #[error("the filename leads outside the root")]
    OutsideRoot,
    /// The name lies outside the folder that its caller is restricted to, or a link on the way leads
    /// out of it.
    #[error("the caller is restricted to another folder")]
    OutsideFolder,
    /// The store was opened read-only.
    #[error("the server is read-only")]
    ReadOnly,
    /// There is no such file.
    #[error("no such file")]
    NotFound,
    /// There is no such upload, or it is finished.
    #[error("no such unfinished upload")]
    UploadNotFound,
    /// The name is that of a folder or a special file, or one stands where a folder would be
    /// needed.
    #[error("not a regular file")]
    NotAFile,
    /// More bytes than the caller can take.
    #[error(
        "{size} bytes are more than the {limit} that fit one message: use ReadStream or WriteStream"
    )]
    TooLarge {
        /// The most that is possible, in bytes.
        limit: u64,
        /// What it would have been, in bytes.
        size: u64,
    },
    /// The file is not UTF-8.
    #[error("the file is not UTF-8 text: use ReadStream")]
    NotText,
    /// The file was changed in place, not by this server, while it was read.
    #[error("the file changed while it was read")]
    FileChanged,
    /// The offset to read from is beyond the end of the file.
    #[error("the offset is beyond the end of the file, which has {size} bytes")]
    OffsetBeyondEnd {
        /// Of the file, in bytes.
        size: u64,
    },
    /// The file was to be created, and exists.
    #[error("the file exists")]
    Exists {
        /// Of the version that is there; None where it is no file.
        etag: Option<String>,
    },
    /// The file is not the version that it was to be.
    #[error("the file is another version")]
    EtagMismatch {
        /// Of the version that is there, if any.
        etag: Option<String>,
    },
    /// The upload was opened before, to become something else.
    #[error("an upload of this id has another size or precondition")]
    UploadMismatch,
    /// A chunk does not continue where the upload has got to.
    #[error("the next chunk has to start at {expected}")]
    OffsetMismatch {
        /// Where it has to start, in bytes.
        expected: u64,
    },
    /// The bytes of a chunk are not those of its checksum.
    #[error("the chunk at {offset} does not have its checksum")]
    ChunkCorrupt {
        /// Of the chunk, in bytes.
        offset: u64,
    },
    /// Another stream has taken over the upload, or it was aborted.
    #[error("the upload was taken over or aborted by another call")]
    Superseded,
    /// The bytes of the upload are more or fewer than were announced.
    #[error("{announced} bytes were announced, {received} came")]
    SizeMismatch {
        /// By the client, at the beginning or at the end.
        announced: u64,
        /// In bytes, the chunk that is too much included.
        received: u64,
    },
    /// The bytes of the upload are not those of the checksum at its end.
    #[error("the upload does not have its checksum")]
    ChecksumMismatch,
    /// The upload is larger than the store takes.
    #[error("the server takes files of at most {limit} bytes")]
    UploadTooLarge {
        /// The most that is possible, in bytes.
        limit: u64,
        /// What it would have been, or at least, in bytes.
        size: u64,
    },
    /// As many uploads are open as the store takes at a time.
    #[error("too many uploads are open")]
    TooManyUploads,
    /// The disk, a quota or the limit for the size of a file is exhausted.
    #[error("no space left for the file")]
    DiskFull,
    /// The operating system refused.
    #[error("the server could not {operation}")]
    Io {
        /// What was tried, as a verb and its object.
        operation: &'static str,
        /// For the log; clients are not told.
        source: io::Error,
    },
}

impl Error {
    /// Classifies what the operating system said to `operation`. What the caller can tell better (a
    /// name that does not exist, say) it has looked at before.
    pub(crate) fn io(operation: &'static str, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidFilename, QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull,
            InvalidFilename => Self::FilenameInvalid(InvalidPath::NotStorable),
            _ => Self::Io { operation, source },
        }
    }
}

/// Why a store could not be opened. The texts are for the person who starts the server; what the
/// operating system said is the source.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The root is there, and is no folder.
    #[error("the root {} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// The root is missing, and a read-only store creates nothing.
    #[error("the root {} does not exist, and a read-only server does not create it", .0.display())]
    Missing(PathBuf),
    /// Another server has the root.
    #[error("the root {} is in use by another server", .0.display())]
    InUse(PathBuf),
    /// The root cannot be read.
    #[error("the root {} cannot be opened", .root.display())]
    NotReadable {
        /// The root.
        root: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The root cannot be created or written.
    #[error("the root {} is not writable", .root.display())]
    NotWritable {
        /// The root.
        root: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}
