//! Calls of WriteStream and ReadStream, step by step.

use std::{fs, time::Duration};

use muxs::{
    files::Settings,
    pb::{
        AbortUploadRequest, Chunk, FileInfo, FinishUpload, OpenUpload, ReadStreamRequest,
        UploadProgress, WriteStreamRequest, WriteStreamResponse,
        file_controller_client::FileControllerClient, read_stream_response::Event,
        write_stream_request::Step, write_stream_response::State,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, client::GrpcService, transport::Channel};

use super::{TestServer, assertions::with_timeout};

pub(crate) type FilesClient = FileControllerClient<Channel>;

/// What carries the calls of a generated client.
pub(crate) trait Transport:
    GrpcService<
        tonic::body::Body,
        Error: Into<tonic::codegen::StdError>,
        ResponseBody: http_body::Body<
            Data = bytes::Bytes,
            Error: Into<tonic::codegen::StdError> + Send,
        > + Send
                          + 'static,
    >
{
}

impl<T> Transport for T where
    T: GrpcService<
            tonic::body::Body,
            Error: Into<tonic::codegen::StdError>,
            ResponseBody: http_body::Body<
                Data = bytes::Bytes,
                Error: Into<tonic::codegen::StdError> + Send,
            > + Send
                              + 'static,
        >
{
}

/// One WriteStream call. A few steps are queued before sending waits.
pub(crate) struct UploadStream {
    steps: Option<mpsc::Sender<WriteStreamRequest>>,
    answers: Streaming<WriteStreamResponse>,
}

impl UploadStream {
    /// Begins a stream and sends nothing.
    pub(crate) async fn begin(files: &mut FileControllerClient<impl Transport>) -> Self {
        Self::begin_within(files, None).await
    }

    /// Begins a stream with a deadline that only the server enforces.
    pub(crate) async fn begin_within(
        files: &mut FileControllerClient<impl Transport>,
        timeout: Option<Duration>,
    ) -> Self {
        let adjust = |request: &mut Request<_>| {
            if let Some(timeout) = timeout {
                request.set_timeout(timeout);
            }
        };
        Self::begin_with(files, adjust).await
    }

    /// Begins a stream with an access token.
    pub(crate) async fn begin_as(
        files: &mut FileControllerClient<impl Transport>,
        token: &str,
    ) -> Self {
        let authorization = format!("Bearer {token}").parse().unwrap();
        let adjust = |request: &mut Request<_>| {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", authorization);
        };
        Self::begin_with(files, adjust).await
    }

    async fn begin_with(
        files: &mut FileControllerClient<impl Transport>,
        adjust: impl FnOnce(&mut Request<ReceiverStream<WriteStreamRequest>>),
    ) -> Self {
        let (steps, outgoing) = mpsc::channel(8);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        adjust(&mut request);
        let answers = with_timeout(files.write_stream(request)).await;
        Self {
            steps: Some(steps),
            answers: answers.unwrap().into_inner(),
        }
    }

    /// Begins a stream and sends `open`.
    pub(crate) async fn open(
        files: &mut FileControllerClient<impl Transport>,
        open: OpenUpload,
    ) -> Self {
        let mut upload = Self::begin(files).await;
        upload.send(Step::Open(open)).await;
        upload
    }

    /// The same as [`UploadStream::open`], with an access token.
    pub(crate) async fn open_as(
        files: &mut FileControllerClient<impl Transport>,
        token: &str,
        open: OpenUpload,
    ) -> Self {
        let mut upload = Self::begin_as(files, token).await;
        upload.send(Step::Open(open)).await;
        upload
    }

    pub(crate) async fn send(&mut self, step: Step) {
        self.send_raw(WriteStreamRequest { step: Some(step) }).await;
    }

    pub(crate) async fn send_raw(&mut self, step: WriteStreamRequest) {
        let steps = self.steps.as_ref().expect("not half-closed");
        // Sending fails if the server has ended the call; the answer then has the reason.
        let _ = with_timeout(steps.send(step)).await;
    }

    /// Sends a chunk with its checksum.
    pub(crate) async fn chunk(&mut self, offset: usize, bytes: &[u8]) {
        self.send(Step::Chunk(chunk(offset, bytes))).await;
    }

    /// Sends `content` from `offset` on in chunks of `size` bytes.
    pub(crate) async fn chunks(&mut self, content: &[u8], offset: usize, size: usize) {
        for (k, piece) in content[offset..].chunks(size).enumerate() {
            self.chunk(offset + k * size, piece).await;
        }
    }

    pub(crate) async fn finish(&mut self, content: &[u8]) {
        let step = Step::Finish(FinishUpload {
            size: content.len() as u64,
            crc32c: Some(crc32c(content)),
        });
        self.send(step).await;
    }

    /// Returns another sender of steps, for a test that reads at the same time.
    pub(crate) fn steps(&self) -> mpsc::Sender<WriteStreamRequest> {
        self.steps.clone().expect("not half-closed")
    }

    pub(crate) fn half_close(&mut self) {
        self.steps.take();
    }

    pub(crate) async fn next_answer(&mut self) -> Result<Option<State>, Status> {
        let answer = with_timeout(self.answers.message()).await?;
        Ok(answer.map(|answer| answer.state.expect("an answer says something")))
    }

    /// Returns the next answer, which has to be progress.
    pub(crate) async fn progress(&mut self) -> UploadProgress {
        match self.next_answer().await {
            Ok(Some(State::Progress(progress))) => progress,
            other => panic!("{other:?} instead of progress"),
        }
    }

    /// Waits for progress to exactly `size` bytes.
    pub(crate) async fn wait_persisted(&mut self, size: usize) -> UploadProgress {
        loop {
            let progress = self.progress().await;
            if progress.persisted_size >= size as u64 {
                assert_eq!(progress.persisted_size, size as u64);
                return progress;
            }
        }
    }

    /// Waits for the commit, and skips progress.
    pub(crate) async fn wait_committed(&mut self) -> FileInfo {
        loop {
            match self.next_answer().await {
                Ok(Some(State::Progress(_))) => {}
                Ok(Some(State::Committed(info))) => return info,
                other => panic!("{other:?} instead of the file"),
            }
        }
    }

    /// Waits for the end of the call, and skips progress.
    pub(crate) async fn wait_end(&mut self) -> Result<(), Status> {
        while let Some(state) = self.next_answer().await? {
            assert!(matches!(state, State::Progress(_)), "{state:?}");
        }
        Ok(())
    }
}

/// An `open` with an ID and a size, and without `if_etag`.
pub(crate) fn open(filename: &str, id: &str, content: &[u8]) -> OpenUpload {
    OpenUpload {
        filename: filename.to_owned(),
        upload_id: id.to_owned(),
        if_etag: None,
        size: Some(content.len() as u64),
    }
}

pub(crate) fn chunk(offset: usize, bytes: &[u8]) -> Chunk {
    Chunk {
        offset: offset as u64,
        crc32c: Some(crc32c(bytes)),
        data: bytes.to_vec().into(),
    }
}

/// Uploads a file in one stream.
pub(crate) async fn put(files: &mut FilesClient, filename: &str, content: &[u8]) -> FileInfo {
    let id = format!("put-{}", crc32c(content));
    let mut upload = UploadStream::open(files, open(filename, &id, content)).await;
    upload.chunks(content, 0, 256 * 1024).await;
    upload.finish(content).await;
    upload.wait_committed().await
}

/// Downloads a file or a range of it, and asserts offset and checksum of each chunk.
pub(crate) async fn get(
    files: &mut FilesClient,
    request: ReadStreamRequest,
) -> Result<(FileInfo, Vec<u8>), Status> {
    let start = request.offset;
    let mut events = files.read_stream(request).await?.into_inner();
    let Some(Event::Info(info)) = with_timeout(events.message()).await?.unwrap().event else {
        panic!("info comes first");
    };
    let mut content = Vec::new();
    while let Some(next) = with_timeout(events.message()).await? {
        let Some(Event::Chunk(chunk)) = next.event else {
            panic!("chunks come after info");
        };
        assert_eq!(chunk.offset, start + content.len() as u64);
        assert_eq!(chunk.crc32c, Some(crc32c(&chunk.data)));
        assert!(!chunk.data.is_empty());
        content.extend_from_slice(&chunk.data);
    }
    Ok((info, content))
}

/// A request for a whole file.
pub(crate) fn whole(filename: &str) -> ReadStreamRequest {
    ReadStreamRequest {
        filename: filename.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Returns pseudo-random bytes, so that no two chunks are equal.
pub(crate) fn content(size: usize) -> Vec<u8> {
    let mut state = size as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Starts a server with a checkpoint after each written byte.
pub(crate) fn start_checkpointing_every_byte() -> TestServer {
    start(Settings {
        checkpoint_bytes: 1,
        ..Settings::default()
    })
}

pub(crate) fn start(settings: Settings) -> TestServer {
    TestServer::serve(tempfile::tempdir().unwrap(), settings, |_| {})
}

pub(crate) async fn abort_upload(
    files: &mut FilesClient,
    filename: &str,
    id: &str,
) -> Result<(), Status> {
    let request = AbortUploadRequest {
        filename: filename.to_owned(),
        upload_id: id.to_owned(),
    };
    files.abort_upload(request).await.map(drop)
}

/// Returns the number of files in `.muxs/uploads`.
pub(crate) fn count_staged_files(server: &TestServer) -> usize {
    fs::read_dir(server.path(".muxs/uploads")).unwrap().count()
}

/// Waits for the end of a call and discards its answers.
pub(crate) async fn drain_answers(
    answers: Response<Streaming<WriteStreamResponse>>,
) -> Result<(), Status> {
    let mut answers = answers.into_inner();
    while with_timeout(answers.message()).await?.is_some() {}
    Ok(())
}
