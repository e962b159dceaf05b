//! A connection: what is to be sent goes out as windows and socket let it, and the content of its
//! streams goes to whoever reads it.

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
    state::{Ended, State},
};

pub(crate) struct Connection {
    socket: TcpStream,
    inbox: Vec<u8>,
    parser: Parser,
    state: State,
}

impl Connection {
    /// A connection on which both sides have heard of the other one's settings.
    ///
    /// `hot` is what its sources may send again and again; `inbox` how much it receives at once.
    pub(crate) fn open(
        address: SocketAddr,
        max_frame: u32,
        hot: Arc<[u8]>,
        inbox: usize,
    ) -> Result<Self> {
        let socket = TcpStream::connect(address).with_context(|| format!("{address}"))?;
        socket.set_nodelay(true)?;
        let mut connection = Self {
            socket,
            inbox: vec![0; inbox],
            parser: Parser::new(max_frame as usize),
            state: State::new(max_frame, hot),
        };
        while !connection.state.has_begun() {
            connection.exchange(&mut |_, _| bail!("content before a request"))?;
        }
        connection.flush()?;
        Ok(connection)
    }

    /// Lets each request say who calls.
    pub(crate) fn authorize(&mut self, authorization: Option<String>) {
        self.state.authorization = authorization;
    }

    /// Begins a stream, the number of which it says. Its content, unless there is none, is sent by
    /// [`Self::send`].
    pub(crate) fn request(&mut self, headers: &[(&str, &str)], has_content: bool) -> u32 {
        self.state.request(headers, has_content)
    }

    /// Sends all that there is and hands out what comes meanwhile, until the stream has ended.
    pub(crate) fn run(
        &mut self,
        stream: u32,
        source: &mut impl Source,
        take: &mut impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<Ended> {
        loop {
            self.send(stream, source)?;
            if let Some(ended) = self.ended(stream) {
                return Ok(ended);
            }
            self.exchange(take)?;
        }
    }

    /// Sends of a source what windows and socket take now.
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

    /// Makes frames of a source, as windows let it; [`Self::flush`] sends them.
    pub(crate) fn enqueue(&mut self, stream: u32, source: &mut impl Source) {
        self.state.enqueue(stream, source);
    }

    /// Sends what the socket takes now.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let sent = self.state.outgoing.send(&self.socket);
        sent.context("the server has closed the connection")
    }

    /// Waits until something has come, which is handed out, or until what is to be sent can be.
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
        let length = match recv(&self.socket, &mut self.inbox[..], flags) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            other => other?.0,
        };
        ensure!(length > 0, "the server has closed the connection");
        let mut input = &self.inbox[..length];
        while let Some(event) = self.parser.next(&mut input)? {
            match event {
                Event::Data { stream, bytes } => take(stream, bytes)?,
                Event::DataEnd { head } => self.state.data_ended(head)?,
                Event::Frame { head, payload } => self.state.frame(head, payload)?,
            }
        }
        self.flush()
    }

    /// What to ask whether something has come.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// How a stream has ended, if it has.
    pub(crate) fn ended(&self, stream: u32) -> Option<Ended> {
        self.state.ended(stream)
    }
}
