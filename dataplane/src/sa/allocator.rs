//! Chooses the SPIs of inbound SAs. Used by the control side; the workers' [`super::spi_table`] reads them.
//!
//! The low bits of an SPI are an index that no other SPI in use has, so that every SA finds its slot free.
//! The bits above are random and differ from those of the SPI before at that index. Indices that were freed
//! are used again in the order in which they were freed, and only when no unused one is left: a late packet
//! of a deleted SA meets an empty slot or another SPI for as long as can be.

use std::collections::{HashSet, VecDeque};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use super::Spi;
use super::spi_table::{MAX_CAPACITY, index_bits};

/// The SPIs that are in use on our side.
#[derive(Debug)]
pub struct SpiAllocator {
    /// Selects the index in an SPI.
    mask: u32,
    capacity: u32,
    len: u32,
    /// What is known of each index.
    indices: Vec<Index>,
    /// Indices from here on were never used.
    fresh: u32,
    /// Indices that are free again, the one that was freed first in front. May hold some that a manual SPI
    /// took since.
    freed: VecDeque<u32>,
    /// Manual SPIs whose index belongs to another SPI.
    displaced: HashSet<Spi>,
    random: SystemRandom,
}

#[derive(Clone, Copy, Debug)]
struct Index {
    /// The SPI that has it, or the last that had it; 0 for none.
    spi: Spi,
    in_use: bool,
    /// It is in `freed`.
    queued: bool,
}

/// Why no SPI was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiError {
    /// As many SPIs are in use as the allocator was made for.
    #[error("all {0} SPIs are in use")]
    Exhausted(u32),
    /// Another SA has this SPI.
    #[error("SPI {0:#010x} is in use")]
    InUse(Spi),
    /// 0 to 255 are reserved by IANA (RFC 4303 s2.1).
    #[error("SPI {0:#x} is in the reserved range 0 to 255")]
    Reserved(Spi),
    /// The system's random number generator failed.
    #[error("the random number generator failed")]
    Random,
}

impl SpiAllocator {
    /// An allocator for up to `capacity` SPIs at once: as many as the workers' tables hold.
    pub fn new(capacity: u32) -> Self {
        let indices = 1 << index_bits(capacity);
        Self {
            mask: indices - 1,
            capacity: capacity.min(MAX_CAPACITY),
            len: 0,
            indices: vec![Index { spi: 0, in_use: false, queued: false }; indices as usize],
            fresh: 0,
            freed: VecDeque::new(),
            displaced: HashSet::new(),
            random: SystemRandom::new(),
        }
    }

    /// An SPI that is not in use, not reserved, and whose upper bits nobody can foretell.
    ///
    /// # Errors
    /// `Exhausted`, or `Random`.
    pub fn allocate(&mut self) -> Result<Spi, SpiError> {
        let mut bytes = [0; 4];
        self.random.fill(&mut bytes).map_err(|_| SpiError::Random)?;
        self.allocate_with(u32::from_ne_bytes(bytes))
    }

    /// As [`Self::allocate`] with randomness from the caller, for a control plane that is run in simulation.
    ///
    /// # Errors
    /// `Exhausted`.
    pub fn allocate_with(&mut self, random: u32) -> Result<Spi, SpiError> {
        let exhausted = SpiError::Exhausted(self.capacity);
        if self.len >= self.capacity {
            return Err(exhausted);
        }
        let index = self.free_index().ok_or(exhausted)?;
        let last = self.indices[index as usize].spi;
        // The random generation, or the next one that will do. 0 would be a reserved SPI.
        let generations = u32::MAX >> self.mask.count_ones();
        let spi = (0..generations)
            .map(|step| 1 + (random % generations + step) % generations)
            .map(|generation| generation << self.mask.count_ones() | index)
            .find(|spi| *spi != last && !self.displaced.contains(spi))
            .ok_or(exhausted)?;
        self.take(index, spi);
        Ok(spi)
    }

