//! Uploads of files.

use std::{
    fs::{File, FileTimes},
    io::Write,
    time::{Duration, SystemTime},
};

use muxs::client::{self, Client, Error, Event};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Place, Told, assert_failure, assert_gave_up};
use crate::{
    fake::{Act, Fake, PIECE, committed, crc32c, failure, has, info, lost},
    support::bounded,
};

#[tokio::test]
async fn an_upload_sends_checked_chunks_and_finishes_with_the_checksum_of_all() {
    for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 9 * PIECE] {
        let place = Place::with(size);
        let fake = Fake::start().await;
        fake.on_write(place.continues_at(0));
        let sent = bounded(fake.client().upload(place.source(), "a/b/c").into_future()).await;
        assert_eq!(sent.unwrap(), place.info());
        place.assert_sent(&fake);
        let open = fake.script().opens[0].clone();
        assert_eq!(open.filename, "a/b/c");
        assert_eq!(open.size, Some(size as u64));
        assert_eq!(open.if_etag, None);
    }
}

#[tokio::test]
async fn the_same_upload_has_the_same_id_and_any_other_another() {
    let place = Place::new();
    let fake = Fake::start().await;
    let client = fake.client();
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
        fake.on_write(place.continues_at(0));
        bounded(upload.into_future()).await.unwrap();
    }
    let source = File::options().append(true).open(place.source()).unwrap();
    let later = SystemTime::now() + Duration::from_secs(1);
    source
        .set_times(FileTimes::new().set_modified(later))
        .unwrap();
    fake.on_write(place.continues_at(0));
    bounded(upload().into_future()).await.unwrap();

    let opens = fake.script().opens.clone();
    let ids: Vec<_> = opens.iter().map(|open| &open.upload_id).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2]);
    let different: std::collections::BTreeSet<_> = ids[2..].iter().collect();
    assert_eq!(different.len(), 5);
    assert!(ids.iter().all(|id| (1..=128).contains(&id.len())));
    assert_eq!(opens[4].if_etag.as_deref(), Some(""));
    assert_eq!(opens[5].if_etag.as_deref(), Some("x"));
}

#[tokio::test]
async fn an_upload_continues_where_an_earlier_run_ended() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_write(place.continues_at(3333));
    let told = Told::default();
    let upload = fake.client().upload(place.source(), "name");
    bounded(upload.on_event(told.listener()).into_future())
        .await
        .unwrap();
    assert_eq!(told.words(), ["opened at 3333"]);
    assert_eq!(fake.script().chunks[0][0].offset, 3333);
    assert_eq!(
        fake.script().finishes[0].crc32c,
        Some(crc32c(&place.content))
    );
}

#[tokio::test]
async fn an_upload_continues_after_a_cut_at_what_is_durable() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_write([has(&place.content, 0), Act::Take(5), Act::Fail(lost())])
        .on_write(place.continues_at(2 * PIECE + 7));
    let upload = fake.client().upload(place.source(), "name");
    bounded(upload.into_future()).await.unwrap();
    place.assert_sent(&fake);
    let opens = fake.script().opens.clone();
    assert_eq!(opens[0], opens[1]);
}

#[tokio::test]
async fn an_upload_whose_prefix_differs_is_aborted_and_starts_over() {
    let place = Place::new();
    let other = vec![1; 2 * PIECE];
    let fake = Fake::start().await;
    fake.on_write([has(&other, 2 * PIECE), Act::Hang])
        .on_write(place.continues_at(0));
    let told = Told::default();
    let upload = fake.client().upload(place.source(), "name");
    bounded(upload.on_event(told.listener()).into_future())
        .await
        .unwrap();
    place.assert_sent(&fake);
    let script = fake.script();
    assert_eq!(script.aborts, [script.opens[0].upload_id.clone()]);
    assert_eq!(
        told.words(),
        [
            "started over: the first 2000 bytes on the server are not those of the local file",
            "opened at 0"
        ]
    );
}

#[tokio::test]
async fn an_upload_of_which_the_server_has_too_much_starts_over() {
    let place = Place::new();
    let longer = vec![1; 20 * PIECE];
    let fake = Fake::start().await;
    fake.on_write([has(&longer, 20 * PIECE)])
        .on_write(place.continues_at(0));
    let upload = fake.client().upload(place.source(), "name");
    bounded(upload.into_future()).await.unwrap();
    place.assert_sent(&fake);
    assert_eq!(fake.script().aborts.len(), 1);
}

