//! The fixture: a server on a free port over a temporary root, and assertions in the terms of the
//! contract.

pub(crate) mod admin;
mod assertions;
pub(crate) mod auth;
pub(crate) mod certificates;
pub(crate) mod issuer;
pub(crate) mod memory_probe;
pub(crate) mod methods;
pub(crate) mod pki;
pub(crate) mod program;
pub(crate) mod raw_http2;
pub(crate) mod restartable_server;
pub(crate) mod scrape;
pub(crate) mod scripted_server;
pub(crate) mod signing;
pub(crate) mod token_endpoint;
pub(crate) mod token_rows;
pub(crate) mod transfer_dir;
pub(crate) mod upload_stream;

pub(crate) use self::{
    assertions::{TEST_TIMEOUT, assert_failure, metadata, report_skip, tree, with_timeout},
    program::{Program, kill},
};

use std::{
    net::{SocketAddr, TcpListener},
    num::NonZero,
    panic,
    path::{Path, PathBuf},
    sync::{
        Mutex, Once,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use muxs::{
    app::{self, Config},
    files::{OpenError, Settings, Store},
    pb::{
        Files, HelloRequest, file_controller_client::FileControllerClient,
        greeter_client::GreeterClient,
    },
    server::Listener,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

const SERVER_THREAD: &str = "server under test";

/// The threads that a server starts for its connections.
const WORKER_THREAD: &str = "muxs-worker";

/// As many as it takes to see what is wrong between them.
const WORKERS: NonZero<usize> = NonZero::new(2).unwrap();

/// What panicked in a server under test.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A server in this process. Dropping it stops it, and fails the test if anything in a server
/// panicked.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    /// Where it tells administrators how it is, if it does.
    pub(crate) admin: Option<SocketAddr>,
    root: Option<TempDir>,
    stop: Option<oneshot::Sender<()>>,
    /// Its other end is dropped when the server has ended, and its runtime with it.
    ended: Option<mpsc::Receiver<()>>,
}

impl TestServer {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Unless told otherwise, the server under test cuts calls at once when it stops: by then a
    /// test is over, and its client no longer runs.
    pub(crate) fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::serve(tempfile::tempdir().unwrap(), Settings::default(), adjust)
    }

    /// Serves the files of `root` read-only.
    pub(crate) fn start_read_only(root: TempDir) -> Self {
        Self::serve(root, Settings::read_only(), |_| {})
    }

    pub(crate) fn serve(
        root: TempDir,
        settings: Settings,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let mut server = Self::over(open_store(root.path(), settings), adjust);
        server.root = Some(root);
        server
    }

    /// Serves, and tells administrators about it.
    pub(crate) fn with_admin(settings: Settings, adjust: impl FnOnce(&mut Config)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (admin, address) = bind();
        let mut server = Self::run(open_store(root.path(), settings), adjust, Some(admin));
        server.root = Some(root);
        server.admin = Some(address);
        server
    }

    /// Serves a store whose folder is the test's own.
    pub(crate) fn over(store: Store, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::run(store, adjust, None)
    }

    fn run(store: Store, adjust: impl FnOnce(&mut Config), admin: Option<TcpListener>) -> Self {
        record_panics();
        let mut config = Config::new(store);
        config.shutdown_grace = Duration::ZERO;
        config.workers = WORKERS;
        adjust(&mut config);
        let (listener, address) = bind();
        let (stop, stopped) = oneshot::channel::<()>();
        let (running, ended) = mpsc::channel();
        let server = move || {
            let _running = running;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .thread_name(SERVER_THREAD)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let admin = admin.map(|admin| listening(admin).for_admin());
                let calls = listening(listener);
                let listeners = [Some(calls), admin];
                let listeners = listeners.into_iter().flatten().collect();
                let shutdown = async {
                    let _ = stopped.await;
                };
                app::run(listeners, config, shutdown).await.unwrap();
            });
        };
        thread::Builder::new()
            .name(SERVER_THREAD.to_owned())
            .spawn(server)
            .unwrap();
        Self {
            address,
            admin: None,
            root: None,
            stop: Some(stop),
            ended: Some(ended),
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        connect(self.address).await
    }

    pub(crate) async fn greeter(&self) -> GreeterClient<Channel> {
        GreeterClient::new(self.channel().await)
    }

    pub(crate) async fn files(&self) -> FileControllerClient<Channel> {
        FileControllerClient::new(self.channel().await)
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.as_ref().expect("not given away").path()
    }

    /// A path below the root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Tells the server to stop; [`TestServer::stopped`] waits until it has.
    pub(crate) fn stop(&mut self) {
        self.stop.take();
    }

    /// The folder of a server that has stopped, for another.
    pub(crate) fn into_root(mut self) -> TempDir {
        self.root.take().expect("given away once")
    }

    pub(crate) async fn wait_stopped(&mut self) {
        let running = self.ended.take().expect("it ends once");
        let ended = tokio::task::spawn_blocking(|| has_ended(running)).await;
        assert!(ended.unwrap(), "the server did not end");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
        let ended = self.ended.take().is_none_or(has_ended);
        if !thread::panicking() {
            let panics = PANICS.lock().unwrap();
            assert!(panics.is_empty(), "a server panicked: {panics:?}");
            assert!(ended, "the server did not end");
        }
    }
}

/// A free port of this machine.
fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// One that was bound without a runtime.
fn listening(bound: TcpListener) -> Listener {
    tokio::net::TcpListener::from_std(bound).unwrap().into()
}

/// Opens a store where another may just have ended. Its lock can outlast it for a moment: a program
/// that another test is starting has it too, until it has become that program.
fn open_store(root: &Path, settings: Settings) -> Store {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        match Store::open(root, settings.clone()) {
            Err(OpenError::InUse(_)) if Instant::now() < deadline => thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Waits for the other end to be dropped, but not for ever.
fn has_ended(running: mpsc::Receiver<()>) -> bool {
    running.recv_timeout(TEST_TIMEOUT) == Err(RecvTimeoutError::Disconnected)
}

/// Notes each panic on a thread of a server under test, wherever it is caught.
fn record_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            before(panic);
            if [SERVER_THREAD, WORKER_THREAD]
                .map(Some)
                .contains(&thread::current().name())
            {
                PANICS.lock().unwrap().push(panic.to_string());
            }
        }));
    });
}

pub(crate) async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .timeout(TEST_TIMEOUT)
        .connect()
        .await
        .unwrap()
}

/// A request for a greeting.
pub(crate) fn hello(name: impl Into<String>) -> HelloRequest {
    HelloRequest {
        name: name.into(),
        ..Default::default()
    }
}

/// A request of the unary Read and Write.
pub(crate) fn file(filename: &str, text: &str) -> Files {
    Files {
        filename: filename.to_owned(),
        text: text.to_owned(),
    }
}
