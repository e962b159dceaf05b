//! What holds for every call, whatever it calls: it is gRPC, there is room for it, its messages are
//! as many and as large as they may be, it ends in time, and a handler that panics takes nobody
//! along.

mod arrival;
mod messages;
mod methods;
mod record;
mod refusal;
mod request;
mod response;
mod room;
mod routes;
#[cfg(test)]
mod tests;
mod timeout;
#[cfg(feature = "otel")]
mod trace;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use h2::{RecvStream, server::SendResponse};
use http::Request;

use self::arrival::Arrival;
pub(super) use self::{
    methods::{Method, Methods, Notes},
    room::Room,
    routes::Routes,
};
use super::{accept::Peer, auth::Gate, config::Limits, metrics::Meters};

/// The calls of a server. Clones count together.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) routes: Routes,
    pub(super) methods: Arc<Methods>,
    pub(super) room: Room,
    pub(super) limits: Arc<Limits>,
    /// What they go through where callers have to say who they are.
    pub(super) gate: Option<Arc<Gate>>,
    /// Where they are counted, if they are.
    pub(super) meters: Option<Arc<Meters>>,
    /// Where they are traced, if they are.
    #[cfg(feature = "otel")]
    pub(super) tracer: Option<opentelemetry_sdk::trace::SdkTracer>,
    /// Whose they are: who is at the other end of the connection.
    pub(super) peer: Peer,
    /// Whether none is taken, however much room there is.
    pub(super) refused: bool,
}

impl Calls {
    /// Calls of whoever can connect, which nobody watches.
    pub(super) fn new(routes: Routes, methods: Methods, room: Room, limits: Arc<Limits>) -> Self {
        Self {
            routes,
            methods: Arc::new(methods),
            room,
            limits,
            gate: None,
            meters: None,
            #[cfg(feature = "otel")]
            tracer: None,
            peer: Peer::Unix,
            refused: false,
        }
    }

    /// Those of one connection; if it was not `admitted`, none of them is taken.
    pub(super) fn of(&self, peer: Peer, admitted: bool) -> Arc<Self> {
        Arc::new(Self {
            peer,
            refused: !admitted,
            ..self.clone()
        })
    }

    /// Begins a call, and gives what brings it to its end. None where there is nothing left to do: it
    /// was refused, or is over already.
    pub(super) fn begin(
        self: &Arc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Option<BoxFuture<'static, ()>> {
        Arrival::new(self, request, respond).begin()
    }
}
