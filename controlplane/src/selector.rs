//! Traffic selectors: narrowing, and the way between address ranges and prefixes (RFC 7296 s2.9, RFC 4301).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use dataplane::policy::Selector;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::wire::TrafficSelector;

/// No side has more traffic selectors: their number is one octet (RFC 7296 s3.13).
pub const MAX_SELECTORS: usize = 255;

/// What a connection protects on one side, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorSpec {
    /// A fixed range.
    Fixed(TrafficSelector),
    /// The host itself: its outer address, or the address that it was given by a configuration payload.
    Dynamic {
        /// IP protocol, 0 for any.
        protocol: u8,
        /// Ports, as in [`TrafficSelector`].
        ports: (u16, u16),
    },
}

impl SelectorSpec {
    /// The host itself with every protocol and port.
    pub const DYNAMIC: Self = Self::Dynamic { protocol: 0, ports: (0, u16::MAX) };

    /// The selectors that this stands for when the host has these addresses.
    fn resolve(&self, hosts: &[(IpAddr, IpAddr)]) -> Vec<TrafficSelector> {
        match *self {
            Self::Fixed(selector) => vec![selector],
            Self::Dynamic { protocol, ports: (start_port, end_port) } => hosts
                .iter()
                .map(|&(start, end)| TrafficSelector { protocol, start_port, end_port, start, end })
                .collect(),
        }
    }
}

impl From<IpNet> for SelectorSpec {
    fn from(prefix: IpNet) -> Self {
        Self::Fixed(prefix.into())
    }
}

impl From<IpNet> for TrafficSelector {
    fn from(prefix: IpNet) -> Self {
        Self {
            protocol: 0,
            start_port: 0,
            end_port: u16::MAX,
            start: prefix.network(),
            end: prefix.broadcast(),
        }
    }
}

/// The selectors of one side when the host has these addresses, each a range of its own (a single address, or all
/// while the address is not known yet).
pub fn resolve(specs: &[SelectorSpec], hosts: &[(IpAddr, IpAddr)]) -> Vec<TrafficSelector> {
    let mut selectors: Vec<_> = specs.iter().flat_map(|spec| spec.resolve(hosts)).collect();
    selectors.truncate(MAX_SELECTORS);
    selectors
}

/// A packet of ours that needs a Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its IP protocol.
    pub protocol: u8,
    /// Its ports, or what counts as such, where it shows them.
    pub ports: Option<(u16, u16)>,
}

/// Protocols whose "ports" are types of messages (RFC 4301 s4.4.1.1), which an answer does not share: ICMP, ICMPv6 and
/// the mobility header.
const TYPED: [u8; 3] = [1, 58, 135];

impl Packet {
    /// The selectors of the packet alone, local and remote, when both sides' selectors match it (RFC 7296 s2.9).
    pub fn within(
        &self,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
    ) -> Option<(TrafficSelector, TrafficSelector)> {
        let (source, destination) = self.selectors();
        let one = |packet, side: &[TrafficSelector]| side.iter().find_map(|one| intersect(one, packet));
        one(&source, local).zip(one(&destination, remote))
    }

    /// The selectors that match the packet, for its two hosts alone (RFC 7296 s2.9, SINGLE_PAIR_REQUIRED).
    pub fn hosts(
        &self,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
    ) -> Option<(TrafficSelector, TrafficSelector)> {
        let (source, destination) = self.selectors();
        let one = |packet: &TrafficSelector, side: &[TrafficSelector]| {
            let fits = side.iter().find(|one| intersect(one, packet).is_some())?;
            Some(TrafficSelector { start: packet.start, end: packet.end, ..*fits })
        };
        one(&source, local).zip(one(&destination, remote))
    }

    /// It alone, at its source and at its destination.
    fn selectors(&self) -> (TrafficSelector, TrafficSelector) {
        let Self { source, destination, protocol, ports } = *self;
        let (ours, theirs) = ports.filter(|_| !TYPED.contains(&protocol)).unzip();
        let one = |address: IpAddr, port: Option<u16>| {
            let (start_port, end_port) = port.map_or((0, u16::MAX), |port| (port, port));
            TrafficSelector { protocol, start_port, end_port, start: address, end: address }
        };
        (one(source, ours), one(destination, theirs))
    }
}

