//! An upload belongs to who has begun it.

use std::fs;

use muxs::{
    files::Settings,
    pb::{AbortUploadRequest, OpenUpload, write_stream_response::State},
};
use tempfile::TempDir;
use tonic::{Code, Status};

use super::{KeyFile, checks, good, signing::rsa, token_of, with_token};
use crate::{
    streams::{Files, Upload, open},
    support::{TestServer, assert_failure},
};

const HELLO: &[u8] = b"hello";

/// Each byte that is written makes for a checkpoint.
fn eager() -> Settings {
    Settings {
        checkpoint_bytes: 1,
        ..Settings::default()
    }
}

fn guarded(root: TempDir) -> TestServer {
    let key = KeyFile::new(&[rsa().jwk()]);
    TestServer::serve(root, eager(), checks(key.settings()))
}

fn plan() -> OpenUpload {
    open("a.bin", "id", HELLO)
}

async fn abort(files: &mut Files, token: &str, id: &str) -> Result<(), Status> {
    let request = AbortUploadRequest {
        filename: "a.bin".to_owned(),
        upload_id: id.to_owned(),
    };
    files
        .abort_upload(with_token(token, request))
        .await
        .map(drop)
}

/// Three bytes of an upload, and its stream.
async fn begun(files: &mut Files, token: &str) -> Upload {
    let mut upload = Upload::open_as(files, token, plan()).await;
    upload.chunk(0, &HELLO[..3]).await;
    upload.persisted(3).await;
    upload
}

async fn paused(files: &mut Files, token: &str) {
    let mut upload = begun(files, token).await;
    upload.half_close();
    upload.ended().await.unwrap();
}

async fn begins_at(files: &mut Files, token: &str) -> u64 {
    let mut upload = Upload::open_as(files, token, plan()).await;
    upload.progress().await.persisted_size
}

#[tokio::test]
async fn uploads_of_the_same_name_are_each_their_own() {
    let server = guarded(tempfile::tempdir().unwrap());
    let mut files = server.files().await;
    let (ann, bob) = (token_of("ann"), token_of("bob"));
    let mut of_ann = begun(&mut files, &ann).await;

    // Bob has nothing of it, and takes nothing from it.
    assert_failure(
        abort(&mut files, &bob, "id").await,
        Code::NotFound,
        "NOT_FOUND",
    );
    let mut of_bob = Upload::open_as(&mut files, &bob, plan()).await;
    assert_eq!(of_bob.progress().await.persisted_size, 0);
    of_bob.chunk(0, b"HELLO").await;
    of_bob.persisted(5).await;
    abort(&mut files, &bob, "id").await.unwrap();
    assert_failure(of_bob.ended().await, Code::Aborted, "SUPERSEDED");

    of_ann.chunk(3, &HELLO[3..]).await;
    of_ann.finish(HELLO).await;
    let info = of_ann.committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), HELLO);

    // What became of it is hers, too.
    let mut again = Upload::open_as(&mut files, &ann, plan()).await;
    assert_eq!(again.answer().await.unwrap(), Some(State::Committed(info)));
    assert_eq!(begins_at(&mut files, &bob).await, 0);
    // With another plan nobody learns that there was one.
    let other = OpenUpload {
        size: Some(77),
        ..plan()
    };
    let mut stranger = Upload::open_as(&mut files, &token_of("eve"), other.clone()).await;
    assert_eq!(stranger.progress().await.persisted_size, 0);
    let mut own = Upload::open_as(&mut files, &ann, other).await;
    assert_failure(
        own.answer().await,
        Code::FailedPrecondition,
        "UPLOAD_MISMATCH",
    );
}

