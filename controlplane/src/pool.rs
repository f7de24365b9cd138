//! Pools of numbers that must be unique: inbound SPIs and tunnels.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::time::Instant;

use dataplane::sa::allocator::SpiAllocator;
use dataplane::sa::{Spi, TunnelId};

use crate::crypto::Random;

/// SPIs below this are reserved (RFC 4303 s2.1).
const FIRST_SPI: Spi = 256;

/// Inbound SPIs in use. The low bits of one are the slot of its SA in the data plane's tables, so that a packet finds it
/// by one access; the rest is random.
#[derive(Debug)]
pub(crate) struct SpiPool {
    slots: SpiAllocator,
    /// Those that found no slot: more than the data plane has room for, which is for it to refuse.
    beyond: HashSet<Spi>,
}

impl SpiPool {
    /// For tables of this many SAs. `reserved` are in use elsewhere.
    pub fn new(capacity: u32, reserved: &[Spi]) -> Self {
        let mut pool = Self { slots: SpiAllocator::new(capacity), beyond: HashSet::new() };
        for &spi in reserved {
            if pool.slots.reserve(spi).is_err() {
                pool.beyond.insert(spi);
            }
        }
        pool
    }

    pub fn allocate(&mut self, rng: &mut dyn Random) -> Spi {
        loop {
            let mut bytes = [0; 4];
            rng.fill(&mut bytes);
            let random = Spi::from_be_bytes(bytes);
            match self.slots.allocate_with(random) {
                Ok(spi) if !self.beyond.contains(&spi) => return spi,
                Ok(spi) => self.slots.release(spi),
                Err(_)
                    if random >= FIRST_SPI && !self.slots.is_in_use(random) && self.beyond.insert(random) =>
                {
                    return random;
                }
                Err(_) => {}
            }
        }
    }

    pub fn release(&mut self, spi: Spi) {
        if !self.beyond.remove(&spi) {
            self.slots.release(spi);
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len() as usize + self.beyond.len()
    }
}

/// Tunnels in use. They are indexes of the data plane's outbound slots, so the lowest free one is taken.
///
/// A tunnel stays the same across rekeys and reauthentication. In the latter two IKE SAs have Child SAs of it for a
/// while: the holder, whose Child SA the tunnel sends on, and the heir, which takes over when it is known to be up at
/// the peer, or when the holder goes.
#[derive(Debug, Default)]
pub(crate) struct TunnelPool {
    /// Tunnels below this are not ours.
    first: u32,
    free: BTreeSet<u32>,
    /// Up to the highest in use.
    owners: Vec<Owner>,
    by_key: HashMap<u64, usize>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    /// Our SPI of the IKE SA that sends on it.
    holder: u64,
    /// Our SPI of the IKE SA that takes over; 0 for none.
    heir: u64,
    key: u64,
    since: Instant,
    /// We began the IKE SA that it came up on.
    began: bool,
    /// Inbound SAs that the data plane accepts packets on, those too that are about to be removed. While there is one
    /// the number is not given to another tunnel.
    inbound: u32,
}

/// What became of a tunnel that an IKE SA has no Child SA of any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// It is down.
    Gone,
    /// This IKE SA has it now.
    Inherited(u64),
    /// It was another's all the time.
    Kept,
}

impl TunnelPool {
    pub fn starting_at(first: u32) -> Self {
        Self { first, ..Self::default() }
    }

    /// The key of a tunnel: what is the same when its peer authenticates anew.
    pub fn key(&self, parts: impl Hash) -> u64 {
        self.hasher.hash_one(parts)
    }

    /// A new tunnel of the IKE SA `ike`.
    pub fn allocate(&mut self, ike: u64, key: u64, now: Instant, began: bool) -> TunnelId {
        let owner = Owner { holder: ike, heir: 0, key, since: now, began, inbound: 0 };
        let index = match self.free.pop_first() {
            Some(index) => {
                if let Some(slot) = self.owners.get_mut(index as usize) {
                    *slot = owner;
                }
                index
            }
            None => {
                self.owners.push(owner);
                // 2^32 tunnels do not fit into memory.
                (self.owners.len() - 1) as u32
            }
        };
        self.by_key.insert(key, index as usize);
        TunnelId(self.first + index)
    }

    fn index(&self, tunnel: TunnelId) -> Option<usize> {
        tunnel.0.checked_sub(self.first).map(|index| index as usize)
    }

    fn get(&self, tunnel: TunnelId) -> Option<&Owner> {
        self.owners.get(self.index(tunnel)?)
    }

