//! `muxs.FileController`: calls into domain types, failures into codes. All that the files know of
//! gRPC is here.

mod oversize;

use futures::stream::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};

use self::oversize::{DropOversize, Oversize};
use super::{Error, FilePath, Store};
use crate::{
    failure::Cause,
    pb::{self, file_controller_server::FileControllerServer},
};

/// The longest text that fits a message of 4 MiB, the most that gRPC clients accept unless told
/// otherwise: a byte for the field's key and four for its length come before it.
const MAX_TEXT_BYTES: u64 = 4 * 1024 * 1024 - 5;

/// The largest message that is taken in: a Write of the longest text under the longest name, and
/// some room for fields to come.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024 + 8 * 1024;

/// What Read answers in place of a text that it could not read, as it always has.
const READ_FAILED: &str = "Error: read failed";

/// `muxs.FileController`, ready to be served.
pub(crate) type FileController = DropOversize<FileControllerServer<Files>>;

/// Serves the files of `store`.
pub(crate) fn file_controller(store: Store) -> FileController {
    let server =
        FileControllerServer::new(Files { store }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    DropOversize::new(
        server,
        "/muxs.FileController/Write",
        MAX_MESSAGE_BYTES as u64,
    )
}

/// The handlers.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    store: Store,
}

impl Files {
    async fn read_text(&self, filename: &str) -> Result<String, Error> {
        let path: FilePath = filename.parse()?;
        let text = self.store.read_text(path.clone(), MAX_TEXT_BYTES).await;
        text.inspect_err(|error| log(&path, error))
    }

    async fn write_text(&self, request: Request<pb::Files>) -> Result<(), Error> {
        let too_large = |size| Error::TooLarge {
            limit: MAX_TEXT_BYTES,
            size,
        };
        if let Some(&Oversize { size }) = request.extensions().get() {
            return Err(too_large(size));
        }
        let pb::Files { filename, text } = request.into_inner();
        let path: FilePath = filename.parse()?;
        if text.len() as u64 > MAX_TEXT_BYTES {
            return Err(too_large(text.len() as u64));
        }
        let written = self.store.write_text(path.clone(), text).await;
        written.inspect_err(|error| log(&path, error))
    }

    async fn file_info(&self, filename: &str) -> Result<pb::FileInfo, Error> {
        let path: FilePath = filename.parse()?;
        let version = self.store.stat(path.clone()).await;
        let version = version.inspect_err(|error| log(&path, error))?;
        Ok(pb::FileInfo {
            filename: path.as_str().to_owned(),
            size: version.size,
            etag: version.etag,
            modified_at: Some(version.modified_at.into()),
        })
    }
}

#[tonic::async_trait]
impl pb::file_controller_server::FileController for Files {
    async fn read(&self, request: Request<pb::Files>) -> Result<Response<pb::Content>, Status> {
        let content = match self.read_text(&request.into_inner().filename).await {
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
        let info = self.file_info(&request.into_inner().filename).await?;
        Ok(Response::new(info))
    }

    type ReadStreamStream = BoxStream<'static, Result<pb::ReadStreamResponse, Status>>;

    async fn read_stream(
        &self,
        _request: Request<pb::ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        Err(not_yet())
    }

    type WriteStreamStream = BoxStream<'static, Result<pb::WriteStreamResponse, Status>>;

    async fn write_stream(
        &self,
        _request: Request<Streaming<pb::WriteStreamRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        Err(not_yet())
    }

    async fn abort_upload(
        &self,
        _request: Request<pb::AbortUploadRequest>,
    ) -> Result<Response<pb::AbortUploadResponse>, Status> {
        Err(not_yet())
    }
}

fn not_yet() -> Status {
    Status::unimplemented("this method is not available yet")
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
            _ => cause(&error).status(error.to_string()),
        }
    }
}

/// The one table from failure to code and reason. It has no wildcard: a new failure gets its row,
/// or does not compile.
fn cause(error: &Error) -> Cause {
    match error {
        Error::FilenameInvalid(_) => Cause::new(Code::InvalidArgument, "FILENAME_INVALID"),
        Error::OutsideRoot => Cause::new(Code::PermissionDenied, "OUTSIDE_ROOT"),
        Error::ReadOnly => Cause::new(Code::PermissionDenied, "READ_ONLY"),
        Error::NotFound => Cause::new(Code::NotFound, "NOT_FOUND"),
        Error::NotAFile => Cause::new(Code::FailedPrecondition, "NOT_A_FILE"),
        Error::TooLarge { limit, size } => Cause::new(Code::FailedPrecondition, "TOO_LARGE")
            .with("limit", limit)
            .with("size", size),
        Error::NotText => Cause::new(Code::FailedPrecondition, "NOT_TEXT"),
        Error::FileChanged => Cause::new(Code::Aborted, "FILE_CHANGED"),
        Error::DiskFull => Cause::new(Code::ResourceExhausted, "DISK_FULL"),
        Error::Io { .. } => Cause::new(Code::Internal, "IO"),
    }
}
