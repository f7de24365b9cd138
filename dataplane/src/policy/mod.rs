//! The Security Policy Database (RFC 4301 s4.4.1): which traffic is protected, bypassed or discarded.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::lpm::address_key;
use crate::lpm::tree::is_prefix;
use crate::sa::TunnelId;

mod ports;
mod rules;
pub mod spd;

use ports::{Ports, Range};

/// Traffic between two prefixes (RFC 4301 s4.4.1.1). `local` is our side: the source of outbound packets
/// and the destination of inbound ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Addresses on our side.
    pub local: IpNet,
    /// Addresses on the peer's side, of the same family.
    pub remote: IpNet,
    /// IP protocol number, `None` for any.
    pub protocol: Option<u8>,
    /// Ports on our side. A restriction matches only packets that show their ports: no later fragments. For
    /// ICMP and the Mobility Header it restricts the type and code of packets that we send, and
    /// `remote_ports` of those that we receive (RFC 4301 s4.4.1.3).
    pub local_ports: RangeInclusive<u16>,
    /// Ports on the peer's side.
    pub remote_ports: RangeInclusive<u16>,
}

impl Selector {
    /// All protocols and ports between two prefixes.
    pub fn between(local: IpNet, remote: IpNet) -> Self {
        Self { local, remote, protocol: None, local_ports: 0..=u16::MAX, remote_ports: 0..=u16::MAX }
    }

    /// Whether a packet that came out of an SA with this selector may go on (RFC 4301 s5.2 step 4). `ports`
    /// as for [`spd::Spd::lookup`].
    #[inline]
    pub fn matches_inbound(
        &self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> bool {
        let ports = Ports::inbound(protocol, ports);
        holds(self.local, destination)
            && holds(self.remote, source)
            && self.protocol.is_none_or(|named| named == protocol)
            && ports.local.is_in(Range::new(&self.local_ports))
            && ports.remote.is_in(Range::new(&self.remote_ports))
    }
}

/// Whether a packet that came out of an SA matches one of its selectors (RFC 4301 s5.2 step 4). `ports` as
/// for [`spd::Spd::lookup`].
#[inline]
pub fn any_matches_inbound(
    selectors: &[Selector],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: Option<(u16, u16)>,
) -> bool {
    match selectors {
        // Most SAs: no loop.
        [selector] => selector.matches_inbound(source, destination, protocol, ports),
        _ => selectors.iter().any(|selector| selector.matches_inbound(source, destination, protocol, ports)),
    }
}

#[inline]
fn holds(prefix: IpNet, address: IpAddr) -> bool {
    prefix.addr().is_ipv4() == address.is_ipv4()
        && is_prefix(address_key(prefix.addr()), prefix.prefix_len(), address_key(address))
}

/// Names a policy for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u32);

/// What happens to packets that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// They go through this tunnel, or are dropped when it has no SA.
    Protect(TunnelId),
    /// They are forwarded in the clear.
    Bypass,
    /// They are dropped.
    Discard,
}

/// One entry of the SPD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// What it matches. Of several matches the longest remote prefix wins, then the longest local prefix,
    /// then a named protocol, then the narrower ports, then the lower id.
    pub selector: Selector,
    /// What happens then.
    pub action: Action,
}

impl Policy {
    /// Sorts policies in the order in which they are tried.
    pub fn order(&self) -> impl Ord + use<> {
        let Selector { local, remote, protocol, local_ports, remote_ports } = &self.selector;
        let lengths = (remote.prefix_len(), local.prefix_len(), protocol.is_some());
        (std::cmp::Reverse(lengths), local_ports.len() + remote_ports.len(), self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lpm::tree::mask;

    fn selector(local: &str, remote: &str) -> Selector {
        Selector::between(local.parse().unwrap(), remote.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn local_is_the_destination_of_a_packet_from_an_sa() {
        let selector = selector("10.1.0.0/16", "10.2.0.0/16");
        assert!(selector.matches_inbound(ip("10.2.0.1"), ip("10.1.0.1"), 6, Some((1, 2))));
        assert!(!selector.matches_inbound(ip("10.1.0.1"), ip("10.2.0.1"), 6, Some((1, 2))));
        assert!(!selector.matches_inbound(ip("10.2.0.1"), ip("10.3.0.1"), 6, Some((1, 2))));
        assert!(!selector.matches_inbound(ip("::10.2.0.1"), ip("10.1.0.1"), 6, Some((1, 2))));
    }

    #[test]
    fn protocol_and_ports_restrict() {
        let web = Selector {
            protocol: Some(6),
            local_ports: 80..=80,
            remote_ports: 1024..=u16::MAX,
            ..selector("0.0.0.0/0", "0.0.0.0/0")
        };
        let matches = |protocol, ports| web.matches_inbound(ip("10.2.0.1"), ip("10.1.0.1"), protocol, ports);
        assert!(matches(6, Some((1024, 80))));
        assert!(!matches(17, Some((1024, 80))));
        assert!(!matches(6, Some((1024, 81))));
        assert!(!matches(6, Some((1023, 80))));
        assert!(!matches(6, None), "a later fragment shows no ports");
    }

    #[test]
    fn one_of_several_selectors_is_enough_and_none_is_not() {
        let (a, b) = (selector("10.1.0.0/16", "10.2.0.0/16"), selector("10.1.0.0/16", "10.3.0.0/16"));
        let matches = |selectors: &[Selector], source| {
            any_matches_inbound(selectors, ip(source), ip("10.1.0.1"), 17, None)
        };
        assert!(matches(&[a.clone(), b.clone()], "10.3.0.1"));
        assert!(!matches(&[a.clone(), b], "10.4.0.1"));
        assert!(matches(&[a], "10.2.0.1"));
        assert!(!matches(&[], "10.2.0.1"));
    }

    proptest! {
        #[test]
        fn a_prefix_holds_what_ipnet_says(bits: u128, other: u128, len in 0..=128u8, shared in 0..=128u8, v4: bool) {
            let other = bits & mask(shared) | other & !mask(shared);
            let ip = |bits: u128| -> IpAddr {
                if v4 { std::net::Ipv4Addr::from_bits((bits >> 96) as u32).into() }
                else { std::net::Ipv6Addr::from_bits(bits).into() }
            };
            let prefix = IpNet::new(ip(bits), if v4 { len % 33 } else { len }).unwrap();
            prop_assert_eq!(holds(prefix, ip(other)), prefix.contains(&ip(other)));
        }
    }
}
