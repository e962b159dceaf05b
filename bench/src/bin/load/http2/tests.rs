//! The client against a server with small windows, which changes its settings.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use muxs_bench::noise;

use super::{
    Connection, Outgoing, Source, StreamEnd,
    frame::{
        ACK, DATA, END_HEADERS, END_STREAM, FrameHeader, HEADERS, INITIAL_WINDOW_SIZE,
        MAX_FRAME_SIZE, PADDED, PING, SETTINGS, frame, settings, window_update,
    },
    parser::{Event, Parser},
};

const CONTENT: usize = 300_000;

/// Content that alternates between shared and owned parts.
struct Mixed {
    content: Vec<u8>,
    sent: usize,
}

impl Source for Mixed {
    fn push_to(&mut self, limit: usize, to: &mut Outgoing) -> usize {
        let from = self.sent;
        self.sent = self.content.len().min(from + limit);
        let middle = from + (self.sent - from) / 2;
        to.push(&self.content[from..middle]);
        to.push_shared(middle..self.sent);
        self.sent - from
    }

    fn is_empty(&self) -> bool {
        self.sent == self.content.len()
    }
}

/// A server that checks the client against its windows and settings.
struct Strict {
    socket: TcpStream,
    window: i64,
    stream_window: i64,
    max_frame: usize,
    /// The grants, one each time that the client's windows are exhausted.
    grants: Vec<Grant>,
    content: Vec<u8>,
    largest: usize,
    pings: usize,
    acknowledged: usize,
}

enum Grant {
    Stream(u32),
    Connection(u32),
    /// A new initial window, and the change of all streams' windows.
    Initial(u32, i64),
    MaxFrame(u32),
    Ping,
}

impl Strict {
    fn serve(mut self) -> Self {
        let mut preface = [0; 24];
        self.socket.read_exact(&mut preface).unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.send(&settings(&[(INITIAL_WINDOW_SIZE, 10)]));
        let mut parser = Parser::new(1 << 24);
        let mut buffer = [0; 1000];
        loop {
            let length = self.socket.read(&mut buffer).unwrap();
            let mut input = &buffer[..length];
            if length == 0 {
                return self;
            }
            while let Some(event) = parser.next(&mut input).unwrap() {
                match event {
                    Event::Data { bytes, .. } => self.content.extend(bytes),
                    Event::DataEnd { header } => self.data(header),
                    Event::Frame { header, payload } => self.frame(header, payload),
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn frame(&mut self, header: FrameHeader, payload: &[u8]) {
        match header.kind {
            SETTINGS if header.has(ACK) => self.acknowledged += 1,
            SETTINGS => self.send(&frame(SETTINGS, ACK, 0, &[])),
            PING if header.has(ACK) => {
                assert_eq!(payload, b"are you?");
                self.pings += 1;
            }
            PING => self.send(&frame(PING, ACK, 0, payload)),
            // An update of the table's size, and the status.
            HEADERS => self.send(&frame(HEADERS, END_HEADERS, 1, &[0x20, 0x88])),
            _ => {}
        }
    }

    fn data(&mut self, header: FrameHeader) {
        assert!(header.length <= self.max_frame);
        self.largest = self.largest.max(header.length);
        self.window -= header.length as i64;
        self.stream_window -= header.length as i64;
        assert!(self.window >= 0 && self.stream_window >= 0);
        if header.has(END_STREAM) {
            self.send(&frame(DATA, PADDED, 1, b"\x02thanks\0\0"));
            self.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]));
        }
        while self.window.min(self.stream_window) <= 0 && !self.grants.is_empty() {
            self.grant();
        }
    }

    fn grant(&mut self) {
        match self.grants.remove(0) {
            Grant::Stream(more) => {
                self.stream_window += i64::from(more);
                self.send(&window_update(1, more));
            }
            Grant::Connection(more) => {
                self.window += i64::from(more);
                self.send(&window_update(0, more));
            }
            Grant::Initial(size, more) => {
                self.stream_window += more;
                self.send(&settings(&[(INITIAL_WINDOW_SIZE, size)]));
            }
            Grant::MaxFrame(size) => {
                self.max_frame = size as usize;
                self.send(&settings(&[(MAX_FRAME_SIZE, size)]));
            }
            Grant::Ping => self.send(&frame(PING, 0, 0, b"are you?")),
        }
    }
}

#[test]
fn client_obeys_windows_and_settings() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let strict = Strict {
            socket: listener.accept().unwrap().0,
            window: 65_535,
            stream_window: 10,
            max_frame: 16_384,
            grants: vec![
                Grant::Initial(30, 20),
                // Makes the stream's window negative, then positive again.
                Grant::Initial(5, -25),
                Grant::Stream(26),
                Grant::Ping,
                Grant::Stream(1_000_000),
                // From here on the connection's window is the limit.
                Grant::MaxFrame(20_000),
                Grant::Connection(100_000),
                Grant::Connection(1_000_000),
            ],
            content: Vec::new(),
            largest: 0,
            pings: 0,
            acknowledged: 0,
        };
        strict.serve()
    });

    let content = noise(CONTENT);
    let shared: Arc<[u8]> = content.clone().into();
    let mut connection = Connection::open(address, 16_384, shared, 1000).unwrap();
    let stream = connection.request(&[(":path", "/")], true);
    let mut source = Mixed { content, sent: 0 };
    let mut answer: Vec<u8> = Vec::new();
    let ended = connection.run(stream, &mut source, &mut |of, bytes| {
        assert_eq!(of, stream);
        answer.extend(bytes);
        Ok(())
    });
    assert_eq!(ended.unwrap(), StreamEnd::WithTrailers);
    assert_eq!(answer, b"thanks");
    drop(connection);

    let server = server.join().unwrap();
    assert!(server.content == source.content);
    assert!(server.grants.is_empty());
    assert_eq!(server.largest, 20_000);
    assert_eq!(server.pings, 1);
    assert_eq!(server.acknowledged, 4);
}
