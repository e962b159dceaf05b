//! The metrics of files and uploads.

use std::{fs, time::Duration};

use muxs::{
    files::Settings,
    pb::{AbortUploadRequest, FinishUpload, OpenUpload, write_stream_request::Step},
};
use tonic::Code;

use crate::support::{
    TestServer, assert_failure, file, tree,
    upload_stream::{UploadStream, chunk, content, get, open, put, whole},
};

fn server() -> TestServer {
    TestServer::with_admin(Settings::default(), |_| {})
}

#[tokio::test]
async fn file_bytes_are_counted_as_read_and_written() {
    let server = server();
    let mut files = server.files().await;
    let large = content(3_000_000);
    put(&mut files, "a.bin", &large).await;
    let metrics = server
        .wait_series("muxs_file_written_bytes_total", 3_000_000)
        .await;
    assert_eq!(metrics.value("muxs_file_read_bytes_total"), 0.0);
    get(&mut files, whole("a.bin")).await.unwrap();
    server
        .wait_series("muxs_file_read_bytes_total", 3_000_000)
        .await;
    let mut part = whole("a.bin");
    (part.offset, part.length) = (1_000_000, 500);
    get(&mut files, part).await.unwrap();
    server
        .wait_series("muxs_file_read_bytes_total", 3_000_500)
        .await;

    files.write(file("a.txt", "text")).await.unwrap();
    files.read(file("a.txt", "")).await.unwrap();
    // These calls transfer no bytes.
    files.read(file("missing.txt", "")).await.unwrap();
    files.write(file("..", "text")).await.unwrap();
    let metrics = server.metrics().await;
    assert_eq!(metrics.value("muxs_file_written_bytes_total"), 3_000_004.0);
    assert_eq!(metrics.value("muxs_file_read_bytes_total"), 3_000_504.0);
}

#[tokio::test]
async fn upload_is_counted_until_committed() {
    let server = server();
    let mut files = server.files().await;
    let content = content(100_000);
    let upload = open("a.bin", "id", &content);
    let mut first = UploadStream::open(&mut files, upload.clone()).await;
    first.progress().await;
    first.chunk(0, &content[..60_000]).await;
    first.wait_persisted(60_000).await;
    let metrics = server.metrics().await;
    for (name, value) in [
        ("muxs_uploads_open", 1.0),
        ("muxs_uploads_begun_total", 1.0),
        ("muxs_uploads_staged", 1.0),
        ("muxs_uploads_staged_bytes", 60_000.0),
        ("muxs_file_written_bytes_total", 60_000.0),
    ] {
        assert_eq!(metrics.value(name), value, "{name}");
    }

    // Another stream takes the upload over, and pauses.
    let mut second = UploadStream::open(&mut files, upload.clone()).await;
    assert_eq!(second.progress().await.persisted_size, 60_000);
    assert_failure(first.wait_end().await, Code::Aborted, "SUPERSEDED");
    let metrics = server.metrics().await;
    assert_eq!(metrics.value("muxs_uploads_superseded_total"), 1.0);
    assert_eq!(metrics.value("muxs_uploads_resumed_total"), 1.0);
    second.half_close();
    second.wait_end().await.unwrap();
    let metrics = server.wait_series("muxs_uploads_open", 0).await;
    assert_eq!(metrics.value("muxs_uploads_staged"), 1.0);

    let mut third = UploadStream::open(&mut files, upload).await;
    third.progress().await;
    third.chunks(&content, 60_000, 20_000).await;
    third.finish(&content).await;
    third.wait_committed().await;
    third.wait_end().await.unwrap();
    let metrics = server.wait_series("muxs_uploads_open", 0).await;
    for (name, value) in [
        ("muxs_uploads_begun_total", 1.0),
        ("muxs_uploads_resumed_total", 2.0),
        ("muxs_uploads_superseded_total", 1.0),
        ("muxs_uploads_committed_total", 1.0),
        ("muxs_uploads_aborted_total", 0.0),
        ("muxs_uploads_expired_total", 0.0),
        ("muxs_uploads_staged", 0.0),
        ("muxs_uploads_staged_bytes", 0.0),
        ("muxs_file_written_bytes_total", 100_000.0),
    ] {
        assert_eq!(metrics.value(name), value, "{name}");
    }
}

