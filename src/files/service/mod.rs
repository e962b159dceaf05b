//! `muxs.FileController`, the gRPC service of the files: converts requests to domain types, and errors to
//! statuses.

mod failure;
mod file_info;
mod limits;
mod oversize;
mod read_stream;
mod write_stream;
mod zero_copy;

use futures::{
    StreamExt,
    future::{Ready, ready},
    stream::{self, BoxStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

pub use self::limits::MAX_CHUNK_BYTES;
use self::{
    failure::log_io_error,
    file_info::file_info,
    limits::{MAX_MESSAGE_BYTES, MAX_TEXT_BYTES},
    oversize::{DropOversize, Oversize},
    read_stream::FileRange,
    write_stream::UploadStream,
    zero_copy::ZeroCopyReads,
};
use super::{error::Error, principal::Principal, store::Store, upload::UploadId};
use crate::{
    commit_point::CommitPoint,
    pb::{self, file_controller_server::FileControllerServer},
};

/// The text of a Read that failed, part of the contract since its first version.
const READ_FAILED: &str = "Error: read failed";

/// The method without a size limit of the server: `oversize` applies the limit.
pub(crate) const WRITE: &str = "/muxs.FileController/Write";

/// The method whose client sends messages throughout the call.
pub(crate) const WRITE_STREAM: &str = "/muxs.FileController/WriteStream";

/// The complete service, with its wrappers.
pub(crate) type FileController = ZeroCopyReads<DropOversize<FileControllerServer<FileService>>>;

/// The handlers of the service.
#[derive(Clone, Debug)]
pub(crate) struct FileService {
    pub(crate) store: Store,
    /// The size of sent chunks in bytes, if the client requests none.
    pub(crate) chunk_bytes: u32,
    /// Tracks the tasks that outlive their call.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server stops waiting for uploads.
    pub(crate) stop: CancellationToken,
}

/// Wraps the handlers to the complete service.
pub(crate) fn file_controller(files: FileService) -> FileController {
    let server = FileControllerServer::new(files).max_decoding_message_size(MAX_MESSAGE_BYTES);
    ZeroCopyReads(DropOversize::new(server, WRITE, MAX_MESSAGE_BYTES as u64))
}

impl FileService {
    async fn read_text(&self, request: Request<pb::Files>) -> Result<String, Error> {
        let path = principal(&request).parse_path(&request.get_ref().filename)?;
        let text = self.store.read_text(path.clone(), MAX_TEXT_BYTES).await;
        text.inspect_err(|error| log_io_error(&path, error))
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
        let (principal, point) = (principal(&request), commit_point(&request));
        let pb::Files { filename, text } = request.into_inner();
        let path = principal.parse_path(&filename)?;
        if text.len() as u64 > MAX_TEXT_BYTES {
            return Err(too_large(text.len() as u64));
        }
        let written = self
            .store
            .write_text_unless_ended(path.clone(), text, point)
            .await;
        written.inspect_err(|error| log_io_error(&path, error))
    }

    async fn stat(&self, request: Request<pb::StatRequest>) -> Result<pb::FileInfo, Error> {
        let path = principal(&request).parse_path(&request.get_ref().filename)?;
        let version = self.store.stat(path.clone()).await;
        let version = version.inspect_err(|error| log_io_error(&path, error))?;
        Ok(file_info(&path, version))
    }

    async fn open_range(
        &self,
        request: Request<pb::ReadStreamRequest>,
    ) -> Result<FileRange, Error> {
        let principal = principal(&request);
        FileRange::open(
            &self.store,
            &principal,
            request.into_inner(),
            self.chunk_bytes,
        )
        .await
    }

    async fn abort_upload(&self, request: Request<pb::AbortUploadRequest>) -> Result<(), Error> {
        let (principal, point) = (principal(&request), commit_point(&request));
        let request = request.into_inner();
        let path = principal.parse_path(&request.filename)?;
        let id: UploadId = request.upload_id.parse()?;
        let aborted = self
            .store
            .abort_upload(path.clone(), id, principal.owner, point)
            .await;
        aborted.inspect_err(|error| log_io_error(&path, error))
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

    type ReadStreamStream = stream::Once<Ready<Result<pb::ReadStreamResponse, Status>>>;

    /// Opens the file. `ZeroCopyReads` takes the range from the extensions and makes the body of the
    /// response, in place of the stream, which fails where that wrapper is missing.
    async fn read_stream(
        &self,
        request: Request<pb::ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let range = self.open_range(request).await?;
        let unwrapped = Status::internal("ReadStream is answered by zero_copy");
        let mut response = Response::new(stream::once(ready(Err(unwrapped))));
        response.extensions_mut().insert(range);
        Ok(response)
    }

    type WriteStreamStream = BoxStream<'static, Result<pb::WriteStreamResponse, Status>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<pb::WriteStreamRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let (principal, point) = (principal(&request), commit_point(&request));
        let (store, stop) = (self.store.clone(), self.stop.clone());
        let requests = request.into_inner();
        let responses = UploadStream::spawn(store, principal, point, requests, stop, &self.tasks);
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

/// The principal that the server attached to the request, or the default without authentication.
fn principal<T>(request: &Request<T>) -> Principal {
    request.extensions().get().cloned().unwrap_or_default()
}

/// The commit point that the server attached to the request, or one that is never reached from outside.
fn commit_point<T>(request: &Request<T>) -> CommitPoint {
    request.extensions().get().cloned().unwrap_or_default()
}