    /// Marks an SPI that was chosen elsewhere, such as that of a manual SA.
    ///
    /// # Errors
    /// `InUse`, `Reserved` or `Exhausted`.
    pub fn reserve(&mut self, spi: Spi) -> Result<(), SpiError> {
        if spi < 256 {
            return Err(SpiError::Reserved(spi));
        }
        if self.is_in_use(spi) {
            return Err(SpiError::InUse(spi));
        }
        if self.len >= self.capacity {
            return Err(SpiError::Exhausted(self.capacity));
        }
        let index = spi & self.mask;
        if self.indices[index as usize].in_use {
            self.displaced.insert(spi);
            self.len += 1;
        } else {
            self.take(index, spi);
        }
        Ok(())
    }

    /// Gives an SPI back, once no worker knows it any more. One that is not in use is left alone.
    pub fn release(&mut self, spi: Spi) {
        if self.displaced.remove(&spi) {
            self.len -= 1;
            return;
        }
        let number = spi & self.mask;
        let index = &mut self.indices[number as usize];
        if index.in_use && index.spi == spi {
            index.in_use = false;
            self.len -= 1;
            if number < self.fresh && !index.queued {
                index.queued = true;
                self.freed.push_back(number);
            }
        }
    }

    /// Whether an SA has this SPI.
    pub fn is_in_use(&self, spi: Spi) -> bool {
        let index = &self.indices[(spi & self.mask) as usize];
        (index.in_use && index.spi == spi) || self.displaced.contains(&spi)
    }

