//! Deadlines, the idle timeout and the upload limit, and their effect on files. The timing of calls itself
//! is tested with a paused clock in `src/server/calls`.

use std::{fs, path::Path, time::Duration};

use muxs::{
    files::Settings,
    pb::{AbortUploadRequest, write_stream_request::Step},
};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::support::{
    TestServer, assert_failure, hello,
    upload_stream::{UploadStream, chunk, content, get, open, put, whole},
    with_timeout,
};

/// Long enough for the steps of a client on a busy machine.
const SHORT: Duration = Duration::from_secs(2);

fn start_with_short_idle_timeout() -> TestServer {
    TestServer::start_with(|config| config.limits.idle_timeout = SHORT)
}

#[tokio::test]
async fn deadline_ends_an_upload_and_keeps_received_bytes() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let content = content(100_000);
    let mut upload = UploadStream::begin_within(&mut files, Some(SHORT)).await;
    upload.send(Step::Open(open("a.bin", "id", &content))).await;
    upload.chunks(&content[..60_000], 0, 20_000).await;
    upload.wait_persisted(60_000).await;
    // The client does not half-close, so only the deadline ends the call.
    assert_failure(upload.wait_end().await, Code::DeadlineExceeded, "DEADLINE");

    let mut again = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    assert_eq!(again.progress().await.persisted_size, 60_000);
    again.chunks(&content, 60_000, 20_000).await;
    again.finish(&content).await;
    again.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), content);
}

/// The window of the client is full, so that no status can be sent.
#[tokio::test]
async fn deadline_closes_the_file_of_an_unread_download() {
    let server = TestServer::start();
    let file = server.path("a.bin");
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let mut files = server.files().await;
    let mut request = Request::new(whole("a.bin"));
    request.set_timeout(SHORT);
    let unread = files.read_stream(request).await.unwrap();
    assert!(is_open(&file));
    wait_closed(&file).await;
    drop(unread);
}

#[tokio::test]
async fn cancel_closes_the_file_of_a_download() {
    let server = TestServer::start();
    let file = server.path("a.bin");
    fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let mut files = server.files().await;
    let mut events = files
        .read_stream(whole("a.bin"))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..10 {
        with_timeout(events.message()).await.unwrap().unwrap();
    }
    assert!(is_open(&file));
    drop(events);
    wait_closed(&file).await;
}

/// Waits until this process has closed a file.
async fn wait_closed(file: &Path) {
    let closed = async {
        while is_open(file) {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(closed).await;
}

/// Returns whether this process, which runs the server, has a file open.
fn is_open(file: &Path) -> bool {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|open| open == file)
}

#[tokio::test]
async fn idle_upload_ends_and_can_be_resumed() {
    let server = start_with_short_idle_timeout();
    let mut files = server.files().await;
    let content = content(100_000);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    upload.progress().await;
    upload.chunk(0, &content[..60_000]).await;
    let status = assert_failure(upload.wait_end().await, Code::Unavailable, "IDLE");
    assert!(status.get_details_retry_info().is_some());
    // A stream without its first step is idle as well.
    let mut silent = UploadStream::begin(&mut files).await;
    assert_failure(silent.wait_end().await, Code::Unavailable, "IDLE");

    let mut again = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    assert_eq!(again.progress().await.persisted_size, 60_000);
}

/// The upload takes twice the idle timeout. An empty chunk counts as activity.
#[tokio::test]
async fn slow_upload_within_the_idle_timeout_continues() {
    let server = start_with_short_idle_timeout();
    let mut files = server.files().await;
    let content = content(3);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    let mut now_and_then = tokio::time::interval(SHORT / 3);
    for offset in 0..content.len() {
        now_and_then.tick().await;
        upload.chunk(offset, &content[offset..][..1]).await;
        now_and_then.tick().await;
        upload.send(Step::Chunk(chunk(offset + 1, b""))).await;
    }
    upload.finish(&content).await;
    upload.wait_committed().await;
}

/// A slow reader and an open conversation are not idle.
#[tokio::test]
async fn idle_timeout_spares_slow_readers_and_open_conversations() {
    let server = start_with_short_idle_timeout();
    let mut files = server.files().await;
    let content = content(8 << 20);
    put(&mut files, "a.bin", &content).await;
    let mut greeter = server.greeter().await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut replies = greeter.bidi_hello(outgoing).await.unwrap().into_inner();
    let mut unread = files
        .read_stream(whole("a.bin"))
        .await
        .unwrap()
        .into_inner();

    // This upload shows that the idle timeout has passed.
    let mut silent = UploadStream::begin(&mut files).await;
    assert_failure(silent.wait_end().await, Code::Unavailable, "IDLE");

    requests.send(hello("you")).await.unwrap();
    assert!(with_timeout(replies.message()).await.unwrap().is_some());
    while with_timeout(unread.message()).await.unwrap().is_some() {}
}

#[tokio::test]
async fn uploads_beyond_the_limit_are_busy() {
    let settings = Settings {
        max_open_uploads: 1,
        ..Settings::default()
    };
    let server = TestServer::serve(tempfile::tempdir().unwrap(), settings, |_| {});
    let mut files = server.files().await;
    let content = content(100_000);
    let mut first = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    first.progress().await;
    first.chunk(0, &content[..1000]).await;

    let mut second = UploadStream::open(&mut files, open("b.bin", "id", &content)).await;
    let status = assert_failure(second.wait_end().await, Code::ResourceExhausted, "BUSY");
    assert!(status.get_details_retry_info().is_some());

    // A hanging stream does not exclude its own client: reopening the upload needs no further permit.
    let mut again = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    assert_eq!(again.progress().await.persisted_size, 1000);
    assert_failure(first.wait_end().await, Code::Aborted, "SUPERSEDED");
    again.chunks(&content, 1000, 50_000).await;
    again.finish(&content).await;
    again.wait_committed().await;
    drop(again);

    // A finished and an aborted upload release their permits.
    for filename in ["b.bin", "c.bin"] {
        let mut next = loop {
            let mut next = UploadStream::open(&mut files, open(filename, "id", &content)).await;
            // The permit is released when the last work on the previous upload has ended.
            match next.next_answer().await {
                Ok(_) => break next,
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
            }
        };
        let abort = AbortUploadRequest {
            filename: filename.to_owned(),
            upload_id: "id".to_owned(),
        };
        files.abort_upload(abort).await.unwrap();
        assert_failure(next.wait_end().await, Code::Aborted, "SUPERSEDED");
    }
    let (_, read) = get(&mut files, whole("a.bin")).await.unwrap();
    assert!(read == content);
}
