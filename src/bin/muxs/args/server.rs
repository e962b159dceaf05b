//! Which server to use, and whom to trust.

use std::{fs, net::IpAddr, path::PathBuf};

use anyhow::Context;
use muxs::client;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

const SCHEMES: [&str; 3] = ["http://", "https://", "unix:"];

const HEADING: &str = "Server";

#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    /// The server to use, such as https://example.com or unix:/run/muxs.sock; HOST:PORT alone is http:// on this
    /// machine
    #[arg(
        long,
        value_name = "ADDR",
        env = "MUXS_ADDR",
        default_value = "http://127.0.0.1:50051",
        help_heading = HEADING,
        global = true
    )]
    addr: String,

    /// Trust the certificate authorities in this file, in PEM, instead of those of this machine
    #[arg(long, value_name = "FILE", help_heading = HEADING, global = true)]
    ca: Option<PathBuf>,

    /// Identify this client by this certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "key", help_heading = HEADING, global = true)]
    pub(crate) cert: Option<PathBuf>,

    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = HEADING, global = true)]
    key: Option<PathBuf>,
}

impl ServerArgs {
    /// Returns the address with its scheme.
    pub(crate) fn address(&self) -> anyhow::Result<String> {
        with_scheme(&self.addr)
    }

    /// Returns the endpoint at `address`, with the certificates to trust and to send.
    pub(crate) fn endpoint(&self, address: &str) -> anyhow::Result<Endpoint> {
        let endpoint =
            client::endpoint(address).with_context(|| format!("{address} is not an address"))?;
        if self.ca.is_none() && self.cert.is_none() {
            return Ok(endpoint);
        }
        let read = |file: &PathBuf| {
            fs::read(file).with_context(|| format!("cannot read {}", file.display()))
        };
        anyhow::ensure!(
            address.starts_with("https://"),
            "--ca and --cert are for addresses that begin with https://, and {address} does not"
        );
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca {
            Some(ca) => {
                let pem = read(ca)?;
                let has_any = CertificateDer::pem_slice_iter(&pem).next().is_some();
                anyhow::ensure!(has_any, "there is no certificate in {}", ca.display());
                tls.ca_certificate(Certificate::from_pem(pem))
            }
            None => tls.with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        endpoint
            .tls_config(tls)
            .context("cannot use these certificates")
    }
}

/// Adds `http://` to an address of this machine that has no scheme.
fn with_scheme(addr: &str) -> anyhow::Result<String> {
    if SCHEMES.iter().any(|scheme| addr.starts_with(scheme)) {
        return Ok(addr.to_owned());
    }
    anyhow::ensure!(
        !addr.contains("://") && !addr.starts_with('/'),
        "{addr} is not an address: addresses begin with {}",
        SCHEMES.join(", ")
    );
    anyhow::ensure!(
        is_loopback(addr),
        "{addr} has no scheme: write https://{addr}, or http://{addr} if the server does not encrypt"
    );
    Ok(format!("http://{addr}"))
}

/// Whether HOST:PORT or HOST is this machine.
fn is_loopback(addr: &str) -> bool {
    let host = match addr.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.contains(']') => host,
        _ => addr,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_address_needs_no_scheme() {
        for addr in [
            "127.0.0.1:50051",
            "127.1.2.3",
            "localhost:1",
            "LOCALHOST",
            "[::1]:50051",
        ] {
            assert_eq!(with_scheme(addr).unwrap(), format!("http://{addr}"));
        }
        for addr in ["http://example.com", "https://a:1", "unix:/run/muxs.sock"] {
            assert_eq!(with_scheme(addr).unwrap(), addr);
        }
    }

    #[test]
    fn other_address_without_a_scheme_is_refused() {
        for (addr, words) in [
            ("example.com:50051", "write https://example.com:50051"),
            ("10.0.0.1:1", "has no scheme"),
            ("127.0.0.1.example.com", "has no scheme"),
            (
                "ftp://localhost",
                "addresses begin with http://, https://, unix:",
            ),
            ("/run/muxs.sock", "addresses begin with"),
        ] {
            let error = with_scheme(addr).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
