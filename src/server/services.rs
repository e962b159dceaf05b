//! What is served: the two packages of the contract, health and reflection.

use tonic::{codec::CompressionEncoding::Gzip, server::NamedService};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tonic_reflection::server::Builder as ReflectionBuilder;

use super::{
    auth::{Access, Scope},
    calls::{Methods, Notes, Routes},
    config::Reflection,
};
use crate::{
    files::{FileController, FileService, WRITE, WRITE_STREAM, file_controller},
    greeter::Greeter,
    pb::{
        self, greeter_server::GreeterServer,
        helloworld::greeter_server::GreeterServer as HelloworldServer,
    },
};

/// The names under which health is told: the server as a whole, and each service of the contract.
const HEALTH_NAMES: [&str; 4] = [
    "",
    GreeterServer::<Greeter>::NAME,
    HelloworldServer::<Greeter>::NAME,
    FileController::NAME,
];

/// Asked by whoever decides whether the server lives.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// What methods ask of their callers, where callers have to say who they are: a method, or all of a
/// service. What has no line here asks for a token, and no more.
const ACCESS: [(&str, Access); 9] = [
    ("/grpc.health.v1.Health/", Access::Public),
    ("/muxs.Greeter/", Access::Scope(Scope::Greeter)),
    ("/helloworld.Greeter/", Access::Scope(Scope::Greeter)),
    ("/muxs.FileController/Read", Access::Scope(Scope::Read)),
    (
        "/muxs.FileController/ReadStream",
        Access::Scope(Scope::Read),
    ),
    ("/muxs.FileController/Stat", Access::Scope(Scope::Read)),
    ("/muxs.FileController/Write", Access::Scope(Scope::Write)),
    (
        "/muxs.FileController/WriteStream",
        Access::Scope(Scope::Write),
    ),
    (
        "/muxs.FileController/AbortUpload",
        Access::Scope(Scope::Write),
    ),
];

/// The same of reflection, where anybody may ask for it.
const PUBLIC_REFLECTION: [(&str, Access); 2] = [
    ("/grpc.reflection.v1.ServerReflection/", Access::Public),
    ("/grpc.reflection.v1alpha.ServerReflection/", Access::Public),
];

/// The descriptors of all that is served.
const DESCRIPTORS: [&[u8]; 4] = [
    pb::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// Tells that all services are serving.
pub(super) async fn serving() -> HealthReporter {
    let health = HealthReporter::new();
    for name in HEALTH_NAMES {
        health
            .set_service_status(name, ServingStatus::Serving)
            .await;
    }
    health
}

/// The services of a server.
pub(super) fn routes(files: FileService, health: HealthReporter, reflection: Reflection) -> Routes {
    // FileService are not compressed: most are already, and their chunks have checksums as they are.
    let greeter = GreeterServer::new(Greeter)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let helloworld = HelloworldServer::new(Greeter)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let health = HealthServer::new(HealthService::from_health_reporter(health));
    let routes = Routes::default()
        .with(greeter)
        .with(helloworld)
        .with(file_controller(files))
        .with(health);
    match reflection {
        Reflection::Off => routes,
        Reflection::Public | Reflection::Authenticated => reflected(routes),
    }
}

/// What is known of their methods.
pub(super) fn methods(reflection: Reflection) -> Methods {
    let mut access = ACCESS.to_vec();
    if reflection == Reflection::Public {
        access.extend(PUBLIC_REFLECTION);
    }
    let notes = Notes {
        steady: &[WRITE_STREAM],
        any_size: &[WRITE],
        always: &[HEALTH_CHECK],
        access: &access,
    };
    Methods::new(&DESCRIPTORS, &notes)
}

/// Tells whoever watches that nothing is served any more, and ends their watches, which by
/// themselves never do.
pub(super) async fn stop_serving(mut health: HealthReporter) {
    for name in HEALTH_NAMES {
        health
            .set_service_status(name, ServingStatus::NotServing)
            .await;
        health.clear_service_status(name).await;
    }
}

/// Adds reflection of all services and of itself. Older clients ask for v1alpha, newer ones for v1.
fn reflected(routes: Routes) -> Routes {
    let builder = || {
        // The details of a failure, too, which tools can then print.
        let descriptors = DESCRIPTORS
            .into_iter()
            .chain([tonic_types::pb::FILE_DESCRIPTOR_SET]);
        descriptors.fold(
            ReflectionBuilder::configure().include_reflection_service(false),
            ReflectionBuilder::register_encoded_file_descriptor_set,
        )
    };
    let broken = "these descriptors were written by a compiler";
    routes
        .with(builder().build_v1().expect(broken))
        .with(builder().build_v1alpha().expect(broken))
}
