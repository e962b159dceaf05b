//! The journal of an unfinished upload: its spec and its durable prefix.
//!
//! Each entry is a line of JSON behind its checksum. A torn or damaged line ends the journal; all entries
//! before it are valid.

use std::{io, sync::Arc, time::SystemTime};

use cap_std::fs::Dir;
use serde::{Deserialize, Serialize};

use crate::{
    checksum::{Crc32c, Prefix},
    files::{
        error::Error,
        local::{disk, staged::StagedFile},
        upload::{Precondition, UploadSpec},
    },
};

/// The journal of one upload, open for the next entry.
#[derive(Debug)]
pub(super) struct Journal {
    file: StagedFile,
    /// The size of all valid entries, in bytes.
    length: u64,
    /// Whether the names of the journal and of the bytes are durable.
    dir_synced: bool,
}

/// The state that the entries add up to.
#[derive(Debug)]
pub(super) struct JournalState {
    pub(super) spec: UploadSpec,
    pub(super) persisted: Prefix,
}

#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    Opened {
        filename: String,
        upload_id: String,
        /// Missing without authentication, and in journals of servers older than the field.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        if_etag: Option<String>,
        size: Option<u64>,
    },
    Persisted {
        size: u64,
        crc32c: u32,
    },
}

impl Journal {
    /// Creates the journal of a new upload. The next entry makes it durable.
    pub(super) fn create(dir: &Arc<Dir>, name: String, spec: &UploadSpec) -> Result<Self, Error> {
        let file = StagedFile::create_in_place(dir, name)?;
        let mut journal = Self {
            file,
            length: 0,
            dir_synced: false,
        };
        let opened = journal.append(&Entry::Opened {
            filename: spec.path.as_str().to_owned(),
            upload_id: spec.id.as_str().to_owned(),
            owner: spec.owner.clone(),
            if_etag: match &spec.precondition {
                Precondition::Anything => None,
                Precondition::Absent => Some(String::new()),
                Precondition::Version(etag) => Some(etag.clone()),
            },
            size: spec.size,
        });
        if opened.is_err() {
            journal.file.remove();
        }
        opened.map(|()| journal)
    }

    /// Opens a journal and replays its entries. None if there are none.
    pub(super) fn replay(dir: &Arc<Dir>, name: String) -> io::Result<Option<(Self, JournalState)>> {
        let file = StagedFile::open(dir, name)?;
        let mut length = 0;
        let mut state = None;
        let text = file.read()?;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let applied = parse(line).and_then(|entry| entry.apply(&mut state));
            if applied.is_none() {
                break;
            }
            length += line.len() as u64;
        }
        // The next entry overwrites the damage.
        if length < text.len() as u64 {
            file.truncate(length)?;
        }
        Ok(state.map(|state| {
            let journal = Self {
                file,
                length,
                // Its first record of durable bytes came after that.
                dir_synced: state.persisted.len > 0,
            };
            (journal, state)
        }))
    }

    /// Records that this prefix is durable.
    pub(super) fn record_persisted(&mut self, prefix: Prefix) -> Result<(), Error> {
        let length_before = self.length;
        self.append(&Entry::Persisted {
            size: prefix.len,
            crc32c: prefix.crc32c.value(),
        })?;
        self.sync(length_before)
    }

    /// Restarts the upload's time to live, which counts from the mtime of the journal.
    pub(super) fn touch(&self, now: SystemTime) -> Result<(), Error> {
        self.file.set_mtime(now)
    }

    pub(super) fn remove(&self) {
        self.file.remove();
    }

    /// Appends an entry. After a failure the journal is unchanged: the fragment is not a valid line, and the
    /// next entry overwrites it.
    fn append(&mut self, entry: &Entry) -> Result<(), Error> {
        let line = encode(entry).map_err(|error| Error::io("write the journal", error))?;
        self.file.write(line.as_bytes(), self.length)?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// Makes the entries durable, and the names of the journal and of the files created before it. After a
    /// failure the journal ends before the last entry: it may be in memory only.
    fn sync(&mut self, length_before: u64) -> Result<(), Error> {
        let synced = self.file.sync().and_then(|()| self.sync_dir());
        if synced.is_err() {
            self.length = length_before;
            if self.file.truncate(length_before).is_err() {
                self.file.remove();
            }
        }
        synced
    }

    fn sync_dir(&mut self) -> Result<(), Error> {
        if !self.dir_synced {
            disk::fsync_dir(self.file.dir()).map_err(|error| {
                let error = Error::io("sync the folder to disk", error);
                if !matches!(error, Error::DiskFull) {
                    // As with a failed sync of a file, the success of a second sync would prove nothing.
                    self.file.remove();
                }
                error
            })?;
            self.dir_synced = true;
        }
        Ok(())
    }
}

impl Entry {
    /// Applies the entry to the state of those before it. None if the entry is invalid there.
    fn apply(self, state: &mut Option<JournalState>) -> Option<()> {
        match (self, state.as_mut()) {
            (
                Self::Opened {
                    filename,
                    upload_id,
                    owner,
                    if_etag,
                    size,
                },
                None,
            ) => {
                let spec = UploadSpec {
                    path: filename.parse().ok()?,
                    id: upload_id.parse().ok()?,
                    owner,
                    precondition: Precondition::from_if_etag(if_etag),
                    size,
                };
                *state = Some(JournalState {
                    spec,
                    persisted: Prefix::default(),
                });
            }
            (Self::Persisted { size, crc32c }, Some(state)) => {
                state.persisted = Prefix {
                    len: size,
                    crc32c: crc32c.into(),
                };
            }
            (Self::Opened { .. }, Some(_)) | (_, None) => return None,
        }
        Some(())
    }
}

fn encode(entry: &Entry) -> io::Result<String> {
    let json = serde_json::to_string(entry)?;
    let checksum = Crc32c::of(json.as_bytes()).value();
    Ok(format!("{checksum:08x} {json}\n"))
}

/// Parses a line. None if the line is torn or damaged.
fn parse(line: &[u8]) -> Option<Entry> {
    let line = str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (checksum, json) = line.split_once(' ')?;
    let checksum = u32::from_str_radix(checksum, 16).ok()?;
    let is_intact = Crc32c::of(json.as_bytes()) == checksum.into();
    is_intact.then(|| serde_json::from_str(json).ok())?
}
