//! An array of optional values whose memory comes in small chunks, when it is first needed.
//!
//! A worker's tables have room for the most SAs that the configuration allows, but only those that exist
//! take memory, and an insert never moves the others: it costs at most one chunk.

/// Slots in a chunk. 64 slots of two cache lines are two pages: about a microsecond to allocate.
const CHUNK: u32 = 64;

type Chunk<T> = Box<[Slot<T>; CHUNK as usize]>;

/// A value, starting on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Slot<T>(Option<T>);

/// Values by index, of one worker. An access is two loads: the directory (8 bytes for 64 slots, so it stays
/// in the cache) and the slot.
///
/// A value takes whole cache lines. It fits into one when it is no larger than 64 bytes and its type leaves
/// `Option` a niche, as an `Arc` in it does.
#[derive(Debug)]
pub struct SlotTable<T> {
    chunks: Box<[Option<Chunk<T>>]>,
    limit: u32,
    len: u32,
}

/// The table has no room for this value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the table is full")]
pub struct Full<T>(pub T);

impl<T> SlotTable<T> {
    /// A table for the indices below `limit`.
    pub fn with_limit(limit: u32) -> Self {
        Self { chunks: (0..limit.div_ceil(CHUNK)).map(|_| None).collect(), limit, len: 0 }
    }

    /// The value at `index`.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get((index / CHUNK) as usize)?.as_ref()?[(index % CHUNK) as usize].0.as_ref()
    }

    /// The value at `index`, to change.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.chunks.get_mut((index / CHUNK) as usize)?.as_mut()?[(index % CHUNK) as usize].0.as_mut()
    }

    /// Where the value at `index` is or would be, to prefetch it. `None` when no value was near it yet.
    #[inline]
    pub fn address(&self, index: u32) -> Option<*const u8> {
        let chunk = self.chunks.get((index / CHUNK) as usize)?.as_ref()?;
        Some(std::ptr::from_ref(&chunk[(index % CHUNK) as usize]).cast())
    }

    /// Puts a value at `index` and returns the one that was there.
    ///
    /// # Errors
    /// [`Full`] with the value when the index is not below the limit.
    pub fn insert(&mut self, index: u32, value: T) -> Result<Option<T>, Full<T>> {
        if index >= self.limit {
            return Err(Full(value));
        }
        let Some(chunk) = self.chunks.get_mut((index / CHUNK) as usize) else { return Err(Full(value)) };
        let chunk = chunk.get_or_insert_with(|| Box::new(std::array::from_fn(|_| Slot(None))));
        let old = chunk[(index % CHUNK) as usize].0.replace(value);
        self.len += u32::from(old.is_none());
        Ok(old)
    }

    /// Takes the value at `index` out.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let chunk = self.chunks.get_mut((index / CHUNK) as usize)?.as_mut()?;
        let old = chunk[(index % CHUNK) as usize].0.take();
        self.len -= u32::from(old.is_some());
        old
    }

    /// Values in the table.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first index that is out of range.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// All values by index. Costs a step for every slot of every chunk in use.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().zip(0..).filter_map(|(chunk, number)| Some((chunk.as_ref()?, number))).flat_map(
            |(chunk, number)| {
                chunk
                    .iter()
                    .zip(0..)
                    .filter_map(move |(slot, i)| Some((number * CHUNK + i, slot.0.as_ref()?)))
            },
        )
    }

    /// Visits values by index from `from` on, until `most` values or 4,096 slots were looked at, so that no step is
    /// long. Returns where to go on, `None` at the end.
    pub fn walk<'t>(&'t self, from: u32, most: usize, mut visit: impl FnMut(u32, &'t T)) -> Option<u32> {
        const STEP: u32 = 4096;
        let end = self.limit.min(from.saturating_add(STEP));
        let mut left = most;
        let mut index = from;
        while index < end {
            if left == 0 {
                return Some(index);
            }
            if !matches!(self.chunks.get((index / CHUNK) as usize), Some(Some(_))) {
                index = (index / CHUNK + 1) * CHUNK;
                continue;
            }
            if let Some(value) = self.get(index) {
                visit(index, value);
                left -= 1;
            }
            index += 1;
        }
        (end < self.limit).then_some(end)
    }

    /// All values by index, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.chunks
            .iter_mut()
            .zip(0..)
            .filter_map(|(chunk, number)| Some((chunk.as_mut()?, number)))
            .flat_map(|(chunk, number)| {
                let slots = chunk.iter_mut().zip(0..);
                slots.filter_map(move |(slot, i)| Some((number * CHUNK + i, slot.0.as_mut()?)))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_value_takes_one_cache_line() {
        assert_eq!(size_of::<Slot<(Arc<u8>, [u64; 7])>>(), 64);
        assert_eq!(align_of::<Slot<u8>>(), 64);
    }

    #[test]
    fn limit_is_kept_inside_the_last_chunk() {
        let mut table = SlotTable::with_limit(65);
        assert_eq!(table.insert(64, 'a'), Ok(None));
        assert_eq!(table.insert(65, 'b'), Err(Full('b')));
        assert_eq!(table.insert(u32::MAX, 'b'), Err(Full('b')));
        assert_eq!(table.get(u32::MAX), None);
        assert_eq!((table.len(), table.limit()), (1, 65));
    }

    #[test]
    fn a_large_table_takes_memory_only_for_what_is_in_it() {
        let mut table = SlotTable::with_limit(1 << 20);
        table.insert(999_999, 1u64).unwrap();
        assert_eq!(table.chunks.iter().flatten().count(), 1);
        assert!(table.address(5).is_none());
        assert_eq!(table.address(999_999).unwrap() as usize % 64, 0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(changes in prop::collection::vec((0u32..300, any::<Option<u16>>()), 1..300)) {
            let mut table = SlotTable::with_limit(300);
            let mut map = BTreeMap::new();
            for (index, change) in changes {
                match change {
                    Some(value) => prop_assert_eq!(table.insert(index, value), Ok(map.insert(index, value))),
                    None => prop_assert_eq!(table.remove(index), map.remove(&index)),
                }
                prop_assert_eq!(table.get(index), map.get(&index));
                prop_assert_eq!(table.len() as usize, map.len());
                prop_assert_eq!(table.is_empty(), map.is_empty());
            }
            prop_assert!(table.iter().eq(map.iter().map(|(&index, value)| (index, value))));
            prop_assert!(table.iter_mut().eq(map.iter_mut().map(|(&index, value)| (index, value))));
        }
    }
}
