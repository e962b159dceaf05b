//! What the program prints when it is ready for calls.

use std::{
    env,
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use muxs::server::Address;

/// The address that the examples call if they get none.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);

/// Prints a line for each address. The kernel accepts connections from the bind on.
pub(crate) fn print_addresses(addresses: &[Address], encrypted: bool, root: &Path) {
    let mut out = io::stdout().lock();
    for address in addresses {
        let scheme = match (address, encrypted) {
            (Address::Tcp(_), true) => "https://",
            (Address::Tcp(_), false) => "http://",
            (Address::Unix(_), _) => "",
        };
        // A closed standard output does not keep the server from serving.
        let _ = writeln!(
            out,
            "muxs listening on {scheme}{address}, serving {}",
            root.display()
        );
        if let Address::Tcp(address) = address
            && !address.ip().to_canonical().is_loopback()
            && !encrypted
        {
            tracing::warn!(
                %address,
                "connections to this address are not encrypted: others on the network can read and \
                 change the data; see --tls-cert"
            );
        }
    }
    let _ = out.flush();
}

/// Prints the address of the administrative endpoints.
pub(crate) fn print_admin_address(address: &Address) {
    let scheme = match address {
        Address::Tcp(_) => "http://",
        Address::Unix(_) => "",
    };
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "muxs admin on {scheme}{address}");
    let _ = out.flush();
    if let Address::Tcp(address) = address
        && !address.ip().to_canonical().is_loopback()
    {
        tracing::warn!(%address, "every client that reaches this address can read the metrics");
    }
}

/// Prints a first command to try, for a person at a terminal.
pub(crate) fn print_first_command(addresses: &[Address]) {
    let tcp = addresses.iter().find_map(|address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    });
    let (Some(address), true) = (tcp, io::stdout().is_terminal()) else {
        return;
    };
    let address = reachable(address);
    // Cargo sets the variable for the programs that it runs, so the clone with the examples is there.
    let command = match env::var_os("CARGO_MANIFEST_DIR") {
        Some(_) if address == DEFAULT_ADDRESS => "cargo run --example hello".to_owned(),
        Some(_) => format!("cargo run --example hello -- http://{address}"),
        None => format!("grpcurl -plaintext {address} list"),
    };
    let _ = writeln!(io::stdout(), "try: {command}   (Ctrl-C stops the server)");
}

/// Returns an address of this machine for one that stands for all of its interfaces.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
