//! Dummy packets (RFC 4303 s2.6), which hide how much is said.

use crate::crypto::Job;
use crate::drops::DropReason;
use crate::esp::outbound::{self as esp, Header};
use crate::outer::Marks;
use crate::packet::udp;
use crate::sa::TunnelId;
use crate::worker::Worker;

impl Worker {
    /// Sends a dummy packet (RFC 4303 s2.6), which the peer drops: as long as the padded packets of the SA, or one
    /// block of its cipher.
    pub(super) fn send_dummy(&mut self, tunnel: TunnelId, now: u64) {
        if let Err(reason) = self.try_send_dummy(tunnel, now) {
            self.count_on_sa(tunnel, reason);
        }
    }

    fn try_send_dummy(&mut self, tunnel: TunnelId, now: u64) -> Result<(), DropReason> {
        let adjacency = self.tunnel_adjacency(tunnel).ok_or(DropReason::NoRoute)?;
        self.next_id = self.next_id.wrapping_add(1);
        let slot = self.tables.tunnel_mut(tunnel).ok_or(DropReason::NoSa)?;
        let mut packet = self.pool.alloc().ok_or(DropReason::NoBuffer)?;
        let mtu = slot.sa.path_mtu.get(adjacency.mtu, now);
        let capacity = esp::tunnel_capacity(slot.sa.params.suite, &slot.outer, mtu as usize);
        let len = slot.sa.options.tfc_pad.map_or(0, |pad| usize::from(pad).min(capacity));
        if !slot.charge(len, now, &mut self.unsent) {
            return Err(DropReason::SaExpired);
        }
        let seq = slot.reserve(1, &mut self.unsent)?;
        let sa = &*slot.sa;
        // There is nothing inside to copy from.
        let stamp = Marks::new(&sa.options, sa.params.ecn).stamp(0, false, self.next_id);
        let at =
            esp::dummy(&mut packet, sa.params.suite, &slot.outer, stamp, Header { spi: sa.spi, seq }, len)?;
        let sealed_part = packet.data_mut().get_mut(at..).ok_or(DropReason::NoRoom)?;
        let mut jobs = [Job { key: &sa.key, packet: sealed_part, seq, ok: false }];
        self.crypto.seal(&mut jobs);
        if jobs.iter().any(|job| !job.ok) {
            return Err(DropReason::SealFailed);
        }
        slot.outer.finish_udp6(packet.data_mut(), at.saturating_sub(udp::HEADER_LEN));
        self.transmit(packet, &adjacency, now);
        Ok(())
    }
}
