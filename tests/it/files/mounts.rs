//! Filesystems that are mounted below the root: their files are read, and not written, because a staged file
//! cannot be renamed into another filesystem.

use std::{fs, os::unix::fs::symlink, path::Path};

use muxs::{
    files::{Settings, Store},
    pb::ReadStreamRequest,
};
use tonic::Code;

use super::{assert_write_failed, read, stat, write};
use crate::support::{
    TestServer, assert_failure,
    mount::Mount,
    tree,
    upload_stream::{FilesClient, UploadStream, get, open, whole},
};

const OTHER: &str = "OTHER_FILESYSTEM";

/// A root with a tmpfs at `tmpfs`, and a folder of its own filesystem mounted at `bound`.
struct MountedRoot {
    _mounts: [Mount; 2],
    root: tempfile::TempDir,
    _elsewhere: tempfile::TempDir,
}

impl MountedRoot {
    fn new() -> Option<Self> {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["tmpfs", "bound"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        symlink("bound/folder", root.path().join("link")).unwrap();
        let tmpfs = Mount::at(&root.path().join("tmpfs"), &["-t", "tmpfs", "tmpfs"])?;
        let bound = Mount::at(
            &root.path().join("bound"),
            &["--bind", elsewhere.path().to_str().unwrap()],
        )?;
        for name in ["tmpfs", "bound"] {
            let folder = root.path().join(name).join("folder");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("a.txt"), "text").unwrap();
        }
        Some(Self {
            _mounts: [tmpfs, bound],
            root,
            _elsewhere: elsewhere,
        })
    }

    fn serve(&self) -> TestServer {
        let store = Store::open(self.root.path(), Settings::default()).unwrap();
        TestServer::with_store(store, |_| {})
    }
}

#[tokio::test]
async fn file_on_another_filesystem_is_read() {
    let Some(mounted) = MountedRoot::new() else {
        return;
    };
    let server = mounted.serve();
    let mut files = server.files().await;
    for name in ["tmpfs/folder/a.txt", "bound/folder/a.txt", "link/a.txt"] {
        assert_eq!(read(&mut files, name).await.text, "text", "{name}");
        let info = stat(&mut files, name).await.unwrap();
        assert_eq!(info.size, 4, "{name}");
        let rest = ReadStreamRequest {
            offset: 1,
            if_etag: info.etag,
            ..whole(name)
        };
        assert_eq!(get(&mut files, rest).await.unwrap().1, b"ext", "{name}");
    }
}

#[tokio::test]
async fn write_to_another_filesystem_is_refused() {
    let Some(mounted) = MountedRoot::new() else {
        return;
    };
    let server = mounted.serve();
    let mut files = server.files().await;
    assert_eq!(write(&mut files, "a.txt", "here").await.code, 0);
    for name in [
        "tmpfs/folder/a.txt",
        "tmpfs/new.txt",
        "tmpfs/new/folder/a.txt",
        "bound/folder/a.txt",
        "bound/new.txt",
        "link/a.txt",
        "link/new.txt",
    ] {
        let before = tree(mounted.root.path());
        let status = write(&mut files, name, "other").await;
        assert_write_failed(&status, Code::FailedPrecondition, OTHER);
        assert_upload_is_refused(&mut files, mounted.root.path(), name).await;
        assert_eq!(tree(mounted.root.path()), before, "{name}");
    }
}

/// Asserts that an upload fails when it is opened, so that no byte of it is sent.
async fn assert_upload_is_refused(files: &mut FilesClient, root: &Path, name: &str) {
    let mut upload = UploadStream::open(files, open(name, "id", b"hello")).await;
    let refused = upload.next_answer().await;
    assert_failure(refused, Code::FailedPrecondition, OTHER);
    let staged = tree(&root.join(".muxs/uploads"));
    assert!(staged.is_empty(), "{name}: {staged:?}");
}

/// A container mounts single files, too. A rename onto one of them fails.
#[tokio::test]
async fn file_that_is_a_mount_point_is_not_replaced() {
    let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = elsewhere.path().join("source");
    let target = root.path().join("a.txt");
    fs::write(&source, "text").unwrap();
    fs::write(&target, "").unwrap();
    let Some(_mount) = Mount::at(&target, &["--bind", source.to_str().unwrap()]) else {
        return;
    };
    let store = Store::open(root.path(), Settings::default()).unwrap();
    let server = TestServer::with_store(store, |_| {});
    let mut files = server.files().await;
    assert_eq!(read(&mut files, "a.txt").await.text, "text");
    let status = write(&mut files, "a.txt", "other").await;
    assert_write_failed(&status, Code::FailedPrecondition, OTHER);
    assert_upload_is_refused(&mut files, root.path(), "a.txt").await;
    assert_eq!(fs::read_to_string(&source).unwrap(), "text");
}
