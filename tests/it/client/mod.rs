//! The transfer client against a scripted server: whatever goes wrong, it ends with the same bytes
//! or a clear reason.

mod downloads;
mod issuer;
mod readers;
mod tokens;
mod uploads;

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

use crate::fake::{Act, Fake, PIECE, committed, crc32c, has, info};

/// A folder with a file to send, and a place to receive one.
struct Place {
    folder: TempDir,
    content: Vec<u8>,
}

impl Place {
    /// With so many bytes that they are a chunk short of ten, in the last of them.
    fn new() -> Self {
        Self::with(9 * PIECE + 500)
    }

    fn with(size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..size).map(|at| (at * at / 7 + at) as u8).collect();
        fs::write(folder.path().join("source"), &content).unwrap();
        Self { folder, content }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> PathBuf {
        self.path("source")
    }

    fn target(&self) -> PathBuf {
        self.path("target")
    }

    /// The server's view of the file, once it has it.
    fn info(&self) -> FileInfo {
        info(&self.content, "etag")
    }

    /// The rest of an upload that goes well.
    fn succeeds(&self) -> [Act; 2] {
        [Act::TakeToFinish, committed(self.info())]
    }

    /// How an upload goes well that continues at `offset`.
    fn continues_at(&self, offset: usize) -> Vec<Act> {
        let [take, commit] = self.succeeds();
        vec![has(&self.content, offset), take, commit]
    }

    #[track_caller]
    fn assert_received(&self) {
        assert!(fs::read(self.target()).unwrap() == self.content);
        let mut left = names(&self.folder);
        left.retain(|name| !["source", "target"].contains(&name.as_str()));
        assert!(left.is_empty(), "{left:?}");
    }

    #[track_caller]
    fn assert_sent(&self, fake: &Fake) {
        assert!(fake.content() == self.content);
        let finish = *fake.script().finishes.last().unwrap();
        assert_eq!(finish.size, self.content.len() as u64);
        assert_eq!(finish.crc32c, Some(crc32c(&self.content)));
    }
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// What was told, in words: all but how far it advanced.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn listener(&self) -> impl FnMut(Event) + Send + use<> {
        let told = self.clone();
        move |event| {
            let word = match event {
                Event::Opened { offset, .. } => format!("opened at {offset}"),
                Event::StartedOver { reason } => format!("started over: {reason}"),
                Event::Retrying { error, .. } => format!("retrying: {error}"),
                Event::AlreadyUploaded => "already there".to_owned(),
                _ => return,
            };
            told.0.lock().unwrap().push(word);
        }
    }

    fn words(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[track_caller]
fn assert_failure(result: Result<FileInfo, Error>, code: Code, reason: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    assert_eq!(error.reason().as_deref(), Some(reason), "{error}");
    assert!(!matches!(error, Error::RetriesExhausted { .. }), "{error}");
}

#[track_caller]
fn assert_gave_up(result: Result<FileInfo, Error>, after: usize) {
    match result.unwrap_err() {
        Error::RetriesExhausted { attempts, .. } => assert_eq!(attempts, after),
        error => panic!("{error}"),
    }
}
