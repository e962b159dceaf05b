//! What is known of each method before its request is read.

use std::collections::HashMap;

use prost::Message;
use prost_types::FileDescriptorSet;

/// How the requests of a method come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requests {
    /// Exactly one message, and soon.
    One,
    /// A stream that has something to say, or is over: whoever is silent makes the server wait.
    Steady,
    /// A stream that may be silent for as long as it likes, and what is not known.
    AtLeisure,
}

/// The methods of a server, by their path.
#[derive(Debug)]
pub(super) struct Methods(HashMap<String, Requests>);

impl Methods {
    /// All methods in `descriptors`, each a serialized `google.protobuf.FileDescriptorSet`, where
    /// the requests of the methods with the paths `steady` are a steady stream.
    pub(super) fn new(descriptors: &[&[u8]], steady: &[&str]) -> Self {
        let mut methods = HashMap::new();
        for descriptors in descriptors {
            let set = FileDescriptorSet::decode(*descriptors).expect("written by a compiler");
            for file in &set.file {
                for service in &file.service {
                    for method in &service.method {
                        let path =
                            format!("/{}.{}/{}", file.package(), service.name(), method.name());
                        let requests = match method.client_streaming() {
                            false => Requests::One,
                            true if steady.contains(&path.as_str()) => Requests::Steady,
                            true => Requests::AtLeisure,
                        };
                        methods.insert(path, requests);
                    }
                }
            }
        }
        assert!(steady.iter().all(|path| methods.contains_key(*path)));
        Self(methods)
    }

    pub(super) fn requests(&self, path: &str) -> Requests {
        self.0.get(path).copied().unwrap_or(Requests::AtLeisure)
    }
}
