//! An authorization server on this machine, as good or as bad as a test wants it to be.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use muxs::server::{AuthSettings, KeySource};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{AUDIENCE, ISSUER, jwks};
use crate::support::bounded;

/// Where OpenID Connect has the configuration of an issuer.
const CONFIGURATION: &str = "GET /.well-known/openid-configuration HTTP";

pub(super) struct Issuer {
    pub(super) address: SocketAddr,
    mood: watch::Sender<Mood>,
    asked: Arc<AtomicUsize>,
    asking: watch::Receiver<usize>,
}

/// What whoever asks gets.
#[derive(Clone)]
pub(super) enum Mood {
    /// These bytes.
    Answers(Vec<u8>),
    /// These, where its configuration is asked for, and those for anything else.
    Discovers(Vec<u8>, Vec<u8>),
    /// Nothing, until the mood is another.
    Waits,
    /// A connection that is closed.
    Down,
}

impl Mood {
    /// Keys.
    pub(super) fn has(keys: &[Value]) -> Self {
        Self::says(&jwks(keys))
    }

    /// A document.
    pub(super) fn says(document: &str) -> Self {
        Self::answers("200 OK", "", document)
    }

    /// A configuration, and keys.
    pub(super) fn discovers(configuration: &Value, keys: &[Value]) -> Self {
        let document = |text: &str| match Self::says(text) {
            Self::Answers(answer) => answer,
            _ => unreachable!("a document is an answer"),
        };
        Self::Discovers(document(&configuration.to_string()), document(&jwks(keys)))
    }

    pub(super) fn answers(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
        );
        Self::Answers(answer.into_bytes())
    }
}

impl Issuer {
    pub(super) async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mood, moods) = watch::channel(mood);
        let asked = Arc::new(AtomicUsize::new(0));
        let (counts, asking) = watch::channel(0);
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, moods.clone()));
                counts.send_replace(count.fetch_add(1, Ordering::SeqCst) + 1);
            }
        });
        Self {
            address,
            mood,
            asked,
            asking,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn becomes(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// How often it has been asked for anything.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until it has been asked so often in all.
    pub(super) async fn asked_for(&mut self, times: usize) {
        let enough = self.asking.wait_for(|asked| *asked >= times);
        bounded(enough).await.unwrap();
    }

    /// Waits until it has been asked again, and what came of the time before is known.
    pub(super) async fn asked_twice_more(&mut self) {
        self.asked_for(self.asked() + 2).await;
    }

    /// Settings with the keys right here.
    pub(super) fn settings(&self) -> AuthSettings {
        AuthSettings {
            keys: KeySource::Url(format!("{}/keys", self.url())),
            ..AuthSettings::new(ISSUER, AUDIENCE)
        }
    }

    /// Settings with the keys where this issuer says.
    pub(super) fn discovery(&self) -> AuthSettings {
        AuthSettings::new(self.url(), AUDIENCE)
    }
}

async fn answer(stream: TcpStream, mut moods: watch::Receiver<Mood>) {
    let mut stream = BufReader::new(stream);
    if matches!(*moods.borrow(), Mood::Down) {
        return;
    }
    let mut request = String::new();
    while let Ok(1..) = stream.read_line(&mut request).await {
        if request.ends_with("\r\n\r\n") {
            break;
        }
    }
    let mood = moods.wait_for(|mood| !matches!(mood, Mood::Waits)).await;
    let Ok(mood) = mood.map(|mood| mood.clone()) else {
        return;
    };
    let answer = match mood {
        Mood::Discovers(answer, _) if request.contains(CONFIGURATION) => answer,
        Mood::Answers(answer) | Mood::Discovers(_, answer) => answer,
        Mood::Waits | Mood::Down => return,
    };
    // It fails where nobody waits for it any more.
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}
