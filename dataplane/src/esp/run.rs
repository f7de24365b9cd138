//! ESP in tunnel mode between IPv4 addresses (RFC 4303 s3.1.2), for runs of packets of one SA: what they have in common is
//! worked out when the SA is installed, and each packet's headers are a few words of eight bytes. The same bytes as
//! [`outbound::tunnel`](super::outbound::tunnel) writes.

use crate::buffer::Packet;
use crate::esp::padding::{self, TRAILER_LEN};
use crate::outer::{Marks, Outer, Stamp};
use crate::packet::esp::HEADER_LEN;
use crate::packet::ip::Version;
use crate::packet::{ipv4, udp};
use crate::sa::{OutboundSa, Spi};

/// IPv4 and ESP header.
const PLAIN: usize = ipv4::HEADER_LEN + HEADER_LEN;
/// With a UDP header between them.
const IN_UDP: usize = PLAIN + udp::HEADER_LEN;

/// What all packets of an SA have in common: a worker keeps it where it keeps the SA, so it is small.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Bytes 8 to 15 of the IPv4 header, without the checksum.
    second: u64,
    destination: u32,
    /// Source and destination port.
    ports: u32,
    spi: Spi,
    /// Sum of the 16-bit words of the IPv4 header that are the same for all (RFC 1071), folded.
    sum: u16,
    /// Bytes in front of the payload.
    front: u8,
    icv_len: u8,
    pad_align: u8,
    /// There is a UDP header.
    in_udp: bool,
    marks: Marks,
}

const _: () = assert!(size_of::<Run>() == 32);

impl Run {
    /// `None` when the outer header is IPv6, and for an SA that does not just put ESP in tunnel mode around its packets.
    pub fn new(sa: &OutboundSa, outer: &Outer) -> Option<Self> {
        let OutboundSa { params, options, spi, .. } = sa;
        let plain = params.is_esp_tunnel() && options.tfc_pad.is_none();
        let same = outer.v4().filter(|_| plain)?;
        let suite = params.suite;
        Some(Self {
            second: u64::from(same.ttl) << 56 | u64::from(same.protocol) << 48 | u64::from(same.source),
            destination: same.destination,
            ports: same.ports.unwrap_or_default(),
            spi: *spi,
            sum: same.sum,
            front: u8::try_from(outer.len() + HEADER_LEN + suite.iv_len()).ok()?,
            icv_len: u8::try_from(suite.icv_len()).ok()?,
            pad_align: u8::try_from(suite.pad_align()).ok()?,
            in_udp: same.ports.is_some(),
            marks: Marks::new(options, params.ecn),
        })
    }

    /// The largest inner packet whose outer packet is at most `mtu` bytes.
    #[inline]
    pub fn capacity(&self, mtu: usize) -> usize {
        let around = usize::from(self.front) + usize::from(self.icv_len);
        padding::capacity(mtu.saturating_sub(around), self.pad_align.into())
    }

    /// Puts everything around a packet but IV and ICV. `inner` is what its header says, `seq` its sequence number, of which
    /// the lower half is sent. Returns the offset of the ESP header, or `None` when the frame is too small; the packet is
    /// then no longer usable.
    #[inline(always)]
    pub fn wrap(&self, packet: &mut Packet, inner: Inner, seq: u64, id: u16) -> Option<usize> {
        let (payload, front) = (packet.len(), usize::from(self.front));
        let pad = padding::pad_len(payload, self.pad_align.into());
        let data = packet.extend(front, pad + TRAILER_LEN + usize::from(self.icv_len))?;
        let total = u16::try_from(data.len()).ok()?;
        padding::write(data.get_mut(front + payload..)?, pad, inner.version.protocol());
        let stamp = self.marks.stamp(inner.tos, inner.dont_fragment, id);
        let first = 0x45 << 56
            | u64::from(stamp.tos) << 48
            | u64::from(total) << 32
            | u64::from(stamp.id) << 16
            | u64::from(stamp.fragment_word());
        let second = self.second | u64::from(self.checksum(stamp, total)) << 32;
        let third = u64::from(self.destination) << 32;
        let (low, spi) = (seq as u32, u64::from(self.spi));
        if self.in_udp {
            // The UDP checksum stays zero (RFC 3948 s2.1).
            let fourth = u64::from(total - ipv4::HEADER_LEN as u16) << 48 | spi;
            let header: &mut [u8; IN_UDP] = data.first_chunk_mut()?;
            write(header, [first, second, third | u64::from(self.ports), fourth], low);
            Some(ipv4::HEADER_LEN + udp::HEADER_LEN)
        } else {
            let header: &mut [u8; PLAIN] = data.first_chunk_mut()?;
            write(header, [first, second, third | spi], low);
            Some(ipv4::HEADER_LEN)
        }
    }

    /// Of the IPv4 header with these fields (RFC 791 s3.1).
    #[inline(always)]
    fn checksum(&self, stamp: Stamp, total: u16) -> u16 {
        let sum = u32::from(self.sum)
            + u32::from(stamp.tos)
            + u32::from(total)
            + u32::from(stamp.id)
            + u32::from(stamp.fragment_word());
        // Five times 2^16 - 1 at most, so that the second fold leaves no carry.
        let sum = (sum >> 16) + (sum & 0xffff);
        !((sum >> 16) + sum) as u16
    }
}

/// What the outer headers take from the inner one.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// IPv4 or IPv6.
    pub version: Version,
    /// TOS byte or traffic class.
    pub tos: u8,
    /// As of [`IpInfo`](crate::packet::ip::IpInfo).
    pub dont_fragment: bool,
}

