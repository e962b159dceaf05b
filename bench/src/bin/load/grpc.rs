//! gRPC over HTTP/2, as far as this client needs it.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use crate::http2::{Connection, Outgoing, Source, StreamEnd};

/// The prefix of each message: one byte for the compression flag, four for the length.
pub(crate) const MESSAGE_PREFIX_LEN: usize = 5;

/// How much of a message is inspected. A chunk's fields before its data fit.
const MAX_INSPECTED_BYTES: usize = 32;

/// The minimum size of a block of repeated messages.
const MIN_BLOCK_BYTES: usize = 64 << 10;

/// Begins a call. Returns the id of its stream.
pub(crate) fn call(connection: &mut Connection, path: &str) -> u32 {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    connection.request(&headers, true)
}

/// Encodes a message with its prefix.
pub(crate) fn encode(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = message_prefix(message.encoded_len()).to_vec();
    bytes.extend(message.encode_to_vec());
    bytes
}

pub(crate) fn message_prefix(length: usize) -> [u8; MESSAGE_PREFIX_LEN] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [0, a, b, c, d]
}

/// Checks that a stream has ended with trailers, as gRPC requires.
pub(crate) fn check_end(ended: StreamEnd) -> Result<()> {
    match ended {
        StreamEnd::WithTrailers => Ok(()),
        StreamEnd::WithData => bail!("the stream has ended without trailers"),
    }
}

/// A single message of a request.
pub(crate) struct Once {
    bytes: Vec<u8>,
    sent: usize,
    is_last: bool,
}

impl Once {
    /// The only message of a request.
    pub(crate) fn whole(message: &impl prost::Message) -> Self {
        Self::message(message, true)
    }

    /// A message of a request, which ends the request if it is the last one.
    pub(crate) fn message(message: &impl prost::Message, is_last: bool) -> Self {
        Self {
            bytes: encode(message),
            sent: 0,
            is_last,
        }
    }
}

impl Source for Once {
    fn push_to(&mut self, limit: usize, to: &mut Outgoing) -> usize {
        let rest = &self.bytes[self.sent..];
        let next = &rest[..rest.len().min(limit)];
        to.push(next);
        self.sent += next.len();
        next.len()
    }

    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    fn is_last(&self) -> bool {
        self.is_last
    }
}

/// A request that repeats one message, as many of them in a frame as fit.
pub(crate) struct Repeated {
    block: Arc<[u8]>,
    /// The number of unsent bytes.
    rest: u64,
    /// The position of the next byte in the block.
    at: usize,
}

impl Repeated {
    pub(crate) fn new(message: &impl prost::Message, count: u32) -> Self {
        let message = encode(message);
        let block = message.repeat(MIN_BLOCK_BYTES.div_ceil(message.len()));
        Self {
            block: block.into(),
            rest: message.len() as u64 * u64::from(count),
            at: 0,
        }
    }

    /// The block, which must be the connection's shared buffer.
    pub(crate) fn block(&self) -> Arc<[u8]> {
        self.block.clone()
    }
}

impl Source for Repeated {
    fn push_to(&mut self, limit: usize, to: &mut Outgoing) -> usize {
        let sent = self.rest.min(limit as u64) as usize;
        let mut room = sent;
        while room > 0 {
            let end = self.block.len().min(self.at + room);
            to.push_shared(self.at..end);
            room -= end - self.at;
            self.at = end % self.block.len();
        }
        self.rest -= sent as u64;
        sent
    }

    fn is_empty(&self) -> bool {
        self.rest == 0
    }
}

/// A received message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) length: usize,
    /// The first bytes of the message, at most `MAX_INSPECTED_BYTES`.
    pub(crate) start: &'a [u8],
}

/// Finds the messages in the content of a stream, whose parts may end anywhere.
#[derive(Debug, Default)]
pub(crate) struct MessageScanner {
    prefix: [u8; MESSAGE_PREFIX_LEN],
    /// How many bytes of the prefix are received.
    prefix_len: usize,
    start: [u8; MAX_INSPECTED_BYTES],
    /// The length of the message.
    length: usize,
    received: usize,
}

impl MessageScanner {
    /// Passes the messages that end in the next bytes to `take`.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        take: &mut impl FnMut(Message<'_>) -> Result<()>,
    ) -> Result<()> {
        loop {
            // Most small messages are in one part.
            while self.prefix_len == 0
                && let Some((prefix, rest)) = bytes.split_first_chunk()
                && let length = length(*prefix)?
                && let Some((message, rest)) = rest.split_at_checked(length)
            {
                let start = &message[..length.min(MAX_INSPECTED_BYTES)];
                take(Message { length, start })?;
                bytes = rest;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            self.prefix_len += fill(&mut self.prefix[self.prefix_len..], &mut bytes);
            if self.prefix_len < MESSAGE_PREFIX_LEN {
                return Ok(());
            }
            self.length = length(self.prefix)?;
            let more = bytes.len().min(self.length - self.received);
            if let Some(start) = self.start.get_mut(self.received..) {
                fill(start, &mut &bytes[..more]);
            }
            bytes = &bytes[more..];
            self.received += more;
            if self.received < self.length {
                return Ok(());
            }
            take(Message {
                length: self.length,
                start: &self.start[..self.length.min(MAX_INSPECTED_BYTES)],
            })?;
            self.prefix_len = 0;
            self.received = 0;
        }
    }

    /// Whether the content so far ends with a complete message.
    pub(crate) fn is_whole(&self) -> bool {
        self.prefix_len == 0
    }
}

fn length(prefix: [u8; MESSAGE_PREFIX_LEN]) -> Result<usize> {
    let [compressed, length @ ..] = prefix;
    ensure!(compressed == 0, "a message is compressed");
    Ok(u32::from_be_bytes(length) as usize)
}

/// Moves as many bytes as fit. Returns their number.
fn fill(room: &mut [u8], bytes: &mut &[u8]) -> usize {
    let length = room.len().min(bytes.len());
    let (moved, rest) = bytes.split_at(length);
    room[..length].copy_from_slice(moved);
    *bytes = rest;
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&[u8]]) -> (Vec<(usize, Vec<u8>)>, bool) {
        let mut messages = MessageScanner::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut take = |message: Message<'_>| {
                found.push((message.length, message.start.to_vec()));
                Ok(())
            };
            messages.feed(piece, &mut take).unwrap();
        }
        (found, messages.is_whole())
    }

    #[test]
    fn messages_are_found_wherever_their_parts_end() {
        let contents: [&[u8]; 6] = [b"", b"hello", &[7; 32], &[8; 33], &[9; 100], b""];
        let whole = contents.map(|content| [&message_prefix(content.len())[..], content].concat());
        let whole = whole.concat();
        let expected = contents.map(|content| {
            let start = &content[..content.len().min(MAX_INSPECTED_BYTES)];
            (content.len(), start.to_vec())
        });
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let (before, after) = whole.split_at(second);
                let (before, between) = before.split_at(first);
                let (found, is_whole) = scan(&[before, between, after]);
                assert_eq!(found, expected);
                assert!(is_whole);
            }
        }
        let bytes: Vec<_> = whole.chunks(1).collect();
        assert_eq!(scan(&bytes).0, expected);
        assert!(!scan(&[&whole[..whole.len() - 1]]).1);
    }

    #[test]
    fn compressed_message_is_rejected() {
        let mut messages = MessageScanner::default();
        let result = messages.feed(&[1, 0, 0, 0, 0], &mut |_| Ok(()));
        assert!(result.is_err());
    }
}
