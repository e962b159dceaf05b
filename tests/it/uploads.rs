//! WriteStream and AbortUpload, rule by rule.

use std::{fs, time::Duration};

use muxs::{
    files::Settings,
    pb::{
        AbortUploadRequest, Chunk, FinishUpload, OpenUpload, StatRequest, WriteStreamRequest,
        write_stream_request::Step, write_stream_response::State,
    },
};
use tonic::{Code, Status};

use crate::{
    streams::{Files, Upload, chunk, content, crc32c, get, open, put, whole},
    support::{TestServer, assert_failure, bounded, metadata},
};

/// Each byte that is written makes for a checkpoint.
fn eager() -> TestServer {
    start(Settings {
        checkpoint_bytes: 1,
        ..Settings::default()
    })
}

fn start(settings: Settings) -> TestServer {
    TestServer::serve(tempfile::tempdir().unwrap(), settings, |_| {})
}

async fn abort(files: &mut Files, filename: &str, id: &str) -> Result<(), Status> {
    let request = AbortUploadRequest {
        filename: filename.to_owned(),
        upload_id: id.to_owned(),
    };
    files.abort_upload(request).await.map(drop)
}

/// How many files are staged for uploads.
fn staged(server: &TestServer) -> usize {
    fs::read_dir(server.path(".muxs/uploads")).unwrap().count()
}

// Only finish commits

#[tokio::test]
async fn an_upload_appears_whole_with_its_folders() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for size in [0, 1, 256 * 1024, 3_000_000] {
        let content = content(size);
        let name = format!("new/folder/{size}.bin");
        let info = put(&mut files, &name, &content).await;
        assert_eq!(
            (info.filename.as_str(), info.size),
            (name.as_str(), size as u64)
        );
        assert_eq!(fs::read(server.path(&name)).unwrap(), content);
        let request = StatRequest {
            filename: name.clone(),
        };
        assert_eq!(files.stat(request).await.unwrap().into_inner(), info);
        assert_eq!(
            get(&mut files, whole(&name)).await.unwrap(),
            (info, content)
        );
    }
}

#[tokio::test]
async fn a_half_close_without_finish_is_a_pause() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::write(server.path("a.bin"), "old").unwrap();
    let content = content(300_000);
    let mut upload = Upload::open(&mut files, open("a.bin", "id", &content)).await;
    assert_eq!(upload.progress().await.persisted_size, 0);
    upload.chunks(&content[..200_000], 0, 64 * 1024).await;
    upload.half_close();
    let paused = upload.persisted(200_000).await;
    assert_eq!(paused.persisted_crc32c, crc32c(&content[..200_000]));
    assert_eq!(upload.answer().await.unwrap(), None);
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"old");

    let mut upload = Upload::open(&mut files, open("a.bin", "id", &content)).await;
    let resumed = upload.progress().await;
    assert_eq!(resumed.persisted_size, paused.persisted_size);
    assert_eq!(resumed.persisted_crc32c, paused.persisted_crc32c);
    upload.chunks(&content, 200_000, 64 * 1024).await;
    upload.finish(&content).await;
    upload.committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), content);
}

#[tokio::test]
async fn all_that_was_sent_and_not_finished_stays_out_of_sight() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let content = content(100_000);
    let mut upload = Upload::open(&mut files, open("a.bin", "id", &content)).await;
    upload.chunks(&content, 0, 10_000).await;
    upload.half_close();
    upload.ended().await.unwrap();
    let request = StatRequest {
        filename: "a.bin".into(),
    };
    assert_failure(files.stat(request).await, Code::NotFound, "NOT_FOUND");
    assert!(!server.path("a.bin").exists());
}

// Open is idempotent

#[tokio::test]
async fn a_finished_upload_is_told_again_to_who_opens_it_again() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let content = content(100_000);
    let info = put(&mut files, "a.bin", &content).await;
    let id = format!("put-{}", crc32c(&content));

    let mut again = Upload::open(&mut files, open("a.bin", &id, &content)).await;
    assert_eq!(
        again.answer().await.unwrap(),
        Some(State::Committed(info.clone()))
    );
    assert_eq!(again.answer().await.unwrap(), None);

    // Also when the file has since become another.
    put(&mut files, "a.bin", b"newer").await;
    let mut again = Upload::open(&mut files, open("a.bin", &id, &content)).await;
    assert_eq!(again.committed().await, info);
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"newer");
}

