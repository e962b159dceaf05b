//! The deadline of a client: the header `grpc-timeout`.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// The header's value is at most eight digits and a unit: `100m` is 100 milliseconds.
const GRPC_TIMEOUT: &str = "grpc-timeout";

const MAX_DIGITS: usize = 8;

/// The header's value is malformed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidTimeout;

/// Returns the timeout of a call, if its client sets one.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, InvalidTimeout> {
    headers.get(GRPC_TIMEOUT).map(parse).transpose()
}

fn parse(value: &HeaderValue) -> Result<Duration, InvalidTimeout> {
    let (unit, digits) = value.as_bytes().split_last().ok_or(InvalidTimeout)?;
    let is_number =
        (1..=MAX_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !is_number {
        return Err(InvalidTimeout);
    }
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(number * 60 * 60)),
        b'M' => Ok(Duration::from_secs(number * 60)),
        b'S' => Ok(Duration::from_secs(number)),
        b'm' => Ok(Duration::from_millis(number)),
        b'u' => Ok(Duration::from_micros(number)),
        b'n' => Ok(Duration::from_nanos(number)),
        _ => Err(InvalidTimeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_bytes(value: &[u8]) -> Result<Duration, InvalidTimeout> {
        parse(&HeaderValue::from_bytes(value).unwrap())
    }

    #[test]
    fn every_unit_is_parsed() {
        assert_eq!(parse_bytes(b"2H"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_bytes(b"3M"), Ok(Duration::from_secs(180)));
        assert_eq!(parse_bytes(b"4S"), Ok(Duration::from_secs(4)));
        assert_eq!(parse_bytes(b"05m"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_bytes(b"6u"), Ok(Duration::from_micros(6)));
        assert_eq!(
            parse_bytes(b"99999999n"),
            Ok(Duration::from_nanos(99_999_999))
        );
        assert_eq!(parse_bytes(b"0S"), Ok(Duration::ZERO));
        assert_eq!(
            parse_bytes(b"99999999H"),
            Ok(Duration::from_secs(359_999_996_400))
        );
    }

    #[test]
    fn malformed_values_are_rejected() {
        let malformed: [&[u8]; 12] = [
            b"",
            b"S",
            b"1",
            b"1s",
            b"-1S",
            b"+1S",
            b"1.5S",
            b"1 S",
            b" 1S",
            b"100000000S",
            b"1SS",
            b"\xff1S",
        ];
        for value in malformed {
            assert_eq!(parse_bytes(value), Err(InvalidTimeout), "{value:?}");
        }
    }

    #[test]
    fn missing_header_is_no_timeout() {
        assert_eq!(grpc_timeout(&HeaderMap::new()), Ok(None));
    }
}
