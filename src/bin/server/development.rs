//! A certificate to try TLS out with.

use std::net::IpAddr;

use anyhow::Context;
use muxs::server::{Address, Tls};

use super::args::LogFormat;

/// Where clients find the certificate that they shall trust.
const CERTIFICATE: &str = "muxs-dev-cert.pem";

/// Makes a certificate for what the server listens on, and says how to trust it.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing of the served files; half a certificate is noticed, and made again"
)]
pub(crate) fn certificate(addresses: &[Address], format: LogFormat) -> anyhow::Result<Tls> {
    let names = names(addresses);
    let (tls, pem) = Tls::development(names.clone())?;
    std::fs::write(CERTIFICATE, pem).with_context(|| format!("cannot write {CERTIFICATE}"))?;
    let mut told = format!(
        "A certificate for {}, good for a year, is in {CERTIFICATE}.\n\
         Every start makes another. To trust it, say so to the client:",
        names.join(", ")
    );
    for address in addresses {
        if let Address::Tcp(address) = address {
            let host = match address.ip().is_unspecified() {
                true => "localhost".to_owned(),
                false => address.ip().to_string(),
            };
            let (host, port) = (bracketed(host), address.port());
            told += &format!(
                "\n  cargo run --example hello -- --addr https://{host}:{port} --ca {CERTIFICATE}\n  \
                 grpcurl -cacert {CERTIFICATE} {host}:{port} list"
            );
        }
    }
    match format {
        LogFormat::Text => eprintln!("{told}"),
        LogFormat::Json => tracing::info!("{told}"),
    }
    Ok(tls)
}

/// What a certificate has to say so that clients believe it: the names of this machine to itself,
/// and what else the server listens on.
fn names(addresses: &[Address]) -> Vec<String> {
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

/// A host as it stands in front of a port.
fn bracketed(host: String) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host,
    }
}
