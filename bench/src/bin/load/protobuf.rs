//! Encodes and decodes the fields around a chunk's data by hand.

use anyhow::{Context, Result, ensure};

/// The key of `info = 1` in `ReadStreamResponse`. A key is a field's number and its wire type.
pub(crate) const INFO: u8 = 1 << 3 | BYTES;
/// The key of `committed = 2` in `WriteStreamResponse`.
pub(crate) const COMMITTED: u8 = 2 << 3 | BYTES;
/// The key of `chunk = 2` in `ReadStreamResponse` and `WriteStreamRequest`.
const CHUNK: u8 = 2 << 3 | BYTES;

const OFFSET: u8 = 1 << 3 | VARINT;
const CRC32C: u8 = 2 << 3 | FOUR_BYTES;
const DATA: u8 = 15 << 3 | BYTES;

const VARINT: u8 = 0;
const BYTES: u8 = 2;
const FOUR_BYTES: u8 = 5;

/// Encodes the bytes of a `WriteStreamRequest` with a chunk that precede the chunk's data.
pub(crate) fn encode_before_data(offset: u64, crc32c: u32, length: usize) -> Vec<u8> {
    let mut chunk = vec![OFFSET];
    put_varint(&mut chunk, offset);
    chunk.push(CRC32C);
    chunk.extend(crc32c.to_le_bytes());
    chunk.push(DATA);
    put_varint(&mut chunk, length as u64);
    let mut step = vec![CHUNK];
    put_varint(&mut step, (chunk.len() + length) as u64);
    [step, chunk].concat()
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The fields of a chunk that are checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) offset: u64,
    /// The length of the data in bytes.
    pub(crate) data: usize,
}

impl Chunk {
    /// Parses the chunk of a `ReadStreamResponse` of `length` bytes from the start of the message.
    ///
    /// The data has to be the last field, which is the order that protobuf recommends.
    pub(crate) fn parse_prefix(message: &[u8], length: usize) -> Result<Self> {
        let mut rest = message;
        ensure!(next(&mut rest)? == CHUNK, "neither info nor a chunk");
        let inside = varint(&mut rest)?;
        ensure!(
            message.len() - rest.len() + inside as usize == length,
            "more than a chunk"
        );
        let mut offset = 0;
        loop {
            match next(&mut rest)? {
                OFFSET => offset = varint(&mut rest)?,
                CRC32C => rest = rest.get(4..).context("a chunk is cut")?,
                DATA => break,
                key => anyhow::bail!("a chunk has something unknown before its data: {key}"),
            }
        }
        let data = varint(&mut rest)? as usize;
        ensure!(
            message.len() - rest.len() + data == length,
            "the data of a chunk is not at its end"
        );
        Ok(Self { offset, data })
    }
}

fn next(bytes: &mut &[u8]) -> Result<u8> {
    let byte = bytes.split_off_first().context("a chunk is cut")?;
    Ok(*byte)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = next(bytes)?;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Ok(value);
        }
    }
    anyhow::bail!("a number is too long")
}

#[cfg(test)]
mod tests {
    use muxs_bench::pb::{self, read_stream_response::Event, write_stream_request::Step};
    use prost::Message;

    use super::*;

    #[test]
    fn encoded_chunk_equals_prost_encoding() {
        for offset in [1, 127, 128, 1 << 40] {
            for length in [1, 127, 128, 1 << 20] {
                let data = vec![7; length];
                let chunk = pb::Chunk {
                    offset,
                    crc32c: Some(0x0102_0304),
                    data: data.clone().into(),
                };
                let step = Some(Step::Chunk(chunk));
                let message = pb::WriteStreamRequest { step }.encode_to_vec();
                let before = encode_before_data(offset, 0x0102_0304, length);
                assert_eq!([before, data].concat(), message);
            }
        }
    }

    #[test]
    fn chunk_is_parsed_from_the_start_of_its_message() {
        for (offset, data) in [(0, 1), (1, 70_000), (u64::MAX, 1 << 20)] {
            let chunk = pb::Chunk {
                offset,
                crc32c: Some(u32::MAX),
                data: vec![7; data].into(),
            };
            let event = Some(Event::Chunk(chunk));
            let message = pb::ReadStreamResponse { event }.encode_to_vec();
            let beginning = &message[..message.len().min(32)];
            let read = Chunk::parse_prefix(beginning, message.len()).unwrap();
            assert_eq!(read, Chunk { offset, data });
            assert!(Chunk::parse_prefix(beginning, message.len() + 1).is_err());
        }
    }
}
