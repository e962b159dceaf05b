//! Access tokens: who may call, and what for.

mod expiry;
mod issuer;
mod keys;
mod owners;
mod scopes;
mod secrecy;
mod settings;
mod signing;
mod tokens;

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

use self::signing::{Key, Token, rsa};
use crate::{
    raw,
    support::{TestServer, bounded},
};

const ISSUER: &str = "https://issuer.example/realm";
const AUDIENCE: &str = "https://files.example";

/// All that tokens can be good for.
const ALL_SCOPES: &str = "greeter files.read files.write";

const SAY_HELLO: &str = "/muxs.Greeter/SayHello";
const LOTS_OF_GREETINGS: &str = "/muxs.Greeter/LotsOfGreetings";
const WRITE_STREAM: &str = "/muxs.FileController/WriteStream";

/// A message without anything in it.
const EMPTY: &[u8] = &[0; 5];

/// The keys of an issuer, in a file.
struct KeyFile(NamedTempFile);

impl KeyFile {
    fn new(keys: &[Value]) -> Self {
        let file = Self(NamedTempFile::new().unwrap());
        file.replace(&jwks(keys));
        file
    }

    fn replace(&self, content: &str) {
        let mut file = self.0.reopen().unwrap();
        file.set_len(0).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn settings(&self) -> AuthSettings {
        AuthSettings {
            keys: KeySource::File(self.path().to_owned()),
            ..AuthSettings::new(ISSUER, AUDIENCE)
        }
    }
}

/// A JWK set.
fn jwks(keys: &[Value]) -> String {
    serde_json::json!({ "keys": keys }).to_string()
}

/// Lets a server in the making check tokens.
fn checks(settings: AuthSettings) -> impl FnOnce(&mut Config) {
    move |config| config.auth = Some(Auth::load(settings).unwrap())
}

/// A server that checks tokens with the public half of `key`.
fn guarded(key: &Key) -> TestServer {
    TestServer::start_with(checks(KeyFile::new(&[key.jwk()]).settings()))
}

/// A good token of the key that most tests use.
fn good() -> Token {
    Token::of(rsa())
}

/// A good token of somebody's.
fn token_of(subject: &str) -> String {
    good().claim("sub", &format!("{subject:?}")).signed(rsa())
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// What stands in `authorization`.
fn bearer(token: &str) -> MetadataValue<Ascii> {
    format!("Bearer {token}").parse().unwrap()
}

/// A request that says who makes it.
fn with_token<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", bearer(token));
    request
}

/// Calls on one connection that say in `authorization` whatever a test wants.
struct Caller {
    address: SocketAddr,
    connection: SendRequest<Bytes>,
}

impl Caller {
    async fn connect(server: &TestServer) -> Self {
        let (connection, _driver) = raw::polite(server.address).await;
        Self {
            address: server.address,
            connection,
        }
    }

    fn request(&self, path: &str, authorization: &[HeaderValue]) -> Request<()> {
        let mut request = raw::request(self.address, path);
        for value in authorization {
            request.headers_mut().append("authorization", value.clone());
        }
        request
    }

    /// What a call is answered of which no message ever comes.
    async fn silent(&mut self, path: &str, authorization: &[HeaderValue]) -> HeaderMap {
        let request = self.request(path, authorization);
        let (answer, _silent) = self.connection.send_request(request, false).unwrap();
        bounded(answer).await.unwrap().headers().clone()
    }

    /// The same, for a call with these messages. What follows the headers is not waited for.
    async fn call(&mut self, path: &str, authorization: &[HeaderValue], body: &[u8]) -> HeaderMap {
        let request = self.request(path, authorization);
        let (answer, mut stream) = self.connection.send_request(request, false).unwrap();
        // It fails where it was answered already.
        let _ = stream.send_data(Bytes::copy_from_slice(body), true);
        bounded(answer).await.unwrap().headers().clone()
    }

    /// The code that a greeting ends with.
    async fn greets(&mut self, authorization: &[HeaderValue]) -> Code {
        let headers = self.call(SAY_HELLO, authorization, EMPTY).await;
        code(&headers)
    }

    async fn greets_with(&mut self, token: &str) -> Code {
        self.greets(&[value(token)]).await
    }
}

/// The header of a call with a token.
fn value(token: &str) -> HeaderValue {
    format!("Bearer {token}").parse().unwrap()
}

/// The code in the headers of an answer. OK where the handler has begun to answer.
fn code(headers: &HeaderMap) -> Code {
    match headers.get("grpc-status") {
        None => Code::Ok,
        Some(code) => Code::from_bytes(code.as_bytes()),
    }
}

/// The reason in the headers of an answer.
fn reason(headers: &HeaderMap) -> String {
    let status = tonic::Status::from_header_map(headers).unwrap();
    let info = tonic_types::StatusExt::get_details_error_info(&status);
    info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"))
        .reason
}

fn challenge(headers: &HeaderMap) -> &str {
    headers["www-authenticate"].to_str().unwrap()
}

const INVALID_TOKEN: &str = "Bearer error=\"invalid_token\"";