    fn get_mut(&mut self, tunnel: TunnelId) -> Option<&mut Owner> {
        let index = self.index(tunnel)?;
        self.owners.get_mut(index)
    }

    /// The tunnel of this key that another IKE SA has had since before a moment, and that this end began, if it
    /// matters: `ike` becomes its heir.
    pub fn share(&mut self, ike: u64, key: u64, before: Instant, began: Option<bool>) -> Option<TunnelId> {
        let &index = self.by_key.get(&key)?;
        let owner = self.owners.get_mut(index)?;
        let fits = owner.since < before && began.is_none_or(|began| began == owner.began);
        if owner.holder == ike || owner.heir != 0 || !fits {
            return None;
        }
        owner.heir = ike;
        // It came from `allocate`, so it fits.
        Some(TunnelId(self.first + index as u32))
    }

    /// The heir takes over. `false` when it is none.
    pub fn take(&mut self, tunnel: TunnelId, ike: u64) -> bool {
        match self.get_mut(tunnel) {
            Some(owner) if owner.heir == ike => {
                (owner.holder, owner.heir) = (ike, 0);
                true
            }
            _ => false,
        }
    }

    /// The Child SAs of one IKE SA go over to another.
    pub fn hand_over(&mut self, tunnel: TunnelId, from: u64, to: u64) {
        if let Some(Owner { holder, heir, .. }) = self.get_mut(tunnel) {
            [holder, heir].into_iter().filter(|ike| **ike == from).for_each(|ike| *ike = to);
        }
    }

    /// The IKE SA (our SPI) that the tunnel sends by.
    pub fn owner(&self, tunnel: TunnelId) -> Option<u64> {
        self.get(tunnel).map(|owner| owner.holder)
    }

    /// Another IKE SA has the tunnel, or will have it.
    pub fn outlives(&self, tunnel: TunnelId, ike: u64) -> bool {
        self.get(tunnel).is_some_and(|owner| owner.holder != ike || owner.heir != 0)
    }

    /// An IKE SA has no Child SA of it any more.
    pub fn release(&mut self, tunnel: TunnelId, ike: u64) -> Released {
        let Some(index) = self.index(tunnel) else { return Released::Kept };
        let Some(owner) = self.owners.get_mut(index) else { return Released::Kept };
        if owner.holder != ike {
            if owner.heir == ike {
                owner.heir = 0;
            }
            return Released::Kept;
        }
        if owner.heir != 0 {
            owner.holder = std::mem::take(&mut owner.heir);
            return Released::Inherited(owner.holder);
        }
        if self.by_key.get(&owner.key) == Some(&index) {
            self.by_key.remove(&owner.key);
        }
        (owner.holder, owner.key) = (0, 0);
        if owner.inbound == 0 {
            self.give_back(index);
        }
        Released::Gone
    }

    /// The tunnel has one more inbound SA.
    pub fn hold(&mut self, tunnel: TunnelId) {
        if let Some(owner) = self.get_mut(tunnel) {
            owner.inbound += 1;
        }
    }

    /// An inbound SA of the tunnel is gone; with the last one of a tunnel that is down its number is free.
    pub fn let_go(&mut self, tunnel: TunnelId) {
        let Some(index) = self.index(tunnel) else { return };
        let Some(owner) = self.owners.get_mut(index) else { return };
        owner.inbound = owner.inbound.saturating_sub(1);
        if owner.inbound == 0 && owner.holder == 0 {
            self.give_back(index);
        }
    }

