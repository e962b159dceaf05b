//! The client discards unfinished uploads.

use std::fs;

use muxs::client::Error;
use tonic::{Code, Status};

use crate::support::{
    scripted_server::{Action, ScriptedServer, connection_lost, failure, progress},
    transfer_dir::{TransferDir, assert_retries_exhausted},
    with_timeout,
};

fn not_found() -> Status {
    failure(Code::NotFound, "NOT_FOUND")
}

/// The call was made, and its answer did not arrive.
fn answer_lost() -> Status {
    Status::unknown("lost")
}

#[tokio::test]
async fn abort_discards_the_upload_that_a_run_would_continue() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let client = server.client_without_retries();
    let upload = || client.upload(place.source(), "name");
    for upload in [upload(), upload().create_only(), upload().if_etag("x")] {
        server.on_write([progress(&place.content, 0), Action::Fail(connection_lost())]);
        let failed = with_timeout(upload.into_future()).await;
        assert_retries_exhausted(failed, 1);
    }
    with_timeout(upload().abort()).await.unwrap();
    with_timeout(upload().create_only().abort()).await.unwrap();
    // The id does not depend on the file's bytes, nor on whether it is there.
    fs::remove_file(place.source()).unwrap();
    with_timeout(upload().if_etag("x").abort()).await.unwrap();
    let script = server.script();
    let opened: Vec<_> = script.opens.iter().map(|open| &open.upload_id).collect();
    assert_eq!(script.aborts.iter().collect::<Vec<_>>(), opened);
}

#[tokio::test]
async fn abort_by_id_discards_that_upload() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let aborted = client.abort_upload("name", "the-id");
    with_timeout(aborted).await.unwrap();
    assert_eq!(server.script().aborts, ["the-id"]);
}

#[tokio::test]
async fn abort_retries_transient_failures() {
    let server = ScriptedServer::start().await;
    let failures = [connection_lost(), answer_lost()];
    server.script().abort_failures.extend(failures);
    let client = server.client();
    with_timeout(client.abort_upload("name", "id"))
        .await
        .unwrap();
    assert_eq!(server.script().aborts.len(), 3);

    let failures = (0..4).map(|_| connection_lost());
    server.script().abort_failures.extend(failures);
    let error = with_timeout(client.abort_upload("name", "id"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::RetriesExhausted { attempts: 4, .. }));
}

#[tokio::test]
async fn abort_without_an_unfinished_upload_is_not_found() {
    let server = ScriptedServer::start().await;
    // The first failure says that the call was not made.
    for failures in [vec![not_found()], vec![connection_lost(), not_found()]] {
        server.script().abort_failures.extend(failures);
        let client = server.client();
        let aborted = client.abort_upload("name", "id");
        let error = with_timeout(aborted).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::NotFound));
        assert_eq!(error.reason().as_deref(), Some("NOT_FOUND"));
    }
}

#[tokio::test]
async fn abort_whose_answer_was_lost_may_find_nothing_more() {
    let server = ScriptedServer::start().await;
    let failures = [answer_lost(), connection_lost(), not_found()];
    server.script().abort_failures.extend(failures);
    let client = server.client();
    let aborted = client.abort_upload("name", "id");
    with_timeout(aborted).await.unwrap();
}

#[tokio::test]
async fn abort_of_a_file_in_a_missing_folder_is_a_local_failure() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let upload = server.client().upload(place.path("missing/file"), "name");
    let error = with_timeout(upload.abort()).await.unwrap_err();
    assert!(matches!(error, Error::Local { .. }), "{error}");
    assert!(server.script().aborts.is_empty());
}
