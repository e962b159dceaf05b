//! Encodes the headers of requests in the simplest form of HPACK (RFC 7541).
//!
//! Only `authorization` is indexed, and nothing is Huffman-coded.

/// `:status: 200`, an entry of the static table. Every server uses it.
const STATUS_200: u8 = 0x88;

/// A literal with incremental indexing, whose name is `authorization`: entry 23 of the static table.
const INDEXED_AUTHORIZATION: u8 = 0x40 | 23;

/// The newest entry of the dynamic table, which follows the 61 of the static one.
const NEWEST_DYNAMIC_ENTRY: u8 = 0x80 | 62;

/// The headers of the requests of one connection.
///
/// Only `authorization` is indexed, as in gRPC's C core and Go. The server's dynamic table must have space for it:
/// 4096 bytes by default.
#[derive(Default)]
pub(crate) struct Encoder {
    /// The `authorization` that is in the server's dynamic table.
    indexed: Option<String>,
}

impl Encoder {
    /// Encodes a block of headers, with `authorization` at the end, if there is one.
    pub(crate) fn block(
        &mut self,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in headers {
            // A literal without indexing, and with a literal name.
            block.push(0);
            string(&mut block, name);
            string(&mut block, value);
        }
        match authorization {
            None => {}
            Some(value) if self.indexed.as_deref() == Some(value) => {
                block.push(NEWEST_DYNAMIC_ENTRY)
            }
            Some(value) => {
                block.push(INDEXED_AUTHORIZATION);
                string(&mut block, value);
                self.indexed = Some(value.to_owned());
            }
        }
        block
    }
}

fn string(block: &mut Vec<u8>, text: &str) {
    // The length has a prefix of 7 bits; the rest follows in groups of 7 bits, the lowest first.
    match text.len() {
        length @ 0..127 => block.push(length as u8),
        length => {
            block.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                block.push(rest as u8 | 128);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
    }
    block.extend(text.bytes());
}

/// Whether the header block of a response begins with status 200.
pub(crate) fn is_ok(mut block: &[u8]) -> bool {
    // A block may begin with updates of the table's size: 5 bits, and more bytes if all of them are set.
    while let [first @ 0x20..=0x3f, rest @ ..] = block {
        block = rest;
        let mut has_more = *first == 0x3f;
        while has_more && let [next, rest @ ..] = block {
            block = rest;
            has_more = *next >= 128;
        }
    }
    block.first() == Some(&STATUS_200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_a_literal_with_both_lengths_in_front() {
        let mut encoder = Encoder::default();
        for _ in 0..2 {
            assert_eq!(
                encoder.block(&[("te", "trailers"), ("a", "")], None),
                b"\0\x02te\x08trailers\0\x01a\0"
            );
        }
    }

    /// RFC 7541, 6.2.1 and 6.1.
    #[test]
    fn authorization_is_a_literal_once_and_then_an_index() {
        let mut encoder = Encoder::default();
        let mut block = |authorization| encoder.block(&[("a", "")], authorization);
        assert_eq!(block(Some("Bearer x")), b"\0\x01a\0\x57\x08Bearer x");
        assert_eq!(block(Some("Bearer x")), b"\0\x01a\0\xbe");
        // A request without it does not remove the entry.
        assert_eq!(block(None), b"\0\x01a\0");
        assert_eq!(block(Some("Bearer x")), b"\0\x01a\0\xbe");
    }

    #[test]
    fn new_authorization_is_a_literal_and_replaces_the_first_entry() {
        let mut encoder = Encoder::default();
        let mut block = |authorization| encoder.block(&[], Some(authorization));
        for authorization in ["a", "b", "a"] {
            let byte = authorization.as_bytes()[0];
            assert_eq!(block(authorization), [0x57, 1, byte]);
            assert_eq!(block(authorization), [0xbe]);
        }
    }

    /// RFC 7541, C.1.3: 1337 in 5 bits is 31, 154, 10; in 7 bits 1337 is 127 and 1210.
    #[test]
    fn long_length_continues_in_groups_of_seven_bits() {
        let encoded = |length| {
            let mut block = Vec::new();
            string(&mut block, &"x".repeat(length));
            block.truncate(block.len() - length);
            block
        };
        assert_eq!(encoded(126), [126]);
        assert_eq!(encoded(127), [127, 0]);
        assert_eq!(encoded(127 + 127), [127, 127]);
        assert_eq!(encoded(127 + 128), [127, 128, 1]);
        assert_eq!(encoded(1337), [127, 0x80 | (1210 % 128) as u8, 9]);
    }

    #[test]
    fn only_200_is_ok() {
        assert!(is_ok(&[0x88, 0x5f]));
        // After sizes of 0 and of 4096.
        assert!(is_ok(&[0x20, 0x88]));
        assert!(is_ok(&[0x20, 0x3f, 0xe1, 0x1f, 0x88]));
        assert!(!is_ok(&[0x3f, 0x88, 0x01]));
        // 404 is indexed too, 503 is a literal.
        assert!(!is_ok(&[0x8d]));
        assert!(!is_ok(b"\x48\x03503"));
        assert!(!is_ok(&[]));
    }
}
