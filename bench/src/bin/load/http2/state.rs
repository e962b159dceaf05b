//! What both sides of a connection have said: windows, settings, and how far streams are.

use std::{mem::take, sync::Arc};

use anyhow::{Context, Result, bail, ensure};

use super::{
    frame::{
        ACK, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, GO_AWAY, HEADERS, Head,
        INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, PADDED, PING, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, frame, settings, window_update,
    },
    hpack::{self, Encoder},
    outgoing::{Outgoing, Source},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How far the server may go on while nothing is given back, in bytes.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// What windows and frames are before anything is said of them, in bytes.
const FIRST_WINDOW: u32 = 65_535;
const FIRST_MAX_FRAME: usize = 16_384;

/// How much waits to be sent, at most, in bytes.
const OUTBOX: usize = 1 << 20;

/// All of a connection but its bytes.
pub(super) struct State {
    pub(super) outgoing: Outgoing,
    encoder: Encoder,
    /// What each request says of who calls.
    pub(super) authorization: Option<String>,
    streams: Vec<Stream>,
    /// How much may be sent, on all streams together. A server may take back what it gave.
    window: i64,
    /// What a new stream may send.
    stream_window: i64,
    max_frame: usize,
    /// What came and was not given back.
    taken: u32,
    settings: bool,
    acknowledged: bool,
    pong: bool,
}

struct Stream {
    /// How much may be sent.
    window: i64,
    taken: u32,
    answered: bool,
    ended: Option<Ended>,
}

/// How a stream came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    WithData,
    WithTrailers,
}

impl State {
    /// What the client begins with, where no frame of the server may be larger than that.
    pub(super) fn new(max_frame: u32, hot: Arc<[u8]>) -> Self {
        let mut outgoing = Outgoing::new(hot);
        outgoing.push(PREFACE);
        outgoing.push(&settings(&[
            (ENABLE_PUSH, 0),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (MAX_FRAME_SIZE, max_frame),
        ]));
        outgoing.push(&window_update(0, CONNECTION_WINDOW - FIRST_WINDOW));
        // Once it is answered, what the server says at the beginning has come.
        outgoing.push(&frame(PING, 0, 0, &[0; 8]));
        Self {
            outgoing,
            encoder: Encoder::default(),
            authorization: None,
            streams: Vec::new(),
            window: FIRST_WINDOW.into(),
            stream_window: FIRST_WINDOW.into(),
            max_frame: FIRST_MAX_FRAME,
            taken: 0,
            settings: false,
            acknowledged: false,
            pong: false,
        }
    }

    /// Whether both sides have heard of the other one's settings.
    pub(super) fn has_begun(&self) -> bool {
        self.settings && self.acknowledged && self.pong
    }

    /// Begins a stream, the number of which it says.
    pub(super) fn request(&mut self, headers: &[(&str, &str)], has_content: bool) -> u32 {
        self.streams.push(Stream {
            window: self.stream_window,
            taken: 0,
            answered: false,
            ended: None,
        });
        let stream = 2 * self.streams.len() as u32 - 1;
        let flags = match has_content {
            true => END_HEADERS,
            false => END_HEADERS | END_STREAM,
        };
        let authorization = self.authorization.as_deref();
        let block = self.encoder.block(headers, authorization);
        self.outgoing.push(&frame(HEADERS, flags, stream, &block));
        stream
    }

    /// How a stream has ended, if it has.
    pub(super) fn ended(&self, stream: u32) -> Option<Ended> {
        self.streams[Self::index(stream)].ended
    }

    fn index(stream: u32) -> usize {
        (stream as usize - 1) / 2
    }

    fn stream(&mut self, stream: u32) -> Result<&mut Stream> {
        ensure!(stream % 2 == 1, "a stream that nobody began: {stream}");
        let stream = self.streams.get_mut(Self::index(stream));
        stream.context("a stream that nobody began")
    }

