//! Responses of ReadStream without a copy: the file is read into the buffer that is sent.
//!
//! The generated code would encode each chunk into a new buffer, at the cost of an allocation and one more
//! pass over its bytes. But all that precedes a chunk's data in its message is known before the read, except
//! a checksum of fixed size. So the data is read to its final position, and the header is written in front.
//!
//! The handler puts a [`FileRange`] into the extensions of its response; this wrapper replaces the body. The
//! tests compare it, byte for byte, with a body of the generated code.

use std::{
    ops::Range,
    sync::Arc,
    task::{Context, Poll},
};

use async_stream::stream;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::{failure::log_io_error, read_stream::FileRange};
use crate::{
    checksum::Crc32c, codec::MESSAGE_PREFIX_LEN, failure::trailers, files::error::Error, pb,
};

/// The numbers of the fields that are encoded here.
const RESPONSE_CHUNK: u32 = 2;
const CHUNK_DATA: u32 = 15;

/// The longest header of a chunk: the message prefix; key and length of the chunk; its offset and checksum;
/// key and length of its data.
const MAX_HEADER_BYTES: usize = MESSAGE_PREFIX_LEN + 1 + 4 + 11 + 5 + 1 + 4;

/// The maximum size of a group of small chunks, which are read and sent together.
///
/// The generated code groups small messages likewise.
const MAX_GROUP_BYTES: usize = 32 * 1024;

/// The alignment of the data in the buffer: copies from the page cache are four times as fast if source and
/// target have the same offset in their pages.
const PAGE_BYTES: usize = 4096;

/// Replaces the bodies of successful ReadStream responses. Passes all other responses through.
#[derive(Clone, Debug)]
pub(crate) struct ZeroCopyReads<S>(pub(super) S);

impl<S: NamedService> NamedService for ZeroCopyReads<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for ZeroCopyReads<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(request).map_ok(replace_body).boxed()
    }
}

fn replace_body(mut response: Response<Body>) -> Response<Body> {
    match response.extensions_mut().remove() {
        Some(range) => response.map(|_generated| file_body(range)),
        None => response,
    }
}

/// The info, the chunks, and the status.
fn file_body(range: FileRange) -> Body {
    let frames = stream! {
        yield Ok::<_, Status>(Frame::data(encode_message(&range.info())));
        let mut chunks = Chunks::new(range);
        let status = loop {
            match chunks.next().await {
                Ok(Some(messages)) => yield Ok(Frame::data(messages)),
                Ok(None) => break Status::ok(""),
                Err(error) => break error.into(),
            }
        };
        yield Ok(Frame::trailers(trailers(&status)));
    };
    Body::new(StreamBody::new(frames))
}

/// Encodes a message with its prefix.
fn encode_message(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(MESSAGE_PREFIX_LEN + len);
    put_message_prefix(&mut bytes, len);
    message
        .encode(&mut bytes)
        .expect("the buffer has the encoded length");
    bytes.freeze()
}

fn put_message_prefix(to: &mut impl BufMut, len: usize) {
    to.put_u8(0);
    to.put_u32(len as u32);
}

/// The chunks that are still to be sent.
struct Chunks {
    range: FileRange,
    buffers: BufferPool,
}

impl Chunks {
    fn new(range: FileRange) -> Self {
        let buffers = BufferPool::default();
        Self { range, buffers }
    }

    /// Reads the next chunk, or a group of small ones. None at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let headers = self.next_headers();
        let headers_len: usize = headers.clone().map(ChunkHeader::len).sum();
        let data_len: usize = headers.clone().map(|header| header.data_len).sum();
        if data_len == 0 {
            return Ok(None);
        }
        let len = headers_len + data_len;
        let max_len = headers.clone().count() * MAX_HEADER_BYTES + data_len;
        let mut buffer = self.buffers.take(max_len + PAGE_BYTES);
        let start = buffer[headers_len..].as_ptr().align_offset(PAGE_BYTES);
        let mut unmoved = start + headers_len;

