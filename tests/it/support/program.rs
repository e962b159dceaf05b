//! The server program, the command line and the built examples, as child processes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    thread,
};

use assert_cmd::Command;
use muxs::pb::{file_controller_client::FileControllerClient, greeter_client::GreeterClient};
use rustix::process::{Pid, Signal};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};
use tonic::transport::Channel;

use super::{TEST_TIMEOUT, assertions::with_timeout, connect};

/// The server program on a free port. Dropping it kills the process, and fails the test if it panicked.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    /// The URL of that address, with `http://` or `https://`.
    pub(crate) url: String,
    child: Child,
    log: NamedTempFile,
}

impl Program {
    pub(crate) async fn start(root: &Path) -> Self {
        Self::start_with(root, &[]).await
    }

    pub(crate) async fn start_with(root: &Path, flags: &[&str]) -> Self {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
        command
            .args(["--listen", "127.0.0.1:0", "--root"])
            .arg(root)
            .args(flags);
        Self::start_command(command).await
    }

    /// Starts `command`, which is the server program or execs it, and waits until it listens. The first
    /// address that it announces has to be one of TCP.
    pub(crate) async fn start_command(command: std::process::Command) -> Self {
        match Self::try_start(command).await {
            Ok(program) => program,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// The same, for a server that may refuse to start.
    pub(crate) async fn try_start(command: std::process::Command) -> Result<Self, String> {
        let log = NamedTempFile::new().unwrap();
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = with_timeout(lines.next_line())
            .await
            .unwrap()
            .unwrap_or_default();
        let announced = line
            .strip_prefix("muxs listening on ")
            .and_then(|rest| rest.split_once(','))
            .and_then(|(url, _)| Some((url, url.split_once("://")?.1.parse().ok()?)));
        let Some((url, address)) = announced else {
            let log = fs::read_to_string(log.path()).unwrap();
            return Err(format!("the server printed {line:?} and logged {log}"));
        };
        Ok(Self {
            address,
            url: url.to_owned(),
            child,
            log,
        })
    }

    /// Returns what the program has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("the program is running")
    }

    pub(crate) async fn greeter(&self) -> GreeterClient<Channel> {
        GreeterClient::new(connect(self.address).await)
    }

    pub(crate) async fn files(&self) -> FileControllerClient<Channel> {
        FileControllerClient::new(connect(self.address).await)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(signal, self.id());
    }

    pub(crate) async fn wait_end(&mut self) -> ExitStatus {
        with_timeout(self.child.wait()).await.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A tracer that is killed leaves the server running.
        let traced = self.child.id().map(children).unwrap_or_default();
        for process in traced.into_iter().filter_map(Pid::from_raw) {
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
        let log = self.log();
        assert!(thread::panicking() || !log.contains("panicked"), "{log}");
    }
}

/// Returns the processes that a process has started.
pub(crate) fn children(process: u32) -> Vec<i32> {
    let children = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(children).unwrap_or_default();
    let children = children.split_whitespace();
    children.map(|child| child.parse().unwrap()).collect()
}

/// Sends a signal to a process.
pub(crate) fn kill(signal: Signal, process: u32) {
    let process = Pid::from_raw(process.cast_signed()).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
}

pub(crate) fn server_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.timeout(TEST_TIMEOUT);
    command
}

/// Asserts that the server does not start, and that its only output is one line on standard error.
#[track_caller]
pub(crate) fn assert_start_fails(command: &mut Command, sentence: &str) {
    let output = command.assert().failure().get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, format!("error: {sentence}\n"));
    assert_eq!(output.stdout, b"");
}

/// Returns the directory of the examples and builds them: `cargo test --test it` alone does not.
pub(crate) fn examples_dir() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_server")).with_file_name("examples");
        let mut build = std::process::Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--examples"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if folder.parent().unwrap().ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        folder
    })
}

pub(crate) fn example(name: &str) -> Command {
    clean(Command::new(examples_dir().join(name)))
}

/// The command line, with the address of a server.
pub(crate) fn muxs(address: &str) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_muxs")));
    command.args(["--addr", address]);
    command
}

/// The same as a process that the test talks to. Dropping it kills the process.
pub(crate) fn muxs_process(address: &str, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muxs"));
    command
        .args(["--addr", address])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command
}

/// The variables of the command line. Those of the environment are not for the servers of tests.
const VARIABLES: [&str; 3] = ["MUXS_ADDR", "MUXS_TOKEN", "MUXS_CLIENT_SECRET"];

fn clean(mut command: Command) -> Command {
    command.timeout(TEST_TIMEOUT);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command
}
