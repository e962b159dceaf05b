//! `muxs.FileController`: calls into domain types, failures into codes. All that the files know of
//! gRPC is here.

mod oversize;
mod read_stream;
mod write_stream;
mod zero_copy;

use std::time::Duration;

use futures::{StreamExt, stream::BoxStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Response, Status, Streaming};

use self::{
    oversize::{DropOversize, Oversize},
    zero_copy::Framed,
};
use super::{Error, FilePath, Principal, Store, Version, upload::UploadId};
use crate::{
    failure::{BAD_REQUEST, Failure},
    pb::{self, file_controller_server::FileControllerServer},
};

/// The longest text that fits a message of 4 MiB, the most that gRPC clients accept unless told
/// otherwise: a byte for the field's key and four for its length come before it.
const MAX_TEXT_BYTES: u64 = 4 * 1024 * 1024 - 5;

/// The largest message that is taken in: a Write of the longest text under the longest name, and
/// some room for fields to come.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024 + 8 * 1024;

/// The largest chunk that is sent or taken in, in bytes.
pub const MAX_CHUNK_BYTES: u32 = 1024 * 1024;

/// When a client shall come back whose upload there is no room for, or that is cut off because the
/// server stops.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What Read answers in place of a text that it could not read, as it always has.
const READ_FAILED: &str = "Error: read failed";

/// The method whose messages may have any size: `oversize` looks after them.
pub(crate) const WRITE: &str = "/muxs.FileController/Write";

/// The method whose client has something to say, or closes.
pub(crate) const WRITE_STREAM: &str = "/muxs.FileController/WriteStream";

/// `muxs.FileController`, ready to be served.
pub(crate) type FileController = Framed<DropOversize<FileControllerServer<FileService>>>;

/// What the service needs.
#[derive(Clone, Debug)]
pub(crate) struct FileService {
    pub(crate) store: Store,
    /// The size of a chunk that is sent, in bytes, where the client has no wish.
    pub(crate) chunk_bytes: u32,
    /// Where the tasks are that outlive a call.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server stops and waits no longer for uploads.
    pub(crate) ending: CancellationToken,
}

/// Serves files.
pub(crate) fn file_controller(files: FileService) -> FileController {
    let server = FileControllerServer::new(files).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Framed(DropOversize::new(server, WRITE, MAX_MESSAGE_BYTES as u64))
}

impl FileService {
    async fn read_text(&self, request: Request<pb::Files>) -> Result<String, Error> {
        let path = principal(&request).parse_path(&request.get_ref().filename)?;
        let text = self.store.read_text(path.clone(), MAX_TEXT_BYTES).await;
        text.inspect_err(|error| log(&path, error))
    }

    async fn write_text(&self, request: Request<pb::Files>) -> Result<(), Error> {
        let too_large = |size| {
            self.store.stats().texts_too_large.add(1);
            let limit = MAX_TEXT_BYTES;
            Error::TooLarge { limit, size }
        };
        if let Some(&Oversize { size }) = request.extensions().get() {
            return Err(too_large(size));
        }
        let principal = principal(&request);
        let pb::Files { filename, text } = request.into_inner();
        let path = principal.parse_path(&filename)?;
        if text.len() as u64 > MAX_TEXT_BYTES {
            return Err(too_large(text.len() as u64));
        }
        let written = self.store.write_text(path.clone(), text).await;
        written.inspect_err(|error| log(&path, error))
    }

    async fn stat(&self, request: Request<pb::StatRequest>) -> Result<pb::FileInfo, Error> {
        let path = principal(&request).parse_path(&request.get_ref().filename)?;
        let version = self.store.stat(path.clone()).await;
        let version = version.inspect_err(|error| log(&path, error))?;
        Ok(file_info(&path, version))
    }

    async fn abort_upload(&self, request: Request<pb::AbortUploadRequest>) -> Result<(), Error> {
        let principal = principal(&request);
        let request = request.into_inner();
        let path = principal.parse_path(&request.filename)?;
        let id: UploadId = request.upload_id.parse()?;
        let aborted = self
            .store
            .abort_upload(path.clone(), id, principal.owner)
            .await;
        aborted.inspect_err(|error| log(&path, error))
    }
}

#[tonic::async_trait]
impl pb::file_controller_server::FileController for FileService {
    async fn read(&self, request: Request<pb::Files>) -> Result<Response<pb::Content>, Status> {
        let content = match self.read_text(request).await {
            Ok(text) => pb::Content {
                text,
                failure: None,
            },
            Err(error) => pb::Content {
                text: READ_FAILED.to_owned(),
                failure: Some(error.into()),
            },
        };
        Ok(Response::new(content))
    }

