//! A server program whose memory is watched, with an honest client beside whatever happens to it.

use muxs::pb::greeter_client::GreeterClient;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::support::{Program, bounded, hello};

pub(crate) const MIB: u64 = 1024 * 1024;

/// In bytes. A million of anything that is kept is more than this.
pub(crate) const MAX_GROWTH: u64 = 8 * MIB;

/// A server whose memory is watched from its first call on.
pub(crate) struct Watched {
    /// On a connection of its own, which is kept.
    pub(crate) greeter: GreeterClient<Channel>,
    pub(crate) program: Program,
    before: u64,
    pub(crate) root: TempDir,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let program = Program::start_with(root.path(), flags).await;
        let mut greeter = program.greeter().await;
        greeter.say_hello(hello("you")).await.unwrap();
        let before = peak_memory(program.id());
        Self {
            greeter,
            program,
            before,
            root,
        }
    }

    /// Asserts that the honest client is served.
    pub(crate) async fn assert_serves(&mut self) {
        let reply = bounded(self.greeter.say_hello(hello("you"))).await;
        assert_eq!(reply.unwrap().into_inner().message, "Hello, you!");
    }

    #[track_caller]
    pub(crate) fn assert_small(&self) {
        self.assert_grown_less_than(MAX_GROWTH);
    }

    #[track_caller]
    pub(crate) fn assert_grown_less_than(&self, bytes: u64) {
        let growth = peak_memory(self.program.id()) - self.before;
        assert!(growth < bytes, "it grew by {growth} bytes");
    }
}

/// The most memory the server has had at any time, in bytes.
pub(crate) fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}
