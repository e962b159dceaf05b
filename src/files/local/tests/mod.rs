//! The blocking side without the server: a store on a root in memory.

mod access;
mod crashes;
mod faults;
mod state;
mod turns;

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{Local, OpenedUpload, UploadHandle};
use crate::{
    checksum::Crc32c,
    commit_point::CommitPoint,
    files::{
        error::{Error, OpenError},
        settings::Settings,
        upload::{Precondition, UploadSpec},
        version::Version,
    },
};

const NAME: &str = "new/folder/a.bin";
const OLD: &[u8] = b"old";
const NEW: &[u8] = b"0123456789";
/// The bytes of [`NEW`] that an earlier stream has made durable.
const PERSISTED: usize = 4;

/// A root in memory, where a sync costs nothing, or on the filesystem that `MUXS_TEST_ROOT` names.
fn root() -> TempDir {
    match std::env::var_os("MUXS_TEST_ROOT") {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap()),
    }
}

fn start(root: &Path) -> Result<Local, OpenError> {
    Local::open(root, &Settings::default())
}

fn spec(id: &str) -> UploadSpec {
    UploadSpec {
        path: NAME.parse().unwrap(),
        id: id.parse().unwrap(),
        owner: None,
        precondition: Precondition::Anything,
        size: None,
    }
}

fn open(local: &Local, id: &str) -> Result<OpenedUpload, Error> {
    let turn = local.next_turn(CommitPoint::default());
    local.open_upload(local.open_ref(&spec(id))?, spec(id), &turn, Box::new(|| ()))
}

fn unfinished(opened: OpenedUpload) -> (UploadHandle, usize) {
    match opened {
        OpenedUpload::Unfinished(upload, progress) => (upload, progress.persisted.len as usize),
        OpenedUpload::Committed(version) => panic!("{version:?} is unexpected"),
    }
}

fn finish(local: &Local, upload: &UploadHandle) -> Result<Version, Error> {
    let target = local.target(NAME.parse().unwrap());
    let turn = local.next_turn(CommitPoint::default());
    let crc32c = Some(Crc32c::of(NEW));
    local.finish_upload(upload, (&target, &turn), NEW.len() as u64, crc32c)
}

fn write(local: &Local, content: &[u8]) -> Result<(), Error> {
    let target = local.target(NAME.parse().unwrap());
    let turn = local.next_turn(CommitPoint::default());
    local.write(&target, content, &turn)
}

/// Uploads the rest, in one stream.
fn complete(local: &Local, id: &str) -> Result<Version, Error> {
    let (upload, persisted) = match open(local, id)? {
        OpenedUpload::Committed(version) => return Ok(version),
        OpenedUpload::Unfinished(upload, progress) => (upload, progress.persisted.len as usize),
    };
    upload.append(persisted as u64, None, &NEW[persisted..])?;
    upload.checkpoint()?;
    finish(local, &upload)
}

/// A root with an upload of which a part is durable.
fn paused() -> TempDir {
    let root = root();
    let local = start(root.path()).unwrap();
    let (upload, _) = unfinished(open(&local, "paused").unwrap());
    upload.append(0, None, &NEW[..PERSISTED]).unwrap();
    upload.checkpoint().unwrap();
    root
}

/// The names in one of the server's folders.
fn entries(root: &TempDir, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.path().join(".muxs").join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The file with the bytes of the only upload.
fn staged_bytes(root: &TempDir) -> PathBuf {
    let uploads = entries(root, "uploads").into_iter();
    let mut bytes = uploads.filter(|path| path.extension().unwrap() == "data");
    bytes.next().unwrap()
}

/// What is visible under the name.
fn content(root: &TempDir) -> Option<Vec<u8>> {
    fs::read(root.path().join(NAME)).ok()
}
