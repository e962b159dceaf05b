//! Uploads of files to a scripted server.

use std::{
    fs::{self, File, FileTimes},
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, SystemTime},
};

use muxs::{
    client::{self, Client, Error, Event},
    pb::FileInfo,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::{
    scripted_server::{
        Action, MAX_CHUNK, ScriptedServer, commit, connection_lost, crc32c, failure, info, progress,
    },
    transfer_dir::{EventLog, TransferDir, assert_failure, assert_retries_exhausted},
    with_timeout,
};

#[tokio::test]
async fn upload_sends_checksums_of_chunks_and_of_the_file() {
    for size in [0, 1, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, 9 * MAX_CHUNK] {
        let place = TransferDir::with(size);
        let server = ScriptedServer::start().await;
        server.on_write(place.resume_actions(0));
        let sent = with_timeout(
            server
                .client()
                .upload(place.source(), "a/b/c")
                .into_future(),
        )
        .await;
        assert_eq!(sent.unwrap(), place.info());
        place.assert_sent(&server);
        let open = server.script().opens[0].clone();
        assert_eq!(open.filename, "a/b/c");
        assert_eq!(open.size, Some(size as u64));
        assert_eq!(open.if_etag, None);
    }
}

#[tokio::test]
async fn upload_id_identifies_paths_and_precondition() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let client = server.client();
    let upload = || client.upload(place.source(), "name");
    let uploads = [
        upload(),
        upload(),
        client.upload(place.folder.path().join("./source"), "name"),
        client.upload(place.source(), "other"),
        upload().create_only(),
        upload().if_etag("x"),
    ];
    for upload in uploads {
        server.on_write(place.resume_actions(0));
        with_timeout(upload.into_future()).await.unwrap();
    }
    // Neither another time nor another file of the same name is another upload.
    let touch: [fn(&TransferDir); 2] = [
        |place| {
            let source = File::options().append(true).open(place.source()).unwrap();
            let later = SystemTime::now() + Duration::from_secs(1);
            let times = FileTimes::new().set_modified(later);
            source.set_times(times).unwrap();
        },
        |place| {
            fs::write(place.path("new"), &place.content).unwrap();
            fs::rename(place.path("new"), place.source()).unwrap();
        },
    ];
    for touch in touch {
        touch(&place);
        server.on_write(place.resume_actions(0));
        with_timeout(upload().into_future()).await.unwrap();
    }

    let opens = server.script().opens.clone();
    let ids: Vec<_> = opens.iter().map(|open| &open.upload_id).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2]);
    assert_eq!([ids[6], ids[7]], [ids[0]; 2]);
    let different: std::collections::BTreeSet<_> = ids[2..].iter().collect();
    assert_eq!(different.len(), 4);
    assert!(ids.iter().all(|id| (1..=128).contains(&id.len())));
    assert_eq!(opens[4].if_etag.as_deref(), Some(""));
    assert_eq!(opens[5].if_etag.as_deref(), Some("x"));
}

#[tokio::test]
async fn upload_resumes_where_an_earlier_run_ended() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server.on_write(place.resume_actions(3333));
    let events = EventLog::default();
    let upload = server.client().upload(place.source(), "name");
    with_timeout(upload.on_event(events.listener()).into_future())
        .await
        .unwrap();
    assert_eq!(events.entries(), ["opened at 3333"]);
    assert_eq!(server.script().chunks[0][0].offset, 3333);
    assert_eq!(
        server.script().finishes[0].crc32c,
        Some(crc32c(&place.content))
    );
}

#[tokio::test]
async fn upload_resumes_at_the_durable_prefix_after_a_cut() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server
        .on_write([
            progress(&place.content, 0),
            Action::ReceiveChunks(5),
            Action::Fail(connection_lost()),
        ])
        .on_write(place.resume_actions(2 * MAX_CHUNK + 7));
    let upload = server.client().upload(place.source(), "name");
    with_timeout(upload.into_future()).await.unwrap();
    place.assert_sent(&server);
    let opens = server.script().opens.clone();
    assert_eq!(opens[0], opens[1]);
}