    async fn write(&self, request: Request<pb::Files>) -> Result<Response<pb::Status>, Status> {
        let failure = self.write_text(request).await.err();
        Ok(Response::new(pb::Status {
            code: failure.is_some().into(),
            failure: failure.map(pb::Failure::from),
        }))
    }

    async fn stat(
        &self,
        request: Request<pb::StatRequest>,
    ) -> Result<Response<pb::FileInfo>, Status> {
        let info = self.stat(request).await?;
        Ok(Response::new(info))
    }

    type ReadStreamStream = BoxStream<'static, Result<pb::ReadStreamResponse, Status>>;

    async fn read_stream(
        &self,
        request: Request<pb::ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let reading = self.read_stream(request).await?;
        let mut response = Response::new(reading.clone().responses().boxed());
        // For `framed`.
        response.extensions_mut().insert(reading);
        Ok(response)
    }

    type WriteStreamStream = BoxStream<'static, Result<pb::WriteStreamResponse, Status>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<pb::WriteStreamRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let responses = self.write_stream(request);
        Ok(Response::new(responses.boxed()))
    }

    async fn abort_upload(
        &self,
        request: Request<pb::AbortUploadRequest>,
    ) -> Result<Response<pb::AbortUploadResponse>, Status> {
        self.abort_upload(request).await?;
        Ok(Response::new(pb::AbortUploadResponse {}))
    }
}

/// On whose behalf a call is made.
fn principal<T>(request: &Request<T>) -> Principal {
    request.extensions().get().cloned().unwrap_or_default()
}

fn file_info(path: &FilePath, version: Version) -> pb::FileInfo {
    pb::FileInfo {
        filename: path.as_str().to_owned(),
        size: version.size,
        etag: version.etag,
        modified_at: Some(version.modified_at.into()),
    }
}

/// Notes what the operating system said, which clients are not told.
fn log(path: &FilePath, error: &Error) {
    if let Error::Io { operation, source } = error {
        tracing::error!(file = path.as_str(), error = %source, "cannot {operation}");
    }
}

impl From<Error> for pb::Failure {
    fn from(error: Error) -> Self {
        let cause = cause(&error);
        Self {
            code: cause.code.into(),
            reason: cause.reason.to_owned(),
            message: error.to_string(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::FilenameInvalid(_) => cause(&error).bad_field("filename", error.to_string()),
            Error::UploadIdInvalid(_) => cause(&error).bad_field("upload_id", error.to_string()),
            Error::TooManyUploads => cause(&error).retry_after(RETRY_AFTER, error.to_string()),
            _ => cause(&error).status(error.to_string()),
        }
    }
}

/// The one table from failure to code and reason. It has no wildcard: a new failure gets its row,
/// or does not compile.
fn cause(error: &Error) -> Failure {
    match error {
        Error::FilenameInvalid(_) => Failure::new(Code::InvalidArgument, "FILENAME_INVALID"),
        Error::UploadIdInvalid(_) => Failure::new(Code::InvalidArgument, BAD_REQUEST),
        Error::OutsideRoot => Failure::new(Code::PermissionDenied, "OUTSIDE_ROOT"),
        Error::OutsideFolder => Failure::new(Code::PermissionDenied, "OUTSIDE_FOLDER"),
        Error::ReadOnly => Failure::new(Code::PermissionDenied, "READ_ONLY"),
        Error::NotFound => Failure::new(Code::NotFound, "NOT_FOUND"),
        Error::NotAFile => Failure::new(Code::FailedPrecondition, "NOT_A_FILE"),
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
        Error::Superseded => Failure::new(Code::Aborted, "SUPERSEDED"),
        Error::SizeMismatch { .. } => Failure::new(Code::InvalidArgument, "SIZE_MISMATCH"),
        Error::ChecksumMismatch => Failure::new(Code::InvalidArgument, "CHECKSUM_MISMATCH"),
        Error::UploadTooLarge { limit, size } => {
            Failure::new(Code::FailedPrecondition, "TOO_LARGE")
                .metadata("limit", limit)
                .metadata("size", size)
        }
        Error::DiskFull => Failure::new(Code::ResourceExhausted, "DISK_FULL"),
        Error::TooManyUploads => Failure::new(Code::ResourceExhausted, "BUSY"),
        Error::Io { .. } => Failure::new(Code::Internal, "IO"),
    }
}
