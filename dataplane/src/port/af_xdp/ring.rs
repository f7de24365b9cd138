//! The four rings of an AF_XDP socket (Linux Documentation/networking/af_xdp.rst): single producer, single
//! consumer, shared with the kernel. We produce on `fill` and `tx` and consume from `rx` and `completion`.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::sys::Mapping;

/// What both ends have.
struct Ring<T> {
    /// Index of the next entry to write, counted without wrapping at the ring's size.
    producer: NonNull<u32>,
    /// Index of the next entry to read.
    consumer: NonNull<u32>,
    flags: NonNull<u32>,
    entries: NonNull<T>,
    /// A power of two.
    size: u32,
    _map: Mapping,
    _entry: PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    fn map(
        fd: &impl AsRawFd,
        size: u32,
        offsets: &libc::xdp_ring_offset,
        page_offset: libc::off_t,
    ) -> io::Result<Self> {
        let len = offsets.desc as usize + size as usize * size_of::<T>();
        let map = Mapping::new(fd, len, page_offset)?;
        let word = |offset: u64| {
            let fits = size.is_power_of_two() && offset.is_multiple_of(4) && offset + 4 <= len as u64;
            // SAFETY: the offset was just checked to lie within the mapping.
            fits.then(|| unsafe { map.base().add(offset as usize).cast() })
                .ok_or_else(|| io::Error::other("the kernel gave an impossible ring layout"))
        };
        let (producer, consumer) = (word(offsets.producer)?, word(offsets.consumer)?);
        let flags = word(offsets.flags)?;
        // SAFETY: the mapping is `desc` bytes and the entries long.
        let entries = unsafe { map.base().add(offsets.desc as usize).cast() };
        Ok(Self { producer, consumer, flags, entries, size, _map: map, _entry: PhantomData })
    }

    #[inline]
    fn word(&self, word: NonNull<u32>) -> &AtomicU32 {
        // SAFETY: the words lie within the mapping, which lives as long as `self`, are aligned to 4 bytes, and
        // both sides access them atomically only.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }
    }

    #[inline]
    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below `size`.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }

    /// Whether the kernel asks to be called when there is something new.
    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.word(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The end of a ring that entries are put into.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Next entry to write; the kernel knows of those before the last [`Producer::commit`].
    head: u32,
    /// The consumer's index when last looked at.
    tail: u32,
}

impl<T: Copy> Producer<T> {
    /// Maps a ring of `size` entries, a power of two, whose entries have the type `T`.
    pub(super) fn map(
        fd: &impl AsRawFd,
        size: u32,
        offsets: &libc::xdp_ring_offset,
        page_offset: libc::off_t,
    ) -> io::Result<Self> {
        Ring::map(fd, size, offsets, page_offset).map(|ring| Self { ring, head: 0, tail: 0 })
    }

    /// Free entries, at least `wanted` of them if there are so many.
    #[inline]
    pub(super) fn free(&mut self, wanted: u32) -> u32 {
        let free = self.ring.size - self.head.wrapping_sub(self.tail);
        if free >= wanted {
            return free;
        }
        // Acquiring keeps our writes to entries behind the consumer's reads of what was there.
        self.tail = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.ring.size - self.head.wrapping_sub(self.tail)
    }

    /// Puts an entry in, if there is room. The kernel sees it after [`Producer::commit`].
    #[inline]
    pub(super) fn push(&mut self, value: T) -> bool {
        if self.free(1) == 0 {
            return false;
        }
        // SAFETY: the entry lies within the mapping, and is ours while it is not committed.
        unsafe { self.ring.entry(self.head).write(value) };
        self.head = self.head.wrapping_add(1);
        true
    }