#[tokio::test]
async fn an_upload_of_other_parameters_is_aborted_and_starts_over() {
    let place = Place::new();
    let fake = Fake::start().await;
    let mismatch = failure(Code::FailedPrecondition, "UPLOAD_MISMATCH");
    fake.on_write([Act::Fail(mismatch)])
        .on_write(place.continues_at(0));
    let upload = fake.client().upload(place.source(), "name");
    bounded(upload.into_future()).await.unwrap();
    assert_eq!(fake.script().aborts.len(), 1);
}

#[tokio::test]
async fn an_upload_that_fails_the_last_check_starts_over_but_not_for_ever() {
    let place = Place::new();
    let fake = Fake::start().await;
    for _ in 0..10 {
        fake.on_write([
            has(&place.content, 0),
            Act::TakeToFinish,
            Act::Fail(failure(Code::InvalidArgument, "CHECKSUM_MISMATCH")),
        ]);
    }
    let upload = fake.client().upload(place.source(), "name");
    assert_gave_up(bounded(upload.into_future()).await, 4);
    assert_eq!(fake.script().opens.len(), 4);
}

#[tokio::test]
async fn an_upload_that_was_taken_over_is_not_tried_again() {
    let place = Place::new();
    let fake = Fake::start().await;
    let superseded = failure(Code::Aborted, "SUPERSEDED");
    fake.on_write([has(&place.content, 0), Act::Take(1), Act::Fail(superseded)]);
    let upload = fake.client().upload(place.source(), "name");
    let result = bounded(upload.into_future()).await;
    assert_failure(result, Code::Aborted, "SUPERSEDED");
    assert_eq!(fake.script().opens.len(), 1);
}

#[tokio::test]
async fn an_upload_that_gets_nowhere_gives_up_after_its_attempts() {
    let place = Place::new();
    let fake = Fake::start().await;
    for _ in 0..10 {
        fake.on_write([has(&place.content, PIECE), Act::Take(2), Act::Fail(lost())]);
    }
    let upload = fake.client().upload(place.source(), "name");
    let result = bounded(upload.into_future()).await;
    assert_eq!(result.as_ref().unwrap_err().code(), Some(Code::Unavailable));
    // The first of them got to one chunk, and so does not count.
    assert_gave_up(result, 4);
    assert_eq!(fake.script().opens.len(), 4);
}

#[tokio::test]
async fn an_upload_that_gets_further_each_time_goes_on() {
    let place = Place::new();
    let fake = Fake::start().await;
    for round in 0..9 {
        fake.on_write([
            has(&place.content, round * PIECE),
            Act::Take(1),
            Act::Fail(failure(Code::Aborted, "CHUNK_CORRUPT")),
        ]);
    }
    fake.on_write(place.continues_at(9 * PIECE));
    let upload = fake.client().upload(place.source(), "name");
    bounded(upload.into_future()).await.unwrap();
    place.assert_sent(&fake);
}

#[tokio::test]
async fn a_full_server_is_tried_again_only_when_it_says_when() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_write([Act::Fail(failure(Code::ResourceExhausted, "DISK_FULL"))]);
    let upload = || fake.client().upload(place.source(), "name").into_future();
    let result = bounded(upload()).await;
    assert_failure(result, Code::ResourceExhausted, "DISK_FULL");

    let delay = Duration::from_millis(30);
    let details = ErrorDetails::with_retry_info(Some(delay));
    let busy = Status::with_error_details(Code::ResourceExhausted, "scripted", details);
    fake.on_write([Act::Fail(busy)])
        .on_write(place.continues_at(0));
    let before = std::time::Instant::now();
    bounded(upload()).await.unwrap();
    assert!(before.elapsed() >= delay);
}

#[tokio::test]
async fn an_upload_whose_last_answer_was_lost_succeeds() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_write([has(&place.content, 0), Act::TakeToFinish, Act::Fail(lost())])
        .on_write([committed(place.info())]);
    let upload = fake.client().upload(place.source(), "name");
    assert_eq!(bounded(upload.into_future()).await.unwrap(), place.info());
}

#[tokio::test]
async fn a_file_that_is_there_since_an_earlier_run_is_not_sent_again() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_write([committed(place.info())]);
    fake.script().stats.push_back(Ok(place.info()));
    let told = Told::default();
    let upload = fake.client().upload(place.source(), "name");
    bounded(upload.on_event(told.listener()).into_future())
        .await
        .unwrap();
    assert_eq!(told.words(), ["already there"]);
}