/// Subjects and ids that look alike when they are put together.
#[tokio::test]
async fn no_subject_can_be_spelled_to_be_another() {
    let server = guarded(tempfile::tempdir().unwrap());
    let mut files = server.files().await;
    paused(&mut files, &token_of("ann")).await;
    for subject in [
        "Ann",
        "ann ",
        " ann",
        "an",
        "annn",
        "ann\\u0000",
        "\\u0000ann",
        "id\\u0000ann",
        "a\\u0301nn",
        "null",
        "*",
    ] {
        let token = good().claim("sub", &format!("\"{subject}\"")).signed(rsa());
        assert_eq!(begins_at(&mut files, &token).await, 0, "{subject}");
    }
    // One more way to write it is the same text.
    let token = good().claim("sub", "\"\\u0061nn\"").signed(rsa());
    assert_eq!(begins_at(&mut files, &token).await, 3);
}

#[tokio::test]
async fn a_new_token_of_the_same_subject_goes_on_with_an_upload() {
    let server = guarded(tempfile::tempdir().unwrap());
    let mut files = server.files().await;
    let mut first = begun(&mut files, &token_of("ann")).await;
    let renewed = good()
        .claim("sub", "\"ann\"")
        .claim("jti", "\"2\"")
        .claim("client_id", "\"another\"")
        .signed(rsa());
    let mut upload = Upload::open_as(&mut files, &renewed, plan()).await;
    assert_eq!(upload.progress().await.persisted_size, 3);
    assert_failure(first.ended().await, Code::Aborted, "SUPERSEDED");
    upload.chunk(3, &HELLO[3..]).await;
    upload.finish(HELLO).await;
    upload.committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), HELLO);
}

async fn restarted(mut server: TestServer, serve: fn(TempDir) -> TestServer) -> TestServer {
    server.stop();
    server.stopped().await;
    serve(server.into_root())
}

#[tokio::test]
async fn a_server_that_starts_again_knows_whose_an_upload_is() {
    let server = guarded(tempfile::tempdir().unwrap());
    let (ann, bob) = (token_of("ann"), token_of("bob"));
    paused(&mut server.files().await, &ann).await;

    let server = restarted(server, guarded).await;
    let mut files = server.files().await;
    assert_eq!(begins_at(&mut files, &bob).await, 0);
    assert_failure(
        abort(&mut files, &token_of("eve"), "id").await,
        Code::NotFound,
        "NOT_FOUND",
    );
    assert_eq!(begins_at(&mut files, &ann).await, 3);
    let mut upload = Upload::open_as(&mut files, &ann, plan()).await;
    upload.progress().await;
    upload.chunk(3, &HELLO[3..]).await;
    upload.finish(HELLO).await;
    let info = upload.committed().await;

    let server = restarted(server, guarded).await;
    let mut files = server.files().await;
    let mut again = Upload::open_as(&mut files, &ann, plan()).await;
    assert_eq!(again.answer().await.unwrap(), Some(State::Committed(info)));
    assert_eq!(begins_at(&mut files, &bob).await, 0);
}

#[tokio::test]
async fn an_upload_with_an_owner_is_nobodys_where_nobody_is_asked_and_the_other_way_round() {
    let open_to_all = |root| TestServer::serve(root, eager(), |_| {});
    let server = guarded(tempfile::tempdir().unwrap());
    let ann = token_of("ann");
    paused(&mut server.files().await, &ann).await;

    // The token is not looked at.
    let server = restarted(server, open_to_all).await;
    let mut files = server.files().await;
    assert_eq!(begins_at(&mut files, &ann).await, 0);
    let request = AbortUploadRequest {
        filename: "a.bin".to_owned(),
        upload_id: "id".to_owned(),
    };
    let mut upload = Upload::open(&mut files, plan()).await;
    upload.progress().await;
    upload.chunk(0, &HELLO[..4]).await;
    upload.persisted(4).await;
    drop(upload);

    let server = restarted(server, guarded).await;
    let mut files = server.files().await;
    assert_eq!(begins_at(&mut files, &ann).await, 3);
    abort(&mut files, &ann, "id").await.unwrap();
    assert_eq!(begins_at(&mut files, &ann).await, 0);

    let server = restarted(server, open_to_all).await;
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, plan()).await;
    assert_eq!(upload.progress().await.persisted_size, 4);
    files.abort_upload(request).await.unwrap();
}