#[tokio::test]
async fn a_finished_upload_of_a_new_file_does_not_find_that_file_in_its_way() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let create = OpenUpload {
        if_etag: Some(String::new()),
        ..open("a.bin", "id", b"hello")
    };
    let mut upload = Upload::open(&mut files, create.clone()).await;
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    let info = upload.committed().await;
    let mut again = Upload::open(&mut files, create).await;
    assert_eq!(again.committed().await, info);
}

#[tokio::test]
async fn an_upload_is_continued_only_as_what_it_was_begun() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let begun = open("a.bin", "id", b"hello");
    let mut first = Upload::open(&mut files, begun.clone()).await;
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
        let mut second = Upload::open(&mut files, other.clone()).await;
        assert_failure(
            second.ended().await,
            Code::FailedPrecondition,
            "UPLOAD_MISMATCH",
        );
    }
    // It has not even been disturbed.
    first.chunk(0, b"hello").await;
    first.finish(b"hello").await;
    first.committed().await;
    let other = OpenUpload {
        size: None,
        ..begun
    };
    let mut after = Upload::open(&mut files, other).await;
    assert_failure(
        after.ended().await,
        Code::FailedPrecondition,
        "UPLOAD_MISMATCH",
    );
}

#[tokio::test]
async fn the_server_names_an_upload_that_has_no_name() {
    let server = eager();
    let mut files = server.files().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut upload = Upload::open(&mut files, open("a.bin", "", b"hello")).await;
        let id = upload.progress().await.upload_id;
        assert!(!ids.contains(&id) && !id.is_empty(), "{id}");
        upload.chunk(0, b"hel").await;
        upload.persisted(3).await;
        drop(upload);
        let mut resumed = Upload::open(&mut files, open("a.bin", &id, b"hello")).await;
        assert_eq!(resumed.progress().await.persisted_size, 3);
        ids.push(id);
    }
}

#[tokio::test]
async fn progress_says_all_that_a_client_needs() {
    let server = eager();
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, open("a.bin", "my-id", b"hello")).await;
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

// Open takes over

#[tokio::test]
async fn the_newest_stream_of_an_upload_is_the_one_that_may_write() {
    let server = eager();
    let mut files = server.files().await;
    let content = content(300_000);
    let mut older = Upload::open(&mut files, open("a.bin", "id", &content)).await;
    older.progress().await;
    older.chunk(0, &content[..100_000]).await;
    older.persisted(100_000).await;

    // On another connection, as a client that comes back has it.
    let mut elsewhere = server.files().await;
    let mut newer = Upload::open(&mut elsewhere, open("a.bin", "id", &content)).await;
    assert_eq!(newer.progress().await.persisted_size, 100_000);

    // The older one sends all the same.
    older.chunk(100_000, &[0; 50_000]).await;
    older.finish(&content).await;
    assert_failure(older.ended().await, Code::Aborted, "SUPERSEDED");

    newer.chunks(&content, 100_000, 64 * 1024).await;
    newer.finish(&content).await;
    newer.committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), content);
}

#[tokio::test]
async fn a_stream_that_hears_nothing_from_its_client_is_ended_by_the_next() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut frozen = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    frozen.progress().await;
    frozen.chunk(0, b"hel").await;
    let mut elsewhere = server.files().await;
    let mut newer = Upload::open(&mut elsewhere, open("a.bin", "id", b"hello")).await;
    newer.progress().await;
    assert_failure(frozen.ended().await, Code::Aborted, "SUPERSEDED");
}

