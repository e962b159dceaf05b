//! Every call of the operating system fails once, in every way, at every step of the store's work.
//!
//! The table of what is told and kept is `docs/storage.md`.

#![expect(
    clippy::disallowed_methods,
    reason = "what is on the disk after a crash is made by hand"
)]

use std::fs;

use rustix::io::Errno;
use tempfile::TempDir;

use super::{
    super::{
        Local, OpenedUpload,
        disk::injected::{self, Event},
    },
    NAME, NEW, OLD, PERSISTED, complete, content, open, paused, root, start, unfinished, write,
};
use crate::{
    checksum::Crc32c,
    commit_point::CommitPoint,
    files::{
        error::{Error, OpenError},
        version::Version,
    },
};

const ERRORS: [Errno; 8] = [
    Errno::IO,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::ROFS,
    Errno::STALE,
    Errno::XDEV,
    Errno::MFILE,
    Errno::NOMEM,
];

/// Whether the error is the one that the table has for this failure.
fn is_told(error: &Error, errno: Errno) -> bool {
    match errno {
        Errno::NOSPC | Errno::DQUOT => matches!(error, Error::DiskFull),
        Errno::ROFS => matches!(error, Error::ReadOnly),
        Errno::XDEV => matches!(error, Error::OtherFilesystem),
        Errno::MFILE | Errno::NOMEM => matches!(error, Error::Exhausted { .. }),
        _ => matches!(error, Error::Io { .. }),
    }
}

/// Whether the call comes after the rename that makes a file visible.
fn is_after_rename(calls: &[&str], number: usize) -> bool {
    let rename = calls.iter().position(|call| call.starts_with("rename"));
    rename.is_some_and(|rename| number > rename)
}

/// Runs `work` on what `prepare` makes, once for each call that it makes and each error. `verify` gets the
/// result, the error, and the calls with the number of the one that failed.
fn fail_each_call<S, T>(
    prepare: impl Fn() -> S,
    work: impl Fn(&S) -> T,
    verify: impl Fn(S, T, Errno, (&[&str], usize)),
) {
    let prepared = prepare();
    let (_, calls) = injected::run(None, || work(&prepared));
    assert!(!calls.is_empty(), "nothing can fail");
    for number in 0..calls.len() {
        for errno in ERRORS {
            let prepared = prepare();
            let (result, calls) =
                injected::run(Some((number, Event::Fails(errno))), || work(&prepared));
            verify(prepared, result, errno, (&calls, number));
        }
    }
}

#[test]
fn write_that_fails_leaves_the_old_content_and_a_working_store() {
    let prepare = || {
        let root = root();
        let local = start(root.path()).unwrap();
        (root, local)
    };
    let verify =
        |(root, local): (TempDir, Local), written, errno, (calls, number): (&[&str], _)| {
            let at = format!("{} ({number}) fails with {errno:?}", calls[number]);
            match &written {
                Ok(()) => assert_eq!(content(&root).unwrap(), NEW, "{at}"),
                Err(error) => {
                    assert!(is_told(error, errno), "{at}: {error:?}");
                    assert!(
                        content(&root).is_none() || is_after_rename(calls, number),
                        "{at}"
                    );
                }
            }
            write(&local, b"another").unwrap_or_else(|error| panic!("{at}: then {error:?}"));
            assert_eq!(content(&root).unwrap(), b"another");
            let staged = fs::read_dir(root.path().join(".muxs/writes")).unwrap();
            let is_removal = calls[number] == "unlink";
            assert!(staged.count() == 0 || is_removal, "{at}");
        };
    fail_each_call(prepare, |(_, local)| write(local, NEW), verify);
    // The same where there is a file to replace.
    let prepare = || {
        let (root, local) = prepare();
        write(&local, OLD).unwrap();
        (root, local)
    };
    let verify = |(root, _): (TempDir, Local),
                  written: Result<(), Error>,
                  errno,
                  (calls, number): (&[&str], _)| {
        let at = format!("{} ({number}) fails with {errno:?}", calls[number]);
        let expected = match written {
            Ok(()) => NEW,
            Err(_) if is_after_rename(calls, number) => NEW,
            Err(_) => OLD,
        };
        assert_eq!(content(&root).unwrap(), expected, "{at}");
    };
    fail_each_call(prepare, |(_, local)| write(local, NEW), verify);
}

/// Whether a failed sync may have lost the bytes: then the upload begins anew.
fn may_lose_bytes(call: &str, errno: Errno) -> bool {
    call.starts_with("fdatasync") | call.starts_with("fsync")
        && !matches!(errno, Errno::NOSPC | Errno::DQUOT)
}

