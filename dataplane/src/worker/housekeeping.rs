//! What time brings: ageing of neighbours and fragments, keepalives, dummies, time limits of idle SAs. A slice of
//! the tables a tick, so that no tick is long.

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::clock::MILLISECOND;
use crate::drops::DropReason;
use crate::host::Context;
use crate::host::icmp::Error;
use crate::message::{Direction, Event};
use crate::packet::ip;
use crate::sa::TunnelId;
use crate::worker::outbound::SealQueue;
use crate::worker::slots::Quiet;
use crate::worker::transit::Origin;
use crate::worker::{Reception, Worker};

/// Time between two ticks.
const TICK: u64 = 5 * MILLISECOND;
/// SAs of each direction that are looked at in a tick: 100,000 take eight seconds.
const SAS_PER_TICK: usize = 64;

impl Worker {
    pub(super) fn housekeeping(&mut self, now: u64) {
        self.next_housekeeping = now + TICK;
        let local = &mut self.local;
        let mut context = Context { now, pool: &self.pool, drops: &mut self.drops, out: &mut local.outputs };
        local.neighbours.tick(&mut context);
        local.reassembly.tick(now, &mut self.drops, &mut local.incomplete);
        self.carry_out(now);
        while let Some(packet) = self.local.incomplete.pop() {
            // RFC 792, RFC 8200 s4.5: the source is told when the first fragment came.
            if let Ok(info) = ip::parse(packet.data()) {
                let origin = Origin::Port(packet.rx_port);
                self.complain(&packet, &info, origin, Error::ReassemblyTimeout, now);
            }
        }
        self.expire_waiting(now);
        self.check_inbound(now);
        let mut visited = ArrayVec::new();
        self.check_outbound(now, &mut visited);
        // One worker is enough: the SA's sequence number shows what any of them sends.
        if self.index == 0 && self.reception != Reception::Draining {
            for &tunnel in &visited {
                self.break_silence(tunnel, now);
            }
        }
        // What is to be said about all this is not left until the next packet comes.
        self.originate(&mut SealQueue::default(), now);
    }

    /// Drops what still waits, under the names that it would have had later.
    pub(super) fn give_up_waiting(&mut self) {
        self.local.neighbours.abandon(&mut self.drops);
        self.local.reassembly.abandon(&mut self.drops);
        self.abandon_waiting();
    }

    fn check_inbound(&mut self, now: u64) {
        let events = &mut self.unsent;
        let next = self.tables.inbound.walk(self.swept_inbound, SAS_PER_TICK, |slot| {
            if let Some(reached) = slot.sa.usage.check_time(now) {
                events.push_back(Event::expired(&slot.sa.params, slot.sa.spi, Direction::Inbound, reached));
            }
        });
        self.swept_inbound = next.unwrap_or(0);
    }

    fn check_outbound(&mut self, now: u64, visited: &mut ArrayVec<TunnelId, SAS_PER_TICK>) {
        let events = &mut self.unsent;
        let next = self.tables.outbound.walk(self.swept_outbound, SAS_PER_TICK, |index, slot| {
            if let Some(reached) = slot.sa.usage.check_time(now) {
                events.push_back(Event::expired(&slot.sa.params, slot.sa.spi, Direction::Outbound, reached));
            }
            visited.push(TunnelId(index));
        });
        self.swept_outbound = next.unwrap_or(0);
    }

    /// Sends something on a tunnel on which nothing was sent for as long as its options allow: a dummy packet
    /// (RFC 4303 s2.6), which keeps a NAT's mapping alive too, or a keepalive (RFC 3948 s4).
    fn break_silence(&mut self, tunnel: TunnelId, now: u64) {
        let Some(slot) = self.tables.tunnel_mut(tunnel) else { return };
        let (sa, next) = (&*slot.sa, slot.sa.sequence.peek());
        if slot.quiet.next != next {
            slot.quiet = Quiet { next, since: now };
            return;
        }
        let silence = Duration::from_nanos(now.saturating_sub(slot.quiet.since));
        let is_due = |every: Option<Duration>| every.is_some_and(|every| silence >= every);
        let dummy = sa.params.is_esp_tunnel() && !sa.usage.is_spent(now) && is_due(sa.options.dummy);
        let keepalive = slot.outer.is_udp() && is_due(sa.options.keepalive);
        if dummy {
            self.send_dummy(tunnel, now);
        } else if keepalive {
            self.send_keepalive(tunnel, now);
        } else {
            return;
        }
        if let Some(slot) = self.tables.tunnel_mut(tunnel) {
            slot.quiet = Quiet { next: slot.sa.sequence.peek(), since: now };
        }
    }

    /// One byte of 0xff from and to the SA's UDP ports (RFC 3948 s2.3).
    fn send_keepalive(&mut self, tunnel: TunnelId, now: u64) {
        let Some(slot) = self.tables.tunnel_mut(tunnel) else { return };
        let Some(mut packet) = self.pool.alloc() else { return self.drops.count(DropReason::NoBuffer) };
        let outer = slot.outer;
        if packet.append(outer.len() + 1).is_none() {
            return self.drop_packet(packet, DropReason::NoRoom);
        }
        outer.write_keepalive(packet.data_mut());
        let Some(adjacency) = self.tunnel_adjacency(tunnel) else {
            return self.drop_packet(packet, DropReason::NoRoute);
        };
        self.transmit(packet, &adjacency, now);
    }
}
