//! `finish` checks size, checksum and precondition, and commits the file.

use std::fs;

use muxs::pb::{
    FinishUpload, OpenUpload, StatRequest, WriteStreamRequest, write_stream_request::Step,
};
use tonic::Code;

use crate::support::{
    TestServer, assert_failure, metadata,
    upload_stream::{
        UploadStream, abort_upload, chunk, content, count_staged_files, drain_answers, open, put,
        start_checkpointing_every_byte,
    },
};

#[tokio::test]
async fn upload_with_wrong_size_or_checksum_is_discarded() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::write(server.path("a.bin"), "old").unwrap();
    let wrong = [
        (
            FinishUpload {
                size: 4,
                crc32c: None,
            },
            "SIZE_MISMATCH",
        ),
        (
            FinishUpload {
                size: 6,
                crc32c: None,
            },
            "SIZE_MISMATCH",
        ),
        (
            FinishUpload {
                size: 5,
                crc32c: Some(1),
            },
            "CHECKSUM_MISMATCH",
        ),
    ];
    for (finish, reason) in wrong {
        for size in [None, Some(5)] {
            let plan = OpenUpload {
                size,
                ..open("a.bin", "id", b"")
            };
            let mut upload = UploadStream::open(&mut files, plan.clone()).await;
            assert_eq!(upload.progress().await.persisted_size, 0);
            upload.chunk(0, b"hello").await;
            upload.send(Step::Finish(finish)).await;
            assert_failure(upload.wait_end().await, Code::InvalidArgument, reason);
            assert_eq!(count_staged_files(&server), 0);
        }
    }
    // The size of `finish` matches the bytes, but not the size of `open`.
    let plan = OpenUpload {
        size: Some(6),
        ..open("a.bin", "id", b"")
    };
    let mut upload = UploadStream::open(&mut files, plan).await;
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    assert_failure(
        upload.wait_end().await,
        Code::InvalidArgument,
        "SIZE_MISMATCH",
    );
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"old");
}

#[tokio::test]
async fn steps_after_finish_are_refused() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for (id, after) in [
        ("1", Step::Chunk(chunk(5, b"!"))),
        ("2", Step::Finish(FinishUpload::default())),
    ] {
        let steps = [
            Step::Open(open("a.bin", id, b"hello")),
            Step::Chunk(chunk(0, b"hello")),
            Step::Finish(FinishUpload {
                size: 5,
                crc32c: None,
            }),
            after,
        ];
        let steps = steps.map(|step| WriteStreamRequest { step: Some(step) });
        let answers = files.write_stream(tokio_stream::iter(steps)).await.unwrap();
        assert_failure(
            drain_answers(answers).await,
            Code::InvalidArgument,
            "BAD_REQUEST",
        );
    }
}

#[tokio::test]
async fn invalid_step_is_refused_and_earlier_bytes_are_kept() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let begun = open("a.bin", "id", b"hello");
    let mut empty = UploadStream::begin(&mut files).await;
    empty.half_close();
    assert_failure(empty.wait_end().await, Code::InvalidArgument, "BAD_REQUEST");
    for first in [
        Some(Step::Chunk(chunk(0, b"hello"))),
        Some(Step::Finish(FinishUpload::default())),
        None,
    ] {
        let mut upload = UploadStream::begin(&mut files).await;
        upload.send_raw(WriteStreamRequest { step: first }).await;
        assert_failure(
            upload.wait_end().await,
            Code::InvalidArgument,
            "BAD_REQUEST",
        );
    }
    let too_long = chunk(3, &vec![0; 1024 * 1024 + 1]);
    for next in [
        Some(Step::Open(begun.clone())),
        Some(Step::Chunk(too_long)),
        None,
    ] {
        let mut upload = UploadStream::open(&mut files, begun.clone()).await;
        let so_far = upload.progress().await.persisted_size as usize;
        upload.chunk(so_far, &b"hel"[so_far..]).await;
        upload.send_raw(WriteStreamRequest { step: next }).await;
        assert_failure(
            upload.wait_end().await,
            Code::InvalidArgument,
            "BAD_REQUEST",
        );
        let mut upload = UploadStream::open(&mut files, begun.clone()).await;
        assert_eq!(upload.progress().await.persisted_size, 3);
    }
    for id in ["a b", "ñ", &"x".repeat(129)] {
        let mut upload = UploadStream::open(&mut files, open("a.bin", id, b"hello")).await;
        assert_failure(
            upload.wait_end().await,
            Code::InvalidArgument,
            "BAD_REQUEST",
        );
    }
    let mut upload = UploadStream::open(&mut files, open("../a", "id", b"hello")).await;
    assert_failure(
        upload.wait_end().await,
        Code::InvalidArgument,
        "FILENAME_INVALID",
    );
}

#[tokio::test]
async fn largest_chunk_is_accepted() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let content = content(1024 * 1024);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    upload.chunk(0, &content).await;
    upload.finish(&content).await;
    upload.wait_committed().await;
}

