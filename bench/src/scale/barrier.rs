//! A meeting point for threads that must start within a few nanoseconds of each other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Spins between two times that the core is offered to others.
const SPINS: u32 = 10_000;
/// How long a thread sleeps that has time.
const REST: Duration = Duration::from_micros(50);

/// Another thread has ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another worker has ended")]
pub struct Ended;

/// Where `threads` threads wait for each other, spinning.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    broken: AtomicBool,
}

/// Breaks the barrier when its thread ends early, so that the others do not wait for ever.
pub struct Member<'b> {
    barrier: &'b Barrier,
    done: bool,
}

impl Barrier {
    /// A barrier for this many threads.
    pub fn new(threads: usize) -> Self {
        let (arrived, round) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { threads, arrived, round, broken: AtomicBool::new(false) }
    }

    /// One thread's part in it.
    pub fn join(&self) -> Member<'_> {
        Member { barrier: self, done: false }
    }
}

impl Member<'_> {
    /// Waits until every thread is here, spinning.
    ///
    /// # Errors
    /// When another thread has ended.
    pub fn wait(&self) -> Result<(), Ended> {
        let mut spins = 0_u32;
        self.wait_by(|| {
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(SPINS) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        })
    }

    /// Waits until every thread is here, asleep most of the time.
    ///
    /// # Errors
    /// When another thread has ended.
    pub fn rest(&self) -> Result<(), Ended> {
        self.wait_by(|| std::thread::sleep(REST))
    }

    fn wait_by(&self, mut pause: impl FnMut()) -> Result<(), Ended> {
        let Barrier { threads, arrived, round, broken } = self.barrier;
        let before = round.load(Ordering::Acquire);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == *threads {
            arrived.store(0, Ordering::Relaxed);
            round.store(before.wrapping_add(1), Ordering::Release);
            return Ok(());
        }
        while round.load(Ordering::Acquire) == before {
            if broken.load(Ordering::Relaxed) {
                return Err(Ended);
            }
            pause();
        }
        Ok(())
    }

    /// Leaves for good, with everything done.
    pub fn leave(mut self) {
        self.done = true;
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.barrier.broken.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_before_all_are_there() {
        let barrier = Barrier::new(3);
        let counter = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let member = barrier.join();
                    for round in 1..=100 {
                        counter.fetch_add(1, Ordering::Relaxed);
                        member.wait().unwrap();
                        assert_eq!(counter.load(Ordering::Relaxed), 3 * round);
                        member.rest().unwrap();
                    }
                    member.leave();
                });
            }
        });
    }

    #[test]
    fn a_thread_that_ends_early_sets_the_others_free() {
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| barrier.join().wait());
            drop(barrier.join());
            assert_eq!(waiting.join().unwrap(), Err(Ended));
        });
    }
}
