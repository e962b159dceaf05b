//! The limits on open connections, in all and per address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::server::{
    limits::Limits,
    metrics::{Limit, LimitHits},
};

/// Maximum number of connections beyond the limit whose calls are answered with BUSY at a time. Further ones
/// are closed at once, which costs nothing.
const MAX_BUSY_ANSWERS: usize = 64;

/// Counts the open connections of a server. Clones share the count.
#[derive(Clone, Debug)]
pub(in crate::server) struct ConnectionLimit {
    max: usize,
    max_per_address: usize,
    counts: Arc<Mutex<Counts>>,
    hits: Arc<LimitHits>,
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    /// The connections that were ever admitted.
    total: u64,
    answered_busy: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// A place among the open connections, released when it is dropped.
#[derive(Debug)]
pub(in crate::server) struct ConnectionPermit {
    /// False beyond the limit: all calls are answered with BUSY.
    pub(in crate::server) is_admitted: bool,
    network: Option<IpAddr>,
    counts: Arc<Mutex<Counts>>,
}

impl ConnectionLimit {
    pub(in crate::server) fn new(limits: &Limits, hits: Arc<LimitHits>) -> Self {
        Self {
            max: limits.max_connections,
            max_per_address: limits.max_connections_per_address,
            counts: Arc::default(),
            hits,
        }
    }

    /// Returns a permit for a connection from `address`; None if it should be closed at once.
    pub(in crate::server) fn try_acquire(
        &self,
        address: Option<IpAddr>,
    ) -> Option<ConnectionPermit> {
        let network = address.map(network_of);
        let mut counts = self.counts.lock();
        let from_network = network.and_then(|network| counts.by_network.get(&network));
        let reached = if counts.open >= self.max {
            Some(Limit::MaxConnections)
        } else if from_network.is_some_and(|&open| open >= self.max_per_address) {
            Some(Limit::MaxConnectionsPerAddress)
        } else {
            None
        };
        if let Some(limit) = reached {
            self.hits.add(limit);
        }
        let is_admitted = reached.is_none();
        if is_admitted {
            counts.open += 1;
            counts.total += 1;
            if let Some(network) = network {
                *counts.by_network.entry(network).or_default() += 1;
            }
        } else if counts.answered_busy < MAX_BUSY_ANSWERS {
            counts.answered_busy += 1;
        } else {
            return None;
        }
        Some(ConnectionPermit {
            is_admitted,
            network,
            counts: Arc::clone(&self.counts),
        })
    }

    /// The number of admitted connections that are open.
    pub(in crate::server) fn open(&self) -> usize {
        self.counts.lock().open
    }

    /// The number of connections that were ever admitted.
    pub(in crate::server) fn total(&self) -> u64 {
        self.counts.lock().total
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if !self.is_admitted {
            counts.answered_busy -= 1;
            return;
        }
        counts.open -= 1;
        if let Some(network) = self.network
            && let Some(open) = counts.by_network.get_mut(&network)
        {
            *open -= 1;
            if *open == 0 {
                counts.by_network.remove(&network);
            }
        }
    }
}

/// The unit that an address limit counts: an IPv4 address, or the first 64 bits of an IPv6 address.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection_limit(
        max_connections: usize,
        max_connections_per_address: usize,
    ) -> ConnectionLimit {
        let limits = Limits {
            max_connections,
            max_connections_per_address,
            ..Limits::default()
        };
        ConnectionLimit::new(&limits, Arc::default())
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[track_caller]
    fn assert_admitted(permit: &Option<ConnectionPermit>, admitted: bool) {
        assert_eq!(
            permit.as_ref().map(|permit| permit.is_admitted),
            Some(admitted)
        );
    }

    #[test]
    fn limit_holds_across_addresses_until_permits_drop() {
        let limit = connection_limit(2, 2);
        let first = limit.try_acquire(address("192.0.2.1"));
        let second = limit.try_acquire(None);
        assert_admitted(&second, true);
        assert_admitted(&limit.try_acquire(address("192.0.2.2")), false);
        drop(first);
        assert_admitted(&limit.try_acquire(address("192.0.2.2")), true);
    }

    #[test]
    fn address_limit_leaves_room_for_others() {
        let limit = connection_limit(10, 1);
        let first = limit.try_acquire(address("192.0.2.1"));
        assert_admitted(&first, true);
        assert_admitted(&limit.try_acquire(address("192.0.2.1")), false);
        // The same address as a dual-stack socket reports it.
        assert_admitted(&limit.try_acquire(address("::ffff:192.0.2.1")), false);
        assert_admitted(&limit.try_acquire(address("192.0.2.2")), true);
        drop(first);
        assert_admitted(&limit.try_acquire(address("192.0.2.1")), true);
    }

    #[test]
    fn ipv6_addresses_are_limited_per_network() {
        let limit = connection_limit(10, 1);
        let _first = limit.try_acquire(address("2001:db8:0:1::1"));
        assert_admitted(&limit.try_acquire(address("2001:db8:0:1:ffff::2")), false);
        assert_admitted(&limit.try_acquire(address("2001:db8:0:2::1")), true);
    }

    #[test]
    fn busy_answers_are_bounded() {
        let limit = connection_limit(0, 1);
        let busy: Vec<_> = (0..MAX_BUSY_ANSWERS)
            .map(|_| limit.try_acquire(None))
            .collect();
        assert!(busy.iter().all(Option::is_some));
        assert!(limit.try_acquire(None).is_none());
        drop(busy);
        assert_admitted(&limit.try_acquire(None), false);
    }
}
