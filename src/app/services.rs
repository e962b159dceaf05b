//! The services of muxs, and the policy of each method.

use std::collections::HashMap;

use tonic::codec::CompressionEncoding::Gzip;

use super::{access, config::Config, metrics};
use crate::{
    files::{FileService, MAX_CHUNK_BYTES, WRITE, WRITE_STREAM, file_controller},
    greeter::Greeter,
    pb::{
        self, greeter_server::GreeterServer,
        helloworld::greeter_server::GreeterServer as HelloworldServer,
    },
    server::{Background, MethodPolicy, Server},
};

/// Returns a server with all services of muxs.
pub(super) fn server(config: Config) -> Server {
    let background = Background::default();
    let files = FileService {
        store: config.store.clone(),
        chunk_bytes: config.chunk_bytes.clamp(1, MAX_CHUNK_BYTES),
        tasks: background.tasks.clone(),
        stop: background.stop.clone(),
    };
    let store = config.store.clone();
    let staged_in = config.store.clone();
    let mut server = Server::builder()
        // Files are not compressed: most are already, and chunks have the checksums of their bytes.
        .service(
            GreeterServer::new(Greeter)
                .accept_compressed(Gzip)
                .send_compressed(Gzip),
        )
        .service(
            HelloworldServer::new(Greeter)
                .accept_compressed(Gzip)
                .send_compressed(Gzip),
        )
        .service(file_controller(files))
        .descriptors(pb::FILE_DESCRIPTOR_SET)
        .reflection(config.reflection)
        .limits(config.limits.clone())
        .workers(config.workers)
        .shutdown_grace(config.shutdown_grace)
        .background(background)
        .metrics(move || metrics::store_families(&store))
        // Apart, since this reads a directory: a disk that hangs must not hide the others.
        .metrics(move || metrics::staged_families(&staged_in));
    for (path, policy) in policies(&config) {
        server = server.method(path, policy);
    }
    if let Some(auth) = config.auth {
        server = server.auth_with_claims(auth, access::principal_hook(config.folder_claim));
    }
    if let Some(tls) = config.tls {
        server = server.tls(tls);
    }
    if let Some(heartbeat) = config.heartbeat {
        server = server.heartbeat(heartbeat);
    }
    #[cfg(feature = "otel")]
    if let Some(tracer) = config.tracer {
        server = server.tracer(tracer);
    }
    server
}

/// The policy of each method that has one.
fn policies(config: &Config) -> HashMap<&'static str, MethodPolicy> {
    let by_path = config.scopes.by_path().into_iter();
    let by_path = by_path.map(|(path, access)| (path, MethodPolicy::default().access(access)));
    let mut policies: HashMap<_, _> = by_path.collect();
    let mut adjust = |path, adjust: fn(MethodPolicy) -> MethodPolicy| {
        let policy = policies.remove(path).unwrap_or_default();
        policies.insert(path, adjust(policy));
    };
    // The service itself answers a text that is too large, in the words of its contract.
    adjust(WRITE, |policy| policy.max_message_bytes(u64::MAX));
    // A client that uploads always has something to send.
    adjust(WRITE_STREAM, MethodPolicy::active_requests);
    policies
}
