//! What is on the disk, how much of it there may be, and how long it stays.

use std::{
    collections::HashSet,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::{
    super::{Local, OpenedUpload, disk::injected},
    NAME, NEW, PERSISTED, complete, entries, open, paused, root, spec, start, unfinished, write,
};
use crate::{
    commit_point::CommitPoint,
    files::{error::Error, settings::Settings, upload::UploadSpec},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn open_without_a_byte_leaves_no_file() {
    let root = root();
    let local = start(root.path()).unwrap();
    for number in 0..3_000 {
        drop(unfinished(open(&local, &number.to_string()).unwrap()));
    }
    assert_eq!(entries(&root, "uploads"), Vec::<PathBuf>::new());
    assert_eq!(local.open_uploads(), 0);
}

#[test]
fn finished_upload_leaves_one_result_and_no_file() {
    let root = paused();
    let local = start(root.path()).unwrap();
    complete(&local, "paused").unwrap();
    assert_eq!(entries(&root, "uploads"), Vec::<PathBuf>::new());
    assert_eq!(entries(&root, "commits"), Vec::<PathBuf>::new());
    assert_eq!(entries(&root, "results").len(), 1);
}

fn begin(local: &Local, spec: &UploadSpec) -> Result<(), Error> {
    let turn = local.next_turn(CommitPoint::default());
    let upload = local.open_ref(spec)?;
    let opened = local.open_upload(upload, spec.clone(), &turn, Box::new(|| ()))?;
    let (upload, _) = unfinished(opened);
    upload.append(0, None, NEW)?;
    upload.checkpoint().map(drop)
}

fn of(owner: &str, id: &str) -> UploadSpec {
    UploadSpec {
        owner: Some(owner.to_owned()),
        ..spec(id)
    }
}

#[test]
fn unfinished_uploads_are_bounded_for_each_owner_and_in_all() {
    let root = root();
    let settings = Settings {
        max_unfinished_uploads: 3,
        max_unfinished_uploads_per_owner: 2,
        ..Settings::default()
    };
    let mut local = Local::open(root.path(), &settings).unwrap();
    for id in ["1", "2"] {
        begin(&local, &of("ada", id)).unwrap();
    }
    for restarts in [false, true] {
        if restarts {
            drop(local);
            local = Local::open(root.path(), &settings).unwrap();
        }
        assert!(matches!(
            begin(&local, &of("ada", "3")),
            Err(Error::TooManyUploads)
        ));
        begin(&local, &of("ada", "1")).unwrap_err();
        begin(&local, &of("grace", "1")).ok();
        assert!(matches!(
            begin(&local, &of("grace", "2")),
            Err(Error::TooManyUploads)
        ));
        assert!(matches!(
            begin(&local, &of("edsger", "1")),
            Err(Error::TooManyUploads)
        ));
    }
    let turn = local.next_turn(CommitPoint::default());
    let (path, id) = (NAME.parse().unwrap(), "2".parse().unwrap());
    let aborted = local.abort_ref(&path, &id, Some("ada")).unwrap();
    local.abort_upload(&aborted, &turn).unwrap();
    begin(&local, &of("ada", "3")).unwrap();
}

/// Moves the mtime of a file.
fn shift(path: &PathBuf, shift: impl FnOnce(SystemTime) -> SystemTime) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(shift(modified)).unwrap();
}

fn journal(root: &TempDir) -> PathBuf {
    let uploads = entries(root, "uploads").into_iter();
    let mut journals = uploads.filter(|path| path.extension().unwrap() == "journal");
    journals.next().unwrap()
}

#[test]
fn upload_expires_by_the_time_for_which_the_server_ran() {
    let root = paused();
    // The server was off for two days.
    let clock = root.path().join(".muxs/clock");
    for path in [&journal(&root), &clock] {
        shift(path, |time| time - 2 * DAY);
    }
    let local = start(root.path()).unwrap();
    local.sweep(&|| false).unwrap();
    assert_eq!(unfinished(open(&local, "paused").unwrap()).1, PERSISTED);
    drop(local);
    // It ran for two days.
    shift(&clock, |time| time + 2 * DAY);
    let local = start(root.path()).unwrap();
    local.sweep(&|| false).unwrap();
    assert_eq!(unfinished(open(&local, "paused").unwrap()).1, 0);
}

#[test]
fn stamp_of_the_future_expires_after_one_time_to_live() {
    let root = paused();
    let clock = root.path().join(".muxs/clock");
    shift(&journal(&root), |time| time + 1000 * DAY);
    let local = start(root.path()).unwrap();
    local.sweep(&|| false).unwrap();
    drop(local);
    assert!(journal(&root).exists());
    shift(&clock, |time| time + 2 * DAY);
    let local = start(root.path()).unwrap();
    local.sweep(&|| false).unwrap();
    assert_eq!(unfinished(open(&local, "paused").unwrap()).1, 0);
}

#[test]
fn result_expires() {
    let root = paused();
    let local = start(root.path()).unwrap();
    complete(&local, "paused").unwrap();
    local.sweep(&|| false).unwrap();
    assert!(matches!(
        open(&local, "paused").unwrap(),
        OpenedUpload::Committed(_)
    ));
    drop(local);
    shift(&root.path().join(".muxs/clock"), |time| time + 2 * DAY);
    let local = start(root.path()).unwrap();
    local.sweep(&|| false).unwrap();
    assert_eq!(entries(&root, "results"), Vec::<PathBuf>::new());
}

#[test]
fn start_lists_unfinished_uploads_and_pending_commits_only() {
    let root = paused();
    let (_, calls) = injected::run(None, || start(root.path()).unwrap());
    let listed = calls.iter().filter(|call| **call == "list").count();
    assert_eq!(listed, 2, "{calls:?}");
}

#[test]
fn etags_of_one_name_never_repeat() {
    let root = root();
    let local = start(root.path()).unwrap();
    let path = NAME.parse().unwrap();
    let mut etags = HashSet::new();
    let whole_second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for _ in 0..100 {
        write(&local, NEW).unwrap();
        // As a filesystem with whole seconds would have it.
        shift(&root.path().join(NAME), |_| whole_second);
        assert!(etags.insert(local.stat(&path).unwrap().etag));
    }
}
