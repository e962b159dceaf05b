//! A server program that is killed during a transfer and started again at the same address.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use muxs::client::{self, Client, Event};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::program::{Program, kill};

/// The size of the file, more than all buffers between the ends hold: a server that is killed is_half_done-way
/// has not received or sent all of it.
pub(crate) const SIZE: usize = 48 * 1024 * 1024;

/// A server program that a test kills and starts again at the same address.
pub(crate) struct RestartableServer {
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) program: Program,
}

impl RestartableServer {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(&folder.path().join("root")).await;
        Self {
            folder,
            address: program.address,
            program,
        }
    }

    pub(crate) fn client(&self) -> Client {
        let endpoint = client::endpoint(format!("http://{}", self.address)).unwrap();
        Client::new(endpoint.connect_lazy())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of pseudo-random bytes.
    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        let mut state = 1_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let content: Vec<u8> = std::iter::repeat_with(next).take(SIZE).collect();
        fs::write(self.path(name), &content).unwrap();
        content
    }

    /// Returns the content of the file below the root.
    pub(crate) fn stored(&self, name: &str) -> Vec<u8> {
        fs::read(self.path("root").join(name)).unwrap()
    }

    /// Waits until the server has been killed, and starts it again.
    pub(crate) async fn restart_when_killed(&mut self, killed: &Notify) {
        killed.notified().await;
        self.program.wait_end().await;
        self.start_again().await;
    }

    /// Starts the server again after its end.
    pub(crate) async fn start_again(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command
            .args(["--listen", &self.address.to_string(), "--root"])
            .arg(self.path("root"));
        self.program = Program::start_command(command).await;
    }
}

/// Listens to the events of a transfer, and kills the server once at a given progress.
#[derive(Clone)]
pub(crate) struct Killer {
    server: u32,
    pub(crate) killed: Arc<Notify>,
    /// The offset at which each attempt began.
    opened: Arc<Mutex<Vec<u64>>>,
}

impl Killer {
    pub(crate) fn new(server: &RestartableServer) -> Self {
        Self {
            server: server.program.id(),
            killed: Arc::default(),
            opened: Arc::default(),
        }
    }

    /// Returns the listener. `is_time` gets the number of transferred and of durable bytes.
    pub(crate) fn listener(
        &self,
        is_time: fn(u64, u64) -> bool,
    ) -> impl FnMut(Event) + Send + use<> {
        let killer = self.clone();
        let mut is_alive = true;
        move |event| match event {
            Event::Opened { offset, .. } => killer.opened.lock().unwrap().push(offset),
            Event::Advanced {
                transferred,
                durable,
            } if is_alive && is_time(transferred, durable) => {
                is_alive = false;
                kill(Signal::KILL, killer.server);
                killer.killed.notify_one();
            }
            _ => {}
        }
    }

    pub(crate) fn opened_offsets(&self) -> Vec<u64> {
        self.opened.lock().unwrap().clone()
    }
}

pub(crate) fn is_half_done(transferred: u64, _durable: u64) -> bool {
    transferred >= SIZE as u64 / 2
}
