//! Failures of transfers.

use std::{error::Error as _, io, path::PathBuf, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::credentials::TokenError;

/// How tonic describes a response without a gRPC status, before the status of HTTP.
const WITHOUT_GRPC_STATUS: &str = "grpc-status header missing, mapped from HTTP status code ";

/// How tonic describes a response whose body is not gRPC, before the status of HTTP.
const WITH_ANOTHER_BODY: &str = "while receiving response with status: ";

/// The statuses of a proxy that gets no answer from its server.
const PROXY_STATUSES: [&str; 3] = ["502", "503", "504"];

/// How hyper describes a failure to resolve a host name; its source has the reason.
const DNS_ERROR: &str = "dns error";

/// Why a transfer failed or was retried. The source is the operating system's error, if there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A local operation failed. It is not retried.
    #[error("cannot {operation} {}", path.display())]
    Local {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The reader of an upload, or the writer of a download, failed. It is not retried.
    #[error("cannot {operation}")]
    Stream {
        /// The operation, as a verb and its object.
        operation: &'static str,
        /// The reader's or writer's error.
        source: io::Error,
    },
    /// Another download is writing this partial file.
    #[error("another download is writing {}", .0.display())]
    InUse(PathBuf),
    /// No download made this file, which has the name of a partial file or of its state. It is not touched.
    #[error("{} was not made by a download: move it away, or choose another name", .0.display())]
    NotOurs(PathBuf),
    /// This local file changed while it was sent. The upload is discarded.
    #[error("{} changed while it was sent", .0.display())]
    SourceChanged(PathBuf),
    /// The server lost bytes that it had made durable, and a reader cannot be read twice.
    #[error("the server needs the input again from byte {offset}, and it cannot be read twice")]
    CannotRewind {
        /// The offset from which the server needs the input.
        offset: u64,
    },
    /// The bytes on the server are not the first bytes of the local file.
    #[error("the first {length} bytes on the server are not those of the local file")]
    PrefixDiffers {
        /// The number of bytes on the server.
        length: u64,
    },
    /// An earlier run uploaded another version of the local file, or began to.
    #[error("an earlier run sent another version of the local file")]
    OtherVersion,
    /// An earlier run uploaded the file, which has been replaced or removed on the server since.
    #[error("the file was uploaded before, and was replaced or removed on the server since")]
    Replaced,
    /// An earlier run uploaded the file, and the server does not say of which bytes.
    #[error("the server does not know the checksum of the file that was uploaded before")]
    Unproven,
    /// The server put a file in place that is not the one that was sent. It is not retried.
    #[error("the file that the server has put in place is not the one that was sent")]
    CommitDiffers,
    /// This partial file is not as an earlier download left it.
    #[error("{} has changed since it was received", .0.display())]
    PartDamaged(PathBuf),
    /// The file on the server is no longer the version that the download began with.
    #[error("the file changed on the server")]
    RemoteChanged,
    /// The server sent something other than the next chunk of the file.
    #[error("{problem} at byte {offset}")]
    Corrupt {
        /// The problem, as a clause such as `a damaged chunk arrived`.
        problem: &'static str,
        /// The offset of the expected chunk.
        offset: u64,
    },
    /// There is no token for a call, which was not made. It is retried if the authorization server cannot be
    /// reached.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A call failed.
    #[error("{}", describe(.0))]
    Call(Status),
    /// Too many attempts in a row failed without progress.
    #[error("gave up after {attempts} attempts: {last}")]
    RetriesExhausted {
        /// The number of attempts.
        attempts: usize,
        /// The failure of the last attempt.
        last: Box<Error>,
    },
}

impl Error {
    pub(super) fn local(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Local {
            operation,
            path,
            source,
        }
    }

    /// The gRPC code of a failed call, or [`Code::DataLoss`] for damaged bytes.
    ///
    /// `None` for a local failure.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Call(status) => Some(status.code()),
            Self::RetriesExhausted { last, .. } => last.code(),
            Self::Corrupt { .. }
            | Self::CommitDiffers
            | Self::PrefixDiffers { .. }
            | Self::CannotRewind { .. } => Some(Code::DataLoss),
            Self::RemoteChanged | Self::OtherVersion | Self::Replaced | Self::Unproven => {
                Some(Code::Aborted)
            }
            Self::Local { .. }
            | Self::Stream { .. }
            | Self::InUse(_)
            | Self::NotOurs(_)
            | Self::SourceChanged(_)
            | Self::PartDamaged(_)
            | Self::Token(_) => None,
        }
    }

    /// The error reason of a failed call, such as `NOT_FOUND`. The contract lists all reasons.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Call(status) => status.get_details_error_info().map(|info| info.reason),
            Self::RetriesExhausted { last, .. } => last.reason(),
            _ => None,
        }
    }

    pub(super) fn has_reason(&self, reasons: &[&str]) -> bool {
        self.reason()
            .is_some_and(|reason| reasons.contains(&reason.as_str()))
    }

    /// Whether a retry may succeed.
    pub(super) fn is_transient(&self) -> bool {
        let status = match self {
            Self::Call(status) => status,
            Self::Corrupt { .. } => return true,
            Self::Token(error) => return error.is_transient(),
            _ => return false,
        };
        match status.code() {
            // Whichever code tonic derives for a broken connection.
            _ if is_transport_failure(status) => true,
            Code::Unavailable | Code::Internal | Code::DeadlineExceeded | Code::Cancelled => true,
            Code::Aborted => !self.has_reason(&["SUPERSEDED"]),
            Code::ResourceExhausted => self.retry_delay().is_some(),
            _ => false,
        }
    }

    /// Whether the server may have done what the failed call requested.
    pub(super) fn may_have_had_effect(&self) -> bool {
        let Self::Call(status) = self else {
            return false;
        };
        match status.code() {
            Code::DeadlineExceeded => true,
            // The connection was not made.
            Code::Unavailable => false,
            _ => is_transport_failure(status),
        }
    }

    /// The delay before a retry that the server asks for (`google.rpc.RetryInfo`).
    pub(super) fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::Call(status) => status.get_details_retry_info()?.retry_delay,
            _ => None,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match proxy_status(&status) {
            // tonic reports the body of a proxy's answer as a broken message.
            Some(_) => Self::Call(Status::unavailable(status.message())),
            None => Self::Call(status),
        }
    }
}

