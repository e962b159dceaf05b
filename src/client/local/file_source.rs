//! A local file as the source of an upload.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{
    background_task::{BackgroundTask, run_blocking},
    file_reader::FileReader,
    read::{read_exact_at, read_prefix},
};
use crate::{
    checksum::{Crc32c, Prefix},
    client::{
        error::Error,
        source::{SourceChunk, UploadSource},
    },
};

pub(in crate::client) struct FileSource {
    path: PathBuf,
    canonical: PathBuf,
    file: Arc<File>,
    /// The metadata when the file was opened.
    metadata: Metadata,
    has_size: bool,
    chunk_len: u64,
    /// The chunks returned so far.
    returned: Prefix,
    /// Reads the next chunk ahead.
    reading: BackgroundTask<io::Result<SourceChunk>>,
    /// Checksums of prefixes, by length: the longest durable prefix, and those returned since.
    known: BTreeMap<u64, Crc32c>,
}

impl FileSource {
    pub(in crate::client) async fn open(path: PathBuf) -> Result<Self, Error> {
        run_blocking(move || {
            let cannot = |operation| Error::local(operation, &path);
            // Looked at before it is opened: opening a FIFO would wait for its other end.
            let found = fs::metadata(&path).map_err(cannot("open"))?;
            if found.is_dir() {
                return Err(cannot("send")(io::ErrorKind::IsADirectory.into()));
            }
            if !found.is_file() {
                let why = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
                return Err(cannot("send")(why));
            }
            let canonical = path.canonicalize().map_err(cannot("open"))?;
            let file = File::open(&path).map_err(cannot("open"))?;
            let metadata = file.metadata().map_err(cannot("look at"))?;
            let has_size = has_size(&file, metadata.len()).map_err(cannot("read"))?;
            Ok(Self {
                file: Arc::new(file),
                canonical,
                metadata,
                chunk_len: 0,
                returned: Prefix::default(),
                reading: BackgroundTask::idle(),
                known: BTreeMap::from([(0, Crc32c::default())]),
                path,
                has_size,
            })
        })
        .await
    }

    pub(in crate::client) fn size(&self) -> u64 {
        self.metadata.len()
    }

    /// Whether the size of the file is about its bytes. It is not in `/proc`, nor in `/sys`.
    pub(in crate::client) fn has_size(&self) -> bool {
        self.has_size
    }

    pub(in crate::client) fn into_reader(self) -> FileReader {
        FileReader::new(self.file)
    }

    /// Derives the upload id that every run on this machine uses for these paths and this precondition.
    ///
    /// The file's version is not part of it: the checksums show whether an earlier run sent the same bytes.
    pub(in crate::client) fn upload_id(&self, filename: &str, if_etag: Option<&str>) -> String {
        derive_upload_id(&self.canonical, filename, if_etag)
    }

    /// Derives the same id for a file that need not be there any more, and is not opened.
    pub(in crate::client) async fn upload_id_of(
        path: PathBuf,
        filename: &str,
        if_etag: Option<&str>,
    ) -> Result<String, Error> {
        let canonical = run_blocking(move || {
            let canonical = match path.canonicalize() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => canonical_name(&path),
                found => found,
            };
            canonical.map_err(Error::local("find", &path))
        });
        Ok(derive_upload_id(&canonical.await?, filename, if_etag))
    }

    fn read_ahead(&self) -> BackgroundTask<io::Result<SourceChunk>> {
        let (file, offset) = (Arc::clone(&self.file), self.returned.len);
        let len = (self.size() - offset).min(self.chunk_len);
        if len == 0 {
            return BackgroundTask::idle();
        }
        BackgroundTask::spawn(move || {
            let data = read_exact_at(&file, offset, len)?;
            Ok(SourceChunk::new(offset, data.into()))
        })
    }

    fn read_error(&self, error: io::Error) -> Error {
        match error.kind() {
            // The file has become shorter.
            io::ErrorKind::UnexpectedEof => Error::SourceChanged(self.path.clone()),
            _ => Error::local("read", &self.path)(error),
        }
    }

    async fn check_unchanged(&self) -> Result<(), Error> {
        let (file, size) = (Arc::clone(&self.file), self.size());
        let look = move || Ok((is_longer(&file, size)?, file.metadata()?));
        let looked = run_blocking(look).await;
        let (is_longer, now) = looked.map_err(Error::local("look at", &self.path))?;
        let version = |metadata: &Metadata| {
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            // A program may set the time of the modification back, but not this one.
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            (metadata.size(), modified, changed)
        };
        match !is_longer && version(&now) == version(&self.metadata) {
            true => Ok(()),
            false => Err(Error::SourceChanged(self.path.clone())),
        }
    }
}

