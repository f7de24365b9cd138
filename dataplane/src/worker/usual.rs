//! The short way of the usual packets: whole IPv4 packets without options, from an untagged link or out of a tunnel, to a
//! destination that was decided on before; those from a link also from a source that is known.
//!
//! It knows no drop, no error and no other kind of packet: whatever it does not know in full goes the long way
//! (`classify`, `transit`), which says what becomes of the packet and leaves here what it found. So both ways say the same.

use crate::buffer::Packet;
use crate::packet::address::Address;
use crate::packet::bytes::{be16, be32};
use crate::packet::ethernet::{self, ethertype};
use crate::packet::{checksum, esp, ipv4};
use crate::policy::spd::Scope;
use crate::policy::{Action, PolicyId};
use crate::port::{Mac, PortId};
use crate::sa::TunnelId;
use crate::worker::Worker;
use crate::worker::remembered::Remembered;

/// Bytes of the link header.
const LINK: usize = ethernet::HEADER_LEN;
/// IP header and the first eight bytes behind it: ports, or SPI and sequence number.
const SEEN: usize = ipv4::HEADER_LEN + 8;

/// A port by which usual packets come.
pub(super) struct UsualLink {
    pub(super) mac: Mac,
    /// Its reverse path is checked.
    pub(super) strict: bool,
}

/// What the headers of such a packet say.
#[derive(Clone, Copy)]
pub(super) struct Usual {
    pub(super) source: u32,
    pub(super) destination: u32,
    /// Of the IP packet; the frame has as many bytes behind the link header, or more.
    pub(super) total_len: u16,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) dont_fragment: bool,
    /// The first bytes behind the IP header.
    upper: [u8; 8],
}

impl Usual {
    /// Reads an untagged Ethernet II frame that is sent to `mac`. The packet is as
    /// [`ip::parse`](crate::packet::ip::parse) demands, and shows eight bytes behind its header.
    #[inline(always)]
    pub(super) fn read(frame: &[u8], mac: &Mac) -> Option<Self> {
        let (link, packet) = frame.split_first_chunk::<LINK>()?;
        let is_ipv4 = link[..6] == *mac && link[12..] == ethertype::IPV4.to_be_bytes();
        if is_ipv4 { Self::of_packet(packet) } else { None }
    }

    /// As [`Usual::read`] for a packet that has no link header.
    #[inline(always)]
    pub(super) fn of_packet(packet: &[u8]) -> Option<Self> {
        let seen: &[u8; SEEN] = packet.first_chunk()?;
        let (header, upper) = seen.split_first_chunk::<{ ipv4::HEADER_LEN }>()?;
        let total_len = be16::<2, _>(header);
        let word = be16::<6, _>(header);
        // A header of five words.
        let usual = header[0] == 0x45
            // Neither MF nor an offset.
            && word & 0x3fff == 0
            && usize::from(total_len) >= SEEN
            && usize::from(total_len) <= packet.len()
            && checksum::of(header) == 0;
        usual.then_some(Self {
            source: be32::<12, _>(header),
            destination: be32::<16, _>(header),
            total_len,
            protocol: header[9],
            ttl: header[8],
            tos: header[1],
            dont_fragment: word & 0x4000 != 0,
            upper: *upper.first_chunk()?,
        })
    }

    /// The header of an ESP packet, if its SPI is not a reserved one.
    #[inline(always)]
    pub(super) fn esp_header(&self) -> Option<esp::Header> {
        esp::Header::parse(&self.upper).ok()
    }
}

/// What was decided on packets to a destination.
#[derive(Clone, Copy)]
struct Decision {
    /// It holds for sources that begin with as many of these bits as the lowest six of `verdict` say.
    local: u32,
    /// Above them the tunnel's id, or ones when packets go in the clear that came out of a tunnel.
    verdict: u32,
}

impl Decision {
    const LEN_BITS: u32 = 6;
    const CLEAR: u32 = u32::MAX >> Self::LEN_BITS;

    /// `None` when the id of the tunnel does not fit: its packets go the long way.
    fn new(local: u32, mask: u32, verdict: Verdict) -> Option<Self> {
        let id = match verdict {
            Verdict::Protect(TunnelId(id)) if id < Self::CLEAR => id,
            Verdict::Protect(_) => return None,
            Verdict::Clear => Self::CLEAR,
        };
        Some(Self { local, verdict: id << Self::LEN_BITS | mask.count_ones() })
    }

