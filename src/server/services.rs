//! The services of a server: those of the embedding program, health and reflection.

use std::collections::HashSet;

use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tonic_reflection::server::Builder as ReflectionBuilder;

use super::{
    auth::Access,
    calls::{InvalidMethods, Methods, Policies, Route, Routes, split_path},
    method_policy::MethodPolicy,
};

/// The paths of health.
const HEALTH: &str = "/grpc.health.v1.Health/";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// The paths of reflection: v1 for newer clients, v1alpha for older ones.
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// The descriptors of health and reflection.
const BUILT_IN_DESCRIPTORS: [&[u8]; 3] = [
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// Who may use gRPC reflection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reflection {
    /// Every client.
    #[default]
    Public,
    /// Callers with a valid access token. Every client, on a server that requires no tokens.
    Authenticated,
    /// No client: reflection is not served.
    Off,
}

/// Makes the instance of a service for one worker.
type MakeRoute = Box<dyn Fn() -> Box<dyn Route> + Send + Sync>;

/// The services that a server is built with.
#[derive(Default)]
pub(super) struct Services {
    services: Vec<(&'static str, MakeRoute)>,
    descriptors: Vec<&'static [u8]>,
    policies: Policies,
    pub(super) reflection: Reflection,
}

/// The services of a server cannot be served as configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidServices {
    #[error(transparent)]
    Methods(#[from] InvalidMethods),
    #[error("reflection cannot serve the descriptor sets: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the policy for {0} is for a service that is not served")]
    UnknownService(String),
    #[error("the service {0} was added twice")]
    DuplicateService(&'static str),
}

impl Services {
    pub(super) fn add<S: NamedService + Route + Clone + 'static>(&mut self, service: S) {
        self.add_for_each_worker(move || service.clone());
    }

    pub(super) fn add_for_each_worker<S: NamedService + Route + 'static>(
        &mut self,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) {
        self.services
            .push((S::NAME, Box::new(move || Box::new(make()))));
    }

    pub(super) fn add_descriptors(&mut self, descriptors: &'static [u8]) {
        self.descriptors.push(descriptors);
    }

    pub(super) fn set_policy(&mut self, path: String, policy: MethodPolicy) {
        self.policies.insert(path, policy);
    }

    /// Adds health and reflection, and resolves the policy of each method.
    pub(super) async fn build(mut self) -> Result<BuiltServices, InvalidServices> {
        let descriptors = [&self.descriptors[..], &BUILT_IN_DESCRIPTORS].concat();
        let health = Health::serving(self.services.iter().map(|(name, _)| *name)).await;
        self.add(HealthServer::new(HealthService::from_health_reporter(
            health.reporter.clone(),
        )));
        if self.reflection != Reflection::Off {
            self.add(reflection(&descriptors).build_v1()?);
            self.add(reflection(&descriptors).build_v1alpha()?);
        }
        self.check_names()?;
        let methods = Methods::new(&descriptors, &self.with_own_policies())?;
        Ok(BuiltServices {
            services: self.services,
            methods,
            health,
        })
    }

    fn check_names(&self) -> Result<(), InvalidServices> {
        let is_served = |path: &str| {
            split_path(path)
                .is_some_and(|(service, _)| self.services.iter().any(|(name, _)| *name == service))
        };
        if let Some(path) = self.policies.keys().find(|path| !is_served(path)) {
            return Err(InvalidServices::UnknownService(path.clone()));
        }
        let mut names = HashSet::new();
        match self.services.iter().find(|(name, _)| !names.insert(*name)) {
            Some((name, _)) => Err(InvalidServices::DuplicateService(name)),
            None => Ok(()),
        }
    }

    /// Adds the policies of health and reflection, unless the embedding program has one for the method or for
    /// its service.
    fn with_own_policies(&self) -> Policies {
        let public = || MethodPolicy::default().access(Access::Public);
        let mut policies = self.policies.clone();
        let mut add = |service: &str, path: &str, policy| {
            if !self.policies.contains_key(service) && !self.policies.contains_key(path) {
                policies.insert(path.to_owned(), policy);
            }
        };
        add(HEALTH, HEALTH, public());
        add(HEALTH, HEALTH_CHECK, public().uncounted());
        if self.reflection == Reflection::Public {
            for service in REFLECTION {
                add(service, service, public());
            }
        }
        policies
    }
}

/// The services of a server, ready to be served.
pub(super) struct BuiltServices {
    services: Vec<(&'static str, MakeRoute)>,
    pub(super) methods: Methods,
    pub(super) health: Health,
}

impl BuiltServices {
    /// Returns the routes of one worker.
    pub(super) fn routes(&self) -> Routes {
        let services = self.services.iter();
        Routes::new(services.map(|(name, make)| (*name, make())).collect())
    }
}

/// Reports the health of all services.
pub(super) struct Health {
    reporter: HealthReporter,
    /// The empty name is that of the server as a whole.
    names: Vec<&'static str>,
}

impl Health {
    async fn serving(services: impl Iterator<Item = &'static str>) -> Self {
        let reporter = HealthReporter::new();
        let names: Vec<_> = [""].into_iter().chain(services).collect();
        for name in &names {
            reporter
                .set_service_status(*name, ServingStatus::Serving)
                .await;
        }
        Self { reporter, names }
    }

    /// Reports NOT_SERVING to all watches and ends them, since they never end by themselves.
    pub(super) async fn stop(mut self) {
        for name in self.names {
            self.reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await;
            self.reporter.clear_service_status(name).await;
        }
    }
}

/// Reflection of all services and of itself, and of the error details, which tools can then print.
fn reflection(descriptors: &[&'static [u8]]) -> ReflectionBuilder<'static> {
    let descriptors = descriptors
        .iter()
        .copied()
        .chain([tonic_types::pb::FILE_DESCRIPTOR_SET]);
    descriptors.fold(
        ReflectionBuilder::configure().include_reflection_service(false),
        ReflectionBuilder::register_encoded_file_descriptor_set,
    )
}
