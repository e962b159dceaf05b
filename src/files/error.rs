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
    #[error("a symbolic link in the filename leads outside the server's root folder")]
    OutsideRoot,
    /// The filename, or a link in its path, leads outside the directory of the caller.
    #[error("the access token gives access to another folder only")]
    OutsideFolder,
    /// The store was opened read-only.
    #[error("the server is read-only")]
    ReadOnly,
    /// The file does not exist.
    #[error("no such file")]
    NotFound,
    /// The upload does not exist, or is finished.
    #[error("there is no unfinished upload with this filename and upload_id")]
    UploadNotFound,
    /// The filename leads to something else than a regular file.
    #[error("{0}")]
    NotAFile(NotAFile),
    /// The text exceeds the size of one message.
    #[error(
        "the text has {size} bytes, and one message holds at most {limit}: use ReadStream or WriteStream"
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
    #[error("another program changed the file while it was read")]
    FileChanged,
    /// The start offset is beyond the end of the file.
    #[error("the offset is beyond the end of the file, which has {size} bytes")]
    OffsetBeyondEnd {
        /// The size of the file in bytes.
        size: u64,
    },
    /// The precondition is that the file does not exist, and it does.
    #[error("the file exists already")]
    Exists {
        /// The etag of the existing file. None if it is unknown.
        etag: Option<String>,
    },
    /// The file does not have the etag of the precondition.
    #[error("the file does not have the etag in if_etag: it has changed, or does not exist")]
    EtagMismatch {
        /// The etag of the existing file, if there is one.
        etag: Option<String>,
    },
    /// The upload was opened before with another size or precondition.
    #[error("this upload_id belongs to an upload that was opened with another size or if_etag")]
    UploadMismatch,
    /// The offset of a chunk is not the end of the accepted prefix.
    #[error("the next chunk must start at offset {expected}")]
    OffsetMismatch {
        /// The end of the accepted prefix, in bytes.
        expected: u64,
    },
    /// The bytes of a chunk do not match its checksum.
    #[error("the chunk at offset {offset} does not match its checksum")]
    ChunkCorrupt {
        /// The offset of the chunk, in bytes.
        offset: u64,
    },
    /// Another stream took over the upload, or aborted it.
    #[error("another call has taken over or aborted the upload")]
    Superseded,
    /// A later call has replaced the file, under a precondition that this call would have broken.
    #[error("a later call has replaced the file")]
    Overtaken,
    /// The size of the upload is not the announced one.
    #[error("the upload has {received} bytes, and {announced} were announced")]
    SizeMismatch {
        /// The size that the client gave in `open` or in `finish`, in bytes.
        announced: u64,
        /// The size in bytes, with the chunk that exceeded the announced one.
        received: u64,
    },
    /// The bytes of the upload do not match the checksum in `finish`.
    #[error("the upload does not match its checksum")]
    ChecksumMismatch,
    /// The upload exceeds the size limit of the store.
    #[error("the upload is larger than the server's limit of {limit} bytes")]
    UploadTooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The size of the upload in bytes, or a lower bound of it.
        size: u64,
    },
    /// The maximum number of uploads is open or unfinished.
    #[error("too many uploads are open or unfinished")]
    TooManyUploads,
    /// The disk or a quota is full, or the filesystem's limit for the size of a file is exceeded.
    #[error("the server has no space left for the file")]
    DiskFull,
    /// The call has ended, and changed nothing. No client receives this.
    #[error("the call has ended")]
    CallEnded,
    /// The folder lies on another filesystem or mount than the root, into which no file can be renamed.
    #[error(
        "the file is on another filesystem than the server's root folder, and can only be read"
    )]
    OtherFilesystem,
    /// The server has no memory or no file descriptors left.
    #[error("the server is short of memory or file descriptors")]
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

/// What a filename leads to in place of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAFile {
    /// A directory.
    #[error("the filename is that of a folder: name a file in it")]
    Folder,
    /// A FIFO, a socket or a device.
    #[error("the filename is that of a FIFO, a socket or a device")]
    Special,
    /// An ancestor is not a directory.
    #[error("a part of the filename that has to be a folder is a file")]
    BelowAFile,
    /// A cycle of symbolic links, or too many.
    #[error("the filename has a cycle of symbolic links, or too many of them")]
    TooManyLinks,
}

impl NotAFile {
    /// The entry is a directory, or something else that is not a regular file.
    pub(crate) fn entry(is_dir: bool) -> Error {
        Error::NotAFile(match is_dir {
            true => Self::Folder,
            false => Self::Special,
        })
    }
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
    #[error("the root {} is in use by another server: stop it, start this one read-only, or use another root",
            .0.display())]
    InUse(PathBuf),
    /// The root's filesystem has neither extended attributes nor times in nanoseconds.
    #[error("the filesystem of the root {} is not supported: it has neither extended attributes nor times in \
             nanoseconds, so two versions of a file can look the same", .0.display())]
    NoVersions(PathBuf),
    /// The root cannot be read.
    #[error("the root {} cannot be opened", .root.display())]
    NotReadable {
        /// The root.
        root: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The root does not exist and cannot be created.
    #[error("the root {} does not exist and cannot be created", .root.display())]
    NotCreatable {
        /// The root.
        root: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The root cannot be written.
    #[error("the root {} is not writable", .root.display())]
    NotWritable {
        /// The root.
        root: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}
