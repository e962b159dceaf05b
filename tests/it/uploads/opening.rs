//! `open` is idempotent and takes an upload over.

use std::{fs, os::unix::fs::symlink, time::Duration};

use muxs::{
    files::Settings,
    pb::{OpenUpload, write_stream_response::State},
};
use tonic::Code;

use crate::support::{
    TestServer, assert_failure, tree,
    upload_stream::{UploadStream, content, crc32c, open, put, start_checkpointing_every_byte},
    with_timeout,
};

#[tokio::test]
async fn reopened_finished_upload_returns_its_result() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let content = content(100_000);
    let info = put(&mut files, "a.bin", &content).await;
    let id = format!("put-{}", crc32c(&content));

    let mut again = UploadStream::open(&mut files, open("a.bin", &id, &content)).await;
    assert_eq!(
        again.next_answer().await.unwrap(),
        Some(State::Committed(info.clone()))
    );
    assert_eq!(again.next_answer().await.unwrap(), None);

    // The same holds if the file has been replaced since.
    put(&mut files, "a.bin", b"newer").await;
    let mut again = UploadStream::open(&mut files, open("a.bin", &id, &content)).await;
    assert_eq!(again.wait_committed().await, info);
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"newer");
}

#[tokio::test]
async fn finished_create_reopens_despite_its_own_file() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let create = OpenUpload {
        if_etag: Some(String::new()),
        ..open("a.bin", "id", b"hello")
    };
    let mut upload = UploadStream::open(&mut files, create.clone()).await;
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    let info = upload.wait_committed().await;
    let mut again = UploadStream::open(&mut files, create).await;
    assert_eq!(again.wait_committed().await, info);
}

#[tokio::test]
async fn upload_resumes_only_with_the_same_parameters() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let begun = open("a.bin", "id", b"hello");
    let mut first = UploadStream::open(&mut files, begun.clone()).await;
    first.progress().await;
    for other in [
        OpenUpload {
            size: Some(6),
            ..begun.clone()
        },
        OpenUpload {
            size: None,
            ..begun.clone()
        },
        OpenUpload {
            if_etag: Some(String::new()),
            ..begun.clone()
        },
        OpenUpload {
            if_etag: Some("x".into()),
            ..begun.clone()
        },
    ] {
        let mut second = UploadStream::open(&mut files, other.clone()).await;
        assert_failure(
            second.wait_end().await,
            Code::FailedPrecondition,
            "UPLOAD_MISMATCH",
        );
    }
    // The open stream is not affected.
    first.chunk(0, b"hello").await;
    first.finish(b"hello").await;
    first.wait_committed().await;
    let other = OpenUpload {
        size: None,
        ..begun
    };
    let mut after = UploadStream::open(&mut files, other).await;
    assert_failure(
        after.wait_end().await,
        Code::FailedPrecondition,
        "UPLOAD_MISMATCH",
    );
}

#[tokio::test]
async fn server_generates_a_missing_upload_id() {
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut upload = UploadStream::open(&mut files, open("a.bin", "", b"hello")).await;
        let id = upload.progress().await.upload_id;
        assert!(!ids.contains(&id) && !id.is_empty(), "{id}");
        upload.chunk(0, b"hel").await;
        upload.wait_persisted(3).await;
        drop(upload);
        let mut resumed = UploadStream::open(&mut files, open("a.bin", &id, b"hello")).await;
        assert_eq!(resumed.progress().await.persisted_size, 3);
        ids.push(id);
    }
}

#[tokio::test]
async fn progress_carries_size_checksum_limits_and_expiry() {
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "my-id", b"hello")).await;
    let before = std::time::SystemTime::now();
    let progress = upload.progress().await;
    assert_eq!(progress.upload_id, "my-id");
    assert_eq!((progress.persisted_size, progress.persisted_crc32c), (0, 0));
    assert_eq!(progress.max_chunk_bytes, 1024 * 1024);
    let expires_at = std::time::SystemTime::try_from(progress.expires_at.unwrap()).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let left = expires_at.duration_since(before).unwrap();
    assert!(
        left > day - Duration::from_secs(60) && left < day + Duration::from_secs(60),
        "{left:?}"
    );
}

#[tokio::test]
async fn finished_upload_resent_blindly_returns_its_result() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let info = put(&mut files, "a.bin", b"hello").await;
    let id = format!("put-{}", crc32c(b"hello"));
    for _ in 0..20 {
        let mut again = UploadStream::open(&mut files, open("a.bin", &id, b"hello")).await;
        again.chunk(0, b"hello").await;
        again.finish(b"hello").await;
        assert_eq!(again.wait_committed().await, info);
        assert_eq!(again.next_answer().await.unwrap(), None);
    }
}

