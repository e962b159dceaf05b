//! The names of an upload's two files.

use sha2::{Digest, Sha256};

use crate::files::{
    path::FilePath,
    upload::{UploadId, UploadSpec},
};

/// The suffix of the file with the received bytes.
const DATA_SUFFIX: &str = ".data";
/// The suffix of the journal.
const JOURNAL_SUFFIX: &str = ".journal";

/// Identifies an upload: the SHA-256 of its filename, id and owner, in 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UploadKey(String);

impl UploadKey {
    pub(super) fn of_spec(spec: &UploadSpec) -> Self {
        Self::of(&spec.path, &spec.id, spec.owner.as_deref())
    }

    pub(super) fn of(path: &FilePath, id: &UploadId, owner: Option<&str>) -> Self {
        // NUL separates the parts: it occurs in no filename and no id.
        let mut digest = Sha256::new()
            .chain_update(path.as_str())
            .chain_update([0])
            .chain_update(id.as_str());
        if let Some(owner) = owner {
            digest = digest.chain_update([0]).chain_update(owner);
        }
        let digest = digest.finalize();
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The key in the name of a file, if it is one of an upload's two.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let key = name
            .strip_suffix(DATA_SUFFIX)
            .or_else(|| name.strip_suffix(JOURNAL_SUFFIX))?;
        let is_digest = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| Self(key.to_owned()))
    }

    /// The key in the name of a file with received bytes.
    pub(super) fn from_data_name(name: &str) -> Option<Self> {
        Self::from_file_name(name).filter(|_| name.ends_with(DATA_SUFFIX))
    }

    pub(super) fn data_name(&self) -> String {
        format!("{}{DATA_SUFFIX}", self.0)
    }

    pub(super) fn journal_name(&self) -> String {
        format!("{}{JOURNAL_SUFFIX}", self.0)
    }
}
