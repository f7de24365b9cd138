//! Soft and hard lifetimes (RFC 4301 s4.4.2.1), checked without a shared write for each packet.
//!
//! Each worker takes a lease of bytes and packets from the SA's shared [`Usage`] and spends it on its own. The
//! hard limit is never overrun: what is leased is already counted. An SA may end early by what other workers
//! still hold, at most one 256th of the limit each.

use std::time::Duration;

use crate::sa::{Lifetime, Limits};
use crate::sync::{AtomicU64, Ordering};

const SOFT: u64 = 1;
const HARD: u64 = 2;

/// How much of an SA is used up, shared by all workers.
#[derive(Debug)]
pub struct Usage {
    bytes: AtomicU64,
    packets: AtomicU64,
    raised: AtomicU64,
    lifetime: Lifetime,
    soft_at: u64,
    hard_at: u64,
}

/// What one worker may use before it asks again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    bytes: u64,
    packets: u64,
    until: u64,
}

/// Whether a packet may pass, and what to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The packet may use the SA.
    pub allowed: bool,
    /// A limit was reached for the first time on any worker.
    pub reached: Option<Reached>,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Time to rekey.
    Soft,
    /// The SA is at its end.
    Hard,
}

impl Lease {
    /// Charges one packet, if the lease still covers it.
    #[inline]
    pub fn charge(&mut self, bytes: u64, now: u64) -> bool {
        let covers = self.bytes >= bytes && self.packets >= 1 && now < self.until;
        if covers {
            self.bytes -= bytes;
            self.packets -= 1;
        }
        covers
    }

    /// Packets and bytes that were charged since it was like `before`.
    #[inline]
    pub fn charged_since(&self, before: &Self) -> (u64, u64) {
        (before.packets - self.packets, before.bytes - self.bytes)
    }
}

