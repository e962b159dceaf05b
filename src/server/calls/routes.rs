//! The services of a server by name.

use std::{
    any::Any,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{BoxError, Service, ServiceExt};

use super::methods::split_path;

/// The type of future that tonic's generated servers return.
pub(super) type ResponseFuture = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Services by name. Clones share them.
///
/// tonic leaves this to axum's router, which matches patterns and takes an eighth of the time of a small
/// call. A gRPC path is a service and a method, so comparing names is enough.
#[derive(Clone, Default)]
pub(in crate::server) struct Routes(Arc<Vec<(&'static str, Box<dyn Route>)>>);

impl Routes {
    pub(in crate::server) fn new(services: Vec<(&'static str, Box<dyn Route>)>) -> Self {
        Self(Arc::new(services))
    }

    pub(super) fn call(&self, request: Request<Body>) -> ResponseFuture {
        match self.find(request.uri().path()) {
            Some(service) => service.respond(request),
            None => ready(Ok(Status::unimplemented("").into_http())).boxed(),
        }
    }

    fn find(&self, path: &str) -> Option<&dyn Route> {
        let (called, _method) = split_path(path)?;
        let found = self.0.iter().find(|(name, _)| *name == called);
        found.map(|(_, service)| service.as_ref())
    }
}

/// A type-erased tower service.
pub(in crate::server) trait Route: Send + Sync {
    fn respond(&self, request: Request<Body>) -> ResponseFuture;
}

impl<S, B> Route for S
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn respond(&self, request: Request<Body>) -> ResponseFuture {
        let mut service = self.clone();
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return ready(Ok(error_response(error.into()))).boxed(),
            Poll::Pending => {
                return async { Ok(into_response(service.oneshot(request).await)) }.boxed();
            }
        }
        let mut future = Some(service.call(request));
        // The future of a generated server is boxed already.
        let any: &mut dyn Any = &mut future;
        if let Some(future) = any
            .downcast_mut::<Option<ResponseFuture>>()
            .and_then(Option::take)
        {
            return future;
        }
        let future = future.expect("taken only if the type matches");
        async { Ok(into_response(future.await)) }.boxed()
    }
}

fn into_response<B, E>(result: Result<Response<B>, E>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: Into<BoxError>,
{
    match result {
        Ok(response) => response.map(Body::new),
        Err(error) => error_response(error.into()),
    }
}

/// Responds with the status in the error's source chain. Other errors may contain what clients should not see.
fn error_response(error: BoxError) -> Response<Body> {
    let status = Status::try_from_error(error).unwrap_or_else(|error| {
        tracing::warn!(error, "a service failed");
        Status::unknown("the service failed")
    });
    status.into_http()
}
