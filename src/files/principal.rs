//! On whose behalf something is done with files.

use super::{
    error::Error,
    path::{FilePath, InvalidPath},
};

/// Who calls, as far as the files care. Where nobody is asked who they are, all are the same one,
/// with all of the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Whose the uploads are that they open. Nobody else has to do with them.
    pub(crate) owner: Option<String>,
    /// What they get to see of the root.
    pub(crate) folder: Option<FilePath>,
}

impl Principal {
    /// A filename of this caller's.
    pub(crate) fn path(&self, filename: &str) -> Result<FilePath, Error> {
        let path: FilePath = filename.parse()?;
        match &self.folder {
            None => Ok(path),
            Some(folder) => path.within(folder).ok_or(Error::OutsideFolder),
        }
    }
}

/// Parses the folder that a caller is restricted to: a name like that of a file, which may end with
/// a slash.
pub(crate) fn parse_folder(text: &str) -> Result<FilePath, InvalidPath> {
    text.strip_suffix('/').unwrap_or(text).parse()
}
