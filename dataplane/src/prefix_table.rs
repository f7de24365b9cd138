//! Longest-prefix match by hashing: one table of fixed size, probed once for each prefix length in use.
//!
//! Why not a trie: 100,000 random /32 or /64 prefixes, as a concentrator has them, make a multibit trie of
//! hundreds of megabytes, and its insertions write up to 65,536 places. Here memory is fixed at start, an
//! update touches a few neighbouring places and never moves the whole table, and a look-up costs one probe a
//! prefix length that is in use: a concentrator's tables have two or three. Look-ups probe with attackers'
//! addresses, but what is in the table is the operator's, so collisions cannot be made on purpose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table has no room for another prefix")]
pub struct Full;

/// A map from prefixes to small values, by longest match.
#[derive(Debug)]
pub struct PrefixTable<V> {
    /// Open addressing with linear probing; at most half of it is used. A power of two.
    places: Box<[Option<(IpNet, V)>]>,
    len: usize,
    v4: Lengths<33>,
    v6: Lengths<129>,
}

/// Prefixes of each length of one family.
#[derive(Debug)]
struct Lengths<const N: usize> {
    counts: [u32; N],
    /// Bit `i` is set when there are prefixes of length `i`; of 129 lengths, 0 has its own flag.
    present: u128,
    any: bool,
}

impl<V: Copy> PrefixTable<V> {
    /// An empty table for `capacity` prefixes.
    pub fn with_capacity(capacity: usize) -> Self {
        let places = (2 * capacity.max(8)).next_power_of_two();
        Self {
            places: (0..places).map(|_| None).collect(),
            len: 0,
            v4: Lengths::default(),
            v6: Lengths::default(),
        }
    }

    /// Sets the value of a prefix; host bits are ignored. Returns the value it had.
    ///
    /// # Errors
    /// [`Full`]; nothing changes then.
    pub fn insert(&mut self, prefix: IpNet, value: V) -> Result<Option<V>, Full> {
        let prefix = prefix.trunc();
        let at = self.find(&prefix);
        let full = 2 * (self.len + 1) > self.places.len();
        let Some(place) = self.places.get_mut(at) else { return Err(Full) };
        match place {
            Some((_, old)) => Ok(Some(std::mem::replace(old, value))),
            None if full => Err(Full),
            None => {
                *place = Some((prefix, value));
                self.len += 1;
                match prefix {
                    IpNet::V4(net) => self.v4.add(net.prefix_len()),
                    IpNet::V6(net) => self.v6.add(net.prefix_len()),
                }
                Ok(None)
            }
        }
    }

    /// Removes a prefix and returns its value.
    pub fn remove(&mut self, prefix: &IpNet) -> Option<V> {
        let prefix = prefix.trunc();
        let mut hole = self.find(&prefix);
        let (_, value) = self.places.get_mut(hole)?.take()?;
        self.len -= 1;
        match prefix {
            IpNet::V4(net) => self.v4.remove(net.prefix_len()),
            IpNet::V6(net) => self.v6.remove(net.prefix_len()),
        }
        // Close the gap, so that no probe ends early (Knuth, The Art of Computer Programming 6.4, algorithm R).
        let mask = self.places.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(Some((next, _))) = self.places.get(at) else { return Some(value) };
            let home = hash(next) & mask;
            // Distances around the ring: an entry may move to the hole unless its home lies behind the hole.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.places.swap(at, hole);
                hole = at;
            }
        }
    }

    /// The value of exactly this prefix.
    #[inline]
    pub fn get(&self, prefix: &IpNet) -> Option<V> {
        let at = self.find(&prefix.trunc());
        self.places.get(at).copied().flatten().map(|(_, value)| value)
    }

    /// The values of all prefixes that hold `address`, longest first, each with its prefix length.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Matches<'_, V> {
        let (present, any) = match address {
            IpAddr::V4(_) => (self.v4.present, self.v4.any),
            IpAddr::V6(_) => (self.v6.present, self.v6.any),
        };
        Matches { table: self, address, present, any }
    }

    /// Prefixes in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All prefixes and their values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, V)> + '_ {
        self.places.iter().copied().flatten()
    }

    /// Where a truncated prefix is, or where it would be.
    #[inline]
    fn find(&self, prefix: &IpNet) -> usize {
        let mask = self.places.len() - 1;
        let mut at = hash(prefix) & mask;
        while let Some(Some((known, _))) = self.places.get(at) {
            if known == prefix {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }
}

/// What [`PrefixTable::lookup`] found.
#[derive(Debug)]
pub struct Matches<'t, V> {
    table: &'t PrefixTable<V>,
    address: IpAddr,
    /// Lengths from 1 on that are still to be probed: bit `length - 1`.
    present: u128,
    any: bool,
}

impl<V: Copy> Iterator for Matches<'_, V> {
    type Item = (u8, V);

    #[inline]
    fn next(&mut self) -> Option<(u8, V)> {
        loop {
            let length = match self.present.checked_ilog2() {
                Some(bit) => {
                    self.present &= !(1 << bit);
                    bit as u8 + 1
                }
                None if std::mem::take(&mut self.any) => 0,
                None => return None,
            };
            if let Some(value) = self.table.get(&network(self.address, length)) {
                return Some((length, value));
            }
        }
    }
}

