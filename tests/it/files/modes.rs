//! The mode of a file that is put in place: that of the file it replaces, at that moment, else the default.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use muxs::pb::write_stream_response::State;
use tonic::{Code, Status};

use super::{WRITTEN, write};
use crate::support::{
    Program, report_skip,
    traced::{faulty, kill_traced, serving, start_faulty, strace},
    upload_stream::{FilesClient, UploadStream, open},
    with_timeout,
};

const HELLO: &[u8] = b"hello";

/// The user and group of a server without rights.
const NOBODY: u32 = 65_534;

/// More than the threads on which a first rename can fail.
const MAX_ATTEMPTS: usize = 100;

const RENAMES: &str = "rename,renameat,renameat2";

/// A folder of a user without rights, with a copy of the server program.
struct UnprivilegedFolder {
    folder: tempfile::TempDir,
}

impl UnprivilegedFolder {
    /// `None` if this user cannot become another.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        for path in [folder.path(), &root] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            if chown(path, Some(NOBODY), Some(NOBODY)).is_err() {
                report_skip("not root, so the server is not run as another user");
                return None;
            }
        }
        let become_nobody = as_nobody(&Command::new("true")).status();
        if !become_nobody.is_ok_and(|status| status.success()) {
            report_skip("no setpriv, so the server is not run as another user");
            return None;
        }
        // The folder of the build may be closed to others.
        fs::copy(env!("CARGO_BIN_EXE_server"), folder.path().join("server")).unwrap();
        Some(Self { folder })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Makes a read-only file of that user.
    fn make_read_only(&self, name: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        path
    }

    /// Starts the server, under strace if a fault is given.
    async fn start(&self, fault: Option<&str>) -> Option<Program> {
        let server = self.folder.path().join("server");
        let command = match fault {
            None => Command::new(server),
            Some(fault) => {
                let trace = self.folder.path().join("trace");
                let mut command = strace(&faulty(RENAMES, fault), &trace)?;
                command.arg(server);
                command
            }
        };
        let command = as_nobody(&command);
        Some(Program::start_command(serving(command, &self.root())).await)
    }
}

/// The same command as a user without rights.
fn as_nobody(command: &Command) -> Command {
    let mut unprivileged = Command::new("setpriv");
    unprivileged
        .arg(format!("--reuid={NOBODY}"))
        .arg(format!("--regid={NOBODY}"))
        .args(["--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    unprivileged
}

async fn begin_and_finish(files: &mut FilesClient, persisted: usize) -> Result<(), Status> {
    let mut upload = UploadStream::open(files, open("a.bin", "id", HELLO)).await;
    assert_eq!(upload.progress().await.persisted_size, persisted as u64);
    upload.chunks(HELLO, persisted, 5).await;
    upload.finish(HELLO).await;
    loop {
        match upload.next_answer().await? {
            Some(State::Committed(_)) => return Ok(()),
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
}

#[tokio::test]
async fn upload_to_a_read_only_file_is_finished_after_a_failed_rename() {
    let Some(unprivileged) = UnprivilegedFolder::new() else {
        return;
    };
    let target = unprivileged.make_read_only("a.bin");
    // The first rename of each thread fails.
    let Some(program) = unprivileged.start(Some("error=EIO:when=1")).await else {
        return;
    };
    let mut files = program.files().await;
    let mut failures = 0;
    let mut persisted = 0;
    while let Err(status) = begin_and_finish(&mut files, persisted).await {
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        assert_eq!(fs::read(&target).unwrap(), b"old");
        failures += 1;
        persisted = HELLO.len();
        assert!(failures < MAX_ATTEMPTS, "no rename succeeds");
    }
    kill_traced(program).await;
    assert!(failures > 0, "no rename failed");
    assert_eq!(fs::read(&target).unwrap(), HELLO);
    assert_eq!(mode(&target), 0o444);
}

#[tokio::test]
async fn upload_to_a_read_only_file_is_finished_after_a_kill_at_the_rename() {
    let Some(unprivileged) = UnprivilegedFolder::new() else {
        return;
    };
    let target = unprivileged.make_read_only("a.bin");
    let Some(mut killed) = unprivileged.start(Some("signal=KILL")).await else {
        return;
    };
    begin_and_finish(&mut killed.files().await, 0)
        .await
        .unwrap_err();
    killed.wait_end().await;

    let program = unprivileged.start(None).await.unwrap();
    let mut files = program.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", HELLO)).await;
    // A rename that was killed may have been done.
    if let Some(State::Progress(progress)) = upload.next_answer().await.unwrap() {
        // No checkpoint came before the kill.
        let persisted = progress.persisted_size as usize;
        upload.chunk(persisted, &HELLO[persisted..]).await;
        upload.finish(HELLO).await;
        upload.wait_committed().await;
    }
    assert_eq!(fs::read(&target).unwrap(), HELLO);
    assert_eq!(mode(&target), 0o444);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A file is removed while the one that is to replace it is made durable.
#[tokio::test]
async fn file_in_place_of_a_removed_one_has_the_default_mode() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    fs::create_dir(&root).unwrap();
    let Some(program) = start_faulty(&root, &trace, "fsync,fdatasync", "delay_enter=300ms").await
    else {
        return;
    };
    let mut files = program.files().await;
    assert_eq!(write(&mut files, "new.txt", "text").await, WRITTEN);
    let default = mode(&root.join("new.txt"));
    let syncs = || fs::read_to_string(&trace).unwrap().matches("sync(").count();
    let remove = async |path: &Path, before: usize| {
        let begun = async {
            while syncs() == before {
                tokio::task::yield_now().await;
            }
        };
        with_timeout(begun).await;
        fs::remove_file(path).unwrap();
    };

    let written = root.join("a.txt");
    make_open_to_all(&written);
    let (status, ()) = tokio::join!(
        write(&mut files, "a.txt", "text"),
        remove(&written, syncs())
    );
    assert_eq!(status, WRITTEN);
    assert_eq!(mode(&written), default);

    let uploaded = root.join("a.bin");
    make_open_to_all(&uploaded);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", HELLO)).await;
    upload.progress().await;
    upload.chunk(0, HELLO).await;
    upload.wait_persisted(HELLO.len()).await;
    let before = syncs();
    upload.finish(HELLO).await;
    remove(&uploaded, before).await;
    upload.wait_committed().await;
    assert_eq!(mode(&uploaded), default);
    kill_traced(program).await;
}

fn make_open_to_all(path: &Path) {
    fs::write(path, "old").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}
