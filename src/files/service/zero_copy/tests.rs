//! [`ZeroCopyReads`] sends the same bytes as the generated code.

use std::{convert::Infallible, fs};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use http::HeaderMap;
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    files::{
        service::{FileService, file_controller},
        settings::Settings,
        store::Store,
    },
    pb::{
        ReadStreamRequest, ReadStreamResponse,
        file_controller_server::{self, FileControllerServer},
        read_stream_response::Event,
    },
};

const CHUNK: usize = 256 * 1024;

/// ReadStream on stock tonic: yields messages, for the generated code to encode.
#[derive(Clone)]
struct Reference(FileService);

#[tonic::async_trait]
impl file_controller_server::FileController for Reference {
    type ReadStreamStream = BoxStream<'static, Result<ReadStreamResponse, Status>>;

    async fn read_stream(
        &self,
        request: tonic::Request<ReadStreamRequest>,
    ) -> Result<tonic::Response<Self::ReadStreamStream>, Status> {
        let range = self.0.open_range(request).await?;
        Ok(tonic::Response::new(responses(range).boxed()))
    }

    type WriteStreamStream = stream::Empty<Result<pb::WriteStreamResponse, Status>>;

    async fn write_stream(
        &self,
        _: tonic::Request<tonic::Streaming<pb::WriteStreamRequest>>,
    ) -> Result<tonic::Response<Self::WriteStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn read(
        &self,
        _: tonic::Request<pb::Files>,
    ) -> Result<tonic::Response<pb::Content>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn write(
        &self,
        _: tonic::Request<pb::Files>,
    ) -> Result<tonic::Response<pb::Status>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stat(
        &self,
        _: tonic::Request<pb::StatRequest>,
    ) -> Result<tonic::Response<pb::FileInfo>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn abort_upload(
        &self,
        _: tonic::Request<pb::AbortUploadRequest>,
    ) -> Result<tonic::Response<pb::AbortUploadResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn responses(range: FileRange) -> impl Stream<Item = Result<ReadStreamResponse, Status>> {
    let info = stream::iter([Ok(range.info())]);
    let chunks = stream::try_unfold(range, async |mut range| {
        let Some(chunk) = next_chunk(&mut range).await? else {
            return Ok(None);
        };
        let event = Some(Event::Chunk(chunk));
        Ok(Some((ReadStreamResponse { event }, range)))
    });
    info.chain(chunks)
}

async fn next_chunk(range: &mut FileRange) -> Result<Option<pb::Chunk>, Error> {
    let offset = range.offset;
    let length = u64::from(range.chunk_bytes).min(range.end - offset) as usize;
    if length == 0 {
        return Ok(None);
    }
    let data = range.file.read(offset, vec![0; length], 0..length).await?;
    range.offset += length as u64;
    Ok(Some(pb::Chunk {
        offset,
        crc32c: Some(Crc32c::of(&data).value()),
        data: data.into(),
    }))
}

struct TestService {
    root: TempDir,
    files: FileService,
}

/// A complete response.
#[derive(Debug, PartialEq)]
struct WholeResponse {
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl TestService {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Settings::default()).unwrap();
        let files = FileService {
            store,
            chunk_bytes: CHUNK as u32,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self { root, files }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a change behind the store's back"
    )]
    fn put(&self, size: usize) {
        let content: Vec<u8> = (0..size).map(|at| (at / 7 + at) as u8).collect();
        fs::write(self.root.path().join("a.bin"), content).unwrap();
    }

    fn reference(&self) -> FileControllerServer<Reference> {
        FileControllerServer::new(Reference(self.files.clone()))
    }

    fn zero_copy(&self) -> ZeroCopyReads<FileControllerServer<FileService>> {
        ZeroCopyReads(FileControllerServer::new(self.files.clone()))
    }

    /// Asserts that both services send the same response, and returns it.
    async fn read_both(&self, request: &ReadStreamRequest) -> WholeResponse {
        let reference = collect(call(self.reference(), request).await).await;
        let zero_copy = collect(call(self.zero_copy(), request).await).await;
        assert!(zero_copy == reference, "{request:?}");
        zero_copy
    }
}

async fn call<S>(mut service: S, request: &ReadStreamRequest) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    // Not `encode_message`: the request must be valid even if the encoding under test is not.
    let message = request.encode_to_vec();
    let prefix = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
    let body = http_body_util::Full::new(Bytes::from([prefix, message].concat()));
    let request = Request::post("/muxs.FileController/ReadStream").body(Body::new(body));
    service.call(request.unwrap()).await.unwrap()
}

