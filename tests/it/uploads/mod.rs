//! WriteStream and AbortUpload.

mod bounded_state;
mod broken_uploads;
mod chunks;
mod dead_calls;
mod disk_errors;
mod expiry;
mod finishing;
mod model;
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
    pb::{OpenUpload, StatRequest},
};
use tonic::Code;

use crate::support::{
    TestServer, assert_failure, tree,
    upload_stream::{
        UploadStream, abort_upload, content, count_staged_files, crc32c, get, open, put, start,
        start_checkpointing_every_byte, whole,
    },
    with_timeout,
};

#[tokio::test]
async fn committed_upload_appears_whole_with_its_folders() {
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
        assert_eq!(info.crc32c, Some(crc32c(&content)));
        assert_eq!(
            files.stat(request).await.unwrap().into_inner().etag,
            info.etag
        );
        let (read, bytes) = get(&mut files, whole(&name)).await.unwrap();
        assert_eq!((read.etag, bytes), (info.etag, content));
    }
}

#[tokio::test]
async fn half_close_without_finish_is_a_pause() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::write(server.path("a.bin"), "old").unwrap();
    let content = content(300_000);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    assert_eq!(upload.progress().await.persisted_size, 0);
    upload.chunks(&content[..200_000], 0, 64 * 1024).await;
    upload.half_close();
    let paused = upload.wait_persisted(200_000).await;
    assert_eq!(paused.persisted_crc32c, crc32c(&content[..200_000]));
    assert_eq!(upload.next_answer().await.unwrap(), None);
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"old");

    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    let resumed = upload.progress().await;
    assert_eq!(resumed.persisted_size, paused.persisted_size);
    assert_eq!(resumed.persisted_crc32c, paused.persisted_crc32c);
    upload.chunks(&content, 200_000, 64 * 1024).await;
    upload.finish(&content).await;
    upload.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), content);
}

#[tokio::test]
async fn unfinished_upload_is_invisible() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let content = content(100_000);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    upload.chunks(&content, 0, 10_000).await;
    upload.half_close();
    upload.wait_end().await.unwrap();
    let request = StatRequest {
        filename: "a.bin".into(),
    };
    assert_failure(files.stat(request).await, Code::NotFound, "NOT_FOUND");
    assert!(!server.path("a.bin").exists());
}

#[tokio::test]
async fn aborted_upload_is_removed() {
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    assert_failure(
        abort_upload(&mut files, "a.bin", "id").await,
        Code::NotFound,
        "NOT_FOUND",
    );
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    upload.wait_persisted(3).await;
    abort_upload(&mut files, "a.bin", "id").await.unwrap();
    assert_failure(upload.wait_end().await, Code::Aborted, "SUPERSEDED");
    assert_eq!(count_staged_files(&server), 0);

    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    upload.half_close();
    upload.wait_end().await.unwrap();
    abort_upload(&mut files, "a.bin", "id").await.unwrap();
    assert_eq!(count_staged_files(&server), 0);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    assert_eq!(upload.progress().await.persisted_size, 0);
    assert_failure(
        abort_upload(&mut files, "a.bin", "a b").await,
        Code::InvalidArgument,
        "BAD_REQUEST",
    );
    assert_failure(
        abort_upload(&mut files, "", "id").await,
        Code::InvalidArgument,
        "FILENAME_INVALID",
    );
}

#[tokio::test]
async fn finished_upload_cannot_be_aborted() {
    let server = TestServer::start();
    let mut files = server.files().await;
    put(&mut files, "a.bin", b"hello").await;
    let id = format!("put-{}", crc32c(b"hello"));
    assert_failure(
        abort_upload(&mut files, "a.bin", &id).await,
        Code::NotFound,
        "NOT_FOUND",
    );
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
    // Its result is forgotten, so the id begins another upload.
    let mut again = UploadStream::open(&mut files, open("a.bin", &id, b"hello")).await;
    assert_eq!(again.progress().await.persisted_size, 0);
}

