//! Downloads, to files and to writers.

use std::{
    fs::{self},
    time::Duration,
};

use muxs::client::{self, Client, Error, Retry};
use tonic::{Code, Status};

use crate::support::{
    scripted_server::{
        MAX_CHUNK, ReadAction, ScriptedServer, chunk, connection_lost, crc32c, events_from, failure,
    },
    transfer_dir::{EventLog, TransferDir, assert_failure, assert_retries_exhausted, names},
    with_timeout,
};

#[tokio::test]
async fn download_writes_the_bytes_and_nothing_else() {
    for size in [0, 1, MAX_CHUNK, 9 * MAX_CHUNK + 1] {
        let place = TransferDir::with(size);
        let server = ScriptedServer::start().await;
        server.on_read(events_from(&place.content, "etag", 0));
        let download = server.client().download("name", place.target());
        let received = with_timeout(download.into_future()).await.unwrap();
        assert_eq!(received, place.info());
        place.assert_received();
    }
}

#[tokio::test]
async fn download_resumes_after_the_last_valid_chunk() {
    let place = TransferDir::new();
    let right = chunk(&place.content, 2 * MAX_CHUNK);
    let mut damaged = right.clone();
    damaged.crc32c = Some(right.crc32c.unwrap() ^ 1);
    let mut unchecked = right.clone();
    unchecked.crc32c = None;
    let mut behind = right.clone();
    behind.offset -= 1;
    let mut ahead = right.clone();
    ahead.offset += 1;
    let mut beyond = right.clone();
    beyond.data = vec![0; 10 * MAX_CHUNK].into();
    beyond.crc32c = Some(crc32c(&beyond.data));
    for wrong in [damaged, unchecked, behind, ahead, beyond] {
        let _ = fs::remove_file(place.target());
        let server = ScriptedServer::start().await;
        let mut parts = events_from(&place.content, "etag", 0);
        parts[3] = ReadAction::Chunk(wrong);
        server
            .on_read(parts)
            .on_read(events_from(&place.content, "etag", 2 * MAX_CHUNK));
        let download = server.client().download("name", place.target());
        with_timeout(download.into_future()).await.unwrap();
        place.assert_received();
        let again = server.script().read_requests[1].clone();
        assert_eq!(again.offset, 2 * MAX_CHUNK as u64);
        assert_eq!(again.if_etag, "etag");
    }
}

#[tokio::test]
async fn truncated_download_resumes() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let mut parts = events_from(&place.content, "etag", 0);
    parts.truncate(4);
    let mut cut = events_from(&place.content, "etag", 3 * MAX_CHUNK);
    cut.truncate(2);
    cut.push(ReadAction::Fail(connection_lost()));
    server
        .on_read(parts)
        .on_read(cut)
        .on_read(events_from(&place.content, "etag", 4 * MAX_CHUNK));
    let download = server.client().download("name", place.target());
    with_timeout(download.into_future()).await.unwrap();
    place.assert_received();
}

#[tokio::test]
async fn download_restarts_when_the_file_changed() {
    let place = TransferDir::new();
    let reasons = [
        (Code::FailedPrecondition, "ETAG_MISMATCH"),
        (Code::OutOfRange, "OFFSET_BEYOND_END"),
        (Code::Aborted, "FILE_CHANGED"),
    ];
    for (code, reason) in reasons {
        let _ = fs::remove_file(place.target());
        let server = ScriptedServer::start().await;
        let mut old = events_from(&vec![1; 20 * MAX_CHUNK], "old", 0);
        old.truncate(15);
        old.push(ReadAction::Fail(connection_lost()));
        server
            .on_read(old)
            .on_read([ReadAction::Fail(failure(code, reason))])
            .on_read(events_from(&place.content, "etag", 0));
        let events = EventLog::default();
        let download = server.client().download("name", place.target());
        with_timeout(download.on_event(events.listener()).into_future())
            .await
            .unwrap();
        place.assert_received();
        assert!(
            events.entries()[2].starts_with("started over:"),
            "{events:?}",
            events = events.entries()
        );
        let requests = server.script().read_requests.clone();
        assert_eq!(requests[1].offset, 14 * MAX_CHUNK as u64);
        assert_eq!(requests[1].if_etag, "old");
        assert_eq!((requests[2].offset, requests[2].if_etag.as_str()), (0, ""));
    }
}

