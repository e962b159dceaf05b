//! Calls that end, and calls that overtake others, at every step.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    super::{
        Local, OpenedUpload,
        disk::injected::{self, Event},
    },
    NAME, NEW, OLD, PERSISTED, content, finish, open, paused, root, spec, start, unfinished, write,
};
use crate::{
    commit_point::CommitPoint,
    files::{
        error::Error,
        upload::{Precondition, UploadSpec},
    },
};

/// The number of calls of a Write to an existing folder before it takes the folder's lock.
fn calls_before_the_lock() -> usize {
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    let (_, calls) = injected::run(None, || write(&local, NEW).unwrap());
    calls.iter().position(|call| *call == "fsync").unwrap() + 1
}

#[test]
fn write_that_ends_at_any_step_is_made_or_never_will_be() {
    let mut outcomes = [0, 0];
    for number in 0.. {
        let root = root();
        let local = start(root.path()).unwrap();
        write(&local, OLD).unwrap();
        let point = CommitPoint::default();
        let target = local.target(NAME.parse().unwrap());
        let turn = local.next_turn(point.clone());
        let ending = point.clone();
        let ends = Event::Follows(Box::new(move || {
            ending.end();
        }));
        let (written, calls) =
            injected::run(Some((number, ends)), || local.write(&target, NEW, &turn));
        if number >= calls.len() {
            break;
        }
        match written {
            Ok(()) => {
                assert!(point.pass().is_ok());
                assert_eq!(content(&root).unwrap(), NEW);
                outcomes[0] += 1;
            }
            Err(Error::CallEnded) => {
                assert!(point.is_ended());
                assert_eq!(content(&root).unwrap(), OLD);
                outcomes[1] += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(outcomes[0] > 0 && outcomes[1] > 0, "{outcomes:?}");
}

#[test]
fn later_write_is_not_replaced_by_an_earlier_one() {
    for number in 0..calls_before_the_lock() {
        let root = root();
        let local = Arc::new(start(root.path()).unwrap());
        write(&local, OLD).unwrap();
        let target = local.target(NAME.parse().unwrap());
        let turn = local.next_turn(CommitPoint::default());
        let other = Arc::clone(&local);
        let follows = Event::Follows(Box::new(move || write(&other, b"later").unwrap()));
        let (written, _) =
            injected::run(Some((number, follows)), || local.write(&target, NEW, &turn));
        written.unwrap();
        assert_eq!(content(&root).unwrap(), b"later", "at call {number}");
        // One that comes after both is not held up.
        write(&local, b"last").unwrap();
        assert_eq!(content(&root).unwrap(), b"last");
    }
}

#[test]
fn upload_that_is_overtaken_counts_as_committed_before() {
    let root = root();
    let local = Arc::new(start(root.path()).unwrap());
    let (upload, _) = unfinished(open(&local, "id").unwrap());
    upload.append(0, None, NEW).unwrap();
    let other = Arc::clone(&local);
    let follows = Event::Follows(Box::new(move || write(&other, b"later").unwrap()));
    let (finished, _) = injected::run(Some((0, follows)), || finish(&local, &upload));
    let version = finished.unwrap();
    assert_eq!(content(&root).unwrap(), b"later");
    drop(upload);
    match open(&local, "id").unwrap() {
        OpenedUpload::Committed(again) => assert_eq!(again, version),
        OpenedUpload::Unfinished(..) => panic!("it would replace what came later"),
    }
}

#[test]
fn write_does_not_count_as_made_before_a_later_call_with_a_precondition() {
    for number in 0..calls_before_the_lock() {
        let root = root();
        let local = Arc::new(start(root.path()).unwrap());
        write(&local, OLD).unwrap();
        let old = local.stat(&NAME.parse().unwrap()).unwrap();
        let spec = UploadSpec {
            precondition: Precondition::Version(old.etag),
            ..spec("id")
        };
        let target = local.target(NAME.parse().unwrap());
        let turn = local.next_turn(CommitPoint::default());
        let other = Arc::clone(&local);
        let follows = Event::Follows(Box::new(move || {
            let turn = other.next_turn(CommitPoint::default());
            let upload = other.open_ref(&spec).unwrap();
            let opened = other.open_upload(upload, spec.clone(), &turn, Box::new(|| ()));
            let (upload, _) = unfinished(opened.unwrap());
            upload.append(0, None, NEW).unwrap();
            finish(&other, &upload).unwrap();
        }));
        let (written, _) = injected::run(Some((number, follows)), || {
            local.write(&target, b"earlier", &turn)
        });
        assert!(matches!(written, Err(Error::Overtaken)), "{written:?}");
        assert_eq!(content(&root).unwrap(), NEW);
    }
}

/// An upload, and whether the stream that has it was superseded.
fn watched(local: &Local) -> (super::UploadHandle, Arc<AtomicBool>) {
    let superseded = Arc::new(AtomicBool::new(false));
    let notify = Arc::clone(&superseded);
    let turn = local.next_turn(CommitPoint::default());
    let upload = local.open_ref(&spec("paused")).unwrap();
    let on_superseded = Box::new(move || notify.store(true, Ordering::Relaxed));
    let opened = local.open_upload(upload, spec("paused"), &turn, on_superseded);
    (unfinished(opened.unwrap()).0, superseded)
}

#[test]
fn earlier_open_or_abort_does_not_supersede_a_later_stream() {
    let root = paused();
    let local = start(root.path()).unwrap();
    let earlier = || local.next_turn(CommitPoint::default());
    let (opening, aborting) = (earlier(), earlier());
    let (upload, superseded) = watched(&local);
    let reference = local.open_ref(&spec("paused")).unwrap();
    let opened = local.open_upload(reference, spec("paused"), &opening, Box::new(|| ()));
    assert!(matches!(opened, Err(Error::Superseded)));
    let reference = local.abort_ref(&NAME.parse().unwrap(), &"paused".parse().unwrap(), None);
    let aborted = local.abort_upload(&reference.unwrap(), &aborting);
    assert!(matches!(aborted, Err(Error::Superseded)));
    assert!(!superseded.load(Ordering::Relaxed));
    upload
        .append(PERSISTED as u64, None, &NEW[PERSISTED..])
        .unwrap();
    finish(&local, &upload).unwrap();
    assert_eq!(content(&root).unwrap(), NEW);
}

#[test]
fn open_or_abort_that_ended_does_not_supersede_a_stream() {
    let root = paused();
    let local = start(root.path()).unwrap();
    let (upload, superseded) = watched(&local);
    let ended = || {
        let point = CommitPoint::default();
        point.end();
        local.next_turn(point)
    };
    let reference = local.open_ref(&spec("paused")).unwrap();
    let opened = local.open_upload(reference, spec("paused"), &ended(), Box::new(|| ()));
    assert!(matches!(opened, Err(Error::CallEnded)));
    let reference = local.abort_ref(&NAME.parse().unwrap(), &"paused".parse().unwrap(), None);
    let aborted = local.abort_upload(&reference.unwrap(), &ended());
    assert!(matches!(aborted, Err(Error::CallEnded)));
    assert!(!superseded.load(Ordering::Relaxed));
    upload
        .append(PERSISTED as u64, None, &NEW[PERSISTED..])
        .unwrap();
}