#[tokio::test]
async fn aborted_upload_is_counted() {
    let server = server();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.progress().await;
    let abort = AbortUploadRequest {
        filename: "a.bin".to_owned(),
        upload_id: "id".to_owned(),
    };
    files.abort_upload(abort.clone()).await.unwrap();
    assert_failure(upload.wait_end().await, Code::Aborted, "SUPERSEDED");
    let again = files.abort_upload(abort).await;
    assert_failure(again, Code::NotFound, "NOT_FOUND");
    let metrics = server.wait_series("muxs_uploads_open", 0).await;
    assert_eq!(metrics.value("muxs_uploads_aborted_total"), 1.0);
    assert_eq!(metrics.value("muxs_uploads_superseded_total"), 0.0);
    assert_eq!(metrics.value("muxs_uploads_staged"), 0.0);
}

/// The record of a finished upload expires too, and is not counted as an upload.
#[tokio::test]
async fn expired_upload_is_counted() {
    let settings = Settings {
        upload_ttl: Duration::from_millis(300),
        ..Settings::default()
    };
    let server = TestServer::with_admin(settings, |_| {});
    let mut files = server.files().await;
    put(&mut files, "done.bin", b"hello").await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    upload.wait_persisted(3).await;
    upload.half_close();
    upload.wait_end().await.unwrap();
    let nothing_left = || {
        let own = tree(&server.path(".muxs/uploads"));
        own.is_empty()
    };
    server.wait_metrics(|_| nothing_left()).await;
    // The upload is counted when it has been removed.
    let metrics = server.wait_series("muxs_uploads_expired_total", 1).await;
    assert_eq!(metrics.value("muxs_uploads_staged"), 0.0);
}

#[tokio::test]
async fn refused_uploads_are_counted_by_limit() {
    let settings = Settings {
        max_open_uploads: 1,
        max_upload_bytes: 10,
        ..Settings::default()
    };
    let server = TestServer::with_admin(settings, |_| {});
    let mut files = server.files().await;
    let mut first = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    first.progress().await;
    let mut second = UploadStream::open(&mut files, open("b.bin", "id", b"hello")).await;
    assert_failure(second.wait_end().await, Code::ResourceExhausted, "BUSY");
    server.wait_refused("max_uploads", 1).await;
    first.half_close();
    first.wait_end().await.unwrap();
    server.wait_series("muxs_uploads_open", 0).await;
}

#[tokio::test]
async fn oversized_uploads_are_counted() {
    let settings = Settings {
        max_upload_bytes: 10,
        ..Settings::default()
    };
    let server = TestServer::with_admin(settings, |_| {});
    let mut files = server.files().await;
    let mut announced = UploadStream::open(&mut files, open("a.bin", "id", &[0; 11])).await;
    assert_failure(
        announced.wait_end().await,
        Code::FailedPrecondition,
        "TOO_LARGE",
    );
    server.wait_refused("max_upload_bytes", 1).await;
    let unknown = OpenUpload {
        size: None,
        ..open("a.bin", "id", &[])
    };
    let mut growing = UploadStream::open(&mut files, unknown).await;
    growing.chunk(0, &[0; 11]).await;
    growing
        .send(Step::Finish(FinishUpload {
            size: 11,
            crc32c: None,
        }))
        .await;
    assert_failure(
        growing.wait_end().await,
        Code::FailedPrecondition,
        "TOO_LARGE",
    );
    server.wait_refused("max_upload_bytes", 2).await;
}

#[tokio::test]
async fn oversized_messages_and_chunks_are_counted() {
    let server = server();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &[])).await;
    upload
        .send(Step::Chunk(chunk(0, &vec![0; (1 << 20) + 1])))
        .await;
    assert_failure(
        upload.wait_end().await,
        Code::InvalidArgument,
        "BAD_REQUEST",
    );
    server.wait_refused("chunk_bytes", 1).await;

    let server = self::server();
    let mut files = server.files().await;
    // The first text is too large to be read again, the second too large for the message of the request.
    for length in [(4 << 20) - 4, 5 << 20] {
        let answer = files.write(file("a.txt", &"x".repeat(length))).await;
        let failure = answer.unwrap().into_inner().failure.unwrap();
        assert_eq!(failure.reason, "TOO_LARGE");
    }
    server.wait_refused("message_bytes", 2).await;
    assert!(!fs::exists(server.path("a.txt")).unwrap());
}
