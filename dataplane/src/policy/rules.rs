//! The policies of one remote prefix, by local prefix.

use std::cmp::Reverse;

use super::ports::{Ports, Range};
use super::{Action, Policy, PolicyId};
use crate::lpm;
use crate::lpm::tree::{Tree, is_prefix};
use crate::packet::address::Address;
use crate::packet::ip::Version;

/// More policies than this are looked up in a tree, fewer one after the other.
const FEW: usize = 8;

/// What a packet is matched by, once its remote prefix is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    /// Our side's address, left-aligned.
    pub(super) local: u128,
    pub(super) protocol: u8,
    pub(super) ports: Ports,
}

/// The policies of one remote prefix.
#[derive(Debug)]
pub(super) enum Rules {
    /// At most [`FEW`].
    Few(List),
    /// By local prefix, with their number.
    Many(Box<(Tree<List>, usize)>),
}

/// Policies in order of preference. A single one, the usual case, is stored in place.
#[derive(Debug)]
pub(super) enum List {
    One(Rule),
    More(Vec<Rule>),
}

/// A policy without its remote prefix.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    local: u128,
    local_len: u8,
    is_v4: bool,
    protocol: Option<u8>,
    local_ports: Range,
    remote_ports: Range,
    pub(super) id: PolicyId,
    pub(super) action: Action,
}

impl Rules {
    pub(super) fn new(rule: Rule) -> Self {
        Self::Few(List::One(rule))
    }

    /// The most preferred policy that matches.
    #[inline]
    pub(super) fn find(&self, packet: &Packet) -> Option<&Rule> {
        match self {
            Self::Few(List::One(rule)) => rule.matches(packet).then_some(rule),
            Self::Few(List::More(rules)) => rules.iter().find(|rule| rule.matches(packet)),
            Self::Many(many) => {
                let tree = &many.0;
                tree.longest(packet.local)?.find(packet).or_else(|| find_shorter(tree, packet))
            }
        }
    }

    /// The only policy.
    #[inline]
    pub(super) fn only(&self) -> Option<&Rule> {
        match self {
            Self::Few(List::One(rule)) => Some(rule),
            _ => None,
        }
    }

    pub(super) fn insert(&mut self, rule: Rule) {
        match self {
            Self::Few(list) if list.rules().len() < FEW => list.insert(rule),
            Self::Few(list) => {
                let mut tree = Tree::new();
                list.rules().iter().for_each(|rule| put_in_tree(&mut tree, rule.clone()));
                put_in_tree(&mut tree, rule);
                *self = Self::Many(Box::new((tree, FEW + 1)));
            }
            Self::Many(many) => {
                put_in_tree(&mut many.0, rule);
                many.1 += 1;
            }
        }
    }

    /// Removes the policy that `rule` was made of. Returns whether none is left.
    pub(super) fn remove(&mut self, rule: &Rule) -> bool {
        match self {
            Self::Few(list) => list.remove(rule.id),
            Self::Many(many) => {
                let (tree, len) = &mut **many;
                let Some(list) = tree.get_mut(rule.local, rule.local_len) else { return false };
                let before = list.rules().len();
                if list.remove(rule.id) {
                    tree.remove(rule.local, rule.local_len);
                    *len -= 1;
                } else {
                    *len -= before - list.rules().len();
                }
                // Half of what makes a tree, so that a change back and forth does not rebuild it each time.
                if *len <= FEW / 2 {
                    let lists = std::mem::replace(tree, Tree::new()).into_values();
                    let mut few: Vec<Rule> = lists.into_iter().flat_map(List::into_rules).collect();
                    few.sort_unstable_by_key(Rule::order);
                    *self = Self::Few(List::More(few));
                }
                false
            }
        }
    }
}

/// Goes on when no policy of the longest local prefix matches.
#[cold]
fn find_shorter<'a>(tree: &'a Tree<List>, packet: &Packet) -> Option<&'a Rule> {
    tree.path(packet.local).skip(1).find_map(|list| list.find(packet))
}

fn put_in_tree(tree: &mut Tree<List>, rule: Rule) {
    match tree.get_mut(rule.local, rule.local_len) {
        Some(list) => list.insert(rule),
        None => _ = tree.insert(rule.local, rule.local_len, List::One(rule)),
    }
}

impl List {
    /// The most preferred policy that matches, of a list whose local prefix does.
    #[inline]
    fn find(&self, packet: &Packet) -> Option<&Rule> {
        self.rules().iter().find(|rule| rule.matches_but_local(packet))
    }

    #[inline]
    fn rules(&self) -> &[Rule] {
        match self {
            Self::One(rule) => std::slice::from_ref(rule),
            Self::More(rules) => rules,
        }
    }

    fn into_rules(self) -> Vec<Rule> {
        match self {
            Self::One(rule) => vec![rule],
            Self::More(rules) => rules,
        }
    }

