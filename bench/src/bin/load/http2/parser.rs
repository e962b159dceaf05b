//! Frames out of what is received, however it is cut.

use std::mem::swap;

use anyhow::{Result, ensure};

use super::frame::{DATA, HEAD_BYTES, Head, PADDED};

/// What comes next in a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// Content of a stream: a piece of a DATA frame.
    Data { stream: u32, bytes: &'a [u8] },
    /// A DATA frame is over.
    DataEnd { head: Head },
    /// Any other frame, whole.
    Frame { head: Head, payload: &'a [u8] },
}

pub(crate) struct Parser {
    max_frame: usize,
    state: State,
    /// The beginning of a head, or of the payload of a frame that is not DATA.
    gathered: Vec<u8>,
    /// The last one that was gathered.
    whole: Vec<u8>,
}

#[derive(Clone, Copy)]
enum State {
    Head,
    /// The byte that says how long the padding is.
    PadLength(Head),
    /// How much content and how much padding is still to come.
    Data(Head, usize, usize),
    Other(Head),
}

impl Parser {
    /// No frame may be longer than that.
    pub(crate) fn new(max_frame: usize) -> Self {
        Self {
            max_frame,
            state: State::Head,
            gathered: Vec::new(),
            whole: Vec::new(),
        }
    }

    /// Takes from the front of `input` what makes the next event. `None` says that it is empty.
    pub(crate) fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Event<'a>>> {
        loop {
            match self.state {
                State::Head => {
                    let Some(bytes) = self.gather(HEAD_BYTES, input) else {
                        return Ok(None);
                    };
                    let head = Head::decoded(bytes.try_into()?);
                    ensure!(
                        head.length <= self.max_frame,
                        "a frame is too long: {head:?}"
                    );
                    self.state = match head.kind {
                        DATA if head.has(PADDED) => State::PadLength(head),
                        DATA => State::Data(head, head.length, 0),
                        _ => State::Other(head),
                    };
                }
                State::PadLength(head) => {
                    ensure!(head.length > 0, "padding without its length: {head:?}");
                    let Some(length) = input.split_off_first() else {
                        return Ok(None);
                    };
                    let padding = usize::from(*length);
                    ensure!(padding < head.length, "more padding than frame: {head:?}");
                    self.state = State::Data(head, head.length - 1 - padding, padding);
                }
                State::Data(head, 0, 0) => {
                    self.state = State::Head;
                    return Ok(Some(Event::DataEnd { head }));
                }
                State::Data(..) if input.is_empty() => return Ok(None),
                State::Data(head, 0, padding) => {
                    let skipped = take(padding, input).len();
                    self.state = State::Data(head, 0, padding - skipped);
                }
                State::Data(head, content, padding) => {
                    let bytes = take(content, input);
                    self.state = State::Data(head, content - bytes.len(), padding);
                    let stream = head.stream;
                    return Ok(Some(Event::Data { stream, bytes }));
                }
                State::Other(head) => {
                    if self.gathered.len() + input.len() >= head.length {
                        self.state = State::Head;
                    }
                    let payload = self.gather(head.length, input);
                    return Ok(payload.map(|payload| Event::Frame { head, payload }));
                }
            }
        }
    }

    /// The next so many bytes of the input, once they are there.
    fn gather<'a, 'input: 'a>(
        &'a mut self,
        bytes: usize,
        input: &mut &'input [u8],
    ) -> Option<&'a [u8]> {
        if self.gathered.is_empty() && input.len() >= bytes {
            return Some(take(bytes, input));
        }
        self.gathered
            .extend(take(bytes - self.gathered.len(), input));
        if self.gathered.len() < bytes {
            return None;
        }
        self.whole.clear();
        swap(&mut self.whole, &mut self.gathered);
        Some(&self.whole)
    }
}

/// The next bytes of the input, so many at most.
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

    /// What comes out when this goes in, piece by piece.
    fn parsed(pieces: &[&[u8]]) -> Result<Vec<String>> {
        let mut parser = Parser::new(100);
        let mut content = Vec::new();
        let mut events = Vec::new();
        for mut input in pieces.iter().copied() {
            while let Some(event) = parser.next(&mut input)? {
                match event {
                    Event::Data { bytes, .. } => content.extend(bytes),
                    Event::DataEnd { head } => {
                        events.push(format!("{head:?} {}", content.escape_ascii()));
                        content.clear();
                    }
                    Event::Frame { head, payload } => {
                        events.push(format!("{head:?} {}", payload.escape_ascii()));
                    }
                }
            }
            assert!(input.is_empty());
        }
        Ok(events)
    }

    #[test]
    fn however_the_frames_are_cut_they_are_the_same() {
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
        let events = parsed(&[&whole]).unwrap();
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
        let last = Head {
            length: 4,
            kind: WINDOW_UPDATE,
            flags: 0,
            stream: 1,
        };
        assert!(events[7].starts_with(&format!("{last:?}")));

        let bytes: Vec<_> = whole.chunks(1).collect();
        assert_eq!(parsed(&bytes).unwrap(), events);
        for first in 0..whole.len() {
            for second in first..whole.len() {
                let (before, after) = whole.split_at(second);
                let (before, between) = before.split_at(first);
                assert_eq!(parsed(&[before, between, after]).unwrap(), events);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(parsed(&[&frame(DATA, PADDED, 1, b"\x03abc")[..]]).is_ok());
        assert!(parsed(&[&frame(DATA, PADDED, 1, b"\x04abc")[..]]).is_err());
        assert!(parsed(&[&frame(DATA, PADDED, 1, b"")[..]]).is_err());
        assert!(parsed(&[&frame(PING, 0, 0, &[0; 101])[..]]).is_err());
    }
}