    /// Shows the kernel what was pushed.
    #[inline]
    pub(super) fn commit(&mut self) {
        // Releasing makes the entries visible before the index.
        self.ring.word(self.ring.producer).store(self.head, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet.
    #[inline]
    pub(super) fn pending(&mut self) -> u32 {
        self.tail = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.head.wrapping_sub(self.tail)
    }

    /// Whether the kernel asks to be called when there is something new.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The end of a ring that entries are taken from.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// Next entry to read; the kernel knows that those before the last [`Consumer::release`] are free.
    tail: u32,
    /// The producer's index when last looked at.
    head: u32,
}

impl<T: Copy> Consumer<T> {
    /// Maps a ring of `size` entries, a power of two, whose entries have the type `T`.
    pub(super) fn map(
        fd: &impl AsRawFd,
        size: u32,
        offsets: &libc::xdp_ring_offset,
        page_offset: libc::off_t,
    ) -> io::Result<Self> {
        Ring::map(fd, size, offsets, page_offset).map(|ring| Self { ring, tail: 0, head: 0 })
    }

    /// Takes an entry out, if there is one.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.tail == self.head {
            // Acquiring makes the entries before the index visible.
            self.head = self.ring.word(self.ring.producer).load(Ordering::Acquire);
            if self.tail == self.head {
                return None;
            }
        }
        // SAFETY: the entry lies within the mapping, was written by the producer, and is ours until released.
        let value = unsafe { self.ring.entry(self.tail).read() };
        self.tail = self.tail.wrapping_add(1);
        Some(value)
    }

    /// Gives the room of what was popped back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        // Releasing keeps our reads of the entries before the producer's next writes to them.
        self.ring.word(self.ring.consumer).store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 8;
    const OFFSETS: libc::xdp_ring_offset =
        libc::xdp_ring_offset { producer: 0, consumer: 64, flags: 128, desc: 192 };

    /// Both ends of one ring, in a file instead of the kernel.
    fn pair() -> (Producer<u64>, Consumer<u64>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        (Producer::map(&file, SIZE, &OFFSETS, 0).unwrap(), Consumer::map(&file, SIZE, &OFFSETS, 0).unwrap())
    }

    #[test]
    fn entries_cross_in_order_and_only_when_committed() {
        let (mut producer, mut consumer) = pair();
        assert!(producer.push(1) && producer.push(2));
        assert_eq!(consumer.pop(), None);
        producer.commit();
        assert_eq!(producer.pending(), 2);
        assert_eq!((consumer.pop(), consumer.pop(), consumer.pop()), (Some(1), Some(2), None));
        assert_eq!(producer.pending(), 2, "not released yet");
        consumer.release();
        assert_eq!(producer.pending(), 0);
    }

    #[test]
    fn a_full_ring_takes_nothing_until_room_is_released() {
        let (mut producer, mut consumer) = pair();
        for round in 0..1000 {
            for n in 0..u64::from(SIZE) {
                assert!(producer.push(round + n));
            }
            producer.commit();
            assert!(!producer.push(99));
            assert_eq!(producer.free(1), 0);
            for n in 0..u64::from(SIZE) {
                assert_eq!(consumer.pop(), Some(round + n));
            }
            assert!(!producer.push(99), "not released yet");
            consumer.release();
            assert_eq!(producer.free(SIZE), SIZE);
        }
    }

    #[test]
    fn indices_wrap() {
        let (mut producer, mut consumer) = pair();
        (producer.head, producer.tail, consumer.head, consumer.tail) =
            (u32::MAX - 2, u32::MAX - 2, u32::MAX - 2, u32::MAX - 2);
        producer.ring.word(producer.ring.consumer).store(u32::MAX - 2, Ordering::Relaxed);
        for n in 0..8 {
            assert!(producer.push(n));
        }
        assert!(!producer.push(8));
        producer.commit();
        assert_eq!(std::iter::from_fn(|| consumer.pop()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
        consumer.release();
        assert_eq!((producer.pending(), producer.free(8)), (0, 8));
    }

    #[test]
    fn nothing_is_torn_or_lost_across_threads() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let mut producer = Producer::<u64>::map(&file, SIZE, &OFFSETS, 0).unwrap();
        let reader = std::thread::spawn(move || {
            let mut consumer = Consumer::<u64>::map(&file, SIZE, &OFFSETS, 0).unwrap();
            let mut next = 0;
            while next < 20_000 {
                match consumer.pop() {
                    Some(value) => {
                        assert_eq!(value, next);
                        next += 1;
                        consumer.release();
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
        for n in 0..20_000 {
            while !producer.push(n) {
                std::thread::yield_now();
            }
            producer.commit();
        }
        reader.join().unwrap();
    }

    #[test]
    fn an_impossible_layout_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        for offsets in [
            libc::xdp_ring_offset { producer: 1, ..OFFSETS },
            libc::xdp_ring_offset { flags: 1 << 20, ..OFFSETS },
        ] {
            assert!(Producer::<u64>::map(&file, SIZE, &offsets, 0).is_err());
        }
        assert!(Consumer::<u64>::map(&file, 7, &OFFSETS, 0).is_err());
    }
}
