//! Streams run in constant memory: a million messages, or a file of any size. Replies are not produced
//! ahead of a client that does not read.

use std::fs;

use bytes::Bytes;
use muxs::pb::{Chunk, FinishUpload, HelloRequest, OpenUpload, write_stream_request::Step};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use crate::support::{
    hello,
    memory_probe::{MAX_GROWTH, MIB, MemoryProbe},
    report_skip,
    upload_stream::{FilesClient, UploadStream, crc32c, whole},
    with_timeout,
};

const MILLION: u32 = 1_000_000;

/// The memory that one upload may take, by the formula in ARCHITECTURE.md, in bytes.
const MAX_UPLOAD: u64 = 8 * MIB;

/// The memory that one download may take, with chunks of the default size, in bytes.
const MAX_DOWNLOAD: u64 = MIB;

/// The size of a sparse file, in bytes.
const LARGE: u64 = 4096 * MIB;

#[tokio::test]
async fn large_download_runs_in_constant_memory() {
    let server = MemoryProbe::start().await;
    let file = fs::File::create(server.root.path().join("a.bin")).unwrap();
    file.set_len(LARGE).unwrap();
    let mut files = server.program.files().await;
    let events = files.read_stream(whole("a.bin")).await.unwrap();
    let mut events = events.into_inner();
    let mut messages = 0;
    while with_timeout(events.message()).await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 1 + LARGE / (256 * 1024));
    server.assert_growth_below(MAX_DOWNLOAD + MAX_GROWTH);
}

#[tokio::test]
async fn large_upload_runs_in_constant_memory() {
    let server = MemoryProbe::start().await;
    let disk = rustix::fs::statvfs(server.root.path()).unwrap();
    let size = match disk.f_bavail * disk.f_frsize > 2 * LARGE {
        true => LARGE,
        false => {
            report_skip("too little disk for an upload of 4 GiB, 256 MiB have to do");
            256 * MIB
        }
    };
    let mut files = server.program.files().await;
    let mut upload = open_without_size(&mut files).await;
    let data = Bytes::from(vec![0; MIB as usize]);
    let crc32c = Some(crc32c(&data));
    for offset in (0..size).step_by(MIB as usize) {
        let data = data.clone();
        upload
            .send(Step::Chunk(Chunk {
                offset,
                crc32c,
                data,
            }))
            .await;
    }
    upload
        .send(Step::Finish(FinishUpload { size, crc32c: None }))
        .await;
    assert_eq!(upload.wait_committed().await.size, size);
    server.assert_growth_below(MAX_UPLOAD + MAX_GROWTH);
}

#[tokio::test]
async fn unread_downloads_stay_within_their_buffers() {
    const READERS: u64 = 64;
    let mut server = MemoryProbe::start().await;
    let file = fs::File::create(server.root.path().join("a.bin")).unwrap();
    file.set_len(LARGE).unwrap();
    let mut files = server.program.files().await;
    let mut unread = Vec::new();
    for _ in 0..READERS {
        unread.push(files.read_stream(whole("a.bin")).await.unwrap());
    }
    // A server that went on reading the file would grow during these calls.
    for _ in 0..3000 {
        server.greeter.say_hello(hello("you")).await.unwrap();
    }
    server.assert_growth_below(READERS * MAX_DOWNLOAD + MAX_GROWTH);
}

#[tokio::test]
async fn small_chunks_take_no_more_memory_than_large_ones() {
    let server = MemoryProbe::start().await;
    let mut files = server.program.files().await;
    let mut upload = open_without_size(&mut files).await;
    for offset in 0..200_000 {
        let data = Bytes::from_static(b"x");
        upload
            .send(Step::Chunk(Chunk {
                offset,
                crc32c: None,
                data,
            }))
            .await;
    }
    let finish = FinishUpload {
        size: 200_000,
        crc32c: None,
    };
    upload.send(Step::Finish(finish)).await;
    upload.wait_committed().await;
    server.assert_growth_below(MAX_UPLOAD + MAX_GROWTH);
}

#[tokio::test]
async fn million_replies_run_in_constant_memory() {
    let mut server = MemoryProbe::start().await;
    let request = HelloRequest {
        replies: MILLION,
        ..hello("you")
    };
    let replies = server.greeter.lots_of_replies(request).await.unwrap();
    let mut replies = replies.into_inner();
    let mut count = 0;
    while replies.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, MILLION);
    server.assert_bounded_growth();
}

#[tokio::test]
async fn million_greetings_run_in_constant_memory() {
    let mut server = MemoryProbe::start().await;
    let names = tokio_stream::iter(0..MILLION).map(|number| hello(number.to_string()));
    let reply = server.greeter.lots_of_greetings(names).await.unwrap();
    let message = reply.into_inner().message;
    assert_eq!(message, "Hello, 0, 1, 2 and 999997 others!");
    server.assert_bounded_growth();
}

/// The client requests 4 billion replies of 4 KiB and reads none.
#[tokio::test]
async fn lots_of_replies_stops_producing_for_a_full_window() {
    let mut server = MemoryProbe::start().await;
    let request = HelloRequest {
        replies: u32::MAX,
        ..hello("x".repeat(4096))
    };
    let _unread = server.greeter.lots_of_replies(request).await.unwrap();
    // A server that went on producing replies would grow during these calls.
    for _ in 0..3000 {
        server.greeter.say_hello(hello("you")).await.unwrap();
    }
    server.assert_bounded_growth();
}

/// While replies are unread, the server stops reading requests, so that they wait at the client.
#[tokio::test]
async fn bidi_hello_stops_receiving_while_replies_are_unread() {
    let mut server = MemoryProbe::start().await;
    let (requests, outgoing) = mpsc::channel(1);
    let outgoing = ReceiverStream::new(outgoing);
    let _unread = server.greeter.bidi_hello(outgoing).await.unwrap();
    let mut sent = 0;
    let mut rounds_without = 0;
    while rounds_without < 1000 {
        rounds_without += 1;
        while requests.try_send(hello("x".repeat(4096))).is_ok() {
            sent += 1;
            rounds_without = 0;
        }
        assert!(sent < 16 * 1024, "64 MiB were taken");
        // A server that went on reading would accept another request during this call.
        server.greeter.say_hello(hello("you")).await.unwrap();
    }
    server.assert_bounded_growth();
}

async fn open_without_size(files: &mut FilesClient) -> UploadStream {
    let plan = OpenUpload {
        filename: "a.bin".into(),
        upload_id: "id".into(),
        ..Default::default()
    };
    let mut upload = UploadStream::open(files, plan).await;
    upload.progress().await;
    upload
}
