//! Where messages begin in the bytes that they travel in.

use bytes::Buf;
use tonic::Status;

use crate::codec::MESSAGE_PREFIX_LEN;

/// Follows messages by the heads in front of them.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// How many have begun.
    pub(super) begun: u64,
    head: [u8; MESSAGE_PREFIX_LEN],
    /// How much of the next head is there.
    head_bytes: usize,
    /// How much of the message under way is not, in bytes.
    rest: u64,
}

impl Messages {
    /// Follows the next bytes. `begin` hears the size of each message that begins in them, and how
    /// many have; `more` how many had when there is another. Either may refuse.
    pub(super) fn pass(
        &mut self,
        mut data: &[u8],
        more: impl Fn(u64) -> Result<(), Status>,
        begin: impl Fn(u64) -> Result<(), Status>,
    ) -> Result<(), Status> {
        while !data.is_empty() {
            if self.rest > 0 {
                let passed = self.rest.min(data.len() as u64);
                self.rest -= passed;
                data.advance(passed as usize);
                continue;
            }
            more(self.begun)?;
            let taken = data.len().min(MESSAGE_PREFIX_LEN - self.head_bytes);
            data.copy_to_slice(&mut self.head[self.head_bytes..][..taken]);
            self.head_bytes += taken;
            if self.head_bytes == MESSAGE_PREFIX_LEN {
                self.head_bytes = 0;
                let [_compressed, a, b, c, d] = self.head;
                self.rest = u32::from_be_bytes([a, b, c, d]).into();
                begin(self.rest)?;
                self.begun += 1;
            }
        }
        Ok(())
    }

    /// Whether nothing has come, not even a part of a head.
    pub(super) fn is_empty(&self) -> bool {
        self.begun == 0 && self.head_bytes == 0
    }
}