impl UploadSource for FileSource {
    async fn resume(&mut self, persisted: Prefix, chunk_len: usize) -> Result<(), Error> {
        self.reading = BackgroundTask::idle();
        let differs = Error::PrefixDiffers {
            length: persisted.len,
        };
        if persisted.len > self.size() {
            return Err(differs);
        }
        let nearest = self.known.range(..=persisted.len).next_back();
        let nearest =
            nearest.map_or_else(Prefix::default, |(&len, &crc32c)| Prefix { len, crc32c });
        let found = read_prefix(&self.file, persisted.len, nearest)
            .await
            .map_err(|error| self.read_error(error))?;
        if found != persisted {
            self.check_unchanged().await?;
            return Err(differs);
        }
        self.known.insert(persisted.len, persisted.crc32c);
        self.returned = persisted;
        self.chunk_len = chunk_len as u64;
        self.reading = self.read_ahead();
        Ok(())
    }

    async fn next_chunk(&mut self) -> Result<Option<SourceChunk>, Error> {
        if self.reading.is_idle() {
            return Ok(None);
        }
        let chunk = self.reading.join().await;
        let chunk = chunk.map_err(|error| self.read_error(error))?;
        self.returned = chunk.append_to(self.returned);
        self.known.insert(self.returned.len, self.returned.crc32c);
        self.reading = self.read_ahead();
        Ok(Some(chunk))
    }

    async fn finish(&mut self) -> Result<Prefix, Error> {
        self.check_unchanged().await?;
        Ok(Prefix {
            len: self.size(),
            ..self.returned
        })
    }

    async fn whole(&mut self) -> Result<Option<Prefix>, Error> {
        let whole = read_prefix(&self.file, self.size(), Prefix::default())
            .await
            .map_err(|error| self.read_error(error))?;
        self.check_unchanged().await?;
        Ok(Some(whole))
    }

    fn release(&mut self, len: u64) {
        // The longest durable prefix stays: the next attempt extends its checksum instead of reading the
        // file from the start.
        if let Some((&nearest, _)) = self.known.range(..=len).next_back() {
            self.known = self.known.split_off(&nearest);
        }
    }
}

fn derive_upload_id(canonical: &Path, filename: &str, if_etag: Option<&str>) -> String {
    let machine = rustix::system::uname();
    let texts = [
        filename.as_bytes(),
        canonical.as_os_str().as_bytes(),
        machine.nodename().to_bytes(),
    ];
    hash(texts.into_iter().chain(if_etag.map(str::as_bytes)))
}

/// The canonical path of a name without a file, in a directory that exists.
fn canonical_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::NotFound)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(parent.canonicalize()?.join(name))
}

/// Whether a file of this size has as many bytes.
fn has_size(file: &File, size: u64) -> io::Result<bool> {
    match size {
        0 => Ok(!is_longer(file, 0)?),
        _ => is_longer(file, size - 1),
    }
}

/// Whether the file has a byte after the first `len`, whatever its size says.
fn is_longer(file: &File, len: u64) -> io::Result<bool> {
    Ok(file.read_at(&mut [0], len)? > 0)
}

/// The SHA-256 of a sequence of texts, in hexadecimal.
fn hash<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        // The length prefix keeps different sequences from being the same bytes.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of some filesystems has more bytes than its size says.
    #[test]
    fn byte_beyond_the_size_is_found() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"ab", 0).unwrap();
        assert!(is_longer(&file, 0).unwrap());
        assert!(is_longer(&file, 1).unwrap());
        assert!(!is_longer(&file, 2).unwrap());
    }

    #[test]
    fn size_without_its_bytes_is_found() {
        let file = tempfile::tempfile().unwrap();
        assert!(has_size(&file, 0).unwrap());
        assert!(!has_size(&file, 1).unwrap());
        file.write_all_at(b"ab", 0).unwrap();
        assert!(!has_size(&file, 0).unwrap());
        assert!(has_size(&file, 2).unwrap());
        assert!(!has_size(&file, 3).unwrap());
    }
}
