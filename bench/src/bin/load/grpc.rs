//! gRPC over HTTP/2, as far as a client has to look at it.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use crate::http2::{Connection, Ended, Outgoing, Source};

/// What stands in front of a message: whether it is compressed, and its length.
pub(crate) const HEAD_BYTES: usize = 5;

/// How much of a message is looked at: in a chunk, all before its data.
const BEGINNING_BYTES: usize = 32;

/// How much of a message that is repeated is laid out, at least, in bytes.
const BLOCK_BYTES: usize = 64 << 10;

/// Begins a call.
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

/// A message as it travels.
pub(crate) fn encoded(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = head(message.encoded_len()).to_vec();
    bytes.extend(message.encode_to_vec());
    bytes
}

pub(crate) fn head(length: usize) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [0, a, b, c, d]
}

/// Fails unless a stream has ended as the streams of gRPC do.
pub(crate) fn check_end(ended: Ended) -> Result<()> {
    match ended {
        Ended::WithTrailers => Ok(()),
        Ended::WithData => bail!("the stream has ended without trailers"),
    }
}

/// Content that is there from the beginning.
pub(crate) struct Once {
    bytes: Vec<u8>,
    given: usize,
    last: bool,
}

impl Once {
    /// A message that is all of a request.
    pub(crate) fn whole(message: &impl prost::Message) -> Self {
        Self::message(message, true)
    }

    /// A message of a request, and whether it is the last one.
    pub(crate) fn message(message: &impl prost::Message, last: bool) -> Self {
        Self {
            bytes: encoded(message),
            given: 0,
            last,
        }
    }
}

impl Source for Once {
    fn give(&mut self, limit: usize, to: &mut Outgoing) -> usize {
        let rest = &self.bytes[self.given..];
        let next = &rest[..rest.len().min(limit)];
        to.push(next);
        self.given += next.len();
        next.len()
    }

    fn is_empty(&self) -> bool {
        self.given == self.bytes.len()
    }

    fn is_last(&self) -> bool {
        self.last
    }
}

/// The same message again and again, as many of them in a frame as it may hold.
pub(crate) struct Repeated {
    block: Arc<[u8]>,
    /// How many bytes are still to be given.
    rest: u64,
    /// Where the next ones are in the block.
    at: usize,
}

impl Repeated {
    pub(crate) fn new(message: &impl prost::Message, count: u32) -> Self {
        let message = encoded(message);
        let block = message.repeat(BLOCK_BYTES.div_ceil(message.len()));
        Self {
            block: block.into(),
            rest: message.len() as u64 * u64::from(count),
            at: 0,
        }
    }

    /// What has to be hot on the connection that it goes to.
    pub(crate) fn block(&self) -> Arc<[u8]> {
        self.block.clone()
    }
}

impl Source for Repeated {
    fn give(&mut self, limit: usize, to: &mut Outgoing) -> usize {
        let given = self.rest.min(limit as u64) as usize;
        let mut room = given;
        while room > 0 {
            let end = self.block.len().min(self.at + room);
            to.push_hot(self.at..end);
            room -= end - self.at;
            self.at = end % self.block.len();
        }
        self.rest -= given as u64;
        given
    }

    fn is_empty(&self) -> bool {
        self.rest == 0
    }
}

/// A message that has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) length: usize,
    /// The first bytes of it; all, if they are few.
    pub(crate) beginning: &'a [u8],
}

/// Finds the messages in the content of a stream, however it is cut.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    head: [u8; HEAD_BYTES],
    /// How much of the head is there.
    gathered: usize,
    beginning: [u8; BEGINNING_BYTES],
    /// Of the message.
    length: usize,
    received: usize,
}

impl Messages {
    /// Hands out the messages that end in the next bytes.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        take: &mut impl FnMut(Message<'_>) -> Result<()>,
    ) -> Result<()> {
        loop {
            // Most small messages come whole.
            while self.gathered == 0
                && let Some((head, rest)) = bytes.split_first_chunk()
                && let length = length(*head)?
                && let Some((message, rest)) = rest.split_at_checked(length)
            {
                let beginning = &message[..length.min(BEGINNING_BYTES)];
                take(Message { length, beginning })?;
                bytes = rest;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            self.gathered += fill(&mut self.head[self.gathered..], &mut bytes);
            if self.gathered < HEAD_BYTES {
                return Ok(());
            }
            self.length = length(self.head)?;
            let more = bytes.len().min(self.length - self.received);
            if let Some(beginning) = self.beginning.get_mut(self.received..) {
                fill(beginning, &mut &bytes[..more]);
            }
            bytes = &bytes[more..];
            self.received += more;
            if self.received < self.length {
                return Ok(());
            }
            take(Message {
                length: self.length,
                beginning: &self.beginning[..self.length.min(BEGINNING_BYTES)],
            })?;
            self.gathered = 0;
            self.received = 0;
        }
    }

    /// Whether no message has begun that has not ended.
    pub(crate) fn is_whole(&self) -> bool {
        self.gathered == 0
    }
}

fn length(head: [u8; HEAD_BYTES]) -> Result<usize> {
    let [compressed, length @ ..] = head;
    ensure!(compressed == 0, "a message is compressed");
    Ok(u32::from_be_bytes(length) as usize)
}

/// Moves what fits, and says how much that is.
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

    fn found(pieces: &[&[u8]]) -> (Vec<(usize, Vec<u8>)>, bool) {
        let mut messages = Messages::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut take = |message: Message<'_>| {
                found.push((message.length, message.beginning.to_vec()));
                Ok(())
            };
            messages.feed(piece, &mut take).unwrap();
        }
        (found, messages.is_whole())
    }

    #[test]
    fn however_the_messages_are_cut_they_are_the_same() {
        let contents: [&[u8]; 6] = [b"", b"hello", &[7; 32], &[8; 33], &[9; 100], b""];
        let whole = contents.map(|content| [&head(content.len())[..], content].concat());
        let whole = whole.concat();
        let expected = contents.map(|content| {
            let beginning = &content[..content.len().min(BEGINNING_BYTES)];
            (content.len(), beginning.to_vec())
        });
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let (before, after) = whole.split_at(second);
                let (before, between) = before.split_at(first);
                let (found, is_whole) = found(&[before, between, after]);
                assert_eq!(found, expected);
                assert!(is_whole);
            }
        }
        let bytes: Vec<_> = whole.chunks(1).collect();
        assert_eq!(found(&bytes).0, expected);
        assert!(!found(&[&whole[..whole.len() - 1]]).1);
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut messages = Messages::default();
        let result = messages.feed(&[1, 0, 0, 0, 0], &mut |_| Ok(()));
        assert!(result.is_err());
    }
}
