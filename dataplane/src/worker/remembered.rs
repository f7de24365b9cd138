//! What a worker remembers of addresses, so that it need not ask its tables again: a cache whose entries are good as long
//! as the tables stay what they are.

use crate::buffer::{LINE, prefetch};
use crate::packet::address::Address;

/// Entries that an address can be in. With two, a few hundred addresses would push each other out now and then.
const WAYS: usize = 4;

/// What entries are found by.
pub(super) trait Key: Copy + Eq {
    /// Bits that differ between keys.
    fn spread(self) -> u32;
}

impl Key for u32 {
    #[inline(always)]
    fn spread(self) -> u32 {
        self.wrapping_mul(0x9e37_79b9)
    }
}

impl Key for Address {
    #[inline(always)]
    fn spread(self) -> u32 {
        (Address::spread(self) >> 32) as u32
    }
}

/// A cache by address of a fixed size. A scan can only push out what is asked for again.
pub(super) struct Remembered<K, V> {
    sets: Box<[Set<K, V>]>,
    /// How far a key's spread is shifted to be the number of a set.
    shift: u32,
    /// What the entries that are good hold of [`Self::epoch`]; never 0.
    tag: u32,
    epoch: u64,
    /// The way that is given up next.
    victim: usize,
}

/// With entries of 16 bytes it is a cache line.
#[derive(Clone)]
#[repr(align(64))]
struct Set<K, V>([Entry<K, V>; WAYS]);

#[derive(Clone, Copy)]
struct Entry<K, V> {
    key: K,
    /// 0 when there is nothing here.
    tag: u32,
    value: V,
}

impl<K: Key, V: Copy> Remembered<K, V> {
    /// Remembers up to four times `sets` addresses; `sets` is a power of two. `key` and `value` are any.
    pub(super) fn new(sets: usize, key: K, value: V) -> Self {
        debug_assert!(sets.is_power_of_two() && sets > 1);
        let empty = Set([Entry { key, tag: 0, value }; WAYS]);
        Self {
            sets: vec![empty; sets].into_boxed_slice(),
            shift: u32::BITS - sets.ilog2(),
            tag: 1,
            epoch: 0,
            victim: 0,
        }
    }

    /// What was remembered of an address in this epoch.
    #[inline(always)]
    pub(super) fn find(&self, key: K, epoch: u64) -> Option<&V> {
        if self.epoch != epoch {
            return None;
        }
        let set = self.sets.get((key.spread() >> self.shift) as usize)?;
        let entry = set.0.iter().find(|entry| entry.key == key && entry.tag == self.tag)?;
        Some(&entry.value)
    }

    /// Asks for the entries that an address can be in.
    #[inline(always)]
    pub(super) fn prefetch(&self, key: K) {
        if let Some(set) = self.sets.get((key.spread() >> self.shift) as usize) {
            prefetch(set, LINE);
        }
    }

    /// Remembers this until the epoch changes. Epochs never come again.
    pub(super) fn remember(&mut self, key: K, epoch: u64, value: V) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.tag = self.next_tag();
        }
        let (tag, victim) = (self.tag, self.victim);
        let Some(Set(entries)) = self.sets.get_mut((key.spread() >> self.shift) as usize) else { return };
        let same = entries.iter().position(|entry| entry.key == key && entry.tag == tag);
        let place = same.or_else(|| entries.iter().position(|entry| entry.tag != tag)).unwrap_or_else(|| {
            self.victim = (victim + 1) % WAYS;
            victim
        });
        if let Some(entry) = entries.get_mut(place) {
            *entry = Entry { key, tag, value };
        }
    }

    /// A tag that no entry has. Once in 2^32 epochs all that is remembered is forgotten for it.
    fn next_tag(&mut self) -> u32 {
        self.tag.checked_add(1).unwrap_or_else(|| {
            for Set(entries) in &mut self.sets {
                entries.iter_mut().for_each(|entry| entry.tag = 0);
            }
            1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_until_the_epoch_changes() {
        let mut cache = Remembered::new(16, 0u32, 0u64);
        assert_eq!(cache.find(0, 0), None, "an empty entry is no entry");
        assert_eq!(cache.find(7, 1), None);
        cache.remember(7, 1, 70);
        cache.remember(7, 1, 71);
        cache.remember(8, 1, 80);
        assert_eq!((cache.find(7, 1), cache.find(8, 1), cache.find(9, 1)), (Some(&71), Some(&80), None));
        assert_eq!(cache.find(7, 2), None);
        cache.remember(8, 2, 82);
        assert_eq!((cache.find(7, 2), cache.find(8, 2), cache.find(8, 1)), (None, Some(&82), None));
    }

    #[test]
    fn a_set_gives_up_one_entry_at_a_time() {
        let mut cache = Remembered::new(2, 0u32, 0u32);
        // All in one set.
        let keys: Vec<u32> = (0..1000u32).filter(|key| Key::spread(*key) >> 31 == 0).take(WAYS + 1).collect();
        for &key in &keys {
            cache.remember(key, 1, key);
        }
        let known = keys.iter().filter(|&&key| cache.find(key, 1) == Some(&key)).count();
        assert_eq!((known, cache.find(keys[WAYS], 1)), (WAYS, Some(&keys[WAYS])));
    }

    #[test]
    fn nothing_comes_back_when_the_tags_begin_again() {
        let mut cache = Remembered::new(16, 0u32, 0u32);
        cache.remember(1, 1, 10);
        let tag = cache.tag;
        cache.tag = u32::MAX;
        cache.remember(2, 2, 20);
        assert_eq!((cache.tag, cache.find(2, 2)), (1, Some(&20)));
        while cache.tag != tag {
            let epoch = cache.epoch + 1;
            cache.remember(3, epoch, 30);
        }
        assert_eq!(cache.find(1, cache.epoch), None);
    }

    #[test]
    fn versions_are_told_apart() {
        let [v4, v6] = [Address::v4([10, 0, 0, 1]), {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&[10, 0, 0, 1]);
            Address::v6(octets)
        }];
        let mut cache = Remembered::new(16, v4, 0u8);
        cache.remember(v4, 1, 4);
        assert_eq!(cache.find(v6, 1), None);
        cache.remember(v6, 1, 6);
        assert_eq!((cache.find(v4, 1), cache.find(v6, 1)), (Some(&4), Some(&6)));
    }
}
