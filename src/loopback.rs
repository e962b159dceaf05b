//! Hosts that are this machine.

use std::net::IpAddr;

/// Whether `host`, as written in a URL, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    // URLs write IPv6 addresses in brackets.
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}
