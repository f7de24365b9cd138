//! What host code must know of one of our Ethernet ports.

use std::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;
use ipnet::{IpNet, Ipv6Net};

use super::SECOND;
use crate::packet::ethernet::{self, MAX_TAGS, VlanTag};
use crate::packet::ipv6::solicited_node;
use crate::port::{Mac, PortId};

/// One of our Ethernet ports with its addresses.
#[derive(Clone, Debug)]
pub struct Interface {
    port: PortId,
    mac: Mac,
    tags: ArrayVec<VlanTag, MAX_TAGS>,
    addresses: Vec<IpNet>,
    /// When we last told the link that an address is ours.
    defended: Option<u64>,
}

/// At most one defence in this time (RFC 5227 s1.1, DEFEND_INTERVAL).
const DEFEND_INTERVAL: u64 = 10 * SECOND;

impl Interface {
    /// A port with its addresses, each with the prefix of its link. It gets a link-local IPv6 address made of its
    /// MAC (RFC 4291 s2.5.6, appendix A), unless `addresses` holds one. Frames leave with `tags`.
    pub fn new(port: PortId, mac: Mac, tags: &[VlanTag], addresses: &[IpNet]) -> Self {
        let mut addresses = addresses.to_vec();
        let is_link_local =
            |net: &IpNet| matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
        if !addresses.iter().any(is_link_local) {
            addresses.push(IpNet::V6(Ipv6Net::new_assert(link_local(mac), 64)));
        }
        Self { port, mac, tags: tags.iter().copied().take(MAX_TAGS).collect(), addresses, defended: None }
    }

    /// The port.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Its Ethernet address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Its addresses, link-local ones included.
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// Whether it has this address.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }

    /// Whether an address is on its link, by the prefixes of its own addresses.
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.contains(&address))
    }

    /// Which of its addresses to ask for `target` from: one of the same prefix, or else any of the family (the
    /// link-local one for IPv6).
    pub fn source_for(&self, target: IpAddr) -> Option<IpAddr> {
        let same_family = |net: &&IpNet| net.addr().is_ipv4() == target.is_ipv4();
        let fallback = match target {
            IpAddr::V4(_) => self.addresses.iter().find(same_family),
            IpAddr::V6(_) => self.addresses.iter().rev().find(same_family),
        };
        self.addresses.iter().find(|net| net.contains(&target)).or(fallback).map(IpNet::addr)
    }

    /// The header of a frame that leaves by it.
    pub fn header(&self, destination: Mac, ethertype: u16) -> ethernet::Header {
        ethernet::Header { destination, source: self.mac, tags: self.tags.clone(), ethertype }
    }

    /// Whether to defend an address now that another station claims it (RFC 5227 s2.4 (c)).
    pub(super) fn defend(&mut self, now: u64) -> bool {
        let due = self.defended.is_none_or(|last| now.saturating_sub(last) >= DEFEND_INTERVAL);
        if due {
            self.defended = Some(now);
        }
        due
    }

    /// Whether frames to this Ethernet address are for us: our own address, broadcast, and the groups that an IPv6
    /// router is in (RFC 4291 s2.8).
    pub fn accepts(&self, destination: Mac) -> bool {
        if !ethernet::is_multicast(destination) {
            return destination == self.mac;
        }
        const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        let group = |address| ethernet::ipv6_multicast(address) == destination;
        destination == ethernet::BROADCAST
            || group(ALL_NODES)
            || group(ALL_ROUTERS)
            || self
                .addresses
                .iter()
                .any(|net| matches!(net.addr(), IpAddr::V6(address) if group(solicited_node(address))))
    }
}

fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface() -> Interface {
        let addresses =
            ["198.51.100.1/24", "203.0.113.1/28", "2001:db8::1/64"].map(|net| net.parse().unwrap());
        Interface::new(3, [0x02, 0, 0x5e, 0, 0x53, 1], &[VlanTag::customer(7)], &addresses)
    }

    #[test]
    fn gets_a_link_local_address_unless_it_has_one() {
        let eui: IpAddr = "fe80::5eff:fe00:5301".parse().unwrap();
        assert!(interface().owns(eui));
        let own = Interface::new(0, [2; 6], &[], &["fe80::1/64".parse().unwrap()]);
        assert_eq!(own.addresses().len(), 1);
    }

    #[test]
    fn asks_from_the_address_on_the_same_prefix() {
        for (target, source) in [
            ("203.0.113.9", "203.0.113.1"),
            ("198.51.100.9", "198.51.100.1"),
            ("192.0.2.9", "198.51.100.1"),
            ("2001:db8::9", "2001:db8::1"),
            ("2001:db8:9::9", "fe80::5eff:fe00:5301"),
            ("fe80::9", "fe80::5eff:fe00:5301"),
        ] {
            let source: IpAddr = source.parse().unwrap();
            assert_eq!(interface().source_for(target.parse().unwrap()), Some(source), "for {target}");
        }
        let six = Interface::new(0, [2; 6], &[], &[]);
        assert_eq!(six.source_for("192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn knows_its_link_and_its_groups() {
        let interface = interface();
        assert!(interface.is_on_link("198.51.100.200".parse().unwrap()));
        assert!(!interface.is_on_link("203.0.113.16".parse().unwrap()));
        assert!(interface.is_on_link("fe80::77".parse().unwrap()));
        for (mac, accepted) in [
            ([0x02, 0, 0x5e, 0, 0x53, 1], true),
            ([0x02, 0, 0x5e, 0, 0x53, 2], false),
            ([0xff; 6], true),
            ([0x33, 0x33, 0, 0, 0, 1], true),
            ([0x33, 0x33, 0, 0, 0, 2], true),
            ([0x33, 0x33, 0xff, 0, 0, 1], true),
            ([0x33, 0x33, 0xff, 0, 0x53, 1], true),
            ([0x33, 0x33, 0xff, 0, 0, 9], false),
            ([0x01, 0, 0x5e, 0, 0, 1], false),
        ] {
            assert_eq!(interface.accepts(mac), accepted, "{mac:x?}");
        }
    }

    #[test]
    fn frames_carry_its_tags() {
        let header = interface().header([9; 6], 0x0806);
        assert_eq!((header.source, header.tags[0].id()), (interface().mac(), 7));
    }
}
