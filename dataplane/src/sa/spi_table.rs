//! A worker's own table of inbound SAs by SPI. No atomics: only the worker that reads it writes it.
//!
//! The low bits of an SPI are an index into the table, the bits above tell apart the SAs that have this index
//! one after the other ([`super::allocator`] chooses them so). A look-up is one array access and one
//! comparison. An SPI that was chosen elsewhere (a manual SA) takes the slot of its low bits too when that is
//! free; otherwise it goes to a few slots behind, which a hash map finds. The map has the standard library's
//! keyed hash: packets with invented SPIs cannot aim at a bucket, and while no SPI was displaced, which is
//! the rule, they never reach the map.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::Spi;
use super::slot_table::{Full, SlotTable};

/// The most SAs that a table can hold: it leaves ten bits of an SPI that are not the index.
pub const MAX_CAPACITY: u32 = 1 << 22;

/// Bits of an SPI that are the index, in tables and allocators for `capacity` SAs. At least eight, so that an
/// SPI is out of the reserved range 0 to 255 (RFC 4303 s2.1) when any other bit is set.
pub(super) fn index_bits(capacity: u32) -> u32 {
    capacity.clamp(256, MAX_CAPACITY).next_power_of_two().ilog2()
}

/// Where an SA is in the table of one worker, for as long as it is not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotIndex(NonZeroU32);

impl SlotIndex {
    /// Kept as its complement, so that an absent one takes no room and is compared in one step.
    #[inline(always)]
    fn new(index: u32) -> Option<Self> {
        NonZeroU32::new(!index).map(Self)
    }

    #[inline(always)]
    fn get(self) -> u32 {
        !self.0.get()
    }
}

/// Values by SPI. See [`SlotTable`] for what a value costs; four bytes of its first cache line are the SPI.
#[derive(Debug)]
pub struct SpiTable<T> {
    slots: SlotTable<Entry<T>>,
    /// Selects the index in an SPI.
    mask: u32,
    capacity: u32,
    /// SPIs that found their slot taken, and where they are instead.
    displaced: HashMap<Spi, u32>,
    /// Slots behind `mask` that were used and are free again.
    free: Vec<u32>,
    /// The first slot behind `mask` that was never used.
    fresh: u32,
}

#[derive(Debug)]
#[repr(C)]
struct Entry<T> {
    spi: Spi,
    value: T,
}

impl<T> SpiTable<T> {
    /// A table for up to `capacity` SAs, at most [`MAX_CAPACITY`]. Its memory grows with what is in it.
    pub fn with_capacity(capacity: u32) -> Self {
        let capacity = capacity.min(MAX_CAPACITY);
        let homes = 1 << index_bits(capacity);
        Self {
            slots: SlotTable::with_limit(homes + capacity),
            mask: homes - 1,
            capacity,
            displaced: HashMap::new(),
            free: Vec::new(),
            fresh: homes,
        }
    }

    /// The SA with this SPI.
    #[inline]
    pub fn get(&self, spi: Spi) -> Option<(SlotIndex, &T)> {
        let home = spi & self.mask;
        match self.slots.get(home) {
            Some(entry) if entry.spi == spi => Some((SlotIndex::new(home)?, &entry.value)),
            _ => {
                let index = self.displaced(spi)?;
                Some((SlotIndex::new(index)?, &self.slots.get(index)?.value))
            }
        }
    }

    /// The SA with this SPI, to change.
    #[inline]
    pub fn get_mut(&mut self, spi: Spi) -> Option<(SlotIndex, &mut T)> {
        let index = self.find(spi)?;
        Some((SlotIndex::new(index)?, &mut self.slots.get_mut(index)?.value))
    }

    /// Where the SA with this SPI is: a look-up for later.
    #[inline]
    pub fn place(&self, spi: Spi) -> Option<SlotIndex> {
        self.find(spi).and_then(SlotIndex::new)
    }

    /// The SA that a look-up found at this place.
    #[inline]
    pub fn at(&self, index: SlotIndex) -> Option<&T> {
        Some(&self.slots.get(index.get())?.value)
    }

    /// The SA that a look-up found at this place, to change.
    #[inline]
    pub fn at_mut(&mut self, index: SlotIndex) -> Option<&mut T> {
        Some(&mut self.slots.get_mut(index.get())?.value)
    }

    /// Where the SA with this SPI is, if it is at home and exists: to prefetch it, costs no access to it.
    #[inline]
    pub fn address(&self, spi: Spi) -> Option<*const u8> {
        self.slots.address(spi & self.mask)
    }

    /// Adds an SA, or replaces the one with this SPI and returns it.
    ///
    /// # Errors
    /// [`Full`] with the value when the table holds as many as it was made for.
    pub fn insert(&mut self, spi: Spi, value: T) -> Result<Option<T>, Full<T>> {
        if let Some((_, old)) = self.get_mut(spi) {
            return Ok(Some(std::mem::replace(old, value)));
        }
        if self.len() >= self.capacity {
            return Err(Full(value));
        }
        let home = spi & self.mask;
        let index = if self.slots.get(home).is_none() {
            home
        } else {
            // There are `capacity` slots behind the homes, so one is left while the table is not full.
            let index = self.free.pop().unwrap_or_else(|| {
                self.fresh += 1;
                self.fresh - 1
            });
            self.displaced.insert(spi, index);
            index
        };
        match self.slots.insert(index, Entry { spi, value }) {
            Ok(old) => Ok(old.map(|entry| entry.value)),
            Err(Full(entry)) => Err(Full(entry.value)),
        }
    }

