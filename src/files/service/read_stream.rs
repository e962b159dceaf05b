//! ReadStream: a file of any size, a chunk at a time, as fast as the client takes them.

use futures::{Stream, StreamExt, stream};
use tonic::Status;

use super::{Files, MAX_CHUNK_BYTES, file_info, log};
use crate::{
    files::{Error, FilePath, store::Download},
    pb,
};

impl Files {
    /// Opens what was asked for; everything that can fail before the first byte fails here.
    pub(super) async fn read_stream(
        &self,
        request: pb::ReadStreamRequest,
    ) -> Result<impl Stream<Item = Result<pb::ReadStreamResponse, Status>> + use<>, Error> {
        let path: FilePath = request.filename.parse()?;
        let opened = self.store.open_file(path.clone()).await;
        let file = opened.inspect_err(|error| log(&path, error))?;
        let version = file.version().clone();
        if !request.if_etag.is_empty() && request.if_etag != version.etag {
            let etag = Some(version.etag);
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
        let chunk_bytes = match request.max_chunk_bytes {
            0 => self.chunk_bytes,
            wanted => wanted.min(MAX_CHUNK_BYTES),
        };
        let info = pb::read_stream_response::Event::Info(file_info(&path, version));
        let chunks =
            chunks(file, request.offset, request.offset + length, chunk_bytes).map(move |chunk| {
                let chunk = chunk.inspect_err(|error| log(&path, error))?;
                Ok(response(pb::read_stream_response::Event::Chunk(chunk)))
            });
        Ok(stream::iter([Ok(response(info))]).chain(chunks))
    }
}

/// The bytes from `offset` to `end`. Each chunk is read when it is asked for.
fn chunks(
    file: Download,
    offset: u64,
    end: u64,
    chunk_bytes: u32,
) -> impl Stream<Item = Result<pb::Chunk, Error>> {
    stream::try_unfold((file, offset), move |(file, offset)| async move {
        let length = u64::from(chunk_bytes).min(end - offset);
        if length == 0 {
            return Ok(None);
        }
        let (bytes, crc32c) = file.read(offset, length as usize).await?;
        let chunk = pb::Chunk {
            offset,
            crc32c: Some(crc32c.value()),
            data: bytes.into(),
        };
        Ok(Some((chunk, (file, offset + length))))
    })
}

fn response(event: pb::read_stream_response::Event) -> pb::ReadStreamResponse {
    pb::ReadStreamResponse { event: Some(event) }
}
