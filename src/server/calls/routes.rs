//! Which service a call is for.

use std::{convert::Infallible, sync::Arc};

use futures::future::{BoxFuture, FutureExt, ready};
use http::{Request, Response};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::request::RequestBody;

/// What a service answers.
pub(super) type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Services by their names. Clones share them.
///
/// tonic's own leave this to the router of a web framework, which looks for patterns in paths, and
/// takes an eighth of the time of a small call. A path of gRPC is a service and a method.
#[derive(Clone, Default)]
pub(in crate::server) struct Routes(Arc<Vec<(&'static str, Box<dyn Route>)>>);

impl Routes {
    /// These, and `service`.
    pub(in crate::server) fn with<S>(mut self, service: S) -> Self
    where
        S: NamedService + Route + 'static,
    {
        let routes =
            Arc::get_mut(&mut self.0).expect("they are put together before they are shared");
        routes.push((S::NAME, Box::new(service)));
        self
    }

    pub(super) fn call(&self, request: Request<RequestBody>) -> Answer {
        match self.find(request.uri().path()) {
            Some(service) => service.answer(request),
            None => ready(Ok(Status::unimplemented("").into_http())).boxed(),
        }
    }

    fn find(&self, path: &str) -> Option<&dyn Route> {
        let (called, _method) = path.strip_prefix('/')?.split_once('/')?;
        let found = self.0.iter().find(|(name, _)| *name == called);
        found.map(|(_, service)| service.as_ref())
    }
}

/// A service as tonic generates it: cheap to clone, and ready for a call at any time.
pub(in crate::server) trait Route: Send + Sync {
    fn answer(&self, request: Request<RequestBody>) -> Answer;
}

impl<S> Route for S
where
    S: Service<
            Request<RequestBody>,
            Response = Response<Body>,
            Error = Infallible,
            Future = Answer,
        > + Clone
        + Send
        + Sync,
{
    fn answer(&self, request: Request<RequestBody>) -> Answer {
        self.clone().call(request)
    }
}