#[tokio::test]
async fn a_file_that_was_replaced_or_removed_since_an_earlier_run_is_sent_again() {
    let place = Place::new();
    for now in [Ok(info(b"", "other")), Err(Status::not_found(""))] {
        let fake = Fake::start().await;
        let mut ids = Vec::new();
        // Twice the same, as two runs are: the second continues the upload of the first.
        for _ in 0..2 {
            fake.script().stats.push_back(now.clone());
            fake.on_write([committed(place.info())])
                .on_write(place.continues_at(0));
            let upload = fake.client().upload(place.source(), "name");
            bounded(upload.into_future()).await.unwrap();
            place.assert_sent(&fake);
            ids.push(fake.script().opens.last().unwrap().upload_id.clone());
        }
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[0], fake.script().opens[0].upload_id);
    }
}

#[tokio::test]
async fn an_error_in_the_middle_ends_the_sending_at_once() {
    // Far more than the buffers on the way hold.
    let place = Place::with(8 * 1024 * 1024);
    let fake = Fake::start().await;
    let full = failure(Code::ResourceExhausted, "DISK_FULL");
    fake.on_write([has(&place.content, 0), Act::Take(3), Act::Fail(full)]);
    let upload = fake.client().upload(place.source(), "name");
    let result = bounded(upload.into_future()).await;
    assert_failure(result, Code::ResourceExhausted, "DISK_FULL");
}

#[tokio::test]
async fn a_source_that_changes_while_it_is_sent_is_aborted() {
    let changes: [fn(&File); 3] = [
        |file| file.set_len(10).unwrap(),
        |mut file| file.write_all(b"more").unwrap(),
        |file| {
            let later = SystemTime::now() + Duration::from_secs(1);
            file.set_times(FileTimes::new().set_modified(later))
                .unwrap();
        },
    ];
    for change in changes {
        let place = Place::with(64 * PIECE);
        let fake = Fake::start().await;
        fake.on_write(place.continues_at(0));
        let source = File::options().append(true).open(place.source()).unwrap();
        let upload = fake.client().upload(place.source(), "name");
        let changing = upload.on_event(|event| {
            if matches!(event, Event::Opened { .. }) {
                change(&source);
            }
        });
        let result = bounded(changing.into_future()).await;
        assert!(matches!(result, Err(Error::SourceChanged(_))), "{result:?}");
        let script = fake.script();
        assert_eq!(script.aborts, [script.opens[0].upload_id.clone()]);
        assert!(script.finishes.is_empty());
    }
}

#[tokio::test]
async fn an_upload_that_is_dropped_resets_its_call() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_write([has(&place.content, 0), Act::TakeToFinish, Act::Hang]);
    let client = fake.client();
    {
        let upload = client.upload(place.source(), "name").into_future();
        tokio::select! {
            _ = upload => panic!("the server hangs"),
            () = bounded(fake.hangs.notified()) => {}
        }
    }
    // The client lives on, and so does its connection.
    bounded(fake.gone.notified()).await;
    drop(client);
}

/// As above, seen in the frames of HTTP/2: the requests are reset, and do not just end, which a
/// server would take for a pause on purpose.
#[tokio::test]
async fn an_upload_that_is_dropped_does_not_seem_to_pause() {
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
                    // Status 200 and the content type, by their numbers in HPACK's table.
                    let answer = frame(HEADERS, END_HEADERS, 1, b"\x88\x5f\x10application/grpc");
                    socket.write_all(&answer).await.unwrap();
                }
                DATA => {
                    has_ended |= head[4] & END_STREAM != 0;
                    // A message of 2 bytes: a progress of 0.
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
        // Nothing comes from it.
        let (_input, reader) = tokio::io::duplex(1);
        let opened = Notify::new();
        let upload = client
            .upload_from(reader, "name")
            .on_event(|_| opened.notify_one());
        tokio::select! {
            _ = upload.into_future() => panic!("the server says nothing"),
            () = opened.notified() => {}
        }
    };
    let ((has_ended, reason), ()) = bounded(async { tokio::join!(server, dropped) }).await;
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

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn a_source_that_is_no_file_is_refused_before_any_call() {
    let place = Place::new();
    let fake = Fake::start().await;
    for source in [place.path("missing"), place.folder.path().to_owned()] {
        let upload = fake.client().upload(source, "name");
        let error = bounded(upload.into_future()).await.unwrap_err();
        assert!(matches!(error, Error::Local { .. }), "{error}");
        assert_eq!(error.code(), None);
    }
    assert!(fake.script().opens.is_empty());
}
