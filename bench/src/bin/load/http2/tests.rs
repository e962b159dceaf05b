//! The client against a server that gives it little and changes its mind.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use muxs_bench::noise;

use super::{
    Connection, Ended, Outgoing, Source,
    frame::{
        ACK, DATA, END_HEADERS, END_STREAM, HEADERS, Head, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE,
        PADDED, PING, SETTINGS, frame, settings, window_update,
    },
    parser::{Event, Parser},
};

const CONTENT: usize = 300_000;

/// Half of it hot, half of it its own, alternately.
struct Mixed {
    content: Vec<u8>,
    given: usize,
}

impl Source for Mixed {
    fn give(&mut self, limit: usize, to: &mut Outgoing) -> usize {
        let from = self.given;
        self.given = self.content.len().min(from + limit);
        let middle = from + (self.given - from) / 2;
        to.push(&self.content[from..middle]);
        to.push_hot(middle..self.given);
        self.given - from
    }

    fn is_empty(&self) -> bool {
        self.given == self.content.len()
    }
}

/// Holds the client to what it was told.
struct Strict {
    socket: TcpStream,
    window: i64,
    stream_window: i64,
    max_frame: usize,
    /// What it says each time when the client may not send any more.
    grants: Vec<Grant>,
    content: Vec<u8>,
    largest: usize,
    pings: usize,
    acknowledged: usize,
}

enum Grant {
    Stream(u32),
    Connection(u32),
    /// All windows of streams change by that.
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
                    Event::DataEnd { head } => self.data(head),
                    Event::Frame { head, payload } => self.frame(head, payload),
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn frame(&mut self, head: Head, payload: &[u8]) {
        match head.kind {
            SETTINGS if head.has(ACK) => self.acknowledged += 1,
            SETTINGS => self.send(&frame(SETTINGS, ACK, 0, &[])),
            PING if head.has(ACK) => {
                assert_eq!(payload, b"are you?");
                self.pings += 1;
            }
            PING => self.send(&frame(PING, ACK, 0, payload)),
            // The status, and a table size in front of it.
            HEADERS => self.send(&frame(HEADERS, END_HEADERS, 1, &[0x20, 0x88])),
            _ => {}
        }
    }

    fn data(&mut self, head: Head) {
        assert!(head.length <= self.max_frame);
        self.largest = self.largest.max(head.length);
        self.window -= head.length as i64;
        self.stream_window -= head.length as i64;
        assert!(self.window >= 0 && self.stream_window >= 0);
        if head.has(END_STREAM) {
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
fn what_the_server_says_is_obeyed() {
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
                // Below nothing, and above it again.
                Grant::Initial(5, -25),
                Grant::Stream(26),
                Grant::Ping,
                Grant::Stream(1_000_000),
                // Now it is the connection that holds the client back.
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
    let hot: Arc<[u8]> = content.clone().into();
    let mut connection = Connection::open(address, 16_384, hot, 1000).unwrap();
    let stream = connection.request(&[(":path", "/")], true);
    let mut source = Mixed { content, given: 0 };
    let mut answer: Vec<u8> = Vec::new();
    let ended = connection.run(stream, &mut source, &mut |of, bytes| {
        assert_eq!(of, stream);
        answer.extend(bytes);
        Ok(())
    });
    assert_eq!(ended.unwrap(), Ended::WithTrailers);
    assert_eq!(answer, b"thanks");
    drop(connection);

    let server = server.join().unwrap();
    assert!(server.content == source.content);
    assert!(server.grants.is_empty());
    assert_eq!(server.largest, 20_000);
    assert_eq!(server.pings, 1);
    assert_eq!(server.acknowledged, 4);
}
