//! An authorization server on the loopback interface that behaves as a test tells it to.

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

use super::{
    assertions::with_timeout,
    auth::{AUDIENCE, ISSUER, jwks},
};

/// The request for the metadata of the issuer (OpenID Connect Discovery).
const CONFIGURATION: &str = "GET /.well-known/openid-configuration HTTP";

pub(crate) struct Issuer {
    pub(crate) address: SocketAddr,
    mood: watch::Sender<Behavior>,
    asked: Arc<AtomicUsize>,
    asking: watch::Receiver<usize>,
}

/// The answer to every request.
#[derive(Clone)]
pub(crate) enum Behavior {
    /// Sends these bytes.
    Respond(Vec<u8>),
    /// Sends the first bytes for a request of the metadata, and the second for any other.
    Discovery(Vec<u8>, Vec<u8>),
    /// Sends nothing until the behavior changes.
    Hang,
    /// Closes the connection.
    Close,
}

impl Behavior {
    /// Serves a JWK set.
    pub(crate) fn serve_keys(keys: &[Value]) -> Self {
        Self::serve_document(&jwks(keys))
    }

    /// Serves a document.
    pub(crate) fn serve_document(document: &str) -> Self {
        Self::respond("200 OK", "", document)
    }

    /// Serves metadata and a JWK set.
    pub(crate) fn serve_discovery(configuration: &Value, keys: &[Value]) -> Self {
        let document = |text: &str| match Self::serve_document(text) {
            Self::Respond(answer) => answer,
            _ => unreachable!("a document is an answer"),
        };
        Self::Discovery(document(&configuration.to_string()), document(&jwks(keys)))
    }

    pub(crate) fn respond(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
        );
        Self::Respond(answer.into_bytes())
    }
}

impl Issuer {
    pub(crate) async fn start(mood: Behavior) -> Self {
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

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set_behavior(&self, mood: Behavior) {
        self.mood.send_replace(mood);
    }

    /// Returns the number of requests received.
    pub(crate) fn request_count(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until `times` requests in all have been received.
    pub(crate) async fn wait_requests(&mut self, times: usize) {
        let enough = self.asking.wait_for(|asked| *asked >= times);
        with_timeout(enough).await.unwrap();
    }

    /// Waits for two more requests: the second is sent only when the answer to the first has been processed.
    pub(crate) async fn wait_two_more_requests(&mut self) {
        self.wait_requests(self.request_count() + 2).await;
    }

    /// Settings with the URL of the keys.
    pub(crate) fn settings(&self) -> AuthSettings {
        AuthSettings {
            keys: KeySource::Url(format!("{}/keys", self.url())),
            ..AuthSettings::new(ISSUER, AUDIENCE)
        }
    }

    /// Settings with discovery of the keys by the metadata.
    pub(crate) fn discovery(&self) -> AuthSettings {
        AuthSettings::new(self.url(), AUDIENCE)
    }
}

async fn answer(stream: TcpStream, mut moods: watch::Receiver<Behavior>) {
    let mut stream = BufReader::new(stream);
    if matches!(*moods.borrow(), Behavior::Close) {
        return;
    }
    let mut request = String::new();
    while let Ok(1..) = stream.read_line(&mut request).await {
        if request.ends_with("\r\n\r\n") {
            break;
        }
    }
    let mood = moods.wait_for(|mood| !matches!(mood, Behavior::Hang)).await;
    let Ok(mood) = mood.map(|mood| mood.clone()) else {
        return;
    };
    let answer = match mood {
        Behavior::Discovery(answer, _) if request.contains(CONFIGURATION) => answer,
        Behavior::Respond(answer) | Behavior::Discovery(_, answer) => answer,
        Behavior::Hang | Behavior::Close => return,
    };
    // Writing fails if the client has gone.
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}