/// Whatever a stream has in flight when it is taken over, no byte of it lands behind the new one's
/// back.
#[tokio::test]
async fn a_writer_has_stopped_before_the_next_is_told_its_offset() {
    let server = TestServer::start();
    let content = content(8_000_000);
    let mut wrong = content.clone();
    wrong.iter_mut().for_each(|byte| *byte = !*byte);
    for round in 0..10 {
        let name = format!("{round}.bin");
        let mut files = server.files().await;
        let mut older = Upload::open(&mut files, open(&name, "id", &content)).await;
        older.progress().await;
        let (head, tail) = (content[..1_000_000].to_vec(), wrong[1_000_000..].to_vec());
        let sending = tokio::spawn(async move {
            older.chunks(&head, 0, 100_000).await;
            // From here on, what it sends is not the file's.
            for (k, piece) in tail.chunks(500_000).enumerate() {
                older.chunk(1_000_000 + k * 500_000, piece).await;
            }
            older.ended().await
        });
        let mut elsewhere = server.files().await;
        let mut newer = Upload::open(&mut elsewhere, open(&name, "id", &content)).await;
        let told = newer.progress().await;
        let size = told.persisted_size as usize;
        let so_far: Vec<u8> = content[..size.min(1_000_000)]
            .iter()
            .chain(&wrong[size.min(1_000_000)..size])
            .copied()
            .collect();
        assert_eq!(told.persisted_crc32c, crc32c(&so_far));
        let whole = [so_far, content[size..].to_vec()].concat();
        newer.chunks(&whole, size, 500_000).await;
        newer.finish(&whole).await;
        newer.committed().await;
        assert!(fs::read(server.path(&name)).unwrap() == whole);
        assert_failure(bounded(sending).await.unwrap(), Code::Aborted, "SUPERSEDED");
    }
}

// Chunks

#[tokio::test]
async fn a_chunk_continues_where_the_last_one_ended() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for offset in [0, 2, 4, 100] {
        let open = || open("a.bin", &offset.to_string(), b"hello");
        let mut upload = Upload::open(&mut files, open()).await;
        upload.chunk(0, b"hel").await;
        upload.chunk(offset, b"lo").await;
        let failure = assert_failure(upload.ended().await, Code::Aborted, "OFFSET_MISMATCH");
        assert_eq!(metadata(&failure, "expected"), "3");
        // What came before it is kept.
        let mut upload = Upload::open(&mut files, open()).await;
        assert_eq!(upload.progress().await.persisted_size, 3);
    }
}

#[tokio::test]
async fn a_corrupt_chunk_changes_nothing() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    let corrupt = Chunk {
        crc32c: Some(crc32c(b"lo") ^ 1),
        ..chunk(3, b"lo")
    };
    upload.send(Step::Chunk(corrupt)).await;
    // Too late for it.
    upload.chunk(3, b"lo").await;
    let failure = assert_failure(upload.ended().await, Code::Aborted, "CHUNK_CORRUPT");
    assert_eq!(metadata(&failure, "offset"), "3");

    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    let progress = upload.progress().await;
    assert_eq!(
        (progress.persisted_size, progress.persisted_crc32c),
        (3, crc32c(b"hel"))
    );
    upload.chunk(3, b"lo").await;
    upload.finish(b"hello").await;
    upload.committed().await;
}

#[tokio::test]
async fn checksums_are_the_clients_to_leave_out() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
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
    upload.committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
}

#[tokio::test]
async fn more_than_was_announced_is_too_much() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hello").await;
    upload.chunk(5, b"!").await;
    assert_failure(upload.ended().await, Code::InvalidArgument, "SIZE_MISMATCH");
    assert_eq!(staged(&server), 0);
}

#[tokio::test]
async fn the_largest_upload_is_the_servers_to_set() {
    let server = start(Settings {
        max_upload_bytes: 5,
        ..Settings::default()
    });
    let mut files = server.files().await;
    put(&mut files, "a.bin", b"hello").await;
    let mut upload = Upload::open(&mut files, open("b.bin", "id", b"hello!")).await;
    let failure = assert_failure(upload.ended().await, Code::FailedPrecondition, "TOO_LARGE");
    assert_eq!(
        (metadata(&failure, "limit"), metadata(&failure, "size")),
        ("5".into(), "6".into())
    );
    let unknown = OpenUpload {
        size: None,
        ..open("b.bin", "id", b"")
    };
    let mut upload = Upload::open(&mut files, unknown).await;
    upload.chunk(0, b"hel").await;
    upload.chunk(3, b"lo!").await;
    let failure = assert_failure(upload.ended().await, Code::FailedPrecondition, "TOO_LARGE");
    assert_eq!(
        (metadata(&failure, "limit"), metadata(&failure, "size")),
        ("5".into(), "6".into())
    );
    assert!(!server.path("b.bin").exists());
}

// Progress

