//! What uploads leave on the disk is bounded, and a start does not read what is finished.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use muxs::{files::Settings, pb::AbortUploadRequest};
use rustix::process::Signal;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    Program, assert_failure,
    auth::{AUDIENCE, ISSUER, KeyFile, sign_for, with_token},
    mount::Mount,
    signing::rsa,
    upload_stream::{FilesClient, UploadStream, abort_upload, count_staged_files, open, start},
    with_timeout,
};

const HELLO: &[u8] = b"hello";

#[tokio::test]
async fn opens_without_a_byte_leave_nothing_on_the_disk() {
    let server = start(Settings {
        max_open_uploads: 4,
        ..Settings::default()
    });
    let mut files = server.files().await;
    for number in 0..3000 {
        let plan = open("a.bin", &format!("id-{number}"), HELLO);
        let mut upload = loop {
            let mut upload = UploadStream::open(&mut files, plan.clone()).await;
            match upload.next_answer().await {
                Ok(_) => break upload,
                // The server may not have seen the end of the streams before.
                Err(busy) => assert_eq!(busy.code(), Code::ResourceExhausted, "{busy:?}"),
            }
        };
        if number % 2 == 0 {
            upload.half_close();
            upload.wait_end().await.unwrap();
        }
    }
    assert!(
        count_staged_files(&server) <= 8,
        "{}",
        count_staged_files(&server)
    );
    let swept = async {
        while count_staged_files(&server) > 0 {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(swept).await;
}

/// Adds results of finished uploads, which are copies of the one that is there.
fn multiply_result(root: &Path, count: usize) {
    let results = root.join(".muxs/results");
    let entry = fs::read_dir(&results).unwrap().next().expect("a result");
    let path = entry.unwrap().path();
    let name = path.file_name().unwrap().to_str().unwrap();
    let record = fs::read_link(&path).unwrap();
    let is_digit = |character: char| character.is_ascii_hexdigit();
    let key = name.split(|character| !is_digit(character));
    let key = key.max_by_key(|part| part.len()).unwrap();
    for number in 0..count {
        let other = format!("{number:0width$x}", width = key.len());
        symlink(&record, results.join(name.replace(key, &other))).unwrap();
    }
}

/// Makes a root with the result of one finished upload.
async fn finish_one(root: &Path) {
    let mut program = Program::start(root).await;
    let mut files = program.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", HELLO)).await;
    upload.chunk(0, HELLO).await;
    upload.finish(HELLO).await;
    upload.wait_committed().await;
    program.signal(Signal::TERM);
    program.wait_end().await;
}

/// Returns the shortest of some starts. Each of them ends by a signal, and for KILL comes after a crash.
async fn time_of_start(root: &Path, end: Signal) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..4 {
        let begun = Instant::now();
        let mut program = Program::start(root).await;
        let time = begun.elapsed();
        program.signal(end);
        program.wait_end().await;
        shortest = shortest.min(time);
    }
    shortest
}

#[tokio::test]
async fn start_does_not_depend_on_the_number_of_finished_uploads() {
    // On a disk, making the links would take minutes.
    let Some(mount) = Mount::tmpfs("size=1g") else {
        return;
    };
    const RESULTS: usize = 100_000;
    let [few, many] = ["few", "many"].map(|name| mount.path().join(name));
    for root in [&few, &many] {
        finish_one(root).await;
    }
    multiply_result(&many, RESULTS);
    for end in [Signal::TERM, Signal::KILL] {
        let time = time_of_start(&many, end).await;
        let of_few = time_of_start(&few, end).await;
        assert!(
            time < 5 * of_few,
            "{time:?} with {RESULTS} results, {of_few:?} with one"
        );
    }
    // The result that is not a copy is still there.
    let program = Program::start(&many).await;
    let mut files = program.files().await;
    let mut again = UploadStream::open(&mut files, open("a.bin", "id", HELLO)).await;
    again.wait_committed().await;
}

/// A server that requires tokens, with few unfinished uploads.
async fn start_bounded(root: &Path, keys: &KeyFile) -> Program {
    let flags = [
        "--max-unfinished-uploads",
        "8",
        "--max-unfinished-uploads-per-owner",
        "4",
        "--auth-issuer",
        ISSUER,
        "--auth-audience",
        AUDIENCE,
        "--auth-jwks",
        keys.path().to_str().unwrap(),
    ];
    Program::start_with(root, &flags).await
}

/// Begins an upload and pauses it after three bytes.
async fn pause(files: &mut FilesClient, token: &str, id: &str) -> Result<(), Status> {
    let mut upload = UploadStream::open_as(files, token, open("a.bin", id, HELLO)).await;
    upload.next_answer().await?;
    upload.chunk(0, b"hel").await;
    upload.half_close();
    upload.wait_persisted(3).await;
    upload.wait_end().await
}

#[track_caller]
fn assert_busy(result: Result<(), Status>) {
    let busy = assert_failure(result, Code::ResourceExhausted, "BUSY");
    assert!(busy.get_details_retry_info().is_some(), "{busy:?}");
}

#[tokio::test]
async fn unfinished_uploads_are_bounded_for_each_owner_and_in_all() {
    let root = tempfile::tempdir().unwrap();
    let keys = KeyFile::new(&[rsa().jwk()]);
    let mut program = start_bounded(root.path(), &keys).await;
    let mut files = program.files().await;
    let [ann, bob, eve] = ["ann", "bob", "eve"].map(sign_for);
    for id in ["1", "2", "3", "4"] {
        pause(&mut files, &ann, id).await.unwrap();
    }
    assert_busy(pause(&mut files, &ann, "5").await);
    // A paused upload needs no further place.
    let mut resumed = UploadStream::open_as(&mut files, &ann, open("a.bin", "1", HELLO)).await;
    assert_eq!(resumed.progress().await.persisted_size, 3);
    resumed.half_close();
    resumed.wait_end().await.unwrap();

    for id in ["1", "2", "3", "4"] {
        pause(&mut files, &bob, id).await.unwrap();
    }
    assert_busy(pause(&mut files, &eve, "1").await);

    // A start counts what is paused.
    program.signal(Signal::TERM);
    program.wait_end().await;
    let mut program = start_bounded(root.path(), &keys).await;
    let mut files = program.files().await;
    assert_busy(pause(&mut files, &eve, "1").await);
    assert_busy(pause(&mut files, &ann, "5").await);
    let abort = AbortUploadRequest {
        filename: "a.bin".to_owned(),
        upload_id: "1".to_owned(),
    };
    files.abort_upload(with_token(&bob, abort)).await.unwrap();
    assert_busy(pause(&mut files, &ann, "5").await);
    pause(&mut files, &eve, "1").await.unwrap();
    assert_busy(pause(&mut files, &eve, "2").await);

    // So does one after a crash. A finished upload makes room.
    program.signal(Signal::KILL);
    program.wait_end().await;
    let program = start_bounded(root.path(), &keys).await;
    let mut files = program.files().await;
    assert_busy(pause(&mut files, &eve, "2").await);
    let mut upload = UploadStream::open_as(&mut files, &ann, open("a.bin", "1", HELLO)).await;
    upload.progress().await;
    upload.chunk(3, b"lo").await;
    upload.finish(HELLO).await;
    upload.wait_committed().await;
    pause(&mut files, &eve, "2").await.unwrap();
    assert_busy(pause(&mut files, &ann, "5").await);
}

#[tokio::test]
async fn open_uploads_count_as_unfinished_ones() {
    let root = tempfile::tempdir().unwrap();
    let flags = [
        "--max-unfinished-uploads",
        "2",
        "--max-unfinished-uploads-per-owner",
        "2",
    ];
    let program = Program::start_with(root.path(), &flags).await;
    let mut files = program.files().await;
    let mut uploads = Vec::new();
    for id in ["1", "2"] {
        let mut upload = UploadStream::open(&mut files, open("a.bin", id, HELLO)).await;
        upload.progress().await;
        uploads.push(upload);
    }
    let mut third = UploadStream::open(&mut files, open("a.bin", "3", HELLO)).await;
    assert_busy(third.wait_end().await);
    abort_upload(&mut files, "a.bin", "1").await.unwrap();
    let mut third = UploadStream::open(&mut files, open("a.bin", "3", HELLO)).await;
    third.progress().await;
}
