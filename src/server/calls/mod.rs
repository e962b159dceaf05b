//! The rules that hold for every call, whatever its method: it is gRPC, its caller may make it, there is room
//! for it, its messages have an allowed number and size, it ends in time, and a panic of its handler ends
//! no other call.

mod admission;
mod call_limit;
mod context;
mod expiry;
mod framing;
mod grpc_timeout;
mod methods;
mod request;
mod response;
mod routes;
#[cfg(feature = "otel")]
mod span;
mod status;
mod telemetry;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use h2::{RecvStream, server::SendResponse};
use http::Request;

pub(super) use self::{
    call_limit::CallLimit,
    context::CallContext,
    methods::{InvalidMethods, Method, Methods, Policies, split_path},
    routes::{Route, Routes},
    status::metric_name,
};

impl CallContext {
    /// Begins a call. Returns the future that runs it to its end; None if the call has ended already.
    pub(super) fn begin(
        self: &Arc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Option<BoxFuture<'static, ()>> {
        admission::PendingCall::new(self, request, respond).begin()
    }
}
