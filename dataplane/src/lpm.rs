//! Longest-prefix match over IPv4 and IPv6.
//!
//! Both families are the same trie over left-aligned 128-bit keys. The first 16 bits index an array; what is
//! below is a tree whose nodes cover eight bits each. A node holds its prefixes and children
//! in lists that bitmaps index, so it takes 192 bytes whatever is in it, and nodes that would neither branch
//! nor hold a prefix are left out. That was chosen over nodes of 256 expanded entries because
//! - memory is bounded by the number of prefixes and not by how they are scattered: at most two nodes a
//!   prefix, 45 MB for the worst 100,000, where expanded nodes need some 2 kB for each of up to fourteen
//!   levels of a prefix;
//! - an update touches a few nodes and never the entries of other prefixes, so its work is bounded too;
//! - the shorter prefixes that match are at hand, longest first, for a policy look-up that has to backtrack.
//!
//! A look-up of an IPv4 prefix of 17 to 24 bits loads the array, one node and the value; of up to 32 bits,
//! one node more.

use ipnet::IpNet;

use crate::packet::address::Address;
use crate::packet::ip::Version;

pub(crate) mod tree;

use tree::{Path, Tree};

/// Bits that index the array.
const ROOT_BITS: u8 = 16;

/// Values by IPv4 and IPv6 prefix.
#[derive(Debug)]
pub struct Lpm<T> {
    v4: Trie<T>,
    v6: Trie<T>,
    len: usize,
}

impl<T> Lpm<T> {
    /// An empty table. Takes a megabyte.
    pub fn new() -> Self {
        Self { v4: Trie::new(), v6: Trie::new(), len: 0 }
    }

    /// Adds a prefix, or replaces its value and returns the old one. Host bits of `prefix` do not count.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        let (trie, key, len) = self.trie_mut(prefix);
        let old = trie.tree_mut(key, len).insert(key, len, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes a prefix and returns its value.
    pub fn remove(&mut self, prefix: IpNet) -> Option<T> {
        let (trie, key, len) = self.trie_mut(prefix);
        let old = trie.tree_mut(key, len).remove(key, len);
        self.len -= usize::from(old.is_some());
        old
    }

    /// The value of exactly this prefix.
    pub fn get_mut(&mut self, prefix: IpNet) -> Option<&mut T> {
        let (trie, key, len) = self.trie_mut(prefix);
        trie.tree_mut(key, len).get_mut(key, len)
    }

    /// The value of the longest prefix that holds an IPv4 address.
    #[inline]
    pub fn lookup_v4(&self, address: u32) -> Option<&T> {
        self.v4.longest(u128::from(address) << 96)
    }

    /// The value of the longest prefix that holds an IPv6 address.
    #[inline]
    pub fn lookup_v6(&self, address: u128) -> Option<&T> {
        self.v6.longest(address)
    }

    /// The values of all prefixes that hold an IPv4 address, longest first.
    #[inline]
    pub fn matches_v4(&self, address: u32) -> Matches<'_, T> {
        self.v4.matches(u128::from(address) << 96)
    }

    /// The values of all prefixes that hold an IPv6 address, longest first.
    #[inline]
    pub fn matches_v6(&self, address: u128) -> Matches<'_, T> {
        self.v6.matches(address)
    }

    /// The value of the longest prefix that holds an address.
    #[inline]
    pub fn lookup(&self, address: impl Into<Address>) -> Option<&T> {
        let address = address.into();
        self.trie(address).longest(address.key())
    }

    /// The values of all prefixes that hold an address, longest first.
    #[inline]
    pub fn matches(&self, address: impl Into<Address>) -> Matches<'_, T> {
        let address = address.into();
        self.trie(address).matches(address.key())
    }

    /// Prefixes in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn trie(&self, address: Address) -> &Trie<T> {
        match address.version() {
            Version::V4 => &self.v4,
            Version::V6 => &self.v6,
        }
    }

    fn trie_mut(&mut self, prefix: IpNet) -> (&mut Trie<T>, u128, u8) {
        let (key, len) = key(prefix);
        (if prefix.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 }, key, len)
    }
}

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A prefix as a trie knows it: its bits from the left, the others 0, and its length.
pub(crate) fn key(prefix: IpNet) -> (u128, u8) {
    (Address::from(prefix.addr()).key() & tree::mask(prefix.prefix_len()), prefix.prefix_len())
}