#[test]
fn upload_that_fails_anywhere_goes_on_from_what_is_durable() {
    let prepare = || {
        let root = paused();
        let local = start(root.path()).unwrap();
        (root, local)
    };
    let work = |(_, local): &(TempDir, Local)| complete(local, "paused");
    let verify = |(root, local): (TempDir, Local),
                  done: Result<Version, Error>,
                  errno,
                  (calls, number): (&[&str], usize),
                  restarts| {
        let at = format!("{} ({number}) fails with {errno:?}", calls[number]);
        match &done {
            Ok(_) => assert_eq!(content(&root).unwrap(), NEW, "{at}"),
            Err(error) => {
                let told = is_told(error, errno);
                assert!(told, "{at}: {error:?}");
                let is_visible = content(&root).is_some();
                assert!(!is_visible || is_after_rename(calls, number), "{at}");
            }
        }
        // The same server goes on, or one that starts after a kill.
        let local = match restarts {
            true => {
                drop(local);
                start(root.path()).unwrap()
            }
            false => local,
        };
        match open(&local, "paused").unwrap_or_else(|error| panic!("{at}: then {error:?}")) {
            OpenedUpload::Committed(_) => {
                assert_eq!(content(&root).unwrap(), NEW, "{at}: told, and not there");
            }
            OpenedUpload::Unfinished(upload, progress) => {
                assert!(done.is_err(), "{at}: done, and not known");
                let persisted = progress.persisted.len as usize;
                let is_kept = persisted >= PERSISTED || may_lose_bytes(calls[number], errno);
                assert!(is_kept, "{at}: {persisted} bytes are left");
                let crc32c = Crc32c::of(&NEW[..persisted]);
                assert_eq!(progress.persisted.crc32c, crc32c, "{at}");
                drop(upload);
                complete(&local, "paused").unwrap();
                assert_eq!(content(&root).unwrap(), NEW, "{at}");
            }
        }
    };
    for restarts in [false, true] {
        fail_each_call(prepare, work, |world, done, errno, calls| {
            verify(world, done, errno, calls, restarts);
        });
    }
}

#[test]
fn start_that_fails_loses_nothing() {
    let prepare = || {
        let root = paused();
        let local = start(root.path()).unwrap();
        complete(&local, "finished").unwrap();
        drop(local);
        // A crash came after the rename of one commit, and before that of another.
        let private = root.path().join(".muxs");
        let result = fs::read_dir(private.join("results"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        fs::rename(
            result.path(),
            private.join("commits").join(result.file_name()),
        )
        .unwrap();
        let data = fs::read_dir(private.join("uploads")).unwrap();
        let key = data.map(|entry| entry.unwrap().path()).find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "data")
        });
        let key = key.unwrap().file_stem().unwrap().to_owned();
        std::os::unix::fs::symlink("{}", private.join("commits").join(key)).unwrap();
        fs::write(private.join("lock"), "1").unwrap();
        root
    };
    let verify = |root: TempDir,
                  started: Result<Local, OpenError>,
                  errno,
                  (calls, number): (&[&str], usize)| {
        let at = format!("{} ({number}) fails with {errno:?}", calls[number]);
        drop(started);
        let local = start(root.path()).unwrap_or_else(|error| panic!("{at}: then {error:?}"));
        let (_, persisted) = unfinished(open(&local, "paused").unwrap());
        assert_eq!(persisted, PERSISTED, "{at}");
        let finished = open(&local, "finished").unwrap();
        assert!(matches!(finished, OpenedUpload::Committed(_)), "{at}");
        assert_eq!(content(&root).unwrap(), NEW, "{at}");
    };
    fail_each_call(prepare, |root| start(root.path()), verify);
}

#[test]
fn sweep_that_fails_removes_nothing_that_lives() {
    let prepare = || {
        let root = paused();
        let local = start(root.path()).unwrap();
        complete(&local, "finished").unwrap();
        (root, local)
    };
    let verify = |(_root, local): (TempDir, Local),
                  _swept: Result<(), Error>,
                  errno,
                  (calls, number): (&[&str], usize)| {
        let at = format!("{} ({number}) fails with {errno:?}", calls[number]);
        let (_, persisted) = unfinished(open(&local, "paused").unwrap());
        assert_eq!(persisted, PERSISTED, "{at}");
        let finished = open(&local, "finished").unwrap();
        assert!(matches!(finished, OpenedUpload::Committed(_)), "{at}");
    };
    fail_each_call(prepare, |(_, local)| local.sweep(&|| false), verify);
}

#[test]
fn abort_that_fails_can_be_repeated() {
    let abort = |local: &Local| {
        let turn = local.next_turn(CommitPoint::default());
        let upload = local.abort_ref(&NAME.parse().unwrap(), &"paused".parse().unwrap(), None)?;
        local.abort_upload(&upload, &turn)
    };
    let prepare = || {
        let root = paused();
        let local = start(root.path()).unwrap();
        (root, local)
    };
    let verify = |(_root, local): (TempDir, Local),
                  aborted: Result<(), Error>,
                  errno,
                  (calls, number): (&[&str], usize)| {
        let at = format!("{} ({number}) fails with {errno:?}", calls[number]);
        if let Err(error) = aborted {
            assert!(is_told(&error, errno), "{at}: {error:?}");
            match abort(&local) {
                Ok(()) | Err(Error::UploadNotFound) => {}
                Err(error) => panic!("{at}: then {error:?}"),
            }
        }
        let (_, persisted) = unfinished(open(&local, "paused").unwrap());
        assert_eq!(persisted, 0, "{at}");
    };
    fail_each_call(prepare, |(_, local)| abort(local), verify);
}
