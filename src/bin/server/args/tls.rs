//! The flags for TLS.

use std::path::PathBuf;

use clap::{Args as Flags, ValueEnum, builder::BoolishValueParser};
use muxs::server::{ClientAuth, Tls, TlsError, TlsFiles};

#[derive(Debug, Flags)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct TlsArgs {
    /// Encrypt TCP with this certificate, and those between it and an authority, in PEM
    #[arg(long, value_name = "FILE", env = "MUXS_TLS_CERT", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,

    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", env = "MUXS_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Let in clients with a certificate of the authorities in this file, in PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "MUXS_TLS_CLIENT_CA",
        requires = "tls_cert"
    )]
    tls_client_ca: Option<PathBuf>,

    /// Whether a client may also have none
    #[arg(
        long,
        value_name = "WHETHER",
        env = "MUXS_TLS_CLIENT_AUTH",
        default_value = "require",
        requires = "tls_client_ca"
    )]
    tls_client_auth: ClientAuthArg,

    /// Encrypt TCP with a certificate made for now, to try it out, and say how to trust it
    #[arg(long, env = "MUXS_TLS_SELF_SIGNED", value_parser = BoolishValueParser::new())]
    pub(crate) tls_self_signed: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClientAuthArg {
    Require,
    Optional,
}

impl TlsArgs {
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
