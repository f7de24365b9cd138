//! Half-open IKE SAs: how many there are, of whom, and which request made which.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::FloodLimits;

/// Our SPIs of half-open IKE SAs, by whom they are for.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    /// By the peer's address, port and SPI.
    by_request: HashMap<(SocketAddr, u64), u64>,
    by_spi: HashMap<u64, (SocketAddr, u64)>,
    /// By address; of IPv6 by network of 64 bits, which one host has all of (RFC 4291 s2.5.4).
    by_address: HashMap<IpAddr, usize>,
}

/// What is to be done with a new request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Serve it.
    Free,
    /// Serve it when it brings a cookie.
    WithCookie,
    /// Serve it when it brings the solution of a puzzle of this difficulty.
    WithPuzzle(u8),
    /// Drop it: too many in all.
    Full,
    /// Drop it: too many of this address.
    AddressFull,
}

impl HalfOpen {
    pub fn len(&self) -> usize {
        self.by_spi.len()
    }

    /// The half-open IKE SA that this request made.
    pub fn find(&self, remote: SocketAddr, peer_spi: u64) -> Option<u64> {
        self.by_request.get(&(remote, peer_spi)).copied()
    }

    pub fn admit(&self, address: IpAddr, limits: &FloodLimits) -> Admission {
        let of_address = self.by_address.get(&source(address)).copied().unwrap_or(0);
        if self.len() >= limits.half_open {
            Admission::Full
        } else if of_address >= limits.half_open_per_address {
            Admission::AddressFull
        } else if let Some(difficulty) = limits.puzzle(self.len()) {
            Admission::WithPuzzle(difficulty)
        } else if self.len() >= limits.cookie_threshold || of_address >= limits.cookie_threshold_per_address {
            Admission::WithCookie
        } else {
            Admission::Free
        }
    }

    pub fn insert(&mut self, spi: u64, remote: SocketAddr, peer_spi: u64) {
        self.by_request.insert((remote, peer_spi), spi);
        self.by_spi.insert(spi, (remote, peer_spi));
        *self.by_address.entry(source(remote.ip())).or_default() += 1;
    }

    pub fn remove(&mut self, spi: u64) {
        let Some(request) = self.by_spi.remove(&spi) else { return };
        if self.by_request.get(&request) == Some(&spi) {
            self.by_request.remove(&request);
        }
        let address = source(request.0.ip());
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

/// What one host can send from.
fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_for_all_and_for_each_address() {
        let limits = FloodLimits {
            cookie_threshold: 4,
            cookie_threshold_per_address: 2,
            half_open: 6,
            half_open_per_address: 3,
            ..FloodLimits::default()
        };
        let peer = |host: u8| SocketAddr::from(([198, 51, 100, host], 500));
        let mut half_open = HalfOpen::default();
        let mut spi = 0;
        let mut open = |half_open: &mut HalfOpen, host| {
            let admission = half_open.admit(peer(host).ip(), &limits);
            spi += 1;
            if matches!(admission, Admission::Free | Admission::WithCookie) {
                half_open.insert(spi, peer(host), spi);
            }
            admission
        };
        let [free, cookie, full, address_full] =
            [Admission::Free, Admission::WithCookie, Admission::Full, Admission::AddressFull];
        assert_eq!([1, 1, 1, 1].map(|host| open(&mut half_open, host)), [free, free, cookie, address_full]);
        assert_eq!([2, 2, 2, 3].map(|host| open(&mut half_open, host)), [free, cookie, cookie, full]);
        assert_eq!(half_open.find(peer(1), 1), Some(1));
        (1..=7).for_each(|spi| half_open.remove(spi));
        assert_eq!((half_open.len(), half_open.by_address.len(), half_open.by_request.len()), (0, 0, 0));
    }

    #[test]
    fn puzzles_come_after_cookies_and_before_the_end() {
        let limits = FloodLimits {
            cookie_threshold: 1,
            puzzle_threshold: Some(2),
            half_open: 5,
            ..FloodLimits::default()
        };
        let peer = SocketAddr::from(([198, 51, 100, 1], 500));
        let mut half_open = HalfOpen::default();
        let admissions = [1, 2, 3, 4, 5, 6].map(|spi| {
            let admission = half_open.admit(peer.ip(), &limits);
            half_open.insert(spi, peer, spi);
            admission
        });
        use Admission::{Free, Full, WithCookie, WithPuzzle};
        assert_eq!(admissions, [Free, WithCookie, WithPuzzle(16), WithPuzzle(16), WithPuzzle(17), Full]);
    }

    #[test]
    fn an_ipv6_host_has_one_network_and_not_as_many_addresses() {
        let limits = FloodLimits { half_open_per_address: 2, ..FloodLimits::default() };
        let mut half_open = HalfOpen::default();
        let peer = |address: &str| SocketAddr::new(address.parse().unwrap(), 500);
        half_open.insert(1, peer("2001:db8:1::1"), 1);
        half_open.insert(2, peer("2001:db8:1::ffff:2"), 2);
        let admission = |half_open: &HalfOpen, address| half_open.admit(peer(address).ip(), &limits);
        assert_eq!(admission(&half_open, "2001:db8:1::3"), Admission::AddressFull);
        assert_eq!(admission(&half_open, "2001:db8:1:1::3"), Admission::Free);
        half_open.remove(1);
        assert_eq!(admission(&half_open, "2001:db8:1::3"), Admission::Free);
    }
}
