//! The server that an embedding program configures.

use std::{num::NonZero, sync::Arc, thread, time::Duration};

use prometheus::proto::MetricFamily;
use tokio::runtime::Handle;
use tonic::{body::Body, server::NamedService};
use tower::{BoxError, Service};

use super::{
    admin::Collect,
    auth::{Auth, ClaimsHook},
    heartbeat::Heartbeat,
    limits::Limits,
    method_policy::MethodPolicy,
    services::{Reflection, Services},
    shutdown::Background,
    transport::Tls,
    workers::Threads,
};
use crate::metric_family::Family;

/// Serves tonic services over HTTP/2. See the [module's documentation](super).
#[must_use]
pub struct Server {
    pub(super) services: Services,
    pub(super) limits: Limits,
    pub(super) threads: Threads,
    pub(super) tls: Option<Tls>,
    pub(super) auth: Option<Auth>,
    pub(super) shutdown_grace: Duration,
    pub(super) background: Background,
    pub(super) heartbeat: Option<Heartbeat>,
    pub(super) collectors: Vec<Collect>,
    #[cfg(feature = "otel")]
    pub(super) tracer: Option<opentelemetry_sdk::trace::SdkTracer>,
}

impl Server {
    /// A server with the default [`Limits`], a thread for each core, and a shutdown grace of 30 s.
    pub fn builder() -> Self {
        Self {
            services: Services::default(),
            limits: Limits::default(),
            threads: Threads::Own(thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)),
            tls: None,
            auth: None,
            shutdown_grace: Duration::from_secs(30),
            background: Background::default(),
            heartbeat: None,
            collectors: Vec::new(),
            #[cfg(feature = "otel")]
            tracer: None,
        }
    }

    /// Adds a service: a server that tonic generated, intercepted (`EchoServer::with_interceptor`) or layered
    /// (`tonic::service::LayerExt::named_layer`).
    pub fn service<S, B>(mut self, service: S) -> Self
    where
        S: NamedService
            + Service<http::Request<Body>, Response = http::Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.services.add(service);
        self
    }

    /// Like [`Server::service`], with an instance for each worker thread: calls on different cores then share no
    /// reference count.
    pub fn service_for_each_worker<S, B>(
        mut self,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self
    where
        S: NamedService
            + Service<http::Request<Body>, Response = http::Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.services.add_for_each_worker(make);
        self
    }

    /// Adds the descriptors of services, a serialized `google.protobuf.FileDescriptorSet` such as
    /// `tonic_prost_build` writes with `file_descriptor_set_path`.
    ///
    /// From them the server knows each method's name, for metrics, and its shape, to require exactly one
    /// request message where there is one. A method without a descriptor and without a policy of its own is
    /// counted as unknown, and may get any number of messages.
    pub fn descriptors(mut self, descriptors: &'static [u8]) -> Self {
        self.services.add_descriptors(descriptors);
        self
    }

    /// Sets the policy of a method, `/package.Service/Method`, or of all methods of a service,
    /// `/package.Service/`. The policy of a method replaces that of its service.
    ///
    /// [`Server::serve`] fails if the service is not there, or if its descriptor lacks the method.
    pub fn method(mut self, path: impl Into<String>, policy: MethodPolicy) -> Self {
        self.services.set_policy(path.into(), policy);
        self
    }

    /// Sets who may use reflection. Every client by default.
    pub fn reflection(mut self, reflection: Reflection) -> Self {
        self.services.reflection = reflection;
        self
    }

    /// Sets the limits on clients.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Encrypts TCP connections. Connections to Unix domain sockets are never encrypted.
    pub fn tls(self, tls: Tls) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    /// Requires an access token for every method whose [`MethodPolicy::access`] is not public. Health is
    /// public, and reflection by default.
    pub fn auth(self, auth: Auth) -> Self {
        Self {
            auth: Some(auth),
            ..self
        }
    }

    /// Like [`Server::auth`], with a hook for further claims.
    pub fn auth_with_claims(self, auth: Auth, hook: ClaimsHook) -> Self {
        self.auth(auth.with_claims_hook(hook))
    }

    /// Serves connections on `count` threads, each with a runtime of its own. One for each core by default. Replaces
    /// [`Server::runtime`].
    pub fn workers(self, count: NonZero<usize>) -> Self {
        Self {
            threads: Threads::Own(count),
            ..self
        }
    }

    /// Serves connections on an existing runtime, which needs time and I/O enabled. Replaces [`Server::workers`].
    ///
    /// See [the module's documentation](super#a-shared-runtime).
    pub fn runtime(self, runtime: Handle) -> Self {
        Self {
            threads: Threads::Runtime(runtime),
            ..self
        }
    }

    /// Sets the time for running calls to end when the server stops, or when their connection has reached
    /// its age. 30 s by default.
    pub fn shutdown_grace(self, shutdown_grace: Duration) -> Self {
        Self {
            shutdown_grace,
            ..self
        }
    }

    /// Sets the tasks that outlive their calls. A server that stops waits for them.
    pub fn background(self, background: Background) -> Self {
        Self { background, ..self }
    }

    /// Sets a function to call periodically while all threads make progress.
    pub fn heartbeat(self, heartbeat: Heartbeat) -> Self {
        Self {
            heartbeat: Some(heartbeat),
            ..self
        }
    }

    /// Adds metrics to `/metrics`, such as `move || registry.gather()` with a `prometheus::Registry`.
    ///
    /// The function runs at each scrape of an admin listener, on a blocking thread, and not twice at the same
    /// time. If it takes more than 2 s, its metrics are left out, as are families with the name of an existing
    /// one.
    pub fn metrics(
        mut self,
        collect: impl Fn() -> Vec<MetricFamily> + Send + Sync + 'static,
    ) -> Self {
        self.collectors.push(Collect::Blocking(Arc::new(collect)));
        self
    }

    /// Adds metrics that are read from counters in memory, at once.
    pub(crate) fn counters(
        mut self,
        collect: impl Fn() -> Vec<Family> + Send + Sync + 'static,
    ) -> Self {
        self.collectors.push(Collect::Inline(Box::new(collect)));
        self
    }

    /// Creates a span for each call, by OpenTelemetry's conventions for RPC, in the trace of its client
    /// (`traceparent`).
    #[cfg(feature = "otel")]
    pub fn tracer(self, tracer: opentelemetry_sdk::trace::SdkTracer) -> Self {
        Self {
            tracer: Some(tracer),
            ..self
        }
    }
}
