//! Moves bytes between a connection and a file, in the simplest ways.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use muxs_bench::noise;
use rustix::fs::sendfile;

use crate::BUFFER_BYTES;

/// Where to listen, and what to do with each connection.
#[derive(clap::Args, Debug)]
pub(crate) struct Serve {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// What to do with a connection
    #[arg(long)]
    mode: Mode,
    /// The folder of files that are read or written
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    /// The file that is read, in the root
    #[arg(long, value_name = "NAME", required_if_eq_any([("mode", "pread-write"), ("mode", "sendfile")]))]
    filename: Option<PathBuf>,
    /// How much is sent, if no file is read
    #[arg(long, value_name = "COUNT", required_if_eq("mode", "hot-write"))]
    bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// Send the same buffer again and again
    HotWrite,
    /// Read a file into a buffer, and send that
    PreadWrite,
    /// Have the kernel send a file
    Sendfile,
    /// Receive into a buffer, and write that to a new file
    RecvPwrite,
}

impl Serve {
    /// Serves each connection on a thread of its own, without end.
    pub(crate) fn run(self) -> Result<()> {
        let listener = TcpListener::bind(self.listen)?;
        println!("listening on {}", listener.local_addr()?);
        let serve = Arc::new(self);
        loop {
            let (socket, peer) = listener.accept()?;
            let serve = serve.clone();
            thread::spawn(move || {
                if let Err(error) = serve.connection(socket) {
                    eprintln!("{peer}: {error:#}");
                }
            });
        }
    }

    fn connection(&self, socket: TcpStream) -> Result<()> {
        socket.set_nodelay(true)?;
        match self.mode {
            Mode::HotWrite => self.hot_write(socket),
            Mode::PreadWrite => self.pread_write(socket),
            Mode::Sendfile => self.sendfile(socket),
            Mode::RecvPwrite => self.recv_pwrite(socket),
        }
    }

    fn hot_write(&self, mut socket: TcpStream) -> Result<()> {
        let hot = noise(BUFFER_BYTES);
        let mut rest = self.bytes.context("how much?")?;
        while rest > 0 {
            let next = rest.min(BUFFER_BYTES as u64);
            socket.write_all(&hot[..next as usize])?;
            rest -= next;
        }
        Ok(socket.shutdown(Shutdown::Write)?)
    }

    fn pread_write(&self, mut socket: TcpStream) -> Result<()> {
        let file = self.file()?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut offset = 0;
        loop {
            let length = file.read_at(&mut buffer, offset)?;
            if length == 0 {
                return Ok(socket.shutdown(Shutdown::Write)?);
            }
            socket.write_all(&buffer[..length])?;
            offset += length as u64;
        }
    }

    fn sendfile(&self, socket: TcpStream) -> Result<()> {
        let file = self.file()?;
        while sendfile(&socket, &file, None, BUFFER_BYTES)? > 0 {}
        Ok(socket.shutdown(Shutdown::Write)?)
    }

    fn recv_pwrite(&self, mut socket: TcpStream) -> Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(format!("floor-{number}.tmp"));
        let file = File::create(&path)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut offset = 0;
        loop {
            let length = socket.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            file.write_all_at(&buffer[..length], offset)?;
            offset += length as u64;
        }
        socket.write_all(&[0])?;
        // No client reads the file, and the next ones need its space.
        Ok(fs::remove_file(path)?)
    }

    fn file(&self) -> Result<File> {
        let filename = self.filename.as_ref().context("which file?")?;
        Ok(File::open(self.root.join(filename))?)
    }
}
