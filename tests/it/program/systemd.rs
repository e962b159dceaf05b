//! The server program under a service manager: notifications, watchdog and socket activation.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
};

use muxs::{client, pb::greeter_client::GreeterClient};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixDatagram,
};

use crate::support::{Program, hello, kill, program::server_command, with_timeout};

/// A service manager that receives the notifications of a server.
struct ServiceManager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl ServiceManager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { folder, socket }
    }

    async fn start(&self, variables: &[(&str, &str)]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command
            .args(["--listen", "127.0.0.1:0", "--root"])
            .arg(self.folder.path().join("root"))
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .envs(variables.iter().copied());
        Program::start_command(command).await
    }

    /// Receives the next notification.
    async fn recv(&self) -> String {
        let mut message = [0; 4096];
        let length = with_timeout(self.socket.recv(&mut message)).await.unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// Receives the next notification that is not a watchdog ping.
    async fn recv_skipping_watchdog(&self) -> String {
        loop {
            let notification = self.recv().await;
            if notification != "WATCHDOG=1\n" {
                return notification;
            }
        }
    }
}

/// Returns the MONOTONIC_USEC of a RELOADING notification.
fn parse_reload_time(notification: &str) -> u64 {
    let time = notification
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .and_then(|rest| rest.strip_suffix('\n'));
    let time = time.unwrap_or_else(|| panic!("{notification:?}"));
    time.parse().unwrap()
}

async fn assert_greets(program: &Program) {
    let reply = program.greeter().await.say_hello(hello("you")).await;
    assert_eq!(reply.unwrap().into_inner().message, "Hello, you!");
}

