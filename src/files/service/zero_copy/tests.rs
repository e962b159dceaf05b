//! What [`Framed`] sends is what the generated code sends, byte for byte.

use std::{convert::Infallible, fs};

use http::HeaderMap;
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    files::{
        Settings, Store,
        service::{FileService, file_controller},
    },
    pb::{ReadStreamRequest, file_controller_server::FileControllerServer},
};

const CHUNK: usize = 256 * 1024;

struct Served {
    root: TempDir,
    files: FileService,
}

/// All that a client gets.
#[derive(Debug, PartialEq)]
struct Answer {
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Served {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Settings::default()).unwrap();
        let files = FileService {
            store,
            chunk_bytes: CHUNK as u32,
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
        };
        Self { root, files }
    }

    #[expect(clippy::disallowed_methods, reason = "the store does not look")]
    fn put(&self, size: usize) {
        let content: Vec<u8> = (0..size).map(|at| (at / 7 + at) as u8).collect();
        fs::write(self.root.path().join("a.bin"), content).unwrap();
    }

    fn generated(&self) -> FileControllerServer<FileService> {
        FileControllerServer::new(self.files.clone())
    }

    /// What both ways answer, which is the same.
    async fn answer(&self, request: &ReadStreamRequest) -> Answer {
        let generated = whole(call(self.generated(), request).await).await;
        let framed = whole(call(Framed(self.generated()), request).await).await;
        assert!(framed == generated, "{request:?}");
        framed
    }
}

async fn call<S>(mut service: S, request: &ReadStreamRequest) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let body = http_body_util::Full::new(message(request));
    let request = Request::post("/muxs.FileController/ReadStream").body(Body::new(body));
    service.call(request.unwrap()).await.unwrap()
}

async fn whole(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    Answer {
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
async fn files_of_all_sizes_around_the_chunk_are_sent_alike() {
    let served = Served::new();
    for size in [0, 1, 127, 128, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17] {
        served.put(size);
        let answer = served.answer(&part(0, 0, 0)).await;
        assert!(answer.body.len() > size);
        assert_eq!(status(&answer.trailers.unwrap()), "0");
    }
}

#[tokio::test]
async fn parts_in_chunks_of_all_sizes_are_sent_alike() {
    let served = Served::new();
    let size = 2 * CHUNK + 17;
    served.put(size);
    for chunk in [
        100,
        1000,
        GATHERED_BYTES - LONGEST_HEAD,
        GATHERED_BYTES,
        CHUNK,
        usize::MAX >> 32,
    ] {
        for offset in [0, 1, 127, 128, CHUNK, size - 1, size] {
            for length in [0, 1, chunk - 1, chunk, chunk + 1, size] {
                served.answer(&part(offset, length, chunk)).await;
            }
        }
    }
    served.answer(&part(0, 1000, 1)).await;
}

/// The lengths of the fields of the head grow with the offset.
#[tokio::test]
async fn offsets_of_all_lengths_are_sent_alike() {
    let served = Served::new();
    let sparse = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(served.root.path().join("a.bin"));
    sparse.unwrap().set_len(1 << 43).unwrap();
    for power in 0..43 {
        let offset = 1_usize << power;
        served.answer(&part(offset - 1, 3000, 1000)).await;
        served.answer(&part(offset, 1, 0)).await;
    }
}

#[tokio::test]
async fn what_fails_before_the_first_byte_fails_alike() {
    let served = Served::new();
    served.put(5);
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
        let answer = served.answer(&request).await;
        assert_ne!(status(&answer.headers), "0");
    }
}

#[tokio::test]
async fn what_fails_in_the_middle_fails_alike() {
    let served = Served::new();
    let mut ends = Vec::new();
    for framed in [false, true] {
        served.put(4 * CHUNK);
        let request = part(0, 0, 0);
        let mut response = match framed {
            false => call(served.generated(), &request).await,
            true => call(Framed(served.generated()), &request).await,
        };
        response.body_mut().frame().await.unwrap().unwrap();
        served.put(CHUNK / 2);
        let end = whole(response).await.trailers.unwrap();
        assert_eq!(status(&end), "10");
        ends.push(end);
    }
    assert_eq!(ends[0], ends[1]);
}

#[tokio::test]
async fn a_reader_that_keeps_pace_uses_the_same_memory_again() {
    let served = Served::new();
    served.put(8 * CHUNK);
    let mut body = call(file_controller(served.files.clone()), &part(0, 0, 0))
        .await
        .into_body();
    body.frame().await.unwrap().unwrap();
    let mut places = std::collections::HashSet::new();
    for _ in 0..8 {
        let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let data = chunk[chunk.len() - CHUNK..].as_ptr();
        assert_eq!(data.addr() % PAGE_BYTES, 0);
        places.insert(data);
    }
    assert_eq!(places.len(), 1);
}
