//! Failures on the wire: a gRPC status with `google.rpc` error details.

use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `google.rpc.ErrorInfo` of this server.
const DOMAIN: &str = "muxs";

/// The reason of a request that breaks the contract where no specific reason exists.
pub(crate) const BAD_REQUEST: &str = "BAD_REQUEST";

/// The trailers that end a response with `status`.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It fails for a message that is not a valid header value; the trailers then have no status.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// The machine-readable part of a failure: code, reason and metadata (`google.rpc.ErrorInfo`).
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
    pub(crate) metadata: Vec<(&'static str, String)>,
}

impl Failure {
    pub(crate) fn new(code: Code, reason: &'static str) -> Self {
        Self {
            code,
            reason,
            metadata: Vec::new(),
        }
    }

    /// Adds a metadata value, such as the limit that was exceeded.
    pub(crate) fn metadata(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// Adds a metadata value if there is one.
    pub(crate) fn metadata_opt(self, key: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.metadata(key, value),
            None => self,
        }
    }

    /// The status, with `message` for people.
    ///
    /// `message` must not repeat input of the client: a status travels in trailers, and some clients limit
    /// those to 8 KiB. Longer trailers would replace the failure by a transport error.
    pub(crate) fn status(self, message: impl Into<String>) -> Status {
        let details = self.details();
        Status::with_error_details(self.code, message, details)
    }

    /// The status of an invalid request field (`google.rpc.BadRequest`).
    pub(crate) fn bad_field(self, field: &str, message: impl Into<String>) -> Status {
        let message = message.into();
        let mut details = self.details();
        details.add_bad_request_violation(field, &message);
        Status::with_error_details(self.code, message, details)
    }

    /// The status of a temporary failure, with the delay before a retry (`google.rpc.RetryInfo`).
    pub(crate) fn retry_after(self, delay: Duration, message: impl Into<String>) -> Status {
        let mut details = self.details();
        details.set_retry_info(Some(delay));
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
