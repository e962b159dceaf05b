//! What is told, and what is on the disk, where a failure meets another program, a second failure or a restart.

#![expect(
    clippy::disallowed_methods,
    reason = "another program and a crash change the disk by hand"
)]

use std::{fs, path::Path};

use rustix::io::Errno;
use tempfile::TempDir;

use super::{
    super::{
        Local, OpenedUpload, UploadHandle,
        disk::injected::{self, Event},
    },
    NAME, NEW, OLD, complete, content, entries, finish, open, paused, root, spec, staged_bytes,
    start, unfinished, write,
};
use crate::{
    commit_point::CommitPoint,
    files::{
        error::Error,
        settings::Settings,
        upload::{Precondition, UploadSpec},
    },
};

/// Opens an upload that must not replace a file.
fn open_absent(local: &Local) -> Result<OpenedUpload, Error> {
    let turn = local.next_turn(CommitPoint::default());
    let spec = UploadSpec {
        precondition: Precondition::Absent,
        ..spec("id")
    };
    local.open_upload(local.open_ref(&spec)?, spec, &turn, Box::new(|| ()))
}

/// An upload of which all bytes are accepted, and none is durable.
fn accepted(opened: Result<OpenedUpload, Error>) -> UploadHandle {
    let (upload, _) = unfinished(opened.unwrap());
    upload.append(0, None, NEW).unwrap();
    upload
}

fn abort(local: &Local, id: &str) -> Result<(), Error> {
    let turn = local.next_turn(CommitPoint::default());
    let upload = local.abort_ref(&NAME.parse().unwrap(), &id.parse().unwrap(), None)?;
    local.abort_upload(&upload, &turn)
}

/// Does something else before the call.
fn follows(first: impl FnOnce() + 'static) -> Event {
    Event::Follows(Box::new(first))
}

/// The place of the last call of that name.
fn last(calls: &[&str], name: &str) -> usize {
    let place = calls.iter().rposition(|call| *call == name);
    place.unwrap_or_else(|| panic!("no {name} in {calls:?}"))
}

