//! Serves any tonic service over HTTP/2, with limits, deadlines, TLS, access tokens, metrics, health,
//! reflection and a drain that ends.
//!
//! ```
//! use muxs::server::{Limits, Listener, MethodPolicy, Server};
//! # use muxs::pb::greeter_server::{Greeter, GreeterServer};
//! # async fn serve(echo: impl Greeter, stop: tokio::sync::oneshot::Receiver<()>) -> std::io::Result<()> {
//!
//! let calls = Listener::bind("127.0.0.1:50051").await?;
//! let admin = Listener::bind("127.0.0.1:9090").await?.for_admin();
//! let shutdown = async {
//!     let _ = stop.await;
//! };
//! Server::builder()
//!     .service(GreeterServer::new(echo)) // any generated server, intercepted or layered
//!     .method("/muxs.Greeter/BidiHello", MethodPolicy::default().max_message_bytes(64 * 1024))
//!     .descriptors(muxs::pb::FILE_DESCRIPTOR_SET)
//!     .limits(Limits { max_calls: 1_000, ..Limits::default() })
//!     .serve(vec![calls, admin], shutdown)
//!     .await
//! # }
//! ```
//!
//! `examples/own_service.rs` is a complete program.
//!
//! # What a handler can rely on
//!
//! * **Thread.** Each connection belongs to one worker thread with a runtime of its own. A handler is first
//!   polled there, in the task of its connection, as soon as the request's headers are accepted. If it is not
//!   ready at once, it continues in a task of its own on the same thread. The response stream is polled there,
//!   too, and only while the client's flow-control window has room: backpressure needs no channel.
//! * **Blocking.** A handler that blocks delays all connections of its thread. Blocking work belongs in
//!   `tokio::task::spawn_blocking`, long computations in a thread pool.
//! * **Requests.** The server receives at most 1 MiB of a request ahead of the handler. Messages that are too
//!   large, or too many for a method with one message, never reach the handler.
//! * **The end.** When the client resets the call, or its deadline or its token expires, the handler's future and
//!   its response stream are dropped at that moment; cleanup belongs in `Drop`. Work that must go on is
//!   spawned with [`Background`].
//! * **Changes.** Work on another thread goes on when the handler is dropped, and could make its change after the
//!   client has received DEADLINE_EXCEEDED. A method with [`MethodPolicy::commits`] has a [`CommitPoint`]: either the
//!   handler passes it, makes its change and answers, or the call ends without one.
//! * **Panics.** A panic ends its own call with INTERNAL, and no other.
//! * **Extensions.** The extensions of a request contain an `Arc<`[`Identity`]`>` with [`Server::auth`], except for
//!   public methods, and a [`CommitPoint`] where the method's policy asks for one.
//!
//! # A shared runtime
//!
//! Threads of their own are fastest for small calls, but one slow handler delays its neighbours.
//! [`Server::runtime`] serves all connections on an existing runtime instead; on a multi-thread runtime any
//! thread may then poll any handler. The drain, the limits and the metrics are the same. The heartbeat and `/healthz`
//! then show only that the runtime still polls tasks, not that each of its threads does.
//!
//! ```
//! # fn build() -> muxs::server::Server {
//! use muxs::server::Server;
//! use tokio::runtime::Handle;
//!
//! Server::builder().runtime(Handle::current())
//! # }
//! ```
//!
//! # Why not `tonic::transport::Server`
//!
//! tonic's server waits forever for the first byte, does not end a stream at its deadline, has no limit on
//! connections, and drains until the last client agrees. hyper, below it, keeps unread data in slices of larger
//! buffers, so that a few bytes can hold gigabytes. This server uses h2, the crate below hyper, directly.

mod accept;
mod admin;
mod auth;
mod builder;
mod calls;
mod connection;
mod heartbeat;
mod limits;
mod method_policy;
mod metrics;
mod running;
mod services;
mod shutdown;
mod single_flight;
mod timer;
mod transport;
mod workers;

pub use self::{
    auth::{
        Access, Auth, AuthError, AuthSettings, Claims, ClaimsHook, Identity, InvalidClaims,
        KeySource, Scope,
    },
    builder::Server,
    heartbeat::Heartbeat,
    limits::Limits,
    method_policy::MethodPolicy,
    services::Reflection,
    shutdown::Background,
    transport::{Address, ClientAuth, Listener, Tls, TlsError, TlsFiles},
};
pub use crate::commit_point::{CallEnded, CommitPoint};
