//! The errors of file operations and of opening a store.

use std::{io, path::PathBuf};

use rustix::io::Errno;

use super::{path::InvalidPath, upload::InvalidUploadId};

/// Why a file operation failed. The texts are safe to send to clients: they contain no path of the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filename is invalid.
    #[error("{0}")]
    FilenameInvalid(#[from] InvalidPath),
    /// The upload id is invalid.
    #[error("{0}")]
    UploadIdInvalid(#[from] InvalidUploadId),
    /// A link in the path leads outside the root.
    #[error("the filename leads outside the root")]
    OutsideRoot,
    /// The filename, or a link in its path, leads outside the directory of the caller.
    #[error("the caller is restricted to another folder")]
    OutsideFolder,
    /// The store was opened read-only.
    #[error("the server is read-only")]
    ReadOnly,
    /// The file does not exist.
    #[error("no such file")]
    NotFound,
    /// The upload does not exist, or is finished.
    #[error("no such unfinished upload")]
    UploadNotFound,
    /// The file is a directory or a special file, or an ancestor of it is not a directory.
    #[error("not a regular file")]
    NotAFile,
    /// The text exceeds the size of one message.
    #[error(
        "{size} bytes are more than the {limit} that fit one message: use ReadStream or WriteStream"
    )]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The size of the text in bytes.
        size: u64,
    },
    /// The file is not UTF-8.
    #[error("the file is not UTF-8 text: use ReadStream")]
    NotText,
    /// Another program changed the file in place while it was read.
    #[error("the file changed while it was read")]
    FileChanged,
    /// The start offset is beyond the end of the file.
    #[error("the offset is beyond the end of the file, which has {size} bytes")]
    OffsetBeyondEnd {
        /// The size of the file in bytes.
        size: u64,
    },
    /// The precondition is that the file does not exist, and it does.
    #[error("the file exists")]
    Exists {
        /// The etag of the existing file. None if it is unknown.
        etag: Option<String>,
    },
    /// The file does not have the etag of the precondition.
    #[error("the file is another version")]
    EtagMismatch {
        /// The etag of the existing file, if there is one.
        etag: Option<String>,
    },
    /// The upload was opened before with another size or precondition.
    #[error("an upload of this id has another size or precondition")]
    UploadMismatch,
    /// The offset of a chunk is not the end of the accepted prefix.
    #[error("the next chunk has to start at {expected}")]
    OffsetMismatch {
        /// The end of the accepted prefix, in bytes.
        expected: u64,
    },
    /// The bytes of a chunk do not match its checksum.
    #[error("the chunk at {offset} does not have its checksum")]
    ChunkCorrupt {
        /// The offset of the chunk, in bytes.
        offset: u64,
    },
    /// Another stream took over the upload, or aborted it.
    #[error("the upload was taken over or aborted by another call")]
    Superseded,
    /// A later call has replaced the file, under a precondition that this call would have broken.
    #[error("a later call has replaced the file")]
    Overtaken,
    /// The size of the upload is not the announced one.
    #[error("{announced} bytes were announced, {received} came")]
    SizeMismatch {
        /// The size that the client gave in `open` or in `finish`, in bytes.
        announced: u64,
        /// The size in bytes, with the chunk that exceeded the announced one.
        received: u64,
    },
    /// The bytes of the upload do not match the checksum in `finish`.
    #[error("the upload does not have its checksum")]
    ChecksumMismatch,
    /// The upload exceeds the size limit of the store.
    #[error("the server takes files of at most {limit} bytes")]
    UploadTooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The size of the upload in bytes, or a lower bound of it.
        size: u64,
    },
    /// The maximum number of uploads is open.
    #[error("too many uploads are open")]
    TooManyUploads,
    /// The disk or a quota is full, or the filesystem's limit for the size of a file is exceeded.
    #[error("no space left for the file")]
    DiskFull,
    /// The call has ended, and changed nothing. Nobody hears this.
    #[error("the call has ended")]
    CallEnded,
    /// The folder lies on another filesystem or mount than the root, into which no file can be renamed.
    #[error("the folder is on another filesystem than the server's root, and can only be read")]
    OtherFilesystem,
    /// The server has no memory or no file descriptors left.
    #[error("the server is short of memory or of open files")]
    Exhausted {
        /// The operation that failed, as a verb and its object.
        operation: &'static str,
        /// The cause, for the log. It is not sent to clients.
        source: io::Error,
    },
    /// The operating system returned an error.
    #[error("the server could not {operation}")]
    Io {
        /// The operation that failed, as a verb and its object.
        operation: &'static str,
        /// The cause, for the log. It is not sent to clients.
        source: io::Error,
    },
}

impl Error {
    /// Classifies an error of the operating system. Callers handle the kinds that have a meaning of their own
    /// there, such as `NotFound`, beforehand.
    pub(crate) fn io(operation: &'static str, source: io::Error) -> Self {
        use io::ErrorKind::{
            CrossesDevices, FileTooLarge, InvalidFilename, OutOfMemory, QuotaExceeded,
            ReadOnlyFilesystem, StorageFull,
        };
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull,
            InvalidFilename => Self::FilenameInvalid(InvalidPath::NotStorable),
            ReadOnlyFilesystem => Self::ReadOnly,
            CrossesDevices => Self::OtherFilesystem,
            OutOfMemory => Self::Exhausted { operation, source },
            _ => match Errno::from_io_error(&source) {
                Some(Errno::MFILE | Errno::NFILE) => Self::Exhausted { operation, source },
                _ => Self::Io { operation, source },
            },
        }
    }
}

/// Why a store could not be opened. The texts are for the operator; the operating system's error is the
/// source.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The root is not a directory.
    #[error("the root {} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// The root does not exist, and a read-only store does not create it.
    #[error("the root {} does not exist, and a read-only server does not create it", .0.display())]
    Missing(PathBuf),
    /// Another server holds the lock of the root.
    #[error("the root {} is in use by another server", .0.display())]
    InUse(PathBuf),
    /// The root's filesystem has neither extended attributes nor times in nanoseconds.
    #[error("the filesystem of the root {} cannot tell two versions of a file apart: it keeps neither extended \
             attributes nor times in nanoseconds", .0.display())]
    NoVersions(PathBuf),
    /// The root cannot be read.
    #[error("the root {} cannot be opened", .root.display())]
    NotReadable {
        /// The root.
        root: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The root cannot be created or written.
    #[error("the root {} is not writable", .root.display())]
    NotWritable {
        /// The root.
        root: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}
