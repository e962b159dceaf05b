//! The flags of the program, and what they mean to the server.

use std::{convert::Infallible, num::NonZero, path::PathBuf};

use bytesize::ByteSize;
use clap::{
    Args as Flags, CommandFactory, Parser, ValueEnum, builder::BoolishValueParser, error::ErrorKind,
};
use humantime::Duration;
use muxs::{
    files::{Access, MAX_CHUNK_BYTES, Settings},
    server::{
        Auth, AuthError, AuthSettings, ClientAuth, KeySource, Limits, Reflection, ScopeNames, Tls,
        TlsFiles,
    },
};

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
        value_parser = admin_address
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
    /// The flags of this process, which ends here if they are wrong.
    pub(crate) fn of_the_process() -> Self {
        let args = Self::parse();
        // Not left to clap, for which a variable that says no is there like one that says yes.
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

/// An address for administration on the command line. A port alone is not for everybody.
fn admin_address(text: &str) -> Result<String, Infallible> {
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

#[derive(Debug, Flags)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileArgs {
    /// Folder whose files are served; created if it is missing
    #[arg(
        long,
        value_name = "DIR",
        env = "MUXS_ROOT",
        default_value = "./muxs-data"
    )]
    pub(crate) root: PathBuf,

    /// Refuse every write, and write nothing: the folder may be in use by another server or on a
    /// read-only disk
    #[arg(long, env = "MUXS_READ_ONLY", value_parser = BoolishValueParser::new())]
    read_only: bool,

    /// How long an upload that nobody goes on with is kept, such as 90m or 7d
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_UPLOAD_TTL",
        default_value = "24h"
    )]
    upload_ttl: Duration,

    /// Make an upload durable after this much, such as 16MiB, and in any case each second
    #[arg(
        long,
        value_name = "SIZE",
        env = "MUXS_CHECKPOINT_BYTES",
        default_value = "64MiB"
    )]
    checkpoint_bytes: ByteSize,

    /// Refuse to upload larger files than this [default: no limit]
    #[arg(long, value_name = "SIZE", env = "MUXS_MAX_UPLOAD_BYTES")]
    max_upload_bytes: Option<ByteSize>,

    /// Uploads that may be open at a time
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_UPLOADS",
        default_value = "256"
    )]
    max_uploads: usize,

    /// Send files in chunks of this size, at most 1MiB, to clients that have no wish
    #[arg(
        long,
        value_name = "SIZE",
        env = "MUXS_CHUNK_BYTES",
        default_value = "256KiB",
        value_parser = chunk_bytes
    )]
    pub(crate) chunk_bytes: u32,
}

impl FileArgs {
    pub(crate) fn settings(&self) -> Settings {
        let defaults = Settings::default();
        Settings {
            access: match self.read_only {
                true => Access::ReadOnly,
                false => Access::ReadWrite,
            },
            upload_ttl: self.upload_ttl.into(),
            checkpoint_bytes: self.checkpoint_bytes.as_u64(),
            max_upload_bytes: match self.max_upload_bytes {
                Some(limit) => limit.as_u64(),
                None => defaults.max_upload_bytes,
            },
            max_open_uploads: self.max_uploads,
        }
    }
}

/// The size of a chunk on the command line.
fn chunk_bytes(text: &str) -> Result<u32, String> {
    let size: ByteSize = text.parse()?;
    match u32::try_from(size.as_u64()) {
        Ok(bytes @ 1..=MAX_CHUNK_BYTES) => Ok(bytes),
        _ => Err("a chunk has 1 byte to 1MiB".to_owned()),
    }
}

#[derive(Debug, Flags)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct TlsArgs {
    /// Encrypt TCP with this certificate, and those between it and an authority, in PEM
    #[arg(long, value_name = "FILE", env = "MUXS_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

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
    /// The certificate and key of the flags, if they name any.
    pub(crate) fn load(&self) -> Result<Option<Tls>, muxs::server::TlsError> {
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

#[derive(Debug, Flags)]
#[command(next_help_heading = "Access tokens")]
pub(crate) struct AuthArgs {
    /// Let in only who has an access token of this authorization server, named as its tokens name it
    #[arg(
        long,
        value_name = "URL",
        env = "MUXS_AUTH_ISSUER",
        requires = "auth_audience"
    )]
    auth_issuer: Option<String>,

    /// What a token has to be for (aud): a name for this server that the issuer knows
    #[arg(
        long,
        value_name = "NAME",
        env = "MUXS_AUTH_AUDIENCE",
        requires = "auth_issuer"
    )]
    auth_audience: Option<String>,

    /// The keys of the issuer, a JWK set [default: where the issuer says, by OpenID discovery]
    #[arg(
        long,
        value_name = "FILE|URL",
        env = "MUXS_AUTH_JWKS",
        requires = "auth_issuer"
    )]
    auth_jwks: Option<String>,

    /// Algorithms that a token may be signed with
    #[arg(
        long,
        value_name = "NAMES",
        env = "MUXS_AUTH_ALGORITHMS",
        default_value = "RS256,ES256,EdDSA",
        value_delimiter = ','
    )]
    auth_algorithms: Vec<String>,

    /// The type that a token has to say it is of; some issuers say JWT
    #[arg(
        long,
        value_name = "TYPE",
        env = "MUXS_AUTH_TOKEN_TYPE",
        default_value = "at+jwt"
    )]
    auth_token_type: String,

    /// The scope that greetings need
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_GREETER",
        default_value = "greeter"
    )]
    auth_scope_greeter: String,

    /// The scope that it needs to read files
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_READ",
        default_value = "files.read"
    )]
    auth_scope_read: String,

    /// The scope that it needs to write files
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_WRITE",
        default_value = "files.write"
    )]
    auth_scope_write: String,

    /// A claim with the folder below the root that its caller is restricted to; a token without it
    /// is good for all of the root [default: none]
    #[arg(long, value_name = "CLAIM", env = "MUXS_AUTH_FOLDER_CLAIM")]
    auth_folder_claim: Option<String>,

    /// How often the keys of the issuer are read again
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_AUTH_REFRESH",
        default_value = "5m"
    )]
    auth_refresh: Duration,

    /// How long the last keys are believed in while they cannot be read again
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_AUTH_KEYS_MAX_AGE",
        default_value = "1h"
    )]
    auth_keys_max_age: Duration,

    /// Who may ask what is served, by gRPC reflection
    #[arg(
        long,
        value_name = "WHO",
        env = "MUXS_REFLECTION",
        default_value = "public"
    )]
    reflection: ReflectionArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ReflectionArg {
    /// Everybody
    Public,
    /// Who has an access token
    Authenticated,
    /// Nobody
    Off,
}

