//! What the server knows of each method before it reads a request.

use std::collections::{HashMap, HashSet};

use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use crate::server::{auth::Access, method_policy::MethodPolicy};

/// The label of unknown methods. One label for all, since a client could invent any number of them.
const UNKNOWN: &str = "unknown";

/// How the messages of a request arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// Exactly one message.
    Unary,
    /// A stream that is subject to the idle timeout.
    ActiveStream,
    /// A stream that may pause for any time. Also the requests of unknown methods.
    IdleStream,
}

/// One method.
#[derive(Clone, Debug)]
pub(in crate::server) struct Method {
    /// The full name of its service.
    pub(in crate::server) service: String,
    pub(in crate::server) name: String,
    /// The label `grpc_type`: `unary`, `client_stream`, `server_stream` or `bidi_stream`.
    pub(in crate::server) shape: &'static str,
    pub(super) request_kind: RequestKind,
    pub(super) max_message_bytes: u64,
    pub(super) is_counted: bool,
    pub(super) commits: bool,
    pub(super) access: Access,
}

/// The methods of a server. A method's id is its index; id 0 stands for all unknown methods. Ids beyond the
/// methods stand for all methods of a service without a descriptor, which has a policy.
#[derive(Clone, Debug)]
pub(in crate::server) struct Methods {
    methods: Vec<Method>,
    by_path: HashMap<String, usize>,
    undescribed_services: Vec<(String, Method)>,
}

/// The descriptors and policies of a server do not fit.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum InvalidMethods {
    #[error("a descriptor set cannot be decoded: {0}")]
    Descriptors(#[from] prost::DecodeError),
    #[error("the policy for {0} is for a method that its service does not have")]
    UnknownMethod(String),
}

/// Policies by path: `/package.Service/Method`, or `/package.Service/` for all methods of a service. The path
/// of a method takes precedence over that of its service.
pub(in crate::server) type Policies = HashMap<String, MethodPolicy>;

/// Client streaming and server streaming.
type Streaming = (bool, bool);

impl Method {
    fn new(
        service: String,
        name: String,
        streaming: Option<Streaming>,
        policy: &MethodPolicy,
    ) -> Self {
        Self {
            service,
            name,
            shape: match streaming {
                Some((false, false)) => "unary",
                Some((true, false)) => "client_stream",
                Some((false, true)) => "server_stream",
                Some((true, true)) => "bidi_stream",
                None => UNKNOWN,
            },
            request_kind: match streaming {
                Some((false, _)) => RequestKind::Unary,
                _ if policy.active_requests => RequestKind::ActiveStream,
                _ => RequestKind::IdleStream,
            },
            max_message_bytes: policy.max_message_bytes,
            is_counted: !policy.uncounted,
            commits: policy.commits,
            access: policy.access.clone(),
        }
    }

    fn unknown(policy: &MethodPolicy) -> Self {
        Self::new(UNKNOWN.to_owned(), UNKNOWN.to_owned(), None, policy)
    }

    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    /// Whether this is a method of a service, and not the entry of unknown methods.
    pub(in crate::server) fn is_known(&self) -> bool {
        self.service != UNKNOWN
    }
}

impl Default for Methods {
    fn default() -> Self {
        Self {
            methods: vec![Method::unknown(&MethodPolicy::default())],
            by_path: HashMap::new(),
            undescribed_services: Vec::new(),
        }
    }
}

impl Methods {
    /// Returns the methods in `descriptors`, each a serialized `google.protobuf.FileDescriptorSet`, and those
    /// that only `policies` name.
    ///
    /// # Errors
    ///
    /// A descriptor set cannot be decoded, or a policy is for a method that its service's descriptor lacks.
    pub(in crate::server) fn new(
        descriptors: &[&[u8]],
        policies: &Policies,
    ) -> Result<Self, InvalidMethods> {
        let mut methods = Self::default();
        for descriptors in descriptors {
            let set = FileDescriptorSet::decode(*descriptors)?;
            for file in &set.file {
                for service in &file.service {
                    let service_name = match file.package() {
                        "" => service.name().to_owned(),
                        package => format!("{package}.{}", service.name()),
                    };
                    for method in &service.method {
                        methods.add(
                            &service_name,
                            method.name(),
                            Some(streaming(method)),
                            policies,
                        );
                    }
                }
            }
        }
        methods.add_undescribed(policies)?;
        Ok(methods)
    }

    /// Adds the methods and services that have a policy and no descriptor.
    fn add_undescribed(&mut self, policies: &Policies) -> Result<(), InvalidMethods> {
        let described: HashSet<_> = self.methods.iter().map(|it| it.service.clone()).collect();
        // A map has no order, and the order of metrics should be the same in every run.
        let mut paths: Vec<_> = policies.iter().collect();
        paths.sort_by_key(|(path, _)| *path);
        for (path, policy) in paths {
            let Some((service, name)) = split_path(path) else {
                continue;
            };
            match (name.is_empty(), described.contains(service)) {
                (true, true) => {}
                (true, false) => {
                    let method = Method::unknown(policy);
                    self.undescribed_services.push((service.to_owned(), method));
                }
                (false, true) if !self.by_path.contains_key(path) => {
                    return Err(InvalidMethods::UnknownMethod(path.clone()));
                }
                (false, _) => self.add(service, name, None, policies),
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        service: &str,
        name: &str,
        streaming: Option<Streaming>,
        policies: &Policies,
    ) {
        let path = format!("/{service}/{name}");
        // A descriptor may be in several sets.
        if self.by_path.contains_key(&path) {
            return;
        }
        let policy = policies
            .get(&path)
            .or_else(|| policies.get(&format!("/{service}/")))
            .cloned()
            .unwrap_or_default();
        let method = Method::new(service.to_owned(), name.to_owned(), streaming, &policy);
        self.by_path.insert(path, self.methods.len());
        self.methods.push(method);
    }

    /// Returns the id of the method with this path.
    pub(super) fn id(&self, path: &str) -> usize {
        match self.by_path.get(path) {
            Some(id) => *id,
            None if self.undescribed_services.is_empty() => 0,
            None => self.undescribed_id(path).unwrap_or_default(),
        }
    }

    fn undescribed_id(&self, path: &str) -> Option<usize> {
        let (service, _) = split_path(path)?;
        let mut services = self.undescribed_services.iter();
        let at = services.position(|(name, _)| name == service)?;
        Some(self.methods.len() + at)
    }

    pub(super) fn method(&self, id: usize) -> &Method {
        match self.methods.get(id) {
            Some(method) => method,
            None => &self.undescribed_services[id - self.methods.len()].1,
        }
    }

    /// Returns the id under which a method's calls are counted.
    pub(super) fn counter_id(&self, id: usize) -> usize {
        match id < self.methods.len() {
            true => id,
            false => 0,
        }
    }

    /// Returns all methods in the order of their ids.
    pub(in crate::server) fn all(&self) -> &[Method] {
        &self.methods
    }
}

/// Splits a path into service and method.
pub(in crate::server) fn split_path(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

fn streaming(method: &MethodDescriptorProto) -> Streaming {
    (method.client_streaming(), method.server_streaming())
}
