//! HTTP requests to an OAuth 2.0 authorization server: discovery, keys and tokens.
//!
//! URLs must be https, or http on a loopback host. Redirects are not followed, because their target was
//! never checked, and no response is read beyond 1 MiB. The server's certificate must be signed by an
//! authority that the machine trusts. No default cryptographic provider is installed for the process.

use std::{error::Error as _, iter, time::Duration};

use reqwest::{Client, Proxy, RequestBuilder, StatusCode, Url, redirect::Policy};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::loopback::is_loopback;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time from the start of a request to the last byte of its response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A JWK set with dozens of keys has about 10 KB.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// The longest part of a response that a message repeats.
const MAX_SHOWN_CHARS: usize = 200;

/// Sends requests to authorization servers. The underlying clients are built at their first use, because
/// the one for https reads the machine's trusted certificates.
#[derive(Default)]
pub(crate) struct HttpClient {
    secure: OnceCell<Client>,
    loopback: OnceCell<Client>,
}

/// A response that was read whole.
pub(crate) struct HttpReply {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

impl HttpClient {
    /// Returns the body of a GET request. Any status but 200 is an error.
    pub(crate) async fn fetch(&self, url: &Url) -> Result<Vec<u8>, Error> {
        let request = self.client(url).await?.get(url.clone());
        let reply = send(url, request).await?;
        match reply.status {
            StatusCode::OK => Ok(reply.body),
            status => Err(Error::Status {
                url: redact(url),
                status,
            }),
        }
    }

    /// Posts `form`, authenticated as the client `id` (RFC 6749 2.3.1). The caller interprets the status.
    #[cfg(feature = "client-oauth")]
    pub(crate) async fn post(
        &self,
        url: &Url,
        (id, secret): (&str, &str),
        form: &[(&str, &str)],
    ) -> Result<HttpReply, Error> {
        let encoded =
            |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
        let request = self.client(url).await?.post(url.clone());
        let request = request.basic_auth(encoded(id), Some(encoded(secret)));
        send(url, request.form(form)).await
    }

    /// Fetches an issuer's metadata (RFC 8414, OpenID Connect Discovery 1.0).
    pub(crate) async fn discover(&self, issuer: &str) -> Result<ServerMetadata, Error> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let url = require_secure(&format!("{base}/.well-known/openid-configuration"))?;
        let document = self.fetch(&url).await?;
        let metadata: ServerMetadata =
            serde_json::from_slice(&document).map_err(|_| Error::Malformed {
                url: redact(&url),
                expected: "the configuration of an issuer",
            })?;
        // The comparison is exact (RFC 8414 3.3): one issuer must not answer for another.
        if metadata.issuer != issuer {
            return Err(Error::OtherIssuer {
                url: redact(&url),
                issuer: metadata.issuer.chars().take(MAX_SHOWN_CHARS).collect(),
            });
        }
        Ok(metadata)
    }

    async fn client(&self, url: &Url) -> Result<&Client, Error> {
        let client = match url.scheme() {
            "https" => self.secure.get_or_try_init(|| async { secure() }).await,
            _ => self.loopback.get_or_try_init(|| async { loopback() }).await,
        };
        client.map_err(|error| Error::Setup(root_cause(&error)))
    }
}

/// The endpoints of an authorization server.
#[derive(Deserialize)]
pub(crate) struct ServerMetadata {
    issuer: String,
    #[cfg(feature = "server")]
    jwks_uri: Option<String>,
    #[cfg(feature = "client-oauth")]
    token_endpoint: Option<String>,
}

impl ServerMetadata {
    /// The URL of the JWK set.
    #[cfg(feature = "server")]
    pub(crate) fn jwks_uri(&self) -> Result<Url, Error> {
        endpoint("jwks_uri", self.jwks_uri.as_deref())
    }

    /// The URL of the token endpoint.
    #[cfg(feature = "client-oauth")]
    pub(crate) fn token_endpoint(&self) -> Result<Url, Error> {
        endpoint("token_endpoint", self.token_endpoint.as_deref())
    }
}

fn endpoint(name: &'static str, address: Option<&str>) -> Result<Url, Error> {
    let address = address.ok_or(Error::Lacks(name))?;
    require_secure(address).map_err(|error| Error::Endpoint {
        name,
        address: redact_text(address),
        why: error.to_string(),
    })
}

