//! Who gets in: so many connections in all, and so many from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    config::Limits,
    metrics::{Limit, Refusals},
};

/// How many connections beyond the limit are told so at a time. Others are closed without a word,
/// which costs nothing.
const TOLD: usize = 64;

/// Counts the connections of a server. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    max: usize,
    max_per_address: usize,
    counted: Arc<Mutex<Counted>>,
    refusals: Arc<Refusals>,
}

#[derive(Debug, Default)]
struct Counted {
    admitted: usize,
    /// How many ever were.
    total: u64,
    told: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// What a new connection gets; dropping it makes room for another.
#[derive(Debug)]
pub(super) struct Ticket {
    /// Whether its calls are served; else they are answered that the server is busy.
    pub(super) admitted: bool,
    network: Option<IpAddr>,
    counted: Arc<Mutex<Counted>>,
}

impl Admission {
    pub(super) fn new(limits: &Limits, refusals: Arc<Refusals>) -> Self {
        Self {
            max: limits.max_connections,
            max_per_address: limits.max_connections_per_address,
            counted: Arc::default(),
            refusals,
        }
    }

    /// Takes a connection in, from an address if it has one. None if it shall be closed.
    pub(super) fn ticket(&self, address: Option<IpAddr>) -> Option<Ticket> {
        let network = address.map(network);
        let mut counted = locked(&self.counted);
        let from_there = network.and_then(|network| counted.by_network.get(&network));
        let reached = if counted.admitted >= self.max {
            Some(Limit::MaxConnections)
        } else if from_there.is_some_and(|&count| count >= self.max_per_address) {
            Some(Limit::MaxConnectionsPerAddress)
        } else {
            None
        };
        if let Some(limit) = reached {
            self.refusals.add(limit);
        }
        let admitted = reached.is_none();
        if admitted {
            counted.admitted += 1;
            counted.total += 1;
            if let Some(network) = network {
                *counted.by_network.entry(network).or_default() += 1;
            }
        } else if counted.told < TOLD {
            counted.told += 1;
        } else {
            return None;
        }
        Some(Ticket {
            admitted,
            network,
            counted: Arc::clone(&self.counted),
        })
    }

    /// How many connections are there that were let in.
    pub(super) fn open(&self) -> usize {
        locked(&self.counted).admitted
    }

    /// How many ever were.
    pub(super) fn total(&self) -> u64 {
        locked(&self.counted).total
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counted = locked(&self.counted);
        if !self.admitted {
            counted.told -= 1;
            return;
        }
        counted.admitted -= 1;
        if let Some(network) = self.network
            && let Some(count) = counted.by_network.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                counted.by_network.remove(&network);
            }
        }
    }
}

/// What one client has for itself: an IPv4 address, or the 64 bits that an IPv6 network begins with.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

fn locked(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    // Nothing that panics leaves it half changed.
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_connections: usize, max_connections_per_address: usize) -> Admission {
        let limits = Limits {
            max_connections,
            max_connections_per_address,
            ..Limits::default()
        };
        Admission::new(&limits, Arc::default())
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[track_caller]
    fn assert_admitted(ticket: &Option<Ticket>, admitted: bool) {
        assert_eq!(
            ticket.as_ref().map(|ticket| ticket.admitted),
            Some(admitted)
        );
    }

    #[test]
    fn the_limit_holds_for_all_addresses_together_and_ends_with_the_tickets() {
        let admission = admission(2, 2);
        let first = admission.ticket(address("192.0.2.1"));
        let second = admission.ticket(None);
        assert_admitted(&second, true);
        assert_admitted(&admission.ticket(address("192.0.2.2")), false);
        drop(first);
        assert_admitted(&admission.ticket(address("192.0.2.2")), true);
    }

    #[test]
    fn one_address_cannot_take_the_room_of_another() {
        let admission = admission(10, 1);
        let first = admission.ticket(address("192.0.2.1"));
        assert_admitted(&first, true);
        assert_admitted(&admission.ticket(address("192.0.2.1")), false);
        // The same address, as a socket for both versions of IP tells it.
        assert_admitted(&admission.ticket(address("::ffff:192.0.2.1")), false);
        assert_admitted(&admission.ticket(address("192.0.2.2")), true);
        drop(first);
        assert_admitted(&admission.ticket(address("192.0.2.1")), true);
    }

    #[test]
    fn an_ipv6_client_has_a_network_of_its_own() {
        let admission = admission(10, 1);
        let _first = admission.ticket(address("2001:db8:0:1::1"));
        assert_admitted(&admission.ticket(address("2001:db8:0:1:ffff::2")), false);
        assert_admitted(&admission.ticket(address("2001:db8:0:2::1")), true);
    }

    #[test]
    fn only_some_of_those_that_are_refused_are_told() {
        let admission = admission(0, 1);
        let told: Vec<_> = (0..TOLD).map(|_| admission.ticket(None)).collect();
        assert!(told.iter().all(Option::is_some));
        assert!(admission.ticket(None).is_none());
        drop(told);
        assert_admitted(&admission.ticket(None), false);
    }
}
