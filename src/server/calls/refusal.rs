//! What a call is told that does not get to its handler, or not to the end of it.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{
    failure::{BAD_REQUEST, Failure},
    server::auth::{Denied, Gate},
};

/// What tells a client of OAuth 2.0 what was wrong with its token (RFC 6750 3).
const WWW_AUTHENTICATE: &str = "www-authenticate";

/// When to come back to a server that has no room, or from a client that fell asleep.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) fn busy() -> Status {
    Failure::new(Code::ResourceExhausted, "BUSY").retry_after(RETRY_AFTER, "the server is busy")
}

/// Why a call is not let in.
pub(super) fn denied(denied: &Denied, gate: &Gate) -> Status {
    match denied {
        Denied::Token(_) | Denied::UnknownKey(_) => unauthenticated(),
        Denied::Scope(scope) => insufficient_scope(gate.name(*scope)),
        Denied::NoKeys => Failure::new(Code::Unavailable, "AUTH_UNAVAILABLE")
            .retry_after(RETRY_AFTER, "tokens cannot be checked at the moment"),
    }
}

/// The same for whatever is wrong with a token: who makes them up learns nothing.
pub(super) fn unauthenticated() -> Status {
    let status = Failure::new(Code::Unauthenticated, "UNAUTHENTICATED")
        .status("the call needs an access token that is valid");
    with_challenge(status, "Bearer error=\"invalid_token\"")
}

fn insufficient_scope(scope: &str) -> Status {
    let status = Failure::new(Code::PermissionDenied, "INSUFFICIENT_SCOPE")
        .metadata("scope", scope)
        .status("the access token is not good for this method");
    let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
    with_challenge(status, &challenge)
}

fn with_challenge(mut status: Status, challenge: &str) -> Status {
    let challenge = MetadataValue::try_from(challenge).expect("names of scopes are visible ASCII");
    status.metadata_mut().insert(WWW_AUTHENTICATE, challenge);
    status
}

pub(super) fn deadline() -> Status {
    Failure::new(Code::DeadlineExceeded, "DEADLINE").status("the time for the call is over")
}

pub(super) fn malformed_timeout() -> Status {
    Failure::new(Code::InvalidArgument, BAD_REQUEST).status("grpc-timeout does not say a time")
}

pub(super) fn idle() -> Status {
    Failure::new(Code::Unavailable, "IDLE").retry_after(RETRY_AFTER, "nothing came for too long")
}

pub(super) fn too_large(limit: u64, size: u64) -> Status {
    Failure::new(Code::ResourceExhausted, "TOO_LARGE")
        .metadata("limit", limit)
        .metadata("size", size)
        .status(format!(
            "a message of {size} bytes, where the most is {limit}"
        ))
}

pub(super) fn not_one_message() -> Status {
    Failure::new(Code::Unimplemented, BAD_REQUEST).status("the method takes exactly one message")
}

pub(super) fn panicked() -> Status {
    Failure::new(Code::Internal, "IO").status("the server failed")
}

/// An answer of HTTP, for what is no gRPC.
pub(super) fn http(code: StatusCode) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = code;
    if code == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}
