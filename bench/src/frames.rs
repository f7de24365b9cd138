//! Frames that arrive at the gateway: in the clear from the LAN, and sealed by the peers.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use dataplane::buffer::{BURST, Packet, Pool};
use dataplane::crypto::{Crypto, Job, Key, Suite};
use dataplane::esp::outbound::{self, Header};
use dataplane::outer::{Outer, Stamp};
use dataplane::packet::ethernet::{self, ethertype};
use dataplane::packet::ip::{Version, protocol};
use dataplane::packet::ipv4;
use dataplane::port::Mac;
use dataplane::sa::{Endpoints, Spi};

use crate::traffic::Pick;
use crate::tunnels::{self, Direction, GATEWAY};

/// Ethernet address of everybody but the gateway.
pub const NEIGHBOUR: Mac = [0x02, 0, 0, 0, 0, 0x99];
/// Where an inner packet of at least [`MARKED`] bytes carries its mark.
const MARK_AT: usize = 28;
/// The shortest packet with a mark.
pub const MARKED: usize = MARK_AT + 8;

/// Frames one after the other in one piece of memory.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    /// Forgets all frames and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The frame at a place.
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        let start = if at == 0 { 0 } else { *self.ends.get(at - 1)? };
        self.bytes.get(start..*self.ends.get(at)?)
    }

    /// All frames.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

/// An inner packet: IPv4 and UDP, DF set, its mark first in the payload where there is room.
pub fn inner_packet(pick: Pick, direction: Direction, mark: u64, out: &mut Vec<u8>) {
    let (source, destination) = tunnels::inner_addresses(pick.tunnel, direction);
    out.clear();
    out.extend((0..pick.length).map(|at| at as u8));
    write_headers(out, source, destination);
    if let Some(place) = out.get_mut(MARK_AT..MARKED) {
        place.copy_from_slice(&mark.to_be_bytes());
    }
}

/// The mark of an inner packet.
pub fn mark(packet: &[u8]) -> Option<u64> {
    packet.get(MARK_AT..MARKED)?.try_into().ok().map(u64::from_be_bytes)
}

fn write_headers(packet: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr) {
    let total_len = packet.len() as u16;
    let repr = ipv4::Repr {
        source,
        destination,
        protocol: protocol::UDP,
        total_len,
        identification: 0,
        dont_fragment: true,
        ttl: 64,
        tos: 0,
    };
    if let Some(header) = packet.first_chunk_mut() {
        repr.emit(header);
    }
    // Ports, the length, and no checksum, which IPv4 allows.
    let [len_high, len_low] = (total_len - ipv4::HEADER_LEN as u16).to_be_bytes();
    if let Some(udp) = packet.get_mut(ipv4::HEADER_LEN..MARK_AT) {
        udp.copy_from_slice(&[0x10, 0, 0x20, 0, len_high, len_low, 0, 0]);
    }
}