#[tokio::test]
async fn progress_comes_a_second_after_bytes_at_the_latest() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.progress().await;
    upload.chunk(0, b"hel").await;
    upload.persisted(3).await;
    upload.chunk(3, b"lo").await;
    upload.persisted(5).await;
}

#[tokio::test]
async fn progress_never_goes_back() {
    let server = start(Settings {
        checkpoint_bytes: 100_000,
        ..Settings::default()
    });
    let mut files = server.files().await;
    let content = content(5_000_000);
    let mut upload = Upload::open(&mut files, open("a.bin", "id", &content)).await;
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
    let mut last = 0;
    while last < content.len() as u64 {
        let progress = upload.progress().await;
        assert!(progress.persisted_size >= last);
        last = progress.persisted_size;
        assert_eq!(progress.persisted_crc32c, crc32c(&content[..last as usize]));
    }
    bounded(sending).await.unwrap();
}

// Finish

#[tokio::test]
async fn an_upload_that_is_not_what_the_client_says_is_discarded() {
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
            let mut upload = Upload::open(&mut files, plan.clone()).await;
            assert_eq!(upload.progress().await.persisted_size, 0);
            upload.chunk(0, b"hello").await;
            upload.send(Step::Finish(finish)).await;
            assert_failure(upload.ended().await, Code::InvalidArgument, reason);
            assert_eq!(staged(&server), 0);
        }
    }
    // As many as it says now, but not as many as it said at first.
    let plan = OpenUpload {
        size: Some(6),
        ..open("a.bin", "id", b"")
    };
    let mut upload = Upload::open(&mut files, plan).await;
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    assert_failure(upload.ended().await, Code::InvalidArgument, "SIZE_MISMATCH");
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"old");
}

#[tokio::test]
async fn nothing_comes_after_finish() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for after in [
        Step::Chunk(chunk(5, b"!")),
        Step::Finish(FinishUpload::default()),
    ] {
        let steps = [
            Step::Open(OpenUpload {
                size: None,
                ..open("a.bin", "id", b"")
            }),
            Step::Chunk(chunk(0, b"hello")),
            Step::Finish(FinishUpload {
                size: 5,
                crc32c: None,
            }),
            after,
        ];
        let steps = steps.map(|step| WriteStreamRequest { step: Some(step) });
        let answers = files.write_stream(tokio_stream::iter(steps)).await.unwrap();
        let mut answers = answers.into_inner();
        let failed = loop {
            match bounded(answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            }
        };
        assert_failure(failed, Code::InvalidArgument, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn steps_that_break_the_contract_are_refused_and_what_came_before_is_kept() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let begun = open("a.bin", "id", b"hello");
    let mut empty = Upload::begin(&mut files).await;
    empty.half_close();
    assert_failure(empty.ended().await, Code::InvalidArgument, "BAD_REQUEST");
    for first in [
        Some(Step::Chunk(chunk(0, b"hello"))),
        Some(Step::Finish(FinishUpload::default())),
        None,
    ] {
        let mut upload = Upload::begin(&mut files).await;
        upload.send_raw(WriteStreamRequest { step: first }).await;
        assert_failure(upload.ended().await, Code::InvalidArgument, "BAD_REQUEST");
    }
    let too_long = chunk(3, &vec![0; 1024 * 1024 + 1]);
    for next in [
        Some(Step::Open(begun.clone())),
        Some(Step::Chunk(too_long)),
        None,
    ] {
        let mut upload = Upload::open(&mut files, begun.clone()).await;
        let so_far = upload.progress().await.persisted_size as usize;
        upload.chunk(so_far, &b"hel"[so_far..]).await;
        upload.send_raw(WriteStreamRequest { step: next }).await;
        assert_failure(upload.ended().await, Code::InvalidArgument, "BAD_REQUEST");
        let mut upload = Upload::open(&mut files, begun.clone()).await;
        assert_eq!(upload.progress().await.persisted_size, 3);
    }
    for id in ["a b", "ñ", &"x".repeat(129)] {
        let mut upload = Upload::open(&mut files, open("a.bin", id, b"hello")).await;
        assert_failure(upload.ended().await, Code::InvalidArgument, "BAD_REQUEST");
    }
    let mut upload = Upload::open(&mut files, open("../a", "id", b"hello")).await;
    assert_failure(
        upload.ended().await,
        Code::InvalidArgument,
        "FILENAME_INVALID",
    );
}

#[tokio::test]
async fn the_largest_chunk_is_taken() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let content = content(1024 * 1024);
    let mut upload = Upload::open(&mut files, open("a.bin", "id", &content)).await;
    upload.chunk(0, &content).await;
    upload.finish(&content).await;
    upload.committed().await;
}