/// Some of it follows from the address of the host.
pub fn is_dynamic(specs: &[SelectorSpec]) -> bool {
    specs.iter().any(|spec| matches!(spec, SelectorSpec::Dynamic { .. }))
}

/// The same traffic without selectors that others contain.
pub fn minimal(selectors: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut minimal: Vec<TrafficSelector> = Vec::new();
    for one in selectors {
        if !minimal.iter().any(|kept| contains(kept, one)) {
            minimal.retain(|kept| !contains(one, kept));
            minimal.push(*one);
        }
    }
    minimal
}

/// One of these matches all that the given one does.
pub fn covers(selectors: &[TrafficSelector], inner: &TrafficSelector) -> bool {
    selectors.iter().any(|outer| contains(outer, inner))
}

/// What both selectors match; `None` when there is no such packet.
pub fn intersect(a: &TrafficSelector, b: &TrafficSelector) -> Option<TrafficSelector> {
    let protocol = match (a.protocol, b.protocol) {
        (0, other) | (other, 0) => other,
        (one, other) if one == other => one,
        _ => return None,
    };
    if a.start.is_ipv4() != b.start.is_ipv4() {
        return None;
    }
    let (start, end) = (a.start.max(b.start), a.end.min(b.end));
    if start > end {
        return None;
    }
    let (start_port, end_port) = intersect_ports((a.start_port, a.end_port), (b.start_port, b.end_port))?;
    Some(TrafficSelector { protocol, start_port, end_port, start, end })
}

/// `inner` matches nothing that `outer` does not match.
pub fn contains(outer: &TrafficSelector, inner: &TrafficSelector) -> bool {
    intersect(outer, inner) == Some(*inner)
}

/// Narrows what the peer proposes to what we allow: all of the intersections, in the order of the peer's
/// selectors, without those that another one contains. Empty when nothing is left (TS_UNACCEPTABLE).
///
/// The initiator puts the packet that triggered the request first (RFC 7296 s2.9). It is contained in the result
/// whenever our policy allows it, since every intersection is.
pub fn narrow(proposed: &[TrafficSelector], allowed: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let both = proposed.iter().flat_map(|theirs| allowed.iter().filter_map(|ours| intersect(theirs, ours)));
    let mut narrowed = minimal(&both.collect::<Vec<_>>());
    // What contains the first choice is not among those that are cut off.
    if let Some(first) = proposed.first()
        && let Some(at) = narrowed.iter().position(|one| contains(one, first))
        && at >= MAX_SELECTORS
    {
        narrowed.swap(0, at);
    }
    narrowed.truncate(MAX_SELECTORS);
    narrowed
}

/// Every selector of `narrowed` lies within one of `proposed`: what an initiator checks in a response
/// (RFC 7296 s2.9, the responder may only narrow).
pub fn is_subset(narrowed: &[TrafficSelector], proposed: &[TrafficSelector]) -> bool {
    narrowed.iter().all(|inner| covers(proposed, inner))
}

