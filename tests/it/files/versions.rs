//! An etag names one version for ever, also where a filesystem keeps times in whole seconds.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, SystemTime},
};

use muxs::{
    files::{Settings, Store},
    pb::{OpenUpload, ReadStreamRequest},
};
use tonic::Code;

use super::{WRITTEN, read, stat, write};
use crate::support::{
    TestServer, assert_failure,
    mount::Mount,
    upload_stream::{UploadStream, get, open, put, whole},
};

const VERSIONS: usize = 60;

/// Several texts of one size are written within a second, in turn by Write and by an upload.
async fn assert_etags_differ(root: &Path) {
    let server = TestServer::with_store(Store::open(root, Settings::default()).unwrap(), |_| {});
    let mut files = server.files().await;
    let mut etags = Vec::new();
    for version in 0..VERSIONS {
        let text = format!("version {version:04}");
        let etag = match version % 4 {
            3 => put(&mut files, "a.txt", text.as_bytes()).await.etag,
            _ => {
                assert_eq!(write(&mut files, "a.txt", &text).await, WRITTEN);
                stat(&mut files, "a.txt").await.unwrap().etag
            }
        };
        assert!(etag.is_ascii() && etag.len() <= 128, "{etag}");
        etags.push(etag);
    }
    assert_eq!(
        stat(&mut files, "a.txt").await.unwrap().etag,
        etags[VERSIONS - 1]
    );
    let different: HashSet<_> = etags.iter().collect();
    assert_eq!(different.len(), VERSIONS, "{etags:?}");

    for (version, etag) in etags.iter().enumerate() {
        let is_current = version == VERSIONS - 1;
        let continued = ReadStreamRequest {
            offset: 4,
            if_etag: etag.clone(),
            ..whole("a.txt")
        };
        let conditional = OpenUpload {
            if_etag: Some(etag.clone()),
            ..open(
                "a.txt",
                &format!("after {version}").replace(' ', "-"),
                b"hello",
            )
        };
        let read = get(&mut files, continued).await;
        let opened = UploadStream::open(&mut files, conditional)
            .await
            .next_answer()
            .await;
        match is_current {
            true => assert!(read.is_ok() && opened.is_ok(), "{read:?} {opened:?}"),
            false => {
                assert_failure(read, Code::FailedPrecondition, "ETAG_MISMATCH");
                assert_failure(opened, Code::FailedPrecondition, "ETAG_MISMATCH");
            }
        }
    }
}

#[tokio::test]
async fn etags_differ_on_the_disk_of_the_tests() {
    assert_etags_differ(tempfile::tempdir().unwrap().path()).await;
}

#[tokio::test]
async fn etags_differ_on_a_tmpfs() {
    if let Some(mount) = Mount::tmpfs("size=64m") {
        assert_etags_differ(mount.path()).await;
    }
}

#[tokio::test]
async fn etags_differ_where_times_are_whole_seconds() {
    if let Some(mount) = Mount::ext4_with_small_inodes() {
        assert_etags_differ(mount.path()).await;
    }
}

/// The etag of a file that another program has put there is kept as long as the file is.
#[tokio::test]
async fn etag_of_a_file_placed_by_another_program_is_kept() {
    let server = TestServer::start();
    let path = server.path("a.txt");
    fs::write(&path, "placed").unwrap();
    let old = SystemTime::now() - Duration::from_secs(1000);
    let placed = fs::File::options().write(true).open(&path).unwrap();
    placed.set_modified(old).unwrap();
    let mut files = server.files().await;
    let etag = stat(&mut files, "a.txt").await.unwrap().etag;
    assert_eq!(read(&mut files, "a.txt").await.text, "placed");
    assert_eq!(write(&mut files, "b.txt", "beside").await, WRITTEN);
    assert_eq!(stat(&mut files, "a.txt").await.unwrap().etag, etag);

    let server = TestServer::serve(server.into_root(), Settings::default(), |_| {});
    let mut files = server.files().await;
    let continued = ReadStreamRequest {
        offset: 2,
        if_etag: etag.clone(),
        ..whole("a.txt")
    };
    assert_eq!(get(&mut files, continued).await.unwrap().1, b"aced");

    placed.write_all_at(b"PLACED", 0).unwrap();
    let changed = stat(&mut files, "a.txt").await.unwrap().etag;
    assert_ne!(changed, etag);
    let conditional = OpenUpload {
        if_etag: Some(etag),
        ..open("a.txt", "id", b"hello")
    };
    let opened = UploadStream::open(&mut files, conditional)
        .await
        .next_answer()
        .await;
    assert_failure(opened, Code::FailedPrecondition, "ETAG_MISMATCH");
}

/// What a commit has left with a file does not vouch for what another program writes into it.
#[tokio::test]
async fn etag_changes_when_another_program_rewrites_a_committed_file() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let committed = put(&mut files, "a.txt", b"committed").await;
    assert_eq!(
        stat(&mut files, "a.txt").await.unwrap().etag,
        committed.etag
    );
    let path = server.path("a.txt");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"REWRITTEN", 0).unwrap();
    let later = committed.modified_at.unwrap().seconds as u64 + 1;
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(later))
        .unwrap();
    let rewritten = stat(&mut files, "a.txt").await.unwrap();
    assert_ne!(rewritten.etag, committed.etag);
    assert_eq!(rewritten.crc32c, None);

    // A copy of it is a file of its own.
    fs::copy(&path, server.path("b.txt")).unwrap();
    let copied = stat(&mut files, "b.txt").await.unwrap();
    assert_ne!(copied.etag, rewritten.etag);
}
