//! Uploads that break off in every way: the target is unchanged, the acknowledged bytes are kept, and
//! another stream completes the upload.

use std::{fs, path::Path};

use bytes::{BufMut, Bytes, BytesMut};
use h2::{Reason, SendStream, client::SendRequest};
use http::Request;
use muxs::{
    files::Settings,
    pb::{
        OpenUpload, WriteStreamRequest, WriteStreamResponse, write_stream_request::Step,
        write_stream_response::State,
    },
};
use prost::Message;
use rustix::process::Signal;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::support::{
    Program, TestServer,
    upload_stream::{FilesClient, UploadStream, chunk, content, crc32c, open},
    with_timeout,
};

const CHUNK: usize = 50_000;

/// The number of chunks that are acknowledged before the stream breaks off.
const ACKNOWLEDGED: usize = 4;

/// The number of chunks that are sent after these.
const SENT: usize = 3;

/// The way a stream breaks off.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    HalfClose,
    /// RST_STREAM(CANCEL), as of a client that cancels or whose deadline has passed.
    Cancel,
    /// RST_STREAM(NO_ERROR), which does not look like an error.
    Reset,
    Disconnect,
    ServerKilled,
    ServerStopped,
}

/// The position in the bytes of the stream.
#[derive(Clone, Copy, Debug)]
enum At {
    MessageBoundary,
    InsideMessage,
}

#[tokio::test]
async fn broken_stream_keeps_the_file_and_the_upload_resumes() {
    for cut in [
        Cut::HalfClose,
        Cut::Cancel,
        Cut::Reset,
        Cut::Disconnect,
        Cut::ServerKilled,
        Cut::ServerStopped,
    ] {
        for at in [At::MessageBoundary, At::InsideMessage] {
            for old in [None, Some("old")] {
                interrupt(cut, at, old).await;
            }
        }
    }
}

async fn interrupt(cut: Cut, at: At, old: Option<&str>) {
    let case = format!("{cut:?} {at:?} over {old:?}");
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("a.bin");
    if let Some(old) = old {
        fs::write(&target, old).unwrap();
    }
    let content = content(10 * CHUNK);
    let mut server = start(root.path()).await;
    let mut raw = RawUpload::open(&server, open("a.bin", "id", &content)).await;
    for k in 0..ACKNOWLEDGED {
        raw.chunk(&content, k);
    }
    let acknowledged = raw.wait_persisted(ACKNOWLEDGED * CHUNK).await;
    for k in ACKNOWLEDGED..ACKNOWLEDGED + SENT {
        raw.chunk(&content, k);
    }
    if let At::InsideMessage = at {
        raw.half_a_chunk(&content, ACKNOWLEDGED + SENT);
    }
    match cut {
        Cut::HalfClose => {
            raw.steps.send_data(Bytes::new(), true).unwrap();
            raw.wait_end().await;
        }
        Cut::Cancel => raw.steps.send_reset(Reason::CANCEL),
        Cut::Reset => raw.steps.send_reset(Reason::NO_ERROR),
        Cut::Disconnect => raw.disconnect(),
        Cut::ServerKilled => {
            server.signal(Signal::KILL);
            server.wait_end().await;
            server = start(root.path()).await;
        }
        Cut::ServerStopped => {
            server.signal(Signal::TERM);
            // The drain waits for open connections.
            raw.disconnect();
            assert!(server.wait_end().await.success(), "{case}");
            server = start(root.path()).await;
        }
    }

    let mut files = server.files().await;
    let upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    assert_eq!(fs::read_to_string(&target).ok().as_deref(), old, "{case}");
    let least = match cut {
        // All chunks have arrived, and complete chunks are kept.
        Cut::HalfClose => (ACKNOWLEDGED + SENT) * CHUNK,
        _ => acknowledged,
    };
    finish(upload, &content, least, &case).await;
    assert!(fs::read(&target).unwrap() == content, "{case}");
}

/// Completes the upload from where the last stream left it.
async fn finish(mut upload: UploadStream, content: &[u8], acknowledged: usize, case: &str) {
    let progress = upload.progress().await;
    let persisted = progress.persisted_size as usize;
    assert!(persisted >= acknowledged, "{case}: {persisted}");
    assert!(
        persisted <= (ACKNOWLEDGED + SENT) * CHUNK,
        "{case}: {persisted}"
    );
    assert_eq!(persisted % CHUNK, 0, "{case}");
    assert_eq!(
        progress.persisted_crc32c,
        crc32c(&content[..persisted]),
        "{case}"
    );
    upload.chunks(content, persisted, CHUNK).await;
    upload.finish(content).await;
    upload.wait_committed().await;
}