/// The selectors that have nothing in common with the other side's family, for a log line.
pub fn display(selectors: &[TrafficSelector]) -> String {
    selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// The SPD entries of a Child SA (RFC 4301 s4.4.1.2): each local with each remote prefix of the same family
/// and a compatible protocol. A range becomes the fewest prefixes that cover it exactly. `None` when there
/// would be more than `most`.
pub fn policies(local: &[TrafficSelector], remote: &[TrafficSelector], most: usize) -> Option<Vec<Selector>> {
    let mut policies = Vec::new();
    for ours in local {
        for theirs in remote {
            let protocol = match (ours.protocol, theirs.protocol) {
                (0, other) | (other, 0) => other,
                (one, other) if one == other => one,
                _ => continue,
            };
            let remote_prefixes = range_to_prefixes(theirs.start, theirs.end);
            for local_prefix in range_to_prefixes(ours.start, ours.end) {
                for &remote_prefix in &remote_prefixes {
                    if local_prefix.addr().is_ipv4() != remote_prefix.addr().is_ipv4() {
                        continue;
                    }
                    if policies.len() >= most {
                        return None;
                    }
                    policies.push(Selector {
                        local: local_prefix,
                        remote: remote_prefix,
                        protocol: (protocol != 0).then_some(protocol),
                        local_ports: ports(ours),
                        remote_ports: ports(theirs),
                    });
                }
            }
        }
    }
    Some(policies)
}

/// The fewest prefixes that cover a range exactly; empty when the ends are of different families.
pub fn range_to_prefixes(start: IpAddr, end: IpAddr) -> Vec<IpNet> {
    match (start, end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect(),
        (IpAddr::V6(start), IpAddr::V6(end)) => Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect(),
        _ => Vec::new(),
    }
}

/// The prefix that a range is, if it is one.
pub fn range_to_prefix(start: IpAddr, end: IpAddr) -> Option<IpNet> {
    let host_bits = match (start, end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => {
            let differing = start.to_bits() ^ end.to_bits();
            (32, (32 - differing.leading_zeros()) as u8)
        }
        (IpAddr::V6(start), IpAddr::V6(end)) => {
            let differing = start.to_bits() ^ end.to_bits();
            (128, (128 - differing.leading_zeros()) as u8)
        }
        _ => return None,
    };
    let prefix = IpNet::new(start, host_bits.0 - host_bits.1).ok()?;
    (prefix.network() == start && prefix.broadcast() == end).then_some(prefix)
}

/// OPAQUE (65535 to 0) matches only itself and "any" (RFC 4301 s4.4.1.1).
fn intersect_ports(a: (u16, u16), b: (u16, u16)) -> Option<(u16, u16)> {
    const ANY: (u16, u16) = (0, u16::MAX);
    if a == b || b == ANY {
        return Some(a);
    }
    if a == ANY {
        return Some(b);
    }
    let both = (a.0.max(b.0), a.1.min(b.1));
    (a.0 <= a.1 && b.0 <= b.1 && both.0 <= both.1).then_some(both)
}

fn ports(selector: &TrafficSelector) -> RangeInclusive<u16> {
    selector.start_port..=selector.end_port
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(prefix: &str) -> TrafficSelector {
        prefix.parse::<IpNet>().unwrap().into()
    }

    fn with(prefix: &str, protocol: u8, start_port: u16, end_port: u16) -> TrafficSelector {
        TrafficSelector { protocol, start_port, end_port, ..net(prefix) }
    }

    #[test]
    fn narrowing_keeps_every_intersection_in_the_peers_order() {
        let proposed = [net("10.2.0.0/16"), net("10.0.0.0/8"), net("2001:db8::/32")];
        let allowed = [net("10.1.0.0/16"), net("10.2.3.0/24"), net("2001:db8:1::/48")];
        let narrowed = narrow(&proposed, &allowed);
        assert_eq!(narrowed, [net("10.2.3.0/24"), net("10.1.0.0/16"), net("2001:db8:1::/48")]);
        assert!(is_subset(&narrowed, &proposed));
        assert!(!is_subset(&proposed, &narrowed));
    }

    #[test]
    fn nothing_in_common_is_empty() {
        assert!(narrow(&[net("10.2.0.0/16")], &[net("10.1.0.0/16")]).is_empty());
        assert!(narrow(&[net("10.2.0.0/16")], &[net("2001:db8::/32")]).is_empty());
        assert!(narrow(&[with("10.1.0.0/16", 6, 0, 65535)], &[with("10.1.0.0/16", 17, 0, 65535)]).is_empty());
        assert!(narrow(&[with("10.1.0.0/16", 6, 1, 79)], &[with("10.1.0.0/16", 6, 80, 80)]).is_empty());
    }

    #[test]
    fn the_triggering_packet_stays_within() {
        let packet = with("10.1.0.5/32", 6, 40000, 40000);
        let narrowed = narrow(&[packet, net("10.0.0.0/8")], &[net("10.1.0.0/16")]);
        assert_eq!(narrowed, [net("10.1.0.0/16")]);
        assert!(narrowed.iter().any(|selector| contains(selector, &packet)));
    }

    #[test]
    fn protocols_and_ports_narrow() {
        let narrowed = narrow(&[with("10.0.0.0/8", 0, 0, 65535)], &[with("10.1.0.0/16", 6, 80, 443)]);
        assert_eq!(narrowed, [with("10.1.0.0/16", 6, 80, 443)]);
        let echo = 8 << 8;
        let icmp = with("10.1.0.0/16", 1, echo, echo);
        assert_eq!(narrow(&[icmp], &[with("10.0.0.0/8", 1, 0, 65535)]), [icmp]);
    }

    #[test]
    fn opaque_ports_match_any_and_themselves_only() {
        let opaque = with("10.1.0.0/16", 17, 65535, 0);
        assert_eq!(intersect(&opaque, &net("10.0.0.0/8")), Some(opaque));
        assert_eq!(intersect(&opaque, &opaque), Some(opaque));
        assert_eq!(intersect(&opaque, &with("10.0.0.0/8", 17, 1, 100)), None);
    }

    #[test]
    fn dynamic_selectors_are_the_host() {
        let host: IpAddr = "10.9.0.1".parse().unwrap();
        assert_eq!(resolve(&[SelectorSpec::DYNAMIC], &[(host, host)]), [net("10.9.0.1/32")]);
        assert!(resolve(&[SelectorSpec::DYNAMIC], &[]).is_empty());
    }

    #[test]
    fn policies_pair_prefixes_of_one_family() {
        let pairs = policies(
            &[net("10.1.0.0/16"), net("2001:db8:1::/48")],
            &[TrafficSelector {
                start: "10.2.0.0".parse().unwrap(),
                end: "10.2.2.255".parse().unwrap(),
                ..net("10.2.0.0/16")
            }],
            4,
        )
        .unwrap();
        let shown: Vec<_> = pairs.iter().map(|pair| format!("{} {}", pair.local, pair.remote)).collect();
        assert_eq!(shown, ["10.1.0.0/16 10.2.0.0/23", "10.1.0.0/16 10.2.2.0/24"]);
    }

    #[test]
    fn too_many_policies_are_refused() {
        let odd = TrafficSelector {
            start: "::1".parse().unwrap(),
            end: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe".parse().unwrap(),
            ..net("::/0")
        };
        assert_eq!(range_to_prefixes(odd.start, odd.end).len(), 254);
        assert!(policies(&[odd], &[odd], 254 * 254 - 1).is_none());
    }

    #[test]
    fn ranges_that_are_prefixes_are_shown_as_such() {
        let prefix = |a: &str, b: &str| range_to_prefix(a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(prefix("10.0.0.0", "10.255.255.255"), Some("10.0.0.0/8".parse().unwrap()));
        assert_eq!(prefix("0.0.0.0", "255.255.255.255"), Some("0.0.0.0/0".parse().unwrap()));
        assert_eq!(prefix("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some("::/0".parse().unwrap()));
        assert_eq!(prefix("10.0.0.1", "10.0.0.1"), Some("10.0.0.1/32".parse().unwrap()));
        assert_eq!(prefix("10.0.0.1", "10.0.0.2"), None);
        assert_eq!(with("10.0.0.0/8", 17, 65535, 0).to_string(), "10.0.0.0/8[17/opaque]");
    }

    fn selector() -> impl Strategy<Value = TrafficSelector> {
        (any::<[u8; 2]>(), 0u8..3, any::<[u16; 2]>()).prop_map(|([a, b], protocol, [p, q])| TrafficSelector {
            protocol,
            start_port: p.min(q),
            end_port: p.max(q),
            start: IpAddr::from([10, 0, 0, a.min(b)]),
            end: IpAddr::from([10, 0, 0, a.max(b)]),
        })
    }

    /// A packet on one side.
    fn matches(selector: &TrafficSelector, host: u8, protocol: u8, port: u16) -> bool {
        (selector.start..=selector.end).contains(&IpAddr::from([10, 0, 0, host]))
            && (selector.protocol == 0 || selector.protocol == protocol)
            && (selector.start_port..=selector.end_port).contains(&port)
    }

    proptest! {
        #[test]
        fn narrowed_matches_what_both_match(
            a in prop::collection::vec(selector(), 1..4), b in prop::collection::vec(selector(), 1..4),
            host: u8, protocol in 1u8..3, port: u16,
        ) {
            let any = |side: &[TrafficSelector]| side.iter().any(|one| matches(one, host, protocol, port));
            prop_assert_eq!(any(&narrow(&a, &b)), any(&a) && any(&b));
            prop_assert!(is_subset(&narrow(&a, &b), &a));
        }

        #[test]
        fn prefixes_cover_a_range_exactly(a: u32, b: u32, probe: u32) {
            let [start, end, probe] = [a.min(b), a.max(b), probe].map(|bits| IpAddr::from(std::net::Ipv4Addr::from_bits(bits)));
            let covered = range_to_prefixes(start, end).iter().any(|prefix| prefix.contains(&probe));
            prop_assert_eq!(covered, (start..=end).contains(&probe));
        }
    }
}
