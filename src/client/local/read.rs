//! Positioned reads of local files.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use super::background_task::run_blocking;
use crate::checksum::Prefix;

/// The most bytes that are read at once to compute a checksum.
const MAX_READ_BYTES: u64 = 4 * 1024 * 1024;

/// Extends `known`, a prefix of the file, to its first `len` bytes.
///
/// Reads in steps, so that dropping the future ends the work soon.
pub(super) async fn read_prefix(
    file: &Arc<File>,
    len: u64,
    mut known: Prefix,
) -> io::Result<Prefix> {
    while known.len < len {
        let step = (len - known.len).min(MAX_READ_BYTES);
        let file = Arc::clone(file);
        let read = move || read_exact_at(&file, known.len, step).map(|data| known.update(&data));
        known = run_blocking(read).await?;
    }
    Ok(known)
}

/// Reads exactly `len` bytes at `offset`.
pub(super) fn read_exact_at(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut data = vec![0; len as usize];
    file.read_exact_at(&mut data, offset)?;
    Ok(data)
}
