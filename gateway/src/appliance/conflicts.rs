//! Stations on our links that use addresses of ours: whoever set one of the two up made a mistake, or attacks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::message::Neighbour;
use dataplane::port::{Mac, PortId};

/// Between two messages in the log about one address.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Who was last seen with each of our addresses. There is one entry an address at most.
#[derive(Clone, Default)]
pub(super) struct Conflicts(HashMap<(PortId, IpAddr), Seen>);

#[derive(Clone, Copy)]
struct Seen {
    mac: Mac,
    at: Instant,
    said: Instant,
}

impl Conflicts {
    /// Takes in that a station was seen with an address of ours. Returns whether the log is to say so now.
    pub(super) fn add(&mut self, other: &Neighbour, now: Instant) -> bool {
        let before = self.0.get(&(other.port, other.address));
        let said = before.map(|seen| seen.said).filter(|&said| now.duration_since(said) < SAY_EVERY);
        let seen = Seen { mac: other.mac, at: now, said: said.unwrap_or(now) };
        self.0.insert((other.port, other.address), seen);
        said.is_none()
    }

    /// The addresses of a port that others were seen with: by whom, and when.
    pub(super) fn on(&self, port: PortId) -> impl Iterator<Item = (IpAddr, Mac, Instant)> {
        let of_port = self.0.iter().filter(move |((on, _), _)| *on == port);
        of_port.map(|((_, address), seen)| (*address, seen.mac, seen.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_station_is_kept_and_the_log_is_not_filled() {
        let mut conflicts = Conflicts::default();
        let start = Instant::now();
        let other = |mac: u8, address: &str| Neighbour {
            port: 3,
            address: address.parse().unwrap(),
            mac: [2, 0, 0, 0, 0, mac],
        };
        let mut say =
            |second, mac, address| conflicts.add(&other(mac, address), start + Duration::from_secs(second));
        assert!(say(0, 1, "198.51.100.1"));
        assert!(!say(1, 2, "198.51.100.1"), "another MAC is no reason");
        assert!(say(2, 1, "2001:db8::1"));
        assert!(!say(59, 2, "198.51.100.1"));
        assert!(say(60, 4, "198.51.100.1"));
        assert!(!say(61, 4, "198.51.100.1"));
        let address = "198.51.100.1".parse().unwrap();
        let last: Vec<_> = conflicts.on(3).filter(|(of, ..)| *of == address).collect();
        assert_eq!(last, [(address, [2, 0, 0, 0, 0, 4], start + Duration::from_secs(61))]);
        assert_eq!((conflicts.on(3).count(), conflicts.on(2).count()), (2, 0));
    }
}