/// Versions are not mixed even if the server ignores `if_etag`.
#[tokio::test]
async fn download_never_mixes_versions() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let mut old = events_from(&vec![1; 20 * MAX_CHUNK], "old", 0);
    old.truncate(4);
    old.push(ReadAction::Fail(connection_lost()));
    server
        .on_read(old)
        .on_read(events_from(&place.content, "etag", 3 * MAX_CHUNK))
        .on_read(events_from(&place.content, "etag", 0));
    let download = server.client().download("name", place.target());
    with_timeout(download.into_future()).await.unwrap();
    place.assert_received();
}

#[tokio::test]
async fn download_after_exhausted_retries_can_be_resumed() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let mut cut = events_from(&place.content, "etag", 0);
    cut.truncate(6);
    cut.push(ReadAction::Fail(failure(
        Code::PermissionDenied,
        "OUTSIDE_ROOT",
    )));
    server
        .on_read(cut)
        .on_read(events_from(&place.content, "etag", 5 * MAX_CHUNK));
    let download = || {
        server
            .client()
            .download("name", place.target())
            .into_future()
    };
    let result = with_timeout(download()).await;
    assert_failure(result, Code::PermissionDenied, "OUTSIDE_ROOT");
    assert!(!place.target().exists());
    with_timeout(download()).await.unwrap();
    place.assert_received();
    let requests = server.script().read_requests.clone();
    assert_eq!(requests[1].offset, 5 * MAX_CHUNK as u64);
    assert_eq!(requests[1].if_etag, "etag");
}

#[tokio::test]
async fn damaged_partial_file_is_not_resumed() {
    let spoil: [fn(&TransferDir); 2] = [
        |place| fs::write(place.path("target.part"), vec![3; 5 * MAX_CHUNK]).unwrap(),
        |place| fs::write(place.path("target.part"), b"short").unwrap(),
    ];
    for spoil in spoil {
        let place = TransferDir::new();
        let server = ScriptedServer::start().await;
        let mut cut = events_from(&place.content, "etag", 0);
        cut.truncate(6);
        cut.push(ReadAction::Fail(Status::permission_denied("")));
        server
            .on_read(cut)
            .on_read(events_from(&place.content, "etag", 0));
        let download = || {
            server
                .client()
                .download("name", place.target())
                .into_future()
        };
        with_timeout(download()).await.unwrap_err();
        spoil(&place);
        with_timeout(download()).await.unwrap();
        place.assert_received();
        assert_eq!(server.script().read_requests[1].offset, 0);
    }
}

#[tokio::test]
async fn partial_file_of_another_remote_file_is_not_resumed() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let mut cut = events_from(&vec![1; 9 * MAX_CHUNK], "etag", 0);
    cut.truncate(6);
    cut.push(ReadAction::Fail(Status::permission_denied("")));
    server
        .on_read(cut)
        .on_read(events_from(&place.content, "etag", 0));
    let client = server.client();
    let other = client.download("other", place.target());
    with_timeout(other.into_future()).await.unwrap_err();
    let download = client.download("name", place.target());
    with_timeout(download.into_future()).await.unwrap();
    place.assert_received();
}

