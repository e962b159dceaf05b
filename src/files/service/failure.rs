//! Converts errors of the files to failures on the wire.

use std::time::Duration;

use tonic::{Code, Status};

use crate::{
    failure::{BAD_REQUEST, Failure},
    files::{error::Error, path::FilePath},
    pb,
};

/// The delay before a client retries an upload, after `BUSY` and after `DRAINING`.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Logs an error of the operating system, which is not sent to clients.
pub(super) fn log_io_error(path: &FilePath, error: &Error) {
    if let Error::Io { operation, source } | Error::Exhausted { operation, source } = error {
        tracing::error!(file = path.as_str(), error = %source, "cannot {operation}");
    }
}

impl From<Error> for pb::Failure {
    fn from(error: Error) -> Self {
        let failure = failure(&error);
        Self {
            code: failure.code.into(),
            reason: failure.reason.to_owned(),
            message: error.to_string(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::FilenameInvalid(_) => failure(&error).bad_field("filename", error.to_string()),
            Error::UploadIdInvalid(_) => failure(&error).bad_field("upload_id", error.to_string()),
            Error::TooManyUploads | Error::Exhausted { .. } => {
                failure(&error).retry_after(RETRY_AFTER, error.to_string())
            }
            _ => failure(&error).status(error.to_string()),
        }
    }
}

/// The table of errors: code, reason and metadata of each. Without a wildcard arm, so that a new error does
/// not compile until it has a row.
fn failure(error: &Error) -> Failure {
    match error {
        Error::FilenameInvalid(_) => Failure::new(Code::InvalidArgument, "FILENAME_INVALID"),
        Error::UploadIdInvalid(_) => Failure::new(Code::InvalidArgument, BAD_REQUEST),
        Error::OutsideRoot => Failure::new(Code::PermissionDenied, "OUTSIDE_ROOT"),
        Error::OutsideFolder => Failure::new(Code::PermissionDenied, "OUTSIDE_FOLDER"),
        Error::ReadOnly => Failure::new(Code::PermissionDenied, "READ_ONLY"),
        Error::NotFound => Failure::new(Code::NotFound, "NOT_FOUND"),
        Error::NotAFile(_) => Failure::new(Code::FailedPrecondition, "NOT_A_FILE"),
        Error::TooLarge { limit, size } => Failure::new(Code::FailedPrecondition, "TOO_LARGE")
            .metadata("limit", limit)
            .metadata("size", size),
        Error::NotText => Failure::new(Code::FailedPrecondition, "NOT_TEXT"),
        Error::UploadNotFound => Failure::new(Code::NotFound, "NOT_FOUND"),
        Error::FileChanged => Failure::new(Code::Aborted, "FILE_CHANGED"),
        Error::OffsetBeyondEnd { size } => {
            Failure::new(Code::OutOfRange, "OFFSET_BEYOND_END").metadata("size", size)
        }
        Error::Exists { etag } => {
            Failure::new(Code::AlreadyExists, "EXISTS").metadata_opt("etag", etag.as_ref())
        }
        Error::EtagMismatch { etag } => Failure::new(Code::FailedPrecondition, "ETAG_MISMATCH")
            .metadata_opt("etag", etag.as_ref()),
        Error::UploadMismatch => Failure::new(Code::FailedPrecondition, "UPLOAD_MISMATCH"),
        Error::OffsetMismatch { expected } => {
            Failure::new(Code::Aborted, "OFFSET_MISMATCH").metadata("expected", expected)
        }
        Error::ChunkCorrupt { offset } => {
            Failure::new(Code::Aborted, "CHUNK_CORRUPT").metadata("offset", offset)
        }
        Error::Superseded | Error::Overtaken => Failure::new(Code::Aborted, "SUPERSEDED"),
        Error::SizeMismatch { .. } => Failure::new(Code::InvalidArgument, "SIZE_MISMATCH"),
        Error::ChecksumMismatch => Failure::new(Code::InvalidArgument, "CHECKSUM_MISMATCH"),
        Error::UploadTooLarge { limit, size } => {
            Failure::new(Code::FailedPrecondition, "TOO_LARGE")
                .metadata("limit", limit)
                .metadata("size", size)
        }
        Error::DiskFull => Failure::new(Code::ResourceExhausted, "DISK_FULL"),
        Error::TooManyUploads => Failure::new(Code::ResourceExhausted, "BUSY"),
        Error::CallEnded => Failure::new(Code::Cancelled, "CALL_ENDED"),
        Error::OtherFilesystem => Failure::new(Code::FailedPrecondition, "OTHER_FILESYSTEM"),
        Error::Exhausted { .. } => Failure::new(Code::ResourceExhausted, "BUSY"),
        Error::Io { .. } => Failure::new(Code::Internal, "IO"),
    }
}
