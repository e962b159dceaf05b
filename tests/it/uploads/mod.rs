//! WriteStream and AbortUpload, rule by rule.

mod chunks;
mod finishing;
mod opening;
mod recovering;

use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, SystemTime},
};

use muxs::{
    files::Settings,
    pb::{AbortUploadRequest, OpenUpload, StatRequest, WriteStreamResponse},
};
use tonic::{Code, Response, Status, Streaming};

use crate::{
    streams::{Files, Upload, content, crc32c, get, open, put, whole},
    support::{TestServer, assert_failure, bounded, tree},
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

/// Waits for the end of a call whose answers do not matter.
async fn drained(answers: Response<Streaming<WriteStreamResponse>>) -> Result<(), Status> {
    let mut answers = answers.into_inner();
    while bounded(answers.message()).await?.is_some() {}
    Ok(())
}

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
async fn whoever_opens_an_upload_renews_its_time() {
    let server = eager();
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    upload.persisted(3).await;
    upload.half_close();
    upload.ended().await.unwrap();
    let staged = tree(&server.path(".muxs/uploads")).into_keys();
    let mut journals = staged.filter(|path| path.extension().is_some_and(|name| name == "journal"));
    let journal = fs::File::options()
        .write(true)
        .open(journals.next().unwrap());
    let journal = journal.unwrap();
    let almost_a_day_ago = SystemTime::now() - Duration::from_secs(23 * 60 * 60);
    journal.set_modified(almost_a_day_ago).unwrap();
    let mut upload = Upload::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.progress().await;
    let cared_for = journal.metadata().unwrap().modified().unwrap();
    assert!(cared_for.elapsed().unwrap() < Duration::from_secs(60 * 60));
}

/// A crash can leave more bytes than are sure: none of them gets into the file.
#[tokio::test]
async fn bytes_behind_the_durable_ones_do_not_count() {
    let mut server = eager();
    let mut files = server.files().await;
    let plan = OpenUpload {
        size: None,
        ..open("a.bin", "id", b"")
    };
    let mut upload = Upload::open(&mut files, plan.clone()).await;
    upload.chunk(0, b"hel").await;
    upload.persisted(3).await;
    server.stop();
    server.stopped().await;
    let root = server.into_root();
    for path in tree(&root.path().join(".muxs/uploads")).into_keys() {
        let mut file = fs::File::options().append(true).open(path).unwrap();
        file.write_all(b"whatever came after that").unwrap();
    }
    let server = TestServer::serve(root, Settings::default(), |_| {});
    let mut files = server.files().await;
    let mut upload = Upload::open(&mut files, plan.clone()).await;
    assert_eq!(upload.progress().await.persisted_size, 3);
    upload.chunk(3, b"lo").await;
    upload.half_close();
    upload.persisted(5).await;
    let mut upload = Upload::open(&mut files, plan).await;
    assert_eq!(upload.progress().await.persisted_size, 5);
    upload.finish(b"hello").await;
    upload.committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
}

/// Whatever is wrong with it, who opens it can begin again.
#[tokio::test]
async fn an_upload_that_is_damaged_begins_again() {
    type Damage = fn(&Path);
    let missing: Damage = |path| fs::remove_file(path).unwrap();
    let empty: Damage = |path| fs::write(path, "").unwrap();
    let noise: Damage = |path| fs::write(path, "x\n").unwrap();
    let folder: Damage = |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir_all(path.join("in/it")).unwrap();
    };
    let server = eager();
    let mut files = server.files().await;
    for (round, damage) in [missing, empty, noise, folder].into_iter().enumerate() {
        for file in ["data", "journal"] {
            let id = format!("{round}-{file}");
            let mut upload = Upload::open(&mut files, open("a.bin", &id, b"hello")).await;
            upload.chunk(0, b"hel").await;
            upload.persisted(3).await;
            upload.half_close();
            upload.ended().await.unwrap();
            for path in tree(&server.path(".muxs/uploads")).into_keys() {
                let with_data = path.with_extension("data").exists();
                if with_data && path.extension().is_some_and(|name| name == file) {
                    damage(&path);
                }
            }
            let mut upload = Upload::open(&mut files, open("a.bin", &id, b"hello")).await;
            assert_eq!(upload.progress().await.persisted_size, 0, "{id}");
            upload.chunk(0, b"hello").await;
            upload.finish(b"hello").await;
            upload.committed().await;
        }
    }
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

#[tokio::test]
async fn uploads_can_be_kept_for_ever() {
    let server = start(Settings {
        upload_ttl: Duration::MAX,
        ..Settings::default()
    });
    let mut files = server.files().await;
    put(&mut files, "a.bin", b"hello").await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
}
