use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32C of the bytes that have the checksum `before`, with `next` behind them; 0 is that of none.
pub fn crc32c(before: u32, next: &[u8]) -> u32 {
    // Inside, the register is the complement of the checksum.
    let register = u64::from(!before);
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, register);
    digest.update(next);
    // In its lower half: the library has algorithms of 64 bits too.
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_castagnolis_in_one_piece_or_two() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
    }
}
