//! Inner addresses that are handed out to peers (RFC 7296 s2.19).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::PoolConfig;

/// An address in use. Whoever holds it gives it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub pool: Arc<str>,
    pub address: IpAddr,
}

/// All pools, by name.
#[derive(Debug, Default)]
pub(crate) struct Pools(HashMap<Arc<str>, Pool>);

#[derive(Debug)]
struct Pool {
    is_ipv4: bool,
    first: u128,
    last: u128,
    /// The lowest address that was never used.
    fresh: u128,
    returned: BTreeSet<u128>,
    /// By whom, and how often: once more while the same peer authenticates anew.
    used: BTreeMap<u128, (u64, u32)>,
    hasher: RandomState,
    /// Whom an address was last given to.
    remembered: HashMap<String, u128>,
    most_remembered: usize,
}

impl Pools {
    /// Each pool remembers so many peers, so that they get the same addresses again.
    pub fn new(configs: &[PoolConfig], remembered: usize) -> Self {
        let pool = |config: &PoolConfig| (config.name.clone(), Pool::new(config.prefix, remembered));
        Self(configs.iter().map(pool).collect())
    }

    /// An address of one family from the first of these pools that has one: the one that the peer asks for or had
    /// before, if it is free. `Err` when there is a pool of the family but no address left; `None` when there is
    /// no such pool.
    pub fn take(
        &mut self,
        names: &[Arc<str>],
        wanted: IpAddr,
        peer: &str,
    ) -> Result<Option<Lease>, Exhausted> {
        let mut exhausted = false;
        for name in names {
            let Some(pool) = self.0.get_mut(name).filter(|pool| pool.is_ipv4 == wanted.is_ipv4()) else {
                continue;
            };
            match pool.take(wanted, peer) {
                Some(address) => return Ok(Some(Lease { pool: name.clone(), address })),
                None => exhausted = true,
            }
        }
        if exhausted { Err(Exhausted) } else { Ok(None) }
    }

    pub fn give_back(&mut self, lease: &Lease) {
        if let Some(pool) = self.0.get_mut(&lease.pool) {
            let bits = bits(lease.address);
            match pool.used.get_mut(&bits) {
                Some((_, count @ 2..)) => *count -= 1,
                Some(_) => {
                    pool.used.remove(&bits);
                    pool.returned.insert(bits);
                }
                None => {}
            }
        }
    }

    pub fn in_use(&self) -> usize {
        self.0.values().map(|pool| pool.used.len()).sum()
    }
}

