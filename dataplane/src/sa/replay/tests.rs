//! The window against known cases, a naive window, RFC 4303's pseudo-code, and threads that race.

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
fn slot_and_tag_are_remainder_and_quotient() {
    for count in (3..70).chain([128, 129, 1024, 1025, 2048, 2049, u64::from(u32::MAX)]) {
        let slots = Slots::new(count);
        let last = u64::MAX / WORD;
        // Around multiples a quotient that is off by a little shows.
        let multiples = [1, 2, 1000, last / count / 2, last / count];
        let words = multiples.into_iter().flat_map(|n| [n * count - 1, n * count, n * count + 1]);
        for word in words.chain([0, 1, last]).filter(|&word| word <= last) {
            let expected = ((word % count) as usize, (word / count) << 32);
            assert_eq!(slots.locate(word), expected, "word {word} of {count} slots");
        }
    }
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
    fn a_run_has_the_verdicts_of_its_numbers_one_by_one(
        size in 64u32..200,
        runs in prop::collection::vec(prop::collection::vec(-80i64..40, 0..64), 1..20),
    ) {
        let window = ReplayWindow::new(size, true);
        let mut naive = Naive::default();
        for run in runs {
            // A rising sequence that wavers.
            let mut base = naive.top;
            let numbers = run.iter().map(|&step| {
                base += 1;
                if step > 0 { base } else { base.saturating_add_signed(step) }
            });
            let seqs: Vec<u64> = numbers.collect();
            let expected: Vec<_> = seqs.iter().map(|&seq| naive.accept(seq, u64::from(size))).collect();
            // With places between them that are left out.
            let mut verdicts = vec![Ok(()); seqs.len()];
            let number = |index: usize| if index % 2 == 1 { seqs.get(index / 2).copied() } else { None };
            window.accept_run(2 * seqs.len() + 1, number, |index, reason| verdicts[index / 2] = Err(reason));
            prop_assert_eq!(verdicts, expected);
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
