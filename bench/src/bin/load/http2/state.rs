//! The state of a connection: flow-control windows, settings, and streams.

use std::{mem::take, sync::Arc};

use anyhow::{Context, Result, bail, ensure};

use super::{
    frame::{
        ACK, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, FrameHeader, GO_AWAY, HEADERS,
        INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, PADDED, PING, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, frame, settings, window_update,
    },
    hpack::{self, Encoder},
    outgoing::{Outgoing, Source},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The flow-control windows for the server, in bytes.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// The initial windows and the largest frame before any settings, in bytes.
const DEFAULT_WINDOW: u32 = 65_535;
const DEFAULT_MAX_FRAME_BYTES: usize = 16_384;

/// The number of queued bytes above which no further frames are queued.
const MAX_QUEUED_BYTES: usize = 1 << 20;

/// A connection without its socket.
pub(super) struct State {
    pub(super) outgoing: Outgoing,
    encoder: Encoder,
    /// The `authorization` header of each request.
    pub(super) authorization: Option<String>,
    streams: Vec<Stream>,
    /// The connection's window for requests, in bytes.
    window: i64,
    /// The initial window of a stream, in bytes.
    stream_window: i64,
    max_frame: usize,
    /// Received bytes whose window has not been returned.
    unreleased: u32,
    settings_received: bool,
    settings_acknowledged: bool,
    ping_acknowledged: bool,
}

struct Stream {
    /// The window for the request, in bytes. Negative if the server has lowered the initial window.
    window: i64,
    unreleased: u32,
    has_headers: bool,
    ended: Option<StreamEnd>,
}

/// How a stream has ended: by a DATA frame or by trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    WithData,
    WithTrailers,
}

impl State {
    /// Queues the preface and the settings. `max_frame` bounds the frames of the server, in bytes.
    pub(super) fn new(max_frame: u32, shared: Arc<[u8]>) -> Self {
        let mut outgoing = Outgoing::new(shared);
        outgoing.push(PREFACE);
        outgoing.push(&settings(&[
            (ENABLE_PUSH, 0),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (MAX_FRAME_SIZE, max_frame),
        ]));
        outgoing.push(&window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW));
        // The answer to this PING follows all that the server sends at first.
        outgoing.push(&frame(PING, 0, 0, &[0; 8]));
        Self {
            outgoing,
            encoder: Encoder::default(),
            authorization: None,
            streams: Vec::new(),
            window: DEFAULT_WINDOW.into(),
            stream_window: DEFAULT_WINDOW.into(),
            max_frame: DEFAULT_MAX_FRAME_BYTES,
            unreleased: 0,
            settings_received: false,
            settings_acknowledged: false,
            ping_acknowledged: false,
        }
    }

    /// Whether both sides have acknowledged the other's settings.
    pub(super) fn is_ready(&self) -> bool {
        self.settings_received && self.settings_acknowledged && self.ping_acknowledged
    }

    /// Begins a stream and returns its id.
    pub(super) fn request(&mut self, headers: &[(&str, &str)], has_content: bool) -> u32 {
        self.streams.push(Stream {
            window: self.stream_window,
            unreleased: 0,
            has_headers: false,
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

    /// Returns how a stream has ended, or None if it is open.
    pub(super) fn stream_end(&self, stream: u32) -> Option<StreamEnd> {
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

    /// Queues frames of a source, as large as flow control permits.
    pub(super) fn enqueue(&mut self, stream: u32, source: &mut impl Source) {
        let window = &mut self.streams[Self::index(stream)].window;
        while !source.is_empty() && self.outgoing.bytes() < MAX_QUEUED_BYTES {
            let limit = self.window.min(*window).min(self.max_frame as i64);
            if limit <= 0 {
                return;
            }
            let limit = limit as usize;
            let sent = self
                .outgoing
                .push_frame(limit, source, |length, last| FrameHeader {
                    length,
                    kind: DATA,
                    flags: if last { END_STREAM } else { 0 },
                    stream,
                });
            self.window -= sent as i64;
            *window -= sent as i64;
        }
    }

    /// Counts a DATA frame, and returns its window.
    pub(super) fn data_ended(&mut self, header: FrameHeader) -> Result<()> {
        let length = header.length as u32;
        let stream = self.stream(header.stream)?;
        ensure!(stream.has_headers, "content without a status");
        stream.unreleased += length;
        if header.has(END_STREAM) {
            stream.ended = Some(StreamEnd::WithData);
        } else if stream.unreleased >= STREAM_WINDOW / 2 {
            let unreleased = take(&mut stream.unreleased);
            self.outgoing
                .push(&window_update(header.stream, unreleased));
        }
        self.unreleased += length;
        if self.unreleased >= CONNECTION_WINDOW / 2 {
            let unreleased = take(&mut self.unreleased);
            self.outgoing.push(&window_update(0, unreleased));
        }
        Ok(())
    }

    /// Handles any other frame.
    pub(super) fn frame(&mut self, header: FrameHeader, payload: &[u8]) -> Result<()> {
        match header.kind {
            HEADERS => self.headers(header, payload)?,
            RST_STREAM => {
                let code = number(payload)?;
                // After its response, a server may refuse the rest of the request.
                if self.stream(header.stream)?.ended.is_none() {
                    bail!("the server has reset stream {}: {code}", header.stream);
                }
            }
            SETTINGS if header.has(ACK) => self.settings_acknowledged = true,
            SETTINGS => {
                self.settings(payload)?;
                self.settings_received = true;
                self.outgoing.push(&frame(SETTINGS, ACK, 0, &[]));
            }
            PING if header.has(ACK) => self.ping_acknowledged = true,
            PING => self.outgoing.push(&frame(PING, ACK, 0, payload)),
            GO_AWAY => {
                let word = payload.get(8..).unwrap_or_default().escape_ascii();
                let code = number(payload.get(4..).unwrap_or_default())?;
                bail!("the server goes away: {code} {word}");
            }
            WINDOW_UPDATE => {
                let more = i64::from(number(payload)?);
                match header.stream {
                    0 => self.window += more,
                    stream => self.stream(stream)?.window += more,
                }
            }
            // RFC 9113 requires that unknown frames are ignored.
            _ => {}
        }
        Ok(())
    }

    fn headers(&mut self, header: FrameHeader, payload: &[u8]) -> Result<()> {
        ensure!(header.has(END_HEADERS), "headers in more than one frame");
        let stream = self.stream(header.stream)?;
        if !stream.has_headers {
            let before = usize::from(header.has(PADDED)) + 5 * usize::from(header.has(PRIORITY));
            let block = payload.get(before..).unwrap_or_default();
            ensure!(hpack::is_ok(block), "the status is not 200");
            stream.has_headers = true;
        }
        if header.has(END_STREAM) {
            stream.ended = Some(StreamEnd::WithTrailers);
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
