//! A service of one's own on `muxs::server`, which adds limits, deadlines, TLS, health, metrics and a drain.
//!
//! Watch: `Echo` has no line about any of these. The message limit ends the second `Collect`, the client's
//! deadline ends `Expand` between two words, and the server stops only after the open `Chat` has ended.
//!
//! For a crate of its own, copy this file and `echo.proto`, depend on muxs with the feature `server`, and let
//! `tonic_prost_build` write the code and a descriptor set named `echo.bin`.

use std::{error::Error, pin::Pin, time::Duration};

use echo::{Message, echo_client::EchoClient, echo_server, echo_server::EchoServer};
use muxs::server::{Listener, MethodPolicy, Server, Tls};
use tokio_stream::{Stream, StreamExt, iter};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Response, Status, Streaming};

#[expect(unreachable_pub, clippy::allow_attributes, reason = "generated")]
mod echo {
    tonic::include_proto!("echo");
    pub(crate) const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("echo");
}

struct Echo;

type Messages = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;
type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl echo_server::Echo for Echo {
    async fn echo(&self, request: Request<Message>) -> Reply<Message> {
        Ok(Response::new(request.into_inner()))
    }

    type ExpandStream = Messages;
    async fn expand(&self, request: Request<Message>) -> Reply<Messages> {
        let text = request.into_inner().text;
        let words: Vec<_> = text.split(' ').map(|word| Ok(message(word))).collect();
        let words = iter(words).throttle(Duration::from_millis(100));
        Ok(Response::new(Box::pin(words)))
    }

    async fn collect(&self, request: Request<Streaming<Message>>) -> Reply<Message> {
        let texts = request.into_inner().map(|it| it.map(|it| it.text + " "));
        let text: String = texts.collect::<Result<_, _>>().await?;
        Ok(Response::new(message(text.trim_end())))
    }

    type ChatStream = Messages;
    async fn chat(&self, request: Request<Streaming<Message>>) -> Reply<Messages> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }
}

fn message(text: &str) -> Message {
    let text = text.to_owned();
    Message { text }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (tls, certificate) = Tls::development(vec!["localhost".to_owned()])?;
    let calls = Listener::bind("127.0.0.1:0").await?;
    let admin = Listener::bind("127.0.0.1:0").await?.for_admin();
    let url = format!("https://{}", calls.address()?);
    println!("metrics, /healthz and /readyz: http://{}", admin.address()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let small = MethodPolicy::default().max_message_bytes(64);
    let server = Server::builder()
        .service(EchoServer::new(Echo))
        .descriptors(echo::DESCRIPTORS)
        .method("/echo.Echo/Collect", small)
        .shutdown_grace(Duration::from_secs(5))
        .tls(tls)
        .serve(vec![calls, admin], async { drop(stopped.await) });
    let server = tokio::spawn(server);
    let tls = ClientTlsConfig::new().domain_name("localhost");
    let tls = tls.ca_certificate(Certificate::from_pem(certificate));
    let channel = Channel::from_shared(url)?.tls_config(tls)?;
    let mut client = EchoClient::new(channel.connect().await?);
    let reply = client.echo(message("hello")).await?.into_inner();
    println!("Echo     {}", reply.text);
    let words = iter(["one", "two", "three"].map(message));
    println!("Collect  {}", client.collect(words).await?.get_ref().text);
    let failed = client.collect(iter([message(&"long ".repeat(20))])).await;
    println!("Collect  {}", failed.expect_err("too large").message());
    let mut request = Request::new(message("more words than time"));
    request.set_timeout(Duration::from_millis(250));
    let mut words = client.expand(request).await?.into_inner();
    while let Some(word) = words.next().await {
        let word = word.map(|word| word.text);
        println!("Expand   {:?}", word.map_err(|status| status.code()));
    }
    let said = iter(["one", "more"].map(message)).throttle(Duration::from_millis(100));
    let mut chat = client.chat(said).await?.into_inner();
    drop((stop, client));
    while let Some(said) = chat.message().await? {
        println!("Chat     {}, while the server drains", said.text);
    }
    Ok(server.await??)
}
