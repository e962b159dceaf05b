//! The flags of the program.

mod auth;
mod files;
mod limits;
mod tls;
mod values;
mod variables;

use std::{env, num::NonZero, time::Duration};

use clap::{Command, CommandFactory, FromArgMatches, Parser, ValueEnum, error::ErrorKind};
use muxs::server::Reflection;

use self::{
    auth::AuthArgs,
    files::FileArgs,
    limits::LimitArgs,
    tls::TlsArgs,
    values::{parse_address, parse_count, parse_duration},
};

/// Serves greetings and files over gRPC.
#[derive(Debug, Parser)]
#[command(
    name = "server",
    display_name = "muxs-server",
    version,
    after_help = EXAMPLES,
    max_term_width = 80
)]
pub(crate) struct Args {
    /// Address to listen on: HOST:PORT, a port of 127.0.0.1, or unix:PATH; several are separated by
    /// commas, and port 0 takes a free one. Sockets from a service manager (LISTEN_FDS) replace it
    #[arg(
        long,
        value_name = "ADDR",
        env = "MUXS_LISTEN",
        default_value = "127.0.0.1:50051",
        value_delimiter = ',',
        value_parser = parse_address
    )]
    pub(crate) listen: Vec<String>,

    /// Threads that serve connections [default: one for each core]
    #[arg(long, value_name = "COUNT", env = "MUXS_WORKERS", value_parser = parse_count::<usize>)]
    workers: Option<usize>,

    /// Time for running calls to end when the server stops
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_SHUTDOWN_GRACE",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub(crate) shutdown_grace: Duration,

    #[command(flatten)]
    pub(crate) files: FileArgs,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    #[command(flatten)]
    pub(crate) auth: AuthArgs,

    #[command(flatten)]
    pub(crate) monitoring: MonitoringArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logs, metrics and traces")]
pub(crate) struct MonitoringArgs {
    /// Format of the log on standard error; RUST_LOG sets what is logged
    #[arg(
        long,
        value_name = "FORMAT",
        env = "MUXS_LOG_FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,

    /// Address that serves /metrics for Prometheus, /healthz and /readyz over HTTP: HOST:PORT, a port
    /// of 127.0.0.1, or unix:PATH [default: none]
    #[arg(
        long,
        value_name = "ADDR",
        env = "MUXS_ADMIN_LISTEN",
        value_parser = parse_address
    )]
    pub(crate) admin_listen: Option<String>,

    /// Export a span of each call to this collector by OTLP over gRPC [default: none]
    #[cfg(feature = "otel")]
    #[arg(long, value_name = "URL", env = "MUXS_OTLP_ENDPOINT")]
    pub(crate) otlp_endpoint: Option<String>,

    #[cfg(not(feature = "otel"))]
    #[arg(
        long = "otlp-endpoint",
        value_name = "URL",
        hide = true,
        value_parser = refuse_traces
    )]
    _no_traces: Option<String>,
}

impl Args {
    /// Parses the flags of this process. Invalid ones end it.
    pub(crate) fn parse_or_exit() -> Self {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(env::args_os());
        let matches =
            matches.unwrap_or_else(|error| match variables::find_empty(&command, &error) {
                Some(name) => {
                    let problem = format!("{name} is empty: give it a value, or remove it");
                    command.error(ErrorKind::InvalidValue, problem).exit()
                }
                None => error.exit(),
            });
        let args = Self::from_arg_matches(&matches).unwrap_or_else(|error| {
            error.format(&mut command).exit();
        });
        if let Some((kind, problem)) = args.find_problem() {
            command.error(kind, problem).exit();
        }
        args
    }

    /// Finds what the attributes of the flags cannot express.
    fn find_problem(&self) -> Option<(ErrorKind, &'static str)> {
        // clap would report a conflict even if the environment variable of one flag is false.
        if self.tls.tls_self_signed && self.tls.tls_cert.is_some() {
            return Some((
                ErrorKind::ArgumentConflict,
                "--tls-self-signed and --tls-cert are two certificates for one server",
            ));
        }
        // Without tokens, the reflection would be public.
        if self.auth.reflection() == Reflection::Authenticated && !self.auth.requires_tokens() {
            return Some((
                ErrorKind::MissingRequiredArgument,
                "--reflection authenticated needs --auth-issuer",
            ));
        }
        // Inherited sockets replace the addresses.
        let is_replaced = env::var_os("LISTEN_FDS").is_some();
        let admin = self.monitoring.admin_listen.as_ref();
        if !is_replaced
            && admin.is_some_and(|admin| !admin.ends_with(":0") && self.listen.contains(admin))
        {
            return Some((
                ErrorKind::ArgumentConflict,
                "--listen and --admin-listen name the same address: choose another one for \
                 --admin-listen",
            ));
        }
        None
    }

