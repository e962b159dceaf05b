//! Errors of the disk that say nothing about an upload: it stays as it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use muxs::pb::{OpenUpload, write_stream_response::State};
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::Code;

use crate::support::{
    Program, assert_failure, kill,
    traced::{Faults, SERVER, serving, strace, traced_server},
    upload_stream::{FilesClient, UploadStream, open},
    with_timeout,
};

const HELLO: &[u8] = b"hello";

/// The system calls that look at the files of an upload. Some machines do not have all of them.
const LOOKING: [&str; 7] = [
    "?statx",
    "?newfstatat",
    "?openat",
    "?openat2",
    "?read,?pread64",
    "?getdents64",
    "?readlinkat",
];

/// How many calls of one name fail, one in each run. Strace counts those of each thread.
const MAX_CALLS: usize = 3;

/// Each of the calls, and its number in a thread.
fn disturbances() -> impl Iterator<Item = (&'static str, usize)> {
    LOOKING
        .into_iter()
        .flat_map(|calls| (1..=MAX_CALLS).map(move |number| (calls, number)))
}

/// A root with an upload that was paused after three bytes.
struct PausedUpload {
    folder: TempDir,
    /// The paths of its files.
    files: Vec<PathBuf>,
    /// What a system call for an upload concerns: these folders, files and names.
    concerned: Vec<PathBuf>,
}