impl Usage {
    /// Starts counting at `now`, in nanoseconds of the workers' clock.
    pub fn new(lifetime: Lifetime, now: u64) -> Self {
        let at = |limit: Option<Duration>| {
            limit.map_or(u64::MAX, |d| now.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
        };
        Self {
            bytes: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            raised: AtomicU64::new(0),
            soft_at: at(lifetime.soft.time),
            hard_at: at(lifetime.hard.time),
            lifetime,
        }
    }

    /// Charges one packet of `bytes` to this worker's lease, and renews the lease when it is used up.
    #[inline]
    pub fn charge(&self, lease: &mut Lease, bytes: u64, now: u64) -> Charge {
        if lease.charge(bytes, now) {
            return Charge { allowed: true, reached: None };
        }
        self.renew(lease, bytes, now)
    }

    /// Reports time limits of an SA that carries no packets. Each is reported once.
    pub fn check_time(&self, now: u64) -> Option<Reached> {
        if now >= self.hard_at {
            self.raise(HARD)
        } else if now >= self.soft_at {
            self.raise(SOFT)
        } else {
            None
        }
    }

    /// Whether a hard limit was reached.
    pub fn is_spent(&self, now: u64) -> bool {
        now >= self.hard_at || self.raised.load(Ordering::Relaxed) & HARD != 0
    }

    /// Whole seconds until the hard limit of time, `None` when there is none.
    pub fn seconds_left(&self, now: u64) -> Option<u64> {
        (self.hard_at != u64::MAX).then(|| self.hard_at.saturating_sub(now) / 1_000_000_000)
    }

    /// Reports that the sequence numbers are used up, which ends an SA like a hard limit.
    pub fn exhaust(&self) -> Option<Reached> {
        self.raise(HARD)
    }

    #[cold]
    fn renew(&self, lease: &mut Lease, bytes: u64, now: u64) -> Charge {
        let Limits { bytes: soft_bytes, packets: soft_packets, .. } = self.lifetime.soft;
        let Limits { bytes: hard_bytes, packets: hard_packets, .. } = self.lifetime.hard;
        let expired = now >= self.hard_at
            || !take(&self.bytes, &mut lease.bytes, bytes, soft_bytes, hard_bytes)
            || !take(&self.packets, &mut lease.packets, 1, soft_packets, hard_packets);
        if expired {
            *lease = Lease::default();
            return Charge { allowed: false, reached: self.raise(HARD) };
        }
        lease.bytes -= bytes;
        lease.packets -= 1;
        let soft_passed = now >= self.soft_at
            || soft_bytes.is_some_and(|limit| self.bytes.load(Ordering::Relaxed) >= limit)
            || soft_packets.is_some_and(|limit| self.packets.load(Ordering::Relaxed) >= limit);
        lease.until = if now >= self.soft_at { self.hard_at } else { self.soft_at.min(self.hard_at) };
        Charge { allowed: true, reached: if soft_passed { self.raise(SOFT) } else { None } }
    }

    fn raise(&self, flag: u64) -> Option<Reached> {
        // A hard limit makes the soft one moot.
        let bits = if flag == HARD { HARD | SOFT } else { SOFT };
        let before = self.raised.fetch_or(bits, Ordering::Relaxed);
        (before & flag == 0).then_some(if flag == HARD { Reached::Hard } else { Reached::Soft })
    }
}

/// Tops `have` up to at least `need` from the shared counter. False when the hard limit does not allow it.
fn take(used: &AtomicU64, have: &mut u64, need: u64, soft: Option<u64>, hard: Option<u64>) -> bool {
    if *have >= need {
        return true;
    }
    let Some(smallest) = soft.into_iter().chain(hard).min() else {
        *have = u64::MAX;
        return true;
    };
    let missing = need - *have;
    let chunk = (smallest / 256).max(missing);
    let limit = hard.unwrap_or(u64::MAX);
    let granted = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
        let grant = chunk.min(limit.saturating_sub(before));
        (grant >= missing).then(|| before + grant)
    });
    match granted {
        Ok(before) => {
            *have += chunk.min(limit - before);
            true
        }
        Err(_) => false,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn limits(bytes: Option<u64>, packets: Option<u64>, time: Option<Duration>) -> Limits {
        Limits { time, bytes, packets }
    }

    #[test]
    fn without_limits_everything_passes_and_nothing_is_shared() {
        let usage = Usage::new(Lifetime::default(), 0);
        let mut lease = Lease::default();
        for now in 0..1_000 {
            assert_eq!(usage.charge(&mut lease, 1_500, now), Charge { allowed: true, reached: None });
        }
        assert_eq!(usage.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn hard_bytes_are_never_overrun_and_reported_once() {
        let lifetime =
            Lifetime { soft: limits(Some(5_000), None, None), hard: limits(Some(10_000), None, None) };
        let usage = Usage::new(lifetime, 0);
        let (mut a, mut b) = (Lease::default(), Lease::default());
        let (mut passed, mut soft, mut hard) = (0, 0, 0);
        for i in 0..1_000 {
            let lease = if i % 2 == 0 { &mut a } else { &mut b };
            let charge = usage.charge(lease, 100, 0);
            passed += u64::from(charge.allowed) * 100;
            soft += usize::from(charge.reached == Some(Reached::Soft));
            hard += usize::from(charge.reached == Some(Reached::Hard));
        }
        assert_eq!((passed, soft, hard), (10_000, 1, 1));
    }

    #[test]
    fn packets_end_an_sa_exactly() {
        let usage = Usage::new(Lifetime { soft: Limits::default(), hard: limits(None, Some(3), None) }, 0);
        let mut lease = Lease::default();
        let passed = (0..10).filter(|_| usage.charge(&mut lease, 1, 0).allowed).count();
        assert_eq!(passed, 3);
    }

    #[test]
    fn time_raises_soft_then_hard_with_and_without_packets() {
        let lifetime = Lifetime {
            soft: limits(None, None, Some(Duration::from_nanos(10))),
            hard: limits(None, None, Some(Duration::from_nanos(20))),
        };
        let usage = Usage::new(lifetime, 5);
        let mut lease = Lease::default();
        assert_eq!(usage.charge(&mut lease, 1, 14), Charge { allowed: true, reached: None });
        assert_eq!(usage.charge(&mut lease, 1, 15), Charge { allowed: true, reached: Some(Reached::Soft) });
        assert_eq!(usage.charge(&mut lease, 1, 24), Charge { allowed: true, reached: None });
        assert_eq!((usage.seconds_left(5), usage.is_spent(24)), (Some(0), false));
        assert_eq!(usage.check_time(25), Some(Reached::Hard));
        assert!(usage.is_spent(25));
        assert_eq!(usage.check_time(26), None);
        assert_eq!(usage.charge(&mut lease, 1, 25), Charge { allowed: false, reached: None });
    }
}