#[tokio::test]
async fn concurrent_downloads_do_not_mix() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server.on_read([ReadAction::Info(place.info()), ReadAction::Hang]);
    let client = server.client();
    let first = client.download("name", place.target()).into_future();
    let second = async {
        server.hangs.notified().await;
        client.download("name", place.target()).await
    };
    tokio::select! {
        _ = first => panic!("the server hangs"),
        result = with_timeout(second) => {
            assert!(matches!(result, Err(Error::InUse(_))), "{result:?}");
        }
    }
    // The first download has released its lock.
    server.on_read(events_from(&place.content, "etag", 0));
    let download = client.download("name", place.target());
    with_timeout(download.into_future()).await.unwrap();
    place.assert_received();
}

#[tokio::test]
async fn dropped_download_resets_its_call() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server.on_read([ReadAction::Info(place.info()), ReadAction::Hang]);
    let client = server.client();
    {
        let download = client.download("name", place.target()).into_future();
        tokio::select! {
            _ = download => panic!("the server hangs"),
            () = with_timeout(server.hangs.notified()) => {}
        }
    }
    with_timeout(server.gone.notified()).await;
    drop(client);
}

#[tokio::test]
async fn unwritable_target_is_a_local_error() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let targets = [place.path("missing/target"), place.folder.path().to_owned()];
    for target in targets {
        server.on_read(events_from(&place.content, "etag", 0));
        let download = server.client().download("name", target);
        let error = with_timeout(download.into_future()).await.unwrap_err();
        assert!(matches!(error, Error::Local { .. }), "{error}");
        assert_eq!(error.code(), None);
    }
    assert!(server.script().read_requests.is_empty());
}

#[tokio::test]
async fn permanent_failure_is_not_retried() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server.on_read([ReadAction::Fail(failure(Code::NotFound, "NOT_FOUND"))]);
    let download = server.client().download("name", place.target());
    let result = with_timeout(download.into_future()).await;
    assert_failure(result, Code::NotFound, "NOT_FOUND");
    assert_eq!(server.script().read_requests.len(), 1);
    assert_eq!(names(&place.folder), ["source"]);
}

#[tokio::test]
async fn unreachable_server_exhausts_the_retries() {
    let place = TransferDir::new();
    let unreachable = client::endpoint("http://127.0.0.1:1").unwrap();
    let unreachable = Client::new(unreachable.connect_lazy()).retry(Retry {
        attempts: 3,
        min_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(1),
    });
    let result = with_timeout(unreachable.download("name", place.target()).into_future()).await;
    let error = result.as_ref().unwrap_err();
    assert_eq!(error.code(), Some(Code::Unavailable));
    assert_eq!(
        error.to_string(),
        "gave up after 3 attempts: the server cannot be reached: Connection refused (os error 111)"
    );
    assert_retries_exhausted(result, 3);
}

#[tokio::test]
async fn download_to_a_writer_survives_a_broken_connection() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let mut cut = events_from(&place.content, "etag", 0);
    cut.truncate(4);
    cut.push(ReadAction::Fail(connection_lost()));
    server
        .on_read(cut)
        .on_read(events_from(&place.content, "etag", 3 * MAX_CHUNK));
    let mut received = Vec::new();
    let download = server.client().download_to("name", &mut received);
    with_timeout(download.into_future()).await.unwrap();
    assert!(received == place.content);
}

#[tokio::test]
async fn download_to_a_writer_never_mixes_versions() {
    let place = TransferDir::new();
    let reasons = [
        (Code::FailedPrecondition, "ETAG_MISMATCH"),
        (Code::Aborted, "FILE_CHANGED"),
    ];
    for (code, reason) in reasons {
        let server = ScriptedServer::start().await;
        let mut cut = events_from(&place.content, "etag", 0);
        cut.truncate(4);
        cut.push(ReadAction::Fail(connection_lost()));
        server
            .on_read(cut)
            .on_read([ReadAction::Fail(failure(code, reason))]);
        let mut received = Vec::new();
        let download = server.client().download_to("name", &mut received);
        assert_failure(with_timeout(download.into_future()).await, code, reason);
        assert_eq!(server.script().read_requests.len(), 2);
        assert!(received == place.content[..3 * MAX_CHUNK]);
    }
}
