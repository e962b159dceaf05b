//! Looks whether a gRPC server answers, so that a transfer does not retry in vain.

use std::{
    error::Error,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use muxs::client;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::rustls::{self, CertificateError};
use tonic::{body::Body, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{ServiceExt, service_fn};

/// The time in which a server that listens has to send something.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The beginning of a client's side of HTTP/2 (RFC 9113 3.4): the preface, and SETTINGS without any.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The statuses of a gateway whose server does not answer at the moment, or of one that is busy.
const TRANSIENT_STATUSES: [StatusCode; 4] = [
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// What answers at an address.
pub(crate) enum Probe {
    /// A gRPC server, or nothing that a retry could not change.
    Usable,
    /// Nothing listens there.
    Nothing,
    /// No gRPC server for this client, and why.
    Unusable(String),
}

/// The answer to a health check, which need not succeed.
enum Answer {
    Grpc,
    Http(StatusCode),
    /// The connection was closed instead.
    Closed,
    Silence,
}

/// Looks what answers at `address`.
pub(crate) async fn probe(address: &str, endpoint: &Endpoint, sends_certificate: bool) -> Probe {
    let is_tls = address.starts_with("https://");
    let answer = match check_health(endpoint).await {
        Ok(answer) => answer,
        Err(error) if is_refused(&error) => return Probe::Nothing,
        Err(error) => return explain_tls(address, &error).map_or(Probe::Usable, Probe::Unusable),
    };
    match answer {
        Answer::Grpc => Probe::Usable,
        Answer::Http(status) if TRANSIENT_STATUSES.contains(&status) => Probe::Usable,
        // nginx answers so, after the handshake.
        Answer::Http(status @ StatusCode::BAD_REQUEST) if is_tls && !sends_certificate => {
            Probe::Unusable(format!(
                "{address} is not a gRPC server: it answers with HTTP status {status}; check the address and \
                 its port, or name --cert and --key if a proxy requires a certificate"
            ))
        }
        Answer::Http(status) => not_grpc(address, &format!("it answers with HTTP status {status}")),
        // With TLS 1.3, a server refuses a client's certificate after the handshake. The second time, it was not
        // the server's end.
        Answer::Closed if is_tls => match check_health(endpoint).await {
            Ok(Answer::Closed) => refuses_certificate(address, sends_certificate),
            _ => Probe::Usable,
        },
        Answer::Silence if is_tls => Probe::Usable,
        Answer::Closed | Answer::Silence => explain_silence(address).await,
    }
}

/// Makes a connection of its own for a health check.
async fn check_health(endpoint: &Endpoint) -> Result<Answer, tonic::transport::Error> {
    let channel = endpoint.connect().await?;
    let head = Arc::new(OnceLock::new());
    let seen = Arc::clone(&head);
    let mut health = HealthClient::new(service_fn(move |request: http::Request<Body>| {
        let (channel, seen) = (channel.clone(), Arc::clone(&seen));
        async move {
            let response = channel.oneshot(request).await?;
            let _ = seen.set((response.status(), is_grpc(response.headers())));
            Ok::<_, tonic::transport::Error>(response)
        }
    }));
    let check = health.check(HealthCheckRequest::default());
    let checked = timeout(ANSWER_TIMEOUT, check).await;
    Ok(match (head.get(), checked) {
        (Some((_, true)), _) => Answer::Grpc,
        (Some((status, false)), _) => Answer::Http(*status),
        (None, Ok(_)) => Answer::Closed,
        (None, Err(_)) => Answer::Silence,
    })
}

fn refuses_certificate(address: &str, sends_certificate: bool) -> Probe {
    let advice = match sends_certificate {
        false => "if it requires a certificate of this client, --cert and --key name one",
        true => "it may not accept the certificate of --cert",
    };
    Probe::Unusable(format!(
        "{address} closes the connection without an answer: {advice}"
    ))
}

/// Whether a response is one of gRPC. A failure may have headers without a content type.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    content_type.is_some_and(|value| value.starts_with(b"application/grpc"))
        || headers.contains_key("grpc-status")
}

fn not_grpc(address: &str, why: &str) -> Probe {
    Probe::Unusable(format!(
        "{address} is not a gRPC server: {why}; check the address and its port"
    ))
}

/// Whether the connection was refused, which is the answer of a port without a listener, or there is no such
/// socket.
fn is_refused(error: &tonic::transport::Error) -> bool {
    causes(error)
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            )
        })
}

