//! The self-signed certificate of `--tls-self-signed`.

use std::net::IpAddr;

use anyhow::Context;
use muxs::server::{Address, Tls};

use super::args::LogFormat;

/// The file with the certificate, which clients have to trust.
const CERTIFICATE_PATH: &str = "muxs-dev-cert.pem";

/// Creates a certificate for the server's addresses, and prints how to trust it.
#[expect(
    clippy::disallowed_methods,
    reason = "not a served file; half a certificate fails to parse, and the next start replaces it"
)]
pub(crate) fn create_certificate(addresses: &[Address], format: LogFormat) -> anyhow::Result<Tls> {
    let names = subject_names(addresses);
    let (tls, pem) = Tls::development(names.clone())?;
    std::fs::write(CERTIFICATE_PATH, pem)
        .with_context(|| format!("cannot write {CERTIFICATE_PATH}"))?;
    let mut message = format!(
        "The new certificate {CERTIFICATE_PATH} is for {} and valid for a year.\n\
         Every start creates another one. Clients that trust it:",
        names.join(", ")
    );
    for address in addresses {
        if let Address::Tcp(address) = address {
            let host = match address.ip().is_unspecified() {
                true => "localhost".to_owned(),
                false => address.ip().to_string(),
            };
            let (host, port) = (format_host(host), address.port());
            message += &format!(
                "\n  cargo run --bin muxs -- chat --addr https://{host}:{port} --ca {CERTIFICATE_PATH}\n  \
                 grpcurl -cacert {CERTIFICATE_PATH} {host}:{port} list"
            );
        }
    }
    match format {
        LogFormat::Text => eprintln!("{message}"),
        LogFormat::Json => tracing::info!("{message}"),
    }
    Ok(tls)
}

/// Returns the names for the certificate: the loopback interface's and the server's addresses.
fn subject_names(addresses: &[Address]) -> Vec<String> {
    let mut names = Vec::from(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    for address in addresses {
        if let Address::Tcp(address) = address {
            let name = address.ip().to_string();
            if !address.ip().is_unspecified() && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Formats a host for use before a port: an IPv6 address gets brackets.
fn format_host(host: String) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host,
    }
}
