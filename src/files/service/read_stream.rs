//! Opens the part of a file that a ReadStream asks for.

use super::{failure::log_io_error, file_info::file_info, limits::MAX_CHUNK_BYTES};
use crate::{
    files::{
        error::Error,
        path::FilePath,
        principal::Principal,
        store::{OpenFile, Store},
    },
    pb::{self, read_stream_response::Event},
};

/// An open file, and the part of it that is still to be sent.
#[derive(Clone)]
pub(super) struct FileRange {
    pub(super) path: FilePath,
    pub(super) file: OpenFile,
    /// The offset of the next chunk, in bytes.
    pub(super) offset: u64,
    /// The end of the last chunk, in bytes.
    pub(super) end: u64,
    /// The size of all chunks but the last.
    pub(super) chunk_bytes: u32,
}

impl FileRange {
    /// Opens the requested file, and checks the request against it. Later errors are those of reads only.
    ///
    /// `default_chunk_bytes` is the size of chunks if the client requests none.
    pub(super) async fn open(
        store: &Store,
        principal: &Principal,
        request: pb::ReadStreamRequest,
        default_chunk_bytes: u32,
    ) -> Result<Self, Error> {
        let path = principal.parse_path(&request.filename)?;
        let opened = store.open_file(path.clone()).await;
        let file = opened.inspect_err(|error| log_io_error(&path, error))?;
        let version = file.version();
        if !request.if_etag.is_empty() && request.if_etag != version.etag {
            let etag = Some(version.etag.clone());
            return Err(Error::EtagMismatch { etag });
        }
        let size = version.size;
        if request.offset > size {
            return Err(Error::OffsetBeyondEnd { size });
        }
        let rest = size - request.offset;
        let length = match request.length {
            0 => rest,
            length => length.min(rest),
        };
        Ok(Self {
            path,
            file,
            offset: request.offset,
            end: request.offset + length,
            chunk_bytes: match request.max_chunk_bytes {
                0 => default_chunk_bytes,
                requested => requested.min(MAX_CHUNK_BYTES),
            },
        })
    }

    /// The first response: the version of the file.
    pub(super) fn info(&self) -> pb::ReadStreamResponse {
        let info = file_info(&self.path, self.file.version().clone());
        pb::ReadStreamResponse {
            event: Some(Event::Info(info)),
        }
    }
}
