//! Who may do what with a file, and with the server's own.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use rustix::{fs::XattrFlags, io::Errno};

use super::{
    super::disk::injected::{self, Event},
    NAME, NEW, OLD, content, entries, finish, open, paused, root, staged_bytes, start, unfinished,
    write,
};
use crate::files::error::{Error, OpenError};

const ACL: &str = "system.posix_acl_access";

/// A user and a group that are not the server's.
const OTHER: u32 = 1234;

/// Reports a skipped test on standard error, which the test harness does not capture.
fn report_skip(why: &str) {
    let skipped = format!("SKIPPED: {why}\n");
    io::stderr().write_all(skipped.as_bytes()).unwrap();
}

/// Whether files can be given to another user.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        report_skip(
            "no right to change the owner of a file, so those of other users are not tried",
        );
    }
    is_root
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn owners(path: &Path) -> (u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.uid(), found.gid())
}

/// A list by which another user may read and write, and the file's group may do nothing.
fn acl_for_another_user() -> Vec<u8> {
    const USER: u16 = 1;
    const NAMED_USER: u16 = 2;
    const GROUP: u16 = 4;
    const MASK: u16 = 16;
    const OTHERS: u16 = 32;
    const NOBODY: u32 = u32::MAX;
    let rights: [(u16, u16, u32); 5] = [
        (USER, 6, NOBODY),
        (NAMED_USER, 6, OTHER),
        (GROUP, 0, NOBODY),
        (MASK, 6, NOBODY),
        (OTHERS, 0, NOBODY),
    ];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in rights {
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

fn acl(path: &Path) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 4096];
    let size = rustix::fs::getxattr(path, ACL, &mut buffer[..])?;
    buffer.truncate(size);
    Ok(buffer)
}

/// Gives a file the list. False where the filesystem has none.
fn has_acl(path: &Path) -> bool {
    match rustix::fs::setxattr(path, ACL, &acl_for_another_user(), XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::NOTSUP) => {
            report_skip("no access control lists here, so they are not tried");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn file_keeps_its_access_control_list() {
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    let target = root.path().join(NAME);
    if !has_acl(&target) {
        return;
    }
    let before = (acl(&target).unwrap(), mode(&target));
    write(&local, NEW).unwrap();
    assert_eq!(content(&root).unwrap(), NEW);
    assert_eq!((acl(&target).unwrap(), mode(&target)), before);
    let (upload, _) = unfinished(open(&local, "id").unwrap());
    upload.append(0, None, NEW).unwrap();
    finish(&local, &upload).unwrap();
    assert_eq!((acl(&target).unwrap(), mode(&target)), before);
}

#[test]
fn group_gains_nothing_where_the_list_cannot_be_kept() {
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    let target = root.path().join(NAME);
    if !has_acl(&target) {
        return;
    }
    let fails = Event::Fails(Errno::NOTSUP);
    let (written, _) = injected::run_at("set_acl", fails, || write(&local, NEW));
    written.unwrap();
    assert_eq!(acl(&target), Err(Errno::NODATA));
    assert_eq!(mode(&target), 0o600);
}

#[test]
fn group_that_cannot_be_kept_gives_its_rights_to_no_other() {
    if !is_root() {
        return;
    }
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    let target = root.path().join(NAME);
    chown(&target, None, Some(OTHER)).unwrap();
    set_mode(&target, 0o664);
    let fails = Event::Fails(Errno::PERM);
    let (written, _) = injected::run_at("set_owner", fails, || write(&local, NEW));
    written.unwrap();
    let server = rustix::process::getegid().as_raw();
    assert_eq!((owners(&target).1, mode(&target)), (server, 0o644));
}

#[test]
fn file_that_is_removed_meanwhile_does_not_leave_its_owner() {
    if !is_root() {
        return;
    }
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    let target = root.path().join(NAME);
    let new = (owners(&target), mode(&target));
    chown(&target, Some(OTHER), Some(OTHER)).unwrap();
    set_mode(&target, 0o606);
    write(&local, NEW).unwrap();
    assert_eq!((owners(&target), mode(&target)), ((OTHER, OTHER), 0o606));
    let removed = target.clone();
    let follows = Event::Follows(Box::new(move || fs::remove_file(removed).unwrap()));
    let (written, calls) = injected::run_at("fsync", follows, || write(&local, NEW));
    written.unwrap();
    let attempts = calls.iter().filter(|call| **call == "fsync").count();
    assert_eq!(attempts, 2);
    assert_eq!((owners(&target), mode(&target)), new);
}

#[test]
fn staged_file_is_the_servers_alone() {
    let root = root();
    let local = start(root.path()).unwrap();
    write(&local, OLD).unwrap();
    set_mode(&root.path().join(NAME), 0o666);
    let writes = root.path().join(".muxs/writes");
    let looks = Event::Follows(Box::new(move || {
        let staged = fs::read_dir(writes)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let modes: Vec<_> = staged.map(|staged| mode(&staged)).collect();
        assert_eq!(modes, [0o600]);
    }));
    let (written, _) = injected::run_at("write_at", looks, || write(&local, NEW));
    written.unwrap();
    let (upload, _) = unfinished(open(&local, "id").unwrap());
    upload.append(0, None, NEW).unwrap();
    upload.checkpoint().unwrap();
    let modes = || {
        entries(&root, "uploads")
            .iter()
            .map(|staged| mode(staged))
            .collect::<Vec<_>>()
    };
    assert_eq!(modes(), [0o600, 0o600]);
    // It has the permissions of its target for the rename only.
    let fails = Event::Fails(Errno::IO);
    let (finished, _) = injected::run_at("rename", fails, || finish(&local, &upload));
    finished.unwrap_err();
    assert_eq!(modes(), [0o600, 0o600]);
    finish(&local, &upload).unwrap();
    assert_eq!(mode(&root.path().join(NAME)), 0o666);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "another program moves the folder"
)]
fn private_folder_is_private_under_another_name() {
    let root = paused();
    let local = start(root.path()).unwrap();
    let name = staged_bytes(&root);
    let name = name.file_name().unwrap().to_str().unwrap();
    fs::rename(root.path().join(".muxs"), root.path().join("moved")).unwrap();
    let path = format!("moved/uploads/{name}").parse().unwrap();
    assert!(root.path().join("moved/uploads").join(name).exists());
    let read = local.read(&path, 100);
    assert!(matches!(read, Err(Error::FilenameInvalid(_))), "{read:?}");
}

#[test]
fn private_folder_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let root = root();
    let private = root.path().join(".muxs");
    fs::create_dir(&private).unwrap();
    chown(&private, Some(OTHER), None).unwrap();
    let started = start(root.path());
    assert!(
        matches!(started, Err(OpenError::NotWritable { .. })),
        "{started:?}"
    );
    assert!(fs::read_dir(&private).unwrap().next().is_none());
}

#[test]
fn private_folder_that_others_may_enter_is_closed_to_them() {
    let root = root();
    drop(start(root.path()).unwrap());
    for folder in [".muxs", ".muxs/uploads"] {
        set_mode(&root.path().join(folder), 0o777);
    }
    let _local = start(root.path()).unwrap();
    for folder in [".muxs", ".muxs/uploads"] {
        assert_eq!(mode(&root.path().join(folder)), 0o700);
    }
}
