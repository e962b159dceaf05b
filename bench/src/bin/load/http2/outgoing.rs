//! What is to be sent. Content that is the same again and again is never copied.

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

use super::frame::{HEAD_BYTES, Head};

/// How many pieces one system call sends, at most.
const PIECES: usize = 256;

/// How much of what was sent is kept, at most, in bytes.
const FORGET: usize = 64 << 10;

/// The content of a stream.
pub(crate) trait Source {
    /// Adds the next content, as much as there is but at most `limit` bytes, and says how much.
    fn give(&mut self, limit: usize, to: &mut Outgoing) -> usize;

    /// Whether all that there is now was given.
    fn is_empty(&self) -> bool;

    /// Whether nothing comes after it.
    fn is_last(&self) -> bool {
        true
    }
}

/// No content.
pub(crate) struct Nothing;

impl Source for Nothing {
    fn give(&mut self, _: usize, _: &mut Outgoing) -> usize {
        0
    }

    fn is_empty(&self) -> bool {
        true
    }
}

/// Bytes in the order in which they are sent.
pub(crate) struct Outgoing {
    /// What there is as often as it is needed.
    hot: Arc<[u8]>,
    /// What there is once, and how much of it was sent and forgotten.
    own: Vec<u8>,
    forgotten: usize,
    pieces: VecDeque<Piece>,
    bytes: usize,
}

enum Piece {
    Hot(Range<usize>),
    Own(Range<usize>),
}

impl Outgoing {
    pub(crate) fn new(hot: Arc<[u8]>) -> Self {
        Self {
            hot,
            own: Vec::new(),
            forgotten: 0,
            pieces: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How much is to be sent.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let from = self.forgotten + self.own.len();
        self.own.extend(bytes);
        let to = from + bytes.len();
        self.bytes += bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Own(last)) if last.end == from => last.end = to,
            _ => self.pieces.push_back(Piece::Own(from..to)),
        }
    }

    /// Adds a part of what is hot.
    pub(crate) fn push_hot(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        self.bytes += range.len();
        self.pieces.push_back(Piece::Hot(range));
    }

    /// Adds a frame with the next content of a stream, and says how much that is.
    pub(crate) fn push_frame(
        &mut self,
        limit: usize,
        source: &mut impl Source,
        head: impl FnOnce(usize, bool) -> Head,
    ) -> usize {
        let at = self.own.len();
        self.push(&[0; HEAD_BYTES]);
        let length = source.give(limit, self);
        let head = head(length, source.is_empty() && source.is_last());
        self.own[at..at + HEAD_BYTES].copy_from_slice(&head.encoded());
        length
    }

    /// Sends as much as the socket takes without waiting.
    pub(crate) fn send(&mut self, socket: &TcpStream) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let count = self.pieces.len().min(PIECES);
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(match piece {
                    Piece::Hot(range) => &self.hot[range.clone()],
                    Piece::Own(range) => {
                        &self.own[range.start - self.forgotten..range.end - self.forgotten]
                    }
                });
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let mut nothing = SendAncillaryBuffer::default();
            match sendmsg(socket, &slices[..count], &mut nothing, flags) {
                Ok(sent) => self.sent(sent),
                Err(Errno::INTR) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sent(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(Piece::Hot(range) | Piece::Own(range)) = self.pieces.front_mut() {
            if range.len() > bytes {
                range.start += bytes;
                break;
            }
            bytes -= range.len();
            self.pieces.pop_front();
        }
        self.forget();
    }

    /// Lets go of what was sent, not each time but before it is much.
    fn forget(&mut self) {
        let end = self.forgotten + self.own.len();
        let kept = self.pieces.iter().find_map(|piece| match piece {
            Piece::Own(range) => Some(range.start),
            Piece::Hot(_) => None,
        });
        let sent = kept.unwrap_or(end) - self.forgotten;
        if sent == self.own.len() || sent >= FORGET {
            self.own.drain(..sent);
            self.forgotten += sent;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener, thread};

    use super::*;

    #[test]
    fn pieces_arrive_in_order_whatever_the_socket_takes() {
        let hot: Arc<[u8]> = (0..100_000).map(|at| at as u8).collect();
        let mut outgoing = Outgoing::new(hot.clone());
        let mut expected = Vec::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        // More than socket buffers hold, so that it stops in the middle of something.
        for number in 0..2_000_u32 {
            outgoing.push(&number.to_be_bytes());
            outgoing.push(&[7; 50]);
            outgoing.push_hot(number as usize..hot.len() / 2);
            expected.extend(number.to_be_bytes());
            expected.extend([7; 50]);
            expected.extend(&hot[number as usize..hot.len() / 2]);
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
        assert!(outgoing.own.is_empty());
        drop(socket);
        assert!(reader.join().unwrap() == expected);
    }
}
