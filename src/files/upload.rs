//! What an upload is, wherever its bytes are.

use std::{str::FromStr, time::SystemTime};

use uuid::Uuid;

use super::path::FilePath;
use crate::checksum::Crc32c;

const MAX_ID_BYTES: usize = 128;

/// The client's name for an upload. With the filename, it is what the upload is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadId(String);

impl UploadId {
    /// A name that nobody else has.
    pub(crate) fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// The name as the client wrote it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not the name of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an upload_id has 1 to {MAX_ID_BYTES} characters of visible ASCII")]
pub struct InvalidUploadId;

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(text: &str) -> Result<Self, InvalidUploadId> {
        let legal = (1..=MAX_ID_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        match legal {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidUploadId),
        }
    }
}

/// What a file may replace when it is put in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Whatever is there.
    Anything,
    /// Nothing: the file is created.
    Absent,
    /// The version with this etag only.
    Version(String),
}

impl Precondition {
    /// As `if_etag` says it: unset, empty, or an etag.
    pub(crate) fn from_if_etag(if_etag: Option<String>) -> Self {
        match if_etag {
            None => Self::Anything,
            Some(etag) if etag.is_empty() => Self::Absent,
            Some(etag) => Self::Version(etag),
        }
    }
}

/// What an upload is to become. Whoever continues it has to want the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadPlan {
    /// The file it becomes.
    pub(crate) path: FilePath,
    /// With the path, and whose it is, what it is known by.
    pub(crate) id: UploadId,
    /// Who may have to do with it, where callers say who they are.
    pub(crate) owner: Option<String>,
    /// What the file may replace.
    pub(crate) precondition: Precondition,
    /// Of the whole file in bytes, where the client knows it.
    pub(crate) size: Option<u64>,
}

/// The first bytes of a file: how many, and their checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) size: u64,
    pub(crate) crc32c: Crc32c,
}

impl Extent {
    /// These bytes with `next` behind them.
    pub(crate) fn followed_by(self, next: Self) -> Self {
        Self {
            size: self.size + next.size,
            crc32c: self.crc32c.combine(next.crc32c, next.size),
        }
    }
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// What is durable, and where to continue.
    pub(crate) persisted: Extent,
    /// When the upload is discarded, unless somebody goes on with it.
    pub(crate) expires_at: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_visible() {
        for id in [
            "a",
            "7f3c-19",
            "!~",
            &"x".repeat(128),
            UploadId::random().as_str(),
        ] {
            assert_eq!(id.parse::<UploadId>().unwrap().as_str(), id);
        }
        for id in ["", " ", "a b", "a\n", "ñ", "\u{7f}", &"x".repeat(129)] {
            assert_eq!(id.parse::<UploadId>(), Err(InvalidUploadId), "{id:?}");
        }
    }
}
