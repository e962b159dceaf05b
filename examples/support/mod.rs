//! `connect` calls the server in the first argument, or starts one; `main` prints `Failed` as one sentence.
use muxs::pb::{HelloRequest, greeter_client::GreeterClient};
use muxs::{app, client, files, server::Listener};
use std::{env, error::Error, fmt, future, iter, process, sync::OnceLock, time::Duration};
use tonic::{Code, Status, transport, transport::Channel, transport::Uri};
const DEFAULT: &str = "http://127.0.0.1:50051";
const TOKEN: &str = "the server requires an access token: `cargo run --bin muxs` can send one, this example cannot.";
const GONE: &str = "the server is gone in the middle of the call: start it and run this again.";
const ADVICE: &str = "`cargo run --bin server` starts a server; https:// is for one with TLS.";
const OTHER: &str =
    "does not speak gRPC: `cargo run --bin server` starts a server; https:// is for one with TLS";
const TRUST: &str =
    "SSL_CERT_FILE=muxs-dev-cert.pem trusts it, if the server runs with --tls-self-signed.";
const USAGE: &str = "usage: cargo run --example NAME [URL], or stream_file [URL [SIZE_MIB]].
Without a URL, the example calls http://127.0.0.1:50051, or starts a server if none listens there.";
/// Set when `connect` has started a server.
pub(crate) static STARTED: OnceLock<()> = OnceLock::new();
pub(crate) struct Failed(Box<dyn Error>);
impl<E: Into<Box<dyn Error>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}
impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = iter::successors(Some(&*self.0), |&it| it.source()).last();
        let cause = cause.map(ToString::to_string).unwrap_or_default();
        match self.0.downcast_ref::<Status>() {
            Some(it) if it.code() == Code::Unauthenticated => f.write_str(TOKEN),
            Some(it) if is_of_connection(it) => f.write_str(GONE),
            Some(it) => write!(f, "{:?}: {}.", it.code(), it.message()),
            None if !self.0.is::<transport::Error>() => write!(f, "{}.", self.0),
            None if cause.contains("certificate") => write!(f, "{cause}. {TRUST}"),
            None => write!(f, "no server answers: {cause}. {ADVICE}"),
        }
    }
}
/// Whether tonic made this status, because the connection failed.
fn is_of_connection(status: &Status) -> bool {
    status.source().is_some() || status.message().starts_with("h2 ")
}
fn is_url(text: &str) -> bool {
    let uri: Uri = text.parse().unwrap_or_default();
    let is_port = uri.port_u16().is_some() || uri.authority().map(|it| it.as_str()) == uri.host();
    let is_root = uri.path() == "/" && uri.query().is_none();
    matches!(uri.scheme_str(), Some("http" | "https")) && is_port && is_root
}
pub(crate) async fn connect() -> Result<Channel, Failed> {
    let given = env::args().nth(1);
    let url = given.as_deref().unwrap_or(DEFAULT);
    if ["-h", "--help"].contains(&url) {
        println!("{USAGE}");
        process::exit(0);
    }
    if !is_url(url) {
        return Err(format!("`{url}` is not the URL of a server: write {DEFAULT}").into());
    }
    let endpoint = client::endpoint(url)?.timeout(Duration::from_secs(5));
    let found = endpoint.connect().await;
    if found.is_ok() || given.is_some() {
        let channel = found?;
        // Anything can accept a connection. A server of gRPC answers a call, if only with a failure.
        let mut greeter = GreeterClient::new(channel.clone());
        return match greeter.say_hello(HelloRequest::default()).await {
            Err(it) if is_of_connection(&it) => {
                Err(format!("what listens at {url} {OTHER}").into())
            }
            answer => answer.map(|_| channel).map_err(Failed::from),
        };
    }
    let _ = STARTED.set(());
    let root = tempfile::tempdir()?;
    let store = files::Store::open(root.path(), files::Settings::default())?;
    let listener = Listener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.address()?);
    eprintln!("No server at {DEFAULT}; started one at {url}.");
    let server = app::run(vec![listener], app::Config::new(store), future::pending());
    tokio::spawn(async move { (server.await, root) });
    Ok(Channel::from_shared(url)?.connect().await?)
}
