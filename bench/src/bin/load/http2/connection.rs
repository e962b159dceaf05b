//! A connection: its socket, its parser, and its state.
//!
//! Frames are sent as flow control and the socket permit; received content is passed to the caller.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{
    outgoing::Source,
    parser::{Event, Parser},
    state::{State, StreamEnd},
};

pub(crate) struct Connection {
    socket: TcpStream,
    recv_buffer: Vec<u8>,
    parser: Parser,
    state: State,
}

impl Connection {
    /// Connects, and waits until both sides have acknowledged the other's settings.
    ///
    /// `shared` is a buffer that sources may send without copying; `recv_buffer` is the size of the receive
    /// buffer in bytes.
    pub(crate) fn open(
        address: SocketAddr,
        max_frame: u32,
        shared: Arc<[u8]>,
        recv_buffer: usize,
    ) -> Result<Self> {
        let socket = TcpStream::connect(address).with_context(|| format!("{address}"))?;
        socket.set_nodelay(true)?;
        let mut connection = Self {
            socket,
            recv_buffer: vec![0; recv_buffer],
            parser: Parser::new(max_frame as usize),
            state: State::new(max_frame, shared),
        };
        while !connection.state.is_ready() {
            connection.exchange(&mut |_, _| bail!("content before a request"))?;
        }
        connection.flush()?;
        Ok(connection)
    }

    /// Adds an `authorization` header to each request.
    pub(crate) fn authorize(&mut self, authorization: Option<String>) {
        self.state.authorization = authorization;
    }

    /// Begins a stream and returns its id. [`Self::send`] sends its content, if it has any.
    pub(crate) fn request(&mut self, headers: &[(&str, &str)], has_content: bool) -> u32 {
        self.state.request(headers, has_content)
    }

    /// Sends the source and passes received content to `take`, until the stream has ended.
    pub(crate) fn run(
        &mut self,
        stream: u32,
        source: &mut impl Source,
        take: &mut impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<StreamEnd> {
        loop {
            self.send(stream, source)?;
            if let Some(ended) = self.stream_end(stream) {
                return Ok(ended);
            }
            self.exchange(take)?;
        }
    }

    /// Sends as much of a source as flow control and the socket accept now.
    pub(crate) fn send(&mut self, stream: u32, source: &mut impl Source) -> Result<()> {
        loop {
            self.state.enqueue(stream, source);
            if self.state.outgoing.is_empty() {
                return Ok(());
            }
            self.flush()?;
            if !self.state.outgoing.is_empty() {
                return Ok(());
            }
        }
    }

    /// Queues frames of a source, as flow control permits. [`Self::flush`] sends them.
    pub(crate) fn enqueue(&mut self, stream: u32, source: &mut impl Source) {
        self.state.enqueue(stream, source);
    }

    /// Sends as many queued bytes as the socket accepts now.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let sent = self.state.outgoing.send(&self.socket);
        sent.context("the server has closed the connection")
    }

    /// Whether queued bytes wait for the socket.
    pub(crate) fn has_queued(&self) -> bool {
        !self.state.outgoing.is_empty()
    }

    /// Waits until bytes are received, or until the socket accepts queued bytes.
    ///
    /// Passes received content to `take`.
    pub(crate) fn exchange(
        &mut self,
        take: &mut impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.flush()?;
        if self.state.outgoing.is_empty() {
            return self.receive(RecvFlags::empty(), take);
        }
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::OUT)];
        match poll(&mut ready, None) {
            Err(Errno::INTR) => return Ok(()),
            other => other?,
        };
        match ready[0].revents() {
            PollFlags::OUT => Ok(()),
            _ => self.receive(RecvFlags::DONTWAIT, take),
        }
    }

    fn receive(
        &mut self,
        flags: RecvFlags,
        take: &mut impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let length = match recv(&self.socket, &mut self.recv_buffer[..], flags) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            other => other?.0,
        };
        ensure!(length > 0, "the server has closed the connection");
        let mut input = &self.recv_buffer[..length];
        while let Some(event) = self.parser.next(&mut input)? {
            match event {
                Event::Data { stream, bytes } => take(stream, bytes)?,
                Event::DataEnd { header } => self.state.data_ended(header)?,
                Event::Frame { header, payload } => self.state.frame(header, payload)?,
            }
        }
        self.flush()
    }

    /// The socket, to poll for received bytes.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Returns how a stream has ended, or None if it is open.
    pub(crate) fn stream_end(&self, stream: u32) -> Option<StreamEnd> {
        self.state.stream_end(stream)
    }
}
