//! A server program whose memory is measured, with a well-behaved client on a connection of its own.

use muxs::pb::greeter_client::GreeterClient;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{assertions::with_timeout, hello, program::Program};

pub(crate) const MIB: u64 = 1024 * 1024;

/// The most that a server may grow, in bytes: less than a million kept items of any kind would take.
pub(crate) const MAX_GROWTH: u64 = 8 * MIB;

/// A server program whose peak memory is measured from its first call on.
pub(crate) struct MemoryProbe {
    /// The well-behaved client, on a connection of its own that stays open.
    pub(crate) greeter: GreeterClient<Channel>,
    pub(crate) program: Program,
    before: u64,
    pub(crate) root: TempDir,
}

impl MemoryProbe {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let program = Program::start_with(root.path(), flags).await;
        let mut greeter = program.greeter().await;
        greeter.say_hello(hello("you")).await.unwrap();
        let before = peak_memory_bytes(program.id());
        Self {
            greeter,
            program,
            before,
            root,
        }
    }

    /// Asserts that the well-behaved client is served.
    pub(crate) async fn assert_serves(&mut self) {
        let reply = with_timeout(self.greeter.say_hello(hello("you"))).await;
        assert_eq!(reply.unwrap().into_inner().message, "Hello, you!");
    }

    #[track_caller]
    pub(crate) fn assert_bounded_growth(&self) {
        self.assert_growth_below(MAX_GROWTH);
    }

    #[track_caller]
    pub(crate) fn assert_growth_below(&self, bytes: u64) {
        let growth = peak_memory_bytes(self.program.id()) - self.before;
        assert!(growth < bytes, "memory grew by {growth} bytes");
    }
}

/// Returns the peak resident memory of a process, in bytes.
pub(crate) fn peak_memory_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}
