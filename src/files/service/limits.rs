//! The size limits of messages.

/// The longest text of a `pb::Files` or `pb::Content`, in bytes.
///
/// It fits a message of 4 MiB, the default limit of gRPC clients, behind a byte for the key of its field and
/// four for its length.
pub(super) const MAX_TEXT_BYTES: u64 = 4 * 1024 * 1024 - 5;

/// The largest message that is decoded: a Write of the longest text under the longest filename, and a reserve
/// for future fields.
pub(super) const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024 + 8 * 1024;

/// The largest chunk that is sent or accepted, in bytes.
pub const MAX_CHUNK_BYTES: u32 = 1024 * 1024;
