//! A directory with both ends of a transfer, the events of a transfer, and assertions about its errors.

use std::{
    fs::{self},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use muxs::{
    client::{Error, Event},
    pb::FileInfo,
};
use tempfile::TempDir;
use tonic::Code;

use super::scripted_server::{Action, MAX_CHUNK, ScriptedServer, commit, crc32c, info, progress};

/// A directory with a source file, and with room for a target file.
pub(crate) struct TransferDir {
    pub(crate) folder: TempDir,
    pub(crate) content: Vec<u8>,
}

impl TransferDir {
    /// Creates a source of nine and a half chunks.
    pub(crate) fn new() -> Self {
        Self::with(9 * MAX_CHUNK + 500)
    }

    pub(crate) fn with(size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..size).map(|at| (at * at / 7 + at) as u8).collect();
        fs::write(folder.path().join("source"), &content).unwrap();
        Self { folder, content }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path("target")
    }

    /// The server's FileInfo of the complete file.
    pub(crate) fn info(&self) -> FileInfo {
        info(&self.content, "etag")
    }

    /// The script of an upload that succeeds, after its progress.
    pub(crate) fn success_actions(&self) -> [Action; 2] {
        [Action::ReceiveAll, commit(self.info())]
    }

    /// The script of an upload that resumes at `offset` and succeeds.
    pub(crate) fn resume_actions(&self, offset: usize) -> Vec<Action> {
        let [take, commit] = self.success_actions();
        vec![progress(&self.content, offset), take, commit]
    }

    #[track_caller]
    pub(crate) fn assert_received(&self) {
        assert!(fs::read(self.target()).unwrap() == self.content);
        let mut left = names(&self.folder);
        left.retain(|name| !["source", "target"].contains(&name.as_str()));
        assert!(left.is_empty(), "{left:?}");
    }

    #[track_caller]
    pub(crate) fn assert_sent(&self, server: &ScriptedServer) {
        assert!(server.content() == self.content);
        let finish = *server.script().finishes.last().unwrap();
        assert_eq!(finish.size, self.content.len() as u64);
        assert_eq!(finish.crc32c, Some(crc32c(&self.content)));
    }
}

pub(crate) fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The events of a transfer as texts, except for its progress.
#[derive(Clone, Default)]
pub(crate) struct EventLog(Arc<Mutex<Vec<String>>>);

impl EventLog {
    pub(crate) fn listener(&self) -> impl FnMut(Event) + Send + use<> {
        let log = self.clone();
        move |event| {
            let entry = match event {
                Event::Opened { offset, .. } => format!("opened at {offset}"),
                Event::StartedOver { reason } => format!("started over: {reason}"),
                Event::Retrying { error, .. } => format!("retrying: {error}"),
                Event::AlreadyUploaded => "already there".to_owned(),
                _ => return,
            };
            log.0.lock().unwrap().push(entry);
        }
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[track_caller]
pub(crate) fn assert_failure(result: Result<FileInfo, Error>, code: Code, reason: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    assert_eq!(error.reason().as_deref(), Some(reason), "{error}");
    assert!(!matches!(error, Error::RetriesExhausted { .. }), "{error}");
}

#[track_caller]
pub(crate) fn assert_retries_exhausted(result: Result<FileInfo, Error>, after: usize) {
    match result.unwrap_err() {
        Error::RetriesExhausted { attempts, .. } => assert_eq!(attempts, after),
        error => panic!("{error}"),
    }
}