#[tokio::test]
async fn upload_with_a_different_prefix_restarts() {
    let place = TransferDir::new();
    let other = vec![1; 2 * MAX_CHUNK];
    let server = ScriptedServer::start().await;
    server
        .on_write([progress(&other, 2 * MAX_CHUNK), Action::Hang])
        .on_write(place.resume_actions(0));
    let events = EventLog::default();
    let upload = server.client().upload(place.source(), "name");
    with_timeout(upload.on_event(events.listener()).into_future())
        .await
        .unwrap();
    place.assert_sent(&server);
    let script = server.script();
    assert_eq!(script.aborts, [script.opens[0].upload_id.clone()]);
    assert_eq!(
        events.entries(),
        [
            "started over: the first 2000 bytes on the server are not those of the local file",
            "opened at 0"
        ]
    );
}

#[tokio::test]
async fn upload_longer_on_the_server_than_its_source_restarts() {
    let place = TransferDir::new();
    let longer = vec![1; 20 * MAX_CHUNK];
    let server = ScriptedServer::start().await;
    server
        .on_write([progress(&longer, 20 * MAX_CHUNK)])
        .on_write(place.resume_actions(0));
    let upload = server.client().upload(place.source(), "name");
    with_timeout(upload.into_future()).await.unwrap();
    place.assert_sent(&server);
    assert_eq!(server.script().aborts.len(), 1);
}

#[tokio::test]
async fn upload_with_other_parameters_restarts() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let mismatch = failure(Code::FailedPrecondition, "UPLOAD_MISMATCH");
    server
        .on_write([Action::Fail(mismatch)])
        .on_write(place.resume_actions(0));
    let events = EventLog::default();
    let client = server.client_without_retries();
    let upload = client.upload(place.source(), "name");
    with_timeout(upload.on_event(events.listener()).into_future())
        .await
        .unwrap();
    assert_eq!(server.script().aborts.len(), 1);
    assert_eq!(
        events.entries(),
        [
            "started over: an earlier run sent another version of the local file",
            "opened at 0"
        ]
    );
}

#[tokio::test]
async fn upload_that_fails_the_final_check_restarts_boundedly() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    for _ in 0..10 {
        server.on_write([
            progress(&place.content, 0),
            Action::ReceiveAll,
            Action::Fail(failure(Code::InvalidArgument, "CHECKSUM_MISMATCH")),
        ]);
    }
    let upload = server.client().upload(place.source(), "name");
    assert_retries_exhausted(with_timeout(upload.into_future()).await, 4);
    assert_eq!(server.script().opens.len(), 4);
}

#[tokio::test]
async fn superseded_upload_is_not_retried() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let superseded = failure(Code::Aborted, "SUPERSEDED");
    server.on_write([
        progress(&place.content, 0),
        Action::ReceiveChunks(1),
        Action::Fail(superseded),
    ]);
    let upload = server.client().upload(place.source(), "name");
    let result = with_timeout(upload.into_future()).await;
    assert_failure(result, Code::Aborted, "SUPERSEDED");
    assert_eq!(server.script().opens.len(), 1);
}

#[tokio::test]
async fn upload_without_progress_exhausts_its_retries() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    for _ in 0..10 {
        server.on_write([
            progress(&place.content, MAX_CHUNK),
            Action::ReceiveChunks(2),
            Action::Fail(connection_lost()),
        ]);
    }
    let upload = server.client().upload(place.source(), "name");
    let result = with_timeout(upload.into_future()).await;
    assert_eq!(result.as_ref().unwrap_err().code(), Some(Code::Unavailable));
    // The first attempt made progress, and so does not count.
    assert_retries_exhausted(result, 4);
    assert_eq!(server.script().opens.len(), 4);
}

#[tokio::test]
async fn upload_with_progress_keeps_retrying() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    for round in 0..9 {
        server.on_write([
            progress(&place.content, round * MAX_CHUNK),
            Action::ReceiveChunks(1),
            Action::Fail(failure(Code::Aborted, "CHUNK_CORRUPT")),
        ]);
    }
    server.on_write(place.resume_actions(9 * MAX_CHUNK));
    let upload = server.client().upload(place.source(), "name");
    with_timeout(upload.into_future()).await.unwrap();
    place.assert_sent(&server);
}

