//! What all calls of a connection share.

use std::sync::Arc;

use super::{call_limit::CallLimit, methods::Methods, routes::Routes};
use crate::server::{
    auth::Authenticator, limits::Limits, metrics::WorkerCounters, transport::Peer,
};

/// What calls need of their server, their worker and their connection.
#[derive(Clone)]
pub(in crate::server) struct CallContext {
    pub(in crate::server) routes: Routes,
    pub(in crate::server) methods: Arc<Methods>,
    pub(in crate::server) call_limit: CallLimit,
    pub(in crate::server) limits: Arc<Limits>,
    /// Checks access tokens, on a server that requires them.
    pub(in crate::server) authenticator: Option<Arc<Authenticator>>,
    /// None on a server without an admin listener.
    pub(in crate::server) counters: Option<Arc<WorkerCounters>>,
    #[cfg(feature = "otel")]
    pub(in crate::server) tracer: Option<opentelemetry_sdk::trace::SdkTracer>,
    /// The connection's peer address.
    pub(in crate::server) peer: Peer,
    /// Whether the connection is within the limits. Otherwise all calls are answered with BUSY.
    pub(in crate::server) is_admitted: bool,
}

impl CallContext {
    /// A context without authentication and telemetry.
    pub(in crate::server) fn new(
        routes: Routes,
        methods: Methods,
        call_limit: CallLimit,
        limits: Arc<Limits>,
    ) -> Self {
        Self {
            routes,
            methods: Arc::new(methods),
            call_limit,
            limits,
            authenticator: None,
            counters: None,
            #[cfg(feature = "otel")]
            tracer: None,
            peer: Peer::Unix,
            is_admitted: true,
        }
    }

    /// The context of one connection's calls.
    pub(in crate::server) fn for_connection(&self, peer: Peer, is_admitted: bool) -> Arc<Self> {
        Arc::new(Self {
            peer,
            is_admitted,
            ..self.clone()
        })
    }
}
