//! CRC-32C, the checksum of the contract.

use crc_fast::{CrcAlgorithm, checksum, checksum_combine};

/// The CRC-32C (Castagnoli) of a sequence of bytes; by default that of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Of all of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        // In its lower half: the library has algorithms of 64 bits too.
        Self(checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32)
    }

    /// Of these bytes with `length` others behind them, whose own is `next`. Takes no second look
    /// at either.
    pub fn followed_by(self, next: Self, length: u64) -> Self {
        let combined = checksum_combine(
            CrcAlgorithm::Crc32Iscsi,
            self.0.into(),
            next.0.into(),
            length,
        );
        Self(combined as u32)
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
            let folded = Crc32c::of(first).followed_by(Crc32c::of(second), second.len() as u64);
            prop_assert_eq!(folded, Crc32c::of(&whole));
        }
    }
}
