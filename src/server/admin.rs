//! What a server tells whoever runs it, over HTTP/1.1: its numbers, whether it lives, and whether it
//! wants clients.
//!
//! It has no part in the drain: it goes on telling to the end, and nobody waits for who asks.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};

use super::{
    accept::{self, Stream},
    auth::Keys,
    listener::Listener,
    metrics::Metrics,
    question::Question,
    workers::Workers,
};

/// How many connections are served at a time. Others wait until one has ended.
const MAX_CONNECTIONS: usize = 32;

/// How long a client may take to ask for something, at first and again.
const QUESTION: Duration = Duration::from_secs(5);

/// How long a connection may go on, and then take for the last answer.
const CONVERSATION: Duration = Duration::from_secs(60);
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// How long a thread of the server may be busy with something else.
const TURN: Duration = Duration::from_secs(2);

/// The most that the head of a request may hold, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The text format of Prometheus.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What there is to tell.
pub(super) struct Admin {
    metrics: Arc<Metrics>,
    workers: Workers,
    turning: Question<bool>,
    /// Those that tokens are checked with, if callers need one.
    keys: Option<Keys>,
}

impl Admin {
    pub(super) fn new(metrics: Arc<Metrics>, workers: Workers, keys: Option<Keys>) -> Self {
        Self {
            metrics,
            workers,
            turning: Question::default(),
            keys,
        }
    }

    /// Serves for ever. Dropped, it ends with all its connections.
    pub(super) async fn serve(self, listener: Listener) {
        let mut connections = FuturesUnordered::new();
        loop {
            let has_room = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                (stream, _peer) = accept::next(&listener), if has_room => {
                    connections.push(self.speak(stream));
                }
                Some(()) = connections.next() => {}
            }
        }
    }

    async fn speak(&self, stream: Stream) {
        match stream {
            Stream::Tcp(stream) => self.converse(stream).await,
            Stream::Unix(stream) => self.converse(stream).await,
        }
    }

    /// Answers one client, until it goes or has been there for long enough.
    async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        // Requests have no body that anybody reads: hyper closes the connection behind one.
        let answer = async |request: Request<Incoming>| {
            let answer = self.answer(request.method(), request.uri().path()).await;
            Ok::<_, Infallible>(answer)
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(QUESTION)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        let mut connection = pin!(connection);
        // What goes wrong with a client is its own business.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = sleep(CONVERSATION) => connection.as_mut().graceful_shutdown(),
        }
        let _ = timeout(LAST_ANSWER, connection).await;
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !["/metrics", "/healthz", "/readyz"].contains(&path) {
            return plain(StatusCode::NOT_FOUND, "not found");
        }
        if ![Method::GET, Method::HEAD].contains(method) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
            let allowed = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(header::ALLOW, allowed);
            return refused;
        }
        match path {
            "/healthz" => told(self.alive().await, "ok"),
            "/readyz" => told(self.ready(), "ready"),
            _ => match self.metrics.text().await {
                Ok(text) => with_type(StatusCode::OK, METRICS, text),
                Err(error) => {
                    tracing::error!(%error, "cannot write the metrics down");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "failed")
                }
            },
        }
    }

    /// Whether all threads turn, or else why the process should be started again.
    async fn alive(&self) -> Result<(), &'static str> {
        let workers = self.workers.clone();
        let turning = self
            .turning
            .ask(TURN, || async move { workers.turn().await });
        match turning.await {
            Some(true) => Ok(()),
            _ => Err("stuck"),
        }
    }

    /// Whether clients should come, or else why not.
    fn ready(&self) -> Result<(), &'static str> {
        if self.metrics.is_draining() {
            return Err("draining");
        }
        match &self.keys {
            Some(keys) if !keys.are_known() => Err("no keys"),
            _ => Ok(()),
        }
    }
}

fn told(state: Result<(), &'static str>, good: &'static str) -> Response<Full<Bytes>> {
    match state {
        Ok(()) => plain(StatusCode::OK, good),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn plain(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    with_type(code, PLAIN, format!("{text}\n"))
}

fn with_type(code: StatusCode, content_type: HeaderValue, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    // What it was a moment ago is of no use to anybody.
    let no_store = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    response
}