#[tokio::test]
async fn busy_server_is_retried_only_with_retry_info() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server.on_write([Action::Fail(failure(Code::ResourceExhausted, "DISK_FULL"))]);
    let upload = || server.client().upload(place.source(), "name").into_future();
    let result = with_timeout(upload()).await;
    assert_failure(result, Code::ResourceExhausted, "DISK_FULL");

    let delay = Duration::from_millis(30);
    let details = ErrorDetails::with_retry_info(Some(delay));
    let busy = Status::with_error_details(Code::ResourceExhausted, "scripted", details);
    server
        .on_write([Action::Fail(busy)])
        .on_write(place.resume_actions(0));
    let before = std::time::Instant::now();
    with_timeout(upload()).await.unwrap();
    assert!(before.elapsed() >= delay);
}

#[tokio::test]
async fn upload_with_a_lost_final_answer_succeeds() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server
        .on_write([
            progress(&place.content, 0),
            Action::ReceiveAll,
            Action::Fail(connection_lost()),
        ])
        .on_write([commit(place.info())]);
    let upload = server.client().upload(place.source(), "name");
    assert_eq!(
        with_timeout(upload.into_future()).await.unwrap(),
        place.info()
    );
}

#[tokio::test]
async fn file_committed_by_an_earlier_run_is_not_resent() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server.on_write([commit(place.info())]);
    server.script().stats.push_back(Ok(place.info()));
    let events = EventLog::default();
    let upload = server.client().upload(place.source(), "name");
    with_timeout(upload.on_event(events.listener()).into_future())
        .await
        .unwrap();
    assert_eq!(events.entries(), ["already there"]);
}

#[tokio::test]
async fn file_replaced_or_removed_since_is_resent() {
    let place = TransferDir::new();
    for now in [Ok(info(b"", "other")), Err(Status::not_found(""))] {
        let server = ScriptedServer::start().await;
        server.script().stats.push_back(now);
        server
            .on_write([commit(place.info())])
            .on_write(place.resume_actions(0));
        assert_starts_over(
            &place,
            &server,
            "the file was uploaded before, and was replaced or removed on the server since",
        )
        .await;
    }
}

/// Size and times of a file do not prove what an earlier run has sent.
#[tokio::test]
async fn file_without_the_checksum_of_its_source_is_resent() {
    let place = TransferDir::new();
    let mut changed = place.content.clone();
    changed[0] ^= 1;
    let longer = [&place.content[..], b"1"].concat();
    let other = "an earlier run sent another version of the local file";
    let unknown = FileInfo {
        crc32c: None,
        ..place.info()
    };
    let cases = [
        (info(&changed, "etag"), other),
        (info(&longer, "etag"), other),
        (
            unknown,
            "the server does not know the checksum of the file that was uploaded before",
        ),
    ];
    for (committed, reason) in cases {
        let server = ScriptedServer::start().await;
        server.script().stats.push_back(Ok(committed.clone()));
        server
            .on_write([commit(committed)])
            .on_write(place.resume_actions(0));
        assert_starts_over(&place, &server, reason).await;
    }
}

/// Runs an upload without retries, which discards what an earlier run has left, and continues with the same id.
async fn assert_starts_over(place: &TransferDir, server: &ScriptedServer, reason: &str) {
    let events = EventLog::default();
    let client = server.client_without_retries();
    let upload = client.upload(place.source(), "name");
    let sent = with_timeout(upload.on_event(events.listener()).into_future()).await;
    assert_eq!(sent.unwrap(), place.info());
    place.assert_sent(server);
    assert_eq!(
        events.entries(),
        [format!("started over: {reason}"), "opened at 0".to_owned()]
    );
    let script = server.script();
    let ids: Vec<_> = script.opens.iter().map(|open| &open.upload_id).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(script.aborts, [ids[0].as_str()]);
}

#[tokio::test]
async fn result_that_the_server_keeps_does_not_stop_an_upload() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let gone = || Err(Status::not_found(""));
    server.script().stats.extend([gone(), gone()]);
    server
        .on_write([commit(place.info())])
        .on_write([commit(place.info())])
        .on_write(place.resume_actions(0));
    let client = server.client_without_retries();
    let upload = client.upload(place.source(), "name");
    with_timeout(upload.into_future()).await.unwrap();
    place.assert_sent(&server);
    let opens = server.script().opens.clone();
    assert_eq!(opens[0].upload_id, opens[1].upload_id);
    assert_ne!(opens[0].upload_id, opens[2].upload_id);
}

