//! The configuration of muxs.

use std::{num::NonZero, thread, time::Duration};

use super::access::ScopeNames;
use crate::{
    files::Store,
    server::{Auth, Heartbeat, Limits, Reflection, Tls},
};

/// The configuration of a muxs server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The files to serve.
    pub store: Store,
    /// The size of ReadStream's chunks for clients that request none, in bytes: 1 to 1 MiB, 256 KiB by
    /// default.
    pub chunk_bytes: u32,
    /// The number of threads that serve connections, each with a runtime of its own. One for each core by
    /// default.
    pub workers: NonZero<usize>,
    /// Encrypts TCP connections. Off by default. Unix domain sockets are never encrypted.
    pub tls: Option<Tls>,
    /// Requires access tokens. Off by default: every client may call.
    pub auth: Option<Auth>,
    /// The scopes that methods require. No effect without `auth`.
    pub scopes: ScopeNames,
    /// The claim with the directory that a token's caller is restricted to. A token without the claim gives
    /// access to the whole root. None by default. No effect without `auth`.
    pub folder_claim: Option<String>,
    /// Who may use reflection. Every client by default.
    pub reflection: Reflection,
    /// Creates a span for each call, by OpenTelemetry's conventions for RPC, in the trace of its client
    /// (`traceparent`). None by default.
    #[cfg(feature = "otel")]
    pub tracer: Option<opentelemetry_sdk::trace::SdkTracer>,
    /// The limits on clients.
    pub limits: Limits,
    /// Time for running calls to end when the server stops, or when their connection has reached its age. 30 s
    /// by default.
    pub shutdown_grace: Duration,
    /// A periodic signal for a supervisor. None by default.
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
            scopes: ScopeNames::default(),
            folder_claim: None,
            reflection: Reflection::default(),
            #[cfg(feature = "otel")]
            tracer: None,
            limits: Limits::default(),
            shutdown_grace: Duration::from_secs(30),
            heartbeat: None,
        }
    }
}