// What may be replaced

#[tokio::test]
async fn a_file_is_created_only_where_there_is_none() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let old = put(&mut files, "a.bin", b"old").await;
    let create = |id: &str| OpenUpload {
        if_etag: Some(String::new()),
        ..open("a.bin", id, b"hello")
    };
    let mut upload = Upload::open(&mut files, create("1")).await;
    let failure = assert_failure(upload.ended().await, Code::AlreadyExists, "EXISTS");
    assert_eq!(metadata(&failure, "etag"), old.etag);

    // Two at once: one wins, and nothing is left of the other.
    fs::remove_file(server.path("a.bin")).unwrap();
    let (mut one, mut other) = (
        Upload::open(&mut files, create("2")).await,
        Upload::open(&mut files, create("3")).await,
    );
    for upload in [&mut one, &mut other] {
        upload.progress().await;
        upload.chunk(0, b"hello").await;
        upload.finish(b"hello").await;
    }
    let ends = [one.answer().await, other.answer().await];
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
    // The journals of the first and of the winner.
    assert_eq!(staged(&server), 2);
}

#[tokio::test]
async fn a_version_is_replaced_only_by_who_knows_it() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let first = put(&mut files, "a.bin", b"first").await;
    let replacing = |etag: &str, id: &str| OpenUpload {
        if_etag: Some(etag.to_owned()),
        ..open("a.bin", id, b"hello")
    };
    let mut upload = Upload::open(&mut files, replacing(&first.etag, "1")).await;
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    let second = upload.committed().await;
    assert_ne!(second.etag, first.etag);

    let mut upload = Upload::open(&mut files, replacing(&first.etag, "2")).await;
    let failure = assert_failure(
        upload.ended().await,
        Code::FailedPrecondition,
        "ETAG_MISMATCH",
    );
    assert_eq!(metadata(&failure, "etag"), second.etag);

    // It is another only by the time the upload finishes.
    let mut upload = Upload::open(&mut files, replacing(&second.etag, "3")).await;
    upload.progress().await;
    let third = put(&mut files, "a.bin", b"third").await;
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    let failure = assert_failure(
        upload.ended().await,
        Code::FailedPrecondition,
        "ETAG_MISMATCH",
    );
    assert_eq!(metadata(&failure, "etag"), third.etag);
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"third");

    let mut upload = Upload::open(
        &mut files,
        OpenUpload {
            filename: "missing.bin".into(),
            ..replacing(&third.etag, "4")
        },
    )
    .await;
    assert_failure(
        upload.ended().await,
        Code::FailedPrecondition,
        "ETAG_MISMATCH",
    );
}

#[tokio::test]
async fn uploads_of_different_ids_do_not_know_each_other() {
    let server = eager();
    let mut files = server.files().await;
    let (mut one, mut other) = (
        Upload::open(&mut files, open("a.bin", "1", b"hello")).await,
        Upload::open(&mut files, open("a.bin", "2", b"world!")).await,
    );
    one.progress().await;
    other.progress().await;
    one.chunk(0, b"hel").await;
    other.chunk(0, b"world!").await;
    one.persisted(3).await;
    other.persisted(6).await;
    other.finish(b"world!").await;
    other.committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"world!");
    one.chunk(3, b"lo").await;
    one.finish(b"hello").await;
    one.committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
}

#[tokio::test]
async fn an_upload_leaves_the_permissions_of_what_it_replaces() {
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
async fn what_no_file_can_replace_is_refused_when_the_upload_opens() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::create_dir(server.path("folder")).unwrap();
    std::os::unix::fs::symlink("/tmp", server.path("out")).unwrap();
    for (name, code, reason) in [
        ("folder", Code::FailedPrecondition, "NOT_A_FILE"),
        ("out/a", Code::PermissionDenied, "OUTSIDE_ROOT"),
        (".muxs/a", Code::InvalidArgument, "FILENAME_INVALID"),
    ] {
        let mut upload = Upload::open(&mut files, open(name, "id", b"hello")).await;
        assert_failure(upload.ended().await, code, reason);
    }
    assert_eq!(staged(&server), 0);
}

