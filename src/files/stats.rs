//! Counters of a store.

use crate::counter::Counter;

/// Counts the events in a store since it was opened.
#[derive(Debug, Default)]
pub(crate) struct StoreStats {
    /// Bytes that were read for clients.
    pub(crate) read_bytes: Counter,
    /// Bytes that were written for clients: uploads by the chunk, texts when they are committed.
    pub(crate) written_bytes: Counter,
    pub(crate) uploads: UploadCounts,
    /// Texts that exceeded the size of one message.
    pub(crate) texts_too_large: Counter,
    /// Chunks that exceeded the size limit.
    pub(crate) chunks_too_large: Counter,
}

/// Counts the events of uploads.
#[derive(Debug, Default)]
pub(crate) struct UploadCounts {
    /// Opened at their first byte.
    pub(crate) begun: Counter,
    /// Opened, and continued from the durable prefix of an earlier stream.
    pub(crate) resumed: Counter,
    /// Taken over from another stream.
    pub(crate) superseded: Counter,
    /// Committed.
    pub(crate) committed: Counter,
    /// Aborted by a client.
    pub(crate) aborted: Counter,
    /// Removed, unfinished, after their time to live.
    pub(crate) expired: Counter,
    /// Refused: the maximum number of uploads was open.
    pub(crate) refused: Counter,
    /// Refused: they exceeded the size limit.
    pub(crate) too_large: Counter,
}

/// The unfinished uploads on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StagedStats {
    pub(crate) uploads: u64,
    /// The size of their received data.
    pub(crate) bytes: u64,
}
