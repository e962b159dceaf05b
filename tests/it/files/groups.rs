//! The group of a file, which the staged file does not have by itself: it comes from a folder of the server.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use super::{WRITTEN, write};
use crate::support::{TestServer, report_skip, upload_stream::put};

const OF_THE_FOLDER: u32 = 12_345;
const OF_THE_FILE: u32 = 23_456;

/// Makes a folder whose set-group-id bit gives new files its group. `None` without the right to.
fn make_shared_folder(path: &Path) -> Option<()> {
    fs::create_dir(path).unwrap();
    if chown(path, None, Some(OF_THE_FOLDER)).is_err() {
        report_skip("no right to change groups, so set-group-id folders are not tried");
        return None;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o2775)).unwrap();
    Some(())
}

fn group(path: &Path) -> u32 {
    fs::metadata(path).unwrap().gid()
}

#[tokio::test]
async fn new_file_gets_the_group_of_a_set_group_id_folder() {
    let server = TestServer::start();
    let mut files = server.files().await;
    if make_shared_folder(&server.path("shared")).is_none() {
        return;
    }
    for name in ["shared/a", "shared/new/folder/a"] {
        let (written, uploaded) = (format!("{name}.txt"), format!("{name}.bin"));
        assert_eq!(write(&mut files, &written, "text").await, WRITTEN);
        put(&mut files, &uploaded, b"hello").await;
        for name in [written, uploaded] {
            assert_eq!(group(&server.path(&name)), OF_THE_FOLDER, "{name}");
        }
    }
    let own = group(server.root());
    assert_eq!(write(&mut files, "a.txt", "text").await, WRITTEN);
    assert_eq!(group(&server.path("a.txt")), own);
}

/// The group of the replaced file counts more than that of the folder.
#[tokio::test]
async fn replaced_file_keeps_its_group() {
    let server = TestServer::start();
    let mut files = server.files().await;
    if make_shared_folder(&server.path("shared")).is_none() {
        return;
    }
    for name in ["a.txt", "shared/a.txt"] {
        let path = server.path(name);
        fs::write(&path, "old").unwrap();
        chown(&path, None, Some(OF_THE_FILE)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        assert_eq!(write(&mut files, name, "new").await, WRITTEN);
        assert_eq!(group(&path), OF_THE_FILE, "{name}");
        put(&mut files, name, b"newer").await;
        assert_eq!(group(&path), OF_THE_FILE, "{name}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    }
}