async fn assert_ends(mut program: Program) {
    program.signal(Signal::TERM);
    let status = program.wait_end().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn server_notifies_ready_reloading_and_stopping() {
    let manager = ServiceManager::new();
    let program = manager.start(&[]).await;
    let ready = format!("READY=1\nSTATUS=serving on {}\n", program.address);
    assert_eq!(manager.recv().await, ready);
    assert_greets(&program).await;
    let mut before = 0;
    // A reload is completed even without a certificate, because systemctl waits for its end.
    for _ in 0..2 {
        program.signal(Signal::HUP);
        let began = parse_reload_time(&manager.recv().await);
        assert!(began > before);
        before = began;
        assert_eq!(manager.recv().await, ready);
    }
    assert_greets(&program).await;
    assert_ends(program).await;
    assert_eq!(
        manager.recv().await,
        "STOPPING=1\nSTATUS=stopping: running calls have 30s to end\n"
    );
}

#[tokio::test]
async fn failed_reload_is_notified_and_completes() {
    let manager = ServiceManager::new();
    let path = |name: &str| manager.folder.path().join(name);
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(path("cert.pem"), pair.cert.pem()).unwrap();
    fs::write(path("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| path(name).display().to_string());
    let variables = [("MUXS_TLS_CERT", &*cert), ("MUXS_TLS_KEY", &key)];
    let program = manager.start(&variables).await;
    let ready = manager.recv().await;
    fs::remove_file(path("key.pem")).unwrap();
    program.signal(Signal::HUP);
    parse_reload_time(&manager.recv().await);
    let notification = manager.recv().await;
    let kept = "; reload failed, the previous certificate and key stay in use: ";
    let kept = format!("{}{kept}", ready.trim_end());
    assert!(
        notification.starts_with(&kept) && notification.contains(&key),
        "{notification:?}"
    );
    fs::write(path("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    program.signal(Signal::HUP);
    parse_reload_time(&manager.recv().await);
    assert_eq!(manager.recv().await, ready);
    assert_ends(program).await;
}

#[tokio::test]
async fn watchdog_is_notified_until_exit() {
    let manager = ServiceManager::new();
    let mut program = manager.start(&[("WATCHDOG_USEC", "20000")]).await;
    assert!(
        manager
            .recv_skipping_watchdog()
            .await
            .starts_with("READY=1\n")
    );
    for _ in 0..3 {
        assert_eq!(manager.recv().await, "WATCHDOG=1\n");
    }
    assert_greets(&program).await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let call = program.greeter().await.bidi_hello(outgoing).await;
    program.signal(Signal::TERM);
    assert!(
        manager
            .recv_skipping_watchdog()
            .await
            .starts_with("STOPPING=1\n")
    );
    // The open call prolongs the drain.
    for _ in 0..3 {
        assert_eq!(manager.recv().await, "WATCHDOG=1\n");
    }
    drop((requests, call));
    assert!(program.wait_end().await.success());
}

#[tokio::test]
async fn watchdog_that_is_off_or_for_another_process_is_ignored() {
    for variables in [
        &[("WATCHDOG_USEC", "0")][..],
        &[("WATCHDOG_USEC", "2"), ("WATCHDOG_PID", "1")],
    ] {
        let manager = ServiceManager::new();
        let program = manager.start(variables).await;
        assert!(manager.recv().await.starts_with("READY=1\n"));
        assert_greets(&program).await;
        assert_ends(program).await;
        assert!(manager.recv().await.starts_with("STOPPING=1\n"));
    }
}

#[tokio::test]
async fn missing_notify_socket_does_not_prevent_serving() {
    let manager = ServiceManager::new();
    fs::remove_file(manager.folder.path().join("notify")).unwrap();
    let program = manager.start(&[("WATCHDOG_USEC", "20000")]).await;
    assert_greets(&program).await;
    assert_ends(program).await;
}

/// SIGHUP is also sent when a terminal is closed.
#[tokio::test]
async fn sighup_without_a_certificate_is_ignored() {
    let root = tempfile::tempdir().unwrap();
    let program = Program::start(root.path()).await;
    program.signal(Signal::HUP);
    let logged = async {
        while !program
            .log()
            .contains("there is no certificate file to reload")
        {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(logged).await;
    assert_greets(&program).await;
    assert_ends(program).await;
}

/// Returns a command that execs the server program with two inherited sockets, its standard input and its
/// standard error.
fn socket_activated(root: &Path, sockets: [Stdio; 2]) -> Command {
    let [first, second] = sockets;
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(r#"LISTEN_PID=$$ exec "$@" 3<&0 4<&2 </dev/null 2>"$LOG""#)
        .args(["sh", env!("CARGO_BIN_EXE_server"), "--root"])
        .arg(root.join("root"))
        .env("LOG", root.join("log"))
        .env("LISTEN_FDS", "2")
        .stdin(first)
        .stderr(second)
        .stdout(Stdio::piped());
    command
}

#[tokio::test]
async fn inherited_sockets_replace_listen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = [
        tcp.try_clone().unwrap().into(),
        unix.try_clone().unwrap().into(),
    ];
    let sockets = sockets.map(|socket: OwnedFd| socket.into());
    let mut command = socket_activated(folder.path(), sockets);
    command.env("MUXS_LISTEN", taken.local_addr().unwrap().to_string());
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let tcp_address = format!("http://{}", tcp.local_addr().unwrap());
    let unix_address = format!("unix:{}", path.display());
    for address in [tcp_address, unix_address] {
        let line = with_timeout(lines.next_line()).await.unwrap();
        let root = folder.path().join("root");
        let expected = format!("muxs listening on {address}, serving {}", root.display());
        let log = || fs::read_to_string(folder.path().join("log"));
        assert_eq!(line, Some(expected), "{:?}", log());
        let endpoint = client::endpoint(&address).unwrap();
        let mut greeter = GreeterClient::new(with_timeout(endpoint.connect()).await.unwrap());
        let reply = with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
        assert_eq!(reply.into_inner().message, "Hello, you!");
    }
    kill(Signal::TERM, child.id().unwrap());
    assert!(with_timeout(child.wait()).await.unwrap().success());
    // The sockets belong to the service manager, and accept connections for the next server.
    std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn inherited_socket_named_admin_serves_the_admin_listener() {
    let folder = tempfile::tempdir().unwrap();
    let [calls, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = [&calls, &admin].map(|socket| socket.local_addr().unwrap());
    let sockets = [calls, admin].map(|socket| OwnedFd::from(socket).into());
    let mut command = socket_activated(folder.path(), sockets);
    command.env("LISTEN_FDNAMES", "calls:admin");
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let [listening, administered] = addresses.map(|address| (address, format!("http://{address}")));
    let line = with_timeout(lines.next_line()).await.unwrap().unwrap();
    assert!(line.starts_with(&format!("muxs listening on {},", listening.1)));
    let line = with_timeout(lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line, format!("muxs admin on {}", administered.1));
    let mut client = tokio::net::TcpStream::connect(administered.0)
        .await
        .unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nhost: muxs\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    with_timeout(client.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// A unit with `Accept=yes` passes connections instead of listeners.
#[test]
fn inherited_non_listener_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let listening = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()).into();
    let connection = OwnedFd::from(UnixStream::pair().unwrap().0);
    for (second, sentence) in [
        (Stdio::from(connection), "it is not a listening socket"),
        (
            Stdio::null(),
            "it is neither a TCP nor a Unix stream socket",
        ),
    ] {
        let mut command = socket_activated(folder.path(), [listening(), second]);
        command.env("LISTEN_FDNAMES", "first:second");
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert_eq!(said, "");
        assert_eq!(
            fs::read_to_string(folder.path().join("log")).unwrap(),
            format!("error: cannot use the inherited socket second: {sentence}\n")
        );
    }
}

#[tokio::test]
async fn sockets_for_another_process_are_ignored() {
    let root = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .args(["--listen", "127.0.0.1:0", "--root"])
        .arg(root.path())
        .envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "2")]);
    let program = Program::start_command(command).await;
    assert_greets(&program).await;
    assert_ends(program).await;
}

/// The list omits MUXS_TLS_SELF_SIGNED, which is for trying out the server.
#[test]
fn example_settings_list_every_variable() {
    let settings = include_str!("../../../deploy/muxs.env.example");
    let help = server_command().arg("--help").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let variables: BTreeSet<_> = help
        .split_whitespace()
        .map(|word| word.trim_start_matches('['))
        .filter_map(|word| word.split_once('='))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("MUXS_"))
        .collect();
    assert!(variables.contains("MUXS_LISTEN"), "{help}");
    for variable in variables {
        let there = settings.contains(&format!("\n#{variable}="));
        assert!(there || variable == "MUXS_TLS_SELF_SIGNED", "{variable}");
    }
}
