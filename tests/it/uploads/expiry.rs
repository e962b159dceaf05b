//! Expiry counts the time in which the server runs: neither a server that was off nor a clock that was set
//! ends an upload.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use muxs::{files::Settings, pb::OpenUpload};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tempfile::TempDir;

use crate::support::{
    TestServer, tree,
    upload_stream::{UploadStream, open, put},
    with_timeout,
};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn plan() -> OpenUpload {
    open("a.bin", "id", b"hello")
}

/// Pauses an upload after three bytes, finishes another, and stops the server.
async fn pause_and_stop() -> TempDir {
    let mut server = TestServer::start();
    let mut files = server.files().await;
    put(&mut files, "finished.bin", b"hello").await;
    let mut upload = UploadStream::open(&mut files, plan()).await;
    upload.chunk(0, b"hel").await;
    upload.half_close();
    upload.wait_persisted(3).await;
    upload.wait_end().await.unwrap();
    server.stop();
    server.wait_stopped().await;
    server.into_root()
}

/// Sets the times of all that the server keeps.
fn set_times(root: &Path, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let time = Timespec {
        tv_sec: since.as_secs() as i64,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let private = root.join(".muxs");
    for path in tree(&private).into_keys().chain([private]) {
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// The uploads would have expired by the clock of the wall, or by that of another time zone.
#[tokio::test]
async fn paused_upload_survives_a_server_that_was_off_and_a_clock_that_was_set() {
    let now = SystemTime::now();
    for time in [now - 25 * HOUR, now + 25 * HOUR, now - 10_000 * HOUR] {
        let root = pause_and_stop().await;
        set_times(root.path(), time);
        let mut server = TestServer::serve(root, Settings::default(), |_| {});
        let mut files = server.files().await;
        let mut upload = UploadStream::open(&mut files, plan()).await;
        assert_eq!(upload.progress().await.persisted_size, 3, "{time:?}");
        upload.half_close();
        upload.wait_end().await.unwrap();

        // The same holds for a start after it.
        server.stop();
        server.wait_stopped().await;
        let root = server.into_root();
        set_times(root.path(), time);
        let server = TestServer::serve(root, Settings::default(), |_| {});
        let mut files = server.files().await;
        let mut upload = UploadStream::open(&mut files, plan()).await;
        assert_eq!(upload.progress().await.persisted_size, 3, "{time:?}");
        upload.chunk(3, b"lo").await;
        upload.finish(b"hello").await;
        upload.wait_committed().await;
    }
}

/// A clock that was ahead for a while does not keep what nobody goes on with.
#[tokio::test]
async fn paused_upload_with_a_stamp_of_the_future_expires() {
    let root = pause_and_stop().await;
    set_times(root.path(), SystemTime::now() + 25 * HOUR);
    let settings = Settings {
        upload_ttl: Duration::from_secs(1),
        ..Settings::default()
    };
    let server = TestServer::serve(root, settings, |_| {});
    let uploads = server.path(".muxs/uploads");
    with_timeout(async {
        while fs::read_dir(&uploads).unwrap().count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, plan()).await;
    assert_eq!(upload.progress().await.persisted_size, 0);
}
