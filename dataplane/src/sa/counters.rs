//! What one worker counted of one SA direction. Plain integers: the worker alone writes them, and the control
//! side reads copies that the worker hands out.

use crate::drops::DropReason;

/// Reasons that are counted by SA as well as by worker.
pub const REASONS: &[DropReason] = &[
    DropReason::SequenceExhausted,
    DropReason::SequenceUnsaved,
    DropReason::SaExpired,
    DropReason::SealFailed,
    DropReason::NoRoute,
    DropReason::NoBuffer,
    DropReason::NoRoom,
    DropReason::TooBig,
    DropReason::TransportFragment,
    DropReason::SaMismatch,
    DropReason::EspMalformed,
    DropReason::AhMalformed,
    DropReason::IcvBad,
    DropReason::ReplayDuplicate,
    DropReason::ReplayTooOld,
    DropReason::PadBad,
    DropReason::NextHeaderBad,
    DropReason::Dummy,
    DropReason::IpMalformed,
    DropReason::IpChecksum,
    DropReason::IpOptions,
    DropReason::ExtensionHeaders,
    DropReason::FragmentMalformed,
    DropReason::FragmentTooLong,
    DropReason::SelectorMismatch,
    DropReason::EcnInvalid,
];

/// Counters of one SA direction on one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SaCounters {
    /// Packets carried.
    pub packets: u64,
    /// Bytes of inner packets carried.
    pub bytes: u64,
    drops: [u32; REASONS.len()],
}

impl SaCounters {
    /// Counts carried packets, whose inner packets have so many bytes together.
    #[inline]
    pub fn carried(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }

    /// Takes back one packet that was counted as carried, of so many bytes.
    #[cold]
    pub fn not_carried(&mut self, bytes: u64) {
        self.packets = self.packets.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Counts one drop. A reason that is not of an SA is left to the worker's own counters.
    #[cold]
    pub fn dropped(&mut self, reason: DropReason) {
        if let Some(at) = REASONS.iter().position(|&known| known == reason)
            && let Some(counter) = self.drops.get_mut(at)
        {
            *counter = counter.saturating_add(1);
        }
    }

    /// Drops by reason, those that were counted.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        REASONS
            .iter()
            .zip(self.drops)
            .filter(|&(_, count)| count > 0)
            .map(|(&reason, count)| (reason, u64::from(count)))
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        for (mine, theirs) in self.drops.iter_mut().zip(other.drops) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_carried_and_dropped_and_merges() {
        let (mut a, mut b) = (SaCounters::default(), SaCounters::default());
        a.carried(1, 100);
        b.carried(1, 50);
        b.dropped(DropReason::IcvBad);
        b.dropped(DropReason::TxFull);
        a.merge(&b);
        assert_eq!((a.packets, a.bytes), (2, 150));
        assert_eq!(a.drops().collect::<Vec<_>>(), [(DropReason::IcvBad, 1)]);
    }
}
