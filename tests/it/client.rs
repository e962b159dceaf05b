//! The transfer client against a scripted server: whatever goes wrong, it ends with the same bytes
//! or a clear reason.

use std::{
    fs::{self, File, FileTimes},
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use muxs::{
    client::{self, Client, Error, Event, Retry},
    pb::FileInfo,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    fake::{Act, Fake, PIECE, Part, chunk, committed, crc32c, failure, has, info, lost, rest},
    support::bounded,
};

/// A folder with a file to send, and a place to receive one.
struct Place {
    folder: TempDir,
    content: Vec<u8>,
}

impl Place {
    /// With so many bytes that they are a chunk short of ten, in the last of them.
    fn new() -> Self {
        Self::with(9 * PIECE + 500)
    }

    fn with(size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..size).map(|at| (at * at / 7 + at) as u8).collect();
        fs::write(folder.path().join("source"), &content).unwrap();
        Self { folder, content }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> PathBuf {
        self.path("source")
    }

    fn target(&self) -> PathBuf {
        self.path("target")
    }

    /// The server's view of the file, once it has it.
    fn info(&self) -> FileInfo {
        info(&self.content, "etag")
    }

    /// The rest of an upload that goes well.
    fn succeeds(&self) -> [Act; 2] {
        [Act::TakeToFinish, committed(self.info())]
    }

    /// How an upload goes well that continues at `offset`.
    fn continues_at(&self, offset: usize) -> Vec<Act> {
        let [take, commit] = self.succeeds();
        vec![has(&self.content, offset), take, commit]
    }

    #[track_caller]
    fn assert_received(&self) {
        assert!(fs::read(self.target()).unwrap() == self.content);
        let mut left = names(&self.folder);
        left.retain(|name| !["source", "target"].contains(&name.as_str()));
        assert!(left.is_empty(), "{left:?}");
    }

    #[track_caller]
    fn assert_sent(&self, fake: &Fake) {
        assert!(fake.content() == self.content);
        let finish = *fake.script().finishes.last().unwrap();
        assert_eq!(finish.size, self.content.len() as u64);
        assert_eq!(finish.crc32c, Some(crc32c(&self.content)));
    }
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// What was told, in words: all but how far it advanced.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn listener(&self) -> impl FnMut(Event) + Send + use<> {
        let told = self.clone();
        move |event| {
            let word = match event {
                Event::Opened { offset, .. } => format!("opened at {offset}"),
                Event::StartedOver { reason } => format!("started over: {reason}"),
                Event::Retrying { error, .. } => format!("retrying: {error}"),
                Event::AlreadyThere => "already there".to_owned(),
                _ => return,
            };
            told.0.lock().unwrap().push(word);
        }
    }

    fn words(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[track_caller]
fn assert_failure(result: Result<FileInfo, Error>, code: Code, reason: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    assert_eq!(error.reason().as_deref(), Some(reason), "{error}");
    assert!(!matches!(error, Error::GaveUp { .. }), "{error}");
}

#[track_caller]
fn assert_gave_up(result: Result<FileInfo, Error>, after: usize) {
    match result.unwrap_err() {
        Error::GaveUp { attempts, .. } => assert_eq!(attempts, after),
        error => panic!("{error}"),
    }
}

// Uploads

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

// Uploads from a reader

#[tokio::test]
async fn a_reader_is_sent_to_its_end_without_a_size() {
    for size in [0, 1, PIECE, 9 * PIECE + 1] {
        let place = Place::with(size);
        let fake = Fake::start().await;
        fake.on_write(place.continues_at(0));
        let reader = place.content.as_slice();
        bounded(fake.client().upload_from(reader, "name").into_future())
            .await
            .unwrap();
        place.assert_sent(&fake);
        assert_eq!(fake.script().opens[0].size, None);
    }
}

#[tokio::test]
async fn a_reader_is_sent_across_cuts() {
    let place = Place::new();
    let fake = Fake::start().await;
    let full = &place.content;
    fake.on_write([has(full, 0), Act::Take(5), Act::Fail(lost())])
        .on_write([
            has(full, 2500),
            Act::Take(2),
            has(full, 3600),
            Act::Fail(lost()),
        ])
        .on_write(place.continues_at(3600));
    let reader = full.as_slice();
    bounded(fake.client().upload_from(reader, "name").into_future())
        .await
        .unwrap();
    place.assert_sent(&fake);
}

#[tokio::test]
async fn a_reader_of_which_the_server_lost_what_was_durable_fails() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_write([
        has(&place.content, 0),
        Act::Take(5),
        has(&place.content, 3 * PIECE),
        Act::Take(3),
        Act::Fail(lost()),
    ])
    .on_write(place.continues_at(0));
    let reader = place.content.as_slice();
    let upload = fake.client().upload_from(reader, "name").into_future();
    let result = bounded(upload).await;
    assert!(
        matches!(result, Err(Error::CannotRewind { offset: 0 })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_reader_that_fails_discards_its_upload() {
    let fake = Fake::start().await;
    fake.on_write([has(b"", 0), Act::TakeToFinish]);
    let reader = broken_reader();
    let result = bounded(fake.client().upload_from(reader, "name").into_future()).await;
    assert!(matches!(result, Err(Error::Stream { .. })), "{result:?}");
    assert_eq!(fake.script().aborts.len(), 1);
}

/// Gives some bytes and then an error.
fn broken_reader() -> impl tokio::io::AsyncRead + Send + Unpin {
    struct Broken;
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::Error::other("scripted")))
        }
    }
    AsyncReadExt::chain(&b"some"[..], Broken)
}

