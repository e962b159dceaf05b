//! How every failure looks on the wire: a gRPC status whose details tell programs the reason.

use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `google.rpc.ErrorInfo` of this server.
const DOMAIN: &str = "muxs";

/// The reason for a request that breaks the contract in a way that has no word of its own.
pub(crate) const BAD_REQUEST: &str = "BAD_REQUEST";

/// What ends a response of streamed messages.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It fails for a message that is no header, and then the client hears of an end without status.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// What a program needs to know of a failure: its code, its reason and the values that go with the
/// reason.
pub(crate) struct Cause {
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
    pub(crate) metadata: Vec<(&'static str, String)>,
}

impl Cause {
    pub(crate) fn new(code: Code, reason: &'static str) -> Self {
        Self {
            code,
            reason,
            metadata: Vec::new(),
        }
    }

    /// Adds a value, such as the limit that was passed.
    pub(crate) fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// Adds a value, if there is one.
    pub(crate) fn with_some(self, key: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The failure as a status, with `message` for people.
    ///
    /// `message` never repeats what the client sent: a status travels in trailers, which are
    /// limited to 8 KiB by some clients, and a longer one would hide the failure behind one of the
    /// transport's.
    pub(crate) fn status(self, message: impl Into<String>) -> Status {
        let details = self.details();
        Status::with_error_details(self.code, message, details)
    }

    /// The failure of one field of the request, as a status.
    pub(crate) fn field_status(self, field: &str, message: impl Into<String>) -> Status {
        let message = message.into();
        let mut details = self.details();
        details.add_bad_request_violation(field, &message);
        Status::with_error_details(self.code, message, details)
    }

    /// A failure that will pass, as a status that says when to try again.
    pub(crate) fn retry_status(self, after: Duration, message: impl Into<String>) -> Status {
        let mut details = self.details();
        details.set_retry_info(Some(after));
        Status::with_error_details(self.code, message, details)
    }

    fn details(&self) -> ErrorDetails {
        let metadata = self
            .metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect::<std::collections::HashMap<_, _>>();
        ErrorDetails::with_error_info(self.reason, DOMAIN, metadata)
    }
}
