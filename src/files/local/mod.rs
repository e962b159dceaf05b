//! The disk behind the store: plain blocking Rust over a handle of the root folder.

mod place;
mod staging;
mod sync;

use std::{
    io::{self, Read},
    path::Path,
    time::SystemTime,
};

use cap_std::{
    ambient_authority,
    fs::{Dir, File, Metadata, MetadataExt},
};

use self::{place::Place, staging::Staging, sync::sync_folder};
use super::{
    error::{Error, OpenError},
    path::FilePath,
    version::Version,
};

/// Whether a store may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Creates the root where it is missing, and keeps out every other server that would write.
    ReadWrite,
    /// Writes nothing and locks nothing: it can stand beside a server that writes, or on a disk
    /// that cannot be written.
    ReadOnly,
}

/// The files below one folder of this machine.
#[derive(Debug)]
pub(super) struct Local {
    root: Dir,
    /// None in a read-only store.
    staging: Option<Staging>,
}

impl Local {
    pub(super) fn open(root: &Path, access: Access) -> Result<Self, OpenError> {
        if access == Access::ReadWrite && !root.exists() {
            create_root(root).map_err(|source| OpenError::NotWritable {
                root: root.into(),
                source,
            })?;
        }
        let dir =
            Dir::open_ambient_dir(root, ambient_authority()).map_err(|source| {
                match source.kind() {
                    io::ErrorKind::NotFound => OpenError::Missing(root.into()),
                    io::ErrorKind::NotADirectory => OpenError::NotAFolder(root.into()),
                    _ => OpenError::NotReadable {
                        root: root.into(),
                        source,
                    },
                }
            })?;
        let staging = match access {
            Access::ReadWrite => Some(Staging::open(&dir, root)?),
            Access::ReadOnly => None,
        };
        Ok(Self { root: dir, staging })
    }

    pub(super) fn stat(&self, path: &FilePath) -> Result<Version, Error> {
        let file = Place::locate(&self.root, path)?.open()?;
        version(&file)
    }

    /// Reads a file of at most `limit` bytes whole.
    pub(super) fn read(&self, path: &FilePath, limit: u64) -> Result<Vec<u8>, Error> {
        let file = Place::locate(&self.root, path)?.open()?;
        let before = version(&file)?;
        if before.size > limit {
            return Err(Error::TooLarge {
                limit,
                size: before.size,
            });
        }
        // One byte more than it should have, to see whether it has grown.
        let mut content = Vec::with_capacity(before.size as usize + 1);
        (&file)
            .take(before.size + 1)
            .read_to_end(&mut content)
            .map_err(|source| Error::io("read the file", source))?;
        if content.len() as u64 != before.size || version(&file)? != before {
            return Err(Error::FileChanged);
        }
        Ok(content)
    }

    /// Replaces a file, or creates it and the folders on its way. Returns when the content is
    /// durable.
    pub(super) fn write(&self, path: &FilePath, content: &[u8]) -> Result<(), Error> {
        let staging = self.staging.as_ref().ok_or(Error::ReadOnly)?;
        let place = Place::locate(&self.root, path)?;
        let replaced = place.replaced()?;
        let mut staged = staging.create(replaced)?;
        staged.write(content)?;
        staged.commit(&place)
    }
}

/// Creates a folder and those on the way to it, durable.
fn create_root(root: &Path) -> io::Result<()> {
    let missing = root.ancestors().take_while(|folder| !folder.exists());
    let missing: Vec<_> = missing.filter(|folder| *folder != Path::new("")).collect();
    std::fs::create_dir_all(root)?;
    for folder in missing {
        let parent = Dir::open_ambient_dir(folder.join(".."), ambient_authority())?;
        sync_folder(&parent)?;
    }
    Ok(())
}

fn version(file: &File) -> Result<Version, Error> {
    let metadata = file
        .metadata()
        .map_err(|source| Error::io("look at the file", source))?;
    Ok(Version {
        size: metadata.len(),
        etag: etag(&metadata),
        modified_at: metadata
            .modified()
            .map_or(SystemTime::UNIX_EPOCH, |time| time.into_std()),
    })
}

/// Inode, size and time of change. A replacement is another inode as long as somebody has the old
/// one open, and `Staged::commit` stamps each version with its own nanosecond. The time of change of
/// the inode (ctime) is left out: it moves when a file that is being read is replaced.
fn etag(metadata: &Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}.{:x}",
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    )
}