    fn give_back(&mut self, index: usize) {
        self.free.insert(index as u32);
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
    fn spis_are_unique_and_not_reserved_and_each_has_a_slot_while_there_are_some() {
        let (mut pool, mut rng) = (SpiPool::new(512, &[]), Seeded(1));
        let spis: Vec<_> = (0..1000).map(|_| pool.allocate(&mut rng)).collect();
        let distinct =
            |spis: &[Spi], mask: Spi| spis.iter().map(|spi| spi & mask).collect::<HashSet<_>>().len();
        assert_eq!((distinct(&spis, Spi::MAX), distinct(&spis[..512], 511)), (1000, 512));
        assert!(spis.iter().all(|&spi| spi >= 256));
        assert_eq!(pool.len(), 1000);
        spis.into_iter().for_each(|spi| pool.release(spi));
        assert_eq!(pool.len(), 0);
        assert_eq!(distinct(&(0..512).map(|_| pool.allocate(&mut rng)).collect::<Vec<_>>(), 511), 512);
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
        let mut pool = SpiPool::new(1 << 10, &reserved);
        let mut rng = Seeded(7);
        assert!((0..100_000).map(|_| pool.allocate(&mut rng)).all(|spi| !reserved.contains(&spi)));
    }

    #[test]
    fn tunnels_start_above_those_of_others() {
        let mut pool = TunnelPool::starting_at(7);
        let now = Instant::now();
        let (a, b) = (pool.allocate(41, 1, now, true), pool.allocate(42, 2, now, true));
        assert_eq!((a, b), (TunnelId(7), TunnelId(8)));
        assert_eq!([6, 7, 8, 9].map(|id| pool.owner(TunnelId(id))), [None, Some(41), Some(42), None]);
        assert_eq!(pool.share(43, 2, now + std::time::Duration::from_secs(1), None), Some(b));
        assert_eq!(pool.release(b, 43), Released::Kept);
        assert_eq!(pool.release(TunnelId(3), 41), Released::Kept);
        assert_eq!(pool.in_use(), 2);
    }

    #[test]
    fn tunnels_are_reused_from_the_bottom() {
        let (mut pool, now) = (TunnelPool::default(), Instant::now());
        let [a, b, c] = [1, 2, 3].map(|key| pool.allocate(7, key, now, true));
        assert_eq!(pool.release(a, 7), Released::Gone);
        assert_eq!(pool.release(b, 7), Released::Gone);
        assert_eq!(pool.in_use(), 1);
        assert_eq!(pool.allocate(7, 4, now, true), a);
        pool.release(c, 7);
        assert_eq!(pool.allocate(7, 5, now, true), b);
        pool.release(a, 7);
        pool.release(b, 7);
        assert_eq!((pool.in_use(), pool.owners.len(), pool.by_key.len()), (0, 0, 0));
    }

    #[test]
    fn a_number_is_free_when_the_last_inbound_sa_of_its_tunnel_is_gone() {
        let (mut pool, now) = (TunnelPool::default(), Instant::now());
        let tunnel = pool.allocate(1, 1, now, true);
        pool.hold(tunnel);
        pool.hold(tunnel);
        assert_eq!(pool.release(tunnel, 1), Released::Gone);
        pool.let_go(tunnel);
        let other = pool.allocate(1, 2, now, true);
        assert_ne!(other, tunnel);
        pool.let_go(tunnel);
        assert_eq!(pool.allocate(1, 3, now, true), tunnel);
        pool.hold(other);
        pool.let_go(other);
        assert_eq!(pool.owner(other), Some(1), "it is up still");
    }

    #[test]
    fn an_heir_takes_over_when_it_is_time_or_when_the_holder_goes() {
        let (mut pool, start) = (TunnelPool::default(), Instant::now());
        let now = start + std::time::Duration::from_secs(1);
        let tunnel = pool.allocate(1, 9, start, true);
        assert_eq!(pool.share(2, 9, start, Some(true)), None, "both began at once");
        assert_eq!(pool.share(2, 9, now, Some(false)), None, "each end began one");
        assert_eq!(pool.share(1, 9, now, Some(true)), None, "the holder itself");
        assert_eq!(pool.share(2, 8, now, Some(true)), None, "another key");
        assert_eq!(pool.share(2, 9, now, Some(true)), Some(tunnel));
        assert_eq!(pool.share(3, 9, now, Some(true)), None, "one heir at a time");
        assert_eq!(pool.owner(tunnel), Some(1));
        assert!(pool.outlives(tunnel, 1) && pool.outlives(tunnel, 2));
        // The heir is rekeyed and gives up, and another one comes.
        pool.hand_over(tunnel, 2, 4);
        assert_eq!(pool.release(tunnel, 2), Released::Kept);
        assert_eq!(pool.release(tunnel, 4), Released::Kept);
        assert_eq!(pool.share(3, 9, now, Some(true)), Some(tunnel));
        assert_eq!(pool.release(tunnel, 1), Released::Inherited(3));
        assert_eq!(pool.owner(tunnel), Some(3));
        assert_eq!(pool.share(5, 9, now, Some(true)), Some(tunnel));
        assert!(!pool.take(tunnel, 6) && pool.take(tunnel, 5));
        assert_eq!(pool.release(tunnel, 3), Released::Kept);
        assert_eq!(pool.release(tunnel, 5), Released::Gone);
        assert_eq!((pool.in_use(), pool.by_key.len()), (0, 0));
    }
}