async fn collect(response: Response<Body>) -> WholeResponse {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    WholeResponse {
        headers: parts.headers,
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
    }
}

fn part(offset: usize, length: usize, max_chunk_bytes: usize) -> ReadStreamRequest {
    ReadStreamRequest {
        filename: "a.bin".into(),
        offset: offset as u64,
        length: length as u64,
        max_chunk_bytes: max_chunk_bytes as u32,
        ..Default::default()
    }
}

fn status(headers: &HeaderMap) -> &str {
    headers["grpc-status"].to_str().unwrap()
}

#[tokio::test]
async fn file_sizes_around_a_chunk_give_equal_bytes() {
    let fixture = TestService::new();
    for size in [0, 1, 127, 128, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17] {
        fixture.put(size);
        let answer = fixture.read_both(&part(0, 0, 0)).await;
        assert!(answer.body.len() > size);
        assert_eq!(status(&answer.trailers.unwrap()), "0");
    }
}

#[tokio::test]
async fn ranges_and_chunk_sizes_give_equal_bytes() {
    let fixture = TestService::new();
    let size = 2 * CHUNK + 17;
    fixture.put(size);
    for chunk in [
        100,
        1000,
        MAX_GROUP_BYTES - MAX_HEADER_BYTES,
        MAX_GROUP_BYTES,
        CHUNK,
        usize::MAX >> 32,
    ] {
        for offset in [0, 1, 127, 128, CHUNK, size - 1, size] {
            for length in [0, 1, chunk - 1, chunk, chunk + 1, size] {
                fixture.read_both(&part(offset, length, chunk)).await;
            }
        }
    }
    fixture.read_both(&part(0, 1000, 1)).await;
}

/// The header grows with the offset.
#[tokio::test]
async fn offset_lengths_give_equal_bytes() {
    let fixture = TestService::new();
    let sparse = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(fixture.root.path().join("a.bin"));
    sparse.unwrap().set_len(1 << 43).unwrap();
    for power in 0..43 {
        let offset = 1_usize << power;
        fixture.read_both(&part(offset - 1, 3000, 1000)).await;
        fixture.read_both(&part(offset, 1, 0)).await;
    }
}

#[tokio::test]
async fn errors_before_the_first_byte_are_equal() {
    let fixture = TestService::new();
    fixture.put(5);
    let missing = ReadStreamRequest {
        filename: "missing".into(),
        ..Default::default()
    };
    let outdated = ReadStreamRequest {
        if_etag: "other".into(),
        ..part(0, 0, 0)
    };
    for request in [
        missing,
        outdated,
        part(6, 0, 0),
        ReadStreamRequest::default(),
    ] {
        let answer = fixture.read_both(&request).await;
        assert_ne!(status(&answer.headers), "0");
    }
}

#[tokio::test]
async fn errors_after_the_first_byte_are_equal() {
    let fixture = TestService::new();
    let mut ends = Vec::new();
    for zero_copy in [false, true] {
        fixture.put(4 * CHUNK);
        let request = part(0, 0, 0);
        let mut response = match zero_copy {
            false => call(fixture.reference(), &request).await,
            true => call(fixture.zero_copy(), &request).await,
        };
        response.body_mut().frame().await.unwrap().unwrap();
        fixture.put(CHUNK / 2);
        let end = collect(response).await.trailers.unwrap();
        assert_eq!(status(&end), "10");
        ends.push(end);
    }
    assert_eq!(ends[0], ends[1]);
}

#[tokio::test]
async fn handler_without_the_wrapper_fails() {
    let fixture = TestService::new();
    fixture.put(5);
    let server = FileControllerServer::new(fixture.files.clone());
    let response = collect(call(server, &part(0, 0, 0)).await).await;
    assert_eq!(status(&response.trailers.unwrap()), "13");
    assert!(response.body.is_empty());
}

#[tokio::test]
async fn buffers_of_a_fast_reader_are_reused() {
    let fixture = TestService::new();
    fixture.put(8 * CHUNK);
    let mut body = call(file_controller(fixture.files.clone()), &part(0, 0, 0))
        .await
        .into_body();
    body.frame().await.unwrap().unwrap();
    let mut addresses = std::collections::HashSet::new();
    for _ in 0..8 {
        let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let data = chunk[chunk.len() - CHUNK..].as_ptr();
        assert_eq!(data.addr() % PAGE_BYTES, 0);
        addresses.insert(data);
    }
    assert_eq!(addresses.len(), 1);
}