#[tokio::test]
async fn newest_stream_of_an_upload_supersedes_older_ones() {
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let content = content(300_000);
    let mut older = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    older.progress().await;
    older.chunk(0, &content[..100_000]).await;
    older.wait_persisted(100_000).await;

    // A client that returns has another connection.
    let mut elsewhere = server.files().await;
    let mut newer = UploadStream::open(&mut elsewhere, open("a.bin", "id", &content)).await;
    assert_eq!(newer.progress().await.persisted_size, 100_000);

    // The older stream goes on sending.
    older.chunk(100_000, &[0; 50_000]).await;
    older.finish(&content).await;
    assert_failure(older.wait_end().await, Code::Aborted, "SUPERSEDED");

    newer.chunks(&content, 100_000, 64 * 1024).await;
    newer.finish(&content).await;
    newer.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), content);
}

#[tokio::test]
async fn silent_stream_is_superseded_by_the_next() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut frozen = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    frozen.progress().await;
    frozen.chunk(0, b"hel").await;
    let mut elsewhere = server.files().await;
    let mut newer = UploadStream::open(&mut elsewhere, open("a.bin", "id", b"hello")).await;
    newer.progress().await;
    assert_failure(frozen.wait_end().await, Code::Aborted, "SUPERSEDED");
}

/// Bytes in flight on the older stream are not written after the takeover.
#[tokio::test]
async fn previous_writer_stops_before_the_next_gets_its_offset() {
    let server = TestServer::start();
    let content = content(8_000_000);
    let mut wrong = content.clone();
    wrong.iter_mut().for_each(|byte| *byte = !*byte);
    for round in 0..10 {
        let name = format!("{round}.bin");
        let mut files = server.files().await;
        let mut older = UploadStream::open(&mut files, open(&name, "id", &content)).await;
        older.progress().await;
        let (head, tail) = (content[..1_000_000].to_vec(), wrong[1_000_000..].to_vec());
        let sending = tokio::spawn(async move {
            older.chunks(&head, 0, 100_000).await;
            // The following bytes of the older stream differ from the file.
            for (k, piece) in tail.chunks(500_000).enumerate() {
                older.chunk(1_000_000 + k * 500_000, piece).await;
            }
            older.wait_end().await
        });
        let mut elsewhere = server.files().await;
        let mut newer = UploadStream::open(&mut elsewhere, open(&name, "id", &content)).await;
        let progress = newer.progress().await;
        let size = progress.persisted_size as usize;
        let so_far: Vec<u8> = content[..size.min(1_000_000)]
            .iter()
            .chain(&wrong[size.min(1_000_000)..size])
            .copied()
            .collect();
        assert_eq!(progress.persisted_crc32c, crc32c(&so_far));
        let whole = [so_far, content[size..].to_vec()].concat();
        newer.chunks(&whole, size, 500_000).await;
        newer.finish(&whole).await;
        newer.wait_committed().await;
        assert!(fs::read(server.path(&name)).unwrap() == whole);
        assert_failure(
            with_timeout(sending).await.unwrap(),
            Code::Aborted,
            "SUPERSEDED",
        );
    }
}

/// A server is killed after the rename and before the result is recorded. The next start records it before
/// the file can be replaced.
#[tokio::test]
async fn committed_result_survives_crash_and_replacement() {
    let mut server = TestServer::start();
    let mut files = server.files().await;
    let content = content(100_000);
    let plan = open("a.bin", "id", &content);
    let mut upload = UploadStream::open(&mut files, plan.clone()).await;
    upload.chunks(&content, 0, 64 * 1024).await;
    upload.finish(&content).await;
    let info = upload.wait_committed().await;
    server.stop();
    server.wait_stopped().await;
    let root = server.into_root();
    let mut results = fs::read_dir(root.path().join(".muxs/results")).unwrap();
    let result = results.next().unwrap().unwrap();
    let pending = root.path().join(".muxs/commits").join(result.file_name());
    fs::rename(result.path(), pending).unwrap();
    // A lock file with content marks a crash.
    fs::write(root.path().join(".muxs/lock"), "1").unwrap();

    let server = TestServer::serve(root, Settings::default(), |_| {});
    let mut files = server.files().await;
    put(&mut files, "a.bin", b"newer").await;
    let mut again = UploadStream::open(&mut files, plan).await;
    assert_eq!(
        again.next_answer().await.unwrap(),
        Some(State::Committed(info))
    );
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"newer");
}

/// The link is an entry of that name, which a create must not replace.
#[tokio::test]
async fn create_onto_a_dangling_link_fails_before_any_byte() {
    let server = TestServer::start();
    let mut files = server.files().await;
    symlink("nowhere", server.path("dangling")).unwrap();
    symlink("no/such/folder", server.path("deep")).unwrap();
    symlink("dangling", server.path("link-to-dangling")).unwrap();
    symlink(".muxs/uploads/new", server.path("private")).unwrap();
    let before = tree(server.root());
    for name in ["dangling", "deep", "link-to-dangling", "private"] {
        let create = OpenUpload {
            if_etag: Some(String::new()),
            ..open(name, "id", b"hello")
        };
        let mut upload = UploadStream::open(&mut files, create).await;
        let refused = upload.next_answer().await;
        assert_failure(refused, Code::AlreadyExists, "EXISTS");
    }
    assert_eq!(tree(server.root()), before);
}
