//! Half-open IKE SAs: how many there are, of whom, and which request made which.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::config::FloodLimits;

/// Our SPIs of half-open IKE SAs, by whom they are for.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    /// By the peer's address, port and SPI.
    by_request: HashMap<(SocketAddr, u64), u64>,
    by_spi: HashMap<u64, (SocketAddr, u64)>,
    by_address: HashMap<IpAddr, usize>,
}

/// What is to be done with a new request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Serve it.
    Free,
    /// Serve it when it brings a cookie.
    WithCookie,
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
        let of_address = self.by_address.get(&address).copied().unwrap_or(0);
        if self.len() >= limits.half_open {
            Admission::Full
        } else if of_address >= limits.half_open_per_address {
            Admission::AddressFull
        } else if self.len() >= limits.cookie_threshold || of_address >= limits.cookie_threshold_per_address {
            Admission::WithCookie
        } else {
            Admission::Free
        }
    }

    pub fn insert(&mut self, spi: u64, remote: SocketAddr, peer_spi: u64) {
        self.by_request.insert((remote, peer_spi), spi);
        self.by_spi.insert(spi, (remote, peer_spi));
        *self.by_address.entry(remote.ip()).or_default() += 1;
    }

    pub fn remove(&mut self, spi: u64) {
        let Some(request) = self.by_spi.remove(&spi) else { return };
        if self.by_request.get(&request) == Some(&spi) {
            self.by_request.remove(&request);
        }
        let address = request.0.ip();
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
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
}
