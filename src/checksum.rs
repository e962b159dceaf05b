//! CRC-32C, the checksum of the contract.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C (Castagnoli) of a sequence of bytes; by default that of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Of all of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::default().extended_by(bytes)
    }

    /// Of these bytes with `next` behind them.
    ///
    /// Where the checksum of `next` alone is known, the two could be combined without a look at the
    /// bytes. For a chunk that takes longer than looking at it again.
    pub fn extended_by(self, next: &[u8]) -> Self {
        // Inside, the register is the complement of the checksum.
        let register = u64::from(!self.0);
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, register);
        digest.update(next);
        // In its lower half: the library has algorithms of 64 bits too.
        Self(digest.finalize() as u32)
    }

    /// As it travels.
    pub fn value(self) -> u32 {
        self.0
    }
}

impl From<u32> for Crc32c {
    fn from(value: u32) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The check value of the catalogue of CRCs, and the vectors of RFC 3720, B.4.
    #[test]
    fn it_is_castagnolis() {
        assert_eq!(Crc32c::of(b"").value(), 0);
        assert_eq!(Crc32c::of(b"123456789").value(), 0xe306_9283);
        assert_eq!(Crc32c::of(&[0; 32]).value(), 0x8a91_36aa);
        assert_eq!(Crc32c::of(&[0xff; 32]).value(), 0x62a8_ab43);
    }

    proptest! {
        #[test]
        fn pieces_make_the_whole(whole: Vec<u8>, at: prop::sample::Index) {
            let (first, second) = whole.split_at(at.index(whole.len() + 1));
            prop_assert_eq!(Crc32c::of(first).extended_by(second), Crc32c::of(&whole));
        }
    }
}
