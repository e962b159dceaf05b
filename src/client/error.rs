//! Why a transfer failed.

use std::{error::Error as _, io, path::PathBuf, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::credentials::TokenError;

/// Why a transfer failed, or why it had to be tried again. What the operating system said is the
/// source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something local failed. It is not tried again.
    #[error("cannot {operation} {}", path.display())]
    Local {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The reader of an upload, or the writer of a download, failed. It is not tried again.
    #[error("cannot {operation}")]
    Stream {
        /// What was tried, as a verb and its object.
        operation: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Another download writes the same part.
    #[error("another download is writing {}", .0.display())]
    InUse(PathBuf),
    /// The local file changed while it was sent. The upload is discarded.
    #[error("{} changed while it was sent", .0.display())]
    SourceChanged(PathBuf),
    /// The server does not have what was durable, and a reader cannot be read twice.
    #[error("the server needs the input again from byte {offset}, and it cannot be read twice")]
    CannotRewind {
        /// From where the server needs it, in bytes.
        offset: u64,
    },
    /// What the server has of an upload is not how the local file starts.
    #[error("the first {length} bytes on the server are not those of the local file")]
    PrefixDiffers {
        /// How much the server has, in bytes.
        length: u64,
    },
    /// An earlier run uploaded the file, and somebody has replaced or removed it since.
    #[error("the file was uploaded before, and was replaced or removed on the server since")]
    Replaced,
    /// What a download has received before is not on the disk as it was received.
    #[error("what {} holds is not what was received", .0.display())]
    PartDamaged(PathBuf),
    /// The file on the server is another version than the one a download began with.
    #[error("the file changed on the server")]
    RemoteChanged,
    /// The server sent something other than the next piece of the file.
    #[error("{problem} at byte {offset}")]
    Corrupt {
        /// What is wrong.
        problem: &'static str,
        /// Where, in bytes from the start of the file.
        offset: u64,
    },
    /// There is no token for a call, which has not been made. It is tried again if the authorization
    /// server cannot be reached.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A call failed.
    #[error("{}", describe(.0))]
    Call(Status),
    /// Too many attempts failed, one after the other, without getting any further.
    #[error("gave up after {attempts} attempts: {last}")]
    RetriesExhausted {
        /// How many.
        attempts: usize,
        /// Why the last of them failed.
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

    /// The gRPC code of a failed call, [`Code::DataLoss`] for bytes that arrived damaged, or none
    /// for a failure of this side.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Call(status) => Some(status.code()),
            Self::RetriesExhausted { last, .. } => last.code(),
            Self::Corrupt { .. } | Self::PrefixDiffers { .. } | Self::CannotRewind { .. } => {
                Some(Code::DataLoss)
            }
            Self::RemoteChanged | Self::Replaced => Some(Code::Aborted),
            Self::Local { .. }
            | Self::Stream { .. }
            | Self::InUse(_)
            | Self::SourceChanged(_)
            | Self::PartDamaged(_)
            | Self::Token(_) => None,
        }
    }

    /// The reason of a failed call, a word such as `NOT_FOUND`; see the table of the contract.
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

    /// Whether the same may succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        let status = match self {
            Self::Call(status) => status,
            Self::Corrupt { .. } => return true,
            Self::Token(error) => return error.is_transient(),
            _ => return false,
        };
        match status.code() {
            // By its own word, whatever the code is made of.
            _ if is_transport_failure(status) => true,
            Code::Unavailable | Code::Internal | Code::DeadlineExceeded | Code::Cancelled => true,
            Code::Aborted => !self.has_reason(&["SUPERSEDED"]),
            Code::ResourceExhausted => self.retry_delay().is_some(),
            _ => false,
        }
    }

    /// How long the server asks to be left alone.
    pub(super) fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::Call(status) => status.get_details_retry_info()?.retry_delay,
            _ => None,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

/// Whether the call broke off, as opposed to a failure that the server told.
fn is_transport_failure(status: &Status) -> bool {
    // A stream that is reset without an error of HTTP/2 leaves no source, only the lack of a
    // status.
    status.source().is_some() || (status.code() == Code::Unknown && status.details().is_empty())
}

fn describe(status: &Status) -> String {
    if !is_transport_failure(status) {
        return format!(
            "the server answered {:?}: {}",
            status.code(),
            status.message()
        );
    }
    let causes = || std::iter::successors(status.source(), |&error| error.source());
    let refusal = causes()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find(|error| error.raw_os_error().is_some() || error.kind() == io::ErrorKind::TimedOut);
    match status.code() {
        Code::Unavailable => match refusal {
            Some(cause) => format!("the server cannot be reached: {cause}"),
            None => format!("the server cannot be reached: {}", status.message()),
        },
        _ => "the connection to the server was lost".to_owned(),
    }
}
