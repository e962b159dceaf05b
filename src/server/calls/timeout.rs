//! The time that a client gives a call, as it is spelled on the wire.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// The header, at most eight digits and a unit: `100m` is 100 milliseconds.
const GRPC_TIMEOUT: &str = "grpc-timeout";

const MAX_DIGITS: usize = 8;

/// The header does not say a time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The time that a call may take, if its client says so.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    headers.get(GRPC_TIMEOUT).map(parse).transpose()
}

fn parse(value: &HeaderValue) -> Result<Duration, Malformed> {
    let (unit, digits) = value.as_bytes().split_last().ok_or(Malformed)?;
    let is_number =
        (1..=MAX_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !is_number {
        return Err(Malformed);
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
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> Result<Duration, Malformed> {
        parse(&HeaderValue::from_bytes(value).unwrap())
    }

    #[test]
    fn every_unit_is_understood() {
        assert_eq!(of(b"2H"), Ok(Duration::from_secs(7200)));
        assert_eq!(of(b"3M"), Ok(Duration::from_secs(180)));
        assert_eq!(of(b"4S"), Ok(Duration::from_secs(4)));
        assert_eq!(of(b"05m"), Ok(Duration::from_millis(5)));
        assert_eq!(of(b"6u"), Ok(Duration::from_micros(6)));
        assert_eq!(of(b"99999999n"), Ok(Duration::from_nanos(99_999_999)));
        assert_eq!(of(b"0S"), Ok(Duration::ZERO));
        assert_eq!(of(b"99999999H"), Ok(Duration::from_secs(359_999_996_400)));
    }

    #[test]
    fn anything_else_is_malformed() {
        let wrong: [&[u8]; 12] = [
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
        for value in wrong {
            assert_eq!(of(value), Err(Malformed), "{value:?}");
        }
    }

    #[test]
    fn a_client_may_have_all_the_time() {
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    }
}