#[tokio::test]
async fn server_that_only_tells_results_ends_the_upload() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    for _ in 0..20 {
        server.script().stats.push_back(Err(Status::not_found("")));
        server.on_write([commit(place.info())]);
    }
    let upload = server.client().upload(place.source(), "name");
    assert_retries_exhausted(with_timeout(upload.into_future()).await, 4);
    // Two for what may have been there before, and the four of the client.
    assert_eq!(server.script().opens.len(), 6);
}

#[tokio::test]
async fn committed_file_that_was_not_sent_is_damage() {
    let place = TransferDir::new();
    let mut changed = place.content.clone();
    changed[0] ^= 1;
    for committed in [info(&changed, "etag"), info(&changed[1..], "etag")] {
        let server = ScriptedServer::start().await;
        server.on_write([
            progress(&place.content, 0),
            Action::ReceiveAll,
            commit(committed),
        ]);
        let upload = server.client().upload(place.source(), "name");
        let error = with_timeout(upload.into_future()).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::DataLoss), "{error}");
        assert_eq!(server.script().opens.len(), 1);
    }
}

#[tokio::test]
async fn committed_file_without_a_checksum_is_accepted_after_finish() {
    let place = TransferDir::new();
    let committed = FileInfo {
        crc32c: None,
        ..place.info()
    };
    let server = ScriptedServer::start().await;
    server.on_write([
        progress(&place.content, 0),
        Action::ReceiveAll,
        commit(committed.clone()),
    ]);
    let upload = server.client().upload(place.source(), "name");
    let sent = with_timeout(upload.into_future()).await.unwrap();
    assert_eq!(sent, committed);
}

/// A caller that may write only cannot call Stat.
#[tokio::test]
async fn version_on_the_server_is_found_without_the_right_to_read() {
    let place = TransferDir::new();
    let answers = [
        (progress(b"", 0), true),
        (
            Action::Fail(failure(Code::FailedPrecondition, "ETAG_MISMATCH")),
            false,
        ),
    ];
    for (answer, is_there) in answers {
        let server = ScriptedServer::start().await;
        let refused = Err(failure(Code::PermissionDenied, "INSUFFICIENT_SCOPE"));
        server.script().stats.push_back(refused);
        server
            .on_write([commit(place.info())])
            .on_write([answer, Action::Hang])
            .on_write(place.resume_actions(0));
        let events = EventLog::default();
        let upload = server.client().upload(place.source(), "name");
        with_timeout(upload.on_event(events.listener()).into_future())
            .await
            .unwrap();
        let (opens, aborts) = {
            let script = server.script();
            (script.opens.clone(), script.aborts.clone())
        };
        let (upload, question) = (&opens[0], &opens[1]);
        assert_eq!(question.if_etag.as_deref(), Some("etag"));
        assert_ne!(question.upload_id, upload.upload_id);
        if is_there {
            assert_eq!(events.entries(), ["already there"]);
            assert_eq!(aborts, [question.upload_id.as_str()]);
            with_timeout(server.gone.notified()).await;
        } else {
            assert_eq!(opens.len(), 3);
            place.assert_sent(&server);
        }
    }
}

#[tokio::test]
async fn server_error_stops_the_upload_at_once() {
    // Far more bytes than the buffers between the ends hold.
    let place = TransferDir::with(8 * 1024 * 1024);
    let server = ScriptedServer::start().await;
    let full = failure(Code::ResourceExhausted, "DISK_FULL");
    server.on_write([
        progress(&place.content, 0),
        Action::ReceiveChunks(3),
        Action::Fail(full),
    ]);
    let upload = server.client().upload(place.source(), "name");
    let result = with_timeout(upload.into_future()).await;
    assert_failure(result, Code::ResourceExhausted, "DISK_FULL");
}

