//! The names of an upload's files.

use sha2::{Digest, Sha256};

use crate::files::{
    path::FilePath,
    upload::{UploadId, UploadSpec},
};

/// The suffix of the file with the received bytes.
const DATA_SUFFIX: &str = ".data";
/// The suffix of the journal.
const JOURNAL_SUFFIX: &str = ".journal";

/// The lengths of the two digests in a key, in hexadecimal digits.
const OWNER_DIGITS: usize = 16;
const UPLOAD_DIGITS: usize = 64;

/// Identifies an upload: a digest of its owner, and one of its filename, id and owner. The first is enough to
/// count the uploads of an owner without a look into them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UploadKey(String);

impl UploadKey {
    pub(super) fn of_spec(spec: &UploadSpec) -> Self {
        Self::of(&spec.path, &spec.id, spec.owner.as_deref())
    }

    pub(super) fn of(path: &FilePath, id: &UploadId, owner: Option<&str>) -> Self {
        let owner_digest = match owner {
            Some(owner) => hex(&Sha256::digest(owner))[..OWNER_DIGITS].to_owned(),
            None => "0".repeat(OWNER_DIGITS),
        };
        // NUL separates the parts: it occurs in no filename and no id.
        let mut digest = Sha256::new()
            .chain_update(path.as_str())
            .chain_update([0])
            .chain_update(id.as_str());
        if let Some(owner) = owner {
            digest = digest.chain_update([0]).chain_update(owner);
        }
        Self(format!("{owner_digest}-{}", hex(&digest.finalize())))
    }

    /// The text of a key, if it is one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_digest = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let (owner, upload) = text.split_once('-')?;
        let is_key = is_digest(owner, OWNER_DIGITS) && is_digest(upload, UPLOAD_DIGITS);
        is_key.then(|| Self(text.to_owned()))
    }

    /// The key in the name of a file, if it is one of an unfinished upload's two.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let key = name
            .strip_suffix(DATA_SUFFIX)
            .or_else(|| name.strip_suffix(JOURNAL_SUFFIX))?;
        Self::parse(key)
    }

    /// The key in the name of a file with received bytes.
    pub(super) fn from_data_name(name: &str) -> Option<Self> {
        Self::parse(name.strip_suffix(DATA_SUFFIX)?)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest of the owner. None without authentication.
    pub(super) fn owner(&self) -> Option<&str> {
        let owner = &self.0[..OWNER_DIGITS];
        owner.bytes().any(|digit| digit != b'0').then_some(owner)
    }

    pub(super) fn data_name(&self) -> String {
        format!("{}{DATA_SUFFIX}", self.0)
    }

    pub(super) fn journal_name(&self) -> String {
        format!("{}{JOURNAL_SUFFIX}", self.0)
    }
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
