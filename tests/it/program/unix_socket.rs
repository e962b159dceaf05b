//! Unix domain sockets.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use muxs::{
    app::{self, Config},
    client::{self, Client},
    files::{Settings, Store},
    pb::{HelloRequest, greeter_client::GreeterClient},
    server::{Address, Listener, Tls},
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
use tonic::{Code, transport::Channel};

use crate::support::{
    Program, assert_failure, hello, program::muxs, upload_stream::content, with_timeout,
};

/// A server in this process, on a Unix socket and on a TCP address.
struct Server {
    folder: TempDir,
    tcp: String,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<io::Result<()>>,
}

impl Server {
    async fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("root"), Settings::default()).unwrap();
        let socket = Listener::bind(&address(&folder.path().join("socket"))).await;
        let tcp = Listener::bind("127.0.0.1:0").await.unwrap();
        let tcp_address = format!("http://{}", tcp.address().unwrap());
        let mut config = Config::new(store);
        config.shutdown_grace = std::time::Duration::ZERO;
        adjust(&mut config);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        Self {
            folder,
            tcp: tcp_address,
            stop: Some(stop),
            running: tokio::spawn(app::run(vec![socket.unwrap(), tcp], config, shutdown)),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self) -> String {
        address(&self.path("socket"))
    }

    async fn stop(&mut self) {
        self.stop.take();
        with_timeout(&mut self.running).await.unwrap().unwrap();
    }
}

/// The address of a socket for clients and servers.
fn address(path: &Path) -> String {
    format!("unix:{}", path.display())
}

async fn greeter(address: &str) -> GreeterClient<Channel> {
    let endpoint = client::endpoint(address).unwrap();
    GreeterClient::new(with_timeout(endpoint.connect()).await.unwrap())
}

async fn assert_greeted(address: &str) {
    let mut greeter = greeter(address).await;
    let reply = with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
    assert_eq!(reply.into_inner().message, "Hello, you!");
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

#[tokio::test]
async fn every_call_shape_works_over_a_unix_socket() {
    let server = Server::start(|_| {}).await;
    assert_greeted(&server.address()).await;
    let mut greeter = greeter(&server.address()).await;
    let request = HelloRequest {
        replies: 20,
        ..hello("you")
    };
    let replies = with_timeout(greeter.lots_of_replies(request))
        .await
        .unwrap();
    let mut replies = replies.into_inner();
    let mut count = 0;
    while with_timeout(replies.message()).await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 20);
    let names = || tokio_stream::iter(["A", "B"].map(hello));
    let reply = with_timeout(greeter.lots_of_greetings(names()))
        .await
        .unwrap();
    assert_eq!(reply.into_inner().message, "Hello, A and B!");
    let replies = with_timeout(greeter.bidi_hello(names())).await.unwrap();
    let mut replies = replies.into_inner();
    for expected in ["Hello, A!", "Hello, B!"] {
        let reply = with_timeout(replies.message()).await.unwrap().unwrap();
        assert_eq!(reply.message, expected);
    }
    assert_eq!(with_timeout(replies.message()).await.unwrap(), None);
}

#[tokio::test]
async fn file_round_trips_over_a_unix_socket() {
    let server = Server::start(|_| {}).await;
    let channel = client::endpoint(server.address()).unwrap().connect_lazy();
    let client = Client::new(channel);
    let (original, copy) = (server.path("original"), server.path("copy"));
    let content = content(5_000_000);
    fs::write(&original, &content).unwrap();
    let upload = client.upload(&original, "a").into_future();
    with_timeout(upload).await.unwrap();
    assert!(fs::read(server.path("root/a")).unwrap() == content);
    let download = client.download("a", &copy).into_future();
    with_timeout(download).await.unwrap();
    assert!(fs::read(copy).unwrap() == content);
}

#[tokio::test]
async fn unix_socket_is_never_encrypted() {
    let (tls, _) = Tls::development(vec!["localhost".to_owned()]).unwrap();
    let server = Server::start(|config| config.tls = Some(tls)).await;
    assert_greeted(&server.address()).await;
}

/// On TCP, the per-address limit applies.
#[tokio::test]
async fn unix_socket_clients_have_no_per_address_limit() {
    let server = Server::start(|config| config.limits.max_connections_per_address = 1).await;
    let mut connected = Vec::new();
    for _ in 0..5 {
        let mut greeter = greeter(&server.address()).await;
        with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
        connected.push(greeter);
    }
    let mut first = greeter(&server.tcp).await;
    with_timeout(first.say_hello(hello("you"))).await.unwrap();
    let mut second = greeter(&server.tcp).await;
    let refused = with_timeout(second.say_hello(hello("you"))).await;
    assert_failure(refused, Code::ResourceExhausted, "BUSY");
}

