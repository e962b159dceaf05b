//! A bad link: it hands bytes on between a client and a server, and loses its first connection.

use anyhow::Context;
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::transport::Uri;

/// Hands on what comes from the client, in pieces of so many bytes.
const PIECE: usize = 256 * 1024;

/// Opens a link to `server` whose first connection is cut once so many bytes have passed to it.
/// Gives the link's own address.
pub(crate) async fn link(server: &str, cut_after: u64) -> anyhow::Result<String> {
    let uri: Uri = server.parse()?;
    let host = uri.host().context("no host in the address")?.to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        let mut limit = cut_after;
        while let Ok((client, _)) = listener.accept().await {
            if let Ok(server) = TcpStream::connect((host.as_str(), port)).await {
                tokio::spawn(hand_on(client, server, limit));
                limit = u64::MAX;
            }
        }
    });
    Ok(address)
}

/// Ends, and closes both connections, when either side does or the limit is reached.
async fn hand_on(mut client: TcpStream, mut server: TcpStream, limit: u64) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let mut passed = 0;
        let mut piece = vec![0; PIECE];
        while passed < limit {
            let length = from_client.read(&mut piece).await?;
            if length == 0 {
                break;
            }
            to_server.write_all(&piece[..length]).await?;
            passed += length as u64;
        }
        io::Result::Ok(())
    };
    tokio::select! {
        ended = up => ended,
        ended = io::copy(&mut from_server, &mut to_client) => ended.map(drop),
    }
}
