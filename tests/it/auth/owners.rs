//! An upload belongs to the subject that began it.

use std::fs;

use muxs::{
    files::Settings,
    pb::{AbortUploadRequest, OpenUpload, write_stream_response::State},
};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::support::{
    TestServer, assert_failure,
    auth::{KeyFile, require_tokens, sign_for, valid_token, with_token},
    signing::rsa,
    upload_stream::{FilesClient, UploadStream, open},
};

const HELLO: &[u8] = b"hello";

/// Settings with a checkpoint after each written byte.
fn checkpoint_every_byte() -> Settings {
    Settings {
        checkpoint_bytes: 1,
        ..Settings::default()
    }
}

fn start_with_auth(root: TempDir) -> TestServer {
    let key = KeyFile::new(&[rsa().jwk()]);
    TestServer::serve(
        root,
        checkpoint_every_byte(),
        require_tokens(key.settings()),
    )
}

fn plan() -> OpenUpload {
    open("a.bin", "id", HELLO)
}

async fn abort(files: &mut FilesClient, token: &str, id: &str) -> Result<(), Status> {
    let request = AbortUploadRequest {
        filename: "a.bin".to_owned(),
        upload_id: id.to_owned(),
    };
    files
        .abort_upload(with_token(token, request))
        .await
        .map(drop)
}

/// Begins an upload with three durable bytes.
async fn begin_upload(files: &mut FilesClient, token: &str) -> UploadStream {
    let mut upload = UploadStream::open_as(files, token, plan()).await;
    upload.chunk(0, &HELLO[..3]).await;
    upload.wait_persisted(3).await;
    upload
}

async fn pause_upload(files: &mut FilesClient, token: &str) {
    let mut upload = begin_upload(files, token).await;
    upload.half_close();
    upload.wait_end().await.unwrap();
}

async fn resume_offset(files: &mut FilesClient, token: &str) -> u64 {
    let mut upload = UploadStream::open_as(files, token, plan()).await;
    upload.progress().await.persisted_size
}

#[tokio::test]
async fn owners_have_separate_uploads_of_one_filename() {
    let server = start_with_auth(tempfile::tempdir().unwrap());
    let mut files = server.files().await;
    let (ann, bob) = (sign_for("ann"), sign_for("bob"));
    let mut of_ann = begin_upload(&mut files, &ann).await;

    // Bob cannot see or abort the upload.
    assert_failure(
        abort(&mut files, &bob, "id").await,
        Code::NotFound,
        "NOT_FOUND",
    );
    let mut of_bob = UploadStream::open_as(&mut files, &bob, plan()).await;
    assert_eq!(of_bob.progress().await.persisted_size, 0);
    of_bob.chunk(0, b"HELLO").await;
    of_bob.wait_persisted(5).await;
    abort(&mut files, &bob, "id").await.unwrap();
    assert_failure(of_bob.wait_end().await, Code::Aborted, "SUPERSEDED");

    of_ann.chunk(3, &HELLO[3..]).await;
    of_ann.finish(HELLO).await;
    let info = of_ann.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), HELLO);

    // The result also belongs to Ann.
    let mut again = UploadStream::open_as(&mut files, &ann, plan()).await;
    assert_eq!(
        again.next_answer().await.unwrap(),
        Some(State::Committed(info))
    );
    assert_eq!(resume_offset(&mut files, &bob).await, 0);
    // Other parameters of `open` do not reveal that the upload exists.
    let other = OpenUpload {
        size: Some(77),
        ..plan()
    };
    let mut stranger = UploadStream::open_as(&mut files, &sign_for("eve"), other.clone()).await;
    assert_eq!(stranger.progress().await.persisted_size, 0);
    let mut own = UploadStream::open_as(&mut files, &ann, other).await;
    assert_failure(
        own.next_answer().await,
        Code::FailedPrecondition,
        "UPLOAD_MISMATCH",
    );
}

