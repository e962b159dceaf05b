//! Clients of the admin listener.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{TEST_TIMEOUT, TestServer, assertions::with_timeout, scrape::Scrape};

/// An answer of the admin listener.
#[derive(Debug)]
pub(crate) struct AdminResponse {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl TestServer {
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin.expect("started with an admin listener")
    }

    /// Scrapes the metrics once.
    pub(crate) async fn metrics(&self) -> Scrape {
        metrics(self.admin_address()).await
    }

    /// Scrapes the metrics until `reached` accepts them.
    pub(crate) async fn wait_metrics(&self, reached: impl Fn(&Scrape) -> bool) -> Scrape {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let metrics = self.metrics().await;
            if reached(&metrics) {
                return metrics;
            }
            assert!(Instant::now() < deadline, "not reached: {metrics:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until a series has a value.
    pub(crate) async fn wait_series(&self, series: &str, value: u64) -> Scrape {
        self.wait_metrics(|metrics| metrics.value(series) == value as f64)
            .await
    }

    /// Waits until a limit has refused `count` times, and asserts that no other limit has refused.
    pub(crate) async fn wait_refused(&self, limit: &str, count: u64) {
        let series = format!("muxs_refused_total{{limit={limit:?}}}");
        let metrics = self.wait_series(&series, count).await;
        assert_eq!(metrics.sum("muxs_refused_total"), count as f64, "no other");
    }
}

/// The pause between two scrapes, which leaves the processor to the server.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn metrics(admin: SocketAddr) -> Scrape {
    let answer = get(admin, "/metrics").await;
    assert_eq!(answer.code, 200, "{answer:?}");
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{answer:?}"
    );
    Scrape::parse(&answer.body)
}

pub(crate) async fn get(admin: SocketAddr, path: &str) -> AdminResponse {
    ask(admin, "GET", path).await
}

pub(crate) async fn ask(admin: SocketAddr, method: &str, path: &str) -> AdminResponse {
    let stream = with_timeout(TcpStream::connect(admin)).await.unwrap();
    ask_on(stream, method, path).await
}

/// Sends one request and reads the answer until the server closes the connection.
pub(crate) async fn ask_on(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
) -> AdminResponse {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: muxs\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    with_timeout(stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).expect("a code").parse().unwrap();
    AdminResponse {
        code,
        head: format!("{head}\r\n"),
        body: body.to_owned(),
    }
}
