//! The terms of an upload, independent of how its bytes are stored.

use std::{str::FromStr, time::SystemTime};

use uuid::Uuid;

use super::path::FilePath;
use crate::checksum::Prefix;

const MAX_ID_BYTES: usize = 128;

/// The client's id for an upload, unique per filename and owner: 1 to 128 bytes of visible ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadId(String);

impl UploadId {
    /// Generates a unique id.
    pub(crate) fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// The id as the client wrote it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a valid upload id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upload_id is not 1 to {MAX_ID_BYTES} characters of visible ASCII")]
pub struct InvalidUploadId;

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(text: &str) -> Result<Self, InvalidUploadId> {
        let is_valid = (1..=MAX_ID_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        match is_valid {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidUploadId),
        }
    }
}

/// A condition on the file that a commit replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// None: any file, or no file.
    Anything,
    /// The file must not exist.
    Absent,
    /// The file must have this etag.
    Version(String),
}

impl Precondition {
    /// Converts the field `if_etag`: unset, empty, or an etag.
    pub(crate) fn from_if_etag(if_etag: Option<String>) -> Self {
        match if_etag {
            None => Self::Anything,
            Some(etag) if etag.is_empty() => Self::Absent,
            Some(etag) => Self::Version(etag),
        }
    }
}

/// The target of an upload. A stream that resumes the upload must give the same spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadSpec {
    /// The file to create or replace.
    pub(crate) path: FilePath,
    /// Identifies the upload, together with the path and the owner.
    pub(crate) id: UploadId,
    /// The only caller with access to the upload. None without authentication.
    pub(crate) owner: Option<String>,
    pub(crate) precondition: Precondition,
    /// The size of the whole file in bytes, if the client knows it.
    pub(crate) size: Option<u64>,
}

/// The state of an unfinished upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The durable prefix. The client resumes at its end.
    pub(crate) persisted: Prefix,
    /// When the upload is discarded, unless a stream opens it before.
    pub(crate) expires_at: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_parser_accepts_only_short_visible_ascii() {
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
