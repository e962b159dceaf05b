//! Servers that require access tokens, and clients that send them.

use std::{io::Write, net::SocketAddr, path::Path, time::SystemTime};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request};
use muxs::{
    app::Config,
    server::{Auth, AuthSettings, KeySource},
};
use serde_json::Value;
use tempfile::NamedTempFile;
use tonic::{
    Code,
    metadata::{Ascii, MetadataValue},
};

use super::{
    TestServer,
    assertions::with_timeout,
    methods::SAY_HELLO,
    raw_http2,
    signing::{Key, Token, rsa},
};

pub(crate) const ISSUER: &str = "https://issuer.example/realm";
pub(crate) const AUDIENCE: &str = "https://files.example";

/// All scopes of the server.
pub(crate) const ALL_SCOPES: &str = "greeter files.read files.write";

/// A gRPC message without content.
pub(crate) const EMPTY: &[u8] = &[0; 5];

/// A file with the JWK set of an issuer.
pub(crate) struct KeyFile(NamedTempFile);

impl KeyFile {
    pub(crate) fn new(keys: &[Value]) -> Self {
        let file = Self(NamedTempFile::new().unwrap());
        file.replace(&jwks(keys));
        file
    }

    pub(crate) fn replace(&self, content: &str) {
        let mut file = self.0.reopen().unwrap();
        file.set_len(0).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn settings(&self) -> AuthSettings {
        AuthSettings {
            keys: KeySource::File(self.path().to_owned()),
            ..AuthSettings::new(ISSUER, AUDIENCE)
        }
    }
}

/// Returns a JWK set.
pub(crate) fn jwks(keys: &[Value]) -> String {
    serde_json::json!({ "keys": keys }).to_string()
}

/// Adjusts the configuration of a server to check tokens.
pub(crate) fn require_tokens(settings: AuthSettings) -> impl FnOnce(&mut Config) {
    move |config| config.auth = Some(Auth::load(settings).unwrap())
}

/// Starts a server that checks tokens with the public half of `key`.
pub(crate) fn server_with_key(key: &Key) -> TestServer {
    TestServer::start_with(require_tokens(KeyFile::new(&[key.jwk()]).settings()))
}

/// A valid token for the RSA key, not signed yet.
pub(crate) fn valid_token() -> Token {
    Token::new(rsa())
}

/// Signs a valid token of a subject.
pub(crate) fn sign_for(subject: &str) -> String {
    valid_token()
        .claim("sub", &format!("{subject:?}"))
        .sign(rsa())
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// The value of `authorization`, for tonic.
pub(crate) fn bearer(token: &str) -> MetadataValue<Ascii> {
    format!("Bearer {token}").parse().unwrap()
}

/// A request with an access token.
pub(crate) fn with_token<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", bearer(token));
    request
}

/// A client that makes calls on one connection with any values of `authorization`.
pub(crate) struct HeaderClient {
    pub(crate) address: SocketAddr,
    pub(crate) connection: SendRequest<Bytes>,
}

impl HeaderClient {
    pub(crate) async fn connect(server: &TestServer) -> Self {
        let (connection, _driver) = raw_http2::connect_h2(server.address).await;
        Self {
            address: server.address,
            connection,
        }
    }

    pub(crate) fn request(&self, path: &str, authorization: &[HeaderValue]) -> Request<()> {
        let mut request = raw_http2::request(self.address, path);
        for value in authorization {
            request.headers_mut().append("authorization", value.clone());
        }
        request
    }

    /// Begins a call that never sends a message, and returns the headers of the answer.
    pub(crate) async fn call_without_message(
        &mut self,
        path: &str,
        authorization: &[HeaderValue],
    ) -> HeaderMap {
        let request = self.request(path, authorization);
        let (answer, _silent) = self.connection.send_request(request, false).unwrap();
        with_timeout(answer).await.unwrap().headers().clone()
    }

    /// Makes a call with this body, and returns the headers of the answer.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        authorization: &[HeaderValue],
        body: &[u8],
    ) -> HeaderMap {
        let request = self.request(path, authorization);
        let (answer, mut stream) = self.connection.send_request(request, false).unwrap();
        // Sending fails if the call was answered before.
        let _ = stream.send_data(Bytes::copy_from_slice(body), true);
        with_timeout(answer).await.unwrap().headers().clone()
    }

    /// Returns the code that a SayHello ends with.
    pub(crate) async fn greeting_code(&mut self, authorization: &[HeaderValue]) -> Code {
        let headers = self.call(SAY_HELLO, authorization, EMPTY).await;
        code(&headers)
    }

    pub(crate) async fn greeting_code_with(&mut self, token: &str) -> Code {
        self.greeting_code(&[bearer_value(token)]).await
    }
}

/// The value of `authorization`, for h2.
pub(crate) fn bearer_value(token: &str) -> HeaderValue {
    format!("Bearer {token}").parse().unwrap()
}

/// The code in the headers of an answer; OK if the handler has begun to answer.
pub(crate) fn code(headers: &HeaderMap) -> Code {
    match headers.get("grpc-status") {
        None => Code::Ok,
        Some(code) => Code::from_bytes(code.as_bytes()),
    }
}

/// The reason in the headers of an answer.
pub(crate) fn reason(headers: &HeaderMap) -> String {
    let status = tonic::Status::from_header_map(headers).unwrap();
    let info = tonic_types::StatusExt::get_details_error_info(&status);
    info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"))
        .reason
}

pub(crate) fn challenge(headers: &HeaderMap) -> &str {
    headers["www-authenticate"].to_str().unwrap()
}

pub(crate) const INVALID_TOKEN: &str = "Bearer error=\"invalid_token\"";
