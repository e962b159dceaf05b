//! The journal of an upload: what it is to become, how much of it is durable, and its result.
//!
//! A line for each entry, its checksum in front. What was torn off in the middle of a line by a
//! crash, or damaged since, ends the journal there: everything before it holds.

use std::{io, sync::Arc, time::SystemTime};

use cap_std::fs::Dir;
use serde::{Deserialize, Serialize};

use crate::{
    checksum::Crc32c,
    files::{
        error::Error,
        local::{fsync::sync_folder, staged::Staged},
        upload::{Extent, Precondition, UploadPlan},
        version::Version,
    },
};

/// The journal of one upload, open for the next entry.
#[derive(Debug)]
pub(in crate::files::local) struct Journal {
    file: Staged,
    /// Of all whole entries, in bytes.
    length: u64,
    /// Whether its name is durable.
    named: bool,
}

/// What the entries say together.
#[derive(Debug)]
pub(in crate::files::local) struct Record {
    pub(in crate::files::local) plan: UploadPlan,
    pub(in crate::files::local) persisted: Extent,
    pub(in crate::files::local) outcome: Option<Outcome>,
}

/// What has come of the upload.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::files::local) enum Outcome {
    /// It was about to be put in its place as this version, and may be there or not.
    Committing(Version),
    /// It was put in its place.
    Committed(Version),
}

#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    Opened {
        filename: String,
        upload_id: String,
        /// Left out where there is none, and by servers that knew of none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        if_etag: Option<String>,
        size: Option<u64>,
    },
    Persisted {
        size: u64,
        crc32c: u32,
    },
    Committing {
        size: u64,
        crc32c: u32,
        etag: String,
        modified_at: SystemTime,
    },
    Committed,
}

impl Journal {
    fn over(file: Staged, length: u64) -> Self {
        Self {
            file,
            length,
            named: false,
        }
    }

    /// Begins the journal of a new upload. Durable with the entry that follows.
    pub(in crate::files::local) fn create(
        folder: &Arc<Dir>,
        name: String,
        plan: &UploadPlan,
    ) -> Result<Self, Error> {
        let file = Staged::create(folder, name)?;
        let mut journal = Self::over(file, 0);
        journal.append(&Entry::Opened {
            filename: plan.path.as_str().to_owned(),
            upload_id: plan.id.as_str().to_owned(),
            owner: plan.owner.clone(),
            if_etag: match &plan.precondition {
                Precondition::Anything => None,
                Precondition::Absent => Some(String::new()),
                Precondition::Version(etag) => Some(etag.clone()),
            },
            size: plan.size,
        })?;
        Ok(journal)
    }

    /// Opens a journal and reads what it says. None where it says nothing.
    pub(in crate::files::local) fn load(
        folder: &Arc<Dir>,
        name: String,
    ) -> io::Result<Option<(Self, Record)>> {
        let file = Staged::open(folder, name)?;
        let mut length = 0;
        let mut record = None;
        let text = file.read()?;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let added = parse(line).and_then(|entry| entry.add_to(&mut record));
            if added.is_none() {
                break;
            }
            length += line.len() as u64;
        }
        // The next entry goes to where the damage begins.
        if length < text.len() as u64 {
            file.truncate(length)?;
        }
        Ok(record.map(|record| (Self::over(file, length), record)))
    }

    /// Notes that these bytes are durable.
    pub(in crate::files::local) fn persisted(&mut self, extent: Extent) -> Result<(), Error> {
        self.append(&Entry::Persisted {
            size: extent.size,
            crc32c: extent.crc32c.value(),
        })?;
        self.sync()
    }

    /// Notes that these bytes are durable, all of the file, and about to become `version`.
    pub(in crate::files::local) fn committing(
        &mut self,
        extent: Extent,
        version: &Version,
    ) -> Result<(), Error> {
        self.append(&Entry::Committing {
            size: extent.size,
            crc32c: extent.crc32c.value(),
            etag: version.etag.clone(),
            modified_at: version.modified_at,
        })?;
        self.sync()
    }

    /// Notes that the file is in its place.
    pub(in crate::files::local) fn committed(&mut self) -> Result<(), Error> {
        self.append(&Entry::Committed)?;
        self.sync()
    }

    /// Notes that somebody cares for the upload: its time begins again.
    pub(in crate::files::local) fn touch(&self, now: SystemTime) -> Result<(), Error> {
        self.file.stamp(now)
    }

    pub(in crate::files::local) fn remove(&self) {
        self.file.remove();
    }

    /// Adds an entry. Where that fails, the journal says what it said before: what is there of the
    /// new one is no whole line, and the next is written over it.
    fn append(&mut self, entry: &Entry) -> Result<(), Error> {
        let line = line(entry).map_err(|error| Error::io("write the journal", error))?;
        self.file.write(line.as_bytes(), self.length)?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// Makes durable what it says, its name, and the names of what was created before it.
    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync()?;
        if !self.named {
            sync_folder(self.file.folder()).map_err(|error| {
                // As with a file: a second sync that succeeds would say nothing.
                self.file.remove();
                Error::io("make the folder durable", error)
            })?;
            self.named = true;
        }
        Ok(())
    }
}

impl Entry {
    /// Adds what this entry says to what those before it do. None if it does not belong there.
    fn add_to(self, record: &mut Option<Record>) -> Option<()> {
        match (self, record.as_mut()) {
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
                let plan = UploadPlan {
                    path: filename.parse().ok()?,
                    id: upload_id.parse().ok()?,
                    owner,
                    precondition: Precondition::from_if_etag(if_etag),
                    size,
                };
                *record = Some(Record {
                    plan,
                    persisted: Extent::default(),
                    outcome: None,
                });
            }
            (Self::Persisted { size, crc32c }, Some(record)) => {
                record.persisted = extent(size, crc32c);
            }
            (
                Self::Committing {
                    size,
                    crc32c,
                    etag,
                    modified_at,
                },
                Some(record),
            ) => {
                record.persisted = extent(size, crc32c);
                record.outcome = Some(Outcome::Committing(Version {
                    size,
                    etag,
                    modified_at,
                }));
            }
            (Self::Committed, Some(record)) => match record.outcome.take()? {
                Outcome::Committing(version) | Outcome::Committed(version) => {
                    record.outcome = Some(Outcome::Committed(version));
                }
            },
            (Self::Opened { .. }, Some(_)) | (_, None) => return None,
        }
        Some(())
    }
}

fn extent(size: u64, crc32c: u32) -> Extent {
    Extent {
        size,
        crc32c: crc32c.into(),
    }
}

fn line(entry: &Entry) -> io::Result<String> {
    let json = serde_json::to_string(entry)?;
    let checksum = Crc32c::of(json.as_bytes()).value();
    Ok(format!("{checksum:08x} {json}\n"))
}

/// The entry of a line, if it is whole.
fn parse(line: &[u8]) -> Option<Entry> {
    let line = str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (checksum, json) = line.split_once(' ')?;
    let checksum = u32::from_str_radix(checksum, 16).ok()?;
    let whole = Crc32c::of(json.as_bytes()) == checksum.into();
    whole.then(|| serde_json::from_str(json).ok())?
}
