//! The anti-replay window of an inbound SA (RFC 4303 s3.4.3, RFC 4302 s3.4.3), shared by all workers.
//!
//! # How it works
//!
//! Sequence numbers are kept in words of 32. Word `k` holds the numbers `32k` to `32k + 31` and lives in slot
//! `k mod R` of a ring of `R` slots; `k div R` is its round. A slot is one atomic: the lower 32 bits of the
//! round as a tag, and a bitmap of the numbers that were accepted. A tag of an earlier round means that the
//! word is empty. So words that the window slides over need no clearing, and a number is claimed by one
//! compare-and-swap. `head` is the highest word in which a number was claimed, so it is written once in 32
//! packets of an ordered flow. The highest number `T` is the highest bit of that word.
//!
//! # Why no number is accepted twice
//!
//! [`ReplayWindow::accept`] loads the slot (acquire), then `head`, refuses what is left of the window, and
//! swaps exactly the value it loaded (release). Whoever writes round `r` into a slot has raised `head` to
//! that word before. So a thread that loads a slot of a later round than its number's also sees a `head` at
//! least `R` words ahead of its number, and refuses it, because the ring is at least a word longer than the
//! window: `32 R >= W + 32`. Hence the rounds in a slot never go back; within a round bits are only ever
//! added; and a number whose bit was lost to a later round is refused from then on.
//!
//! # Why no number inside the window is refused
//!
//! A number is refused as too old only when a number at least `W` higher is claimed, or is being claimed by
//! a thread that has verified its ICV. It is refused as a duplicate only when its bit is set in a slot with
//! its tag. That bit was set in its own round, unless the slot had not been written for 2^32 rounds, which is
//! at least 2^39 numbers. One packet moves the window by less than 2^32 numbers ([`ReplayWindow::infer`]), so
//! a peer would have to jump more than a hundred times, past this slot each time, and would lose its own packets.
//!
//! The proofs are checked: models of every interleaving under loom, and a comparison with a naive window.

use std::num::NonZeroU64;

use crate::drops::DropReason;
use crate::sync::{AtomicU64, Ordering};

/// Sequence numbers in a word of the ring.
const WORD: u64 = 32;

/// Mask of a slot's bitmap; the other half is the tag.
const BITMAP: u64 = u32::MAX as u64;

/// The numbers of one SA that were received, in a window below the highest. Memory: `size / 4` bytes.
#[derive(Debug)]
#[repr(align(64))]
pub struct ReplayWindow {
    /// The highest word with a claimed number.
    head: AtomicU64,
    /// Numbers in the window.
    size: u64,
    /// Slots in the ring: R.
    slots: NonZeroU64,
    ring: Box<[AtomicU64]>,
    esn: bool,
}

impl ReplayWindow {
    /// The smallest window. RFC 4303 s3.4.3: 32 MUST be supported, 64 is preferred and SHOULD be the default.
    pub const MIN_SIZE: u32 = 64;

    /// The largest window: 16 kB an SA.
    pub const MAX_SIZE: u32 = 65_536;

    /// An empty window of `size` numbers, brought into [`Self::MIN_SIZE`]`..=`[`Self::MAX_SIZE`]. With `esn`
    /// the numbers have 64 bits (RFC 4303 s2.2.1).
    pub fn new(size: u32, esn: bool) -> Self {
        Self::starting_at(0, size, esn)
    }

    /// A window for an SA that is taken over from elsewhere: every number up to `top` counts as received.
    pub fn starting_at(top: u64, size: u32, esn: bool) -> Self {
        let size = u64::from(size.clamp(Self::MIN_SIZE, Self::MAX_SIZE));
        let slots = NonZeroU64::MIN.saturating_add(size.div_ceil(WORD));
        let head = top / WORD;
        let mut ring: Vec<u64> = vec![0; slots.get() as usize];
        for word in head.saturating_sub(slots.get() - 1)..=head {
            let (slot, tag) = locate(word, slots);
            ring[slot] = tag | if word == head { BITMAP >> (WORD - 1 - top % WORD) } else { BITMAP };
        }
        let ring = ring.into_iter().map(AtomicU64::new).collect();
        Self { head: AtomicU64::new(head), size, slots, ring, esn }
    }

