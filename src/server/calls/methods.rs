//! What is known of each method before its request is read.

use std::collections::HashMap;

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::server::auth::{Access, Scope};

/// What stands for all methods that are not known, wherever one is named: a client could make up
/// any number of them.
const UNKNOWN: &str = "unknown";

/// The largest message that gRPC servers take unless told otherwise, in bytes.
pub(super) const MAX_MESSAGE_BYTES: u64 = 4 * 1024 * 1024;

/// How the requests of a method come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Requests {
    /// Exactly one message, and soon.
    One,
    /// A stream that has something to say, or is over: whoever is silent makes the server wait.
    Steady,
    /// A stream that may be silent for as long as it likes, and what is not known.
    AtLeisure,
}

/// What the descriptors do not say of methods: lists of paths.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::server) struct Notes<'a> {
    /// Streams of requests that always have something to say.
    pub(in crate::server) steady: &'static [&'static str],
    /// Those that look after the size of their messages themselves.
    pub(in crate::server) any_size: &'static [&'static str],
    /// Those that are served however busy the server is.
    pub(in crate::server) always: &'static [&'static str],
    /// What they ask of their callers, alone or as all of a service, whose path ends with a slash. A
    /// token, where nothing is said.
    pub(in crate::server) access: &'a [(&'static str, Access)],
}

/// One method.
#[derive(Debug)]
pub(in crate::server) struct Method {
    /// The full name of its service.
    pub(in crate::server) service: String,
    pub(in crate::server) name: String,
    /// As dashboards call its shape: `unary`, `bidi_stream` and so on.
    pub(in crate::server) shape: &'static str,
    pub(super) requests: Requests,
    /// The largest message, in bytes.
    pub(super) max_message_bytes: u64,
    pub(super) always: bool,
    pub(super) access: Access,
}

impl Method {
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    /// Whether its handler has to know whose files it may touch.
    pub(super) fn is_of_files(&self) -> bool {
        matches!(self.access, Access::Scope(Scope::Read | Scope::Write))
    }
}

/// The methods of a server, each with a number. The first one stands for those that are not known.
#[derive(Debug)]
pub(in crate::server) struct Methods {
    methods: Vec<Method>,
    by_path: HashMap<String, usize>,
}

impl Method {
    /// Whether it is one, and not what stands for the others.
    pub(in crate::server) fn is_known(&self) -> bool {
        self.shape != UNKNOWN
    }
}

impl Methods {
    /// All methods in `descriptors`, each a serialized `google.protobuf.FileDescriptorSet`.
    pub(in crate::server) fn new(descriptors: &[&[u8]], notes: &Notes<'_>) -> Self {
        let mut known = Self {
            methods: vec![unknown()],
            by_path: HashMap::new(),
        };
        for descriptors in descriptors {
            let set = FileDescriptorSet::decode(*descriptors).expect("written by a compiler");
            for file in &set.file {
                for service in &file.service {
                    for method in &service.method {
                        let service = format!("{}.{}", file.package(), service.name());
                        let streams = (method.client_streaming(), method.server_streaming());
                        known.add(service, method.name().to_owned(), streams, notes);
                    }
                }
            }
        }
        let noted = [notes.steady, notes.any_size, notes.always].concat();
        assert!(noted.iter().all(|path| known.by_path.contains_key(*path)));
        known
    }

    fn add(&mut self, service: String, name: String, streams: (bool, bool), notes: &Notes<'_>) {
        let path = format!("/{service}/{name}");
        let is = |paths: &[&str]| paths.contains(&path.as_str());
        let method = Method {
            shape: match streams {
                (false, false) => "unary",
                (true, false) => "client_stream",
                (false, true) => "server_stream",
                (true, true) => "bidi_stream",
            },
            requests: match streams {
                (false, _) => Requests::One,
                (true, _) if is(notes.steady) => Requests::Steady,
                (true, _) => Requests::AtLeisure,
            },
            max_message_bytes: match is(notes.any_size) {
                true => u64::MAX,
                false => MAX_MESSAGE_BYTES,
            },
            always: is(notes.always),
            access: access(&path, notes.access),
            service,
            name,
        };
        self.by_path.insert(path, self.methods.len());
        self.methods.push(method);
    }

    /// The number of the method with this path.
    pub(super) fn number(&self, path: &str) -> usize {
        self.by_path.get(path).copied().unwrap_or_default()
    }

    pub(super) fn method(&self, number: usize) -> &Method {
        &self.methods[number]
    }

    /// All of them, in the order of their numbers.
    pub(in crate::server) fn all(&self) -> &[Method] {
        &self.methods
    }
}

fn access(path: &str, notes: &[(&str, Access)]) -> Access {
    let noted = notes.iter().find(|(noted, _)| match noted.ends_with('/') {
        true => path.starts_with(noted),
        false => path == *noted,
    });
    noted.map_or(Access::Authenticated, |(_, access)| *access)
}

fn unknown() -> Method {
    Method {
        service: UNKNOWN.to_owned(),
        name: UNKNOWN.to_owned(),
        shape: UNKNOWN,
        requests: Requests::AtLeisure,
        max_message_bytes: MAX_MESSAGE_BYTES,
        always: false,
        access: Access::Authenticated,
    }
}
