//! Sequence numbers of an outbound SA, handed out in blocks to any number of workers at once.
//!
//! An SA whose key outlives the process must not send a number twice, a crash included (RFC 4303 s5). Its numbers
//! have a ceiling: whoever keeps them writes down a higher one before he raises it here, so that what was
//! written is above everything that was sent, at any moment.

use crate::sync::{AtomicU64, Ordering};

/// The next sequence number. Workers that share an SA contend for its cache line.
#[derive(Debug)]
pub struct Sequence {
    next: AtomicU64,
    /// The highest number that may be handed out now, at most `last`.
    ceiling: AtomicU64,
    /// The highest number that there is.
    last: u64,
}

impl Sequence {
    /// Starts at 1 (RFC 4303 s3.3.3). Without ESN it ends at 2^32 - 1 and never wraps (RFC 4303 s3.3.3: the
    /// sender must not send a packet that would make the number cycle).
    pub fn new(esn: bool) -> Self {
        Self::starting_at(1, esn)
    }

    /// Starts at `first`, for an SA taken over from elsewhere. 0 is never sent, so it counts as 1.
    pub fn starting_at(first: u64, esn: bool) -> Self {
        let last = if esn { u64::MAX >> 1 } else { u64::from(u32::MAX) };
        Self { next: AtomicU64::new(first.max(1)), ceiling: AtomicU64::new(last), last }
    }

    /// Takes `count` consecutive numbers and returns the first, or `None` when fewer than `count` are left
    /// below the ceiling. A number is handed out once at most, whatever the workers do at the same time. A block
    /// that is refused is lost, and every later call is refused too, until the ceiling rises.
    #[inline]
    pub fn reserve(&self, count: u64) -> Option<u64> {
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        // The load keeps `next` from growing once the numbers are used up, the bound on `count` keeps it from
        // wrapping until then: every thread passes a ceiling once at most, and by less than 2^32.
        if count > u64::from(u32::MAX) || self.next.load(Ordering::Relaxed) > ceiling {
            return None;
        }
        // Relaxed: a number needs to be unique, not ordered with other memory. An old ceiling is a lower one.
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        (first <= ceiling && count <= ceiling - first + 1).then_some(first)
    }