/// Writes whole words of a header and the sequence number that ends it.
#[inline(always)]
fn write<const WORDS: usize, const LEN: usize>(header: &mut [u8; LEN], words: [u64; WORDS], last: u32) {
    const { assert!(8 * WORDS + 4 == LEN) };
    let (places, rest) = header.as_chunks_mut::<8>();
    for (place, word) in places.iter_mut().zip(words) {
        *place = word.to_be_bytes();
    }
    rest.copy_from_slice(&last.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::buffer::{HEADROOM, Pool};
    use crate::crypto::{Crypto, EngineChoice, KeyMaterial, Suite};
    use crate::esp::outbound::{self, Header};
    use crate::packet::ip::protocol;
    use crate::sa::{
        DfPolicy, DscpPolicy, Endpoints, Mode, OutboundOptions, Protocol, SaParams, Start, TunnelId, UdpPorts,
    };

    fn endpoints(remote: [u8; 4], udp: Option<(u16, u16)>) -> Endpoints {
        let udp = udp.map(|(local, remote)| UdpPorts { local, remote });
        Endpoints { local: [198, 51, 100, 1].into(), remote: remote.into(), udp }
    }

    fn sa(suite: &str, spi: Spi, mode: Mode, ecn: bool, options: OutboundOptions) -> Arc<OutboundSa> {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let suite: Suite = suite.parse().unwrap();
        let params = SaParams {
            tunnel: TunnelId(0),
            protocol: if suite.is_ah() { Protocol::Ah } else { Protocol::Esp },
            mode,
            suite,
            esn: true,
            ecn,
            lifetime: Default::default(),
        };
        let material = KeyMaterial::new(vec![7; suite.key_len()]);
        OutboundSa::new(&crypto, params, spi, options, &material, Start { now: 0, used: 0 }).unwrap()
    }

    proptest! {
        #[test]
        fn a_run_writes_what_a_single_packet_would_get(
            len in 0usize..600,
            suite in prop::sample::select(vec!["aes128gcm16", "aes256gcm8", "aes128-sha256", "null-sha512"]),
            remote: [u8; 4],
            ports: Option<(u16, u16)>,
            tos: u8, dont_fragment: bool, id: u16, spi: u32, seq: u64, ttl: u8, v6: bool, ecn: bool,
            df in prop::sample::select(vec![DfPolicy::Copy, DfPolicy::Set, DfPolicy::Clear]),
            dscp in prop::option::of(0u8..64),
        ) {
            let dscp = dscp.map_or(DscpPolicy::Copy, DscpPolicy::Set);
            let sa = sa(suite, spi, Mode::Tunnel, ecn, OutboundOptions { df, dscp, ..Default::default() });
            let suite = sa.params.suite;
            let outer = Outer::new(&endpoints(remote, ports), protocol::ESP, ttl);
            let inner = Inner { version: if v6 { Version::V6 } else { Version::V4 }, tos, dont_fragment };
            let stamp = Marks::new(&sa.options, ecn).stamp(tos, dont_fragment, id);
            let pool = Pool::new(2, 2048).unwrap();
            let body: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let [mut alone, mut among] = [(); 2].map(|()| pool.alloc_from(&body).unwrap());
            let at = outbound::tunnel(&mut alone, suite, &outer, stamp, Header { spi, seq }, inner.version, 0);
            let run = Run::new(&sa, &outer).unwrap();
            prop_assert_eq!(run.wrap(&mut among, inner, seq, id), at.ok());
            // IV and ICV hold what the frames held before.
            let covered = |packet: &[u8]| {
                let body = outer.len() + HEADER_LEN + suite.iv_len();
                let (head, tail) = (packet[..body - suite.iv_len()].to_vec(), packet[body..].to_vec());
                (head, tail[..tail.len() - suite.icv_len()].to_vec())
            };
            prop_assert_eq!(covered(alone.data()), covered(among.data()));
            for mtu in [0, 40, 576, 1500, 9000] {
                prop_assert_eq!(run.capacity(mtu), outbound::tunnel_capacity(suite, &outer, mtu));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let sa = sa("aes128gcm16", 1, Mode::Tunnel, true, OutboundOptions::default());
        let run = Run::new(&sa, &Outer::new(&endpoints([203, 0, 113, 7], None), protocol::ESP, 64)).unwrap();
        let inner = Inner { version: Version::V4, tos: 0, dont_fragment: false };
        let mut full = Pool::new(1, 2048).unwrap().alloc_from(&[0; 2048 - HEADROOM]).unwrap();
        assert_eq!(run.wrap(&mut full, inner, 1, 0), None);
        let mut huge = Pool::new(1, 66_560).unwrap().alloc_from(&vec![0; 65_530]).unwrap();
        assert_eq!(run.wrap(&mut huge, inner, 1, 0), None);
    }

    #[test]
    fn what_is_not_esp_in_tunnel_mode_over_ipv4_has_none() {
        let v4 = Outer::new(&endpoints([203, 0, 113, 7], None), protocol::ESP, 64);
        let (local, remote) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let v6 = Outer::new(&Endpoints { local, remote, udp: None }, protocol::ESP, 64);
        let plain = OutboundOptions::default;
        let has = |suite, mode, options, outer| Run::new(&sa(suite, 1, mode, true, options), outer).is_some();
        assert!(has("aes128gcm16", Mode::Tunnel, plain(), &v4));
        assert!(!has("aes128gcm16", Mode::Tunnel, plain(), &v6));
        assert!(!has("aes128gcm16", Mode::Transport, plain(), &v4));
        assert!(!has("sha256", Mode::Tunnel, plain(), &v4));
        assert!(!has("aes128gcm16", Mode::Tunnel, OutboundOptions { tfc_pad: Some(100), ..plain() }, &v4));
    }
}