/// One family.
#[derive(Debug)]
struct Trie<T> {
    /// Prefixes of up to [`ROOT_BITS`] bits.
    short: Tree<T>,
    /// Longer ones, by their first bits.
    long: Box<[Tree<T>]>,
}

impl<T> Trie<T> {
    fn new() -> Self {
        Self { short: Tree::new(), long: (0..1 << ROOT_BITS).map(|_| Tree::new()).collect() }
    }

    fn tree_mut(&mut self, key: u128, len: u8) -> &mut Tree<T> {
        if len <= ROOT_BITS { &mut self.short } else { &mut self.long[root_index(key)] }
    }

    #[inline]
    fn longest(&self, key: u128) -> Option<&T> {
        self.long[root_index(key)].longest(key).or_else(|| self.short.longest(key))
    }

    #[inline]
    fn matches(&self, key: u128) -> Matches<'_, T> {
        Matches { path: self.long[root_index(key)].path(key), short: Some(&self.short), key }
    }
}

#[inline]
fn root_index(key: u128) -> usize {
    (key >> (128 - u32::from(ROOT_BITS))) as usize
}

/// The values of all prefixes that hold an address, longest first.
pub struct Matches<'a, T> {
    path: Path<'a, T>,
    /// Where to go on when `path` ends.
    short: Option<&'a Tree<T>>,
    key: u128,
}

