//! Health, reflection, and the resources of a server that has ended.

use std::collections::BTreeMap;

use muxs::{
    app::{self, Config},
    files::{Settings, Store},
    pb::{HelloRequest, greeter_client::GreeterClient},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{TestServer, connect, with_timeout};

const SERVICES: [&str; 6] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "helloworld.Greeter",
    "muxs.FileController",
    "muxs.Greeter",
];

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn health_reports_the_server_and_each_service() {
    let server = TestServer::start();
    let mut health = HealthClient::new(server.channel().await);
    for service in [
        "",
        "muxs.Greeter",
        "muxs.FileController",
        "helloworld.Greeter",
    ] {
        let answer = health.check(check(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(check("muxs.Nothing")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_v1_lists_and_describes_every_service() {
    use v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = TestServer::start();
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "muxs.FileController".to_owned(),
        )),
        ask(MessageRequest::FileContainingSymbol(
            "helloworld.HelloRequest".to_owned(),
        )),
    ];
    let answers = reflection
        .server_reflection_info(tokio_stream::iter(requests))
        .await
        .unwrap();
    let answers: Vec<_> = answers
        .into_inner()
        .map(|answer| answer.unwrap().message_response.unwrap())
        .collect()
        .await;
    let [
        MessageResponse::ListServicesResponse(list),
        MessageResponse::FileDescriptorResponse(mux),
        MessageResponse::FileDescriptorResponse(helloworld),
    ] = &answers[..]
    else {
        panic!("{answers:?}");
    };
    let mut names: Vec<_> = list.service.iter().map(|service| &service.name).collect();
    names.sort();
    assert_eq!(names, SERVICES);
    assert!(contains(&mux.file_descriptor_proto[0], "WriteStream"));
    assert!(contains(&helloworld.file_descriptor_proto[0], "helloworld"));
}

#[tokio::test]
async fn reflection_v1alpha_lists_every_service() {
    use v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = TestServer::start();
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let mut names: Vec<_> = list.service.iter().map(|service| &service.name).collect();
    names.sort();
    assert_eq!(names, SERVICES);
}

fn contains(descriptor: &[u8], text: &str) -> bool {
    descriptor
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// A dropped server does not drain, and must release everything.
#[tokio::test]
async fn dropped_server_releases_its_port_and_calls() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), Settings::default()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let run = app::run(
        vec![listener.into()],
        Config::new(store),
        std::future::pending(),
    );
    let running = tokio::spawn(run);
    let (_requests, outgoing) = mpsc::channel::<HelloRequest>(1);
    let mut greeter = GreeterClient::new(connect(address).await);
    let replies = greeter.bidi_hello(ReceiverStream::new(outgoing)).await;
    let mut replies = replies.unwrap().into_inner();

    running.abort();
    assert!(with_timeout(replies.message()).await.is_err());
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(refused).await;
    // The lock of the root is released as well.
    let free = async {
        while Store::open(root.path(), Settings::default()).is_err() {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(free).await;
}

#[tokio::test]
async fn stopped_server_releases_its_port() {
    let mut server = TestServer::start();
    let address = server.address;
    let _client = server.channel().await;
    server.stop();
    server.wait_stopped().await;
    assert!(TcpStream::connect(address).await.is_err());
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn server_announces_its_limits_in_settings() {
    let server = TestServer::start();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut head = [0; 9];
    with_timeout(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");
    let mut settings = vec![0; head[2].into()];
    with_timeout(stream.read_exact(&mut settings))
        .await
        .unwrap();
    let settings: BTreeMap<u8, u32> = settings
        .chunks(6)
        .map(|entry| (entry[1], u32::from_be_bytes(entry[2..].try_into().unwrap())))
        .collect();
    let [max_concurrent_streams, initial_window, max_header_list] = [3, 4, 6];
    assert_eq!(settings[&max_concurrent_streams], 128);
    assert_eq!(settings[&initial_window], 1024 * 1024);
    assert_eq!(settings[&max_header_list], 16 * 1024);
}