/// Waits until `left` staged files remain.
async fn wait_swept(server: &TestServer, left: usize) {
    with_timeout(async {
        while count_staged_files(server) > left {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn abandoned_upload_expires_and_one_in_use_does_not() {
    let server = start(Settings {
        upload_ttl: Duration::from_secs(1),
        checkpoint_bytes: 1,
        ..Settings::default()
    });
    let mut files = server.files().await;
    let mut in_use = UploadStream::open(&mut files, open("kept.bin", "id", b"hello")).await;
    in_use.chunk(0, b"hel").await;
    in_use.wait_persisted(3).await;
    let mut left = UploadStream::open(&mut files, open("left.bin", "id", b"hello")).await;
    left.chunk(0, b"hel").await;
    left.wait_persisted(3).await;
    put(&mut files, "finished.bin", b"hello").await;
    drop(left);
    // Only the files of the open upload remain.
    wait_swept(&server, 2).await;
    in_use.chunk(3, b"lo").await;
    in_use.finish(b"hello").await;
    in_use.wait_committed().await;
    assert_eq!(fs::read(server.path("kept.bin")).unwrap(), b"hello");
    let mut again = UploadStream::open(&mut files, open("left.bin", "id", b"hello")).await;
    assert_eq!(again.progress().await.persisted_size, 0);
    drop(again);
    drop(in_use);
    wait_swept(&server, 0).await;
    // The result has expired with the upload.
    let mut again = UploadStream::open(
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
async fn opening_an_upload_renews_its_expiry() {
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    upload.wait_persisted(3).await;
    upload.half_close();
    upload.wait_end().await.unwrap();
    let staged = tree(&server.path(".muxs/uploads")).into_keys();
    let mut journals = staged.filter(|path| path.extension().is_some_and(|name| name == "journal"));
    let journal = fs::File::options()
        .write(true)
        .open(journals.next().unwrap());
    let journal = journal.unwrap();
    let almost_a_day_ago = SystemTime::now() - Duration::from_secs(23 * 60 * 60);
    journal.set_modified(almost_a_day_ago).unwrap();
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.progress().await;
    let cared_for = journal.metadata().unwrap().modified().unwrap();
    assert!(cared_for.elapsed().unwrap() < Duration::from_secs(60 * 60));
}

/// A crash can leave bytes that are not durable; they do not get into the file.
#[tokio::test]
async fn bytes_beyond_the_durable_prefix_are_discarded() {
    let mut server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let plan = OpenUpload {
        size: None,
        ..open("a.bin", "id", b"")
    };
    let mut upload = UploadStream::open(&mut files, plan.clone()).await;
    upload.chunk(0, b"hel").await;
    upload.wait_persisted(3).await;
    server.stop();
    server.wait_stopped().await;
    let root = server.into_root();
    for path in tree(&root.path().join(".muxs/uploads")).into_keys() {
        let mut file = fs::File::options().append(true).open(path).unwrap();
        file.write_all(b"whatever came after that").unwrap();
    }
    let server = TestServer::serve(root, Settings::default(), |_| {});
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, plan.clone()).await;
    assert_eq!(upload.progress().await.persisted_size, 3);
    upload.chunk(3, b"lo").await;
    upload.half_close();
    upload.wait_persisted(5).await;
    let mut upload = UploadStream::open(&mut files, plan).await;
    assert_eq!(upload.progress().await.persisted_size, 5);
    upload.finish(b"hello").await;
    upload.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
}

/// A client can restart an upload with any damage.
#[tokio::test]
async fn damaged_upload_restarts() {
    type Damage = fn(&Path);
    let missing: Damage = |path| fs::remove_file(path).unwrap();
    let empty: Damage = |path| fs::write(path, "").unwrap();
    let noise: Damage = |path| fs::write(path, "x\n").unwrap();
    let folder: Damage = |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir_all(path.join("in/it")).unwrap();
    };
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    for (round, damage) in [missing, empty, noise, folder].into_iter().enumerate() {
        for file in ["data", "journal"] {
            let id = format!("{round}-{file}");
            let mut upload = UploadStream::open(&mut files, open("a.bin", &id, b"hello")).await;
            upload.chunk(0, b"hel").await;
            upload.wait_persisted(3).await;
            upload.half_close();
            upload.wait_end().await.unwrap();
            for path in tree(&server.path(".muxs/uploads")).into_keys() {
                let with_data = path.with_extension("data").exists();
                if with_data && path.extension().is_some_and(|name| name == file) {
                    damage(&path);
                }
            }
            let mut upload = UploadStream::open(&mut files, open("a.bin", &id, b"hello")).await;
            assert_eq!(upload.progress().await.persisted_size, 0, "{id}");
            upload.chunk(0, b"hello").await;
            upload.finish(b"hello").await;
            upload.wait_committed().await;
        }
    }
}

#[tokio::test]
async fn orphaned_staged_files_are_swept_at_start() {
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
    assert_eq!(count_staged_files(&server), 0);
}

#[tokio::test]
async fn uploads_without_expiry_are_kept() {
    let server = start(Settings {
        upload_ttl: Duration::MAX,
        ..Settings::default()
    });
    let mut files = server.files().await;
    put(&mut files, "a.bin", b"hello").await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), b"hello");
}
