//! Measures the cost of a chunk: its checksum, and its transfer through the server in each direction.
//!
//! The transfers run over loopback with a client of the generated code. The rates include that client.

#![expect(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use muxs::{
    app::{self, Config},
    checksum::Crc32c,
    files::{Settings, Store},
    pb::{
        AbortUploadRequest, Chunk, OpenUpload, ReadStreamRequest, WriteStreamRequest,
        file_controller_client::FileControllerClient, write_stream_request::Step,
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// The sizes of chunks in bytes: the usual one, and the maximum.
const CHUNK_SIZES: [usize; 2] = [256 * 1024, 1024 * 1024];

/// More bytes than all samples read. The file is sparse, so it takes no disk.
const FILE_BYTES: u64 = 1 << 40;

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for size in CHUNK_SIZES {
        let chunk = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("of", size), &chunk, |bench, chunk| {
            bench.iter(|| Crc32c::of(chunk));
        });
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let (runtime, root, files) = serve();
    let file = cap_std::fs::Dir::open_ambient_dir(root.path(), cap_std::ambient_authority())
        .and_then(|root| root.create("a.bin"));
    file.unwrap().set_len(FILE_BYTES).unwrap();
    let mut group = criterion.benchmark_group("read");
    for size in CHUNK_SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("chunk", size), |bench| {
            bench.iter_custom(|chunks| runtime.block_on(read_chunks(files.clone(), size, chunks)));
        });
    }
    group.finish();
}

async fn read_chunks(
    mut files: FileControllerClient<Channel>,
    size: usize,
    chunks: u64,
) -> Duration {
    // The client runs in a task: the thread that enters a runtime runs its tasks slower than the workers.
    let task = tokio::spawn(async move {
        let request = ReadStreamRequest {
            filename: "a.bin".into(),
            max_chunk_bytes: size as u32,
            ..Default::default()
        };
        let events = files.read_stream(request).await.unwrap();
        let mut events = events.into_inner();
        events.message().await.unwrap();
        let start = Instant::now();
        for _ in 0..chunks {
            events.message().await.unwrap().unwrap();
        }
        start.elapsed()
    });
    task.await.unwrap()
}

fn write(criterion: &mut Criterion) {
    let (runtime, _root, files) = serve();
    let mut group = criterion.benchmark_group("write");
    for size in CHUNK_SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("chunk", size), |bench| {
            bench.iter_custom(|chunks| runtime.block_on(write_chunks(files.clone(), size, chunks)));
        });
    }
    group.finish();
}

/// Measures the time from the first chunk until all chunks are durable.
async fn write_chunks(
    mut files: FileControllerClient<Channel>,
    size: usize,
    chunks: u64,
) -> Duration {
    let task = tokio::spawn(async move {
        let (steps, outgoing) = mpsc::channel(2);
        let answers = files
            .write_stream(ReceiverStream::new(outgoing))
            .await
            .unwrap();
        let mut answers = answers.into_inner();
        let send = |step| steps.send(WriteStreamRequest { step: Some(step) });
        let open = OpenUpload {
            filename: "a.bin".into(),
            upload_id: "bench".into(),
            ..Default::default()
        };
        send(Step::Open(open)).await.unwrap();
        answers.message().await.unwrap();
        let data = Bytes::from(vec![7; size]);
        let crc32c = Some(Crc32c::of(&data).value());
        let start = Instant::now();
        for k in 0..chunks {
            let (offset, data) = (k * size as u64, data.clone());
            send(Step::Chunk(Chunk {
                offset,
                crc32c,
                data,
            }))
            .await
            .unwrap();
        }
        drop(steps);
        while answers.message().await.unwrap().is_some() {}
        let elapsed = start.elapsed();
        let abort = AbortUploadRequest {
            filename: "a.bin".into(),
            upload_id: "bench".into(),
        };
        files.abort_upload(abort).await.unwrap();
        elapsed
    });
    task.await.unwrap()
}

fn serve() -> (Runtime, TempDir, FileControllerClient<Channel>) {
    let runtime = Runtime::new().unwrap();
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), Settings::default()).unwrap();
    let files = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let never = std::future::pending();
        tokio::spawn(app::run(vec![listener.into()], Config::new(store), never));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint
            .initial_stream_window_size(2 * 1024 * 1024)
            .initial_connection_window_size(64 * 1024 * 1024)
            .connect()
            .await;
        FileControllerClient::new(channel.unwrap())
    });
    (runtime, root, files)
}

fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
}

criterion_group! {
    name = transfer;
    config = criterion();
    targets = checksum, read, write
}
criterion_main!(transfer);
