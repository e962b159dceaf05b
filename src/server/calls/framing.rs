//! Message boundaries in the bytes of a request or response body.

use bytes::Buf;
use tonic::Status;

use crate::codec::MESSAGE_PREFIX_LEN;

/// Follows the messages of a body by their length prefixes, without keeping their bytes.
#[derive(Debug, Default)]
pub(super) struct MessageScanner {
    /// The number of messages whose prefix is complete.
    pub(super) started: u64,
    prefix: [u8; MESSAGE_PREFIX_LEN],
    /// How many bytes of the next prefix are there.
    prefix_len: usize,
    /// How many bytes of the current message are still to come.
    remaining: u64,
}

impl MessageScanner {
    /// Follows the next bytes. `before_message` gets the number of messages that have started before each
    /// one, `on_length` the length of each one. Either can fail the scan.
    pub(super) fn scan(
        &mut self,
        mut data: &[u8],
        before_message: impl Fn(u64) -> Result<(), Status>,
        on_length: impl Fn(u64) -> Result<(), Status>,
    ) -> Result<(), Status> {
        while !data.is_empty() {
            if self.remaining > 0 {
                let skipped = self.remaining.min(data.len() as u64);
                self.remaining -= skipped;
                data.advance(skipped as usize);
                continue;
            }
            before_message(self.started)?;
            let copied = data.len().min(MESSAGE_PREFIX_LEN - self.prefix_len);
            data.copy_to_slice(&mut self.prefix[self.prefix_len..][..copied]);
            self.prefix_len += copied;
            if self.prefix_len == MESSAGE_PREFIX_LEN {
                self.prefix_len = 0;
                let [_compressed, a, b, c, d] = self.prefix;
                self.remaining = u32::from_be_bytes([a, b, c, d]).into();
                on_length(self.remaining)?;
                self.started += 1;
            }
        }
        Ok(())
    }

    /// Whether no byte has been scanned.
    pub(super) fn is_empty(&self) -> bool {
        self.started == 0 && self.prefix_len == 0
    }
}
