//! Path MTU of an outbound SA (RFC 4301 s8.2): learned from ICMP, shared by all workers, aged.

use crate::sync::{AtomicU64, Ordering};

/// A learned value is forgotten after ten minutes, so that a path that got wider is found (RFC 1191 s6.3,
/// RFC 8201 s4).
const AGE: u64 = 600 * 1_000_000_000;

/// The largest outer packet that the path to the peer is known to carry.
#[derive(Debug, Default)]
pub struct PathMtu {
    /// Bytes in the upper 16 bits, the second it was learned at in the rest; 0 is unknown.
    state: AtomicU64,
}

impl PathMtu {
    /// The path MTU in bytes, at most `link`, at `now` nanoseconds.
    #[inline]
    pub fn get(&self, link: u32, now: u64) -> u32 {
        let state = self.state.load(Ordering::Relaxed);
        if state == 0 {
            return link;
        }
        let learned = (state & SECONDS) * 1_000_000_000;
        if now.saturating_sub(learned) > AGE { link } else { link.min((state >> 48) as u32) }
    }

    /// Lowers it to `bytes`. A larger value than the one in force is ignored: ICMP cannot raise it.
    pub fn lower(&self, bytes: u32, now: u64) {
        let new = u64::from(bytes.min(0xffff)) << 48 | (now / 1_000_000_000) & SECONDS;
        // A refused update means that another worker stored a smaller one.
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let expired = now.saturating_sub((old & SECONDS) * 1_000_000_000) > AGE;
            (old == 0 || expired || bytes <= (old >> 48) as u32).then_some(new)
        });
    }

    /// Forgets what was learned, when the path is another.
    pub fn forget(&self) {
        self.state.store(0, Ordering::Relaxed);
    }

    /// Takes over what another SA of the same tunnel learned, at a rekey, unless this one has learned for itself:
    /// every worker switches at a time of its own.
    pub fn inherit(&self, other: &Self) {
        let theirs = other.state.load(Ordering::Relaxed);
        // A refused exchange means that there is something to keep.
        let _ = self.state.compare_exchange(0, theirs, Ordering::Relaxed, Ordering::Relaxed);
    }
}

const SECONDS: u64 = (1 << 48) - 1;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn is_the_link_until_learned_and_again_after_ten_minutes() {
        let mtu = PathMtu::default();
        assert_eq!(mtu.get(1500, 0), 1500);
        mtu.lower(1400, 5 * SECOND);
        assert_eq!(mtu.get(1500, 6 * SECOND), 1400);
        assert_eq!(mtu.get(1280, 6 * SECOND), 1280);
        assert_eq!(mtu.get(1500, 700 * SECOND), 1500);
    }

    #[test]
    fn only_goes_down_while_it_is_fresh() {
        let mtu = PathMtu::default();
        mtu.lower(1400, 0);
        mtu.lower(1450, SECOND);
        assert_eq!(mtu.get(1500, SECOND), 1400);
        mtu.lower(1450, 601 * SECOND);
        assert_eq!(mtu.get(1500, 601 * SECOND), 1450);
    }

    #[test]
    fn passes_to_the_next_sa_of_a_tunnel() {
        let (old, new) = (PathMtu::default(), PathMtu::default());
        old.lower(1300, SECOND);
        new.inherit(&old);
        assert_eq!(new.get(1500, SECOND), 1300);
        new.forget();
        assert_eq!((new.get(1500, SECOND), old.get(1500, SECOND)), (1500, 1300));
        new.lower(1280, SECOND);
        new.inherit(&old);
        assert_eq!(new.get(1500, SECOND), 1280, "another worker switched later");
    }
}