    /// Takes an SA out.
    pub fn remove(&mut self, spi: Spi) -> Option<T> {
        let index = self.find(spi)?;
        if self.displaced.remove(&spi).is_some() {
            self.free.push(index);
        }
        Some(self.slots.remove(index)?.value)
    }

    /// SAs in the table.
    pub fn len(&self) -> u32 {
        self.slots.len()
    }

    /// Whether there is no SA.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All SAs.
    pub fn iter(&self) -> impl Iterator<Item = (Spi, &T)> {
        self.slots.iter().map(|(_, entry)| (entry.spi, &entry.value))
    }

    /// Visits SAs a few at a time; see [`SlotTable::walk`].
    pub fn walk<'t>(&'t self, from: u32, most: usize, mut visit: impl FnMut(&'t T)) -> Option<u32> {
        self.slots.walk(from, most, |_, entry| visit(&entry.value))
    }

    /// All SAs, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Spi, &mut T)> {
        self.slots.iter_mut().map(|(_, entry)| (entry.spi, &mut entry.value))
    }

    #[inline]
    fn find(&self, spi: Spi) -> Option<u32> {
        let home = spi & self.mask;
        match self.slots.get(home) {
            Some(entry) if entry.spi == spi => Some(home),
            _ => self.displaced(spi),
        }
    }

    #[inline]
    fn displaced(&self, spi: Spi) -> Option<u32> {
        if self.displaced.is_empty() { None } else { self.displaced.get(&spi).copied() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_sa_with_its_spi_takes_one_cache_line() {
        let mut table = SpiTable::with_capacity(1000);
        table.insert(0x1000, (Arc::new(0u8), [0u64; 6])).unwrap();
        table.insert(0x1001, (Arc::new(0u8), [0u64; 6])).unwrap();
        assert_eq!(table.address(0x1001).unwrap() as usize - table.address(0x1000).unwrap() as usize, 64);
    }

    #[test]
    fn another_generation_is_another_sa() {
        let mut table = SpiTable::with_capacity(256);
        table.insert(0x1234, 'a').unwrap();
        assert_eq!(table.get(0x1334), None);
        assert_eq!(table.remove(0x1334), None);
        assert_eq!(table.get(0x1234).unwrap().1, &'a');
    }

    #[test]
    fn spis_with_equal_low_bits_live_side_by_side() {
        let mut table = SpiTable::with_capacity(256);
        for generation in 1..=256u32 {
            assert_eq!(table.insert(generation << 8 | 7, generation), Ok(None));
        }
        assert_eq!(table.insert(0x10_0008, 0), Err(Full(0)), "full, though the slot is free");
        // The one at home goes; those displaced stay where they are.
        assert_eq!(table.remove(0x107), Some(1));
        for generation in 2..=256u32 {
            let (index, &value) = table.get(generation << 8 | 7).unwrap();
            assert_eq!(value, generation);
            assert_eq!(table.at(index), Some(&generation));
            assert_eq!(table.at_mut(index).copied(), Some(generation));
        }
        for generation in 2..=256u32 {
            assert_eq!(table.remove(generation << 8 | 7), Some(generation));
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_refused_value_comes_back_and_nothing_changes() {
        let mut table = SpiTable::with_capacity(1);
        table.insert(0x1001, 'a').unwrap();
        assert_eq!(table.insert(0x1002, 'b'), Err(Full('b')));
        assert_eq!(table.insert(0x1001, 'c'), Ok(Some('a')), "replacing needs no room");
        assert_eq!(table.iter().collect::<Vec<_>>(), [(0x1001, &'c')]);
    }

    #[test]
    fn an_empty_slot_does_not_answer_to_zero() {
        let mut table = SpiTable::with_capacity(256);
        assert_eq!(table.get(0), None);
        table.insert(0x100, 'a').unwrap();
        assert_eq!(table.get(0), None);
        assert_eq!(table.remove(0x100), Some('a'));
        assert_eq!(table.get(0x100), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(
            changes in prop::collection::vec((1u32..5, 0u32..24, any::<Option<u16>>()), 1..400),
        ) {
            let mut table = SpiTable::with_capacity(40);
            let mut map = BTreeMap::new();
            for (generation, index, change) in changes {
                let spi = generation << 8 | index;
                match change {
                    Some(value) if map.len() < 40 || map.contains_key(&spi) => {
                        prop_assert_eq!(table.insert(spi, value), Ok(map.insert(spi, value)));
                    }
                    Some(value) => prop_assert_eq!(table.insert(spi, value), Err(Full(value))),
                    None => prop_assert_eq!(table.remove(spi), map.remove(&spi)),
                }
                prop_assert_eq!(table.get(spi).map(|(_, value)| value), map.get(&spi));
                prop_assert_eq!(table.len() as usize, map.len());
            }
            for (&spi, value) in &mut map {
                prop_assert_eq!(table.get_mut(spi).map(|(_, value)| value), Some(value));
            }
            let mut all: Vec<_> = table.iter().map(|(spi, &value)| (spi, value)).collect();
            all.sort_unstable();
            prop_assert_eq!(&all, &map.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(table.iter_mut().count(), all.len());
        }
    }
}
