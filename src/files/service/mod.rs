//! `muxs.FileController`: calls into domain types, failures into codes. All that the files know of
//! gRPC is here.

mod framed;
mod oversize;
mod read_stream;
mod write_stream;

use std::time::Duration;

use futures::{StreamExt, stream::BoxStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Response, Status, Streaming};

use self::{
    framed::Framed,
    oversize::{DropOversize, Oversize},
};
use super::{Caller, Error, FilePath, Store, Version, upload::UploadId};
use crate::{
    failure::{BAD_REQUEST, Cause},
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
pub(crate) type FileController = Framed<DropOversize<FileControllerServer<Files>>>;

/// What the service needs.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) store: Store,
    /// The size of a chunk that is sent, in bytes, where the client has no wish.
    pub(crate) chunk_bytes: u32,
    /// Where the tasks are that outlive a call.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server stops and waits no longer for uploads.
    pub(crate) ending: CancellationToken,
}

/// Serves files.
pub(crate) fn file_controller(files: Files) -> FileController {
    let server = FileControllerServer::new(files).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Framed(DropOversize::new(server, WRITE, MAX_MESSAGE_BYTES as u64))
}

impl Files {
    async fn read_text(&self, request: Request<pb::Files>) -> Result<String, Error> {
        let path = caller(&request).path(&request.get_ref().filename)?;
        let text = self.store.read_text(path.clone(), MAX_TEXT_BYTES).await;
        text.inspect_err(|error| log(&path, error))
    }

    async fn write_text(&self, request: Request<pb::Files>) -> Result<(), Error> {
        let too_large = |size| {
            self.store.activity().texts_too_large.add(1);
            let limit = MAX_TEXT_BYTES;
            Error::TooLarge { limit, size }
        };
        if let Some(&Oversize { size }) = request.extensions().get() {
            return Err(too_large(size));
        }
        let caller = caller(&request);
        let pb::Files { filename, text } = request.into_inner();
        let path = caller.path(&filename)?;
        if text.len() as u64 > MAX_TEXT_BYTES {
            return Err(too_large(text.len() as u64));
        }
        let written = self.store.write_text(path.clone(), text).await;
        written.inspect_err(|error| log(&path, error))
    }

    async fn stat(&self, request: Request<pb::StatRequest>) -> Result<pb::FileInfo, Error> {
        let path = caller(&request).path(&request.get_ref().filename)?;
        let version = self.store.stat(path.clone()).await;
        let version = version.inspect_err(|error| log(&path, error))?;
        Ok(file_info(&path, version))
    }

    async fn abort_upload(&self, request: Request<pb::AbortUploadRequest>) -> Result<(), Error> {
        let caller = caller(&request);
        let request = request.into_inner();
        let path = caller.path(&request.filename)?;
        let id: UploadId = request.upload_id.parse()?;
        let aborted = self
            .store
            .abort_upload(path.clone(), id, caller.owner)
            .await;
        aborted.inspect_err(|error| log(&path, error))
    }
}

#[tonic::async_trait]
impl pb::file_controller_server::FileController for Files {
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
fn caller<T>(request: &Request<T>) -> Caller {
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
            Error::FilenameInvalid(_) => cause(&error).field_status("filename", error.to_string()),
            Error::UploadIdInvalid(_) => cause(&error).field_status("upload_id", error.to_string()),
            Error::TooManyUploads => cause(&error).retry_status(RETRY_AFTER, error.to_string()),
            _ => cause(&error).status(error.to_string()),
        }
    }
}

/// The one table from failure to code and reason. It has no wildcard: a new failure gets its row,
/// or does not compile.
fn cause(error: &Error) -> Cause {
    match error {
        Error::FilenameInvalid(_) => Cause::new(Code::InvalidArgument, "FILENAME_INVALID"),
        Error::UploadIdInvalid(_) => Cause::new(Code::InvalidArgument, BAD_REQUEST),
        Error::OutsideRoot => Cause::new(Code::PermissionDenied, "OUTSIDE_ROOT"),
        Error::OutsideFolder => Cause::new(Code::PermissionDenied, "OUTSIDE_FOLDER"),
        Error::ReadOnly => Cause::new(Code::PermissionDenied, "READ_ONLY"),
        Error::NotFound => Cause::new(Code::NotFound, "NOT_FOUND"),
        Error::NotAFile => Cause::new(Code::FailedPrecondition, "NOT_A_FILE"),
        Error::TooLarge { limit, size } => Cause::new(Code::FailedPrecondition, "TOO_LARGE")
            .with("limit", limit)
            .with("size", size),
        Error::NotText => Cause::new(Code::FailedPrecondition, "NOT_TEXT"),
        Error::UploadNotFound => Cause::new(Code::NotFound, "NOT_FOUND"),
        Error::FileChanged => Cause::new(Code::Aborted, "FILE_CHANGED"),
        Error::OffsetBeyondEnd { size } => {
            Cause::new(Code::OutOfRange, "OFFSET_BEYOND_END").with("size", size)
        }
        Error::Exists { etag } => {
            Cause::new(Code::AlreadyExists, "EXISTS").with_some("etag", etag.as_ref())
        }
        Error::EtagMismatch { etag } => {
            Cause::new(Code::FailedPrecondition, "ETAG_MISMATCH").with_some("etag", etag.as_ref())
        }
        Error::UploadMismatch => Cause::new(Code::FailedPrecondition, "UPLOAD_MISMATCH"),
        Error::OffsetMismatch { expected } => {
            Cause::new(Code::Aborted, "OFFSET_MISMATCH").with("expected", expected)
        }
        Error::ChunkCorrupt { offset } => {
            Cause::new(Code::Aborted, "CHUNK_CORRUPT").with("offset", offset)
        }
        Error::Superseded => Cause::new(Code::Aborted, "SUPERSEDED"),
        Error::SizeMismatch { .. } => Cause::new(Code::InvalidArgument, "SIZE_MISMATCH"),
        Error::ChecksumMismatch => Cause::new(Code::InvalidArgument, "CHECKSUM_MISMATCH"),
        Error::UploadTooLarge { limit, size } => Cause::new(Code::FailedPrecondition, "TOO_LARGE")
            .with("limit", limit)
            .with("size", size),
        Error::DiskFull => Cause::new(Code::ResourceExhausted, "DISK_FULL"),
        Error::TooManyUploads => Cause::new(Code::ResourceExhausted, "BUSY"),
        Error::Io { .. } => Cause::new(Code::Internal, "IO"),
    }
}
