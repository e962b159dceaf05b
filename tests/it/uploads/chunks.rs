//! Chunks: offsets, checksums and limits; progress: the durable prefix.

use std::{fs, time::Instant};

use muxs::{
    files::Settings,
    pb::{Chunk, FinishUpload, OpenUpload, WriteStreamRequest, write_stream_request::Step},
};
use tonic::Code;

use crate::support::{
    TestServer, assert_failure, metadata,
    upload_stream::{
        UploadStream, chunk, content, count_staged_files, crc32c, drain_answers, open, put, start,
        start_checkpointing_every_byte,
    },
    with_timeout,
};

#[tokio::test]
async fn chunk_must_continue_at_the_next_offset() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for offset in [0, 2, 4, 100] {
        let open = || open("a.bin", &offset.to_string(), b"hello");
        let mut upload = UploadStream::open(&mut files, open()).await;
        upload.chunk(0, b"hel").await;
        upload.chunk(offset, b"lo").await;
        let failure = assert_failure(upload.wait_end().await, Code::Aborted, "OFFSET_MISMATCH");
        assert_eq!(metadata(&failure, "expected"), "3");
        // Earlier chunks are kept.
        let mut upload = UploadStream::open(&mut files, open()).await;
        assert_eq!(upload.progress().await.persisted_size, 3);
    }
}

#[tokio::test]
async fn corrupt_chunk_changes_nothing() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    let corrupt = Chunk {
        crc32c: Some(crc32c(b"lo") ^ 1),
        ..chunk(3, b"lo")
    };
    upload.send(Step::Chunk(corrupt)).await;
    // The valid chunk after the corrupt one is ignored.
    upload.chunk(3, b"lo").await;
    let failure = assert_failure(upload.wait_end().await, Code::Aborted, "CHUNK_CORRUPT");
    assert_eq!(metadata(&failure, "offset"), "3");

    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    let progress = upload.progress().await;
    assert_eq!(
        (progress.persisted_size, progress.persisted_crc32c),
        (3, crc32c(b"hel"))
    );
    upload.chunk(3, b"lo").await;
    upload.finish(b"hello").await;
    upload.wait_committed().await;
}

#[tokio::test]
async fn checksums_are_optional() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload
        .send(Step::Chunk(Chunk {
            crc32c: None,
            ..chunk(0, b"hello")
        }))
        .await;
    upload
        .send(Step::Finish(FinishUpload {
            size: 5,
            crc32c: None,
        }))
        .await;
    upload.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
}

#[tokio::test]
async fn bytes_beyond_the_announced_size_are_refused() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hello").await;
    upload.chunk(5, b"!").await;
    assert_failure(
        upload.wait_end().await,
        Code::InvalidArgument,
        "SIZE_MISMATCH",
    );
    assert_eq!(count_staged_files(&server), 0);
}

#[tokio::test]
async fn max_upload_bytes_limits_uploads() {
    let server = start(Settings {
        max_upload_bytes: 5,
        ..Settings::default()
    });
    let mut files = server.files().await;
    put(&mut files, "a.bin", b"hello").await;
    let mut upload = UploadStream::open(&mut files, open("b.bin", "id", b"hello!")).await;
    let failure = assert_failure(
        upload.wait_end().await,
        Code::FailedPrecondition,
        "TOO_LARGE",
    );
    assert_eq!(
        (metadata(&failure, "limit"), metadata(&failure, "size")),
        ("5".into(), "6".into())
    );
    let unknown = OpenUpload {
        size: None,
        ..open("b.bin", "id", b"")
    };
    let mut upload = UploadStream::open(&mut files, unknown).await;
    upload.chunk(0, b"hel").await;
    upload.chunk(3, b"lo!").await;
    let failure = assert_failure(
        upload.wait_end().await,
        Code::FailedPrecondition,
        "TOO_LARGE",
    );
    assert_eq!(
        (metadata(&failure, "limit"), metadata(&failure, "size")),
        ("5".into(), "6".into())
    );
    assert!(!server.path("b.bin").exists());
}

