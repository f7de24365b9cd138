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
//! its tag. That bit was set in its own round, unless the slot had not been written for 2^32 rounds, which are
//! 96 times 2^32 numbers in the smallest ring. One packet moves the window by less than 2^32 numbers
//! ([`ReplayWindow::infer`]). So the peer itself would have to leap 96 times and spare this slot each time,
//! to have one of its own packets refused.
//!
//! The proofs are checked: models of every interleaving under loom, and a comparison with a naive window.

use crate::buffer::{LINE, prefetch};
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
    slots: Slots,
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
        let slots = Slots::new(size.div_ceil(WORD) + 1);
        let head = top / WORD;
        let mut ring: Vec<u64> = vec![0; slots.count as usize];
        for word in head.saturating_sub(slots.count - 1)..=head {
            let (slot, tag) = slots.locate(word);
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
        self.look().infer(low)
    }

    /// Where the window is now, for [`Look::infer`] of several packets.
    #[inline]
    pub fn look(&self) -> Look<'_> {
        Look { window: self, top: self.top(self.head.load(Ordering::Relaxed)) }
    }

    /// Claims the number of a packet whose ICV is good, and moves the window up to it. Of any number of
    /// calls with one number, from any number of threads, at most one succeeds.
    ///
    /// # Errors
    /// `ReplayTooOld` left of the window, `ReplayDuplicate` when it was claimed before.
    #[inline]
    pub fn accept(&self, seq: u64) -> Result<(), DropReason> {
        let claim = self.claim(seq / WORD, bit(seq));
        claim.verdict(bit(seq))
    }

    /// As [`Self::accept`] for a run of `count` packets of one SA, in order. `number` gives the number of each by its index,
    /// the same every time, or `None` to leave it out; `refuse` gets the index of each that is refused. Numbers of one word
    /// that follow each other are claimed by one atomic operation, so that the workers that share an SA seldom wait for its
    /// cache line.
    #[inline]
    pub fn accept_run<N>(&self, count: usize, number: N, mut refuse: impl FnMut(usize, DropReason))
    where
        N: Fn(usize) -> Option<u64>,
    {
        let (mut start, mut end) = (0, 0);
        while end < count {
            let (mut word, mut wanted) = (None, 0);
            while end < count {
                if let Some(seq) = number(end) {
                    if *word.get_or_insert(seq / WORD) != seq / WORD || wanted & bit(seq) != 0 {
                        break;
                    }
                    wanted |= bit(seq);
                }
                end += 1;
            }
            if let Some(word) = word {
                let claim = self.claim(word, wanted);
                // Seldom something to tell.
                for index in if claim.granted == wanted { end } else { start }..end {
                    if let Some(seq) = number(index)
                        && let Err(reason) = claim.verdict(bit(seq))
                    {
                        refuse(index, reason);
                    }
                }
            }
            start = end;
        }
    }

    /// Claims those of the `wanted` numbers of a word that are in the window and were not claimed before.
    #[inline]
    fn claim(&self, word: u64, wanted: u64) -> Claim {
        let (slot, tag) = self.slots.locate(word);
        let slot = &self.ring[slot];
        let mut seen = slot.load(Ordering::Acquire);
        loop {
            // After the load of the slot: see the module's first argument.
            let head = self.head.load(Ordering::Relaxed);
            let mut left = 0;
            if word > head {
                self.head.fetch_max(word, Ordering::Relaxed);
            } else if self.is_left_of(word * WORD, head * WORD + (WORD - 1)) {
                left = self.left_in(word, self.top(head));
            }
            let before = if seen & !BITMAP == tag { seen & BITMAP } else { 0 };
            let granted = wanted & !before & !left;
            if granted == 0 {
                return Claim { granted, left };
            }
            match slot.compare_exchange_weak(
                seen,
                tag | before | granted,
                Ordering::Release,
                Ordering::Acquire,
            ) {
                Ok(_) => return Claim { granted, left },
                Err(now) => seen = now,
            }
        }
    }

    /// Asks for the slot that the next packet most likely needs.
    #[inline]
    pub fn prefetch(&self) {
        let (slot, _) = self.slots.locate(self.head.load(Ordering::Relaxed));
        prefetch(&self.ring[slot], LINE);
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
        let (slot, tag) = self.slots.locate(head);
        let seen = self.ring[slot].load(Ordering::Relaxed);
        let bitmap = if seen & !BITMAP == tag { seen as u32 } else { 0 };
        head * WORD + u64::from((bitmap | 1).ilog2())
    }

    /// Those numbers of a word that are left of the window below `top`.
    #[cold]
    fn left_in(&self, word: u64, top: u64) -> u64 {
        let edge = top.saturating_sub(self.size - 1);
        match edge.saturating_sub(word * WORD) {
            count @ 0..WORD => (1 << count) - 1,
            _ => BITMAP,
        }
    }

    #[inline]
    fn is_left_of(&self, seq: u64, top: u64) -> bool {
        top.saturating_sub(seq) >= self.size
    }
}