#[tokio::test]
async fn a_read_only_server_takes_no_upload() {
    let server = TestServer::start_read_only(tempfile::tempdir().unwrap());
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    assert_failure(upload.ended().await, Code::PermissionDenied, "READ_ONLY");
    assert_failure(
        abort(&mut files, "a.bin", "id").await,
        Code::PermissionDenied,
        "READ_ONLY",
    );
}

// Abort

#[tokio::test]
async fn an_aborted_upload_is_gone() {
    let server = eager();
    let mut files = server.files().await;
    assert_failure(
        abort(&mut files, "a.bin", "id").await,
        Code::NotFound,
        "NOT_FOUND",
    );
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    upload.persisted(3).await;
    abort(&mut files, "a.bin", "id").await.unwrap();
    assert_failure(upload.ended().await, Code::Aborted, "SUPERSEDED");
    assert_eq!(staged(&server), 0);

    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    upload.half_close();
    upload.ended().await.unwrap();
    abort(&mut files, "a.bin", "id").await.unwrap();
    assert_eq!(staged(&server), 0);
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    assert_eq!(upload.progress().await.persisted_size, 0);
    assert_failure(
        abort(&mut files, "a.bin", "a b").await,
        Code::InvalidArgument,
        "BAD_REQUEST",
    );
    assert_failure(
        abort(&mut files, "", "id").await,
        Code::InvalidArgument,
        "FILENAME_INVALID",
    );
}

#[tokio::test]
async fn a_finished_upload_is_not_aborted() {
    let server = TestServer::start();
    let mut files = server.files().await;
    put(&mut files, "a.bin", b"hello").await;
    let id = format!("put-{}", crc32c(b"hello"));
    assert_failure(
        abort(&mut files, "a.bin", &id).await,
        Code::NotFound,
        "NOT_FOUND",
    );
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
    let mut again = Upload::open(&mut files, open("a.bin", &id, b"hello")).await;
    again.committed().await;
}

// Expiry

/// Waits until so many files are left.
async fn swept(server: &TestServer, left: usize) {
    bounded(async {
        while staged(server) > left {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_nobody_goes_on_with_expires_and_one_in_use_does_not() {
    let server = start(Settings {
        upload_ttl: Duration::from_secs(1),
        checkpoint_bytes: 1,
        ..Settings::default()
    });
    let mut files = server.files().await;
    let mut in_use = Upload::open(&mut files, open("kept.bin", "id", b"hello")).await;
    in_use.chunk(0, b"hel").await;
    in_use.persisted(3).await;
    let mut left = Upload::open(&mut files, open("left.bin", "id", b"hello")).await;
    left.chunk(0, b"hel").await;
    left.persisted(3).await;
    put(&mut files, "finished.bin", b"hello").await;
    drop(left);
    // Only what is in use stays.
    swept(&server, 2).await;
    in_use.chunk(3, b"lo").await;
    in_use.finish(b"hello").await;
    in_use.committed().await;
    assert_eq!(fs::read(server.path("kept.bin")).unwrap(), b"hello");
    let mut again = Upload::open(&mut files, open("left.bin", "id", b"hello")).await;
    assert_eq!(again.progress().await.persisted_size, 0);
    drop(again);
    drop(in_use);
    swept(&server, 0).await;
    // Its result is forgotten with it.
    let mut again = Upload::open(
        &mut files,
        open(
            "finished.bin",
            &format!("put-{}", crc32c(b"hello")),
            b"hello",
        ),
    )
    .await;
    assert_eq!(again.progress().await.persisted_size, 0);
}

#[tokio::test]
async fn what_is_staged_and_belongs_to_nobody_is_swept_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let uploads = root.path().join(".muxs/uploads");
    fs::create_dir_all(uploads.join("folder/in/it")).unwrap();
    let key = "0123456789abcdef".repeat(4);
    for name in [
        "stray".to_owned(),
        format!("{key}.data"),
        format!("{}.data", "x".repeat(64)),
    ] {
        fs::write(uploads.join(name), "bytes").unwrap();
    }
    let server = TestServer::serve(root, Settings::default(), |_| {});
    assert_eq!(staged(&server), 0);
}