// Downloads

#[tokio::test]
async fn a_download_has_the_bytes_and_leaves_nothing_else() {
    for size in [0, 1, PIECE, 9 * PIECE + 1] {
        let place = Place::with(size);
        let fake = Fake::start().await;
        fake.on_read(rest(&place.content, "etag", 0));
        let download = fake.client().download("name", place.target());
        let received = bounded(download.into_future()).await.unwrap();
        assert_eq!(received, place.info());
        place.assert_received();
    }
}

#[tokio::test]
async fn a_download_refuses_chunks_that_are_not_right_and_goes_on_from_the_last_that_was() {
    let place = Place::new();
    let right = chunk(&place.content, 2 * PIECE);
    let mut damaged = right.clone();
    damaged.crc32c = Some(right.crc32c.unwrap() ^ 1);
    let mut unchecked = right.clone();
    unchecked.crc32c = None;
    let mut behind = right.clone();
    behind.offset -= 1;
    let mut ahead = right.clone();
    ahead.offset += 1;
    let mut beyond = right.clone();
    beyond.data = vec![0; 10 * PIECE].into();
    beyond.crc32c = Some(crc32c(&beyond.data));
    for wrong in [damaged, unchecked, behind, ahead, beyond] {
        let _ = fs::remove_file(place.target());
        let fake = Fake::start().await;
        let mut parts = rest(&place.content, "etag", 0);
        parts[3] = Part::Chunk(wrong);
        fake.on_read(parts)
            .on_read(rest(&place.content, "etag", 2 * PIECE));
        let download = fake.client().download("name", place.target());
        bounded(download.into_future()).await.unwrap();
        place.assert_received();
        let again = fake.script().read_requests[1].clone();
        assert_eq!(again.offset, 2 * PIECE as u64);
        assert_eq!(again.if_etag, "etag");
    }
}

#[tokio::test]
async fn a_download_that_ends_early_goes_on() {
    let place = Place::new();
    let fake = Fake::start().await;
    let mut parts = rest(&place.content, "etag", 0);
    parts.truncate(4);
    let mut cut = rest(&place.content, "etag", 3 * PIECE);
    cut.truncate(2);
    cut.push(Part::Fail(lost()));
    fake.on_read(parts)
        .on_read(cut)
        .on_read(rest(&place.content, "etag", 4 * PIECE));
    let download = fake.client().download("name", place.target());
    bounded(download.into_future()).await.unwrap();
    place.assert_received();
}

