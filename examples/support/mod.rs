//! `connect` calls the server in the first argument, or starts one; `main` prints `Failed` as one sentence.
use muxs::{app, client, files, server::Listener};
use std::{env, error::Error, fmt, future, iter, time::Duration};
use tonic::{Code, Status, transport, transport::Channel};
const TOKEN: &str = "the server requires an access token: `cargo run --bin muxs` can send one, this example cannot.";
const ADVICE: &str = "`cargo run --bin server` starts a server; https:// is for one with TLS.";
pub(crate) struct Failed(Box<dyn Error>);
impl<E: Into<Box<dyn Error>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}
impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = iter::successors(Some(&*self.0), |&it| it.source()).last();
        match self.0.downcast_ref::<Status>() {
            Some(it) if it.code() == Code::Unauthenticated => f.write_str(TOKEN),
            Some(it) if it.message().starts_with("h2 ") => write!(f, "{}. {ADVICE}", it.message()),
            Some(it) if it.source().is_none() => write!(f, "{:?}: {}.", it.code(), it.message()),
            None if !self.0.is::<transport::Error>() => write!(f, "{}.", self.0),
            _ => cause.map_or(Ok(()), |it| write!(f, "no server answers: {it}. {ADVICE}")),
        }
    }
}
pub(crate) async fn connect() -> Result<Channel, Failed> {
    let (given, default) = (env::args().nth(1), "http://127.0.0.1:50051");
    let endpoint = client::endpoint(given.as_deref().unwrap_or(default))?;
    let found = endpoint.timeout(Duration::from_secs(5)).connect().await;
    if found.is_ok() || given.is_some() {
        return Ok(found?);
    }
    let root = tempfile::tempdir()?;
    let store = files::Store::open(root.path(), files::Settings::default())?;
    let listener = Listener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.address()?);
    eprintln!("No server at {default}; started one at {url}.");
    let server = app::run(vec![listener], app::Config::new(store), future::pending());
    tokio::spawn(async move { (server.await, root) });
    Ok(Channel::from_shared(url)?.connect().await?)
}
