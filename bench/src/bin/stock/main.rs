//! The contract on stock tonic, as most people would serve it.
//!
//! This is the generated code and tonic's server, on a runtime of all cores.

mod files;
mod greeter;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Parser;
use muxs_bench::pb::{file_controller_server::FileControllerServer, greeter_server::GreeterServer};
use tonic::transport::{Server, server::TcpIncoming};

use files::Files;
use greeter::Greeter;

/// The flow-control windows of muxs and its frames, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 128 << 20;
const MAX_FRAME_BYTES: u32 = 1 << 20;

/// Serves greetings and files.
#[derive(Debug, Parser)]
struct Stock {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The folder that is served
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Keep tonic's default windows of HTTP/2, instead of making them as large as those of muxs
    #[arg(long)]
    default: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let stock = Stock::parse();
    let mut server = Server::builder();
    if !stock.default {
        server = server
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_BYTES);
    }
    // `serve` binds the same listener, but would not report when it listens.
    let incoming = TcpIncoming::bind(stock.listen)?.with_nodelay(Some(true));
    println!("listening on {}", incoming.local_addr()?);
    server
        .add_service(GreeterServer::new(Greeter))
        .add_service(FileControllerServer::new(Files::new(stock.root)))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