#[tokio::test]
async fn a_download_starts_over_when_the_file_changed() {
    let place = Place::new();
    let reasons = [
        (Code::FailedPrecondition, "ETAG_MISMATCH"),
        (Code::OutOfRange, "OFFSET_BEYOND_END"),
        (Code::Aborted, "FILE_CHANGED"),
    ];
    for (code, reason) in reasons {
        let _ = fs::remove_file(place.target());
        let fake = Fake::start().await;
        let mut old = rest(&vec![1; 20 * PIECE], "old", 0);
        old.truncate(15);
        old.push(Part::Fail(lost()));
        fake.on_read(old)
            .on_read([Part::Fail(failure(code, reason))])
            .on_read(rest(&place.content, "etag", 0));
        let told = Told::default();
        let download = fake.client().download("name", place.target());
        bounded(download.on_event(told.listener()).into_future())
            .await
            .unwrap();
        place.assert_received();
        assert!(
            told.words()[2].starts_with("started over:"),
            "{told:?}",
            told = told.words()
        );
        let requests = fake.script().read_requests.clone();
        assert_eq!(requests[1].offset, 14 * PIECE as u64);
        assert_eq!(requests[1].if_etag, "old");
        assert_eq!((requests[2].offset, requests[2].if_etag.as_str()), (0, ""));
    }
}

/// A server that takes no notice of `if_etag` mixes no versions either.
#[tokio::test]
async fn a_download_never_goes_on_with_another_version() {
    let place = Place::new();
    let fake = Fake::start().await;
    let mut old = rest(&vec![1; 20 * PIECE], "old", 0);
    old.truncate(4);
    old.push(Part::Fail(lost()));
    fake.on_read(old)
        .on_read(rest(&place.content, "etag", 3 * PIECE))
        .on_read(rest(&place.content, "etag", 0));
    let download = fake.client().download("name", place.target());
    bounded(download.into_future()).await.unwrap();
    place.assert_received();
}

#[tokio::test]
async fn a_download_that_gives_up_is_continued_by_the_next() {
    let place = Place::new();
    let fake = Fake::start().await;
    let mut cut = rest(&place.content, "etag", 0);
    cut.truncate(6);
    cut.push(Part::Fail(failure(Code::PermissionDenied, "OUTSIDE_ROOT")));
    fake.on_read(cut)
        .on_read(rest(&place.content, "etag", 5 * PIECE));
    let download = || fake.client().download("name", place.target()).into_future();
    let result = bounded(download()).await;
    assert_failure(result, Code::PermissionDenied, "OUTSIDE_ROOT");
    assert!(!place.target().exists());
    bounded(download()).await.unwrap();
    place.assert_received();
    let requests = fake.script().read_requests.clone();
    assert_eq!(requests[1].offset, 5 * PIECE as u64);
    assert_eq!(requests[1].if_etag, "etag");
}

#[tokio::test]
async fn a_part_that_was_damaged_or_is_of_another_file_is_not_continued() {
    let spoil: [fn(&Place); 4] = [
        |place| fs::write(place.path("target.part"), vec![3; 5 * PIECE]).unwrap(),
        |place| fs::write(place.path("target.part"), b"short").unwrap(),
        |place| fs::remove_file(place.path("target.part.json")).unwrap(),
        |place| fs::write(place.path("target.part.json"), b"{").unwrap(),
    ];
    for spoil in spoil {
        let place = Place::new();
        let fake = Fake::start().await;
        let mut cut = rest(&place.content, "etag", 0);
        cut.truncate(6);
        cut.push(Part::Fail(Status::permission_denied("")));
        fake.on_read(cut).on_read(rest(&place.content, "etag", 0));
        let download = || fake.client().download("name", place.target()).into_future();
        bounded(download()).await.unwrap_err();
        spoil(&place);
        bounded(download()).await.unwrap();
        place.assert_received();
        assert_eq!(fake.script().read_requests[1].offset, 0);
    }
}

#[tokio::test]
async fn a_part_of_another_remote_file_is_not_continued() {
    let place = Place::new();
    let fake = Fake::start().await;
    let mut cut = rest(&vec![1; 9 * PIECE], "etag", 0);
    cut.truncate(6);
    cut.push(Part::Fail(Status::permission_denied("")));
    fake.on_read(cut).on_read(rest(&place.content, "etag", 0));
    let client = fake.client();
    let other = client.download("other", place.target());
    bounded(other.into_future()).await.unwrap_err();
    let download = client.download("name", place.target());
    bounded(download.into_future()).await.unwrap();
    place.assert_received();
}

