//! ReadStream: a file of any size, a chunk at a time, as fast as the client takes them.

use futures::{Stream, StreamExt, stream};
use tonic::{Request, Status};

use super::{FileService, MAX_CHUNK_BYTES, file_info, log, principal};
use crate::{
    checksum::Crc32c,
    files::{Error, FilePath, store::Download},
    pb::{self, read_stream_response::Event},
};

/// A ReadStream that nothing stands in the way of. Clones read the same.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) path: FilePath,
    pub(super) file: Download,
    /// Where the next chunk begins.
    pub(super) offset: u64,
    /// Where the last one ends.
    pub(super) end: u64,
    /// The size of all but the last.
    pub(super) chunk_bytes: u32,
}

impl FileService {
    /// Opens what was asked for; everything that can fail before the first byte fails here.
    pub(super) async fn read_stream(
        &self,
        request: Request<pb::ReadStreamRequest>,
    ) -> Result<Reading, Error> {
        let principal = principal(&request);
        let request = request.into_inner();
        let path = principal.parse_path(&request.filename)?;
        let opened = self.store.open_file(path.clone()).await;
        let file = opened.inspect_err(|error| log(&path, error))?;
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
        Ok(Reading {
            path,
            file,
            offset: request.offset,
            end: request.offset + length,
            chunk_bytes: match request.max_chunk_bytes {
                0 => self.chunk_bytes,
                wanted => wanted.min(MAX_CHUNK_BYTES),
            },
        })
    }
}

impl Reading {
    /// What comes first.
    pub(super) fn info(&self) -> pb::ReadStreamResponse {
        response(Event::Info(file_info(
            &self.path,
            self.file.version().clone(),
        )))
    }

    /// All of it, for the generated code to send. Each chunk is read when it is asked for.
    pub(super) fn responses(
        self,
    ) -> impl Stream<Item = Result<pb::ReadStreamResponse, Status>> + use<> {
        let info = stream::iter([Ok(self.info())]);
        let chunks = stream::try_unfold(self, async |mut reading| {
            let Some(chunk) = reading.chunk().await? else {
                return Ok(None);
            };
            Ok(Some((response(Event::Chunk(chunk)), reading)))
        });
        info.chain(chunks)
    }

    async fn chunk(&mut self) -> Result<Option<pb::Chunk>, Error> {
        let offset = self.offset;
        let length = u64::from(self.chunk_bytes).min(self.end - offset) as usize;
        if length == 0 {
            return Ok(None);
        }
        let read = self.file.read(offset, vec![0; length], 0..length).await;
        let data = read.inspect_err(|error| log(&self.path, error))?;
        self.offset += length as u64;
        Ok(Some(pb::Chunk {
            offset,
            crc32c: Some(Crc32c::of(&data).value()),
            data: data.into(),
        }))
    }
}

fn response(event: Event) -> pb::ReadStreamResponse {
    pb::ReadStreamResponse { event: Some(event) }
}
