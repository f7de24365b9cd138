//! The bodies of the fuzz targets of `dataplane/fuzz`, each a function of bytes. The fuzzer runs them with what it
//! makes up, and the tests below with the corpus in `dataplane/fuzz/corpus`, so that what was found once stays found.
//!
//! A body panics when something that must always hold does not. Every one of them that uses frames checks that all come back.
//! It returns a digest of what came of the input, so that a test can see that nothing is left from the inputs before.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};
use std::mem::ManuallyDrop;

use crate::buffer::Pool;
use crate::drops::DropCounters;

#[cfg(test)]
mod corpus;
mod engines;
mod host;
mod packets;
mod worker;

pub use engines::crypto_engines;
pub use host::{icmp_feedback, nd_arp, reassembly};
pub use packets::{esp_roundtrip, ip_parse};
pub use worker::worker_rx;

/// Reads an input piece by piece. Behind its end there are zeros, and in the end nothing.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next `len` bytes, or as many as there are.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// One of these, by the next byte.
    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

/// What came out of a run, in short.
#[derive(Default)]
struct Digest(DefaultHasher);

impl Digest {
    fn saw(&mut self, bytes: &[u8]) {
        self.0.write_usize(bytes.len());
        self.0.write(bytes);
    }

    fn saw_drops(&mut self, drops: &DropCounters) {
        for (reason, packets) in drops.nonzero() {
            self.saw(reason.name().as_bytes());
            self.0.write_u64(packets);
        }
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Runs `body` with frames, and checks that they all came back. Pools are never unmapped, so one serves all runs.
fn with_pool<T>(frames: usize, frame_size: usize, body: impl FnOnce(Pool) -> T) -> T {
    // Not dropped at the end: the fuzzer's leak check must still find what refers to their memory.
    type Pools = ManuallyDrop<RefCell<Vec<Pool>>>;
    thread_local!(static POOLS: Pools = const { ManuallyDrop::new(RefCell::new(Vec::new())) });
    let fits = |pool: &Pool| pool.capacity() == frames && pool.frame_size() == frame_size;
    let idle = POOLS.with(|pools| {
        let mut pools = pools.borrow_mut();
        let at = pools.iter().position(fits)?;
        Some(pools.swap_remove(at))
    });
    let pool =
        idle.unwrap_or_else(|| Pool::new(frames, frame_size).expect("there is memory for a few frames"));
    let result = body(pool);
    assert_eq!(pool.available(), pool.capacity(), "frames leaked");
    POOLS.with(|pools| pools.borrow_mut().push(pool));
    result
}

#[cfg(test)]
mod tests {
    use super::corpus::replay;

    #[test]
    fn corpus_of_worker_rx() {
        replay("worker_rx", super::worker_rx);
    }

    #[test]
    fn corpus_of_ip_parse() {
        replay("ip_parse", super::ip_parse);
    }

    #[test]
    fn corpus_of_esp_roundtrip() {
        replay("esp_roundtrip", super::esp_roundtrip);
    }

    #[test]
    fn corpus_of_reassembly() {
        replay("reassembly", super::reassembly);
    }

    #[test]
    fn corpus_of_nd_arp() {
        replay("nd_arp", super::nd_arp);
    }

    #[test]
    fn corpus_of_crypto_engines() {
        replay("crypto_engines", super::crypto_engines);
    }

    #[test]
    fn corpus_of_icmp_feedback() {
        replay("icmp_feedback", super::icmp_feedback);
    }
}
