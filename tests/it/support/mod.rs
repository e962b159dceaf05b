//! The fixtures. [`TestServer`] is a server on a free port over a temporary root.

pub(crate) mod admin;
mod assertions;
pub(crate) mod auth;
pub(crate) mod certificates;
pub(crate) mod issuer;
pub(crate) mod linearizability;
pub(crate) mod memory_probe;
pub(crate) mod methods;
pub(crate) mod mount;
pub(crate) mod pki;
pub(crate) mod plain_connection;
pub(crate) mod program;
pub(crate) mod raw_call;
pub(crate) mod raw_http2;
pub(crate) mod restartable_server;
pub(crate) mod scrape;
pub(crate) mod scripted_server;
pub(crate) mod signing;
pub(crate) mod token_endpoint;
pub(crate) mod token_rows;
pub(crate) mod traced;
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
    client::{self, Client},
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

/// The name of the threads that a server starts for its connections.
const WORKER_THREAD: &str = "muxs-worker";

/// Two workers suffice to show errors between workers.
const WORKERS: NonZero<usize> = NonZero::new(2).unwrap();

/// The panics of all servers under test.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A server in this process. Dropping it stops the server, and fails the test if a server panicked.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    /// The address of the admin listener, if there is one.
    pub(crate) admin: Option<SocketAddr>,
    root: Option<TempDir>,
    stop: Option<oneshot::Sender<()>>,
    /// The sender is dropped when the server and its runtime have ended.
    ended: Option<mpsc::Receiver<()>>,
}

impl TestServer {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Starts a server. Its shutdown grace is zero unless `adjust` changes it: when a test is over, its
    /// client no longer runs.
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
        let mut server = Self::with_store(open_store(root.path(), settings), adjust);
        server.root = Some(root);
        server
    }

    /// Starts a server with an admin listener.
    pub(crate) fn with_admin(settings: Settings, adjust: impl FnOnce(&mut Config)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (admin, address) = bind();
        let mut server = Self::run(open_store(root.path(), settings), adjust, Some(admin));
        server.root = Some(root);
        server.admin = Some(address);
        server
    }

    /// Serves a store whose root is kept by the test.
    pub(crate) fn with_store(store: Store, adjust: impl FnOnce(&mut Config)) -> Self {
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
                let admin = admin.map(|admin| register(admin).for_admin());
                let calls = register(listener);
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

    /// A transfer client without credentials.
    pub(crate) fn client(&self) -> Client {
        let endpoint = client::endpoint(format!("http://{}", self.address)).unwrap();
        Client::new(endpoint.connect_lazy())
    }

    pub(crate) async fn greeter(&self) -> GreeterClient<Channel> {
        GreeterClient::new(self.channel().await)
    }

    pub(crate) async fn files(&self) -> FileControllerClient<Channel> {
        FileControllerClient::new(self.channel().await)
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.as_ref().expect("the root was not taken").path()
    }

    /// A path below the root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Requests the shutdown; [`TestServer::wait_stopped`] waits for its end.
    pub(crate) fn stop(&mut self) {
        self.stop.take();
    }

    /// Stops the server and returns its root, for another server.
    pub(crate) fn into_root(mut self) -> TempDir {
        self.root.take().expect("the root is taken once")
    }

    pub(crate) async fn wait_stopped(&mut self) {
        let running = self.ended.take().expect("the server ends once");
        let ended = tokio::task::spawn_blocking(|| wait_dropped(running)).await;
        assert!(ended.unwrap(), "the server did not end");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
        let ended = self.ended.take().is_none_or(wait_dropped);
        if !thread::panicking() {
            let panics = PANICS.lock().unwrap();
            assert!(panics.is_empty(), "a server panicked: {panics:?}");
            assert!(ended, "the server did not end");
        }
    }
}

/// Binds to a free port of the loopback interface.
fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Registers a listener that was bound without a runtime.
fn register(bound: TcpListener) -> Listener {
    tokio::net::TcpListener::from_std(bound).unwrap().into()
}

/// Opens a store whose previous server may just have ended. Its lock can be held a moment longer: a
/// process that another test is spawning inherits the descriptor until it calls exec.
fn open_store(root: &Path, settings: Settings) -> Store {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        match Store::open(root, settings.clone()) {
            Err(OpenError::InUse(_)) if Instant::now() < deadline => thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Waits until the sender is dropped, at most [`TEST_TIMEOUT`].
fn wait_dropped(running: mpsc::Receiver<()>) -> bool {
    running.recv_timeout(TEST_TIMEOUT) == Err(RecvTimeoutError::Disconnected)
}

/// Records each panic on a thread of a server under test, even if it is caught.
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

/// A request of SayHello.
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
