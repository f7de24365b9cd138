//! The SPD of one worker: finds the policy of a packet (RFC 4301 s4.4.1, s5.1, s5.2).
//!
//! RFC 4301 asks for an ordered list. Here the order follows from the entries themselves: of those that match
//! a packet the one with the longest remote prefix wins, then the longest local prefix, a named protocol,
//! fewer pairs of ports, the lower id. So entries can come and go in any order, as Child SAs do, and the
//! search need not be linear.
//!
//! # Cost
//!
//! A look-up visits the remote prefixes that hold the packet's remote address, longest first, until a policy
//! of one matches. Up to eight policies of a remote prefix are compared one by one; more are looked up by
//! local prefix. Only policies that have both prefixes in common are always compared one by one: those that
//! differ in protocol and ports alone. With r and l nested prefixes around the packet's addresses (33 each at
//! most for IPv4, 129 for IPv6, seldom more than two) and p policies of one pair, a look-up costs at most
//! `r * max(8, l * p)` comparisons, however many policies there are.
//!
//! # Fragments
//!
//! Later fragments of a packet show no ports (RFC 4301 s7). They match only policies that accept all ports, as
//! the RFC asks of a value that is OPAQUE. What follows:
//! - Without policies that restrict ports nothing is special about fragments.
//! - With a protect policy for some ports, later fragments fall through to the next policy that accepts all
//!   ports. That may be another SA, with which the peer must expect them (s7.2), or a bypass, which would show
//!   them in the clear; or there is none, and they are discarded.
//! - With a bypass policy for some ports they are never bypassed on the word of their addresses alone. RFC 4301
//!   s7.4 and D.4 then demand that their first fragment decides.
//!
//! So whoever calls [`Spd::lookup`] puts fragments together first whenever [`Spd::restricts_ports`].

use std::collections::HashMap;

use super::ports::Ports;
use super::rules::{Packet, Rule, Rules};
use super::{Action, Policy, PolicyId};
use crate::buffer::prefetch;
use crate::lpm::Lpm;
use crate::packet::address::Address;

/// Policies, found by packet.
#[derive(Debug)]
pub struct Spd {
    remotes: Lpm<Rules>,
    policies: HashMap<PolicyId, Policy>,
    /// How many restrict ports.
    port_policies: usize,
    generation: u64,
}

/// For which packets to the same IPv4 address a verdict of [`Spd::lookup_wide`] also holds, while [`Spd::generation`] is
/// what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It says nothing about others.
    Narrow,
    /// For all whose source is `local` where `mask` has ones.
    Sources {
        /// The policy's local prefix.
        local: u32,
        /// As many ones as it is long.
        mask: u32,
    },
    /// For all: no policy has the address on its remote side.
    Everything,
}

/// Why a policy was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdError {
    /// One prefix is IPv4, the other IPv6.
    #[error("policy {0:?} has a local and a remote prefix of different families")]
    MixedFamilies(PolicyId),
    /// A range of ports ends before it starts, so that the policy could never match.
    #[error("policy {0:?} has an empty range of ports")]
    NoPorts(PolicyId),
}