/// The later errors may be processed at the same time.
#[tokio::test]
async fn first_error_of_a_stream_is_reported() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for round in 0..50 {
        let corrupt = Chunk {
            crc32c: Some(1),
            ..chunk(0, b"hello")
        };
        let steps = [
            Some(Step::Open(open("a.bin", &round.to_string(), b"hello"))),
            Some(Step::Chunk(corrupt)),
            None,
        ];
        let steps = steps.map(|step| WriteStreamRequest { step });
        let answers = files.write_stream(tokio_stream::iter(steps)).await.unwrap();
        assert_failure(drain_answers(answers).await, Code::Aborted, "CHUNK_CORRUPT");
    }
}

#[tokio::test]
async fn progress_follows_bytes_within_a_second() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.progress().await;
    upload.chunk(0, b"hel").await;
    upload.wait_persisted(3).await;
    upload.chunk(3, b"lo").await;
    upload.wait_persisted(5).await;
}

#[tokio::test]
async fn progress_never_goes_back() {
    let server = start(Settings {
        checkpoint_bytes: 100_000,
        ..Settings::default()
    });
    let mut files = server.files().await;
    let content = content(5_000_000);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    let sender = upload.steps();
    let sending = {
        let content = content.clone();
        tokio::spawn(async move {
            for (k, piece) in content.chunks(10_000).enumerate() {
                let step = Some(Step::Chunk(chunk(k * 10_000, piece)));
                sender.send(WriteStreamRequest { step }).await.unwrap();
            }
        })
    };
    let begun = Instant::now();
    let (mut last, mut progress_count) = (0, 0);
    while last < content.len() as u64 {
        let progress = upload.progress().await;
        progress_count += 1;
        assert!(progress.persisted_size >= last);
        last = progress.persisted_size;
        assert_eq!(progress.persisted_crc32c, crc32c(&content[..last as usize]));
    }
    with_timeout(sending).await.unwrap();
    // Checkpoints by bytes come more often than those of each second.
    assert!(
        progress_count > begun.elapsed().as_secs() + 2,
        "{progress_count} times"
    );
}

/// The error is reported even if a checkpoint begins at the same moment, and no bytes are kept.
#[tokio::test]
async fn oversized_data_during_a_checkpoint_ends_the_stream() {
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let content = content(40 * 10_000);
    for round in 0..100 {
        let id = round.to_string();
        let mut upload = UploadStream::open(&mut files, open("a.bin", &id, &content)).await;
        let steps = upload.steps();
        for k in 0..=40 {
            let piece = chunk(k * 10_000, &content[..10_000]);
            let step = Some(Step::Chunk(piece));
            let _ = with_timeout(steps.send(WriteStreamRequest { step })).await;
        }
        assert_failure(
            upload.wait_end().await,
            Code::InvalidArgument,
            "SIZE_MISMATCH",
        );
        let mut again = UploadStream::open(&mut files, open("a.bin", &id, &content)).await;
        assert_eq!(again.progress().await.persisted_size, 0);
    }
    assert!(!server.path("a.bin").exists());
}

/// Any number of chunks may follow the corrupt one, at any time.
#[tokio::test]
async fn chunks_after_a_corrupt_one_are_ignored() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for round in 0..10 {
        let id = round.to_string();
        let corrupt = Chunk {
            crc32c: Some(1),
            ..chunk(3, b"lo")
        };
        let steps = [
            Step::Open(open("a.bin", &id, b"hello")),
            Step::Chunk(chunk(0, b"hel")),
            Step::Chunk(corrupt),
        ];
        let late = (0..500).map(|_| Step::Chunk(chunk(3, b"lo")));
        let steps = steps.into_iter().chain(late);
        let steps: Vec<_> = steps
            .map(|step| WriteStreamRequest { step: Some(step) })
            .collect();
        let answers = files.write_stream(tokio_stream::iter(steps)).await.unwrap();
        assert_failure(drain_answers(answers).await, Code::Aborted, "CHUNK_CORRUPT");
        let mut again = UploadStream::open(&mut files, open("a.bin", &id, b"hello")).await;
        assert_eq!(again.progress().await.persisted_size, 3, "{round}");
    }
}
