//! ReadStream without a copy: the messages of a file, made in the buffers that it is read into.
//!
//! gRPC's generated code is given a chunk and writes the message into a buffer of its own, which is
//! one more pass over every byte, and new memory for each. But all that stands in front of the bytes
//! of a chunk is known before they are read, except a checksum of fixed size. So here they are read
//! to where they have to be, the head is put in front of them, and HTTP/2 takes the whole as it is.
//!
//! The generated service stays as it is, and makes the same messages: what it answers a ReadStream
//! with carries the [`Reading`], from which this makes the body anew.

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

use super::{log, read_stream::Reading};
use crate::{checksum::Crc32c, codec::MESSAGE_PREFIX_LEN, failure::trailers, files::Error, pb};

/// Fields of the contract that are encoded here.
const RESPONSE_CHUNK: u32 = 2;
const CHUNK_DATA: u32 = 15;

/// The longest head of a chunk, in bytes: gRPC's, a key and a length for the chunk, its offset and
/// checksum, a key and a length for its data.
const LONGEST_HEAD: usize = MESSAGE_PREFIX_LEN + 1 + 4 + 11 + 5 + 1 + 4;

/// As many small chunks as fit in this, in bytes, travel together: as for any other message.
const GATHERED_BYTES: usize = 32 * 1024;

/// Bytes of the file are read to where a page begins. Processors copy from one page to another at a
/// quarter of the speed where the same byte is a few bytes further on in the second.
const PAGE_BYTES: usize = 4096;

/// Answers ReadStream with bodies of its own making. All else is left as it is.
#[derive(Clone, Debug)]
pub(crate) struct Framed<S>(pub(super) S);

impl<S: NamedService> NamedService for Framed<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for Framed<S>
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
        self.0.call(request).map_ok(framed).boxed()
    }
}

fn framed(mut response: Response<Body>) -> Response<Body> {
    match response.extensions_mut().remove() {
        Some(reading) => response.map(|_generated| body(reading)),
        None => response,
    }
}

/// The info, the chunks, and how it ended.
fn body(reading: Reading) -> Body {
    let frames = stream! {
        yield Ok::<_, Status>(Frame::data(message(&reading.info())));
        let mut chunks = Chunks::new(reading);
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

/// A message as the generated code would send it.
fn message(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(MESSAGE_PREFIX_LEN + length);
    put_head(&mut bytes, length);
    message
        .encode(&mut bytes)
        .expect("there is room for what it said it takes");
    bytes.freeze()
}

fn put_head(to: &mut impl BufMut, length: usize) {
    to.put_u8(0);
    to.put_u32(length as u32);
}

/// What is still to be sent of a file.
struct Chunks {
    reading: Reading,
    buffers: Buffers,
}

impl Chunks {
    fn new(reading: Reading) -> Self {
        let buffers = Buffers::default();
        Self { reading, buffers }
    }

    /// The next chunk; or several, where they are small. None at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let heads = self.heads();
        let heads_length: usize = heads.clone().map(Head::length).sum();
        let data_length: usize = heads.clone().map(|head| head.data_length).sum();
        if data_length == 0 {
            return Ok(None);
        }
        let length = heads_length + data_length;
        let longest = heads.clone().count() * LONGEST_HEAD + data_length;
        let mut buffer = self.buffers.take(longest + PAGE_BYTES);
        let begin = buffer[heads_length..].as_ptr().align_offset(PAGE_BYTES);
        let mut unread = begin + heads_length;

        let Reading {
            path, file, offset, ..
        } = &mut self.reading;
        // Behind all the heads. The last chunk belongs there; and so the only one, if there is one.
        let read = file.read(*offset, buffer, unread..begin + length).await;
        buffer = read.inspect_err(|error| log(path, error))?;
        *offset += data_length as u64;
        let mut filled = begin;
        for head in heads {
            let data = filled + head.length();
            if data != unread {
                buffer.copy_within(unread..unread + head.data_length, data);
            }
            unread += head.data_length;
            let (before, data) = buffer[filled..].split_at_mut(head.length());
            head.put(Crc32c::of(&data[..head.data_length]), before);
            filled += head.length() + head.data_length;
        }
        Ok(Some(self.buffers.lend(buffer, begin..filled)))
    }

    /// Those of the next chunks that travel together.
    fn heads(&self) -> impl Iterator<Item = Head> + Clone + use<> {
        let &Reading {
            offset,
            end,
            chunk_bytes,
            ..
        } = &self.reading;
        let chunk_bytes = chunk_bytes as usize;
        let together = GATHERED_BYTES / (chunk_bytes + LONGEST_HEAD);
        let offsets = (offset..end).step_by(chunk_bytes);
        offsets.take(together.max(1)).map(move |offset| Head {
            offset,
            data_length: chunk_bytes.min((end - offset) as usize),
        })
    }
}

/// All of a message with a chunk that comes before the bytes of the file.
#[derive(Clone, Copy)]
struct Head {
    offset: u64,
    data_length: usize,
}

impl Head {
    /// In bytes.
    fn length(self) -> usize {
        MESSAGE_PREFIX_LEN + self.message_length() - self.data_length
    }

    fn put(self, crc32c: Crc32c, mut to: &mut [u8]) {
        put_head(&mut to, self.message_length());
        put_field_head(&mut to, RESPONSE_CHUNK, self.chunk_length());
        self.fields(crc32c)
            .encode(&mut to)
            .expect("there is room for what it said it takes");
        put_field_head(&mut to, CHUNK_DATA, self.data_length);
    }

    fn message_length(self) -> usize {
        let chunk_length = self.chunk_length();
        field_head(RESPONSE_CHUNK, chunk_length) + chunk_length
    }

    fn chunk_length(self) -> usize {
        let fields = self.fields(Crc32c::default());
        fields.encoded_len() + field_head(CHUNK_DATA, self.data_length) + self.data_length
    }

    /// Those of the chunk, but its data, which is the last.
    fn fields(self, crc32c: Crc32c) -> pb::Chunk {
        pb::Chunk {
            offset: self.offset,
            crc32c: Some(crc32c.value()),
            data: Bytes::new(),
        }
    }
}

fn field_head(field: u32, length: usize) -> usize {
    key_len(field) + encoded_len_varint(length as u64)
}

fn put_field_head(to: &mut impl BufMut, field: u32, length: usize) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(length as u64, to);
}

/// Memory of one stream that is used again and again. There are as many buffers as HTTP/2 keeps for
/// a client that does not read: that of a chunk on its way, and that of the next.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer on its way. When it is dropped, there is one more to be taken.
struct Lent {
    buffer: Vec<u8>,
    part: Range<usize>,
    buffers: Buffers,
}

impl Buffers {
    /// One of at least `length` bytes.
    fn take(&self, length: usize) -> Vec<u8> {
        let returned = self.0.lock().pop();
        returned
            .filter(|buffer| buffer.len() >= length)
            .unwrap_or_else(|| vec![0; length])
    }

    /// A part of one.
    fn lend(&self, buffer: Vec<u8>, part: Range<usize>) -> Bytes {
        Bytes::from_owner(Lent {
            buffer,
            part,
            buffers: self.clone(),
        })
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[self.part.clone()]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.buffers.0.lock().push(buffer);
    }
}

#[cfg(test)]
mod tests;
