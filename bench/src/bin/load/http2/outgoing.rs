//! The queue of bytes to send. Repeated content is never copied.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    net::TcpStream,
    ops::Range,
    sync::Arc,
};

use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags, sendmsg},
};

use super::frame::{FRAME_HEADER_LEN, FrameHeader};

/// The most parts that one system call sends.
const MAX_PARTS_PER_SEND: usize = 256;

/// The most sent bytes that are kept.
const MAX_SENT_BYTES: usize = 64 << 10;

/// The content of a stream.
pub(crate) trait Source {
    /// Pushes the next content, at most `limit` bytes, and returns its length.
    fn push_to(&mut self, limit: usize, to: &mut Outgoing) -> usize;

    /// Whether all content that is available now has been pushed.
    fn is_empty(&self) -> bool;

    /// Whether the content ends the stream.
    fn is_last(&self) -> bool {
        true
    }
}

/// No content.
pub(crate) struct Nothing;

impl Source for Nothing {
    fn push_to(&mut self, _: usize, _: &mut Outgoing) -> usize {
        0
    }

    fn is_empty(&self) -> bool {
        true
    }
}

/// Bytes in the order in which they are sent.
pub(crate) struct Outgoing {
    /// A buffer whose parts may be sent any number of times.
    shared: Arc<[u8]>,
    /// Bytes that are sent once, without the `discarded` ones in front.
    owned: Vec<u8>,
    discarded: usize,
    parts: VecDeque<Part>,
    bytes: usize,
}

enum Part {
    Shared(Range<usize>),
    Owned(Range<usize>),
}

impl Outgoing {
    pub(crate) fn new(shared: Arc<[u8]>) -> Self {
        Self {
            shared,
            owned: Vec::new(),
            discarded: 0,
            parts: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The number of queued bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let from = self.discarded + self.owned.len();
        self.owned.extend(bytes);
        let to = from + bytes.len();
        self.bytes += bytes.len();
        match self.parts.back_mut() {
            Some(Part::Owned(last)) if last.end == from => last.end = to,
            _ => self.parts.push_back(Part::Owned(from..to)),
        }
    }

    /// Pushes a part of the shared buffer.
    pub(crate) fn push_shared(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        self.bytes += range.len();
        self.parts.push_back(Part::Shared(range));
    }

    /// Pushes a frame with the next content of a stream, and returns the content's length.
    pub(crate) fn push_frame(
        &mut self,
        limit: usize,
        source: &mut impl Source,
        header: impl FnOnce(usize, bool) -> FrameHeader,
    ) -> usize {
        let at = self.owned.len();
        self.push(&[0; FRAME_HEADER_LEN]);
        let length = source.push_to(limit, self);
        let header = header(length, source.is_empty() && source.is_last());
        self.owned[at..at + FRAME_HEADER_LEN].copy_from_slice(&header.encode());
        length
    }

    /// Sends as much as the socket takes without waiting.
    pub(crate) fn send(&mut self, socket: &TcpStream) -> io::Result<()> {
        while !self.parts.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_PARTS_PER_SEND];
            let count = self.parts.len().min(MAX_PARTS_PER_SEND);
            for (slice, part) in slices.iter_mut().zip(&self.parts) {
                *slice = IoSlice::new(match part {
                    Part::Shared(range) => &self.shared[range.clone()],
                    Part::Owned(range) => {
                        &self.owned[range.start - self.discarded..range.end - self.discarded]
                    }
                });
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let mut nothing = SendAncillaryBuffer::default();
            match sendmsg(socket, &slices[..count], &mut nothing, flags) {
                Ok(sent) => self.on_sent(sent),
                Err(Errno::INTR) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn on_sent(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(Part::Shared(range) | Part::Owned(range)) = self.parts.front_mut() {
            if range.len() > bytes {
                range.start += bytes;
                break;
            }
            bytes -= range.len();
            self.parts.pop_front();
        }
        self.discard_sent();
    }

    /// Discards bytes that are sent, once they are many.
    fn discard_sent(&mut self) {
        let end = self.discarded + self.owned.len();
        let kept = self.parts.iter().find_map(|part| match part {
            Part::Owned(range) => Some(range.start),
            Part::Shared(_) => None,
        });
        let sent = kept.unwrap_or(end) - self.discarded;
        if sent == self.owned.len() || sent >= MAX_SENT_BYTES {
            self.owned.drain(..sent);
            self.discarded += sent;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener, thread};

    use super::*;

    #[test]
    fn parts_arrive_in_order_over_a_full_socket() {
        let shared: Arc<[u8]> = (0..100_000).map(|at| at as u8).collect();
        let mut outgoing = Outgoing::new(shared.clone());
        let mut expected = Vec::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        // More than socket buffers hold, so that sending stops in the middle of a part.
        for number in 0..2_000_u32 {
            outgoing.push(&number.to_be_bytes());
            outgoing.push(&[7; 50]);
            outgoing.push_shared(number as usize..shared.len() / 2);
            expected.extend(number.to_be_bytes());
            expected.extend([7; 50]);
            expected.extend(&shared[number as usize..shared.len() / 2]);
            assert_eq!(outgoing.bytes(), expected.len());
        }
        let reader = thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            received
        });
        while !outgoing.is_empty() {
            outgoing.send(&socket).unwrap();
            thread::yield_now();
        }
        assert!(outgoing.owned.is_empty());
        drop(socket);
        assert!(reader.join().unwrap() == expected);
    }
}