/// The prefix of this length that holds `address`.
#[inline]
fn network(address: IpAddr, length: u8) -> IpNet {
    match address {
        IpAddr::V4(address) => {
            let bits = u32::from(address) & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(bits), length))
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address) & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(bits), length))
        }
    }
}

/// Multiplies and folds; see the module's text for why it need not resist chosen keys.
#[inline]
fn hash(prefix: &IpNet) -> usize {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |value: u64| {
        let product = u128::from(value) * u128::from(K);
        (product >> 64) as u64 ^ product as u64
    };
    match prefix {
        IpNet::V4(net) => {
            fold(u64::from(u32::from(net.network())) << 8 | u64::from(net.prefix_len())) as usize
        }
        IpNet::V6(net) => {
            let bits = u128::from(net.network());
            fold(fold((bits >> 64) as u64 ^ u64::from(net.prefix_len())) ^ bits as u64) as usize
        }
    }
}

impl<const N: usize> Default for Lengths<N> {
    fn default() -> Self {
        Self { counts: [0; N], present: 0, any: false }
    }
}

impl<const N: usize> Lengths<N> {
    fn add(&mut self, length: u8) {
        self.change(length, |count| count + 1);
    }

    fn remove(&mut self, length: u8) {
        self.change(length, |count| count - 1);
    }

    fn change(&mut self, length: u8, change: impl Fn(u32) -> u32) {
        let Some(count) = self.counts.get_mut(usize::from(length)) else { return };
        *count = change(*count);
        let some = *count > 0;
        match length.checked_sub(1) {
            None => self.any = some,
            Some(bit) if some => self.present |= 1 << bit,
            Some(bit) => self.present &= !(1 << bit),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_comes_first_and_the_others_follow() {
        let mut table = PrefixTable::with_capacity(8);
        for (value, prefix) in
            ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "2001:db8::/32"]
                .into_iter()
                .enumerate()
        {
            assert_eq!(table.insert(net(prefix), value), Ok(None));
        }
        let found = |address: &str| table.lookup(address.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(found("10.1.2.3"), [(32, 3), (16, 2), (8, 1), (0, 0)]);
        assert_eq!(found("10.1.2.4"), [(16, 2), (8, 1), (0, 0)]);
        assert_eq!(found("192.0.2.1"), [(0, 0)]);
        assert_eq!(found("2001:db8::1"), [(32, 5), (0, 4)]);
        assert_eq!(found("2001:db9::1"), [(0, 4)]);
    }

    #[test]
    fn host_bits_are_ignored_and_values_replaced() {
        let mut table = PrefixTable::with_capacity(8);
        assert_eq!(table.insert(net("10.1.2.3/16"), 1), Ok(None));
        assert_eq!(table.insert(net("10.1.0.0/16"), 2), Ok(Some(1)));
        assert_eq!((table.len(), table.get(&net("10.1.9.9/16"))), (1, Some(2)));
        assert_eq!(table.remove(&net("10.1.0.0/16")), Some(2));
        assert_eq!(table.remove(&net("10.1.0.0/16")), None);
        assert!(table.is_empty() && table.lookup("10.1.0.1".parse().unwrap()).next().is_none());
    }

    #[test]
    fn a_full_table_says_so_and_keeps_what_it_has() {
        let mut table = PrefixTable::with_capacity(8);
        let mut inserted = 0;
        let refused = (0..u32::MAX).find(|&i| {
            let prefix = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(i << 8), 24));
            inserted += 1;
            table.insert(prefix, i) == Err(Full)
        });
        assert!(refused.is_some_and(|at| at >= 8));
        assert_eq!(table.len(), inserted - 1);
        assert_eq!(table.insert(net("0.0.0.0/24"), 9), Ok(Some(0)));
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few different bits, so that prefixes nest and collide.
        prop_oneof![
            (0u32..64, 0u8..=32)
                .prop_map(|(bits, len)| Ipv4Net::new_assert((bits << 26 | bits).into(), len).into()),
            (0u128..64, 0u8..=128).prop_map(|(bits, len)| Ipv6Net::new_assert(
                (bits << 122 | bits).into(),
                len
            )
            .into()),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_table(
            steps in prop::collection::vec((prefix(), any::<bool>()), 1..200),
            addresses in prop::collection::vec(prefix(), 1..20),
        ) {
            let mut table = PrefixTable::with_capacity(256);
            let mut naive = HashMap::new();
            for (value, (prefix, insert)) in steps.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(table.insert(prefix, value), Ok(naive.insert(prefix.trunc(), value)));
                } else {
                    prop_assert_eq!(table.remove(&prefix), naive.remove(&prefix.trunc()));
                }
            }
            prop_assert_eq!(table.len(), naive.len());
            for address in addresses {
                let mut expected: Vec<_> = naive
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&address.addr()))
                    .map(|(prefix, &value)| (prefix.prefix_len(), value))
                    .collect();
                expected.sort_unstable_by(|a, b| b.cmp(a));
                prop_assert_eq!(table.lookup(address.addr()).collect::<Vec<_>>(), expected);
            }
        }
    }
}