    /// SPIs in use.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no SPI is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn take(&mut self, index: u32, spi: Spi) {
        let index = &mut self.indices[index as usize];
        index.in_use = true;
        index.spi = spi;
        self.len += 1;
    }

    /// An index that is not in use; it is no longer fresh and no longer queued.
    fn free_index(&mut self) -> Option<u32> {
        while self.fresh <= self.mask {
            self.fresh += 1;
            if !self.indices[self.fresh as usize - 1].in_use {
                return Some(self.fresh - 1);
            }
        }
        while let Some(number) = self.freed.pop_front() {
            let index = &mut self.indices[number as usize];
            index.queued = false;
            if !index.in_use {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::sa::spi_table::SpiTable;

    #[test]
    fn spis_are_unique_unreserved_and_go_straight_to_their_slots() {
        let mut allocator = SpiAllocator::new(1000);
        let mut indices = BTreeSet::new();
        for _ in 0..1000 {
            let spi = allocator.allocate().unwrap();
            assert!(spi >= 256);
            assert!(indices.insert(spi % 1024), "two SPIs with one index");
        }
        assert_eq!(allocator.allocate(), Err(SpiError::Exhausted(1000)));
        assert_eq!(allocator.len(), 1000);
    }

    #[test]
    fn upper_bits_are_spread_over_their_range() {
        let mut allocator = SpiAllocator::new(4096);
        let upper: Vec<u32> = (0..4096).map(|_| allocator.allocate().unwrap() >> 12).collect();
        // Of 2^20 generations: a run of 4,096 fair draws leaves a sixteenth empty with a chance below e^-256.
        for sixteenth in 0..16 {
            assert!(upper.iter().any(|generation| generation >> 16 == sixteenth));
        }
    }

    #[test]
    fn generations_stay_in_range_for_any_random_number_and_capacity() {
        for capacity in [0, 1, 256, 257, 1 << 20, MAX_CAPACITY, u32::MAX] {
            for random in [0, 1, 255, 1 << 10, u32::MAX - 1, u32::MAX] {
                let mut allocator = SpiAllocator::new(capacity.max(1));
                let spi = allocator.allocate_with(random).unwrap();
                assert!(spi >= 256, "{spi:#x} for {capacity} and {random}");
                assert!(allocator.is_in_use(spi));
            }
        }
        assert_eq!(SpiAllocator::new(0).allocate(), Err(SpiError::Exhausted(0)));
    }

    #[test]
    fn freed_indices_wait_for_the_unused_ones_and_then_for_their_turn() {
        let mut allocator = SpiAllocator::new(256);
        let first = allocator.allocate_with(7).unwrap();
        let second = allocator.allocate_with(7).unwrap();
        allocator.release(second);
        allocator.release(first);
        for _ in 2..256 {
            let spi = allocator.allocate_with(7).unwrap();
            assert!(![first & 255, second & 255].contains(&(spi & 255)));
        }
        // Freed first, used again first, under another SPI though the random number is the same.
        let reused = allocator.allocate_with(7).unwrap();
        assert_eq!(reused & 255, second & 255);
        assert_ne!(reused, second);
        assert_eq!(allocator.allocate_with(7).unwrap() & 255, first & 255);
    }

    #[test]
    fn manual_spis_are_kept_apart() {
        let mut allocator = SpiAllocator::new(512);
        assert_eq!(allocator.reserve(255), Err(SpiError::Reserved(255)));
        allocator.reserve(0x1001).unwrap();
        assert_eq!(allocator.reserve(0x1001), Err(SpiError::InUse(0x1001)));
        // The same index, displaced.
        allocator.reserve(0x2001).unwrap();
        assert_eq!(allocator.reserve(0x2001), Err(SpiError::InUse(0x2001)));
        let chosen: Vec<_> = (0..510).map(|_| allocator.allocate().unwrap()).collect();
        assert!(chosen.iter().all(|spi| spi & 511 != 1));
        assert_eq!(allocator.reserve(chosen[0]), Err(SpiError::InUse(chosen[0])));
        assert_eq!(allocator.reserve(0x3001), Err(SpiError::Exhausted(512)));
        // Index 511 was never used, so it goes before index 1.
        allocator.release(0x1001);
        assert_eq!(allocator.allocate().unwrap() & 511, 511);
        allocator.release(chosen[0]);
        // Index 1 is free, its displaced SPI is not: generation 0x10 of index 1 is 0x2001.
        assert_eq!(allocator.allocate_with(0x10 - 1), Ok(0x2201));
    }

    #[test]
    fn releasing_twice_or_a_stranger_changes_nothing() {
        let mut allocator = SpiAllocator::new(256);
        let spi = allocator.allocate().unwrap();
        allocator.release(spi ^ 0x100);
        assert!(allocator.is_in_use(spi));
        allocator.release(spi);
        allocator.release(spi);
        assert!(allocator.is_empty());
        let spis: BTreeSet<_> = (0..256).map(|_| allocator.allocate().unwrap()).collect();
        assert_eq!(spis.len(), 256);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u32),
        Reserve(Spi),
        Release(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0u32..4).prop_map(Step::Allocate),
            1 => (256u32..1600).prop_map(Step::Reserve),
            3 => any::<prop::sample::Index>().prop_map(Step::Release),
        ];
        prop::collection::vec(step, 1..1500)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_and_fits_the_table(steps in steps()) {
            let mut allocator = SpiAllocator::new(256);
            let mut table = SpiTable::with_capacity(256);
            let mut used = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(random) => match allocator.allocate_with(random) {
                        Ok(spi) => {
                            prop_assert!(spi >= 256 && !used.contains(&spi));
                            prop_assert_eq!(table.insert(spi, ()), Ok(None));
                            used.push(spi);
                        }
                        // A displaced manual SPI shares an index, so indices are left when SPIs are not.
                        Err(error) => {
                            prop_assert_eq!(error, SpiError::Exhausted(256));
                            prop_assert_eq!(used.len(), 256);
                        }
                    },
                    Step::Reserve(spi) => {
                        let expected = match () {
                            () if used.contains(&spi) => Err(SpiError::InUse(spi)),
                            () if used.len() == 256 => Err(SpiError::Exhausted(256)),
                            () => Ok(()),
                        };
                        prop_assert_eq!(allocator.reserve(spi), expected);
                        if expected.is_ok() {
                            prop_assert_eq!(table.insert(spi, ()), Ok(None));
                            used.push(spi);
                        }
                    }
                    Step::Release(index) if !used.is_empty() => {
                        let spi = used.swap_remove(index.index(used.len()));
                        allocator.release(spi);
                        prop_assert_eq!(table.remove(spi), Some(()));
                    }
                    Step::Release(_) => {}
                }
                prop_assert_eq!(allocator.len() as usize, used.len());
            }
            prop_assert!(used.iter().all(|&spi| allocator.is_in_use(spi)));
        }
    }
}