fn remove_all(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[test]
fn commit_is_recorded_after_its_bytes_and_before_its_rename() {
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    let upload = accepted(open(&local, "id"));
    let (finished, calls) = injected::run(None, || finish(&local, &upload));
    finished.unwrap();
    let steps = ["fsync", "symlink", "fsync_dir", "rename"];
    let made: Vec<_> = calls
        .into_iter()
        .filter(|call| steps.contains(call))
        .collect();
    // The folder of the records, the target, the target's folder, and the result.
    let expected = [
        "fsync",
        "symlink",
        "fsync_dir",
        "rename",
        "fsync_dir",
        "rename",
    ];
    assert_eq!(made, expected);
}

#[test]
fn upload_that_found_another_file_is_not_committed_even_if_its_record_stays() {
    for failures in 1..=2 {
        for restarts in [false, true] {
            let root = root();
            let local = start(root.path()).unwrap();
            let upload = accepted(open_absent(&local));
            let target = root.path().join(NAME);
            let event = follows(move || {
                fs::write(target, OLD).unwrap();
                for _ in 0..failures {
                    injected::fail_next("unlink", Errno::IO);
                }
            });
            let (finished, calls) = injected::run_at("symlink", event, || finish(&local, &upload));
            assert!(matches!(finished, Err(Error::Exists { .. })), "{calls:?}");
            drop(upload);
            let local = match restarts {
                true => {
                    drop(local);
                    start(root.path()).unwrap()
                }
                false => local,
            };
            let at = format!("after {failures} failures");
            match open_absent(&local) {
                Err(Error::Exists { .. }) => {}
                Err(error) => panic!("{at}: {error:?}"),
                Ok(OpenedUpload::Unfinished(..)) => panic!("{at}: begun beside another file"),
                Ok(OpenedUpload::Committed(version)) => {
                    panic!("{at}: told {version:?}, and it is not there")
                }
            }
            assert_eq!(content(&root).unwrap(), OLD, "{at}");
        }
    }
}

#[test]
fn file_that_is_in_place_by_a_lost_answer_keeps_its_bytes() {
    for (restarts, has_result) in [(false, true), (false, false), (true, true), (true, false)] {
        let root = root();
        let local = start(root.path()).unwrap();
        let upload = accepted(open_absent(&local));
        let (staged, target) = (staged_bytes(&root), root.path().join(NAME));
        // A network filesystem made the link, and repeats the call.
        let event = follows(move || {
            fs::hard_link(staged, target).unwrap();
            if !has_result {
                injected::fail_next("rename", Errno::IO);
            }
        });
        let (finished, _) = injected::run_at("rename_noreplace", event, || finish(&local, &upload));
        let version = finished.unwrap();
        assert_eq!(content(&root).unwrap(), NEW);
        drop(upload);
        let local = match restarts {
            true => {
                drop(local);
                start(root.path()).unwrap()
            }
            false => local,
        };
        local.sweep(&|| false).unwrap();
        assert_eq!(content(&root).unwrap(), NEW);
        match open_absent(&local).unwrap() {
            OpenedUpload::Committed(again) => assert_eq!(again, version),
            OpenedUpload::Unfinished(..) => panic!("it is in its place, and not known"),
        }
        assert!(matches!(abort(&local, "id"), Err(Error::UploadNotFound)));
        local.sweep(&|| false).unwrap();
        assert_eq!(content(&root).unwrap(), NEW);
    }
}

#[test]
fn file_that_is_in_place_and_cannot_be_looked_at_keeps_its_bytes() {
    let root = root();
    let local = start(root.path()).unwrap();
    let upload = accepted(open_absent(&local));
    let (staged, target) = (staged_bytes(&root), root.path().join(NAME));
    let event = follows(move || {
        fs::hard_link(staged, target).unwrap();
        injected::fail_next("fstat", Errno::STALE);
    });
    let (finished, _) = injected::run_at("rename_noreplace", event, || finish(&local, &upload));
    assert!(
        matches!(finished, Err(Error::Exists { .. })),
        "{finished:?}"
    );
    assert_eq!(content(&root).unwrap(), NEW);
    drop(upload);
    local.sweep(&|| false).unwrap();
    assert_eq!(content(&root).unwrap(), NEW);
}

#[test]
fn write_whose_staged_file_vanishes_is_not_told_to_be_done() {
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    let writes = root.path().join(".muxs/writes");
    let (written, _) = injected::run_at("rename", follows(move || remove_all(&writes)), || {
        write(&local, NEW)
    });
    assert!(matches!(written, Err(Error::Io { .. })), "{written:?}");
    assert_eq!(content(&root).unwrap(), OLD);
}

#[test]
fn upload_whose_staged_file_vanishes_begins_anew() {
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    let upload = accepted(open(&local, "id"));
    let uploads = root.path().join(".muxs/uploads");
    let (finished, _) = injected::run_at("rename", follows(move || remove_all(&uploads)), || {
        finish(&local, &upload)
    });
    assert!(matches!(finished, Err(Error::Io { .. })), "{finished:?}");
    assert_eq!(content(&root).unwrap(), OLD);
    drop(upload);
    assert_eq!(unfinished(open(&local, "id").unwrap()).1, 0);
    complete(&local, "id").unwrap();
    assert_eq!(content(&root).unwrap(), NEW);
}

#[test]
fn upload_whose_bytes_are_lost_counts_no_more() {
    let root = root();
    let settings = Settings {
        max_unfinished_uploads: 1,
        ..Settings::default()
    };
    let local = Local::open(root.path(), &settings).unwrap();
    for id in ["1", "2", "3"] {
        let upload = accepted(open(&local, id));
        injected::fail_next("fdatasync", Errno::IO);
        assert!(matches!(upload.checkpoint(), Err(Error::Io { .. })));
        drop(upload);
        assert!(entries(&root, "uploads").is_empty());
    }
    complete(&local, "4").unwrap();
}

#[test]
fn journal_that_could_not_be_begun_is_begun_by_the_next_checkpoint() {
    for stays in [false, true] {
        let root = root();
        let local = start(root.path()).unwrap();
        let upload = accepted(open(&local, "id"));
        injected::fail_next("write_at", Errno::NOSPC);
        if stays {
            injected::fail_next("unlink", Errno::IO);
        }
        assert!(matches!(upload.checkpoint(), Err(Error::DiskFull)));
        assert_eq!(entries(&root, "uploads").len(), 1 + usize::from(stays));
        assert_eq!(upload.checkpoint().unwrap().persisted.len, NEW.len() as u64);
        drop(upload);
        drop(local);
        let local = start(root.path()).unwrap();
        assert_eq!(unfinished(open(&local, "id").unwrap()).1, NEW.len());
    }
}

#[test]
fn journal_has_no_hole_where_a_record_could_not_be_made_durable() {
    let root = root();
    let local = start(root.path()).unwrap();
    let upload = accepted(open(&local, "id"));
    let full = Event::Fails(Errno::NOSPC);
    let (failed, _) = injected::run_at("fsync_dir", full, || upload.checkpoint().map(drop));
    assert!(matches!(failed, Err(Error::DiskFull)), "{failed:?}");
    assert_eq!(upload.checkpoint().unwrap().persisted.len, NEW.len() as u64);
    drop(upload);
    drop(local);
    let local = start(root.path()).unwrap();
    assert_eq!(unfinished(open(&local, "id").unwrap()).1, NEW.len());
}

/// A root whose last server was killed.
fn killed() -> TempDir {
    let root = paused();
    fs::write(root.path().join(".muxs/lock"), "1\n").unwrap();
    root
}

#[test]
fn start_that_fails_leaves_the_sign_of_a_crash() {
    let root = killed();
    let fails = Event::Fails(Errno::IO);
    let (failed, _) = injected::run_at("syncfs", fails, || start(root.path()));
    assert!(failed.is_err());
    let (started, calls) = injected::run(None, || start(root.path()));
    drop(started.unwrap());
    assert!(calls.contains(&"syncfs"), "{calls:?}");
    // An end that is none of a crash leaves nothing to recover.
    let (started, calls) = injected::run(None, || start(root.path()));
    started.unwrap();
    assert!(!calls.contains(&"syncfs"), "{calls:?}");
}

#[test]
fn result_that_is_forgotten_stays_so() {
    let root = root();
    let local = start(root.path()).unwrap();
    complete(&local, "id").unwrap();
    let (aborted, calls) = injected::run(None, || abort(&local, "id"));
    assert!(matches!(aborted, Err(Error::UploadNotFound)));
    assert!(
        last(&calls, "unlink") < last(&calls, "fsync_dir"),
        "{calls:?}"
    );
    assert_eq!(unfinished(open(&local, "id").unwrap()).1, 0);
}

#[test]
fn upload_that_is_aborted_stays_so() {
    let root = paused();
    let local = start(root.path()).unwrap();
    let (aborted, calls) = injected::run(None, || abort(&local, "paused"));
    aborted.unwrap();
    assert!(
        last(&calls, "unlink") < last(&calls, "fsync_dir"),
        "{calls:?}"
    );
    assert!(entries(&root, "uploads").is_empty());
}
