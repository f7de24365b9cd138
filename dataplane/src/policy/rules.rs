//! The policies of one remote prefix, by local prefix.

use std::cmp::Reverse;
use std::ops::RangeInclusive;

use super::ports::{Ports, is_any};
use super::{Action, Policy, PolicyId};
use crate::lpm;
use crate::lpm::tree::{Tree, mask};

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
    /// In order of preference.
    Few(Vec<Rule>),
    /// By local prefix; those of one local prefix in order of preference. With their number.
    Many(Tree<Vec<Rule>>, usize),
}

/// A policy without its remote prefix.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    local: u128,
    local_mask: u128,
    local_len: u8,
    protocol: Option<u8>,
    local_ports: RangeInclusive<u16>,
    remote_ports: RangeInclusive<u16>,
    pub(super) id: PolicyId,
    pub(super) action: Action,
}

impl Rules {
    pub(super) fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Few(rules) if rules.is_empty())
    }

    /// The most preferred policy that matches.
    #[inline]
    pub(super) fn find(&self, packet: &Packet) -> Option<&Rule> {
        match self {
            Self::Few(rules) => rules.iter().find(|rule| rule.matches(packet)),
            Self::Many(tree, _) => tree
                .path(packet.local)
                .find_map(|rules| rules.iter().find(|rule| rule.matches_but_local(packet))),
        }
    }

    pub(super) fn insert(&mut self, rule: Rule) {
        match self {
            Self::Few(rules) => {
                put(rules, rule);
                if rules.len() > FEW {
                    let len = rules.len();
                    let mut tree = Tree::new();
                    rules.drain(..).for_each(|rule| put_in_tree(&mut tree, rule));
                    *self = Self::Many(tree, len);
                }
            }
            Self::Many(tree, len) => {
                put_in_tree(tree, rule);
                *len += 1;
            }
        }
    }

    /// Removes the policy that `rule` was made of.
    pub(super) fn remove(&mut self, rule: &Rule) {
        match self {
            Self::Few(rules) => rules.retain(|other| other.id != rule.id),
            Self::Many(tree, len) => {
                let Some(rules) = tree.get_mut(rule.local, rule.local_len) else { return };
                let before = rules.len();
                rules.retain(|other| other.id != rule.id);
                *len -= before - rules.len();
                if rules.is_empty() {
                    tree.remove(rule.local, rule.local_len);
                }
                // Half of what makes a tree, so that a change back and forth does not rebuild it each time.
                if *len <= FEW / 2 {
                    let mut few: Vec<Rule> =
                        std::mem::replace(tree, Tree::new()).into_values().into_iter().flatten().collect();
                    few.sort_unstable_by_key(Rule::order);
                    *self = Self::Few(few);
                }
            }
        }
    }
}

impl Rule {
    pub(super) fn new(policy: &Policy) -> Self {
        let (local, local_len) = lpm::key(policy.selector.local);
        Self {
            local,
            local_mask: mask(local_len),
            local_len,
            protocol: policy.selector.protocol,
            local_ports: policy.selector.local_ports.clone(),
            remote_ports: policy.selector.remote_ports.clone(),
            id: policy.id,
            action: policy.action,
        }
    }

    #[inline]
    fn matches(&self, packet: &Packet) -> bool {
        (packet.local ^ self.local) & self.local_mask == 0 && self.matches_but_local(packet)
    }

    #[inline]
    fn matches_but_local(&self, packet: &Packet) -> bool {
        self.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && packet.ports.local.is_in(&self.local_ports)
            && packet.ports.remote.is_in(&self.remote_ports)
    }

    /// Less is preferred: longer local prefix, named protocol, fewer pairs of ports, lower id.
    fn order(&self) -> (Reverse<u8>, bool, u64, PolicyId) {
        let ports = self.local_ports.len() as u64 * self.remote_ports.len() as u64;
        (Reverse(self.local_len), self.protocol.is_none(), ports, self.id)
    }

    pub(super) fn restricts_ports(&self) -> bool {
        !is_any(&self.local_ports) || !is_any(&self.remote_ports)
    }
}

fn put(rules: &mut Vec<Rule>, rule: Rule) {
    let place = rules.partition_point(|other| other.order() < rule.order());
    rules.insert(place, rule);
}

fn put_in_tree(tree: &mut Tree<Vec<Rule>>, rule: Rule) {
    match tree.get_mut(rule.local, rule.local_len) {
        Some(rules) => put(rules, rule),
        None => {
            tree.insert(rule.local, rule.local_len, vec![rule]);
        }
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
        let mut rules = Rules::new();
        let all: Vec<_> = (0..9u32).map(|i| rule(i, &format!("10.{i}.0.0/16"))).collect();
        all[..8].iter().for_each(|rule| rules.insert(rule.clone()));
        assert!(matches!(&rules, Rules::Few(rules) if rules.len() == 8));
        rules.insert(all[8].clone());
        assert!(matches!(rules, Rules::Many(_, 9)));
        all[..4].iter().for_each(|rule| rules.remove(rule));
        assert!(matches!(rules, Rules::Many(_, 5)));
        rules.remove(&all[0]);
        assert!(matches!(rules, Rules::Many(_, 5)), "removing it again changes nothing");
        rules.remove(&all[4]);
        assert!(matches!(&rules, Rules::Few(rules) if rules.len() == 4));
        all.iter().for_each(|rule| rules.remove(rule));
        assert!(rules.is_empty());
    }

    #[test]
    fn a_rule_takes_two_cache_lines_at_most() {
        assert!(size_of::<Rule>() <= 80, "{}", size_of::<Rule>());
    }
}
