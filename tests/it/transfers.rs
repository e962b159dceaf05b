//! The transfer client and the server program together, past its death and back.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use muxs::client::{self, Client, Event};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, sync::Notify};
use tonic::Code;

use crate::support::{Program, bounded, kill};

/// More than the buffers on the way hold: a server that dies half-way has not got or sent it all.
const SIZE: usize = 48 * 1024 * 1024;

/// The server program, which a test kills and starts again at the same address.
struct Mortal {
    folder: TempDir,
    address: SocketAddr,
    program: Program,
}

impl Mortal {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(&folder.path().join("root")).await;
        Self {
            folder,
            address: program.address,
            program,
        }
    }

    fn client(&self) -> Client {
        let endpoint = client::endpoint(format!("http://{}", self.address)).unwrap();
        Client::new(endpoint.connect_lazy())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of pseudo-random bytes.
    fn file(&self, name: &str) -> Vec<u8> {
        let mut state = 1_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let content: Vec<u8> = std::iter::repeat_with(next).take(SIZE).collect();
        fs::write(self.path(name), &content).unwrap();
        content
    }

    /// The file as the server has it.
    fn stored(&self, name: &str) -> Vec<u8> {
        fs::read(self.path("root").join(name)).unwrap()
    }

    /// Waits until the server has been killed, and starts another in its place.
    async fn rise(&mut self, killed: &Notify) {
        killed.notified().await;
        self.program.ended().await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command
            .args(["--listen", &self.address.to_string(), "--root"])
            .arg(self.path("root"));
        self.program = Program::start_command(command).await;
    }
}

/// Listens to a transfer, and kills the server when it first is so far.
#[derive(Clone)]
struct Killer {
    server: u32,
    killed: Arc<Notify>,
    /// Where each attempt began.
    opened: Arc<Mutex<Vec<u64>>>,
}

impl Killer {
    fn of(server: &Mortal) -> Self {
        Self {
            server: server.program.id(),
            killed: Arc::default(),
            opened: Arc::default(),
        }
    }

    /// `is_time` looks at what has been transferred and what is durable.
    fn listener(&self, is_time: fn(u64, u64) -> bool) -> impl FnMut(Event) + Send + use<> {
        let killer = self.clone();
        let mut is_alive = true;
        move |event| match event {
            Event::Opened { offset, .. } => killer.opened.lock().unwrap().push(offset),
            Event::Advanced {
                transferred,
                durable,
            } if is_alive && is_time(transferred, durable) => {
                is_alive = false;
                kill(Signal::KILL, killer.server);
                killer.killed.notify_one();
            }
            _ => {}
        }
    }

    fn opened(&self) -> Vec<u64> {
        self.opened.lock().unwrap().clone()
    }
}

fn half(transferred: u64, _durable: u64) -> bool {
    transferred >= SIZE as u64 / 2
}

#[tokio::test]
async fn an_upload_survives_the_death_of_its_server() {
    let mut server = Mortal::start().await;
    let content = server.file("source");
    let killer = Killer::of(&server);
    let upload = server
        .client()
        .upload(server.path("source"), "a/b")
        .on_event(killer.listener(half))
        .into_future();
    let (sent, ()) = bounded(async { tokio::join!(upload, server.rise(&killer.killed)) }).await;
    assert_eq!(sent.unwrap().size, SIZE as u64);
    assert!(server.stored("a/b") == content);
    assert_eq!(killer.opened().len(), 2);
}

/// What was durable is not read again from a reader that could not give it again.
#[tokio::test]
async fn an_upload_from_a_reader_survives_the_death_of_its_server() {
    let mut server = Mortal::start().await;
    let killer = Killer::of(&server);
    let (mut input, reader) = tokio::io::duplex(1024 * 1024);
    let upload = server
        .client()
        .upload_from(reader, "name")
        .on_event(killer.listener(|_, durable| durable > 0))
        .into_future();
    let feed = async {
        input.write_all(&[7; 3_000_000]).await.unwrap();
        server.rise(&killer.killed).await;
        input.write_all(&[8; 3_000_000]).await.unwrap();
        input.shutdown().await.unwrap();
    };
    let (sent, ()) = bounded(async { tokio::join!(upload, feed) }).await;
    assert_eq!(sent.unwrap().size, 6_000_000);
    assert!(server.stored("name") == [[7; 3_000_000], [8; 3_000_000]].concat());
    assert!(killer.opened()[1] > 0, "{:?}", killer.opened());
}

#[tokio::test]
async fn a_download_survives_the_death_of_its_server() {
    let mut server = Mortal::start().await;
    let content = server.file("root/name");
    let killer = Killer::of(&server);
    let download = server
        .client()
        .download("name", server.path("target"))
        .on_event(killer.listener(half))
        .into_future();
    let (received, ()) =
        bounded(async { tokio::join!(download, server.rise(&killer.killed)) }).await;
    received.unwrap();
    assert!(fs::read(server.path("target")).unwrap() == content);
    assert!(
        killer.opened()[1] >= SIZE as u64 / 2,
        "{:?}",
        killer.opened()
    );
}

#[tokio::test]
async fn an_upload_that_is_dropped_is_continued_by_the_next_run() {
    let server = Mortal::start().await;
    let content = server.file("source");
    let client = server.client();
    let so_far = Notify::new();
    {
        let upload = client.upload(server.path("source"), "name");
        let upload = upload.on_event(|event| {
            if matches!(event, Event::Advanced { transferred, .. } if half(transferred, 0)) {
                so_far.notify_one();
            }
        });
        tokio::select! {
            biased;
            () = bounded(so_far.notified()) => {}
            result = upload.into_future() => panic!("{result:?}"),
        }
    }
    let mut offset = 0;
    let upload = client.upload(server.path("source"), "name");
    let upload = upload.on_event(|event| {
        if let Event::Opened { offset: at, .. } = event {
            offset = at;
        }
    });
    bounded(upload.into_future()).await.unwrap();
    assert!(server.stored("name") == content);
    assert!(offset > 0);
}

#[tokio::test]
async fn what_is_uploaded_is_downloaded_under_any_condition_that_holds() {
    let server = Mortal::start().await;
    let client = server.client();
    let source = server.path("source");
    for size in [0, 1, 1024 * 1024, 3 * 1024 * 1024 + 1] {
        let name = format!("a/b/{size}");
        let content = vec![size as u8; size];
        fs::write(&source, &content).unwrap();
        let upload = || client.upload(&source, &name);
        let sent = bounded(upload().create_only().into_future()).await.unwrap();
        assert_eq!(bounded(client.stat(&name)).await.unwrap(), sent);
        let mut received = Vec::new();
        let download = client.download_to(&name, &mut received);
        assert_eq!(bounded(download.into_future()).await.unwrap(), sent);
        assert!(received == content);

        let again = bounded(upload().if_etag(&sent.etag).into_future());
        let again = again.await.unwrap();
        let late = bounded(upload().if_etag("another").into_future()).await;
        assert_eq!(late.unwrap_err().code(), Some(Code::FailedPrecondition));
        // It has been replaced, so the first upload is not what is there.
        assert_ne!(sent.etag, again.etag);
        let first = bounded(upload().create_only().into_future()).await;
        assert_eq!(first.unwrap_err().code(), Some(Code::AlreadyExists));
    }
}
