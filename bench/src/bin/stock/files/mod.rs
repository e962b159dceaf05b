//! The files. Blocking threads read and write them; a channel leads to the connection.

mod read;
mod write;

use std::path::{Component, Path, PathBuf};

use muxs_bench::pb::{
    self, AbortUploadRequest, AbortUploadResponse, Content, FileInfo, ReadStreamRequest,
    ReadStreamResponse, StatRequest, WriteStreamRequest, WriteStreamResponse,
    file_controller_server::FileController,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The largest chunk, in bytes.
const MAX_CHUNK_BYTES: usize = 1 << 20;

/// The capacity of the channels, in chunks or answers.
const CHANNEL_CAPACITY: usize = 4;

#[derive(Clone)]
pub(crate) struct Files {
    root: PathBuf,
}

impl Files {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, filename: &str) -> Result<PathBuf, Status> {
        let filename = Path::new(filename);
        let is_inside = |part| matches!(part, Component::Normal(_));
        match filename.components().all(is_inside) {
            true => Ok(self.root.join(filename)),
            false => Err(Status::invalid_argument("not a relative path")),
        }
    }
}

#[tonic::async_trait]
impl FileController for Files {
    type ReadStreamStream = ReceiverStream<Result<ReadStreamResponse, Status>>;

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let request = request.into_inner();
        let path = self.path(&request.filename)?;
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        tokio::task::spawn_blocking(move || {
            if let Err(status) = read::send_file(&path, request, &sender) {
                // Sending fails when the client is gone.
                let _ = sender.blocking_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type WriteStreamStream = ReceiverStream<Result<WriteStreamResponse, Status>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<WriteStreamRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let (answers, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let upload = write::receive_file(self.clone(), request.into_inner(), answers.clone());
        tokio::spawn(async move {
            if let Err(status) = upload.await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn read(&self, _: Request<pb::Files>) -> Result<Response<Content>, Status> {
        not_measured()
    }

    async fn write(&self, _: Request<pb::Files>) -> Result<Response<pb::Status>, Status> {
        not_measured()
    }

    async fn stat(&self, _: Request<StatRequest>) -> Result<Response<FileInfo>, Status> {
        not_measured()
    }

    async fn abort_upload(
        &self,
        _: Request<AbortUploadRequest>,
    ) -> Result<Response<AbortUploadResponse>, Status> {
        not_measured()
    }
}

fn not_measured<T>() -> Result<T, Status> {
    Err(Status::unimplemented("nothing measures it"))
}
