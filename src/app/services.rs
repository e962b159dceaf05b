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

/// The method that discards an unfinished upload.
const ABORT_UPLOAD: &str = "/muxs.FileController/AbortUpload";

/// Returns a server with all services of muxs.
pub(super) fn server(config: Config) -> Server {
    let background = Background::default();
    let files = FileService {
        store: config.store.clone(),
        chunk_bytes: config.chunk_bytes.clamp(1, MAX_CHUNK_BYTES),
        tasks: background.tasks.clone(),
        stop: background.stop.clone(),
    };
    let (store, staging) = (config.store.clone(), config.store.clone());
    let mut server = Server::builder()
        // Files are sent uncompressed: most are compressed already, and chunks have checksums of their bytes.
        .service_for_each_worker(|| {
            GreeterServer::new(Greeter)
                .accept_compressed(Gzip)
                .send_compressed(Gzip)
        })
        .service_for_each_worker(|| {
            HelloworldServer::new(Greeter)
                .accept_compressed(Gzip)
                .send_compressed(Gzip)
        })
        .service_for_each_worker(move || file_controller(files.clone()))
        .descriptors(pb::FILE_DESCRIPTOR_SET)
        .reflection(config.reflection)
        .limits(config.limits.clone())
        .workers(config.workers)
        .shutdown_grace(config.shutdown_grace)
        .background(background)
        .counters(move || metrics::store_families(&store))
        // Reads a directory, so a disk that hangs must not hide the other metrics.
        .metrics(move || {
            let families = metrics::upload_dir_families(&staging).into_iter();
            families.map(Into::into).collect()
        });
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
    let mut adjust = |path, change: fn(MethodPolicy) -> MethodPolicy| {
        let policy = policies.remove(path).unwrap_or_default();
        policies.insert(path, change(policy));
    };
    // The service itself rejects a text that is too large, with the failure of its contract.
    adjust(WRITE, |policy| policy.max_message_bytes(u64::MAX));
    // A client that uploads always has something to send.
    adjust(WRITE_STREAM, MethodPolicy::active_requests);
    for path in [WRITE, WRITE_STREAM, ABORT_UPLOAD] {
        adjust(path, MethodPolicy::commits);
    }
    policies
}
