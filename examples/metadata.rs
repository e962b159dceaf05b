//! Metadata in both directions: what an interceptor adds, and what a response has before and after its message.
//!
//! Watch: an interceptor of the client gives each call an id. `muxs::server` returns it, also with a failure, and logs
//! it. A handler's own metadata comes before the message, or after it, with the status of a call that fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{error::Error, future::pending};

use muxs::pb::helloworld::greeter_client::GreeterClient;
use muxs::pb::helloworld::greeter_server::{Greeter, GreeterServer};
use muxs::pb::{HelloReply, HelloRequest, Number};
use muxs::server::{Listener, Server};
use tonic::metadata::{KeyAndValueRef, MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status, transport::Channel};

struct Hello;

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Reply<HelloReply> {
        let accepted = request.metadata().get("accept-language");
        let (language, hello) = match accepted.is_some_and(|language| language == "fr") {
            true => ("fr", "Bonjour"),
            false => ("en", "Hello"),
        };
        let message = format!("{hello}, {}!", request.get_ref().name);
        let mut response = Response::new(HelloReply { message });
        let language = MetadataValue::from_static(language);
        response.metadata_mut().insert("content-language", language);
        // The value of a name that ends with -bin is bytes. They travel as base64.
        let flag = MetadataValue::from_bytes(&[0, 255]);
        response.metadata_mut().insert_bin("flag-bin", flag);
        Ok(response)
    }

    async fn square(&self, _: Request<Number>) -> Reply<Number> {
        let (code, mut metadata) = (Code::ResourceExhausted, MetadataMap::new());
        metadata.insert("quota-left", MetadataValue::from(0));
        Err(Status::with_metadata(
            code,
            "no square is left for today",
            metadata,
        ))
    }
}

/// An interceptor: adds what each request needs.
fn add_metadata(mut request: Request<()>) -> Result<Request<()>, Status> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = format!("example-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let id = id
        .parse()
        .map_err(|_| Status::internal("the id is not ASCII"))?;
    request.metadata_mut().insert("x-request-id", id);
    Ok(request)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind("127.0.0.1:0").await?;
    let channel = Channel::from_shared(format!("http://{}", listener.address()?))?;
    let service = GreeterServer::new(Hello);
    tokio::spawn(
        Server::builder()
            .service(service)
            .serve(vec![listener], pending()),
    );

    let mut greeter = GreeterClient::with_interceptor(channel.connect().await?, add_metadata);
    let mut request = Request::new(HelloRequest::default());
    request.get_mut().name = "Ada".to_owned();
    request
        .metadata_mut()
        .insert("accept-language", "fr".parse()?);
    let response = greeter.say_hello(request).await?;
    println!("SayHello, metadata of the response:");
    show(response.metadata());
    println!("  {}", response.get_ref().message);

    println!("Square, metadata of the status:");
    let status = greeter
        .square(Number::default())
        .await
        .expect_err("no quota");
    show(status.metadata());
    println!("  {:?}: {}", status.code(), status.message());
    Ok(())
}

fn show(metadata: &MetadataMap) {
    for entry in metadata.iter() {
        match entry {
            KeyAndValueRef::Ascii(key, value) => println!("  {key} = {value:?}"),
            KeyAndValueRef::Binary(key, value) => println!("  {key} = {:?}", value.to_bytes()),
        }
    }
}