    /// Makes frames of a source, as large as they may be.
    pub(super) fn enqueue(&mut self, stream: u32, source: &mut impl Source) {
        let window = &mut self.streams[Self::index(stream)].window;
        while !source.is_empty() && self.outgoing.bytes() < OUTBOX {
            let limit = self.window.min(*window).min(self.max_frame as i64);
            if limit <= 0 {
                return;
            }
            let limit = limit as usize;
            let sent = self
                .outgoing
                .push_frame(limit, source, |length, last| Head {
                    length,
                    kind: DATA,
                    flags: if last { END_STREAM } else { 0 },
                    stream,
                });
            self.window -= sent as i64;
            *window -= sent as i64;
        }
    }

    /// Counts a frame of content, and gives its window back.
    pub(super) fn data_ended(&mut self, head: Head) -> Result<()> {
        let length = head.length as u32;
        let stream = self.stream(head.stream)?;
        ensure!(stream.answered, "content without a status");
        stream.taken += length;
        if head.has(END_STREAM) {
            stream.ended = Some(Ended::WithData);
        } else if stream.taken >= STREAM_WINDOW / 2 {
            let taken = take(&mut stream.taken);
            self.outgoing.push(&window_update(head.stream, taken));
        }
        self.taken += length;
        if self.taken >= CONNECTION_WINDOW / 2 {
            let taken = take(&mut self.taken);
            self.outgoing.push(&window_update(0, taken));
        }
        Ok(())
    }

    /// Does what any other frame says.
    pub(super) fn frame(&mut self, head: Head, payload: &[u8]) -> Result<()> {
        match head.kind {
            HEADERS => self.headers(head, payload)?,
            RST_STREAM => {
                let code = number(payload)?;
                // A server that has answered may say that it wants no more of the request.
                if self.stream(head.stream)?.ended.is_none() {
                    bail!("the server has reset stream {}: {code}", head.stream);
                }
            }
            SETTINGS if head.has(ACK) => self.acknowledged = true,
            SETTINGS => {
                self.settings(payload)?;
                self.settings = true;
                self.outgoing.push(&frame(SETTINGS, ACK, 0, &[]));
            }
            PING if head.has(ACK) => self.pong = true,
            PING => self.outgoing.push(&frame(PING, ACK, 0, payload)),
            GO_AWAY => {
                let word = payload.get(8..).unwrap_or_default().escape_ascii();
                let code = number(payload.get(4..).unwrap_or_default())?;
                bail!("the server goes away: {code} {word}");
            }
            WINDOW_UPDATE => {
                let more = i64::from(number(payload)?);
                match head.stream {
                    0 => self.window += more,
                    stream => self.stream(stream)?.window += more,
                }
            }
            // What is unknown has to be ignored.
            _ => {}
        }
        Ok(())
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Result<()> {
        ensure!(head.has(END_HEADERS), "headers in more than one frame");
        let stream = self.stream(head.stream)?;
        if !stream.answered {
            let before = usize::from(head.has(PADDED)) + 5 * usize::from(head.has(PRIORITY));
            let block = payload.get(before..).unwrap_or_default();
            ensure!(hpack::is_ok(block), "the status is not 200");
            stream.answered = true;
        }
        if head.has(END_STREAM) {
            stream.ended = Some(Ended::WithTrailers);
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<()> {
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = number(&setting[2..])?;
            match name {
                INITIAL_WINDOW_SIZE => {
                    let value = i64::from(value);
                    for stream in &mut self.streams {
                        stream.window += value - self.stream_window;
                    }
                    self.stream_window = value;
                }
                MAX_FRAME_SIZE => self.max_frame = value as usize,
                _ => {}
            }
        }
        Ok(())
    }
}

fn number(payload: &[u8]) -> Result<u32> {
    let bytes = payload.first_chunk().context("a frame is too short")?;
    Ok(u32::from_be_bytes(*bytes))
}
