//! What a server can be told.

use std::{num::NonZero, thread, time::Duration};

use super::{auth::Auth, heartbeat::Heartbeat, tls::Tls};
use crate::files::Store;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// The files to serve.
    pub store: Store,
    /// The size of the chunks that files are read in, in bytes, unless the client wants another; 1
    /// to 1 MiB, 256 KiB by default.
    pub chunk_bytes: u32,
    /// How many threads serve connections, each with a runtime of its own. One for each core by
    /// default.
    pub workers: NonZero<usize>,
    /// Encrypts what is spoken on TCP. Off by default; Unix domain sockets never need it.
    pub tls: Option<Tls>,
    /// Lets in those with an access token only. Off by default: whoever can connect may call.
    pub auth: Option<Auth>,
    /// Who may ask what is served.
    pub reflection: Reflection,
    /// Makes a span of each call, by OpenTelemetry's conventions for RPC, in the trace that its
    /// client began (`traceparent`). None by default.
    #[cfg(feature = "otel")]
    pub tracer: Option<opentelemetry_sdk::trace::SdkTracer>,
    /// What clients may take.
    pub limits: Limits,
    /// How long calls under way may go on after the server was told to stop, or their connection
    /// has reached its age. 30 s by default.
    pub shutdown_grace: Duration,
    /// A sign of life for whoever watches over the server. None by default.
    pub heartbeat: Option<Heartbeat>,
}

impl Config {
    /// The defaults.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            chunk_bytes: 256 * 1024,
            workers: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            tls: None,
            auth: None,
            reflection: Reflection::Public,
            #[cfg(feature = "otel")]
            tracer: None,
            limits: Limits::default(),
            shutdown_grace: Duration::from_secs(30),
            heartbeat: None,
        }
    }
}

/// Who may ask what is served, by gRPC reflection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflection {
    /// Everybody. The default.
    Public,
    /// Those with an access token, whatever it is good for; everybody where none is needed.
    Authenticated,
    /// Nobody: it is not served.
    Off,
}

/// What clients may take, and how long they may keep the server waiting. `docs/limits.md` has them
/// in one table, with what each of them stops.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time. 10,000 by default.
    pub max_connections: usize,
    /// Connections at a time from one address; from one network of 64 bits for IPv6. 1,000 by
    /// default.
    pub max_connections_per_address: usize,
    /// Calls at a time on one connection; further ones wait at the client. 128 by default.
    pub max_streams: u32,
    /// Calls at a time, from the first byte of the request to the last of the response. Health
    /// checks do not count. 4,096 by default.
    pub max_calls: usize,
    /// How long a client may take for the TLS handshake, and then again for the first bytes of
    /// HTTP/2. 5 s by default.
    pub handshake_timeout: Duration,
    /// How long a client may let the server wait with bytes it does not take from its socket. 60 s
    /// by default.
    pub write_stall_timeout: Duration,
    /// How long a connection may be silent before the client is asked (HTTP/2 PING) whether it is
    /// there; it is asked after twice that at the latest. 60 s by default.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that. 20 s by default.
    pub keepalive_timeout: Duration,
    /// How long the client of an upload, or of a call with a single request, may send nothing while
    /// the server waits for it. 60 s by default.
    pub idle_timeout: Duration,
    /// The most time a call may take, whatever deadline it came with. No limit by default.
    pub max_deadline: Option<Duration>,
    /// How old a connection may become until it takes no further call, give or take a tenth. No
    /// limit by default.
    pub max_connection_age: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 1_000,
            max_streams: 128,
            max_calls: 4_096,
            handshake_timeout: Duration::from_secs(5),
            write_stall_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60),
            max_deadline: None,
            max_connection_age: None,
        }
    }
}