impl Spd {
    /// An empty SPD. Up to `capacity` policies are added without moving those that are there.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            remotes: Lpm::new(),
            policies: HashMap::with_capacity(capacity),
            port_policies: 0,
            generation: 1,
        }
    }

    /// Adds a policy, or replaces the one with its id.
    ///
    /// # Errors
    /// [`SpdError`]; then nothing changed.
    pub fn insert(&mut self, policy: Policy) -> Result<(), SpdError> {
        let selector = &policy.selector;
        if selector.local.addr().is_ipv4() != selector.remote.addr().is_ipv4() {
            return Err(SpdError::MixedFamilies(policy.id));
        }
        if selector.local_ports.is_empty() || selector.remote_ports.is_empty() {
            return Err(SpdError::NoPorts(policy.id));
        }
        self.remove(policy.id);
        self.generation += 1;
        let rule = Rule::new(&policy);
        self.port_policies += usize::from(rule.restricts_ports());
        match self.remotes.get_mut(selector.remote) {
            Some(rules) => rules.insert(rule),
            None => _ = self.remotes.insert(selector.remote, Rules::new(rule)),
        }
        self.policies.insert(policy.id, policy);
        Ok(())
    }

    /// Removes a policy and returns it.
    pub fn remove(&mut self, id: PolicyId) -> Option<Policy> {
        let policy = self.policies.remove(&id)?;
        self.generation += 1;
        let rule = Rule::new(&policy);
        self.port_policies -= usize::from(rule.restricts_ports());
        if self.remotes.get_mut(policy.selector.remote).is_some_and(|rules| rules.remove(&rule)) {
            self.remotes.remove(policy.selector.remote);
        }
        Some(policy)
    }

    /// The policy of a packet to be sent: our side is its source. `None` when no policy matches, which is a
    /// discard (RFC 4301 s5.1).
    ///
    /// `ports` are source and destination port; for ICMP and ICMPv6 the first is type and code, for the
    /// Mobility Header its type, in the upper and lower byte (RFC 4301 s4.4.1.1). `None` when the packet
    /// shows none: a later fragment, or a protocol without ports.
    #[inline]
    pub fn lookup(
        &self,
        source: impl Into<Address>,
        destination: impl Into<Address>,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> Option<(PolicyId, Action)> {
        self.find(source.into(), destination.into(), protocol, Ports::outbound(protocol, ports))
    }

    /// As [`Self::lookup`], and for which other packets to the same address the verdict holds.
    #[inline]
    pub fn lookup_wide(
        &self,
        source: Address,
        destination: Address,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> (Option<(PolicyId, Action)>, Scope) {
        match self.remotes.lookup(destination).map(Rules::only) {
            None => (None, Scope::Everything),
            Some(Some(rule)) if rule.is_v4_wide() && rule.covers(source) => {
                let (local, mask) = rule.local_v4();
                (Some((rule.id, rule.action)), Scope::Sources { local, mask })
            }
            Some(_) => (self.lookup(source, destination, protocol, ports), Scope::Narrow),
        }
    }

    /// The policy of a packet that was received in the clear: our side is its destination. One that says
    /// protect forbids it (RFC 4301 s5.2 step 3). `ports` as for [`Self::lookup`].
    #[inline]
    pub fn lookup_inbound(
        &self,
        source: impl Into<Address>,
        destination: impl Into<Address>,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> Option<(PolicyId, Action)> {
        self.find(destination.into(), source.into(), protocol, Ports::inbound(protocol, ports))
    }

    /// Whether a policy has an address on its remote side. While none has, [`Self::lookup_inbound`] finds nothing for a
    /// packet from there.
    #[inline]
    pub fn has_remote(&self, address: Address) -> bool {
        self.remotes.lookup(address).is_some()
    }

    /// Changes whenever a policy does, and is never 0. What was found is good while this number is what it was.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Asks for the policies of the remote side that an address is on.
    #[inline]
    pub fn prefetch(&self, remote: Address) {
        if let Some(rules) = self.remotes.lookup(remote) {
            prefetch(rules, size_of::<Rules>());
        }
    }

    /// The policy with this id.
    pub fn get(&self, id: PolicyId) -> Option<&Policy> {
        self.policies.get(&id)
    }

    /// Whether a policy restricts ports, so that fragments must be put together before the look-up.
    #[inline]
    pub fn restricts_ports(&self) -> bool {
        self.port_policies > 0
    }

    /// Policies in the SPD.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there is no policy, so that everything is discarded.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    #[inline]
    fn find(
        &self,
        local: Address,
        remote: Address,
        protocol: u8,
        ports: Ports,
    ) -> Option<(PolicyId, Action)> {
        if local.version() != remote.version() {
            return None;
        }
        let packet = Packet { local: local.key(), protocol, ports };
        let rule = match self.remotes.lookup(remote)?.find(&packet) {
            Some(rule) => rule,
            None => self.find_shorter(remote, &packet)?,
        };
        Some((rule.id, rule.action))
    }

    /// Goes on when no policy of the longest remote prefix matches.
    #[cold]
    fn find_shorter(&self, remote: Address, packet: &Packet) -> Option<&Rule> {
        self.remotes.matches(remote).skip(1).find_map(|rules| rules.find(packet))
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Selector;
    use crate::sa::TunnelId;

    const ANY: &str = "0.0.0.0/0";

    fn policy(id: u32, local: &str, remote: &str) -> Policy {
        let selector = Selector::between(local.parse().unwrap(), remote.parse().unwrap());
        Policy { id: PolicyId(id), selector, action: Action::Protect(TunnelId(id)) }
    }

    fn spd(policies: impl IntoIterator<Item = Policy>) -> Spd {
        let mut spd = Spd::with_capacity(16);
        policies.into_iter().for_each(|policy| spd.insert(policy).unwrap());
        spd
    }

    fn outbound(spd: &Spd, source: &str, destination: &str, ports: Option<(u16, u16)>) -> Option<u32> {
        let (source, destination) =
            (source.parse::<Address>().unwrap(), destination.parse::<Address>().unwrap());
        spd.lookup(source, destination, 6, ports).map(|(id, _)| id.0)
    }

    #[test]
    fn longest_remote_then_longest_local_then_protocol_then_ports_then_id() {
        let tcp = |mut policy: Policy| {
            policy.selector.protocol = Some(6);
            policy
        };
        let web = |mut policy: Policy| {
            policy.selector.remote_ports = 80..=443;
            policy
        };
        let (source, destination, ports) = ("10.1.1.1", "10.2.1.1", Some((1000, 80)));
        // Each is preferred to those before it.
        let ranked = [
            policy(9, ANY, ANY),
            policy(8, ANY, ANY),
            web(policy(17, ANY, ANY)),
            tcp(policy(19, ANY, ANY)),
            policy(29, "10.1.0.0/16", ANY),
            policy(39, ANY, "10.0.0.0/8"),
            policy(49, ANY, "10.2.0.0/16"),
            policy(59, "10.1.0.0/16", "10.2.0.0/16"),
            tcp(policy(69, "10.1.1.0/24", "10.2.0.0/16")),
            web(tcp(policy(79, "10.1.1.0/24", "10.2.0.0/16"))),
        ];
        let mut spd = Spd::with_capacity(16);
        for policy in ranked.clone() {
            let id = policy.id;
            spd.insert(policy).unwrap();
            assert_eq!(outbound(&spd, source, destination, ports), Some(id.0));
        }
        for pair in ranked.windows(2).rev() {
            assert_eq!(spd.remove(pair[1].id).as_ref(), Some(&pair[1]));
            assert_eq!(outbound(&spd, source, destination, ports), Some(pair[0].id.0));
        }
    }

    #[test]
    fn backtracks_to_a_shorter_remote_prefix_when_nothing_else_fits() {
        let spd = spd([policy(1, "10.9.0.0/16", "10.2.3.0/24"), policy(2, "10.1.0.0/16", "10.2.0.0/16")]);
        assert_eq!(outbound(&spd, "10.1.0.1", "10.2.3.4", None), Some(2));
        assert_eq!(outbound(&spd, "10.9.0.1", "10.2.3.4", None), Some(1));
        assert_eq!(outbound(&spd, "10.9.0.1", "10.2.4.4", None), None);
    }

    #[test]
    fn inbound_swaps_the_sides() {
        let mut web = policy(1, "10.1.0.0/16", "10.2.0.0/16");
        web.selector.local_ports = 80..=80;
        let spd = spd([web]);
        let [ours, peers]: [Address; 2] = ["10.1.0.1", "10.2.0.1"].map(|text| text.parse().unwrap());
        let found = Some((PolicyId(1), Action::Protect(TunnelId(1))));
        assert_eq!(spd.lookup(ours, peers, 6, Some((80, 5))), found);
        assert_eq!(spd.lookup(peers, ours, 6, Some((80, 5))), None);
        assert_eq!(spd.lookup_inbound(peers, ours, 6, Some((5, 80))), found);
        assert_eq!(spd.lookup_inbound(peers, ours, 6, Some((80, 5))), None);
        assert_eq!(spd.lookup_inbound(ours, peers, 6, Some((5, 80))), None);
    }

    #[test]
    fn later_fragments_pass_over_policies_with_ports() {
        let mut web = policy(1, ANY, "10.2.0.0/16");
        web.selector.remote_ports = 80..=80;
        let mut spd = spd([web]);
        assert!(spd.restricts_ports());
        assert_eq!(outbound(&spd, "10.1.0.1", "10.2.0.1", None), None);
        spd.insert(policy(2, ANY, ANY)).unwrap();
        assert_eq!(outbound(&spd, "10.1.0.1", "10.2.0.1", None), Some(2));
        assert_eq!(outbound(&spd, "10.1.0.1", "10.2.0.1", Some((1, 80))), Some(1));
        spd.insert(policy(1, ANY, "10.2.0.0/16")).unwrap();
        assert!(!spd.restricts_ports(), "the policy with ports was replaced");
        assert_eq!(outbound(&spd, "10.1.0.1", "10.2.0.1", None), Some(1));
    }

    #[test]
    fn families_never_mix() {
        let mut spd = spd([policy(1, ANY, ANY), policy(2, "::/0", "::/0")]);
        assert_eq!(outbound(&spd, "10.1.0.1", "10.2.0.1", None), Some(1));
        assert_eq!(outbound(&spd, "2001:db8::1", "2001:db8::2", None), Some(2));
        assert_eq!(outbound(&spd, "2001:db8::1", "10.2.0.1", None), None);
        let mixed = policy(1, ANY, "::/0");
        assert_eq!(spd.insert(mixed), Err(SpdError::MixedFamilies(PolicyId(1))));
        assert_eq!(spd.get(PolicyId(1)), Some(&policy(1, ANY, ANY)), "the old one stays");
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
    fn a_policy_that_cannot_match_is_refused() {
        let mut spd = spd([policy(1, ANY, ANY)]);
        let mut empty = policy(1, ANY, ANY);
        empty.selector.local_ports = 2..=1;
        assert_eq!(spd.insert(empty), Err(SpdError::NoPorts(PolicyId(1))));
        assert_eq!(outbound(&spd, "10.1.0.1", "10.2.0.1", None), Some(1));
        assert!(!spd.restricts_ports());
    }

    #[test]
    fn a_hundred_thousand_policies_come_and_go() {
        let net = |bits: u32, len| IpNet::new(Ipv4Addr::from_bits(bits).into(), len).unwrap();
        let all = || {
            (0..100_000u32).map(|i| {
                // Half have remotes of their own, half share one remote and have locals of their own.
                let own = net(0x0B00_0000 + (i << 8), 24);
                let selector = match i % 2 {
                    0 => Selector::between(net(0x0A00_0000, 8), own),
                    _ => Selector::between(own, net(0, 0)),
                };
                Policy { id: PolicyId(i), selector, action: Action::Bypass }
            })
        };
        let mut spd = spd(all());
        assert_eq!(spd.len(), 100_000);
        for policy in all() {
            let (local, remote) = match policy.id.0 % 2 {
                0 => ("10.1.1.1".parse().unwrap(), policy.selector.remote.broadcast()),
                _ => (policy.selector.local.broadcast(), "9.9.9.9".parse().unwrap()),
            };
            assert_eq!(spd.lookup(local, remote, 6, None), Some((policy.id, Action::Bypass)));
            assert_eq!(spd.lookup_inbound(remote, local, 6, None), Some((policy.id, Action::Bypass)));
        }
        assert!(all().all(|policy| spd.remove(policy.id) == Some(policy)));
        assert!(spd.is_empty() && spd.remotes.is_empty());
    }

    /// What the order says, in the plainest way.
    fn naive(
        policies: &[Policy],
        local: IpAddr,
        remote: IpAddr,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> Option<(PolicyId, Action)> {
        let matching = policies.iter().filter(|Policy { selector, .. }| {
            selector.local.contains(&local)
                && selector.remote.contains(&remote)
                && (selector.protocol.is_none() || selector.protocol == Some(protocol))
                && match ports {
                    Some((local, remote)) => {
                        selector.local_ports.contains(&local) && selector.remote_ports.contains(&remote)
                    }
                    None => selector.local_ports == (0..=u16::MAX) && selector.remote_ports == (0..=u16::MAX),
                }
        });
        let best = matching.min_by_key(|Policy { selector, id, .. }| {
            let ports = selector.local_ports.len() * selector.remote_ports.len();
            let lens = (Reverse(selector.remote.prefix_len()), Reverse(selector.local.prefix_len()));
            (lens, selector.protocol.is_none(), ports, *id)
        });
        best.map(|policy| (policy.id, policy.action))
    }

    /// Addresses that often share a prefix. The first bit tells the family.
    fn address(v6: bool, low: u8) -> IpAddr {
        if v6 {
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(low & 0xF0) << 60 | u128::from(low & 0x0F))
                .into()
        } else {
            Ipv4Addr::from_bits(0x0A00_0000 | u32::from(low & 0xF0) << 12 | u32::from(low & 0x0F)).into()
        }
    }

    fn prefixes(v6: bool) -> impl Strategy<Value = IpNet> {
        let lens = if v6 { vec![0, 32, 60, 64, 126, 128] } else { vec![0, 8, 12, 15, 16, 30, 32] };
        (any::<u8>(), prop::sample::select(lens))
            .prop_map(move |(low, len)| IpNet::new(address(v6, low), len).unwrap())
    }

    fn ranges() -> impl Strategy<Value = std::ops::RangeInclusive<u16>> {
        prop_oneof![3 => Just(0..=u16::MAX), 1 => (0..4u16, 0..4u16).prop_map(|(a, b)| a.min(b)..=a.max(b))]
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let prefixes = any::<bool>().prop_flat_map(|v6| (prefixes(v6), prefixes(v6)));
        let protocols = prop::option::of(prop::sample::select(vec![6, 17]));
        (0..60u32, prefixes, protocols, ranges(), ranges(), any::<bool>()).prop_map(
            |(id, (local, remote), protocol, local_ports, remote_ports, bypass)| Policy {
                id: PolicyId(id),
                selector: Selector { local, remote, protocol, local_ports, remote_ports },
                action: if bypass { Action::Bypass } else { Action::Protect(TunnelId(id)) },
            },
        )
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            changes in prop::collection::vec((policies(), 0..4u8), 1..150),
            packets in prop::collection::vec(
                (any::<bool>(), any::<u8>(), any::<u8>(), prop::sample::select(vec![6u8, 17, 50]),
                 prop::option::of((0..5u16, 0..5u16))),
                50,
            ),
        ) {
            let mut spd = Spd::with_capacity(4);
            let mut list: Vec<Policy> = Vec::new();
            for (policy, change) in changes {
                list.retain(|other| other.id != policy.id);
                if change == 0 {
                    spd.remove(policy.id);
                } else {
                    spd.insert(policy.clone()).unwrap();
                    list.push(policy);
                }
            }
            prop_assert_eq!(spd.len(), list.len());
            for (v6, local, remote, protocol, ports) in packets {
                let (local, remote) = (address(v6, local), address(v6, remote));
                let expected = naive(&list, local, remote, protocol, ports);
                prop_assert_eq!(spd.lookup(local, remote, protocol, ports), expected);
                let swapped = ports.map(|(local, remote)| (remote, local));
                prop_assert_eq!(spd.lookup_inbound(remote, local, protocol, swapped), expected);
            }
            for policy in &list {
                prop_assert_eq!(spd.remove(policy.id), Some(policy.clone()));
            }
            prop_assert!(spd.is_empty() && spd.remotes.is_empty() && !spd.restricts_ports());
        }
    }
}