/// A window as it was at one moment. It may have moved on since, as it may have right after [`ReplayWindow::infer`].
pub struct Look<'w> {
    window: &'w ReplayWindow,
    top: u64,
}

impl Look<'_> {
    /// As [`ReplayWindow::infer`].
    ///
    /// # Errors
    /// Those of [`ReplayWindow::infer`].
    #[inline]
    pub fn infer(&self, low: u32) -> Result<u64, DropReason> {
        let (window, top) = (self.window, self.top);
        let seq = if window.esn {
            let bottom = top.saturating_add(1).saturating_sub(window.size);
            let above = low.wrapping_sub(bottom as u32);
            bottom.checked_add(u64::from(above)).ok_or(DropReason::ReplayTooOld)?
        } else {
            u64::from(low)
        };
        if seq > top {
            return Ok(seq);
        }
        if window.is_left_of(seq, top) {
            return Err(DropReason::ReplayTooOld);
        }
        let (slot, tag) = window.slots.locate(seq / WORD);
        let seen = window.ring[slot].load(Ordering::Relaxed);
        if seen & !BITMAP == tag && seen & bit(seq) != 0 { Err(DropReason::ReplayDuplicate) } else { Ok(seq) }
    }
}

/// What became of the numbers of a word that were wanted.
#[derive(Clone, Copy)]
struct Claim {
    granted: u64,
    left: u64,
}

impl Claim {
    #[inline]
    fn verdict(self, bit: u64) -> Result<(), DropReason> {
        if self.granted & bit != 0 {
            Ok(())
        } else if self.left & bit != 0 {
            Err(DropReason::ReplayTooOld)
        } else {
            Err(DropReason::ReplayDuplicate)
        }
    }
}

/// The number of slots in a ring, with what divides by it: a division would take longer than all else of a look-up.
#[derive(Clone, Copy, Debug)]
struct Slots {
    count: u64,
    /// The next number above `2^(64 + shift) / count`.
    reciprocal: u64,
    shift: u32,
}

impl Slots {
    /// For at least 3 and at most 2^32 slots. A word is a sequence number over 32, so below 2^59. With
    /// `2^(64 + shift) < reciprocal * count <= 2^(64 + shift) + count` and `count <= 2^(5 + shift)` the upper half of the
    /// product, shifted, is the quotient (Granlund and Montgomery 1994, theorem 4.2).
    fn new(count: u64) -> Self {
        let shift = (u64::BITS - (count - 1).leading_zeros()).saturating_sub(5);
        let reciprocal = ((1 << (64 + shift)) / u128::from(count) + 1) as u64;
        Self { count, reciprocal, shift }
    }

    /// Slot of a word, and its tag in the upper half.
    #[inline]
    fn locate(self, word: u64) -> (usize, u64) {
        let upper = ((u128::from(word) * u128::from(self.reciprocal)) >> 64) as u64;
        let round = upper >> self.shift;
        ((word - round * self.count) as usize, round << 32)
    }
}

/// The number's bit in its word.
#[inline]
fn bit(seq: u64) -> u64 {
    1 << (seq % WORD)
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
