//! A server program whose memory is watched, with an honest client beside whatever happens to it.

use muxs::pb::greeter_client::GreeterClient;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{assertions::with_timeout, hello, program::Program};

pub(crate) const MIB: u64 = 1024 * 1024;

/// In bytes. A million of anything that is kept is more than this.
pub(crate) const MAX_GROWTH: u64 = 8 * MIB;

/// A server whose memory is watched from its first call on.
pub(crate) struct MemoryProbe {
    /// On a connection of its own, which is kept.
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

    /// Asserts that the honest client is served.
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
        assert!(growth < bytes, "it grew by {growth} bytes");
    }
}

/// The most memory the server has had at any time, in bytes.
pub(crate) fn peak_memory_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}
