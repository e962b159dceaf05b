//! The contract served with tonic as it comes, as most people would do it: what it generates and
//! what it is served with, on a runtime of all cores.

mod files;
mod greeter;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Parser;
use muxs_bench::pb::{file_controller_server::FileControllerServer, greeter_server::GreeterServer};
use tonic::transport::{Server, server::TcpIncoming};

use files::Files;
use greeter::Greeter;

/// The windows and the frames of muxs, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 128 << 20;
const MAX_FRAME: u32 = 1 << 20;

/// Serves greetings and files.
#[derive(Debug, Parser)]
struct Stock {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The folder that is served
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Leave the windows of HTTP/2 as tonic has them, instead of making them as large as those of
    /// muxs
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
            .max_frame_size(MAX_FRAME);
    }
    // What `serve` does too; here it can be said that it listens.
    let incoming = TcpIncoming::bind(stock.listen)?.with_nodelay(Some(true));
    println!("listening on {}", incoming.local_addr()?);
    server
        .add_service(GreeterServer::new(Greeter))
        .add_service(FileControllerServer::new(Files::new(stock.root)))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
