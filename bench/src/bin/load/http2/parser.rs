//! Parses received bytes, whose parts may end anywhere, into frames.

use std::mem::swap;

use anyhow::{Result, ensure};

use super::frame::{DATA, FRAME_HEADER_LEN, FrameHeader, PADDED};

/// A frame, or a part of a DATA frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// Content of a stream: a part of a DATA frame.
    Data { stream: u32, bytes: &'a [u8] },
    /// The end of a DATA frame.
    DataEnd { header: FrameHeader },
    /// Any other frame, complete.
    Frame {
        header: FrameHeader,
        payload: &'a [u8],
    },
}

pub(crate) struct Parser {
    max_frame: usize,
    state: State,
    /// The received part of a header, or of the payload of a frame other than DATA.
    partial: Vec<u8>,
    /// The bytes of `partial` after its last part was received.
    complete: Vec<u8>,
}

#[derive(Clone, Copy)]
enum State {
    Header,
    /// The next byte is the length of the padding.
    PadLength(FrameHeader),
    /// The remaining bytes of content and of padding.
    Data(FrameHeader, usize, usize),
    Other(FrameHeader),
}

impl Parser {
    /// A parser that rejects frames whose payload is longer than `max_frame` bytes.
    pub(crate) fn new(max_frame: usize) -> Self {
        Self {
            max_frame,
            state: State::Header,
            partial: Vec::new(),
            complete: Vec::new(),
        }
    }

    /// Takes the next event from the front of `input`. None if all of it is taken.
    pub(crate) fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Event<'a>>> {
        loop {
            match self.state {
                State::Header => {
                    let Some(bytes) = self.take_exactly(FRAME_HEADER_LEN, input) else {
                        return Ok(None);
                    };
                    let header = FrameHeader::decode(bytes.try_into()?);
                    ensure!(
                        header.length <= self.max_frame,
                        "a frame is too long: {header:?}"
                    );
                    self.state = match header.kind {
                        DATA if header.has(PADDED) => State::PadLength(header),
                        DATA => State::Data(header, header.length, 0),
                        _ => State::Other(header),
                    };
                }
                State::PadLength(header) => {
                    ensure!(header.length > 0, "padding without its length: {header:?}");
                    let Some(length) = input.split_off_first() else {
                        return Ok(None);
                    };
                    let padding = usize::from(*length);
                    ensure!(
                        padding < header.length,
                        "more padding than frame: {header:?}"
                    );
                    self.state = State::Data(header, header.length - 1 - padding, padding);
                }
                State::Data(header, 0, 0) => {
                    self.state = State::Header;
                    return Ok(Some(Event::DataEnd { header }));
                }
                State::Data(..) if input.is_empty() => return Ok(None),
                State::Data(header, 0, padding) => {
                    let skipped = take(padding, input).len();
                    self.state = State::Data(header, 0, padding - skipped);
                }
                State::Data(header, content, padding) => {
                    let bytes = take(content, input);
                    self.state = State::Data(header, content - bytes.len(), padding);
                    let stream = header.stream;
                    return Ok(Some(Event::Data { stream, bytes }));
                }
                State::Other(header) => {
                    if self.partial.len() + input.len() >= header.length {
                        self.state = State::Header;
                    }
                    let payload = self.take_exactly(header.length, input);
                    return Ok(payload.map(|payload| Event::Frame { header, payload }));
                }
            }
        }
    }

    /// Takes the next `bytes` bytes. None if there are fewer, which are kept for the next call.
    fn take_exactly<'a, 'input: 'a>(
        &'a mut self,
        bytes: usize,
        input: &mut &'input [u8],
    ) -> Option<&'a [u8]> {
        if self.partial.is_empty() && input.len() >= bytes {
            return Some(take(bytes, input));
        }
        self.partial.extend(take(bytes - self.partial.len(), input));
        if self.partial.len() < bytes {
            return None;
        }
        self.complete.clear();
        swap(&mut self.complete, &mut self.partial);
        Some(&self.complete)
    }
}

/// Takes at most `bytes` bytes from the front of the input.
fn take<'input>(bytes: usize, input: &mut &'input [u8]) -> &'input [u8] {
    let (taken, rest) = input.split_at(bytes.min(input.len()));
    *input = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::{
        super::frame::{PING, WINDOW_UPDATE, frame, window_update},
        *,
    };

    /// Parses the input in pieces. Returns each frame's header and content as text.
    fn parse(pieces: &[&[u8]]) -> Result<Vec<String>> {
        let mut parser = Parser::new(100);
        let mut content = Vec::new();
        let mut events = Vec::new();
        for mut input in pieces.iter().copied() {
            while let Some(event) = parser.next(&mut input)? {
                match event {
                    Event::Data { bytes, .. } => content.extend(bytes),
                    Event::DataEnd { header } => {
                        events.push(format!("{header:?} {}", content.escape_ascii()));
                        content.clear();
                    }
                    Event::Frame { header, payload } => {
                        events.push(format!("{header:?} {}", payload.escape_ascii()));
                    }
                }
            }
            assert!(input.is_empty());
        }
        Ok(events)
    }

    #[test]
    fn frames_are_parsed_wherever_their_parts_end() {
        let frames = [
            frame(DATA, 0, 1, b"hello"),
            frame(DATA, PADDED, 3, b"\x03padded\0\0\0"),
            frame(DATA, PADDED, 3, b"\0not"),
            frame(DATA, PADDED, 3, b"\x02\0\0"),
            frame(DATA, 1, 1, b""),
            frame(PING, 0, 0, b"are you?"),
            frame(9, 0, 0, b""),
            window_update(1, 77),
        ];
        let whole = frames.concat();
        let events = parse(&[&whole]).unwrap();
        let contents: Vec<_> = events
            .iter()
            .map(|event| event.split("} ").last().unwrap())
            .collect();
        assert_eq!(
            contents,
            [
                "hello",
                "padded",
                "not",
                "",
                "",
                "are you?",
                "",
                "\\x00\\x00\\x00M"
            ]
        );
        let last = FrameHeader {
            length: 4,
            kind: WINDOW_UPDATE,
            flags: 0,
            stream: 1,
        };
        assert!(events[7].starts_with(&format!("{last:?}")));

        let bytes: Vec<_> = whole.chunks(1).collect();
        assert_eq!(parse(&bytes).unwrap(), events);
        for first in 0..whole.len() {
            for second in first..whole.len() {
                let (before, after) = whole.split_at(second);
                let (before, between) = before.split_at(first);
                assert_eq!(parse(&[before, between, after]).unwrap(), events);
            }
        }
    }

    #[test]
    fn malformed_frames_are_rejected() {
        assert!(parse(&[&frame(DATA, PADDED, 1, b"\x03abc")[..]]).is_ok());
        assert!(parse(&[&frame(DATA, PADDED, 1, b"\x04abc")[..]]).is_err());
        assert!(parse(&[&frame(DATA, PADDED, 1, b"")[..]]).is_err());
        assert!(parse(&[&frame(PING, 0, 0, &[0; 101])[..]]).is_err());
    }
}
