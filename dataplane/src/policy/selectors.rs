//! The selectors of an inbound SA, ready to be compared with packets.

use ipnet::IpNet;

use super::Selector;
use super::ports::{Ports, Range};
use crate::lpm;
use crate::lpm::tree::is_prefix;
use crate::packet::address::Address;
use crate::packet::ip::Version;

/// What may come out of an SA (RFC 4301 s5.2 step 4). A single selector, the usual case, lies in the SA itself: with many
/// SAs a pointer would cost a cache miss.
#[derive(Clone, Debug)]
pub enum Selectors {
    /// The only one.
    One(Admitted),
    /// None or several.
    Several(Box<[Admitted]>),
}

/// One [`Selector`], from the side of packets that come out of the SA.
#[derive(Clone, Debug)]
pub struct Admitted {
    local: Prefix,
    remote: Prefix,
    protocol: Option<u8>,
    local_ports: Range,
    remote_ports: Range,
    any_ports: bool,
}

#[derive(Clone, Copy, Debug)]
struct Prefix {
    /// The bits of an [`Address`].
    halves: [u64; 2],
    len: u8,
    version: Version,
}

/// A selector of IPv4 addresses and all ports, small enough to lie where a worker keeps the SA.
#[derive(Clone, Copy, Debug)]
pub struct OnlyV4 {
    local: PrefixV4,
    remote: PrefixV4,
    protocol: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
struct PrefixV4 {
    bits: u32,
    /// Ones where it does not look.
    mask: u32,
}

impl OnlyV4 {
    /// As [`Selectors::admit`].
    #[inline(always)]
    pub fn admits(&self, source: u32, destination: u32, protocol: u8) -> bool {
        self.local.holds(destination)
            && self.remote.holds(source)
            && self.protocol.is_none_or(|named| named == protocol)
    }
}

impl PrefixV4 {
    #[inline(always)]
    fn holds(self, address: u32) -> bool {
        (address ^ self.bits) & !self.mask == 0
    }
}

impl Selectors {
    /// Whether a packet that came out of the SA may go on. `ports` as for [`Spd::lookup`](super::spd::Spd::lookup).
    #[inline]
    pub fn admit(
        &self,
        source: impl Into<Address>,
        destination: impl Into<Address>,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> bool {
        let (source, destination) = (source.into(), destination.into());
        let ports = Ports::inbound(protocol, ports);
        match self {
            Self::One(only) => only.admits(source, destination, protocol, ports),
            Self::Several(all) => all.iter().any(|one| one.admits(source, destination, protocol, ports)),
        }
    }

    /// The only selector, if it is one of IPv4 that looks at no ports.
    pub fn only_v4(&self) -> Option<OnlyV4> {
        match self {
            Self::One(Admitted { local, remote, protocol, any_ports: true, .. }) => {
                Some(OnlyV4 { local: local.to_v4()?, remote: remote.to_v4()?, protocol: *protocol })
            }
            _ => None,
        }
    }

    /// Whether a packet must show its ports to match (RFC 4301 s7).
    #[inline]
    pub fn restrict_ports(&self) -> bool {
        let restricts = |one: &Admitted| !one.any_ports;
        match self {
            Self::One(only) => restricts(only),
            Self::Several(all) => all.iter().any(restricts),
        }
    }
}

impl From<&[Selector]> for Selectors {
    fn from(selectors: &[Selector]) -> Self {
        match selectors {
            [only] => Self::One(Admitted::new(only)),
            all => Self::Several(all.iter().map(Admitted::new).collect()),
        }
    }
}

impl Admitted {
    fn new(selector: &Selector) -> Self {
        Self {
            local: Prefix::new(selector.local),
            remote: Prefix::new(selector.remote),
            protocol: selector.protocol,
            local_ports: Range::new(&selector.local_ports),
            remote_ports: Range::new(&selector.remote_ports),
            any_ports: Range::new(&selector.local_ports).is_any()
                && Range::new(&selector.remote_ports).is_any(),
        }
    }

    #[inline]
    fn admits(&self, source: Address, destination: Address, protocol: u8, ports: Ports) -> bool {
        self.local.holds(destination)
            && self.remote.holds(source)
            && self.protocol.is_none_or(|named| named == protocol)
            && ports.local.is_in(self.local_ports)
            && ports.remote.is_in(self.remote_ports)
    }
}

impl Prefix {
    fn new(prefix: IpNet) -> Self {
        let (key, len) = lpm::key(prefix);
        let halves = [(key >> 64) as u64, key as u64];
        Self { halves, len, version: Address::from(prefix.addr()).version() }
    }

