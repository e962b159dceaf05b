//! Settings of a method that its descriptor does not contain.

use super::auth::Access;

/// The largest message that gRPC servers accept by default, in bytes.
const DEFAULT_MAX_MESSAGE_BYTES: u64 = 4 * 1024 * 1024;

/// How the server treats the calls of a method.
///
/// The default: messages of at most 4 MiB, request streams that may pause for any time, calls that count
/// towards [`Limits::max_calls`](super::Limits::max_calls), and, on a server with
/// [`Server::auth`](super::Server::auth), a valid access token.
#[derive(Clone, Debug)]
pub struct MethodPolicy {
    pub(super) max_message_bytes: u64,
    pub(super) active_requests: bool,
    pub(super) uncounted: bool,
    pub(super) commits: bool,
    pub(super) access: Access,
}

impl Default for MethodPolicy {
    fn default() -> Self {
        Self {
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            active_requests: false,
            uncounted: false,
            commits: false,
            access: Access::Authenticated,
        }
    }
}

impl MethodPolicy {
    /// Sets the largest request message, in bytes, before decompression. A larger one ends the call with
    /// RESOURCE_EXHAUSTED, reason TOO_LARGE, before it is read.
    ///
    /// tonic's generated servers have a limit of their own for decoded messages, 4 MiB by default:
    /// `max_decoding_message_size`.
    #[must_use]
    pub fn max_message_bytes(self, max_message_bytes: u64) -> Self {
        Self {
            max_message_bytes,
            ..self
        }
    }

    /// Applies [`Limits::idle_timeout`](super::Limits::idle_timeout) to the request stream: the client must send
    /// without longer pauses until it ends the stream. Methods with a single request message need no such
    /// setting.
    #[must_use]
    pub fn active_requests(self) -> Self {
        Self {
            active_requests: true,
            ..self
        }
    }

    /// Excludes the calls from [`Limits::max_calls`](super::Limits::max_calls). For short calls only: nothing else
    /// bounds their number.
    #[must_use]
    pub fn uncounted(self) -> Self {
        Self {
            uncounted: true,
            ..self
        }
    }

    /// Gives the handler a [`CommitPoint`](super::CommitPoint), in the extensions of its request, to pass directly
    /// before its change is visible to others. For methods that change something.
    ///
    /// At the deadline of the call, or when its token expires, the server ends a call that has not passed the
    /// point, and the handler cannot pass it any more: the status then means that nothing was changed. It waits for
    /// the answer of a call that has passed, at most 10 s more. A status that comes after those says in its
    /// message that the call may have taken effect. A call that its client resets, or that is lost with its
    /// connection, does not pass any more either.
    #[must_use]
    pub fn commits(self) -> Self {
        Self {
            commits: true,
            ..self
        }
    }

    /// Sets what the method requires of its caller. Without [`Server::auth`](super::Server::auth) nothing
    /// is required.
    #[must_use]
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }
}