/// An Ethernet header from a neighbour to the gateway's port.
pub fn ethernet_header(to: Mac, ethertype: u16) -> [u8; ethernet::HEADER_LEN] {
    let mut header = [0; ethernet::HEADER_LEN];
    header[..6].copy_from_slice(&to);
    header[6..12].copy_from_slice(&NEIGHBOUR);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

/// Frames of the host on the LAN.
pub fn from_host(picks: impl Iterator<Item = Pick>, lan: Mac, mut next_mark: u64, out: &mut Frames) {
    let header = ethernet_header(lan, ethertype::IPV4);
    let (mut packet, mut frame) = (Vec::new(), Vec::new());
    for pick in picks {
        inner_packet(pick, Direction::Outbound, next_mark, &mut packet);
        next_mark += 1;
        frame.clear();
        frame.extend_from_slice(&header);
        frame.extend_from_slice(&packet);
        out.push(&frame);
    }
}

/// The far ends of all tunnels: they seal what the gateway opens. No part of the gateway's worker is used.
pub struct Peers {
    crypto: Arc<Crypto>,
    keys: Vec<(Key, Spi)>,
    next: Vec<u64>,
    pool: Pool,
}

impl Peers {
    /// The peers of tunnels with these SPIs at the gateway.
    ///
    /// # Errors
    /// When a key is refused.
    pub fn new(
        crypto: Arc<Crypto>,
        suite: Suite,
        spis: impl Iterator<Item = Spi>,
        pool: Pool,
    ) -> anyhow::Result<Self> {
        let keys = spis
            .enumerate()
            .map(|(number, spi)| Ok((tunnels::peer_key(&crypto, suite, number, Direction::Inbound)?, spi)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let next = vec![1; keys.len()];
        Ok(Self { crypto, keys, next, pool })
    }

    /// Seals packets, each with the next sequence number of its tunnel, which is its mark too.
    ///
    /// # Errors
    /// When the engine refuses a packet.
    pub fn seal(
        &mut self,
        picks: impl Iterator<Item = Pick>,
        wan: Mac,
        out: &mut Frames,
    ) -> anyhow::Result<()> {
        let numbered: Vec<(Pick, u64)> = picks
            .map(|pick| {
                let next = self.next.get_mut(pick.tunnel).context("no such tunnel")?;
                *next += 1;
                Ok((pick, *next - 1))
            })
            .collect::<anyhow::Result<_>>()?;
        self.seal_numbered(&numbered, wan, out)
    }

    /// Seals packets with these sequence numbers, which are their marks too.
    ///
    /// # Errors
    /// When the engine refuses a packet.
    pub fn seal_numbered(&self, work: &[(Pick, u64)], wan: Mac, out: &mut Frames) -> anyhow::Result<()> {
        let header = ethernet_header(wan, ethertype::IPV4);
        let mut frame = Vec::new();
        for burst in work.chunks(BURST) {
            let mut wrapped = burst
                .iter()
                .map(|&(pick, seq)| self.wrap(pick, seq))
                .collect::<anyhow::Result<Vec<(Packet, usize)>>>()?;
            let mut jobs: Vec<Job<'_>> = wrapped
                .iter_mut()
                .zip(burst)
                .filter_map(|((packet, at), &(pick, seq))| {
                    let (key, _) = self.keys.get(pick.tunnel)?;
                    Some(Job { key, packet: packet.data_mut().get_mut(*at..)?, seq, ok: false })
                })
                .collect();
            self.crypto.seal(&mut jobs);
            let sealed = jobs.iter().filter(|job| job.ok).count();
            ensure!(sealed == burst.len(), "the engine refused a packet of a peer");
            drop(jobs);
            for (packet, _) in &wrapped {
                frame.clear();
                frame.extend_from_slice(&header);
                frame.extend_from_slice(packet.data());
                out.push(&frame);
            }
        }
        Ok(())
    }

    fn wrap(&self, pick: Pick, seq: u64) -> anyhow::Result<(Packet, usize)> {
        let (key, spi) = self.keys.get(pick.tunnel).context("no such tunnel")?;
        let mut inner = Vec::with_capacity(pick.length);
        inner_packet(pick, Direction::Inbound, seq, &mut inner);
        let mut packet = self.pool.alloc_from(&inner).context("no free frame for a peer's packet")?;
        let endpoints =
            Endpoints { local: tunnels::peer_address(pick.tunnel).into(), remote: GATEWAY.into(), udp: None };
        let outer = Outer::new(&endpoints, protocol::ESP, 64);
        let stamp = Stamp { tos: 0, dont_fragment: true, id: seq as u16 };
        let header = Header { spi: *spi, seq };
        let at = outbound::tunnel(&mut packet, key.suite(), &outer, stamp, header, Version::V4, 0)
            .map_err(|reason| anyhow!("a peer cannot wrap a packet: {}", reason.name()))?;
        Ok((packet, at))
    }
}

#[cfg(test)]
mod tests {
    use dataplane::packet::ip;

    use super::*;

    #[test]
    fn frames_are_kept_one_after_the_other() {
        let mut frames = Frames::default();
        frames.push(b"one");
        frames.push(b"");
        frames.push(b"three");
        assert_eq!(frames.iter().collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
        assert_eq!((frames.len(), frames.get(3)), (3, None));
        frames.clear();
        assert_eq!(frames.iter().count(), 0);
    }

    #[test]
    fn inner_packets_parse_and_carry_their_mark() {
        let mut packet = Vec::new();
        for length in [MARKED, 64, 594, 1420] {
            let pick = Pick { tunnel: 77, length };
            inner_packet(pick, Direction::Inbound, 0x0102_0304_0506_0708, &mut packet);
            let info = ip::parse(&packet).unwrap();
            assert_eq!(usize::from(info.total_len), length);
            assert_eq!(info.source, tunnels::remote_host(77));
            assert_eq!(info.destination, tunnels::HOST);
            assert_eq!(mark(&packet), Some(0x0102_0304_0506_0708));
        }
        inner_packet(Pick { tunnel: 0, length: 28 }, Direction::Outbound, 1, &mut packet);
        assert_eq!((ip::parse(&packet).unwrap().total_len, mark(&packet)), (28, None));
    }
}