/// A `finish` counts even if the connection breaks right after it.
#[tokio::test]
async fn finished_upload_commits_after_the_client_disconnects() {
    let root = tempfile::tempdir().unwrap();
    let server = start(root.path()).await;
    let content = content(CHUNK);
    let mut raw = RawUpload::open(&server, open("a.bin", "id", &content)).await;
    raw.chunk(&content, 0);
    raw.step(Step::Finish(muxs::pb::FinishUpload {
        size: CHUNK as u64,
        crc32c: None,
    }));
    raw.wait_persisted(CHUNK).await;
    raw.disconnect();
    with_timeout(async {
        let mut files = server.files().await;
        let mut again = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
        assert!(matches!(
            again.next_answer().await,
            Ok(Some(State::Committed(_)))
        ));
    })
    .await;
    assert!(fs::read(root.path().join("a.bin")).unwrap() == content);
}

#[tokio::test]
async fn stopping_server_keeps_received_bytes_and_answers_draining() {
    let mut server = TestServer::serve(tempfile::tempdir().unwrap(), Settings::default(), |_| {});
    let content = content(10 * CHUNK);
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    upload.progress().await;
    upload
        .chunks(&content[..ACKNOWLEDGED * CHUNK], 0, CHUNK)
        .await;
    // A later call on this connection shows that the chunks have arrived.
    let _ = files
        .stat(muxs::pb::StatRequest {
            filename: "a.bin".into(),
        })
        .await;
    server.stop();
    let failure = upload.wait_end().await;
    crate::support::assert_failure(failure, tonic::Code::Unavailable, "DRAINING");
    server.wait_stopped().await;
    let server = TestServer::serve(server.into_root(), Settings::default(), |_| {});
    let mut files: FilesClient = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    assert!(upload.progress().await.persisted_size > 0);
}

/// The stream has not sent its first step.
#[tokio::test]
async fn stopping_server_answers_draining_before_the_first_step() {
    let mut server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = UploadStream::begin(&mut files).await;
    server.stop();
    let failure = upload.wait_end().await;
    crate::support::assert_failure(failure, tonic::Code::Unavailable, "DRAINING");
    server.wait_stopped().await;
}

/// Starts a server with a checkpoint after each byte.
async fn start(root: &Path) -> Program {
    Program::start_with(root, &["--checkpoint-bytes", "1B"]).await
}

fn piece(content: &[u8], k: usize) -> &[u8] {
    &content[k * CHUNK..][..CHUNK]
}

/// A WriteStream call whose bytes the test sends itself.
struct RawUpload {
    steps: SendStream<Bytes>,
    answers: h2::RecvStream,
    received: BytesMut,
    connection: JoinHandle<()>,
    _requests: SendRequest<Bytes>,
}

impl RawUpload {
    async fn open(server: &Program, open: OpenUpload) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move {
            // The test breaks the connection.
            let _ = connection.await;
        });
        let mut requests = requests.ready().await.unwrap();
        let request = Request::post(format!(
            "http://{}/muxs.FileController/WriteStream",
            server.address
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
        let (response, steps) = requests.send_request(request, false).unwrap();
        // The server sends its headers before the first step.
        let answers = with_timeout(response).await.unwrap().into_body();
        let mut upload = Self {
            steps,
            answers,
            received: BytesMut::new(),
            connection,
            _requests: requests,
        };
        upload.step(Step::Open(open));
        upload
    }

    fn step(&mut self, step: Step) {
        let message = message(step);
        self.steps.send_data(message, false).unwrap();
    }

    fn chunk(&mut self, content: &[u8], k: usize) {
        self.step(Step::Chunk(chunk(k * CHUNK, piece(content, k))));
    }

    fn half_a_chunk(&mut self, content: &[u8], k: usize) {
        let whole = message(Step::Chunk(chunk(k * CHUNK, piece(content, k))));
        self.steps
            .send_data(whole.slice(..whole.len() / 2), false)
            .unwrap();
    }

    /// Waits for progress to at least a size, and returns it.
    async fn wait_persisted(&mut self, size: usize) -> usize {
        loop {
            while self.received.len() >= 5 {
                let length = u32::from_be_bytes(self.received[1..5].try_into().unwrap()) as usize;
                if self.received.len() < 5 + length {
                    break;
                }
                let message = self.received.split_to(5 + length).split_off(5);
                match WriteStreamResponse::decode(message).unwrap().state.unwrap() {
                    State::Progress(progress) if progress.persisted_size < size as u64 => {}
                    State::Progress(progress) => return progress.persisted_size as usize,
                    State::Committed(info) => return info.size as usize,
                }
            }
            let data = with_timeout(self.answers.data()).await.unwrap().unwrap();
            self.answers
                .flow_control()
                .release_capacity(data.len())
                .unwrap();
            self.received.extend_from_slice(&data);
        }
    }

    /// Waits for the end of the answers.
    async fn wait_end(&mut self) {
        while let Some(Ok(data)) = with_timeout(self.answers.data()).await {
            self.answers
                .flow_control()
                .release_capacity(data.len())
                .unwrap();
        }
    }

    /// Closes the socket.
    fn disconnect(&self) {
        self.connection.abort();
    }
}

/// Encodes a step as a gRPC message.
fn message(step: Step) -> Bytes {
    let step = WriteStreamRequest { step: Some(step) };
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(step.encoded_len() as u32);
    step.encode(&mut message).unwrap();
    message.freeze()
}
