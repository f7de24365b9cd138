//! What was on a wire: every frame is looked at.

use std::collections::BTreeSet;

use dataplane::host::nd;
use dataplane::packet::{esp, ethernet, ip, udp};
use memchr::memmem::Finder;
use serde::Serialize;

use super::plan::Side;

/// UDP ports of IKE; on the second one a marker of zeros tells it from ESP (RFC 3948 s2.2).
const IKE: u16 = 500;
const IKE_NAT: u16 = 4500;
const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// Frames on a wire, by what they were.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Wire {
    /// All of them.
    pub(super) frames: u64,
    /// ESP from gateway to gateway.
    pub(super) esp: u64,
    /// The SPIs of it.
    pub(super) spis: BTreeSet<u32>,
    /// IKE between the gateways.
    pub(super) ike: u64,
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
    /// Frames that the wiretap itself lost, because it was too slow. They went no further, so nobody got what it has not seen.
    pub(super) lost: u64,
}

/// Looks at frames of one direction.
#[derive(Clone)]
pub(super) struct Census {
    from: Side,
    marker: Finder<'static>,
    seen: Wire,
}

impl Census {
    /// Nothing seen yet of what `from` sends. `marker` is in everything that the hosts send.
    pub(super) fn new(from: Side, marker: &[u8]) -> Self {
        Self { from, marker: Finder::new(marker).into_owned(), seen: Wire::default() }
    }

    /// Counts a frame. Returns whether it is the tunnel's.
    pub(super) fn see(&mut self, frame: &[u8]) -> bool {
        self.seen.frames += 1;
        if self.marker.find(frame).is_some() {
            self.seen.with_plaintext += 1;
        }
        match self.kind(frame) {
            Kind::Esp(spi) => {
                self.seen.esp += 1;
                self.seen.spis.insert(spi);
                return true;
            }
            Kind::Ike => self.seen.ike += 1,
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
        if ends != (self.from.wan().addr().into(), self.from.other().wan().addr().into()) {
            return Kind::Other(format!("IP {} to {}, protocol {}", ends.0, ends.1, info.protocol));
        }
        match info.protocol {
            ip::protocol::ESP => match esp::Header::parse(payload) {
                Ok(header) => Kind::Esp(header.spi),
                Err(_) => Kind::Other("cut ESP".into()),
            },
            ip::protocol::UDP if is_ike(payload) => Kind::Ike,
            protocol => Kind::Other(format!("protocol {protocol} between the gateways")),
        }
    }
}

/// Whether a UDP datagram is one of IKE.
fn is_ike(datagram: &[u8]) -> bool {
    let port = |at| datagram.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let message = datagram.get(udp::HEADER_LEN..).unwrap_or_default();
    match (port(0), port(2)) {
        (Some(IKE), Some(IKE)) => true,
        (Some(IKE_NAT), Some(IKE_NAT)) => message.starts_with(&NON_ESP_MARKER),
        _ => false,
    }
}

impl std::ops::Add<&Wire> for Wire {
    type Output = Self;

    fn add(self, other: &Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            esp: self.esp + other.esp,
            spis: &self.spis | &other.spis,
            ike: self.ike + other.ike,
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
    Esp(u32),
    Ike,
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

    fn udp(ports: (u16, u16), message: &[u8]) -> Vec<u8> {
        let len = (udp::HEADER_LEN + message.len()) as u16;
        let header = [ports.0, ports.1, len, 0].map(u16::to_be_bytes);
        [header.as_flattened(), message].concat()
    }

    #[test]
    fn esp_and_ike_from_gateway_to_gateway_are_told_from_everything_else() {
        let (left, right) = (Side::Left.wan().addr().into(), Side::Right.wan().addr().into());
        let mut census = Census::new(Side::Left, MARKER);
        let good = esp(0x1234, &[7; 64]);
        assert!(census.see(&frame(ip::protocol::ESP, left, right, &good)));
        assert!(census.see(&frame(ip::protocol::ESP, left, right, &esp(0x5678, &[7; 64]))));
        assert!(!census.see(&frame(ip::protocol::ESP, right, left, &good)), "from the other end");
        for ike in [udp((500, 500), &[1; 28]), udp((4500, 4500), &[0; 32])] {
            assert!(!census.see(&frame(ip::protocol::UDP, left, right, &ike)));
        }
        let host = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
        for (protocol, source, payload) in [
            (ip::protocol::UDP, left, udp((4500, 4500), &[1; 28])),
            (ip::protocol::UDP, left, udp((500, 4500), &[0; 28])),
            (ip::protocol::UDP, left, vec![1]),
            (ip::protocol::ESP, host, good),
        ] {
            assert!(!census.see(&frame(protocol, source, right, &payload)));
        }
        assert!(!census.see(&[0; 9]));
        let mut arp = vec![0; 42];
        ethernet::Header::untagged([2; 6], [4; 6], ethernet::ethertype::ARP).emit(&mut arp).unwrap();
        assert!(!census.see(&arp));
        let seen = census.seen();
        let counted = (seen.frames, seen.esp, seen.ike, seen.arp, seen.other, seen.with_plaintext);
        assert_eq!(counted, (11, 2, 2, 1, 6, 0));
        assert_eq!(seen.spis, BTreeSet::from([0x1234, 0x5678]));
        assert_eq!(seen.first_other.as_deref(), Some(format!("IP {right} to {left}, protocol 50").as_str()));
    }

    #[test]
    fn plaintext_is_found_wherever_it_is() {
        let (left, right) = (Side::Left.wan().addr().into(), Side::Right.wan().addr().into());
        let mut census = Census::new(Side::Left, MARKER);
        let leak = esp(0x1234, &[&[0; 17], MARKER, &[0; 3]].concat());
        assert!(census.see(&frame(ip::protocol::ESP, left, right, &leak)), "ESP by its header");
        census.see(MARKER);
        assert_eq!(census.seen().with_plaintext, 2);
    }
}
