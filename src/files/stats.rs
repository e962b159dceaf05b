//! What happens to the files, counted where it happens.

use crate::counter::Counter;

/// What has happened in a store since it was opened.
#[derive(Debug, Default)]
pub(crate) struct StoreStats {
    /// Bytes of files that were read for clients.
    pub(crate) read_bytes: Counter,
    /// Bytes that clients sent and that were written: of uploads as they come, of texts when they are
    /// in their place.
    pub(crate) written_bytes: Counter,
    pub(crate) uploads: UploadCounts,
    /// Texts that were larger than one message can be.
    pub(crate) texts_too_large: Counter,
    /// Chunks that were larger than a chunk may be.
    pub(crate) chunks_too_large: Counter,
}

/// What became of uploads.
#[derive(Debug, Default)]
pub(crate) struct UploadCounts {
    /// Opened for the first time, or again from their first byte.
    pub(crate) begun: Counter,
    /// Opened, and continued with what an earlier stream had left.
    pub(crate) resumed: Counter,
    /// Taken from a stream that had them, by another.
    pub(crate) superseded: Counter,
    /// Put in their place.
    pub(crate) committed: Counter,
    /// Removed by their clients.
    pub(crate) aborted: Counter,
    /// Removed because nobody went on with them.
    pub(crate) expired: Counter,
    /// Not opened: as many were open as may be.
    pub(crate) refused: Counter,
    /// Larger than the store takes.
    pub(crate) too_large: Counter,
}

/// Unfinished uploads as the disk has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StagedStats {
    pub(crate) uploads: u64,
    /// What has come of them.
    pub(crate) bytes: u64,
}
