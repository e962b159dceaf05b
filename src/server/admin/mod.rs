//! The admin listener: metrics, liveness and readiness over HTTP/1.1.
//!
//! It takes no part in the drain: it answers until the server has ended, and its connections are not waited
//! for.

mod collector;
mod families;
mod scrape;

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

pub(super) use self::collector::{Collect, Collector};
use super::{
    auth::KeyStore,
    single_flight::SingleFlight,
    transport::{Listener, Stream},
    workers::Workers,
};

/// Maximum number of open connections. Further ones wait in the listen backlog.
const MAX_CONNECTIONS: usize = 32;

/// Timeout of a request's head, which also closes idle connections.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Age at which a connection takes no further requests, and time for its last response.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(60);
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Time for each worker to answer a liveness probe.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The content type of Prometheus's text format.
const METRICS_CONTENT_TYPE: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const PLAIN_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Answers the requests of one admin listener.
pub(super) struct Admin {
    collector: Arc<Collector>,
    workers: Workers,
    liveness: SingleFlight<bool>,
    /// The keys for access tokens, on a server that requires them.
    keys: Option<KeyStore>,
}

impl Admin {
    pub(super) fn new(collector: Arc<Collector>, workers: Workers, keys: Option<KeyStore>) -> Self {
        Self {
            collector,
            workers,
            liveness: SingleFlight::default(),
            keys,
        }
    }

    /// Serves forever. All connections end when the future is dropped.
    pub(super) async fn serve(self, listener: Listener) {
        let mut connections = FuturesUnordered::new();
        loop {
            let has_capacity = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                (stream, _peer) = listener.accept(), if has_capacity => {
                    connections.push(self.serve_stream(stream));
                }
                Some(()) = connections.next() => {}
            }
        }
    }

    async fn serve_stream(&self, stream: Stream) {
        match stream {
            Stream::Tcp(stream) => self.serve_http1(stream).await,
            Stream::Unix(stream) => self.serve_http1(stream).await,
        }
    }

    async fn serve_http1(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        // hyper closes the connection after a request whose body is not read.
        let respond = async |request: Request<Incoming>| {
            let response = self.respond(request.method(), request.uri().path()).await;
            Ok::<_, Infallible>(response)
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service_fn(respond));
        let mut connection = pin!(connection);
        // Errors are those of the client.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = sleep(MAX_CONNECTION_AGE) => connection.as_mut().graceful_shutdown(),
        }
        let _ = timeout(CLOSE_GRACE, connection).await;
    }

    async fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
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
            "/healthz" => health_response(self.check_liveness().await, "ok"),
            "/readyz" => health_response(self.check_readiness(), "ready"),
            _ => match scrape::scrape(&self.collector).await {
                Ok(text) => response(StatusCode::OK, METRICS_CONTENT_TYPE, text),
                Err(error) => {
                    tracing::error!(%error, "cannot format the metrics");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "failed")
                }
            },
        }
    }

    /// Fails if a worker does not answer in time.
    async fn check_liveness(&self) -> Result<(), &'static str> {
        let workers = self.workers.clone();
        let ping = || tokio::spawn(async move { workers.ping_all().await });
        match self.liveness.run(LIVENESS_TIMEOUT, ping).await {
            Some(true) => Ok(()),
            _ => Err("stuck"),
        }
    }

    /// Fails if new clients should go elsewhere.
    fn check_readiness(&self) -> Result<(), &'static str> {
        if self.collector.is_draining() {
            return Err("draining");
        }
        match &self.keys {
            Some(keys) if !keys.is_ready() => Err("no keys"),
            _ => Ok(()),
        }
    }
}

fn health_response(result: Result<(), &'static str>, ok: &'static str) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => plain(StatusCode::OK, ok),
        Err(problem) => plain(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

fn plain(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(code, PLAIN_CONTENT_TYPE, format!("{text}\n"))
}

fn response(code: StatusCode, content_type: HeaderValue, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    let no_store = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    response
}