/// These clients count towards the limit of all connections.
#[tokio::test]
async fn unix_socket_clients_count_to_the_connection_limit() {
    let server = Server::start(|config| config.limits.max_connections = 1).await;
    let mut first = greeter(&server.address()).await;
    with_timeout(first.say_hello(hello("you"))).await.unwrap();
    let mut second = greeter(&server.address()).await;
    let refused = with_timeout(second.say_hello(hello("you"))).await;
    assert_failure(refused, Code::ResourceExhausted, "BUSY");
}

#[tokio::test]
async fn socket_file_is_removed_when_the_server_stops() {
    let mut server = Server::start(|_| {}).await;
    let socket = server.path("socket");
    assert!(is_socket(&socket));
    server.stop().await;
    assert!(fs::symlink_metadata(socket).is_err());
}

#[tokio::test]
async fn socket_file_is_removed_when_the_server_is_dropped() {
    let mut server = Server::start(|_| {}).await;
    assert_greeted(&server.address()).await;
    server.running.abort();
    with_timeout(&mut server.running).await.unwrap_err();
    let gone = async {
        while is_socket(&server.path("socket")) {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(gone).await;

    let path = server.path("another");
    let listener = Listener::bind(&address(&path)).await.unwrap();
    assert_eq!(
        listener.address().unwrap(),
        Address::Unix(Some(path.clone()))
    );
    assert!(is_socket(&path));
    drop(listener);
    assert!(!is_socket(&path));
}

#[tokio::test]
async fn socket_of_a_listening_server_is_kept() {
    let server = Server::start(|_| {}).await;
    for _ in 0..2 {
        let error = Listener::bind(&server.address()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_greeted(&server.address()).await;
    }
}

#[tokio::test]
async fn existing_non_socket_is_neither_replaced_nor_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    // A socket file without a listener.
    drop(std::os::unix::net::UnixListener::bind(path("socket")).unwrap());
    fs::write(path("file"), "content").unwrap();
    fs::create_dir(path("folder")).unwrap();
    std::os::unix::fs::symlink(path("socket"), path("link")).unwrap();
    std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
    for name in ["file", "folder", "link", "dangling"] {
        let error = Listener::bind(&address(&path(name))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{name}");
    }
    assert_eq!(fs::read(path("file")).unwrap(), b"content");
    assert!(path("folder").is_dir());
    assert!(path("link").is_symlink() && path("dangling").is_symlink());
    assert!(is_socket(&path("socket")));
    assert!(!path("nowhere").exists());
}

#[tokio::test]
async fn impossible_socket_path_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        folder.path().join("missing/socket"),
        folder.path().join("x".repeat(120)),
    ];
    for path in cases {
        Listener::bind(&address(&path)).await.unwrap_err();
    }
}

#[tokio::test]
async fn program_serves_socket_and_address_and_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let (root, socket) = (folder.path().join("root"), folder.path().join("socket"));
    let listen = format!("--listen={}", address(&socket));
    let mut program = Program::start_with(&root, &[&listen]).await;
    assert_greeted(&address(&socket)).await;
    assert_greeted(&program.url).await;
    program.signal(Signal::TERM);
    assert!(program.wait_end().await.success());
    assert!(!is_socket(&socket));
}

#[tokio::test]
async fn stale_socket_of_a_killed_program_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (root, socket) = (folder.path().join("root"), folder.path().join("socket"));
    let listen = format!("--listen={}", address(&socket));
    for _ in 0..2 {
        let mut program = Program::start_with(&root, &[&listen]).await;
        assert_greeted(&address(&socket)).await;
        program.signal(Signal::KILL);
        program.wait_end().await;
        assert!(is_socket(&socket));
        assert!(UnixStream::connect(&socket).await.is_err());
    }
}

#[tokio::test]
async fn command_connects_by_unix_socket() {
    let server = Server::start(|_| {}).await;
    let folder = server.folder.path().to_owned();
    let address = server.address();
    let run = move |arguments: &[&str], input: &'static str| {
        let mut command = muxs(&address);
        command.args(arguments).write_stdin(input);
        let run = command.current_dir(&folder).assert().success();
        String::from_utf8(run.get_output().stdout.clone()).unwrap()
    };
    fs::write(server.path("file"), "some bytes").unwrap();
    let runs = tokio::task::spawn_blocking(move || {
        assert_eq!(run(&["chat"], "you\n"), "Hello, you!\n");
        assert!(run(&["put", "file"], "").starts_with("file sent: 10 B"));
        assert!(run(&["stat", "file"], "").starts_with("file: 10 bytes"));
        run(&["get", "file", "copy"], "");
    });
    with_timeout(runs).await.unwrap();
    assert_eq!(fs::read(server.path("copy")).unwrap(), b"some bytes");
}
