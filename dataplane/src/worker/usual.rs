//! The short way of the usual packets: whole IPv4 packets without options on an untagged link, to a destination that was
//! decided on before and from a source that is known.
//!
//! It knows no drop, no error and no other kind of packet: whatever it does not know in full goes the long way
//! (`classify`, `transit`), which says what becomes of the packet and leaves here what it found. So both ways say the same.

use crate::buffer::Packet;
use crate::packet::address::Address;
use crate::packet::ethernet;
use crate::packet::ip::IpInfo;
use crate::packet::{checksum, esp, ipv4};
use crate::policy::spd::Scope;
use crate::policy::{Action, PolicyId};
use crate::port::{Mac, PortId};
use crate::sa::TunnelId;
use crate::worker::Worker;

/// Bytes of the link header.
const LINK: usize = ethernet::HEADER_LEN;
/// Up to the first eight bytes behind the IP header: ports, or SPI and sequence number.
const SEEN: usize = LINK + ipv4::HEADER_LEN + 8;

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
    /// Reads a frame that is sent to `mac`. The packet is as [`ip::parse`](crate::packet::ip::parse) demands, and shows
    /// eight bytes behind its header.
    #[inline(always)]
    pub(super) fn read(frame: &[u8], mac: &Mac) -> Option<Self> {
        let seen: &[u8; SEEN] = frame.first_chunk()?;
        let be16 = |at: usize| u16::from_be_bytes([seen[at], seen[at + 1]]);
        let be32 = |at: usize| u32::from_be_bytes([seen[at], seen[at + 1], seen[at + 2], seen[at + 3]]);
        const IP: usize = LINK;
        let header: &[u8; ipv4::HEADER_LEN] = seen[IP..].first_chunk()?;
        let total_len = be16(IP + 2);
        let word = be16(IP + 6);
        let usual = seen[..6] == *mac
            // IPv4 in Ethernet II, a header of five words.
            && be32(12) >> 8 == 0x08_0045
            // Neither MF nor an offset.
            && word & 0x3fff == 0
            && usize::from(total_len) >= SEEN - LINK
            && usize::from(total_len) + LINK <= frame.len()
            && checksum::of(header) == 0;
        usual.then_some(Self {
            source: be32(IP + 12),
            destination: be32(IP + 16),
            total_len,
            protocol: seen[IP + 9],
            ttl: seen[IP + 8],
            tos: seen[IP + 1],
            dont_fragment: word & 0x4000 != 0,
            upper: *seen.last_chunk()?,
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
    destination: u32,
    /// It holds for sources with these bits where `mask` has ones.
    local: u32,
    mask: u32,
    verdict: Verdict,
    /// [`Worker::epoch`] then.
    epoch: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Through this tunnel.
    Protect(TunnelId),
    /// In the clear, when the packet came out of a tunnel.
    Clear,
}

/// Destinations that are remembered: 64 KB, an eighth of the second-level cache.
const PLACES: usize = 2048;

/// A direct-mapped cache by destination. A scan can only push out what is asked for again.
pub(super) struct Decisions {
    places: Box<[Decision; PLACES]>,
}

impl Decisions {
    pub(super) fn new() -> Self {
        // No epoch is 0.
        let none = Decision { destination: 0, local: 0, mask: 0, verdict: Verdict::Clear, epoch: 0 };
        Self { places: Box::new([none; PLACES]) }
    }

    #[inline(always)]
    fn place(destination: u32) -> usize {
        // As many upper bits of the product as a place has.
        (destination.wrapping_mul(0x9e37_79b9) >> (u32::BITS - PLACES.ilog2())) as usize
    }

    #[inline(always)]
    fn find(&self, source: u32, destination: u32, epoch: u64) -> Option<Verdict> {
        let known = self.known(destination, epoch)?;
        ((source ^ known.local) & known.mask == 0).then_some(known.verdict)
    }

    /// Whether something is known of packets to a destination.
    #[inline]
    pub(super) fn know(&self, destination: u32, epoch: u64) -> bool {
        self.known(destination, epoch).is_some()
    }

    #[inline(always)]
    fn known(&self, destination: u32, epoch: u64) -> Option<&Decision> {
        let known = &self.places[Self::place(destination) % PLACES];
        (known.destination == destination && known.epoch == epoch).then_some(known)
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

    /// Changes whenever a route, a policy or an address of ours does, and is never 0.
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

    /// Whether a packet that came out of a tunnel goes on in the clear, as the long way found before.
    #[inline(always)]
    pub(super) fn goes_clear(&self, info: &IpInfo) -> bool {
        let (Some(source), Some(destination)) = (info.source.to_v4(), info.destination.to_v4()) else {
            return false;
        };
        info.source.is_forwardable()
            && self.decisions.find(source, destination, self.epoch()) == Some(Verdict::Clear)
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
        let epoch = self.epoch();
        self.decisions.places[Decisions::place(destination) % PLACES] =
            Decision { destination, local, mask, verdict, epoch };
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
