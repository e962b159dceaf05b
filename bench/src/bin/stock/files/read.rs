use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use bytes::Bytes;
use muxs_bench::{
    crc32c,
    pb::{Chunk, FileInfo, ReadStreamRequest, ReadStreamResponse, read_stream_response::Event},
};
use tokio::sync::mpsc::Sender;
use tonic::Status;

use super::MAX_CHUNK_BYTES;

/// The size of chunks in bytes, if the client requests none.
const CHUNK_BYTES: usize = 256 * 1024;

/// Sends a file: its info, then its content.
pub(super) fn send_file(
    path: &Path,
    request: ReadStreamRequest,
    to: &Sender<Result<ReadStreamResponse, Status>>,
) -> Result<(), Status> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut offset = request.offset;
    file.seek(SeekFrom::Start(offset))?;
    let chunk_bytes = match request.max_chunk_bytes as usize {
        0 => CHUNK_BYTES,
        wanted => wanted.min(MAX_CHUNK_BYTES),
    };
    let mut next = Event::Info(FileInfo {
        filename: request.filename,
        size,
        ..FileInfo::default()
    });
    loop {
        let event = Some(next);
        if to.blocking_send(Ok(ReadStreamResponse { event })).is_err() {
            // The client is gone.
            return Ok(());
        }
        let mut data = Vec::with_capacity(chunk_bytes);
        (&mut file)
            .take(chunk_bytes as u64)
            .read_to_end(&mut data)?;
        if data.is_empty() {
            return Ok(());
        }
        let chunk = Chunk {
            offset,
            crc32c: Some(crc32c(0, &data)),
            data: Bytes::from(data),
        };
        offset += chunk.data.len() as u64;
        next = Event::Chunk(chunk);
    }
}