    /// Logs a warning for each environment variable that looks like one of the server's and is not.
    pub(crate) fn warn_of_unknown_variables() {
        variables::warn_of_unknown(&Self::command());
    }

    pub(crate) fn workers(&self) -> Option<NonZero<usize>> {
        self.workers.and_then(NonZero::new)
    }

    /// The command, with negative numbers as values: their parsers explain what is wrong with them, and clap
    /// would call `-3s` an unknown flag.
    fn command() -> Command {
        <Self as CommandFactory>::command().mut_args(|arg| {
            let names = arg.get_value_names().unwrap_or_default();
            let is_number = ["COUNT", "DURATION", "SIZE"]
                .iter()
                .any(|number| names.iter().any(|name| name.as_str() == *number));
            arg.allow_hyphen_values(is_number)
        })
    }
}

const EXAMPLES: &str = "\
Examples:
  server
      Serve ./muxs-data on 127.0.0.1:50051
  server --listen 127.0.0.1:0 --root /srv/files --read-only
      Serve /srv/files read-only on a free port
  server --listen 50051,unix:/run/muxs.sock
      Listen on port 50051 of 127.0.0.1 and on a Unix domain socket
  server --listen 0.0.0.0:50051 --tls-cert cert.pem --tls-key key.pem
      Serve other machines, encrypted
  server --auth-issuer https://login.example.com \\
      --auth-audience https://files.example.com
      Require access tokens from an OAuth 2.0 authorization server
  server --admin-listen 9090
      Serve metrics at http://127.0.0.1:9090/metrics
  RUST_LOG=debug MUXS_LOG_FORMAT=json server
      Log more, as one JSON object per line

Values:
  DURATION  a number with a unit, such as 500ms, 30s, 5m, 24h or 7d
  SIZE      bytes, or a number with a unit, such as 256KiB, 64MiB or 10GiB

Signals:
  SIGINT, SIGTERM  stop when all calls have ended, at the latest after
                   --shutdown-grace; a second signal stops at once
  SIGHUP           read the certificate and key files again

Under systemd, the server reports when it is ready, reloads and stops, answers
the watchdog while all of its threads respond, and listens on the sockets that
systemd passes to it.
";

/// Explains why there is no such flag.
#[cfg(not(feature = "otel"))]
fn refuse_traces(_url: &str) -> Result<String, &'static str> {
    Err("this server is built without traces; build it with `--features otel`")
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use super::{
        Args,
        variables::{closest, is_unknown},
    };

    #[test]
    fn misspelt_variable_gets_the_closest_one() {
        let command = Args::command();
        for (name, known) in [
            ("MUXS_MAX_CALL", Some("MUXS_MAX_CALLS")),
            ("MUXS_LISTENS", Some("MUXS_LISTEN")),
            ("MUXS_TLS_CERTS", Some("MUXS_TLS_CERT")),
            ("MUXS_ZZZZ", None),
            ("MUXS_HELP", None),
            ("MUXS_", None),
        ] {
            assert!(is_unknown(&command, name), "{name}");
            assert_eq!(closest(&command, name).as_deref(), known, "{name}");
        }
    }

    #[test]
    fn variables_of_others_are_not_unknown() {
        let command = Args::command();
        for name in [
            "MUXS_ROOT",
            "MUXS_TOKEN",
            "MUXS_TEST_ROOT",
            "MUXS_SERVICE_HOST",
            "MUXS_PORT",
            "MUXS_FILES_PORT_50051_TCP_ADDR",
            "PATH",
        ] {
            assert!(!is_unknown(&command, name), "{name}");
        }
    }

    /// `docs` and the log name the variable of a flag by this rule.
    #[test]
    fn variable_is_named_like_its_flag() {
        let command = Args::command();
        for arg in command.get_arguments() {
            let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env()) else {
                continue;
            };
            let expected = format!("MUXS_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(variable.to_str(), Some(expected.as_str()));
        }
    }
}