/// Whether the connection failed, as opposed to a status that the server sent.
fn is_transport_failure(status: &Status) -> bool {
    // A stream that is reset without an HTTP/2 error leaves no source, only a missing status.
    status.source().is_some() || (status.code() == Code::Unknown && status.details().is_empty())
}

/// The status of HTTP in an answer that is not one of gRPC, such as `404 Not Found`.
fn http_status(status: &Status) -> Option<&str> {
    let message = status.message();
    if let Some((_, answer)) = message.split_once(WITH_ANOTHER_BODY) {
        return Some(answer);
    }
    message.strip_prefix(WITHOUT_GRPC_STATUS)
}

/// The number of the status of HTTP, if a proxy sends it whose server is away.
fn proxy_status(status: &Status) -> Option<&str> {
    let number = http_status(status)?.split(' ').next()?;
    PROXY_STATUSES.contains(&number).then_some(number)
}

fn describe(status: &Status) -> String {
    if let Some(number) = proxy_status(status) {
        return format!("a proxy in front answers HTTP {number}: the server behind it is away");
    }
    if let Some(answer) = http_status(status) {
        return format!("the answer is not that of a gRPC server: HTTP status {answer}");
    }
    if let Some(scope) = missing_scope(status) {
        return format!("the access token lacks the scope {scope}");
    }
    if !is_transport_failure(status) {
        return format!(
            "the server answered {}: {}",
            wire_name(status.code()),
            status.message()
        );
    }
    let causes = || std::iter::successors(status.source(), |&error| error.source());
    if causes().any(|cause| cause.to_string() == DNS_ERROR) {
        let cause = causes().last().map(ToString::to_string);
        return format!(
            "the name of the server cannot be resolved: {}",
            cause.unwrap_or_default()
        );
    }
    let cause = causes()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find(|error| error.raw_os_error().is_some() || error.kind() == io::ErrorKind::TimedOut);
    match status.code() {
        Code::Unavailable => match cause {
            Some(cause) => format!("the server cannot be reached: {cause}"),
            None => format!("the server cannot be reached: {}", status.message()),
        },
        _ => "the connection to the server was lost".to_owned(),
    }
}

/// The scope that the access token of a call lacks (RFC 6750 3).
fn missing_scope(status: &Status) -> Option<&str> {
    let challenge = status.metadata().get("www-authenticate")?.to_str().ok()?;
    let (_, rest) = challenge
        .strip_prefix("Bearer error=\"insufficient_scope\"")?
        .split_once("scope=\"")?;
    Some(rest.split_once('"')?.0)
}

/// The name of a code on the wire and in the contract, such as `NOT_FOUND`.
fn wire_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_scope_is_read_from_the_challenge() {
        let denied = |challenge: &'static str| {
            let mut status = Status::permission_denied("denied");
            let value = challenge.parse().unwrap();
            status.metadata_mut().insert("www-authenticate", value);
            Error::from(status).to_string()
        };
        assert_eq!(
            denied("Bearer error=\"insufficient_scope\", scope=\"files.write\""),
            "the access token lacks the scope files.write"
        );
        for other in [
            "Bearer error=\"invalid_token\"",
            "Bearer error=\"insufficient_scope\"",
            "Basic",
        ] {
            let expected = "the server answered PERMISSION_DENIED: denied";
            assert_eq!(denied(other), expected, "{other}");
        }
    }

    #[test]
    fn code_has_its_name_on_the_wire() {
        assert_eq!(wire_name(Code::Ok), "OK");
        assert_eq!(wire_name(Code::OutOfRange), "OUT_OF_RANGE");
        assert_eq!(wire_name(Code::Unauthenticated), "UNAUTHENTICATED");
    }

    #[test]
    fn http_status_without_a_grpc_status_is_named() {
        let message = format!("{WITHOUT_GRPC_STATUS}404 Not Found");
        assert_eq!(
            Error::from(Status::unimplemented(message)).to_string(),
            "the answer is not that of a gRPC server: HTTP status 404 Not Found"
        );
    }

    #[test]
    fn proxy_whose_server_is_away_is_named_and_retried() {
        let page = "protocol error: received message with invalid compression flag: 60 (valid flags are 0 \
                    and 1) while receiving response with status: ";
        for status in [
            Status::internal(format!("{page}502 Bad Gateway")),
            Status::unavailable(format!("{WITHOUT_GRPC_STATUS}502 Bad Gateway")),
        ] {
            let error = Error::from(status);
            assert!(error.is_transient());
            assert_eq!(error.code(), Some(Code::Unavailable));
            assert_eq!(
                error.to_string(),
                "a proxy in front answers HTTP 502: the server behind it is away"
            );
        }
        let error = Error::from(Status::internal(format!("{page}404 Not Found")));
        assert_eq!(
            error.to_string(),
            "the answer is not that of a gRPC server: HTTP status 404 Not Found"
        );
    }
}
