//! What an authorization server says over HTTP: where its things are, and what is asked there.
//!
//! Nobody may listen in or answer in its place: an address is of https, or of this machine. No
//! redirect is followed, since it would lead to where nobody has looked, and no answer is read
//! beyond a bound. Whoever embeds this keeps the choice of a cryptographic default for the process.
//!
//! The certificate of an issuer is judged by the authorities that this machine trusts.

use std::{error::Error as _, iter, net::IpAddr, time::Duration};

use reqwest::{Client, Proxy, RequestBuilder, StatusCode, Url, redirect::Policy};
use serde::Deserialize;
use tokio::sync::OnceCell;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take from the first to the last byte of it all.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most of an answer, in bytes. Documents with dozens of keys have some ten thousand.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// Asks authorization servers. Clients of HTTP are made when they are first needed: to make the one
/// for https, the authorities of this machine have to be read.
#[derive(Default)]
pub(crate) struct Http {
    secure: OnceCell<Client>,
    loopback: OnceCell<Client>,
}

/// What was answered, and what it says of itself.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

impl Http {
    /// Fetches what is at `url`. Anything but 200 is an error.
    pub(crate) async fn fetch(&self, url: &Url) -> Result<Vec<u8>, Error> {
        let request = self.client(url).await?.get(url.clone());
        let answer = ask(url, request).await?;
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            status => Err(Error::Status {
                url: shown(url),
                status,
            }),
        }
    }

    /// Sends `form` as the client `id`, as RFC 6749 2.3.1 has it. What the status means is left to
    /// the caller.
    pub(crate) async fn post(
        &self,
        url: &Url,
        (id, secret): (&str, &str),
        form: &[(&str, &str)],
    ) -> Result<Answer, Error> {
        let encoded =
            |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
        let request = self.client(url).await?.post(url.clone());
        let request = request.basic_auth(encoded(id), Some(encoded(secret)));
        ask(url, request.form(form)).await
    }

    /// Reads where an issuer has its things, as OpenID Connect Discovery 1.0 has it.
    pub(crate) async fn discover(&self, issuer: &str) -> Result<Configuration, Error> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let url = confidential(&format!("{base}/.well-known/openid-configuration"))?;
        let document = self.fetch(&url).await?;
        let configuration: Configuration =
            serde_json::from_slice(&document).map_err(|_| Error::Malformed {
                url: shown(&url),
                expected: "the configuration of an issuer",
            })?;
        // To the letter: whoever answers for one issuer must not answer for another.
        if configuration.issuer != issuer {
            return Err(Error::OtherIssuer { url: shown(&url) });
        }
        Ok(configuration)
    }

    async fn client(&self, url: &Url) -> Result<&Client, Error> {
        let client = match url.scheme() {
            "https" => self.secure.get_or_try_init(|| async { secure() }).await,
            _ => self.loopback.get_or_try_init(|| async { loopback() }).await,
        };
        client.map_err(|error| Error::Setup(cause(&error)))
    }
}

/// Where an issuer has its things.
#[derive(Deserialize)]
pub(crate) struct Configuration {
    issuer: String,
    jwks_uri: Option<String>,
    token_endpoint: Option<String>,
}

impl Configuration {
    /// Where its keys are.
    pub(crate) fn jwks_uri(&self) -> Result<Url, Error> {
        named("jwks_uri", self.jwks_uri.as_deref())
    }

    /// Where tokens are to be had.
    pub(crate) fn token_endpoint(&self) -> Result<Url, Error> {
        named("token_endpoint", self.token_endpoint.as_deref())
    }
}

fn named(name: &'static str, address: Option<&str>) -> Result<Url, Error> {
    confidential(address.ok_or(Error::Lacks(name))?)
}

/// Parses the address of something that is told secrets, or believed.
pub(crate) fn confidential(address: &str) -> Result<Url, Error> {
    let url = Url::parse(address).map_err(|_| Error::NotAUrl)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Userinfo);
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if url.host_str().is_some_and(is_loopback) => Ok(url),
        _ => Err(Error::Plaintext(shown(&url))),
    }
}

/// Whether what is sent to `host`, as it stands in an address, stays on this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    // An IPv6 address stands in brackets.
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Why an authorization server could not be asked, or said nothing of use. What it said instead is
/// not in here, for it may be a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the address of the issuer, or one that it names, is not a URL")]
    NotAUrl,
    #[error("addresses with a name or password in them are not used")]
    Userinfo,
    #[error("{0} is neither https nor on a loopback host")]
    Plaintext(String),
    #[error("no client for HTTP can be made: {0}")]
    Setup(String),
    #[error("{url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url} answered more than {LARGEST_ANSWER} bytes")]
    TooLong { url: String },
    #[error("{url} answered something other than {expected}")]
    Malformed { url: String, expected: &'static str },
    #[error("{url} is the configuration of another issuer")]
    OtherIssuer { url: String },
    #[error("the issuer's configuration names no {0}")]
    Lacks(&'static str),
}

impl Error {
    /// Whether the same may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => is_passing(*status),
            _ => false,
        }
    }
}

/// Whether a server that answers so may answer otherwise a little later.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// An address without what may be private in it.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Refused only where there can be none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

fn secure() -> reqwest::Result<Client> {
    let mut client = Client::builder().https_only(true).no_proxy();
    let proxy = ["HTTPS_PROXY", "https_proxy"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|proxy| !proxy.is_empty()));
    if let Some(proxy) = proxy {
        // It sees no more than names: what goes through is encrypted from end to end.
        let exceptions = reqwest::NoProxy::from_env();
        client = client.proxy(Proxy::https(proxy)?.no_proxy(exceptions));
    }
    finish(client)
}

/// Trusts no authority, since it meets none, and asks no proxy, which would not be on this machine.
fn loopback() -> reqwest::Result<Client> {
    finish(Client::builder().tls_certs_only(iter::empty()).no_proxy())
}

fn finish(client: reqwest::ClientBuilder) -> reqwest::Result<Client> {
    client
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .redirect(Policy::none())
        .build()
}

async fn ask(url: &Url, request: RequestBuilder) -> Result<Answer, Error> {
    let unreachable = |error: reqwest::Error| Error::Unreachable {
        url: shown(url),
        why: cause(&error),
    };
    let mut response = request.send().await.map_err(unreachable)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(Error::TooLong { url: shown(url) });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status: response.status(),
        body,
    })
}

/// What an error comes down to. Those above it say less.
fn cause(error: &reqwest::Error) -> String {
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
    fn an_address_is_of_https_or_of_this_machine() {
        for address in [
            "https://example.com",
            "https://10.0.0.1:8443/realm/",
            "http://127.0.0.1:8080",
            "http://127.9.9.9",
            "http://[::1]:80/x",
            "http://localhost/x",
            "http://LOCALHOST",
        ] {
            assert!(confidential(address).is_ok(), "{address}");
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
            assert!(confidential(address).is_err(), "{address}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        for address in ["https://name:secret@example.com", "http://secret@10.0.0.1/"] {
            let told = confidential(address).unwrap_err().to_string();
            assert!(!told.contains("secret"), "{told}");
        }
        let url = Url::parse("https://a:secret@example.com/x?secret#secret").unwrap();
        assert_eq!(shown(&url), "https://example.com/x");
    }
}