impl<'a, T> Iterator for Matches<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some(value) = self.path.next() {
                return Some(value);
            }
            self.path = self.short.take()?.path(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn matches(lpm: &Lpm<u32>, address: &str) -> Vec<u32> {
        lpm.matches(address.parse::<Address>().unwrap()).copied().collect()
    }

    #[test]
    fn every_length_from_the_default_route_to_a_host_matches_longest_first() {
        let mut lpm = Lpm::new();
        for len in 0..=32 {
            assert_eq!(
                lpm.insert(IpNet::new("10.1.2.3".parse().unwrap(), len).unwrap(), u32::from(len)),
                None
            );
        }
        for len in 0..=128 {
            lpm.insert(IpNet::new("2001:db8::1:2:3".parse().unwrap(), len).unwrap(), u32::from(len));
        }
        assert_eq!(lpm.len(), 33 + 129);
        assert_eq!(matches(&lpm, "10.1.2.3"), (0..=32).rev().collect::<Vec<_>>());
        assert_eq!(matches(&lpm, "10.1.2.2"), (0..=31).rev().collect::<Vec<_>>());
        assert_eq!(matches(&lpm, "138.0.0.0"), [0]);
        assert_eq!(matches(&lpm, "2001:db8::1:2:3"), (0..=128).rev().collect::<Vec<_>>());
        assert_eq!(matches(&lpm, "2001:db9::"), (0..=31).rev().collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_table_matches_nothing() {
        let lpm = Lpm::<u32>::default();
        assert!(lpm.is_empty());
        assert_eq!(lpm.lookup_v4(0), None);
        assert_eq!(lpm.lookup_v6(u128::MAX), None);
    }

    #[test]
    fn families_are_apart() {
        let mut lpm = Lpm::new();
        lpm.insert(net("0.0.0.0/0"), 4);
        assert_eq!(lpm.lookup_v6(0), None);
        lpm.insert(net("::/0"), 6);
        assert_eq!((lpm.lookup_v4(0), lpm.lookup_v6(0)), (Some(&4), Some(&6)));
    }

    #[test]
    fn host_bits_do_not_count() {
        let mut lpm = Lpm::new();
        lpm.insert(net("10.1.2.3/8"), 1);
        assert_eq!(lpm.insert(net("10.9.9.9/8"), 2), Some(1));
        assert_eq!(lpm.get_mut(net("10.0.0.0/8")), Some(&mut 2));
        assert_eq!(lpm.remove(net("10.255.0.0/8")), Some(2));
        assert_eq!(lpm.remove(net("10.0.0.0/8")), None);
        assert!(lpm.is_empty());
    }

    #[test]
    fn a_hundred_thousand_scattered_prefixes_take_two_nodes_each_at_most_and_leave_none_behind() {
        // Multiplying by an odd number scatters consecutive ones over all bits.
        let hosts = || {
            (0..100_000u128).map(|i| {
                let bits = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
                IpNet::new(Ipv6Addr::from_bits(bits).into(), 64 + (i % 65) as u8).unwrap()
            })
        };
        let mut lpm = Lpm::new();
        for (prefix, i) in hosts().zip(0..) {
            assert_eq!(lpm.insert(prefix, i), None);
        }
        assert!(lpm.v6.nodes() <= 200_000, "{}", lpm.v6.nodes());
        for (prefix, i) in hosts().zip(0..) {
            let IpAddr::V6(address) = prefix.addr() else { unreachable!() };
            assert_eq!(lpm.lookup_v6(address.to_bits()), Some(&i));
            assert_eq!(lpm.remove(prefix), Some(i));
        }
        assert_eq!((lpm.len(), lpm.v6.nodes()), (0, 0));
    }

    impl<T> Trie<T> {
        fn nodes(&self) -> usize {
            self.short.nodes() + self.long.iter().map(Tree::nodes).sum::<usize>()
        }
    }

    /// Prefixes that often share their bits, and addresses near them.
    fn prefixes() -> impl Strategy<Value = IpNet> {
        let v4 =
            (prop::sample::select(vec![0u32, 0x0A00_0000, 0x0A01_0203, 0xFFFF_FFFF]), 0u32..1024, 0..=32u8)
                .prop_map(|(base, low, len)| {
                    IpNet::new(Ipv4Addr::from_bits(base ^ low).into(), len).unwrap()
                });
        let v6 = (prop::sample::select(vec![0, 0x2001_0db8 << 96, u128::MAX]), 0u128..8, 0..128u8, 0..=128u8)
            .prop_map(|(base, low, shift, len)| {
                IpNet::new(Ipv6Addr::from_bits(base ^ low << shift).into(), len).unwrap()
            });
        prop_oneof![v4, v6]
    }

    fn naive<'a>(map: &'a BTreeMap<IpNet, u32>, address: &IpAddr) -> Vec<&'a u32> {
        let mut hits: Vec<_> = map.iter().filter(|(prefix, _)| prefix.contains(address)).collect();
        hits.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        hits.into_iter().map(|(_, value)| value).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(changes in prop::collection::vec((prefixes(), any::<Option<u32>>()), 1..150)) {
            let mut lpm = Lpm::new();
            let mut map = BTreeMap::new();
            for &(prefix, change) in &changes {
                match change {
                    Some(value) => prop_assert_eq!(lpm.insert(prefix, value), map.insert(prefix.trunc(), value)),
                    None => prop_assert_eq!(lpm.remove(prefix), map.remove(&prefix.trunc())),
                }
                prop_assert_eq!(lpm.len(), map.len());
            }
            for (prefix, _) in &changes {
                prop_assert_eq!(lpm.get_mut(*prefix), map.get_mut(&prefix.trunc()));
                for address in [prefix.addr(), prefix.network(), prefix.broadcast()] {
                    let hits: Vec<_> = lpm.matches(address).collect();
                    prop_assert_eq!(lpm.lookup(address), hits.first().copied());
                    prop_assert_eq!(hits, naive(&map, &address));
                }
            }
            for (&prefix, &value) in &map {
                prop_assert_eq!(lpm.remove(prefix), Some(value));
            }
            prop_assert_eq!(lpm.v4.nodes() + lpm.v6.nodes(), 0);
        }
    }
}
