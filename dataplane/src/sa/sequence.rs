//! Sequence numbers of an outbound SA, handed out in blocks to any number of workers at once.

use crate::sync::{AtomicU64, Ordering};

/// The next sequence number, alone on its cache line.
#[derive(Debug)]
#[repr(align(64))]
pub struct Sequence {
    next: AtomicU64,
    last: u64,
}

impl Sequence {
    /// Starts at 1 (RFC 4303 s3.3.3). Without ESN it ends at 2^32 - 1 and never wraps (RFC 4303 s3.3.3: the
    /// sender must not send a packet that would make the number cycle).
    pub fn new(esn: bool) -> Self {
        Self::starting_at(1, esn)
    }

    /// Starts at `first`, for an SA taken over from elsewhere.
    pub fn starting_at(first: u64, esn: bool) -> Self {
        let last = if esn { u64::MAX >> 1 } else { u64::from(u32::MAX) };
        Self { next: AtomicU64::new(first), last }
    }

    /// Takes `count` consecutive numbers and returns the first, or `None` when fewer than `count` are left.
    /// A number is handed out once at most, whatever the workers do at the same time.
    #[inline]
    pub fn reserve(&self, count: u64) -> Option<u64> {
        // Relaxed: a number needs to be unique, not ordered with other memory. A refused block is lost, which
        // cannot make `next` overflow: `last` leaves room for 2^63 refusals.
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        (first <= self.last && count <= self.last - first + 1).then_some(first)
    }

    /// The number that the next block will start with.
    pub fn peek(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
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
}
