//! A local file as the source of an upload.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::PathBuf,
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{Work, blocking, checksum_of_prefix, read_at};
use crate::{
    checksum::Crc32c,
    client::{
        error::Error,
        source::{Piece, Source},
    },
};

pub(in crate::client) struct LocalFile {
    path: PathBuf,
    canonical: PathBuf,
    file: Arc<File>,
    /// As it was opened.
    metadata: Metadata,
    piece: u64,
    /// Where the next piece starts, and the checksum of all before it.
    offset: u64,
    checksum: Crc32c,
    /// The piece at `offset`, being read ahead.
    reading: Work<io::Result<Piece>>,
    /// Checksums of prefixes, by their length: of what is durable, and of what has been sent since.
    known: BTreeMap<u64, Crc32c>,
}

impl LocalFile {
    pub(in crate::client) async fn open(path: PathBuf) -> Result<Self, Error> {
        blocking(move || {
            let cannot = |operation| Error::local(operation, &path);
            // Looked at before it is opened: opening a FIFO would wait for its other end.
            let is_file = fs::metadata(&path).map_err(cannot("open"))?.is_file();
            if !is_file {
                let why = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
                return Err(cannot("send")(why));
            }
            let canonical = path.canonicalize().map_err(cannot("open"))?;
            let file = File::open(&path).map_err(cannot("open"))?;
            let metadata = file.metadata().map_err(cannot("look at"))?;
            Ok(Self {
                file: Arc::new(file),
                canonical,
                metadata,
                piece: 0,
                offset: 0,
                checksum: Crc32c::default(),
                reading: Work::none(),
                known: BTreeMap::from([(0, Crc32c::default())]),
                path,
            })
        })
        .await
    }

    pub(in crate::client) fn size(&self) -> u64 {
        self.metadata.len()
    }

    /// The id under which every run uploads this version of the file to `filename` on the same
    /// condition.
    pub(in crate::client) fn upload_id(&self, filename: &str, if_etag: Option<&str>) -> String {
        let facts = [
            self.metadata.dev(),
            self.metadata.ino(),
            self.metadata.size(),
            self.metadata.mtime().cast_unsigned(),
            self.metadata.mtime_nsec().cast_unsigned(),
            u64::from(if_etag.is_some()),
        ];
        let facts = facts.map(u64::to_be_bytes);
        let texts: [&[u8]; 3] = [
            filename.as_bytes(),
            self.canonical.as_os_str().as_bytes(),
            if_etag.unwrap_or_default().as_bytes(),
        ];
        hash(
            texts
                .into_iter()
                .chain(facts.iter().map(<[u8; 8]>::as_slice)),
        )
    }

    fn read_ahead(&self) -> Work<io::Result<Piece>> {
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let length = (self.size() - offset).min(self.piece);
        if length == 0 {
            return Work::none();
        }
        Work::start(move || Ok(Piece::new(offset, read_at(&file, offset, length)?.into())))
    }

    /// What it means that the file could not be read.
    fn unreadable(&self, error: io::Error) -> Error {
        match error.kind() {
            // It has become shorter.
            io::ErrorKind::UnexpectedEof => Error::SourceChanged(self.path.clone()),
            _ => Error::local("read", &self.path)(error),
        }
    }

    async fn check_unchanged(&self) -> Result<(), Error> {
        let file = Arc::clone(&self.file);
        let now = blocking(move || file.metadata()).await;
        let now = now.map_err(Error::local("look at", &self.path))?;
        let version = |metadata: &Metadata| {
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            (metadata.size(), modified)
        };
        match version(&now) == version(&self.metadata) {
            true => Ok(()),
            false => Err(Error::SourceChanged(self.path.clone())),
        }
    }
}

impl Source for LocalFile {
    async fn resume(&mut self, length: u64, checksum: Crc32c, piece: usize) -> Result<(), Error> {
        self.reading = Work::none();
        let differs = Error::PrefixDiffers { length };
        if length > self.size() {
            return Err(differs);
        }
        let nearest = self.known.range(..=length).next_back();
        let nearest = nearest.map_or_else(Default::default, |(at, sum)| (*at, *sum));
        let found = checksum_of_prefix(&self.file, length, nearest)
            .await
            .map_err(|error| self.unreadable(error))?;
        if found != checksum {
            self.check_unchanged().await?;
            return Err(differs);
        }
        self.known.insert(length, checksum);
        (self.offset, self.checksum) = (length, checksum);
        self.piece = piece as u64;
        self.reading = self.read_ahead();
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        if self.reading.is_none() {
            return Ok(None);
        }
        let piece = self.reading.done().await;
        let piece = piece.map_err(|error| self.unreadable(error))?;
        self.offset = piece.end();
        self.checksum = piece.behind(self.checksum);
        self.known.insert(self.offset, self.checksum);
        self.reading = self.read_ahead();
        Ok(Some(piece))
    }

    async fn finish(&mut self) -> Result<(u64, Crc32c), Error> {
        self.check_unchanged().await?;
        Ok((self.size(), self.checksum))
    }

    fn durable(&mut self, length: u64) {
        // What is known of shorter prefixes is not needed again, but for the longest: it saves the
        // reading of everything before it.
        if let Some((&nearest, _)) = self.known.range(..=length).next_back() {
            self.known = self.known.split_off(&nearest);
        }
    }

    /// Follows from what is known to every run, so that a later one can continue this upload too.
    fn next_id(&self, id: &str, etag: &str) -> String {
        hash([id.as_bytes(), etag.as_bytes()])
    }
}

/// SHA-256 of several texts, in hexadecimal.
fn hash<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        // Its length in front, so that no two sequences are the same bytes.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