/// All addresses are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Pool {
    /// Without the network and broadcast address, where there are hosts in between.
    fn new(prefix: IpNet, most_remembered: usize) -> Self {
        let (first, last) = (bits(prefix.network()), bits(prefix.broadcast()));
        let (first, last) = if last - first > 1 { (first + 1, last - 1) } else { (first, last) };
        let is_ipv4 = prefix.addr().is_ipv4();
        let (returned, used, remembered, hasher) = Default::default();
        Self { is_ipv4, first, last, fresh: first, returned, used, remembered, most_remembered, hasher }
    }

    fn take(&mut self, wanted: IpAddr, peer: &str) -> Option<IpAddr> {
        let asked = Some(bits(wanted)).filter(|bits| (self.first..=self.last).contains(bits));
        let who = self.hasher.hash_one(peer);
        // A peer that authenticates anew asks for what it has.
        if let Some((bits, (_, count))) =
            asked.and_then(|bits| Some((bits, self.used.get_mut(&bits).filter(|(user, _)| *user == who)?)))
        {
            *count += 1;
            return Some(self.address(bits));
        }
        let free = |bits: &u128| !self.used.contains_key(bits);
        let before = self.remembered.get(peer).copied();
        let bits = asked.filter(free).or(before.filter(free)).or_else(|| self.lowest_free())?;
        self.returned.remove(&bits);
        self.used.insert(bits, (who, 1));
        if self.remembered.len() >= self.most_remembered {
            self.remembered.clear();
        }
        self.remembered.insert(peer.into(), bits);
        Some(self.address(bits))
    }

    fn address(&self, bits: u128) -> IpAddr {
        if self.is_ipv4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() }
    }

    /// An address that nobody had before, or else the lowest that was given back.
    fn lowest_free(&mut self) -> Option<u128> {
        while self.fresh <= self.last {
            let bits = self.fresh;
            self.fresh += 1;
            if !self.used.contains_key(&bits) && !self.returned.contains(&bits) {
                return Some(bits);
            }
        }
        self.returned.first().copied()
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn pools(prefixes: &[(&str, &str)]) -> (Pools, Vec<Arc<str>>) {
        remembering(100, prefixes)
    }

    fn remembering(peers: usize, prefixes: &[(&str, &str)]) -> (Pools, Vec<Arc<str>>) {
        let configs: Vec<_> = prefixes
            .iter()
            .map(|(name, prefix)| PoolConfig { name: (*name).into(), prefix: prefix.parse().unwrap() })
            .collect();
        (Pools::new(&configs, peers), configs.iter().map(|config| config.name.clone()).collect())
    }

    fn take(
        pools: &mut Pools,
        names: &[Arc<str>],
        wanted: &str,
        peer: &str,
    ) -> Result<Option<String>, Exhausted> {
        let lease = pools.take(names, wanted.parse().unwrap(), peer)?;
        Ok(lease.map(|lease| lease.address.to_string()))
    }

    #[test]
    fn addresses_are_handed_out_once_and_run_out() {
        let (mut pools, names) = pools(&[("v4", "10.9.0.0/30")]);
        let mut next = |peer| take(&mut pools, &names, "0.0.0.0", peer);
        assert_eq!(next("a"), Ok(Some("10.9.0.1".into())));
        assert_eq!(next("b"), Ok(Some("10.9.0.2".into())));
        assert_eq!(next("c"), Err(Exhausted));
        assert_eq!(take(&mut pools, &names, "::", "c"), Ok(None), "no pool of this family");
        let lease = Lease { pool: "v4".into(), address: "10.9.0.1".parse().unwrap() };
        pools.give_back(&lease);
        pools.give_back(&lease);
        assert_eq!(pools.in_use(), 1);
        assert_eq!(take(&mut pools, &names, "0.0.0.0", "c"), Ok(Some("10.9.0.1".into())));
    }

    #[test]
    fn a_peer_gets_what_it_asks_for_or_had_before() {
        let (mut pools, names) = pools(&[("v6", "2001:db8::/64")]);
        assert_eq!(take(&mut pools, &names, "2001:db8::77", "a"), Ok(Some("2001:db8::77".into())));
        assert_eq!(take(&mut pools, &names, "2001:db8::77", "b"), Ok(Some("2001:db8::1".into())));
        assert_eq!(take(&mut pools, &names, "2001:db9::77", "c"), Ok(Some("2001:db8::2".into())));
        let address = "2001:db8::77".parse().unwrap();
        pools.give_back(&Lease { pool: "v6".into(), address });
        assert_eq!(take(&mut pools, &names, "::", "a"), Ok(Some("2001:db8::77".into())));
    }

    #[test]
    fn as_many_peers_are_remembered_as_configured() {
        for (peers, same) in [(2, true), (1, false)] {
            let (mut pools, names) = remembering(peers, &[("v4", "10.9.0.0/24")]);
            let take = |pools: &mut Pools, wanted, peer| take(pools, &names, wanted, peer).unwrap().unwrap();
            assert_eq!(take(&mut pools, "10.9.0.77", "a"), "10.9.0.77");
            take(&mut pools, "0.0.0.0", "b");
            pools.give_back(&Lease { pool: "v4".into(), address: "10.9.0.77".parse().unwrap() });
            assert_eq!(take(&mut pools, "0.0.0.0", "a") == "10.9.0.77", same);
        }
    }

    #[test]
    fn a_peer_that_authenticates_anew_keeps_its_address() {
        let (mut pools, names) = pools(&[("v4", "10.9.0.0/24")]);
        assert_eq!(take(&mut pools, &names, "0.0.0.0", "a"), Ok(Some("10.9.0.1".into())));
        assert_eq!(take(&mut pools, &names, "10.9.0.1", "a"), Ok(Some("10.9.0.1".into())));
        assert_eq!(take(&mut pools, &names, "10.9.0.1", "b"), Ok(Some("10.9.0.2".into())));
        assert_eq!(take(&mut pools, &names, "0.0.0.0", "a"), Ok(Some("10.9.0.3".into())), "a second device");
        let lease = Lease { pool: "v4".into(), address: "10.9.0.1".parse().unwrap() };
        pools.give_back(&lease);
        assert_eq!(pools.in_use(), 3);
        pools.give_back(&lease);
        assert_eq!(pools.in_use(), 2);
    }

    #[test]
    fn the_next_pool_takes_over() {
        let (mut pools, names) = pools(&[("one", "10.9.0.1/32"), ("two", "10.8.0.0/24")]);
        assert_eq!(pools.take(&names, ANY, "a").unwrap().unwrap().pool, "one".into());
        assert_eq!(pools.take(&names, ANY, "b").unwrap().unwrap().address, IpAddr::from([10, 8, 0, 1]));
    }
}
