//! An authorization server that follows the script of a test and records its requests.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// The answer of the token endpoint to one request.
pub(crate) enum TokenAction {
    /// Grants a token, with `expires_in` in seconds or without.
    Grant(&'static str, Option<u64>),
    /// Answers with this status line and body.
    Answer(&'static str, String),
    /// Redirects the request.
    Redirect,
    /// Closes the connection without an answer.
    Close,
    /// Never answers.
    Hang,
}

#[derive(Default)]
pub(crate) struct TokenScript {
    pub(crate) acts: VecDeque<TokenAction>,
    /// The metadata to serve instead of the true one.
    pub(crate) configuration: Option<String>,
    pub(crate) discoveries: usize,
    /// The head and body of each request for a token.
    pub(crate) requests: Vec<String>,
    /// All other requests.
    pub(crate) other_requests: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct TokenEndpoint {
    pub(crate) url: String,
    script: Arc<Mutex<TokenScript>>,
    /// Notified when a request begins to hang.
    pub(crate) hangs: Arc<Notify>,
}

impl TokenEndpoint {
    pub(crate) async fn start(acts: impl IntoIterator<Item = TokenAction>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Self {
            url: format!("http://{}/realm", listener.local_addr().unwrap()),
            script: Arc::default(),
            hangs: Arc::default(),
        };
        endpoint.script().acts.extend(acts);
        let serving = endpoint.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let endpoint = serving.clone();
                tokio::spawn(async move { endpoint.serve(stream).await });
            }
        });
        endpoint
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, TokenScript> {
        self.script.lock().unwrap()
    }

    /// Serves the requests of one connection, until one hangs or closes it.
    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let request = read(&mut stream).await?;
            let Some(answer) = self.answer(&request)? else {
                self.hangs.notify_one();
                std::future::pending().await
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    }

    /// Returns `None` to close the connection, `Some(None)` to hang.
    fn answer(&self, request: &str) -> Option<Option<String>> {
        let url = &self.url;
        let mut script = self.script();
        if request.starts_with("GET /realm/.well-known/openid-configuration ") {
            script.discoveries += 1;
            let truth = format!(r#"{{"issuer":"{url}","token_endpoint":"{url}/token"}}"#);
            let body = script.configuration.clone().unwrap_or(truth);
            return Some(Some(response("200 OK", &body)));
        }
        if !request.starts_with("POST /realm/token ") {
            script.other_requests.push(request.to_owned());
            return Some(Some(response("404 Not Found", "")));
        }
        script.requests.push(request.to_owned());
        Some(Some(match script.acts.pop_front().expect("scripted") {
            TokenAction::Grant(token, seconds) => {
                let expires = seconds.map_or(String::new(), |seconds| {
                    format!(r#","expires_in":{seconds}"#)
                });
                let granted =
                    format!(r#"{{"access_token":"{token}","token_type":"bearer"{expires}}}"#);
                response("200 OK", &granted)
            }
            TokenAction::Answer(status, body) => response(status, &body),
            TokenAction::Redirect => {
                let status = format!("307 Temporary Redirect\r\nlocation: {url}/elsewhere");
                response(&status, "")
            }
            TokenAction::Close => return None,
            TokenAction::Hang => return Some(None),
        }))
    }
}

fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if stream.read_line(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    let length = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(request + std::str::from_utf8(&body).ok()?)
}