impl PausedUpload {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let mut program = Program::start(&root).await;
        let mut upload = UploadStream::open(&mut program.files().await, plan("a.bin")).await;
        upload.chunk(0, b"hel").await;
        upload.half_close();
        upload.wait_persisted(3).await;
        upload.wait_end().await.unwrap();
        program.signal(Signal::TERM);
        program.wait_end().await;
        let private = root.canonicalize().unwrap().join(".muxs");
        let staged = fs::read_dir(private.join("uploads")).unwrap();
        let files: Vec<_> = staged.map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        let folders = ["uploads", "commits", "results"].map(|name| private.join(name));
        let names = files.iter().map(|file| file.file_name().unwrap().into());
        let concerned = folders
            .into_iter()
            .chain(names)
            .chain(files.clone())
            .collect();
        Self {
            folder,
            files,
            concerned,
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn trace(&self) -> PathBuf {
        self.folder.path().join("trace")
    }

    fn paths(&self) -> Vec<&Path> {
        self.concerned.iter().map(PathBuf::as_path).collect()
    }

    fn was_disturbed(&self) -> bool {
        fs::read_to_string(self.trace()).is_ok_and(|trace| trace.contains("(INJECTED)"))
    }

    #[track_caller]
    fn assert_kept(&self, when: &str) {
        for file in &self.files {
            assert!(file.exists(), "{file:?} is gone after {when}");
        }
    }

    /// Asserts that the upload is resumed on a good disk, and finished.
    async fn assert_resumes(&self) {
        let program = Program::start(&self.root()).await;
        let mut files = program.files().await;
        let mut upload = UploadStream::open(&mut files, plan("a.bin")).await;
        assert_eq!(upload.progress().await.persisted_size, 3);
        upload.chunk(3, b"lo").await;
        upload.finish(HELLO).await;
        upload.wait_committed().await;
    }
}

fn plan(filename: &str) -> OpenUpload {
    open(filename, "id", HELLO)
}

/// The sweep that cannot look at an upload does not take it for an expired one.
#[tokio::test]
async fn error_of_the_disk_during_the_start_removes_no_upload() {
    let paused = PausedUpload::new().await;
    let mut disturbed = 0;
    for (calls, number) in disturbances() {
        let stray = paused.root().join(".muxs/uploads/stray");
        fs::write(&stray, "").unwrap();
        let (traced, inject) = (
            format!("trace={calls}"),
            format!("inject={calls}:error=EIO:when={number}"),
        );
        let mut options = vec!["-e", &traced, "-e", &inject];
        for path in paused.paths() {
            options.extend(["-P", path.to_str().unwrap()]);
        }
        options.push("-o");
        let _ = fs::remove_file(paused.trace());
        let Some(mut command) = strace(&options, &paused.trace()) else {
            return;
        };
        command.arg(SERVER);
        // A server that cannot look at its directory may refuse to start.
        if let Ok(mut program) = Program::try_start(serving(command, &paused.root())).await {
            let swept = async {
                while stray.exists() && !paused.was_disturbed() {
                    tokio::task::yield_now().await;
                }
            };
            with_timeout(swept).await;
            kill(Signal::TERM, traced_server(&program));
            program.wait_end().await;
        }
        disturbed += usize::from(paused.was_disturbed());
        paused.assert_kept(&format!("an error of {calls} {number}"));
    }
    assert!(disturbed > 0, "no call was disturbed");
    paused.assert_resumes().await;
}

/// An upload that cannot be read is not taken for a damaged one.
#[tokio::test]
async fn error_of_the_disk_during_an_open_restarts_no_upload() {
    let paused = PausedUpload::new().await;
    let mut disturbed = 0;
    for (calls, number) in disturbances() {
        let mut program = Program::start(&paused.root()).await;
        let mut files = program.files().await;
        let fault = format!("error=EIO:when={number}");
        let (paths, trace) = (paused.paths(), paused.trace());
        let attached = Faults::attach(&program, &paths, calls, &fault, &trace).await;
        let Some(faults) = attached else {
            return;
        };
        let mut upload = UploadStream::open(&mut files, plan("a.bin")).await;
        match upload.next_answer().await {
            Ok(answer) => {
                let answer = format!("{answer:?}");
                assert!(
                    answer.contains("persisted_size: 3"),
                    "{answer}, {calls} {number}"
                );
                upload.half_close();
                let _ = upload.wait_end().await;
            }
            failed => drop(assert_failure(failed, Code::Internal, "IO")),
        }
        faults.detach().await;
        disturbed += usize::from(paused.was_disturbed());
        paused.assert_kept(&format!("an error of {calls} {number}"));
        // The same server goes on with it.
        let mut upload = UploadStream::open(&mut files, plan("a.bin")).await;
        assert_eq!(
            upload.progress().await.persisted_size,
            3,
            "{calls} {number}"
        );
        upload.half_close();
        upload.wait_end().await.unwrap();
        program.signal(Signal::TERM);
        program.wait_end().await;
    }
    assert!(disturbed > 0, "no call was disturbed");
    paused.assert_resumes().await;
}

/// Some filesystems find out that they are full when a file is synced. What was durable before stays.
#[tokio::test]
async fn full_disk_at_a_sync_keeps_the_durable_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let program = Program::start_with(&root, &["--checkpoint-bytes", "1B"]).await;
    let mut files = program.files().await;
    let faults = [
        ("fdatasync", "ENOSPC"),
        ("fdatasync", "EDQUOT"),
        ("fsync", "ENOSPC"),
        ("fsync,fdatasync", "EDQUOT"),
    ];
    for (number, (calls, error)) in faults.into_iter().enumerate() {
        let name = format!("{number}.bin");
        let mut upload = UploadStream::open(&mut files, plan(&name)).await;
        upload.chunk(0, b"hel").await;
        upload.wait_persisted(3).await;
        let fault = format!("error={error}");
        let Some(faults) = Faults::attach(&program, &[], calls, &fault, &trace).await else {
            return;
        };
        upload.chunk(3, b"lo").await;
        // The sync of a checkpoint fails, or that of the commit.
        if calls != "fdatasync" {
            upload.finish(HELLO).await;
        }
        let full = upload.wait_end().await;
        assert_failure(full, Code::ResourceExhausted, "DISK_FULL");
        assert!(!root.join(&name).exists());
        if let Some(persisted) = resume_offset(&mut files, &name).await {
            assert!(
                persisted >= 3,
                "{persisted} bytes while {calls} fails with {error}"
            );
        }
        faults.detach().await;

        let mut upload = UploadStream::open(&mut files, plan(&name)).await;
        let persisted = upload.progress().await.persisted_size as usize;
        // Where only the sync of the commit failed, all bytes are durable.
        let expected = match calls {
            "fsync" => 3..=HELLO.len(),
            _ => 3..=3,
        };
        assert!(
            expected.contains(&persisted),
            "{persisted} bytes after {calls} with {error}"
        );
        upload.chunk(persisted, &HELLO[persisted..]).await;
        upload.finish(HELLO).await;
        upload.wait_committed().await;
        assert_eq!(fs::read(root.join(&name)).unwrap(), HELLO);
    }
}

/// Returns where an upload could be resumed. `None` if the disk is too full to open it.
async fn resume_offset(files: &mut FilesClient, name: &str) -> Option<u64> {
    let mut upload = UploadStream::open(files, plan(name)).await;
    match upload.next_answer().await {
        Ok(Some(State::Progress(progress))) => Some(progress.persisted_size),
        Ok(other) => panic!("{other:?} instead of progress"),
        failed => {
            assert_failure(failed, Code::ResourceExhausted, "DISK_FULL");
            None
        }
    }
}