impl AuthArgs {
    /// What tokens have to be, if they have to be anything. Blocking.
    pub(crate) fn load(&self) -> Result<Option<Auth>, AuthError> {
        let (Some(issuer), Some(audience)) = (&self.auth_issuer, &self.auth_audience) else {
            return Ok(None);
        };
        let settings = AuthSettings {
            keys: match &self.auth_jwks {
                None => KeySource::Discovery,
                Some(url) if url.contains("://") => KeySource::Url(url.clone()),
                Some(file) => KeySource::File(file.into()),
            },
            algorithms: self.auth_algorithms.clone(),
            token_type: self.auth_token_type.clone(),
            scopes: ScopeNames {
                greeter: self.auth_scope_greeter.clone(),
                read: self.auth_scope_read.clone(),
                write: self.auth_scope_write.clone(),
            },
            folder_claim: self.auth_folder_claim.clone(),
            refresh: self.auth_refresh.into(),
            keys_max_age: self.auth_keys_max_age.into(),
            ..AuthSettings::new(issuer, audience)
        };
        Auth::load(settings).map(Some)
    }

    pub(crate) fn reflection(&self) -> Reflection {
        match self.reflection {
            ReflectionArg::Public => Reflection::Public,
            ReflectionArg::Authenticated => Reflection::Authenticated,
            ReflectionArg::Off => Reflection::Off,
        }
    }
}

#[derive(Debug, Flags)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Connections at a time
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CONNECTIONS",
        default_value = "10000"
    )]
    max_connections: usize,

    /// Connections at a time from one IPv4 address or IPv6 network of 64 bits
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CONNECTIONS_PER_ADDRESS",
        default_value = "1000"
    )]
    max_connections_per_address: usize,

    /// Calls at a time on one connection; further ones wait at the client
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_STREAMS",
        default_value = "128"
    )]
    max_streams: u32,

    /// Calls at a time on all connections
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_CALLS",
        default_value = "4096"
    )]
    max_calls: usize,

    /// How long a client may take for the TLS handshake, and for the first bytes of HTTP/2
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_HANDSHAKE_TIMEOUT",
        default_value = "5s"
    )]
    handshake_timeout: Duration,

    /// How long a client may take nothing from its socket while bytes wait for it
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_WRITE_STALL_TIMEOUT",
        default_value = "60s"
    )]
    write_stall_timeout: Duration,

    /// How long a connection may be silent before the client is asked whether it is there
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_KEEPALIVE_INTERVAL",
        default_value = "60s"
    )]
    keepalive_interval: Duration,

    /// How long the client may take to answer that
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_KEEPALIVE_TIMEOUT",
        default_value = "20s"
    )]
    keepalive_timeout: Duration,

    /// How long the server waits for the next step of an upload, or for the message of a call that
    /// has one
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_IDLE_TIMEOUT",
        default_value = "60s"
    )]
    idle_timeout: Duration,

    /// The most time a call may take, whatever its client says [default: no limit]
    #[arg(long, value_name = "DURATION", env = "MUXS_MAX_DEADLINE")]
    max_deadline: Option<Duration>,

    /// After how long a connection takes no further calls, give or take a tenth [default: never]
    #[arg(long, value_name = "DURATION", env = "MUXS_MAX_CONNECTION_AGE")]
    max_connection_age: Option<Duration>,
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            max_streams: self.max_streams,
            max_calls: self.max_calls,
            handshake_timeout: self.handshake_timeout.into(),
            write_stall_timeout: self.write_stall_timeout.into(),
            keepalive_interval: self.keepalive_interval.into(),
            keepalive_timeout: self.keepalive_timeout.into(),
            idle_timeout: self.idle_timeout.into(),
            max_deadline: self.max_deadline.map(Into::into),
            max_connection_age: self.max_connection_age.map(Into::into),
        }
    }
}
