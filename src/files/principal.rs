//! The caller on whose behalf files are accessed.

use super::{
    error::Error,
    path::{FilePath, InvalidPath},
};

/// The caller of a file operation. Without authentication, all callers are the default one, with access to
/// the whole root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The owner of the uploads that this caller opens. No other caller has access to them.
    pub(crate) owner: Option<String>,
    /// The directory that the caller is restricted to.
    pub(crate) folder: Option<FilePath>,
}

impl Principal {
    /// Parses a filename, and checks that the caller may access it.
    pub(crate) fn parse_path(&self, filename: &str) -> Result<FilePath, Error> {
        let path: FilePath = filename.parse()?;
        match &self.folder {
            None => Ok(path),
            Some(folder) => path.restrict_to(folder).ok_or(Error::OutsideFolder),
        }
    }
}

/// Parses the directory that a caller is restricted to: a filename, with an optional slash at the end.
pub(crate) fn parse_folder(text: &str) -> Result<FilePath, InvalidPath> {
    text.strip_suffix('/').unwrap_or(text).parse()
}