/// Parses a URL and refuses one whose traffic could be read or forged.
pub(crate) fn require_secure(address: &str) -> Result<Url, Error> {
    let url = Url::parse(address).map_err(|_| Error::NotAUrl)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Userinfo);
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if url.host_str().is_some_and(is_loopback) => Ok(url),
        _ => Err(Error::Plaintext),
    }
}

/// A request to an authorization server failed. The response body is not included: it may hold a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the address is not a URL such as https://login.example.com")]
    NotAUrl,
    #[error("the address must not have a user name or password")]
    Userinfo,
    #[error(
        "the address is not encrypted: use https:// (http:// only on 127.0.0.1, [::1] or localhost)"
    )]
    Plaintext,
    #[error("the issuer's {name} {address} cannot be used: {why}")]
    Endpoint {
        name: &'static str,
        address: String,
        why: String,
    },
    #[error("cannot create an HTTP client: {0}")]
    Setup(String),
    #[error("{url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url} answered more than {MAX_RESPONSE_BYTES} bytes")]
    TooLong { url: String },
    #[error("{url} answered something other than {expected}")]
    Malformed { url: String, expected: &'static str },
    #[error(
        "{url} is the configuration of another issuer, {issuer:?}: the issuer has to be written so"
    )]
    OtherIssuer { url: String, issuer: String },
    #[error("the issuer's configuration names no {0}")]
    Lacks(&'static str),
}

/// A URL without its user, password, query and fragment, which may be secret.
pub(crate) fn redact(url: &Url) -> String {
    let mut url = url.clone();
    // These fail only for URLs that cannot have a user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// The same for a text that may not be a URL.
pub(crate) fn redact_text(address: &str) -> String {
    match Url::parse(address) {
        Ok(url) if url.has_host() => redact(&url),
        _ => address.rsplit('@').next().unwrap_or_default().to_owned(),
    }
}

fn secure() -> reqwest::Result<Client> {
    let mut client = Client::builder().https_only(true).no_proxy();
    let proxy = ["HTTPS_PROXY", "https_proxy"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|proxy| !proxy.is_empty()));
    if let Some(proxy) = proxy {
        // The proxy sees host names only: traffic through it is encrypted end to end.
        let exceptions = reqwest::NoProxy::from_env();
        client = client.proxy(Proxy::https(proxy)?.no_proxy(exceptions));
    }
    finish(client)
}

/// A client without trusted certificates and without a proxy: loopback traffic needs neither.
fn loopback() -> reqwest::Result<Client> {
    finish(Client::builder().tls_certs_only(iter::empty()).no_proxy())
}

fn finish(client: reqwest::ClientBuilder) -> reqwest::Result<Client> {
    client
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .redirect(Policy::none())
        .build()
}

async fn send(url: &Url, request: RequestBuilder) -> Result<HttpReply, Error> {
    let unreachable = |error: reqwest::Error| Error::Unreachable {
        url: redact(url),
        why: root_cause(&error),
    };
    let mut response = request.send().await.map_err(unreachable)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(Error::TooLong { url: redact(url) });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(HttpReply {
        status: response.status(),
        body,
    })
}

/// The innermost source of an error, which is the most specific.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match error.source() {
        Some(_) => cause.to_string(),
        None => "the request failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_loopback_urls_are_accepted() {
        for address in [
            "https://example.com",
            "https://10.0.0.1:8443/realm/",
            "http://127.0.0.1:8080",
            "http://127.9.9.9",
            "http://[::1]:80/x",
            "http://localhost/x",
            "http://LOCALHOST",
        ] {
            assert!(require_secure(address).is_ok(), "{address}");
        }
        for address in [
            "http://example.com",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://[::2]",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://example.com/127.0.0.1",
            "ftp://127.0.0.1",
            "file:///etc/passwd",
            "localhost",
            "",
        ] {
            assert!(require_secure(address).is_err(), "{address}");
        }
    }

    #[test]
    fn url_with_password_is_rejected_without_repeating_it() {
        for address in ["https://name:secret@example.com", "http://secret@10.0.0.1/"] {
            let message = require_secure(address).unwrap_err().to_string();
            assert!(!message.contains("secret"), "{message}");
        }
        let url = Url::parse("https://a:secret@example.com/x?secret#secret").unwrap();
        assert_eq!(redact(&url), "https://example.com/x");
        assert_eq!(redact_text("a:secret@example.com"), "example.com");
    }
}
