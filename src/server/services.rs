//! What is served: the two packages of the contract, health and reflection.

use tonic::{server::NamedService, service::Routes};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tonic_reflection::server::Builder as Reflection;

use crate::{
    files::{FileController, Files, file_controller},
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

/// The services of a server, all of them serving, and the reporter of their health.
pub(super) async fn services(files: Files) -> (Routes, HealthReporter) {
    let health = HealthReporter::new();
    for name in HEALTH_NAMES {
        health
            .set_service_status(name, ServingStatus::Serving)
            .await;
    }
    let routes = Routes::new(GreeterServer::new(Greeter))
        .add_service(HelloworldServer::new(Greeter))
        .add_service(file_controller(files))
        .add_service(HealthServer::new(HealthService::from_health_reporter(
            health.clone(),
        )));
    let routes = reflected(routes).prepare();
    (routes, health)
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
        [
            pb::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            // The details of a failure, which tools can then print.
            tonic_types::pb::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .fold(
            Reflection::configure().include_reflection_service(false),
            Reflection::register_encoded_file_descriptor_set,
        )
    };
    let broken = "these descriptors were written by a compiler";
    routes
        .add_service(builder().build_v1().expect(broken))
        .add_service(builder().build_v1alpha().expect(broken))
}
