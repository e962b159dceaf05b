//! The headers of a request, as simple as HPACK (RFC 7541) lets them be: only who calls is indexed,
//! and nothing is Huffman-coded.

/// `:status: 200`, as the static table has it. Every server uses it.
const STATUS_200: u8 = 0x88;

/// A literal that the other side shall remember, with the name of entry 23 of the static table:
/// `authorization`.
const REMEMBER_AUTHORIZATION: u8 = 0x40 | 23;

/// What was remembered last: the first entry behind the 61 of the static table.
const REMEMBERED: u8 = 0x80 | 62;

/// The headers of the requests of one connection.
///
/// The other side remembers their `authorization`, as gRPC's C core and Go let it; nothing else. It
/// has to have room for that, which it has unless it says otherwise: a table of 4096 bytes.
#[derive(Default)]
pub(crate) struct Encoder {
    /// The `authorization` that the other side has.
    remembered: Option<String>,
}

impl Encoder {
    /// A block of headers, and of who calls, if that shall be said.
    pub(crate) fn block(
        &mut self,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in headers {
            // A literal without indexing, whose name is spelled out.
            block.push(0);
            string(&mut block, name);
            string(&mut block, value);
        }
        match authorization {
            None => {}
            Some(value) if self.remembered.as_deref() == Some(value) => block.push(REMEMBERED),
            Some(value) => {
                block.push(REMEMBER_AUTHORIZATION);
                string(&mut block, value);
                self.remembered = Some(value.to_owned());
            }
        }
        block
    }
}

fn string(block: &mut Vec<u8>, text: &str) {
    // 7 bits of length; what does not fit follows in groups of 7, the lowest first.
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

/// Whether an answer begins with status 200.
pub(crate) fn is_ok(mut block: &[u8]) -> bool {
    // An encoder may say first how large its table is: 5 bits, and more bytes if all of them are set.
    while let [first @ 0x20..=0x3f, rest @ ..] = block {
        block = rest;
        let mut goes_on = *first == 0x3f;
        while goes_on && let [next, rest @ ..] = block {
            block = rest;
            goes_on = *next >= 128;
        }
    }
    block.first() == Some(&STATUS_200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_literal_with_both_lengths_in_front() {
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
    fn who_calls_is_spelled_out_once_and_an_index_afterwards() {
        let mut encoder = Encoder::default();
        let mut block = |who| encoder.block(&[("a", "")], who);
        assert_eq!(block(Some("Bearer x")), b"\0\x01a\0\x57\x08Bearer x");
        assert_eq!(block(Some("Bearer x")), b"\0\x01a\0\xbe");
        // What is not said is not forgotten.
        assert_eq!(block(None), b"\0\x01a\0");
        assert_eq!(block(Some("Bearer x")), b"\0\x01a\0\xbe");
    }

    #[test]
    fn somebody_else_who_calls_is_spelled_out_and_is_the_first_entry_then() {
        let mut encoder = Encoder::default();
        let mut block = |who| encoder.block(&[], Some(who));
        for who in ["a", "b", "a"] {
            assert_eq!(block(who), [0x57, 1, who.as_bytes()[0]]);
            assert_eq!(block(who), [0xbe]);
        }
    }

    /// RFC 7541, C.1.3: 1337 in 5 bits is 31, 154, 10; in 7 bits 1337 is 127 and 1210.
    #[test]
    fn a_long_length_goes_on_in_groups_of_seven_bits() {
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
