//! CRC-32C, the checksum of chunks and files.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C (Castagnoli) of a byte sequence. The default is that of the empty sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::default().update(bytes)
    }

    /// The checksum after appending `next`.
    pub fn update(self, next: &[u8]) -> Self {
        // The algorithm's register holds the complement of the checksum.
        let register = u64::from(!self.0);
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, register);
        digest.update(next);
        // The library returns 32-bit checksums in the lower half of a u64.
        Self(digest.finalize() as u32)
    }

    /// The checksum after appending `length` bytes whose checksum is `next`, in constant time.
    pub fn combine(self, next: Self, length: u64) -> Self {
        // A checksum is the remainder of a polynomial division. Appending bytes shifts it, which is a
        // multiplication by a power of x.
        let bits = (0..u64::BITS).filter(|bit| length >> bit & 1 == 1);
        let shifted = bits.fold(self.0, |sum, bit| product(sum, SHIFTS[bit as usize]));
        Self(shifted ^ next.0)
    }

    /// The value on the wire.
    pub fn value(self) -> u32 {
        self.0
    }
}

/// The generator polynomial. Like every polynomial here, its highest power of x is in the lowest bit.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// The factors that shift by 1, 2, 4, 8, ... bytes: x to the power of 8, 16, 32, 64, ...
const SHIFTS: [u32; u64::BITS as usize] = {
    let mut shifts = [1 << (31 - 8); u64::BITS as usize];
    let mut bit = 1;
    while bit < shifts.len() {
        shifts[bit] = product(shifts[bit - 1], shifts[bit - 1]);
        bit += 1;
    }
    shifts
};

/// The product of two polynomials modulo the generator.
const fn product(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut power = 1 << 31;
    while power != 0 {
        if a & power != 0 {
            product ^= b;
        }
        power >>= 1;
        b = b >> 1 ^ if b & 1 == 1 { CASTAGNOLI } else { 0 };
    }
    product
}

impl From<u32> for Crc32c {
    fn from(value: u32) -> Self {
        Self(value)
    }
}

/// The length and checksum of the first bytes of a file.
#[cfg(any(feature = "client", feature = "server"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) len: u64,
    pub(crate) crc32c: Crc32c,
}

#[cfg(any(feature = "client", feature = "server"))]
impl Prefix {
    /// The prefix after appending `chunk`.
    pub(crate) fn combine(self, chunk: Self) -> Self {
        Self {
            len: self.len + chunk.len,
            crc32c: self.crc32c.combine(chunk.crc32c, chunk.len),
        }
    }

    /// The prefix after appending the bytes of `next`.
    #[cfg(feature = "client")]
    pub(crate) fn update(self, next: &[u8]) -> Self {
        Self {
            len: self.len + next.len() as u64,
            crc32c: self.crc32c.update(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The check value of the catalogue of CRCs, and the vectors of RFC 3720, B.4.
    #[test]
    fn checksums_match_published_vectors() {
        assert_eq!(Crc32c::of(b"").value(), 0);
        assert_eq!(Crc32c::of(b"123456789").value(), 0xe306_9283);
        assert_eq!(Crc32c::of(&[0; 32]).value(), 0x8a91_36aa);
        assert_eq!(Crc32c::of(&[0xff; 32]).value(), 0x62a8_ab43);
    }

    proptest! {
        #[test]
        fn update_equals_checksum_of_whole(whole: Vec<u8>, at: prop::sample::Index) {
            let (first, second) = whole.split_at(at.index(whole.len() + 1));
            prop_assert_eq!(Crc32c::of(first).update(second), Crc32c::of(&whole));
        }

        #[test]
        fn combine_equals_checksum_of_whole(whole: Vec<u8>, at: prop::sample::Index) {
            let (first, second) = whole.split_at(at.index(whole.len() + 1));
            let (first, length) = (Crc32c::of(first), second.len() as u64);
            let second = Crc32c::of(second);
            prop_assert_eq!(first.combine(second, length), Crc32c::of(&whole));
        }

        /// The lengths exceed what memory could hold.
        #[test]
        fn combine_is_additive_in_length(sum: u32, a in 0..1_u64 << 63, b in 0..1_u64 << 63) {
            let (sum, nothing) = (Crc32c(sum), Crc32c::default());
            prop_assert_eq!(
                sum.combine(nothing, a).combine(nothing, b),
                sum.combine(nothing, a + b)
            );
        }
    }
}