#[tokio::test]
async fn empty_if_etag_creates_only_new_files() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let old = put(&mut files, "a.bin", b"old").await;
    let create = |id: &str| OpenUpload {
        if_etag: Some(String::new()),
        ..open("a.bin", id, b"hello")
    };
    let mut upload = UploadStream::open(&mut files, create("1")).await;
    let failure = assert_failure(upload.wait_end().await, Code::AlreadyExists, "EXISTS");
    assert_eq!(metadata(&failure, "etag"), old.etag);

    // One of two concurrent uploads commits, and nothing remains of the other.
    fs::remove_file(server.path("a.bin")).unwrap();
    let (mut one, mut other) = (
        UploadStream::open(&mut files, create("2")).await,
        UploadStream::open(&mut files, create("3")).await,
    );
    for upload in [&mut one, &mut other] {
        upload.progress().await;
        upload.chunk(0, b"hello").await;
        upload.finish(b"hello").await;
    }
    let ends = [one.next_answer().await, other.next_answer().await];
    let (won, lost): (Vec<_>, Vec<_>) = ends.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    for lost in lost {
        let failure = assert_failure(lost, Code::AlreadyExists, "EXISTS");
        let there = files
            .stat(StatRequest {
                filename: "a.bin".into(),
            })
            .await
            .unwrap();
        assert_eq!(metadata(&failure, "etag"), there.into_inner().etag);
    }
    assert_eq!(count_staged_files(&server), 0);
}

#[tokio::test]
async fn if_etag_replaces_only_that_version() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let first = put(&mut files, "a.bin", b"first").await;
    let replacing = |etag: &str, id: &str| OpenUpload {
        if_etag: Some(etag.to_owned()),
        ..open("a.bin", id, b"hello")
    };
    let mut upload = UploadStream::open(&mut files, replacing(&first.etag, "1")).await;
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    let second = upload.wait_committed().await;
    assert_ne!(second.etag, first.etag);

    let mut upload = UploadStream::open(&mut files, replacing(&first.etag, "2")).await;
    let failure = assert_failure(
        upload.wait_end().await,
        Code::FailedPrecondition,
        "ETAG_MISMATCH",
    );
    assert_eq!(metadata(&failure, "etag"), second.etag);

    // The version changes while the upload is open.
    let mut upload = UploadStream::open(&mut files, replacing(&second.etag, "3")).await;
    upload.progress().await;
    let third = put(&mut files, "a.bin", b"third").await;
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    let failure = assert_failure(
        upload.wait_end().await,
        Code::FailedPrecondition,
        "ETAG_MISMATCH",
    );
    assert_eq!(metadata(&failure, "etag"), third.etag);
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"third");

    let mut upload = UploadStream::open(
        &mut files,
        OpenUpload {
            filename: "missing.bin".into(),
            ..replacing(&third.etag, "4")
        },
    )
    .await;
    assert_failure(
        upload.wait_end().await,
        Code::FailedPrecondition,
        "ETAG_MISMATCH",
    );
}

#[tokio::test]
async fn uploads_with_different_ids_are_independent() {
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let (mut one, mut other) = (
        UploadStream::open(&mut files, open("a.bin", "1", b"hello")).await,
        UploadStream::open(&mut files, open("a.bin", "2", b"world!")).await,
    );
    one.progress().await;
    other.progress().await;
    one.chunk(0, b"hel").await;
    other.chunk(0, b"world!").await;
    one.wait_persisted(3).await;
    other.wait_persisted(6).await;
    other.finish(b"world!").await;
    other.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"world!");
    one.chunk(3, b"lo").await;
    one.finish(b"hello").await;
    one.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
}

#[tokio::test]
async fn upload_keeps_the_permissions_of_the_replaced_file() {
    use std::os::unix::fs::PermissionsExt;
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::write(server.path("a.bin"), "old").unwrap();
    fs::set_permissions(server.path("a.bin"), fs::Permissions::from_mode(0o600)).unwrap();
    put(&mut files, "a.bin", b"new").await;
    let mode = fs::metadata(server.path("a.bin"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[tokio::test]
async fn irreplaceable_target_is_refused_at_open() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::create_dir(server.path("folder")).unwrap();
    fs::write(server.path("file"), "old").unwrap();
    std::os::unix::fs::symlink("/tmp", server.path("out")).unwrap();
    for (name, code, reason) in [
        ("folder", Code::FailedPrecondition, "NOT_A_FILE"),
        ("file/a/b", Code::FailedPrecondition, "NOT_A_FILE"),
        ("out/a", Code::PermissionDenied, "OUTSIDE_ROOT"),
        (".muxs/a", Code::InvalidArgument, "FILENAME_INVALID"),
    ] {
        let mut upload = UploadStream::open(&mut files, open(name, "id", b"hello")).await;
        assert_failure(upload.wait_end().await, code, reason);
    }
    assert_eq!(count_staged_files(&server), 0);
}

#[tokio::test]
async fn read_only_server_refuses_uploads() {
    let server = TestServer::start_read_only(tempfile::tempdir().unwrap());
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    assert_failure(upload.wait_end().await, Code::PermissionDenied, "READ_ONLY");
    assert_failure(
        abort_upload(&mut files, "a.bin", "id").await,
        Code::PermissionDenied,
        "READ_ONLY",
    );
}
