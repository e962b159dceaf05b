//! The flag `--admin-listen` of the program.

use std::{path::Path, process::Stdio};

use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    net::UnixStream,
    process::{Child, ChildStdout},
};

use crate::support::{
    admin::{ask_on, get, metrics},
    kill,
    program::server_command,
    with_timeout,
};

/// The program and the lines on its standard output.
struct RunningProgram {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl RunningProgram {
    fn start(root: &Path, flags: &[&str], variable: Option<&str>) -> Self {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_server"));
        command
            .args(["--listen", "127.0.0.1:0", "--root"])
            .arg(root)
            .args(flags)
            .envs(variable.map(|value| ("MUXS_ADMIN_LISTEN", value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> Option<String> {
        with_timeout(self.lines.next_line()).await.unwrap()
    }

    /// Returns the admin address, which is announced after the address for calls.
    async fn admin_address(&mut self) -> String {
        let first = self.line().await.unwrap();
        assert!(first.starts_with("muxs listening on http"), "{first}");
        let second = self.line().await.unwrap();
        let admin = second.strip_prefix("muxs admin on ");
        admin.unwrap_or_else(|| panic!("{second}")).to_owned()
    }

    /// Stops the program and returns its log. Standard output has no further lines.
    async fn stop(mut self) -> String {
        kill(Signal::TERM, self.child.id().unwrap());
        assert_eq!(self.line().await, None);
        let mut log = String::new();
        let mut errors = self.child.stderr.take().unwrap();
        with_timeout(errors.read_to_string(&mut log)).await.unwrap();
        assert!(
            with_timeout(self.child.wait()).await.unwrap().success(),
            "{log}"
        );
        log
    }
}

#[tokio::test]
async fn admin_port_alone_binds_to_loopback() {
    let root = tempfile::tempdir().unwrap();
    for (flags, variable) in [
        (&["--admin-listen", "0"][..], None),
        (&["--admin-listen", ":0"], None),
        (&["--admin-listen", "127.0.0.1:0"], None),
        (&[], Some(":0")),
    ] {
        let mut program = RunningProgram::start(root.path(), flags, variable);
        let admin = program.admin_address().await;
        let address = admin.strip_prefix("http://127.0.0.1:").unwrap();
        let port: u16 = address.parse().unwrap();
        let scrape = metrics(([127, 0, 0, 1], port).into()).await;
        assert_eq!(scrape.value("muxs_connections"), 0.0);
        let log = program.stop().await;
        assert!(!log.contains("WARN"), "{log}");
    }
}

#[tokio::test]
async fn public_admin_address_is_used_with_a_warning() {
    let root = tempfile::tempdir().unwrap();
    let mut program = RunningProgram::start(root.path(), &["--admin-listen", "0.0.0.0:0"], None);
    let admin = program.admin_address().await;
    assert!(admin.starts_with("http://0.0.0.0:"), "{admin}");
    let log = program.stop().await;
    assert!(
        log.contains("WARN") && log.contains("can read the metrics"),
        "{log}"
    );
}

/// The admin listener speaks plain HTTP even if calls use TLS.
#[tokio::test]
async fn admin_listener_is_not_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let unix = format!("unix:{}", socket.display());
    let flags = ["--tls-self-signed", "--admin-listen", "0"];
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .args(["--listen", "127.0.0.1:0"])
        .args(flags)
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut program = RunningProgram { child, lines };
    let admin = program.admin_address().await;
    let address = admin.strip_prefix("http://").unwrap().parse().unwrap();
    assert_eq!(get(address, "/readyz").await.code, 200);
    program.stop().await;

    let root = folder.path().join("root");
    let mut program = RunningProgram::start(&root, &["--admin-listen", &unix], None);
    assert_eq!(program.admin_address().await, unix);
    let stream = UnixStream::connect(&socket).await.unwrap();
    assert_eq!(ask_on(stream, "GET", "/healthz").await.code, 200);
    program.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn admin_listener_is_off_by_default() {
    let root = tempfile::tempdir().unwrap();
    let mut program = RunningProgram::start(root.path(), &[], None);
    let first = program.line().await.unwrap();
    assert!(first.starts_with("muxs listening on "), "{first}");
    program.stop().await;
}

#[test]
fn invalid_admin_address_is_rejected() {
    let mut command = server_command();
    let run = command.args(["--admin-listen", "nowhere"]).assert().code(2);
    let stderr = String::from_utf8(run.get_output().stderr.clone()).unwrap();
    let sentence = "'--admin-listen <ADDR>': it must be HOST:PORT";
    assert!(stderr.contains(sentence), "{stderr}");
}