    #[inline(always)]
    fn on(self, source: u32) -> Option<Verdict> {
        let len = self.verdict & ((1 << Self::LEN_BITS) - 1);
        // None of the bits when the prefix is everything.
        let differ = u64::from(source ^ self.local) >> (32 - len.min(32));
        let verdict = match self.verdict >> Self::LEN_BITS {
            Self::CLEAR => Verdict::Clear,
            id => Verdict::Protect(TunnelId(id)),
        };
        (differ == 0).then_some(verdict)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Through this tunnel.
    Protect(TunnelId),
    /// In the clear, when the packet came out of a tunnel.
    Clear,
}

/// The fewest and the most lines of four destinations: 64 KB and 2 MB.
const LINES: [usize; 2] = [1 << 10, 1 << 15];

/// What was decided, by destination.
pub(super) struct Decisions {
    places: Remembered<u32, Decision>,
}

impl Decisions {
    /// Remembers as many destinations as there can be policies, if that is not too many: a look-up among 100,000 policies
    /// takes half a dozen cache misses, one here is one.
    pub(super) fn new(max_policies: usize) -> Self {
        let [least, most] = LINES;
        let lines = (max_policies / 3).clamp(least, most).next_power_of_two();
        Self { places: Remembered::new(lines, 0, Decision { local: 0, verdict: 0 }) }
    }

    /// Asks for what is known of packets to a destination.
    #[inline]
    pub(super) fn prefetch(&self, destination: u32) {
        self.places.prefetch(destination);
    }

    #[inline(always)]
    fn find(&self, source: u32, destination: u32, epoch: u64) -> Option<Verdict> {
        self.places.find(destination, epoch)?.on(source)
    }

    /// Whether something is known of packets to a destination.
    #[inline]
    pub(super) fn know(&self, destination: u32, epoch: u64) -> bool {
        self.places.find(destination, epoch).is_some()
    }

    /// Whether a packet that came out of a tunnel goes on in the clear, as the long way found before.
    #[inline(always)]
    pub(super) fn goes_clear(&self, usual: &Usual, epoch: u64) -> bool {
        // The long way says what becomes of those that are at their end.
        usual.ttl > 1
            && Address::v4(usual.source.to_be_bytes()).is_forwardable()
            && self.find(usual.source, usual.destination, epoch) == Some(Verdict::Clear)
    }
}

impl Worker {
    /// Of a port without VLAN.
    #[inline]
    pub(super) fn usual_link(&self, port: PortId) -> Option<UsualLink> {
        let config = &self.ports.get(usize::from(port))?.config;
        let mac = config.mac.filter(|_| config.vlan.is_none())?;
        Some(UsualLink { mac, strict: config.reverse_path })
    }

    /// Changes whenever a route, a policy or an address of ours does, and never comes again.
    #[inline(always)]
    pub(super) fn epoch(&self) -> u64 {
        // None of them ever becomes less.
        let tables = &self.tables;
        tables.routes.generation() + tables.spd.generation() + tables.addresses.generation()
    }

    /// The tunnel of a usual packet from a port, if its source may send there and the long way found a tunnel before.
    #[inline(always)]
    pub(super) fn usual_tunnel(&self, usual: &Usual, port: PortId, strict: bool) -> Option<TunnelId> {
        let epoch = self.epoch();
        let Some(Verdict::Protect(tunnel)) = self.decisions.find(usual.source, usual.destination, epoch)
        else {
            return None;
        };
        // The long way says what becomes of those that are at their end.
        (usual.ttl > 1 && self.sources.is_usual(usual.source, epoch, port, strict)).then_some(tunnel)
    }

    /// Remembers what the long way found for a packet that may be forwarded, to a destination that is not ours.
    #[inline]
    pub(super) fn remember(
        &mut self,
        destination: Address,
        found: Option<(PolicyId, Action)>,
        scope: Scope,
        from_tunnel: bool,
    ) {
        let Some(destination) = destination.to_v4() else { return };
        let (local, mask, verdict) = match (scope, found) {
            (Scope::Sources { local, mask }, Some((_, Action::Protect(tunnel)))) => {
                (local, mask, Verdict::Protect(tunnel))
            }
            (Scope::Everything, None) if from_tunnel => (0, 0, Verdict::Clear),
            _ => return,
        };
        if let Some(decision) = Decision::new(local, mask, verdict) {
            self.decisions.places.remember(destination, self.epoch(), decision);
        }
    }
}

/// Cuts link header and padding off a packet, and takes one from its TTL where it is forwarded. `usual` is of this packet.
#[inline(always)]
pub(super) fn strip(packet: &mut Packet, usual: &Usual, forwarded: bool) {
    packet.narrow(LINK, usual.total_len.into());
    if forwarded && let Some(header) = packet.data_mut().first_chunk_mut() {
        // Its TTL was looked at.
        let _still_alive = ipv4::decrement_ttl(header);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_decision_is_of_its_prefix(local: u32, source: u32, len in 0u32..=32, id: u32) {
            let mask = (u64::from(u32::MAX) << (32 - len)) as u32;
            let (local, id) = (local & mask, id >> Decision::LEN_BITS);
            let wanted = |verdict| (source & mask == local).then_some(verdict);
            let clear = Decision::new(local, mask, Verdict::Clear).unwrap();
            prop_assert_eq!(clear.on(source), wanted(Verdict::Clear));
            prop_assert_eq!(clear.on(local), Some(Verdict::Clear));
            let verdict = Verdict::Protect(TunnelId(id));
            match Decision::new(local, mask, verdict) {
                Some(decision) => prop_assert_eq!(decision.on(source), wanted(verdict)),
                None => prop_assert_eq!(id, Decision::CLEAR),
            }
        }
    }
}