/// Explains a failure of TLS that does not pass by itself.
fn explain_tls(address: &str, error: &tonic::transport::Error) -> Option<String> {
    if causes(error).any(|cause| cause.to_string().starts_with("HTTP/2 was not negotiated")) {
        return Some(format!(
            "{address} is not a gRPC server: it does not speak HTTP/2; check the address and its port"
        ));
    }
    Some(match tls_error(error)? {
        // An authority that was made anew has the name of the old one, and another key.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => format!(
            "the certificate of {address} is not signed by an authority trusted here; --ca FILE trusts \
             those in FILE instead"
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => {
            format!("the certificate of {address} has expired: its operator has to renew it")
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the certificate of {address} is for another name: use the name in the certificate as \
             the address"
        ),
        // The error of webpki for it is not exported.
        rustls::Error::InvalidCertificate(other)
            if format!("{other:?}").contains("CaUsedAsEndEntity") =>
        {
            format!(
                "the certificate of {address} is that of an authority, and not of a server: its operator \
                 has to issue one for the server"
            )
        }
        rustls::Error::InvalidMessage(_) => {
            format!("{address} does not encrypt: its address begins with http://")
        }
        other => format!("cannot use {address}: {other}"),
    })
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes(error).find_map(|cause| {
        let error = cause.downcast_ref::<io::Error>()?.get_ref()?;
        error.downcast_ref::<rustls::Error>()
    })
}

/// Explains why a server that does not encrypt did not answer, by the first bytes that it sends.
async fn explain_silence(address: &str) -> Probe {
    let first = match timeout(ANSWER_TIMEOUT, first_bytes(address)).await {
        Ok(Ok(first)) => first,
        Ok(Err(_)) => return Probe::Usable,
        Err(_) => {
            return not_grpc(
                address,
                "it accepts connections and sends nothing, unless it hangs",
            );
        }
    };
    match &first[..] {
        // SETTINGS is the first frame of a server (RFC 9113 3.4).
        [0, _, _, 4, ..] => Probe::Usable,
        [b'H', b'T', b'T', b'P', b'/', ..] => not_grpc(address, "it speaks HTTP/1"),
        // An alert, or a handshake.
        [0x15 | 0x16, 3, ..] => expects_tls(address),
        // A gateway whose server does not answer at the moment closes the connection, too.
        [] if speaks_tls(address).await => expects_tls(address),
        [] => Probe::Usable,
        _ => not_grpc(address, "it speaks another protocol"),
    }
}

fn expects_tls(address: &str) -> Probe {
    let address = address.trim_start_matches("http://");
    Probe::Unusable(format!(
        "the server at {address} encrypts: its address is https://{address}"
    ))
}

/// Returns what a server sends first to a client of HTTP/2, nothing if it closes the connection.
async fn first_bytes(address: &str) -> io::Result<Vec<u8>> {
    if let Some(path) = address.strip_prefix("unix:") {
        // Also written as unix:///path.
        let path = path.strip_prefix("//").unwrap_or(path);
        return greet(UnixStream::connect(path).await?).await;
    }
    let uri: http::Uri = address.parse().map_err(io::Error::other)?;
    // An IPv6 address stands in brackets.
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    greet(TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?).await
}

async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Vec<u8>> {
    stream.write_all(PREFACE).await?;
    let mut first = [0; 9];
    let mut length = 0;
    while length < first.len() {
        // A reset after the answer is no reason to forget it.
        match stream.read(&mut first[length..]).await {
            Ok(read) if read > 0 => length += read,
            _ => break,
        }
    }
    Ok(first[..length].to_vec())
}

async fn speaks_tls(address: &str) -> bool {
    let Some(rest) = address.strip_prefix("http://") else {
        return false;
    };
    let Ok(endpoint) = client::endpoint(format!("https://{rest}")) else {
        return false;
    };
    match endpoint.connect().await {
        Ok(_) => true,
        Err(error) => matches!(
            tls_error(&error),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
        ),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
