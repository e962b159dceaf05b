//! A file service that follows the script of a test, call by call, and records its requests.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use muxs::{
    client::{self, AuthorizedChannel, Client, Credentials, Retry},
    pb::{
        self, FileInfo, FinishUpload, OpenUpload, ReadStreamRequest, ReadStreamResponse,
        UploadProgress, WriteStreamRequest, WriteStreamResponse,
        file_controller_server::{FileController, FileControllerServer},
        read_stream_response::Event,
        write_stream_request::Step,
        write_stream_response::State,
    },
    server::Server,
};
use std::time::Duration;
use tokio::{net::TcpListener, runtime::Handle, sync::Notify};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming, transport::Endpoint};
use tonic_types::{ErrorDetails, StatusExt};

/// The largest chunk that the server accepts, in bytes.
pub(crate) const MAX_CHUNK: usize = 1000;

/// One step of a scripted WriteStream.
pub(crate) enum Action {
    Send(State),
    /// Receives this number of chunks, or fewer if `finish` comes first.
    ReceiveChunks(usize),
    ReceiveAll,
    Fail(Status),
    /// Sends and receives nothing more until the client has gone.
    Hang,
}

/// One step of a scripted ReadStream.
pub(crate) enum ReadAction {
    Info(FileInfo),
    Chunk(pb::Chunk),
    Fail(Status),
    /// Sends nothing more, until the client has gone.
    Hang,
}

/// The steps still to come, and the requests so far.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) writes: VecDeque<Vec<Action>>,
    pub(crate) reads: VecDeque<Vec<ReadAction>>,
    pub(crate) stats: VecDeque<Result<FileInfo, Status>>,
    pub(crate) opens: Vec<OpenUpload>,
    /// The chunks that each WriteStream received.
    pub(crate) chunks: Vec<Vec<pb::Chunk>>,
    pub(crate) finishes: Vec<FinishUpload>,
    pub(crate) aborts: Vec<String>,
    /// The failures of the next calls of AbortUpload. After these, the calls succeed.
    pub(crate) abort_failures: VecDeque<Status>,
    pub(crate) read_requests: Vec<ReadStreamRequest>,
    /// The `authorization` of each call, empty if it had none.
    pub(crate) authorizations: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct ScriptedServer {
    script: Arc<Mutex<Script>>,
    /// Notified when a call begins to hang, and `gone` when its client has gone.
    pub(crate) hangs: Arc<Notify>,
    pub(crate) gone: Arc<Notify>,
    address: SocketAddr,
}

impl ScriptedServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            script: Arc::default(),
            hangs: Arc::default(),
            gone: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        let service = FileControllerServer::new(server.clone());
        // On the runtime of the test, whose clock may be paused.
        let serving = Server::builder()
            .service(service)
            .runtime(Handle::current());
        tokio::spawn(serving.serve(vec![listener.into()], std::future::pending()));
        server
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Scripts the next WriteStream.
    pub(crate) fn on_write(&self, acts: impl IntoIterator<Item = Action>) -> &Self {
        self.script().writes.push_back(acts.into_iter().collect());
        self
    }

    /// Scripts the next ReadStream.
    pub(crate) fn on_read(&self, parts: impl IntoIterator<Item = ReadAction>) -> &Self {
        self.script().reads.push_back(parts.into_iter().collect());
        self
    }

    /// A client that makes four attempts with short delays.
    pub(crate) fn client(&self) -> Client {
        self.client_over(self.endpoint().connect_lazy())
    }

    /// A client that does not retry.
    pub(crate) fn client_without_retries(&self) -> Client {
        self.client().retry(without_retries())
    }

    /// The same client with credentials.
    pub(crate) fn client_with(&self, credentials: Credentials) -> Client {
        self.client_over(self.authorized_channel(credentials))
    }

    pub(crate) fn authorized_channel(&self, credentials: Credentials) -> AuthorizedChannel {
        let endpoint = self.endpoint();
        AuthorizedChannel::new(&endpoint, endpoint.connect_lazy(), credentials).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn endpoint(&self) -> Endpoint {
        client::endpoint(self.url()).unwrap()
    }

    fn client_over(&self, channel: impl Into<AuthorizedChannel>) -> Client {
        Client::new(channel).retry(Retry {
            attempts: 4,
            min_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(1),
        })
    }

    /// Returns the bytes of the file that arrived in all attempts, and asserts the checksum of each chunk.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for chunk in self.script().chunks.iter().flatten() {
            assert_eq!(chunk.crc32c, Some(crc32c(&chunk.data)));
            assert!(chunk.data.len() <= MAX_CHUNK);
            content.truncate(chunk.offset as usize);
            assert_eq!(content.len(), chunk.offset as usize, "there is a gap");
            content.extend_from_slice(&chunk.data);
        }
        content
    }

    fn record<T>(&self, request: Request<T>) -> T {
        let shown = request.metadata().get("authorization");
        let shown = shown.map_or("", |shown| shown.to_str().unwrap());
        self.script().authorizations.push(shown.to_owned());
        request.into_inner()
    }

    fn hang(&self) -> impl Future<Output = ()> + use<> {
        struct Gone(Arc<Notify>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let (hangs, gone) = (Arc::clone(&self.hangs), Gone(Arc::clone(&self.gone)));
        async move {
            let _gone = gone;
            hangs.notify_one();
            std::future::pending().await
        }
    }
}

