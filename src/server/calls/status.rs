//! The statuses of calls that the server ends itself, and the names of status codes.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::StatusExt;

use crate::{
    failure::{BAD_REQUEST, Failure},
    server::auth::Denied,
};

/// The header with the problem of an access token (RFC 6750 3).
const WWW_AUTHENTICATE: &str = "www-authenticate";

/// The delay before a retry that BUSY, IDLE and AUTH_UNAVAILABLE suggest.
const RETRY_DELAY: Duration = Duration::from_secs(1);

pub(super) fn resource_exhausted() -> Status {
    Failure::new(Code::ResourceExhausted, "BUSY").retry_after(
        RETRY_DELAY,
        "the server has too many connections or calls: try again later",
    )
}

pub(super) fn denied(denied: &Denied) -> Status {
    match denied {
        Denied::Token(_) | Denied::UnknownKey(_) => unauthenticated(),
        Denied::Scope(scope) => insufficient_scope(scope.as_str()),
        Denied::NoKeys => Failure::new(Code::Unavailable, "AUTH_UNAVAILABLE").retry_after(
            RETRY_DELAY,
            "the server has no current keys to check access tokens: try again later",
        ),
    }
}

/// The status of every invalid token. It does not say what is wrong, which would help to forge one.
pub(super) fn unauthenticated() -> Status {
    let status = Failure::new(Code::Unauthenticated, "UNAUTHENTICATED")
        .status("the method requires a valid access token");
    with_challenge(status, "Bearer error=\"invalid_token\"")
}

fn insufficient_scope(scope: &str) -> Status {
    let status = Failure::new(Code::PermissionDenied, "INSUFFICIENT_SCOPE")
        .metadata("scope", scope)
        .status(format!(
            "the access token lacks the scope `{scope}`, which the method requires"
        ));
    let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
    with_challenge(status, &challenge)
}

fn with_challenge(mut status: Status, challenge: &str) -> Status {
    let challenge = MetadataValue::try_from(challenge).expect("names of scopes are visible ASCII");
    status.metadata_mut().insert(WWW_AUTHENTICATE, challenge);
    status
}

pub(super) fn deadline_exceeded() -> Status {
    Failure::new(Code::DeadlineExceeded, "DEADLINE").status("the deadline of the call has passed")
}

/// The status of a call that is ended although its handler has passed the commit point.
pub(super) fn after_commit(status: &Status) -> Status {
    let message = format!("{}; the call may have taken effect", status.message());
    let details = status.get_error_details();
    Status::with_error_details_and_metadata(
        status.code(),
        message,
        details,
        status.metadata().clone(),
    )
}

pub(super) fn invalid_timeout() -> Status {
    Failure::new(Code::InvalidArgument, BAD_REQUEST).status("the header grpc-timeout is invalid")
}

pub(super) fn idle() -> Status {
    Failure::new(Code::Unavailable, "IDLE")
        .retry_after(RETRY_DELAY, "the client sent nothing for too long")
}

pub(super) fn too_large(limit: u64, size: u64) -> Status {
    Failure::new(Code::ResourceExhausted, "TOO_LARGE")
        .metadata("limit", limit)
        .metadata("size", size)
        .status(format!(
            "the message has {size} bytes, and at most {limit} are accepted"
        ))
}

pub(super) fn cardinality_violation() -> Status {
    Failure::new(Code::Unimplemented, BAD_REQUEST)
        .status("the method takes exactly one request message")
}

pub(super) fn handler_panicked() -> Status {
    Failure::new(Code::Internal, "IO").status("the server failed because of an internal error")
}

/// The HTTP response to a request that is not gRPC.
pub(super) fn http_error(code: StatusCode) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = code;
    if code == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// Returns the status code in headers or trailers.
pub(super) fn code_in(headers: &HeaderMap) -> Code {
    match headers.get(Status::GRPC_STATUS) {
        Some(status) => Code::from_bytes(status.as_bytes()),
        None => Code::Unknown,
    }
}

/// Whether a code suggests a fault of the server.
pub(super) fn is_server_fault(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::Internal | Code::DataLoss)
}

/// The name of a code in logs and spans: the gRPC specification's spelling.
pub(super) fn log_name(code: Code) -> &'static str {
    names(code).0
}

/// The name of a code in metrics: that of Go's servers, which dashboards use.
pub(in crate::server) fn metric_name(code: Code) -> &'static str {
    names(code).1
}

fn names(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::Ok => ("OK", "OK"),
        Code::Cancelled => ("CANCELLED", "Canceled"),
        Code::Unknown => ("UNKNOWN", "Unknown"),
        Code::InvalidArgument => ("INVALID_ARGUMENT", "InvalidArgument"),
        Code::DeadlineExceeded => ("DEADLINE_EXCEEDED", "DeadlineExceeded"),
        Code::NotFound => ("NOT_FOUND", "NotFound"),
        Code::AlreadyExists => ("ALREADY_EXISTS", "AlreadyExists"),
        Code::PermissionDenied => ("PERMISSION_DENIED", "PermissionDenied"),
        Code::ResourceExhausted => ("RESOURCE_EXHAUSTED", "ResourceExhausted"),
        Code::FailedPrecondition => ("FAILED_PRECONDITION", "FailedPrecondition"),
        Code::Aborted => ("ABORTED", "Aborted"),
        Code::OutOfRange => ("OUT_OF_RANGE", "OutOfRange"),
        Code::Unimplemented => ("UNIMPLEMENTED", "Unimplemented"),
        Code::Internal => ("INTERNAL", "Internal"),
        Code::Unavailable => ("UNAVAILABLE", "Unavailable"),
        Code::DataLoss => ("DATA_LOSS", "DataLoss"),
        Code::Unauthenticated => ("UNAUTHENTICATED", "Unauthenticated"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_after_the_commit_differs_in_its_message_only() {
        for status in [deadline_exceeded(), unauthenticated()] {
            let after = after_commit(&status);
            let message = format!("{}; the call may have taken effect", status.message());
            assert_eq!(after.message(), message);
            assert_eq!(after.code(), status.code());
            let (reason, before) = (
                after.get_details_error_info(),
                status.get_details_error_info(),
            );
            assert_eq!(reason.unwrap().reason, before.unwrap().reason);
            let challenge = |status: &Status| status.metadata().get(WWW_AUTHENTICATE).cloned();
            assert_eq!(challenge(&after), challenge(&status));
        }
    }
}