        let FileRange {
            path, file, offset, ..
        } = &mut self.range;
        // The data is read behind the space for all headers, where that of a single chunk, or of the last
        // one, is in its final position.
        let read = file.read(*offset, buffer, unmoved..start + len).await;
        buffer = read.inspect_err(|error| log_io_error(path, error))?;
        *offset += data_len as u64;
        let mut end = start;
        for header in headers {
            let data = end + header.len();
            if data != unmoved {
                buffer.copy_within(unmoved..unmoved + header.data_len, data);
            }
            unmoved += header.data_len;
            let (before, data) = buffer[end..].split_at_mut(header.len());
            header.put(Crc32c::of(&data[..header.data_len]), before);
            end += header.len() + header.data_len;
        }
        Ok(Some(self.buffers.lend(buffer, start..end)))
    }

    /// The headers of the next group of chunks.
    fn next_headers(&self) -> impl Iterator<Item = ChunkHeader> + Clone + use<> {
        let &FileRange {
            offset,
            end,
            chunk_bytes,
            ..
        } = &self.range;
        let chunk_bytes = chunk_bytes as usize;
        let group = MAX_GROUP_BYTES / (chunk_bytes + MAX_HEADER_BYTES);
        let offsets = (offset..end).step_by(chunk_bytes);
        offsets.take(group.max(1)).map(move |offset| ChunkHeader {
            offset,
            data_len: chunk_bytes.min((end - offset) as usize),
        })
    }
}

/// All bytes of a message with a chunk that precede the chunk's data.
#[derive(Clone, Copy)]
struct ChunkHeader {
    offset: u64,
    /// In bytes.
    data_len: usize,
}

impl ChunkHeader {
    /// The length in bytes.
    fn len(self) -> usize {
        MESSAGE_PREFIX_LEN + self.message_len() - self.data_len
    }

    fn put(self, crc32c: Crc32c, mut to: &mut [u8]) {
        put_message_prefix(&mut to, self.message_len());
        put_field_header(&mut to, RESPONSE_CHUNK, self.chunk_len());
        self.fields(crc32c)
            .encode(&mut to)
            .expect("the buffer has the encoded length");
        put_field_header(&mut to, CHUNK_DATA, self.data_len);
    }

    fn message_len(self) -> usize {
        let chunk_len = self.chunk_len();
        field_header_len(RESPONSE_CHUNK, chunk_len) + chunk_len
    }

    fn chunk_len(self) -> usize {
        let fields = self.fields(Crc32c::default());
        fields.encoded_len() + field_header_len(CHUNK_DATA, self.data_len) + self.data_len
    }

    /// The fields of the chunk that precede its data, which is the last field.
    fn fields(self, crc32c: Crc32c) -> pb::Chunk {
        pb::Chunk {
            offset: self.offset,
            crc32c: Some(crc32c.value()),
            data: Bytes::new(),
        }
    }
}

fn field_header_len(field: u32, len: usize) -> usize {
    key_len(field) + encoded_len_varint(len as u64)
}

fn put_field_header(to: &mut impl BufMut, field: u32, len: usize) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(len as u64, to);
}

/// The buffers of one stream that are free for reuse. A stream has two at most: one that HTTP/2 has not sent
/// yet, and the one for the next chunk.
#[derive(Clone, Default)]
struct BufferPool(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that is being sent. Dropping it returns the buffer to its pool.
struct PooledBuffer {
    buffer: Vec<u8>,
    part: Range<usize>,
    pool: BufferPool,
}

impl BufferPool {
    /// Takes a buffer of at least `len` bytes.
    fn take(&self, len: usize) -> Vec<u8> {
        let returned = self.0.lock().pop();
        returned
            .filter(|buffer| buffer.len() >= len)
            .unwrap_or_else(|| vec![0; len])
    }

    /// Wraps a part of a buffer, to be sent.
    fn lend(&self, buffer: Vec<u8>, part: Range<usize>) -> Bytes {
        Bytes::from_owner(PooledBuffer {
            buffer,
            part,
            pool: self.clone(),
        })
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[self.part.clone()]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.pool.0.lock().push(buffer);
    }
}

#[cfg(test)]
mod tests;