    /// The full sequence number of a packet that shows `low`, before its ICV is verified. Changes nothing.
    ///
    /// With ESN it is the one number with these low bits from the window's bottom up to 2^32 above it (RFC
    /// 4303 appendix A2.2). While the bottom is at 0, so that there is no lower subspace, it is `low` itself.
    ///
    /// # Errors
    /// `ReplayTooOld` or `ReplayDuplicate` for a number that [`Self::accept`] would refuse already, and for
    /// 0, which is never sent: there is no need to decrypt.
    #[inline]
    pub fn infer(&self, low: u32) -> Result<u64, DropReason> {
        let top = self.top(self.head.load(Ordering::Relaxed));
        let seq = if self.esn {
            let bottom = top.saturating_add(1).saturating_sub(self.size);
            let above = low.wrapping_sub(bottom as u32);
            bottom.checked_add(u64::from(above)).ok_or(DropReason::ReplayTooOld)?
        } else {
            u64::from(low)
        };
        if seq > top {
            return Ok(seq);
        }
        if self.is_left_of(seq, top) {
            return Err(DropReason::ReplayTooOld);
        }
        let (slot, tag) = locate(seq / WORD, self.slots);
        let seen = self.ring[slot].load(Ordering::Relaxed);
        if seen & !BITMAP == tag && seen & bit(seq) != 0 { Err(DropReason::ReplayDuplicate) } else { Ok(seq) }
    }

