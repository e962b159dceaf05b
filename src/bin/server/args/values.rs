//! The values of flags. Each failure is a sentence about the value; clap puts the value and the flag before it.

use std::time::Duration;

use bytesize::ByteSize;
use muxs::files::MAX_CHUNK_BYTES;

/// Parses a number of things. The flag is there to limit them, so 0 would stop the server from working.
pub(super) fn parse_count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err("it must be a whole number, at least 1".to_owned());
    }
    let count: Option<u64> = text.parse().ok();
    match count.map(|count| (count, T::try_from(count))) {
        Some((0, _)) => Err("it must be at least 1".to_owned()),
        Some((_, Ok(count))) => Ok(count),
        _ => Err("it is too large".to_owned()),
    }
}

/// Parses a size in bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>().map(|size| size.as_u64()) {
        Ok(0) => Err("it must be at least 1 byte".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(
            "it must be a number of bytes, or one with a unit such as 256KiB or 64MiB".to_owned(),
        ),
    }
}

/// Parses the size of the largest upload.
pub(super) fn parse_max_upload(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>().map(|size| size.as_u64()) {
        Ok(0) => Err("it would refuse every upload; leave the flag out for no limit".to_owned()),
        _ => parse_size(text),
    }
}

/// Parses the size of a chunk.
pub(super) fn parse_chunk_bytes(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    match u32::try_from(bytes) {
        Ok(bytes @ 1..=MAX_CHUNK_BYTES) => Ok(bytes),
        _ => Err("it must be at most 1MiB".to_owned()),
    }
}

/// Parses a time that may be zero.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') {
        return Err("it must not be negative".to_owned());
    }
    humantime::parse_duration(text)
        .map_err(|_| "it must be a number with a unit, such as 500ms, 30s, 5m or 24h".to_owned())
}

/// Parses a time that must not be zero: the server would wait for nothing.
pub(super) fn parse_nonzero_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

/// Parses whether something is switched on, in the words that clap knows.
pub(super) fn parse_switch(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "t" | "true" | "y" | "yes" => Ok(true),
        "0" | "off" | "f" | "false" | "n" | "no" => Ok(false),
        _ => Err("it must be true or false"),
    }
}

/// Parses an address to listen on. A port alone is one of the loopback interface.
pub(super) fn parse_address(text: &str) -> Result<String, &'static str> {
    const EXPECTED: &str = "it must be HOST:PORT, with a port from 0 to 65535, or unix:PATH";
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            "" => Err("the path after unix: is empty"),
            _ => Ok(text.to_owned()),
        };
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port: u16 = port.parse().map_err(|_| EXPECTED)?;
    match host {
        "" => Ok(format!("127.0.0.1:{port}")),
        host => Ok(format!("{host}:{port}")),
    }
}
