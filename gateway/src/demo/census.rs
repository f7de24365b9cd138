//! What was on a wire: every frame is looked at.

use dataplane::host::nd;
use dataplane::packet::{esp, ethernet, ip};
use memchr::memmem::Finder;
use serde::Serialize;

use super::gateway::Spis;
use super::plan::Side;

/// Frames on a wire, by what they were.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Wire {
    /// All of them.
    pub(super) frames: u64,
    /// ESP from gateway to gateway with the SPI of its direction.
    pub(super) esp: u64,
    /// ARP, with which the gateways find each other.
    pub(super) arp: u64,
    /// Neighbour Discovery: each gateway announces its IPv6 link-local address.
    pub(super) nd: u64,
    /// Anything else.
    pub(super) other: u64,
    /// What the first one of those was.
    pub(super) first_other: Option<String>,
    /// Frames, of whatever kind, in which the hosts' marker can be read.
    pub(super) with_plaintext: u64,
    /// Frames that the wiretap itself lost, because it was too slow.
    pub(super) lost: u64,
}

/// Looks at frames of one direction.
#[derive(Clone)]
pub(super) struct Census {
    from: Side,
    spis: Spis,
    marker: Finder<'static>,
    seen: Wire,
}

impl Census {
    /// Nothing seen yet of what `from` sends. `marker` is in everything that the hosts send.
    pub(super) fn new(from: Side, spis: Spis, marker: &[u8]) -> Self {
        Self { from, spis, marker: Finder::new(marker).into_owned(), seen: Wire::default() }
    }

    /// Counts a frame. Returns whether it is the tunnel's.
    pub(super) fn see(&mut self, frame: &[u8]) -> bool {
        self.seen.frames += 1;
        if self.marker.find(frame).is_some() {
            self.seen.with_plaintext += 1;
        }
        match self.kind(frame) {
            Kind::Esp => {
                self.seen.esp += 1;
                return true;
            }
            Kind::Arp => self.seen.arp += 1,
            Kind::Nd => self.seen.nd += 1,
            Kind::Other(what) => {
                self.seen.other += 1;
                self.seen.first_other.get_or_insert(what);
            }
        }
        false
    }

    /// What was seen until now.
    pub(super) fn seen(&self) -> &Wire {
        &self.seen
    }

    fn kind(&self, frame: &[u8]) -> Kind {
        let Ok(header) = ethernet::Header::parse(frame) else { return Kind::Other("a cut frame".into()) };
        let packet = frame.get(header.header_len()..).unwrap_or_default();
        match header.ethertype {
            ethernet::ethertype::ARP => Kind::Arp,
            ethernet::ethertype::IPV4 => self.ip_kind(packet),
            ethernet::ethertype::IPV6
                if ip::parse(packet).is_ok_and(|info| nd::is_neighbour_message(&info)) =>
            {
                Kind::Nd
            }
            other => Kind::Other(format!("EtherType {other:#06x}")),
        }
    }

    fn ip_kind(&self, packet: &[u8]) -> Kind {
        let Ok(info) = ip::parse(packet) else { return Kind::Other("a malformed IP packet".into()) };
        let ends = (info.source, info.destination);
        let payload = packet.get(info.header_len.into()..).unwrap_or_default();
        let spi = (info.protocol == ip::protocol::ESP).then(|| esp::Header::parse(payload));
        match spi {
            Some(Ok(header))
                if header.spi == self.spis.sent_by(self.from)
                    && ends == (self.from.wan().addr().into(), self.from.other().wan().addr().into()) =>
            {
                Kind::Esp
            }
            Some(Ok(header)) => Kind::Other(format!("ESP {} to {}, SPI {:#x}", ends.0, ends.1, header.spi)),
            _ => Kind::Other(format!("IP {} to {}, protocol {}", ends.0, ends.1, info.protocol)),
        }
    }
}

impl std::ops::Add<&Wire> for Wire {
    type Output = Self;

    fn add(self, other: &Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            esp: self.esp + other.esp,
            arp: self.arp + other.arp,
            nd: self.nd + other.nd,
            other: self.other + other.other,
            first_other: self.first_other.or_else(|| other.first_other.clone()),
            with_plaintext: self.with_plaintext + other.with_plaintext,
            lost: self.lost + other.lost,
        }
    }
}

enum Kind {
    Esp,
    Arp,
    Nd,
    Other(String),
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use dataplane::packet::ipv4;

    use super::*;

    const MARKER: &[u8] = b"in the clear";

    fn frame(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { panic!("IPv4") };
        let mut header = [0; ipv4::HEADER_LEN];
        ipv4::Repr {
            tos: 0,
            identification: 0,
            dont_fragment: true,
            ttl: 64,
            protocol,
            source,
            destination,
            total_len: (ipv4::HEADER_LEN + payload.len()) as u16,
        }
        .emit(&mut header);
        let mut frame = vec![0; ethernet::HEADER_LEN];
        ethernet::Header::untagged([2; 6], [4; 6], ethernet::ethertype::IPV4).emit(&mut frame).unwrap();
        [frame.as_slice(), &header, payload].concat()
    }

    fn esp(spi: u32, body: &[u8]) -> Vec<u8> {
        [&spi.to_be_bytes(), &1_u32.to_be_bytes(), body].concat()
    }

    #[test]
    fn only_the_tunnels_own_packets_count_as_esp() {
        let spis = Spis::random().unwrap();
        let (left, right) = (Side::Left.wan().addr().into(), Side::Right.wan().addr().into());
        let mut census = Census::new(Side::Left, spis, MARKER);
        let good = esp(spis.sent_by(Side::Left), &[7; 64]);
        assert!(census.see(&frame(ip::protocol::ESP, left, right, &good)));
        assert!(!census.see(&frame(ip::protocol::ESP, right, left, &good)), "from the other end");
        let reverse = esp(spis.sent_by(Side::Right), &[7; 64]);
        assert!(!census.see(&frame(ip::protocol::ESP, left, right, &reverse)), "the other direction's SPI");
        assert!(!census.see(&frame(ip::protocol::UDP, left, right, &good)));
        let host = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
        assert!(!census.see(&frame(ip::protocol::ESP, host, right, &good)));
        assert!(!census.see(&[0; 9]));
        let mut arp = vec![0; 42];
        ethernet::Header::untagged([2; 6], [4; 6], ethernet::ethertype::ARP).emit(&mut arp).unwrap();
        assert!(!census.see(&arp));
        let seen = census.seen();
        assert_eq!((seen.frames, seen.esp, seen.arp, seen.other, seen.with_plaintext), (7, 1, 1, 5, 0));
        assert_eq!(
            seen.first_other.as_deref(),
            Some(format!("ESP {right} to {left}, SPI {:#x}", spis.sent_by(Side::Left)).as_str())
        );
    }

    #[test]
    fn plaintext_is_found_wherever_it_is() {
        let spis = Spis::random().unwrap();
        let (left, right) = (Side::Left.wan().addr().into(), Side::Right.wan().addr().into());
        let mut census = Census::new(Side::Left, spis, MARKER);
        let leak = esp(spis.sent_by(Side::Left), &[&[0; 17], MARKER, &[0; 3]].concat());
        assert!(census.see(&frame(ip::protocol::ESP, left, right, &leak)), "ESP by its header");
        census.see(MARKER);
        assert_eq!(census.seen().with_plaintext, 2);
    }
}
