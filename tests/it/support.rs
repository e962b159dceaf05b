//! The fixture: a server on a free port over a temporary root, and assertions in the terms of the
//! contract.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::{SocketAddr, TcpListener},
    num::NonZero,
    panic,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
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
use rustix::process::{Pid, Signal};
use tempfile::{NamedTempFile, TempDir};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    sync::oneshot,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// The most that anything in a test may take. Passing it is a failure, never a way to wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

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

    pub(crate) async fn stopped(&mut self) {
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
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Store::open(root, settings.clone()) {
            Err(OpenError::InUse(_)) if Instant::now() < deadline => thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Waits for the other end to be dropped, but not for ever.
fn has_ended(running: mpsc::Receiver<()>) -> bool {
    running.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected)
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

/// The server program, on a free port. Dropping it kills it, and fails the test if it panicked.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    /// The same as clients spell it, with `http://` or `https://`.
    pub(crate) url: String,
    child: Child,
    log: NamedTempFile,
}

impl Program {
    pub(crate) async fn start(root: &Path) -> Self {
        Self::start_with(root, &[]).await
    }

    pub(crate) async fn start_with(root: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command
            .args(["--listen", "127.0.0.1:0", "--root"])
            .arg(root)
            .args(flags);
        Self::start_command(command).await
    }

    /// Starts `command`, which is or becomes the server program, and waits until it listens. The first
    /// address that it listens on is of TCP.
    pub(crate) async fn start_command(command: Command) -> Self {
        let log = NamedTempFile::new().unwrap();
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = bounded(lines.next_line())
            .await
            .unwrap()
            .unwrap_or_default();
        let announced = line
            .strip_prefix("muxs listening on ")
            .and_then(|rest| rest.split_once(','))
            .and_then(|(url, _)| Some((url, url.split_once("://")?.1.parse().ok()?)));
        let Some((url, address)) = announced else {
            let log = fs::read_to_string(log.path()).unwrap();
            panic!("the server said {line:?}, and logged {log}");
        };
        Self {
            address,
            url: url.to_owned(),
            child,
            log,
        }
    }

    /// What it has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
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

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        bounded(self.child.wait()).await.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let log = self.log();
        assert!(thread::panicking() || !log.contains("panicked"), "{log}");
    }
}

/// Sends a signal to a process.
pub(crate) fn kill(signal: Signal, process: u32) {
    let process = Pid::from_raw(process.cast_signed()).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
}

/// What a future comes to, or a failed test instead of one that hangs.
pub(crate) async fn bounded<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

pub(crate) async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .timeout(PATIENCE)
        .connect()
        .await
        .unwrap()
}

/// Says that something was not tested, and why, past the capture of output: a skip is loud.
pub(crate) fn skipped(why: &str) {
    let skipped = format!("SKIPPED: {why}\n");
    std::io::stderr().write_all(skipped.as_bytes()).unwrap();
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

/// Asserts the code and the machine-readable reason of a failed call.
#[track_caller]
pub(crate) fn assert_failure<T>(result: Result<T, Status>, code: Code, reason: &str) -> Status {
    let Err(status) = result else {
        panic!("succeeded, where {code:?} {reason} was expected");
    };
    assert_eq!(status.code(), code, "{status:?}");
    let info = status
        .get_details_error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        (reason, "muxs")
    );
    status
}

/// A value of the metadata of a failure's ErrorInfo.
#[track_caller]
pub(crate) fn metadata(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info().unwrap();
    info.metadata
        .get(key)
        .unwrap_or_else(|| panic!("no {key} in {:?}", info.metadata))
        .clone()
}

/// Everything below a folder: the path of each entry, and the content of each regular file.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let content = kind.is_file().then(|| fs::read(entry.path()).unwrap());
            if kind.is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path(), content);
        }
    }
    found
}