/// Pairs of subject and upload ID whose concatenations are equal.
#[tokio::test]
async fn subjects_cannot_collide() {
    let server = start_with_auth(tempfile::tempdir().unwrap());
    let mut files = server.files().await;
    pause_upload(&mut files, &sign_for("ann")).await;
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
        let token = valid_token()
            .claim("sub", &format!("\"{subject}\""))
            .sign(rsa());
        assert_eq!(resume_offset(&mut files, &token).await, 0, "{subject}");
    }
    // An escaped subject is the same subject.
    let token = valid_token().claim("sub", "\"\\u0061nn\"").sign(rsa());
    assert_eq!(resume_offset(&mut files, &token).await, 3);
}

#[tokio::test]
async fn new_token_of_the_same_subject_resumes_the_upload() {
    let server = start_with_auth(tempfile::tempdir().unwrap());
    let mut files = server.files().await;
    let mut first = begin_upload(&mut files, &sign_for("ann")).await;
    let renewed = valid_token()
        .claim("sub", "\"ann\"")
        .claim("jti", "\"2\"")
        .claim("client_id", "\"another\"")
        .sign(rsa());
    let mut upload = UploadStream::open_as(&mut files, &renewed, plan()).await;
    assert_eq!(upload.progress().await.persisted_size, 3);
    assert_failure(first.wait_end().await, Code::Aborted, "SUPERSEDED");
    upload.chunk(3, &HELLO[3..]).await;
    upload.finish(HELLO).await;
    upload.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), HELLO);
}

async fn restart(mut server: TestServer, serve: fn(TempDir) -> TestServer) -> TestServer {
    server.stop();
    server.wait_stopped().await;
    serve(server.into_root())
}

#[tokio::test]
async fn upload_owner_survives_a_restart() {
    let server = start_with_auth(tempfile::tempdir().unwrap());
    let (ann, bob) = (sign_for("ann"), sign_for("bob"));
    pause_upload(&mut server.files().await, &ann).await;

    let server = restart(server, start_with_auth).await;
    let mut files = server.files().await;
    assert_eq!(resume_offset(&mut files, &bob).await, 0);
    assert_failure(
        abort(&mut files, &sign_for("eve"), "id").await,
        Code::NotFound,
        "NOT_FOUND",
    );
    assert_eq!(resume_offset(&mut files, &ann).await, 3);
    let mut upload = UploadStream::open_as(&mut files, &ann, plan()).await;
    upload.progress().await;
    upload.chunk(3, &HELLO[3..]).await;
    upload.finish(HELLO).await;
    let info = upload.wait_committed().await;

    let server = restart(server, start_with_auth).await;
    let mut files = server.files().await;
    let mut again = UploadStream::open_as(&mut files, &ann, plan()).await;
    assert_eq!(
        again.next_answer().await.unwrap(),
        Some(State::Committed(info))
    );
    assert_eq!(resume_offset(&mut files, &bob).await, 0);
}

#[tokio::test]
async fn owned_uploads_are_invisible_without_auth_and_vice_versa() {
    let open_to_all = |root| TestServer::serve(root, checkpoint_every_byte(), |_| {});
    let server = start_with_auth(tempfile::tempdir().unwrap());
    let ann = sign_for("ann");
    pause_upload(&mut server.files().await, &ann).await;

    // Without authentication, the token is ignored.
    let server = restart(server, open_to_all).await;
    let mut files = server.files().await;
    assert_eq!(resume_offset(&mut files, &ann).await, 0);
    let request = AbortUploadRequest {
        filename: "a.bin".to_owned(),
        upload_id: "id".to_owned(),
    };
    let mut upload = UploadStream::open(&mut files, plan()).await;
    upload.progress().await;
    upload.chunk(0, &HELLO[..4]).await;
    upload.wait_persisted(4).await;
    drop(upload);

    let server = restart(server, start_with_auth).await;
    let mut files = server.files().await;
    assert_eq!(resume_offset(&mut files, &ann).await, 3);
    abort(&mut files, &ann, "id").await.unwrap();
    assert_eq!(resume_offset(&mut files, &ann).await, 0);

    let server = restart(server, open_to_all).await;
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, plan()).await;
    assert_eq!(upload.progress().await.persisted_size, 4);
    files.abort_upload(request).await.unwrap();
}
