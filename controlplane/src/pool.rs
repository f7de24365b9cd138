//! Pools of numbers that must be unique: inbound SPIs and tunnels.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use dataplane::sa::{Spi, TunnelId};

use crate::crypto::Random;

/// SPIs below this are reserved (RFC 4303 s2.1).
const FIRST_SPI: Spi = 256;

/// Inbound SPIs in use. They are random, so that nobody off the path can guess one.
#[derive(Debug, Default)]
pub(crate) struct SpiPool {
    used: HashSet<Spi>,
}

impl SpiPool {
    /// Without these, which are in use elsewhere.
    pub fn without(reserved: &[Spi]) -> Self {
        Self { used: reserved.iter().copied().collect() }
    }

    pub fn allocate(&mut self, rng: &mut dyn Random) -> Spi {
        loop {
            let mut bytes = [0; 4];
            rng.fill(&mut bytes);
            let spi = Spi::from_be_bytes(bytes);
            if spi >= FIRST_SPI && self.used.insert(spi) {
                return spi;
            }
        }
    }

    pub fn release(&mut self, spi: Spi) {
        self.used.remove(&spi);
    }

    pub fn len(&self) -> usize {
        self.used.len()
    }
}

/// Tunnels in use. They are indexes of the data plane's outbound slots, so the lowest free one is taken.
#[derive(Debug, Default)]
pub(crate) struct TunnelPool {
    /// Tunnels below this are not ours.
    first: u32,
    free: BTreeSet<u32>,
    /// The IKE SA of each tunnel from the first to the highest in use.
    owners: Vec<u64>,
}

impl TunnelPool {
    pub fn starting_at(first: u32) -> Self {
        Self { first, ..Self::default() }
    }

    pub fn allocate(&mut self) -> TunnelId {
        let index = self.free.pop_first().unwrap_or_else(|| {
            self.owners.push(0);
            // 2^32 tunnels do not fit into memory.
            (self.owners.len() - 1) as u32
        });
        TunnelId(self.first + index)
    }

    /// The IKE SA (our SPI) that has the tunnel's Child SAs.
    pub fn set_owner(&mut self, tunnel: TunnelId, ike: u64) {
        if let Some(owner) = self.index(tunnel).and_then(|index| self.owners.get_mut(index)) {
            *owner = ike;
        }
    }

    pub fn owner(&self, tunnel: TunnelId) -> Option<u64> {
        self.index(tunnel).and_then(|index| self.owners.get(index)).copied()
    }

    fn index(&self, tunnel: TunnelId) -> Option<usize> {
        tunnel.0.checked_sub(self.first).map(|index| index as usize)
    }

    pub fn release(&mut self, tunnel: TunnelId) {
        let Some(index) = tunnel.0.checked_sub(self.first) else { return };
        self.free.insert(index);
        while self.owners.len().checked_sub(1).is_some_and(|last| self.free.remove(&(last as u32))) {
            self.owners.pop();
        }
    }

    pub fn in_use(&self) -> usize {
        self.owners.len() - self.free.len()
    }
}

/// IKE SAs by the name of their connection.
#[derive(Debug, Default)]
pub(crate) struct ByConnection {
    spis: HashMap<Arc<str>, BTreeSet<u64>>,
    names: HashMap<u64, Arc<str>>,
}

impl ByConnection {
    /// The IKE SA belongs to this connection, or to none.
    pub fn set(&mut self, spi: u64, name: Option<&Arc<str>>) {
        if self.names.get(&spi) == name {
            return;
        }
        if let Some(before) = self.names.remove(&spi)
            && let Some(spis) = self.spis.get_mut(&before)
        {
            spis.remove(&spi);
            if spis.is_empty() {
                self.spis.remove(&before);
            }
        }
        if let Some(name) = name {
            self.names.insert(spi, name.clone());
            self.spis.entry(name.clone()).or_default().insert(spi);
        }
    }

    /// Our SPIs of the connection's IKE SAs, in ascending order.
    pub fn of(&self, name: &str) -> impl Iterator<Item = u64> {
        self.spis.get(name).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Seeded;

    #[test]
    fn spis_are_unique_and_not_reserved() {
        let (mut pool, mut rng) = (SpiPool::default(), Seeded(1));
        let spis: HashSet<_> = (0..1000).map(|_| pool.allocate(&mut rng)).collect();
        assert_eq!(spis.len(), 1000);
        assert!(spis.iter().all(|&spi| spi >= 256));
        spis.into_iter().for_each(|spi| pool.release(spi));
        assert_eq!(pool.len(), 0);
    }

    #[test]
    fn connections_know_their_ike_sas() {
        let (net, lan): (Arc<str>, Arc<str>) = ("net".into(), "lan".into());
        let mut index = ByConnection::default();
        index.set(2, Some(&net));
        index.set(1, Some(&net));
        index.set(3, Some(&lan));
        index.set(3, Some(&net));
        assert_eq!(index.of("net").collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(index.of("lan").count(), 0);
        (1..4).for_each(|spi| index.set(spi, None));
        assert!(index.spis.is_empty() && index.names.is_empty());
    }

    #[test]
    fn reserved_spis_are_never_given() {
        let reserved: Vec<_> = (256..u32::from(u16::MAX)).collect();
        let mut pool = SpiPool::without(&reserved);
        let mut rng = Seeded(7);
        assert!((0..100_000).map(|_| pool.allocate(&mut rng)).all(|spi| !reserved.contains(&spi)));
    }

    #[test]
    fn tunnels_start_above_those_of_others() {
        let mut pool = TunnelPool::starting_at(7);
        let (a, b) = (pool.allocate(), pool.allocate());
        assert_eq!((a, b), (TunnelId(7), TunnelId(8)));
        pool.set_owner(b, 42);
        assert_eq!([6, 7, 8, 9].map(|id| pool.owner(TunnelId(id))), [None, Some(0), Some(42), None]);
        pool.release(TunnelId(3));
        assert_eq!(pool.in_use(), 2);
    }

    #[test]
    fn tunnels_are_reused_from_the_bottom() {
        let mut pool = TunnelPool::default();
        let [a, b, c] = [pool.allocate(), pool.allocate(), pool.allocate()];
        pool.release(a);
        pool.release(b);
        assert_eq!(pool.in_use(), 1);
        assert_eq!(pool.allocate(), a);
        pool.release(c);
        assert_eq!(pool.allocate(), b);
        pool.release(a);
        pool.release(b);
        assert_eq!((pool.in_use(), pool.owners.len()), (0, 0));
    }
}
