//! Longest-prefix look-up for the checks.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by prefix. A look-up tries each prefix length that is in use, longest first.
pub(super) struct PrefixTable<T> {
    values: HashMap<IpNet, T>,
    lengths: BTreeSet<u8>,
}

impl<T> Default for PrefixTable<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), lengths: BTreeSet::new() }
    }
}

impl<T> PrefixTable<T> {
    /// Adds a prefix without host bits; the value that it had before is returned.
    pub(super) fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        self.lengths.insert(prefix.prefix_len());
        self.values.insert(prefix, value)
    }

    /// The value of exactly this prefix.
    pub(super) fn get(&self, prefix: IpNet) -> Option<&T> {
        self.values.get(&prefix)
    }

    /// The value of the longest prefix that holds an address.
    pub(super) fn longest_match(&self, address: IpAddr) -> Option<&T> {
        let prefixes = self.lengths.iter().rev().filter_map(|length| IpNet::new(address, *length).ok());
        prefixes.map(|prefix| prefix.trunc()).find_map(|prefix| self.values.get(&prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut table = PrefixTable::default();
        for (value, prefix) in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"].iter().enumerate()
        {
            assert_eq!(table.insert(prefix.parse().unwrap(), value), None);
        }
        let find = |address: &str| table.longest_match(address.parse().unwrap()).copied();
        assert_eq!(find("10.1.2.3"), Some(2));
        assert_eq!(find("10.2.2.3"), Some(1));
        assert_eq!(find("192.0.2.1"), Some(0));
        assert_eq!(find("2001:db8::1"), Some(3));
        assert_eq!(find("2001:db9::1"), None);
    }
}
