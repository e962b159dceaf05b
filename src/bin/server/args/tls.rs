//! The flags for TLS.

use std::path::PathBuf;

use clap::{Args as Flags, ValueEnum};
use muxs::server::{ClientAuth, Tls, TlsError, TlsFiles};

use super::values::parse_switch;

#[derive(Debug, Flags)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct TlsArgs {
    /// Encrypt TCP connections with this certificate, followed by its intermediate certificates, in
    /// PEM [default: none]
    #[arg(long, value_name = "FILE", env = "MUXS_TLS_CERT", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM [default: none]
    #[arg(long, value_name = "FILE", env = "MUXS_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Require client certificates signed by an authority in this file, in PEM [default: none]
    #[arg(
        long,
        value_name = "FILE",
        env = "MUXS_TLS_CLIENT_CA",
        requires = "tls_cert"
    )]
    tls_client_ca: Option<PathBuf>,

    /// Whether clients must have a certificate (require) or may have none (optional)
    #[arg(
        long,
        value_name = "WHETHER",
        env = "MUXS_TLS_CLIENT_AUTH",
        default_value = "require",
        requires = "tls_client_ca"
    )]
    tls_client_auth: ClientAuthArg,

    /// Encrypt TCP connections with a new certificate that clients have to trust, to try out TLS
    /// [default: off]
    #[arg(long, env = "MUXS_TLS_SELF_SIGNED", value_parser = parse_switch)]
    pub(crate) tls_self_signed: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClientAuthArg {
    Require,
    Optional,
}

impl TlsArgs {
    /// Whether only clients with a certificate can connect by TCP.
    pub(crate) fn requires_certificates(&self) -> bool {
        self.tls_client_ca.is_some() && matches!(self.tls_client_auth, ClientAuthArg::Require)
    }

    /// Loads the certificate and key that the flags name, `None` without any.
    pub(crate) fn load(&self) -> Result<Option<Tls>, TlsError> {
        let (Some(cert), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else {
            return Ok(None);
        };
        let clients = match (self.tls_client_ca.clone(), self.tls_client_auth) {
            (None, _) => ClientAuth::Off,
            (Some(ca), ClientAuthArg::Require) => ClientAuth::Required(ca),
            (Some(ca), ClientAuthArg::Optional) => ClientAuth::Optional(ca),
        };
        Tls::load(TlsFiles { cert, key, clients }).map(Some)
    }
}