#[tokio::test]
async fn two_downloads_do_not_mix() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_read([Part::Info(place.info()), Part::Hang]);
    let client = fake.client();
    let first = client.download("name", place.target()).into_future();
    let second = async {
        fake.hangs.notified().await;
        client.download("name", place.target()).await
    };
    tokio::select! {
        _ = first => panic!("the server hangs"),
        result = bounded(second) => {
            assert!(matches!(result, Err(Error::InUse(_))), "{result:?}");
        }
    }
    // The lock went with the first.
    fake.on_read(rest(&place.content, "etag", 0));
    let download = client.download("name", place.target());
    bounded(download.into_future()).await.unwrap();
    place.assert_received();
}

#[tokio::test]
async fn a_download_that_is_dropped_resets_its_call() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_read([Part::Info(place.info()), Part::Hang]);
    let client = fake.client();
    {
        let download = client.download("name", place.target()).into_future();
        tokio::select! {
            _ = download => panic!("the server hangs"),
            () = bounded(fake.hangs.notified()) => {}
        }
    }
    bounded(fake.gone.notified()).await;
    drop(client);
}

#[tokio::test]
async fn a_target_that_cannot_be_written_is_a_local_failure() {
    let place = Place::new();
    let fake = Fake::start().await;
    let targets = [place.path("missing/target"), place.folder.path().to_owned()];
    for target in targets {
        fake.on_read(rest(&place.content, "etag", 0));
        let download = fake.client().download("name", target);
        let error = bounded(download.into_future()).await.unwrap_err();
        assert!(matches!(error, Error::Local { .. }), "{error}");
        assert_eq!(error.code(), None);
    }
    assert!(fake.script().read_requests.is_empty());
}

#[tokio::test]
async fn a_failure_that_will_not_pass_is_not_tried_again() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_read([Part::Fail(failure(Code::NotFound, "NOT_FOUND"))]);
    let download = fake.client().download("name", place.target());
    let result = bounded(download.into_future()).await;
    assert_failure(result, Code::NotFound, "NOT_FOUND");
    assert_eq!(fake.script().read_requests.len(), 1);
    assert_eq!(names(&place.folder), ["source"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_given_up_on() {
    let place = Place::new();
    let nobody = client::endpoint("http://127.0.0.1:1").unwrap();
    let nobody = Client::new(nobody.connect_lazy()).retry(Retry {
        attempts: 3,
        min_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(1),
    });
    let result = bounded(nobody.download("name", place.target()).into_future()).await;
    let error = result.as_ref().unwrap_err();
    assert_eq!(error.code(), Some(Code::Unavailable));
    assert_eq!(
        error.to_string(),
        "gave up after 3 attempts: the server cannot be reached: Connection refused (os error 111)"
    );
    assert_gave_up(result, 3);
}

// Downloads to a writer

#[tokio::test]
async fn a_writer_gets_the_bytes_across_a_cut() {
    let place = Place::new();
    let fake = Fake::start().await;
    let mut cut = rest(&place.content, "etag", 0);
    cut.truncate(4);
    cut.push(Part::Fail(lost()));
    fake.on_read(cut)
        .on_read(rest(&place.content, "etag", 3 * PIECE));
    let mut received = Vec::new();
    let download = fake.client().download_to("name", &mut received);
    bounded(download.into_future()).await.unwrap();
    assert!(received == place.content);
}

#[tokio::test]
async fn a_writer_gets_no_mixture_of_versions() {
    let place = Place::new();
    let reasons = [
        (Code::FailedPrecondition, "ETAG_MISMATCH"),
        (Code::Aborted, "FILE_CHANGED"),
    ];
    for (code, reason) in reasons {
        let fake = Fake::start().await;
        let mut cut = rest(&place.content, "etag", 0);
        cut.truncate(4);
        cut.push(Part::Fail(lost()));
        fake.on_read(cut)
            .on_read([Part::Fail(failure(code, reason))]);
        let mut received = Vec::new();
        let download = fake.client().download_to("name", &mut received);
        assert_failure(bounded(download.into_future()).await, code, reason);
        assert_eq!(fake.script().read_requests.len(), 2);
        assert!(received == place.content[..3 * PIECE]);
    }
}
