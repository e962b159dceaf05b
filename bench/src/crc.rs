use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C after appending `next` to bytes whose checksum is `before`. That of no bytes is 0.
pub fn crc32c(before: u32, next: &[u8]) -> u32 {
    // The algorithm's register holds the complement of the checksum.
    let register = u64::from(!before);
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, register);
    digest.update(next);
    // The library returns 32-bit checksums in the lower half of a u64.
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_the_check_value_whole_or_in_parts() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
    }
}
