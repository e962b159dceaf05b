//! The flags of the program.

mod auth;
mod files;
mod limits;
mod tls;

use std::{convert::Infallible, num::NonZero};

use clap::{CommandFactory, Parser, ValueEnum, error::ErrorKind};
use humantime::Duration;

use self::{auth::AuthArgs, files::FileArgs, limits::LimitArgs, tls::TlsArgs};

/// Serves greetings and files over gRPC.
#[derive(Debug, Parser)]
#[command(name = "server", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Address to listen on, or unix:PATH for a Unix domain socket; repeat it for several. Port 0
    /// takes a free one. Unused where the service manager hands over sockets (LISTEN_FDS)
    #[arg(
        long,
        value_name = "ADDR",
        env = "MUXS_LISTEN",
        default_value = "127.0.0.1:50051",
        value_delimiter = ','
    )]
    pub(crate) listen: Vec<String>,

    /// Address, or unix:PATH, to tell administrators on how the server is: /metrics for Prometheus,
    /// /healthz and /readyz; a port alone is one of 127.0.0.1 [default: none]
    #[arg(
        long,
        value_name = "ADDR",
        env = "MUXS_ADMIN_LISTEN",
        value_parser = parse_admin_address
    )]
    pub(crate) admin_listen: Option<String>,

    /// Threads that serve connections [default: one for each core]
    #[arg(long, value_name = "COUNT", env = "MUXS_WORKERS")]
    pub(crate) workers: Option<NonZero<usize>>,

    /// How long calls under way may go on when the server is told to stop, such as 500ms, 3s or 2m
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_SHUTDOWN_GRACE",
        default_value = "30s"
    )]
    pub(crate) shutdown_grace: Duration,

    /// How logs are written to standard error
    #[arg(
        long,
        value_name = "FORMAT",
        env = "MUXS_LOG_FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,

    /// Export a span of each call there by OTLP over gRPC, such as to http://127.0.0.1:4317
    #[cfg(feature = "otel")]
    #[arg(long, value_name = "URL", env = "MUXS_OTLP_ENDPOINT")]
    pub(crate) otlp_endpoint: Option<String>,

    #[command(flatten)]
    pub(crate) files: FileArgs,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    #[command(flatten)]
    pub(crate) auth: AuthArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

impl Args {
    /// Parses the flags of this process. Invalid ones end it.
    pub(crate) fn parse_or_exit() -> Self {
        let args = Self::parse();
        // clap would report a conflict even if the environment variable of one flag is false.
        if args.tls.tls_self_signed && args.tls.tls_cert.is_some() {
            let conflict = "--tls-self-signed and --tls-cert are two certificates for one server";
            let mut command = Self::command();
            command.error(ErrorKind::ArgumentConflict, conflict).exit();
        }
        args
    }
}

const EXAMPLES: &str = "\
Examples:
  server
      Serve the files in ./muxs-data on 127.0.0.1:50051
  server --listen 127.0.0.1:0 --root /srv/files --read-only
      Serve a folder as it is, on a free port
  server --listen 127.0.0.1:50051 --listen unix:/run/muxs.sock
      Listen on an address and on a Unix domain socket
  server --listen 0.0.0.0:50051 --tls-cert cert.pem --tls-key key.pem
      Serve others than this machine, encrypted
  server --auth-issuer https://login.example.com --auth-audience https://files.example.com
      Let in those who have an access token of that authorization server
  server --admin-listen 9090
      Tell Prometheus on this machine about it: http://127.0.0.1:9090/metrics
  RUST_LOG=debug MUXS_LOG_FORMAT=json server
      Log more, one JSON object a line

SIGINT and SIGTERM stop the server once the calls under way have ended, after
--shutdown-grace at the latest. A second one stops it at once. SIGHUP reads
certificates and keys again, if there are any.

Started by systemd, it tells when it is ready, reloads and stops, gives the
watchdog its sign of life while every thread turns, and listens on the sockets
that it is handed.
";

/// Parses an administrative address. A port alone is one of the loopback interface.
fn parse_admin_address(text: &str) -> Result<String, Infallible> {
    let port = text.strip_prefix(':').unwrap_or(text);
    Ok(match port.parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => text.to_owned(),
    })
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}