    #[inline]
    fn holds(self, address: Address) -> bool {
        let [high, low] = self.halves;
        let key = u128::from(high) << 64 | u128::from(low);
        self.version == address.version() && is_prefix(key, self.len, address.key())
    }

    fn to_v4(self) -> Option<PrefixV4> {
        let [high, _] = self.halves;
        let mask = u64::from(u32::MAX) >> self.len.min(32);
        (self.version == Version::V4).then_some(PrefixV4 { bits: (high >> 32) as u32, mask: mask as u32 })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

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
        let selectors = Selectors::from(&[selector("10.1.0.0/16", "10.2.0.0/16")][..]);
        assert!(selectors.admit(ip("10.2.0.1"), ip("10.1.0.1"), 6, Some((1, 2))));
        assert!(!selectors.admit(ip("10.1.0.1"), ip("10.2.0.1"), 6, Some((1, 2))));
        assert!(!selectors.admit(ip("10.2.0.1"), ip("10.3.0.1"), 6, Some((1, 2))));
        assert!(!selectors.admit(ip("::10.2.0.1"), ip("10.1.0.1"), 6, Some((1, 2))));
        assert!(!selectors.restrict_ports());
    }

    #[test]
    fn protocol_and_ports_restrict() {
        let web = Selector {
            protocol: Some(6),
            local_ports: 80..=80,
            remote_ports: 1024..=u16::MAX,
            ..selector("0.0.0.0/0", "0.0.0.0/0")
        };
        let web = Selectors::from(&[web][..]);
        let admits = |protocol, ports| web.admit(ip("10.2.0.1"), ip("10.1.0.1"), protocol, ports);
        assert!(admits(6, Some((1024, 80))));
        assert!(!admits(17, Some((1024, 80))));
        assert!(!admits(6, Some((1024, 81))));
        assert!(!admits(6, Some((1023, 80))));
        assert!(!admits(6, None), "a later fragment shows no ports");
        assert!(web.restrict_ports());
    }

    #[test]
    fn one_selector_of_ipv4_and_all_ports_is_short() {
        let (source, destination) = (0x0a02_0001, 0x0a01_0001);
        let short = |all: &[Selector]| Selectors::from(all).only_v4();
        let plain = selector("10.1.0.0/16", "10.2.0.0/16");
        let admits = |one| short(&[one]).unwrap().admits(source, destination, 17);
        assert!(admits(plain.clone()));
        assert!(admits(Selector { protocol: Some(17), ..plain.clone() }));
        assert!(!admits(Selector { protocol: Some(6), ..plain.clone() }));
        assert!(!admits(selector("10.2.0.0/16", "10.1.0.0/16")), "the other way round");
        assert!(short(&[Selector { local_ports: 0..=80, ..plain.clone() }]).is_none());
        assert!(short(&[Selector { remote_ports: 1..=u16::MAX, ..plain.clone() }]).is_none());
        assert!(short(&[selector("::/0", "::/0")]).is_none(), "another version");
        assert!(short(&[plain.clone(), plain]).is_none() && short(&[]).is_none(), "not one");
    }

    #[test]
    fn one_of_several_selectors_is_enough_and_none_is_not() {
        let (a, b) = (selector("10.1.0.0/16", "10.2.0.0/16"), selector("10.1.0.0/16", "10.3.0.0/16"));
        let admit =
            |all: &[Selector], source| Selectors::from(all).admit(ip(source), ip("10.1.0.1"), 17, None);
        assert!(admit(&[a.clone(), b.clone()], "10.3.0.1"));
        assert!(!admit(&[a.clone(), b.clone()], "10.4.0.1"));
        assert!(admit(std::slice::from_ref(&a), "10.2.0.1"));
        assert!(!admit(&[], "10.2.0.1"));
        let web = Selector { local_ports: 80..=80, ..b };
        assert!(Selectors::from(&[a, web][..]).restrict_ports());
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
            prop_assert_eq!(Prefix::new(prefix).holds(ip(other).into()), prefix.contains(&ip(other)));
            let short = Prefix::new(prefix).to_v4();
            prop_assert_eq!(short.is_some(), v4);
            if let (Some(short), IpAddr::V4(address)) = (short, ip(other)) {
                prop_assert_eq!(short.holds(address.to_bits()), prefix.contains(&ip(other)));
            }
        }
    }
}