#[tokio::test]
async fn changing_source_aborts_the_upload() {
    let changes: [fn(&File); 4] = [
        |file| file.set_len(10).unwrap(),
        |file| {
            let end = file.metadata().unwrap().len();
            file.write_all_at(b"more", end).unwrap();
        },
        |file| {
            let later = SystemTime::now() + Duration::from_secs(1);
            file.set_times(FileTimes::new().set_modified(later))
                .unwrap();
        },
        // Another program sets the time back, but the change of the inode cannot be hidden.
        |file| {
            let before = file.metadata().unwrap();
            let times = FileTimes::new().set_modified(before.modified().unwrap());
            let changed = |file: &File| {
                let now = file.metadata().unwrap();
                (now.ctime(), now.ctime_nsec())
            };
            // The clock of the filesystem has to advance.
            while changed(file) == (before.ctime(), before.ctime_nsec()) {
                file.write_all_at(b"changed", 0).unwrap();
                file.set_times(times).unwrap();
            }
        },
    ];
    for change in changes {
        let place = TransferDir::with(64 * MAX_CHUNK);
        let server = ScriptedServer::start().await;
        server.on_write(place.resume_actions(0));
        let source = File::options().write(true).open(place.source()).unwrap();
        let upload = server.client().upload(place.source(), "name");
        let changing = upload.on_event(|event| {
            if matches!(event, Event::Opened { .. }) {
                change(&source);
            }
        });
        let result = with_timeout(changing.into_future()).await;
        assert!(matches!(result, Err(Error::SourceChanged(_))), "{result:?}");
        let script = server.script();
        assert_eq!(script.aborts, [script.opens[0].upload_id.clone()]);
        assert!(script.finishes.is_empty());
    }
}

#[tokio::test]
async fn dropped_upload_resets_its_call() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server.on_write([
        progress(&place.content, 0),
        Action::ReceiveAll,
        Action::Hang,
    ]);
    let client = server.client();
    {
        let upload = client.upload(place.source(), "name").into_future();
        tokio::select! {
            _ = upload => panic!("the server hangs"),
            () = with_timeout(server.hangs.notified()) => {}
        }
    }
    // The client and its connection still exist.
    with_timeout(server.gone.notified()).await;
    drop(client);
}

/// The frames show RST_STREAM and no END_STREAM, which would be a half-close and so a pause.
#[tokio::test]
async fn dropped_upload_does_not_half_close() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; 24]).await.unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        let mut has_ended = false;
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            socket.read_exact(&mut payload).await.unwrap();
            match head[3] {
                SETTINGS if head[4] == 0 => {
                    let ack = frame(SETTINGS, 1, 0, b"");
                    socket.write_all(&ack).await.unwrap();
                }
                HEADERS => {
                    // Status 200 and the content type, by their index in the static table of HPACK.
                    let answer = frame(HEADERS, END_HEADERS, 1, b"\x88\x5f\x10application/grpc");
                    socket.write_all(&answer).await.unwrap();
                }
                DATA => {
                    has_ended |= head[4] & END_STREAM != 0;
                    // A message of 2 bytes: progress with a size of 0.
                    let progress = frame(DATA, 0, 1, b"\0\0\0\0\x02\x0a\0");
                    socket.write_all(&progress).await.unwrap();
                }
                RST_STREAM => return (has_ended, payload),
                _ => {}
            }
        }
    };
    let endpoint = client::endpoint(format!("http://{address}")).unwrap();
    let client = Client::new(endpoint.connect_lazy());
    let dropped = async {
        // This reader never has bytes.
        let (_input, reader) = tokio::io::duplex(1);
        let opened = Notify::new();
        let upload = client
            .upload_from(reader, "name")
            .on_event(|_| opened.notify_one());
        tokio::select! {
            _ = upload.into_future() => panic!("the server never answers"),
            () = opened.notified() => {}
        }
    };
    let ((has_ended, reason), ()) = with_timeout(async { tokio::join!(server, dropped) }).await;
    assert!(!has_ended);
    assert_eq!(reason, CANCEL);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Encodes a frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn source_that_is_not_a_file_is_refused_before_any_call() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    for source in [place.path("missing"), place.folder.path().to_owned()] {
        let upload = server.client().upload(source, "name");
        let error = with_timeout(upload.into_future()).await.unwrap_err();
        assert!(matches!(error, Error::Local { .. }), "{error}");
        assert_eq!(error.code(), None);
    }
    assert!(server.script().opens.is_empty());
}