    /// The number that the next block will start with. It may be above the ceiling.
    pub fn peek(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Numbers above `ceiling` are not handed out any more. The one who keeps the numbers calls this, and no two
    /// threads at once. To lower it again is of use only before the SA is installed.
    pub fn set_ceiling(&self, ceiling: u64) {
        self.ceiling.store(ceiling.min(self.last), Ordering::Relaxed);
    }

    /// Whether all numbers that there are were handed out: no ceiling can help.
    pub fn is_exhausted(&self) -> bool {
        self.peek() > self.last
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn starts_at_one_and_hands_out_blocks() {
        let sequence = Sequence::new(true);
        assert_eq!(sequence.reserve(3), Some(1));
        assert_eq!(sequence.reserve(1), Some(4));
        assert_eq!(sequence.peek(), 5);
    }

    #[test]
    fn thirty_two_bit_numbers_end_and_do_not_wrap() {
        let sequence = Sequence::starting_at(u64::from(u32::MAX) - 1, false);
        assert_eq!(sequence.reserve(3), None);
        let sequence = Sequence::starting_at(u64::from(u32::MAX) - 1, false);
        assert_eq!(sequence.reserve(2), Some(u64::from(u32::MAX) - 1));
        assert_eq!(sequence.reserve(1), None);
        assert_eq!(sequence.reserve(1), None);
    }

    #[test]
    fn esn_goes_on_past_thirty_two_bits() {
        let sequence = Sequence::starting_at(u64::from(u32::MAX), true);
        assert_eq!(sequence.reserve(2), Some(u64::from(u32::MAX)));
        assert_eq!(sequence.reserve(1), Some(u64::from(u32::MAX) + 2));
    }
    #[test]
    fn refusals_never_make_the_numbers_wrap() {
        let sequence = Sequence::starting_at(u64::MAX >> 1, true);
        assert_eq!(sequence.reserve(u64::MAX), None, "too many at once");
        assert_eq!(sequence.reserve(1), Some(u64::MAX >> 1));
        for _ in 0..1000 {
            assert_eq!(sequence.reserve(u64::from(u32::MAX)), None);
        }
        assert_eq!(sequence.peek(), (u64::MAX >> 1) + 1);
    }

    #[test]
    fn nothing_is_handed_out_above_the_ceiling() {
        let sequence = Sequence::starting_at(100, true);
        sequence.set_ceiling(103);
        assert_eq!(sequence.reserve(3), Some(100));
        assert_eq!(sequence.reserve(2), None, "103 alone is left");
        assert_eq!(sequence.reserve(1), None, "and lost with the block");
        assert!(!sequence.is_exhausted());
        sequence.set_ceiling(200);
        assert_eq!(sequence.reserve(1), Some(105), "those that were refused are not used later");
        assert_eq!(sequence.reserve(95), Some(106));
        assert_eq!(sequence.reserve(1), None);
    }

    #[test]
    fn a_ceiling_is_never_above_the_last_number() {
        let sequence = Sequence::starting_at(u64::from(u32::MAX), false);
        sequence.set_ceiling(u64::MAX);
        assert!(!sequence.is_exhausted());
        assert_eq!(sequence.reserve(1), Some(u64::from(u32::MAX)));
        assert_eq!(sequence.reserve(1), None);
        assert!(sequence.is_exhausted());
    }

    #[test]
    fn zero_is_never_sent() {
        assert_eq!(Sequence::starting_at(0, true).reserve(1), Some(1));
    }

    #[test]
    fn threads_never_get_the_same_number() {
        let sequence = Sequence::new(false);
        let mut blocks: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let take = |size: u64| (0..20_000).map(|_| (sequence.reserve(size).unwrap(), size)).collect();
            let threads: Vec<_> = [1, 3, 64].map(|size| scope.spawn(move || -> Vec<_> { take(size) })).into();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        blocks.sort_unstable();
        let end = blocks.iter().fold(1, |next, &(first, size)| {
            assert_eq!(first, next);
            first + size
        });
        assert_eq!(end, sequence.peek());
    }
}

/// Every interleaving of a few threads, under the C11 memory model.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Blocks that threads with these counts got from a 32-bit sequence with four numbers left, sorted.
    fn race(counts: &'static [&'static [u64]]) -> Vec<(u64, u64)> {
        let sequence = Arc::new(Sequence::starting_at(u64::from(u32::MAX) - 3, false));
        let threads: Vec<_> = counts
            .iter()
            .map(|&counts| {
                let sequence = Arc::clone(&sequence);
                let take = move |&count: &u64| Some((sequence.reserve(count)?, count));
                thread::spawn(move || counts.iter().filter_map(take).collect::<Vec<_>>())
            })
            .collect();
        let mut blocks: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        blocks.sort_unstable();
        blocks
    }

    fn check(blocks: &[(u64, u64)]) {
        assert!(blocks.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "overlap: {blocks:?}");
        assert!(blocks.iter().all(|&(first, count)| first + count - 1 <= u64::from(u32::MAX)), "{blocks:?}");
        assert!(blocks.first().is_none_or(|&(first, _)| first == u64::from(u32::MAX) - 3));
    }

    #[test]
    fn loom_blocks_never_overlap() {
        loom::model(|| {
            let blocks = race(&[&[2], &[1, 1]]);
            check(&blocks);
            assert_eq!(blocks.len(), 3, "all four numbers fit");
        });
    }

    #[test]
    fn loom_nothing_is_handed_out_past_the_last_number() {
        loom::model(|| check(&race(&[&[3, 1], &[2, 1]])));
    }

    #[test]
    fn loom_a_rising_ceiling_holds_at_every_moment() {
        loom::model(|| {
            let sequence = Arc::new(Sequence::new(true));
            sequence.set_ceiling(1);
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let sequence = Arc::clone(&sequence);
                    thread::spawn(move || sequence.reserve(1))
                })
                .collect();
            // What is written down before the ceiling rises is above all that was handed out.
            assert!(sequence.peek() <= 3);
            sequence.set_ceiling(2);
            let mut numbers: Vec<_> =
                workers.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
            numbers.sort_unstable();
            assert!(numbers.iter().all(|&number| number <= 2), "{numbers:?}");
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
            assert_eq!(numbers.first(), Some(&1));
        });
    }
}
