//! Packets that wait until their neighbour answers.

use std::collections::VecDeque;

use crate::buffer::Packet;
use crate::drops::{DropCounters, DropReason};

/// A bounded queue over all neighbours, oldest packet first.
#[derive(Default)]
pub(super) struct Waiting {
    packets: VecDeque<(u16, Packet)>,
    each: usize,
    total: usize,
}

impl Waiting {
    /// At most `each` packets per neighbour and `total` in all.
    pub(super) fn new(each: usize, total: usize) -> Self {
        Self { packets: VecDeque::with_capacity(total), each, total }
    }

    /// Queues a packet. The oldest of the same neighbour makes room when the neighbour has its share
    /// (RFC 4861 s7.2.2); when all room is taken, the packet itself is dropped.
    pub(super) fn push(&mut self, slot: u16, packet: Packet, drops: &mut DropCounters) {
        let of_slot = || self.packets.iter().enumerate().filter(|(_, (of, _))| *of == slot);
        if of_slot().count() >= self.each
            && let Some((oldest, _)) = of_slot().next()
        {
            self.packets.remove(oldest);
            drops.count(DropReason::NeighbourQueueFull);
        }
        if self.packets.len() < self.total && self.each > 0 {
            self.packets.push_back((slot, packet));
        } else {
            drops.count(DropReason::NeighbourQueueFull);
        }
    }

    /// Drops all packets.
    pub(super) fn abandon(&mut self, drops: &mut DropCounters) {
        drops.add(DropReason::NeighbourUnresolved, self.packets.len() as u64);
        self.packets.clear();
    }

    /// Takes out all packets of a neighbour, oldest first. The order of the others stays.
    pub(super) fn drain(&mut self, slot: u16, mut take: impl FnMut(Packet)) {
        for _ in 0..self.packets.len() {
            match self.packets.pop_front() {
                Some((of, packet)) if of == slot => take(packet),
                Some(other) => self.packets.push_back(other),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Pool;

    fn drain(waiting: &mut Waiting, slot: u16) -> Vec<u8> {
        let mut out = Vec::new();
        waiting.drain(slot, |packet| out.extend_from_slice(packet.data()));
        out
    }

    #[test]
    fn a_neighbour_keeps_its_newest_and_the_whole_is_bounded() {
        let (pool, mut drops) = (Pool::new(16, 2048).unwrap(), DropCounters::default());
        let mut waiting = Waiting::new(2, 3);
        for (slot, byte) in [(1, 10), (2, 20), (1, 11), (1, 12), (2, 21), (3, 30)] {
            waiting.push(slot, pool.alloc_from(&[byte]).unwrap(), &mut drops);
        }
        assert_eq!(drops.get(DropReason::NeighbourQueueFull), 3);
        assert_eq!(pool.available(), 16 - 3);
        assert_eq!(drain(&mut waiting, 1), [11, 12]);
        assert!(drain(&mut waiting, 3).is_empty());
        assert_eq!(drain(&mut waiting, 2), [20]);
        assert_eq!(pool.available(), 16);
    }

    #[test]
    fn no_room_at_all_drops() {
        let (pool, mut drops) = (Pool::new(1, 2048).unwrap(), DropCounters::default());
        for (each, total) in [(0, 5), (5, 0)] {
            Waiting::new(each, total).push(0, pool.alloc().unwrap(), &mut drops);
        }
        assert_eq!((drops.get(DropReason::NeighbourQueueFull), pool.available()), (2, 1));
    }
}
