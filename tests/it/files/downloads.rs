//! ReadStream: ranges, chunks, versions and refusals.

use std::{fs, io::Write};

use muxs::pb::{ReadStreamRequest, read_stream_response::Event};
use tonic::Code;

use crate::support::{
    TestServer, assert_failure, metadata,
    upload_stream::{content, get, put, whole},
    with_timeout,
};

const CHUNK: usize = 256 * 1024;

#[tokio::test]
async fn any_range_of_a_file_can_be_read() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let size = 3 * CHUNK + 17;
    let content = content(size);
    fs::write(server.path("a.bin"), &content).unwrap();
    let ends = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, size - 1, size];
    for offset in ends {
        for length in [0, 1, CHUNK, CHUNK + 1, size, usize::MAX] {
            let request = ReadStreamRequest {
                offset: offset as u64,
                length: length as u64,
                ..whole("a.bin")
            };
            let (info, part) = get(&mut files, request).await.unwrap();
            let end = match length {
                0 => size,
                length => size.min(offset.saturating_add(length)),
            };
            assert_eq!(info.size, size as u64);
            assert!(part == content[offset..end], "{offset} {length}");
        }
    }
}

#[tokio::test]
async fn empty_file_is_info_without_chunks() {
    let server = TestServer::start();
    fs::write(server.path("a.bin"), "").unwrap();
    let (info, content) = get(&mut server.files().await, whole("a.bin"))
        .await
        .unwrap();
    assert_eq!((info.size, content.len()), (0, 0));
}

#[tokio::test]
async fn chunk_size_follows_the_request_within_bounds() {
    let server = TestServer::start_with(|config| config.chunk_bytes = 1000);
    let mut files = server.files().await;
    fs::write(server.path("a.bin"), content(3 * 1024 * 1024)).unwrap();
    for (wanted, given) in [(0, 1000), (1, 1), (70_000, 70_000), (u32::MAX, 1024 * 1024)] {
        let request = ReadStreamRequest {
            max_chunk_bytes: wanted,
            ..whole("a.bin")
        };
        let events = files.read_stream(request).await.unwrap();
        let mut events = events.into_inner();
        for _ in 0..3 {
            if let Some(Event::Chunk(chunk)) =
                with_timeout(events.message()).await.unwrap().unwrap().event
            {
                assert_eq!(chunk.data.len(), given);
            }
        }
    }
}

#[tokio::test]
async fn download_resumes_only_on_the_same_version() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let old = put(&mut files, "a.bin", b"old content").await;
    let pinned = ReadStreamRequest {
        offset: 4,
        if_etag: old.etag,
        ..whole("a.bin")
    };
    let (_, rest) = get(&mut files, pinned.clone()).await.unwrap();
    assert_eq!(rest, b"content");
    let new = put(&mut files, "a.bin", b"new").await;
    // The version is checked before the offset, which may be valid for another version.
    let failure = get(&mut files, pinned).await;
    let failure = assert_failure(failure, Code::FailedPrecondition, "ETAG_MISMATCH");
    assert_eq!(metadata(&failure, "etag"), new.etag);
}

#[tokio::test]
async fn offset_beyond_the_end_is_refused_with_the_size() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::write(server.path("a.bin"), "hello").unwrap();
    for offset in [6, u64::MAX] {
        let request = ReadStreamRequest {
            offset,
            ..whole("a.bin")
        };
        let failure = get(&mut files, request).await;
        let failure = assert_failure(failure, Code::OutOfRange, "OFFSET_BEYOND_END");
        assert_eq!(metadata(&failure, "size"), "5");
    }
}

#[tokio::test]
async fn non_file_is_refused_before_the_first_byte() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::create_dir(server.path("folder")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        server.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("/etc/passwd", server.path("out")).unwrap();
    for (name, code, reason) in [
        ("missing", Code::NotFound, "NOT_FOUND"),
        ("folder", Code::FailedPrecondition, "NOT_A_FILE"),
        ("fifo", Code::FailedPrecondition, "NOT_A_FILE"),
        ("out", Code::PermissionDenied, "OUTSIDE_ROOT"),
        ("../a", Code::InvalidArgument, "FILENAME_INVALID"),
        (".muxs/lock", Code::InvalidArgument, "FILENAME_INVALID"),
    ] {
        assert_failure(get(&mut files, whole(name)).await, code, reason);
    }
}

/// Far more bytes than the windows and buffers between the ends hold.
const LARGE: usize = 16 * 1024 * 1024;

#[tokio::test]
async fn download_keeps_its_version_when_the_file_is_replaced() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let old = content(LARGE);
    put(&mut files, "a.bin", &old).await;
    let events = files.read_stream(whole("a.bin")).await.unwrap();
    let mut events = events.into_inner();
    let mut read = Vec::new();
    with_timeout(events.message()).await.unwrap().unwrap();
    put(&mut files, "a.bin", b"new").await;
    put(&mut files, "a.bin", &content(LARGE + 1)).await;
    while let Some(event) = with_timeout(events.message()).await.unwrap() {
        if let Some(Event::Chunk(chunk)) = event.event {
            read.extend_from_slice(&chunk.data);
        }
    }
    assert!(read == old);
}

#[tokio::test]
async fn file_changed_in_place_ends_the_download() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let path = server.path("a.bin");
    let open = |path| fs::OpenOptions::new().append(true).open(path).unwrap();
    type Change<'a> = &'a dyn Fn();
    let truncated: Change = &|| open(&path).set_len(LARGE as u64 / 2).unwrap();
    let emptied: Change = &|| open(&path).set_len(0).unwrap();
    let grown: Change = &|| open(&path).write_all(b"more").unwrap();
    let rewritten: Change = &|| fs::write(&path, vec![0; LARGE]).unwrap();
    for change in [truncated, emptied, grown, rewritten] {
        fs::write(&path, content(LARGE)).unwrap();
        let events = files.read_stream(whole("a.bin")).await.unwrap();
        let mut events = events.into_inner();
        with_timeout(events.message()).await.unwrap().unwrap();
        change();
        let ended = loop {
            match with_timeout(events.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            }
        };
        assert_failure(ended, Code::Aborted, "FILE_CHANGED");
    }
}

#[tokio::test]
async fn unread_download_does_not_block_another() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let content = content(LARGE);
    fs::write(server.path("a.bin"), &content).unwrap();
    let _unread = files.read_stream(whole("a.bin")).await.unwrap();
    let (_, read) = get(&mut files, whole("a.bin")).await.unwrap();
    assert!(read == content);
}