    fn insert(&mut self, rule: Rule) {
        let mut rules = std::mem::replace(self, Self::More(Vec::new())).into_rules();
        let place = rules.partition_point(|other| other.order() < rule.order());
        rules.insert(place, rule);
        *self = Self::More(rules);
    }

    /// Returns whether none is left; then the list is as it was.
    fn remove(&mut self, id: PolicyId) -> bool {
        match self {
            Self::One(rule) => rule.id == id,
            Self::More(rules) => {
                if rules.iter().all(|rule| rule.id == id) {
                    return true;
                }
                rules.retain(|rule| rule.id != id);
                if let [rule] = &rules[..] {
                    *self = Self::One(rule.clone());
                }
                false
            }
        }
    }
}

impl Rule {
    pub(super) fn new(policy: &Policy) -> Self {
        let (local, local_len) = lpm::key(policy.selector.local);
        Self {
            local,
            local_len,
            is_v4: policy.selector.local.addr().is_ipv4(),
            protocol: policy.selector.protocol,
            local_ports: Range::new(&policy.selector.local_ports),
            remote_ports: Range::new(&policy.selector.remote_ports),
            id: policy.id,
            action: policy.action,
        }
    }

    /// Whether it is of IPv4 and matches whatever the protocol and the ports.
    #[inline]
    pub(super) fn is_v4_wide(&self) -> bool {
        self.is_v4 && self.protocol.is_none() && self.local_ports.is_any() && self.remote_ports.is_any()
    }

    /// Whether an address is in its local prefix.
    #[inline]
    pub(super) fn covers(&self, local: Address) -> bool {
        (local.version() == Version::V4) == self.is_v4 && is_prefix(self.local, self.local_len, local.key())
    }

    /// The local prefix of IPv4 and its mask.
    #[inline]
    pub(super) fn local_v4(&self) -> (u32, u32) {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.local_len)).unwrap_or(0);
        ((self.local >> 96) as u32, mask)
    }

    #[inline]
    fn matches(&self, packet: &Packet) -> bool {
        is_prefix(self.local, self.local_len, packet.local) && self.matches_but_local(packet)
    }

    #[inline]
    fn matches_but_local(&self, packet: &Packet) -> bool {
        self.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && packet.ports.local.is_in(self.local_ports)
            && packet.ports.remote.is_in(self.remote_ports)
    }

    /// Less is preferred: longer local prefix, named protocol, fewer pairs of ports, lower id.
    fn order(&self) -> (Reverse<u8>, bool, u64, PolicyId) {
        let ports = self.local_ports.len() * self.remote_ports.len();
        (Reverse(self.local_len), self.protocol.is_none(), ports, self.id)
    }

    pub(super) fn restricts_ports(&self) -> bool {
        !self.local_ports.is_any() || !self.remote_ports.is_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Selector;

    fn rule(id: u32, local: &str) -> Rule {
        let selector = Selector::between(local.parse().unwrap(), "0.0.0.0/0".parse().unwrap());
        Rule::new(&Policy { id: PolicyId(id), selector, action: Action::Bypass })
    }

    #[test]
    fn many_become_a_tree_and_few_a_list_again() {
        let all: Vec<_> = (0..9u32).map(|i| rule(i, &format!("10.{i}.0.0/16"))).collect();
        let mut rules = Rules::new(all[0].clone());
        all[1..8].iter().for_each(|rule| rules.insert(rule.clone()));
        assert!(matches!(&rules, Rules::Few(list) if list.rules().len() == 8));
        rules.insert(all[8].clone());
        assert!(matches!(&rules, Rules::Many(many) if many.1 == 9));
        assert!(!all[..4].iter().any(|rule| rules.remove(rule)));
        assert!(!rules.remove(&all[0]));
        assert!(matches!(&rules, Rules::Many(many) if many.1 == 5), "removing one again changes nothing");
        rules.remove(&all[4]);
        assert!(matches!(&rules, Rules::Few(list) if list.rules().len() == 4));
        assert!(!all[5..8].iter().any(|rule| rules.remove(rule)));
        assert!(matches!(rules, Rules::Few(List::One(_))));
        assert!(!rules.remove(&all[0]));
        assert!(rules.remove(&all[8]), "it was the last");
    }

    #[test]
    fn policies_of_one_local_prefix_are_counted_one_by_one() {
        let all: Vec<_> = (0..12).map(|i| rule(i, "10.0.0.0/8")).collect();
        let mut rules = Rules::new(all[0].clone());
        all[1..].iter().for_each(|rule| rules.insert(rule.clone()));
        assert!(matches!(&rules, Rules::Many(many) if many.1 == 12));
        assert!(!all[..7].iter().any(|rule| rules.remove(rule)));
        assert!(matches!(&rules, Rules::Many(many) if many.1 == 5));
        assert!(!all[7..11].iter().any(|rule| rules.remove(rule)));
        assert!(rules.remove(&all[11]));
    }

    #[test]
    fn a_policy_fits_into_a_cache_line_with_what_is_around_it() {
        assert_eq!(size_of::<Rules>(), 48);
    }
}