pub(crate) fn without_retries() -> Retry {
    Retry {
        attempts: 1,
        ..Retry::default()
    }
}

/// CRC-32C, bit by bit, as an independent implementation.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

/// Sends progress: the first `length` bytes of `content` are durable.
pub(crate) fn progress(content: &[u8], length: usize) -> Action {
    Action::Send(State::Progress(UploadProgress {
        persisted_size: length as u64,
        persisted_crc32c: crc32c(&content[..length]),
        max_chunk_bytes: MAX_CHUNK as u32,
        ..Default::default()
    }))
}

pub(crate) fn commit(info: FileInfo) -> Action {
    Action::Send(State::Committed(info))
}

/// The server's FileInfo of a file with this content.
pub(crate) fn info(content: &[u8], etag: &str) -> FileInfo {
    FileInfo {
        size: content.len() as u64,
        etag: etag.to_owned(),
        crc32c: Some(crc32c(content)),
        ..Default::default()
    }
}

/// The chunk at `offset`, as a server should send it.
pub(crate) fn chunk(content: &[u8], offset: usize) -> pb::Chunk {
    let data = &content[offset..content.len().min(offset + MAX_CHUNK)];
    pb::Chunk {
        offset: offset as u64,
        crc32c: Some(crc32c(data)),
        data: data.to_vec().into(),
    }
}

/// The events of a complete download from `offset` on.
pub(crate) fn events_from(content: &[u8], etag: &str, offset: usize) -> Vec<ReadAction> {
    let chunks = (offset..content.len()).step_by(MAX_CHUNK);
    let chunks = chunks.map(|offset| ReadAction::Chunk(chunk(content, offset)));
    [ReadAction::Info(info(content, etag))]
        .into_iter()
        .chain(chunks)
        .collect()
}

/// A status with a reason.
pub(crate) fn failure(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "muxs", HashMap::new());
    Status::with_error_details(code, "scripted", details)
}

pub(crate) fn connection_lost() -> Status {
    Status::unavailable("scripted")
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl FileController for ScriptedServer {
    type ReadStreamStream = Responses<ReadStreamResponse>;
    type WriteStreamStream = Responses<WriteStreamResponse>;

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let request = self.record(request);
        let parts = {
            let mut script = self.script();
            script.read_requests.push(request);
            script.reads.pop_front()
        };
        let parts = parts.ok_or_else(|| Status::unimplemented("not scripted"))?;
        let server = self.clone();
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            for part in parts {
                let event = match part {
                    ReadAction::Info(info) => Event::Info(info),
                    ReadAction::Chunk(chunk) => Event::Chunk(chunk),
                    ReadAction::Fail(status) => Err(status)?,
                    ReadAction::Hang => {
                        server.hang().await;
                        return;
                    }
                };
                yield ReadStreamResponse { event: Some(event) };
            }
        })))
    }

    async fn write_stream(
        &self,
        request: Request<Streaming<WriteStreamRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let mut requests = self.record(request);
        let server = self.clone();
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            let first = requests.message().await?.and_then(|request| request.step);
            let Some(Step::Open(open)) = first else {
                Err(Status::invalid_argument("no open"))?
            };
            let acts = {
                let mut script = server.script();
                script.opens.push(open);
                script.chunks.push(Vec::new());
                script.writes.pop_front()
            };
            for act in acts.ok_or_else(|| Status::unimplemented("not scripted"))? {
                let most = match act {
                    Action::Send(state) => {
                        yield WriteStreamResponse { state: Some(state) };
                        0
                    }
                    Action::ReceiveChunks(chunks) => chunks,
                    Action::ReceiveAll => usize::MAX,
                    Action::Fail(status) => Err(status)?,
                    Action::Hang => {
                        server.hang().await;
                        0
                    }
                };
                for _ in 0..most {
                    match requests.message().await?.and_then(|request| request.step) {
                        Some(Step::Chunk(chunk)) => {
                            server.script().chunks.last_mut().unwrap().push(chunk);
                        }
                        Some(Step::Finish(finish)) => {
                            server.script().finishes.push(finish);
                            break;
                        }
                        _ => Err(Status::invalid_argument("no finish"))?,
                    }
                }
            }
        })))
    }

    async fn stat(&self, request: Request<pb::StatRequest>) -> Result<Response<FileInfo>, Status> {
        self.record(request);
        let next = self.script().stats.pop_front();
        next.unwrap_or_else(|| Err(Status::unimplemented("not scripted")))
            .map(Response::new)
    }

    async fn abort_upload(
        &self,
        request: Request<pb::AbortUploadRequest>,
    ) -> Result<Response<pb::AbortUploadResponse>, Status> {
        let id = self.record(request).upload_id;
        let mut script = self.script();
        script.aborts.push(id);
        match script.abort_failures.pop_front() {
            Some(failure) => Err(failure),
            None => Ok(Response::new(pb::AbortUploadResponse {})),
        }
    }

    async fn read(&self, _: Request<pb::Files>) -> Result<Response<pb::Content>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn write(&self, _: Request<pb::Files>) -> Result<Response<pb::Status>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}