    /// Claims the number of a packet whose ICV is good, and moves the window up to it. Of any number of
    /// calls with one number, from any number of threads, at most one succeeds.
    ///
    /// # Errors
    /// `ReplayTooOld` left of the window, `ReplayDuplicate` when it was claimed before.
    #[inline]
    pub fn accept(&self, seq: u64) -> Result<(), DropReason> {
        let word = seq / WORD;
        let (slot, tag) = locate(word, self.slots);
        let slot = &self.ring[slot];
        let mut seen = slot.load(Ordering::Acquire);
        loop {
            // After the load of the slot: see the module's first argument.
            let head = self.head.load(Ordering::Relaxed);
            if word > head {
                self.head.fetch_max(word, Ordering::Relaxed);
            } else if self.is_left_of(seq, head * WORD + (WORD - 1)) && self.is_left_of(seq, self.top(head)) {
                return Err(DropReason::ReplayTooOld);
            }
            let claimed = if seen & !BITMAP == tag {
                if seen & bit(seq) != 0 {
                    return Err(DropReason::ReplayDuplicate);
                }
                seen | bit(seq)
            } else {
                tag | bit(seq)
            };
            match slot.compare_exchange_weak(seen, claimed, Ordering::Release, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    /// The highest number that was accepted, 0 before the first.
    pub fn high_water(&self) -> u64 {
        self.top(self.head.load(Ordering::Relaxed))
    }

    /// Numbers in the window.
    pub fn size(&self) -> u32 {
        self.size as u32
    }

    /// The highest number in word `head`. Its lowest while the thread that raised `head` has not claimed its
    /// number yet, and when `head` is out of date: never more than the truth.
    #[inline]
    fn top(&self, head: u64) -> u64 {
        let (slot, tag) = locate(head, self.slots);
        let seen = self.ring[slot].load(Ordering::Relaxed);
        let bitmap = if seen & !BITMAP == tag { seen as u32 } else { 0 };
        head * WORD + u64::from((bitmap | 1).ilog2())
    }

    #[inline]
    fn is_left_of(&self, seq: u64, top: u64) -> bool {
        top.saturating_sub(seq) >= self.size
    }
}

/// Slot of a word, and its tag in the upper half.
#[inline]
fn locate(word: u64, slots: NonZeroU64) -> (usize, u64) {
    ((word % slots) as usize, (word / slots) << 32)
}

/// The number's bit in its word.
#[inline]
fn bit(seq: u64) -> u64 {
    1 << (seq % WORD)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicU8, AtomicUsize};

    use proptest::prelude::*;

    use super::*;
    use crate::drops::DropReason::{ReplayDuplicate, ReplayTooOld};

    #[test]
    fn zero_is_never_accepted() {
        for esn in [false, true] {
            let window = ReplayWindow::new(64, esn);
            assert_eq!(window.infer(0), Err(ReplayDuplicate));
            assert_eq!(window.accept(0), Err(ReplayDuplicate));
            assert_eq!(window.high_water(), 0);
            window.accept(5000).unwrap();
            assert_eq!(window.accept(0), Err(ReplayTooOld));
        }
        let window = ReplayWindow::new(64, false);
        window.accept(5000).unwrap();
        assert_eq!(window.infer(0), Err(ReplayTooOld));
    }

    #[test]
    fn window_has_exactly_its_size() {
        for size in [64, 65, 100, 4096, 65_536] {
            let window = ReplayWindow::new(size, true);
            let top = 1_000_000;
            window.accept(top).unwrap();
            assert_eq!(window.accept(top - u64::from(size)), Err(ReplayTooOld), "{size}");
            assert_eq!(window.accept(top - u64::from(size) + 1), Ok(()), "{size}");
            assert_eq!(window.accept(top - u64::from(size) + 1), Err(ReplayDuplicate), "{size}");
            assert_eq!(window.high_water(), top);
        }
    }

    #[test]
    fn sizes_are_clamped() {
        assert_eq!(ReplayWindow::new(0, true).size(), ReplayWindow::MIN_SIZE);
        assert_eq!(ReplayWindow::new(u32::MAX, true).size(), ReplayWindow::MAX_SIZE);
    }

    #[test]
    fn scalars_share_one_cache_line() {
        assert_eq!(size_of::<ReplayWindow>(), 64);
    }

    #[test]
    fn a_window_that_was_taken_over_holds_everything_up_to_its_top() {
        for top in [0, 1, 31, 32, 63, 64, 95, 96, 1_000_003, u64::from(u32::MAX) + 7] {
            let window = ReplayWindow::starting_at(top, 64, true);
            assert_eq!(window.high_water(), top);
            for seq in top.saturating_sub(200)..=top {
                assert!(window.accept(seq).is_err(), "{seq} below {top}");
            }
            assert_eq!(window.infer((top + 1) as u32), Ok(top + 1));
            assert_eq!(window.accept(top + 1), Ok(()));
        }
    }

    #[test]
    fn esn_carries_into_the_upper_half_and_back() {
        let window = ReplayWindow::starting_at((7 << 32) - 3, 4096, true);
        assert_eq!(window.infer(u32::MAX - 1), Ok((7 << 32) - 2));
        assert_eq!(window.infer(2), Ok((7 << 32) + 2));
        window.accept((7 << 32) + 2).unwrap();
        // Late, from the subspace below.
        assert_eq!(window.infer(u32::MAX), Ok((7 << 32) - 1));
        assert_eq!(window.accept((7 << 32) - 1), Ok(()));
        assert_eq!(window.infer(u32::MAX), Err(ReplayDuplicate));
    }

    #[test]
    fn numbers_end_without_overflow() {
        let window = ReplayWindow::starting_at(u64::MAX - 1, 64, true);
        assert_eq!(window.infer(u32::MAX), Ok(u64::MAX));
        window.accept(u64::MAX).unwrap();
        assert_eq!(window.infer(u32::MAX), Err(ReplayDuplicate));
        assert_eq!(window.infer(0), Err(ReplayTooOld));
        assert_eq!(window.accept(u64::MAX), Err(ReplayDuplicate));
        assert_eq!(window.accept(u64::MAX - 64), Err(ReplayTooOld));
    }

    #[test]
    fn a_tag_that_wraps_is_not_taken_for_an_old_one() {
        let wrap = (3 * WORD) << 32;
        let window = ReplayWindow::starting_at(wrap - 200, 64, true);
        for seq in (wrap - 199..wrap + 200).step_by(3) {
            assert_eq!(window.accept(seq), Ok(()), "{seq}");
            assert_eq!(window.accept(seq), Err(ReplayDuplicate), "{seq}");
            assert_eq!(window.accept(seq - 64), Err(ReplayTooOld), "{seq}");
            assert_eq!(window.high_water(), seq);
        }
    }

    /// RFC 4303 appendix A2.3 as it stands, without the replay check.
    fn appendix_a2(top: u64, size: u32, low: u32) -> u64 {
        let (th, tl) = ((top >> 32) as u32, top as u32);
        let bottom = tl.wrapping_sub(size - 1);
        let high = if tl >= size - 1 {
            if low >= bottom { th } else { th.wrapping_add(1) }
        } else if low >= bottom {
            th.wrapping_sub(1)
        } else {
            th
        };
        u64::from(high) << 32 | u64::from(low)
    }

    /// The window as RFC 4303 s3.4.3 describes it.
    #[derive(Default)]
    struct Naive {
        top: u64,
        accepted: HashSet<u64>,
    }

    impl Naive {
        fn accept(&mut self, seq: u64, size: u64) -> Result<(), DropReason> {
            if seq + size <= self.top {
                return Err(ReplayTooOld);
            }
            if seq == 0 || !self.accepted.insert(seq) {
                return Err(ReplayDuplicate);
            }
            self.top = self.top.max(seq);
            Ok(())
        }
    }

    /// Where the next number lies relative to the highest.
    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let step = prop_oneof![
            4 => Just(1i64),
            4 => -100i64..100,
            2 => -5000i64..5000,
            1 => -70_000i64..70_000,
            1 => 1i64..1 << 32,
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_window(size in prop_oneof![64u32..200, Just(4096), Just(65_536)], steps in steps()) {
            let window = ReplayWindow::new(size, true);
            let mut naive = Naive::default();
            for step in steps {
                let seq = naive.top.saturating_add_signed(step);
                let expected = naive.accept(seq, u64::from(size));
                let inferred = window.infer(seq as u32);
                if expected.is_ok() {
                    // A jump of nearly 2^32 shows the low half of a number that is still in the window.
                    if step < (1 << 32) - i64::from(size) {
                        prop_assert_eq!(inferred, Ok(seq));
                    }
                } else if expected == Err(ReplayDuplicate) {
                    prop_assert_eq!(inferred, Err(ReplayDuplicate));
                }
                prop_assert_eq!(window.accept(seq), expected);
                prop_assert_eq!(window.high_water(), naive.top);
            }
        }

        #[test]
        fn infers_what_appendix_a2_says(
            top in prop_oneof![(1u64 << 32)..(1 << 40), (9u64 << 32) - 70_000..(9 << 32) + 70_000],
            size in 64u32..=65_536,
            low in prop_oneof![any::<u32>(), 0..140_000u32, (u32::MAX - 140_000)..=u32::MAX],
        ) {
            // Nothing but the top was received, so that no bit hides the answer.
            let window = ReplayWindow::new(size, true);
            window.accept(top).unwrap();
            let expected = appendix_a2(top, size, low);
            if expected == top {
                prop_assert_eq!(window.infer(low), Err(ReplayDuplicate));
            } else {
                prop_assert_eq!(window.infer(low), Ok(expected));
            }
        }

        #[test]
        fn without_esn_the_number_is_what_the_packet_shows(top in 1u32.., size in 64u32..=65_536, low in 1u32..) {
            let window = ReplayWindow::new(size, false);
            window.accept(u64::from(top)).unwrap();
            let expected = match () {
                () if low == top => Err(ReplayDuplicate),
                () if u64::from(low) + u64::from(size) <= u64::from(top) => Err(ReplayTooOld),
                () => Ok(u64::from(low)),
            };
            prop_assert_eq!(window.infer(low), expected);
        }
    }

    /// Runs `work` on four threads at once.
    fn on_threads(work: impl Fn(usize) + Sync) {
        std::thread::scope(|scope| {
            for index in 0..4 {
                let work = &work;
                scope.spawn(move || work(index));
            }
        });
    }

    #[test]
    fn threads_that_replay_each_other_accept_every_number_once() {
        const COUNT: u64 = 60_000;
        let window = ReplayWindow::new(65_536, true);
        let accepted: Vec<AtomicU8> = (0..=COUNT).map(|_| AtomicU8::new(0)).collect();
        on_threads(|thread| {
            // Each thread goes through all numbers in an order of its own, with strides prime to COUNT.
            let stride = [1, 7, 11, 59_999][thread];
            for i in 0..COUNT {
                let seq = 1 + i * stride % COUNT;
                if window.accept(seq).is_ok() {
                    accepted[seq as usize].fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert!(accepted[1..].iter().all(|count| count.load(Ordering::Relaxed) == 1));
        assert_eq!(window.high_water(), COUNT);
    }

    #[test]
    fn threads_that_outrun_a_small_window_accept_no_number_twice() {
        const COUNT: u64 = 300_000;
        let window = ReplayWindow::new(64, true);
        let accepted: Vec<AtomicU8> = (0..=COUNT).map(|_| AtomicU8::new(0)).collect();
        let total = AtomicUsize::new(0);
        on_threads(|_| {
            for seq in 1..=COUNT {
                for seq in [seq, (seq ^ 37).clamp(1, COUNT), seq.saturating_sub(60).max(1)] {
                    if window.accept(seq).is_ok() {
                        accepted[seq as usize].fetch_add(1, Ordering::Relaxed);
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        assert!(accepted.iter().all(|count| count.load(Ordering::Relaxed) <= 1));
        // The leading thread is never too old.
        assert!(total.load(Ordering::Relaxed) > COUNT as usize / 2);
        assert_eq!(window.high_water(), COUNT);
    }
}

/// Every interleaving of a few threads, under the C11 memory model.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Numbers from one to the next use of a slot: the smallest window has three slots.
    const RING: u64 = 3 * WORD;

    /// Runs `accept` of each list on a thread of its own and returns how often each number was accepted.
    fn accept_all(window: &Arc<ReplayWindow>, lists: &[&'static [u64]]) -> Vec<(u64, bool)> {
        let threads: Vec<_> = lists
            .iter()
            .map(|&list| {
                let window = Arc::clone(window);
                thread::spawn(move || list.iter().map(|&seq| (seq, window.accept(seq).is_ok())).collect())
            })
            .collect();
        threads.into_iter().flat_map(|thread| -> Vec<(u64, bool)> { thread.join().unwrap() }).collect()
    }

    /// Checks `model` with at most two preemptions: three threads have too many interleavings for all of them.
    fn bounded_model(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(model);
    }

    fn times(results: &[(u64, bool)], seq: u64) -> usize {
        results.iter().filter(|&&result| result == (seq, true)).count()
    }

    #[test]
    fn loom_one_of_two_claims_a_number() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::new(64, true));
            let results = accept_all(&window, &[&[40], &[40]]);
            assert_eq!(times(&results, 40), 1);
            assert_eq!(window.high_water(), 40);
        });
    }

    #[test]
    fn loom_one_of_three_claims_a_number() {
        bounded_model(|| {
            let window = Arc::new(ReplayWindow::new(64, true));
            let results = accept_all(&window, &[&[40], &[40], &[40]]);
            assert_eq!(times(&results, 40), 1);
            assert_eq!(window.high_water(), 40);
        });
    }

    #[test]
    fn loom_neighbours_in_a_word_do_not_lose_each_other() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::new(64, true));
            let results = accept_all(&window, &[&[40, 42], &[41, 42]]);
            assert_eq!([times(&results, 40), times(&results, 41), times(&results, 42)], [1, 1, 1]);
            assert_eq!(window.high_water(), 42);
        });
    }

    /// Number 5 races with itself and with the number that takes over its slot.
    fn take_over_a_slot(lists: &[&'static [u64]]) {
        let window = Arc::new(ReplayWindow::new(64, true));
        let results = accept_all(&window, lists);
        assert_eq!(times(&results, 5 + RING), 1);
        assert!(times(&results, 5) <= 1);
        assert!(window.accept(5).is_err());
        assert!(window.accept(5 + RING).is_err());
        assert_eq!(window.high_water(), 5 + RING);
    }

    #[test]
    fn loom_a_slot_that_is_taken_over_gives_no_second_chance() {
        loom::model(|| take_over_a_slot(&[&[5, 5], &[5 + RING]]));
        loom::model(|| take_over_a_slot(&[&[5], &[5, 5 + RING]]));
    }

    #[test]
    fn loom_three_threads_take_over_a_slot() {
        bounded_model(|| take_over_a_slot(&[&[5], &[5], &[5 + RING]]));
    }

    #[test]
    fn loom_nothing_inside_the_window_is_refused() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::new(64, true));
            // 33 is the lowest number in the window once 96 is the highest.
            let results = accept_all(&window, &[&[96, 34], &[33, 95]]);
            assert!(results.iter().all(|&(_, accepted)| accepted), "{results:?}");
            assert_eq!(window.high_water(), 96);
        });
    }

    #[test]
    fn loom_a_round_never_goes_back() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::new(64, true));
            let results = accept_all(&window, &[&[1 + RING, 1 + 2 * RING], &[1, 1 + RING]]);
            assert_eq!(times(&results, 1 + 2 * RING), 1);
            assert_eq!(times(&results, 1 + RING), 1);
            for seq in [1, 1 + RING, 1 + 2 * RING] {
                assert!(window.accept(seq).is_err());
            }
        });
    }

    #[test]
    fn loom_inference_holds_while_the_window_moves_into_the_next_subspace() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::starting_at((1 << 32) - 10, 64, true));
            let mover = {
                let window = Arc::clone(&window);
                thread::spawn(move || window.accept((1 << 32) + 30))
            };
            assert_eq!(window.infer(u32::MAX), Ok((1 << 32) - 1));
            assert_eq!(window.infer(31), Ok((1 << 32) + 31));
            assert_eq!(mover.join().unwrap(), Ok(()));
        });
    }
}
