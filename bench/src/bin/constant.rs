//! Answers every call with the same message, without looking at it.
//!
//! This is the cost of HTTP/2 alone for a unary call.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use clap::Parser;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use tokio::net::{TcpListener, TcpStream};

/// A `HelloReply` with gRPC's message prefix.
const REPLY: &[u8] = b"\0\0\0\0\x0e\x0a\x0cHello, name!";

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// Serves a constant answer.
#[derive(Debug, Parser)]
struct Constant {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let constant = Constant::parse();
    let listener = TcpListener::bind(constant.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (socket, peer) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = connection(socket).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn connection(socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        // A call fails when its connection does, or when the client resets it.
        tokio::spawn(answer(request, respond));
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut content = request.into_body();
    while let Some(data) = content.data().await {
        content.flow_control().release_capacity(data?.len())?;
    }
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(Bytes::from_static(REPLY), false)?;
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, OK)]);
    stream.send_trailers(trailers)
}

#[cfg(test)]
mod tests {
    use muxs_bench::pb::HelloReply;
    use prost::Message;

    use super::*;

    #[test]
    fn constant_answer_is_a_hello_reply() {
        let (prefix, message) = REPLY.split_at(5);
        assert_eq!(prefix, [0, 0, 0, 0, message.len() as u8]);
        let reply = HelloReply::decode(message).unwrap();
        assert_eq!(reply.message, "Hello, name!");
    }
}
