//! ESP packets (RFC 4303): headers, padding and trailer around what the crypto engines seal and open.

pub mod inbound;
pub mod outbound;
mod padding;
pub mod run;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::buffer::{Packet, Pool};
    use crate::crypto::{Crypto, EngineChoice, Job, Key, KeyMaterial, Suite};
    use crate::drops::DropReason;
    use crate::outer::{Outer, Stamp};
    use crate::packet::ip::{self, Version, protocol};
    use crate::packet::{ipv4, ipv6};
    use crate::sa::{Endpoints, Mode, UdpPorts};
    use inbound::Layout;
    use outbound::Header;

    const HEADER: Header = Header { spi: 0x1234_5678, seq: 0x1_0000_0007 };
    const STAMP: Stamp = Stamp { tos: 0xb8, dont_fragment: true, id: 77 };

    fn endpoints(local: &str, remote: &str, udp: bool) -> Endpoints {
        let udp = udp.then_some(UdpPorts { local: 4500, remote: 4501 });
        Endpoints { local: local.parse().unwrap(), remote: remote.parse().unwrap(), udp }
    }

    fn all_endpoints() -> [Endpoints; 4] {
        [
            endpoints("198.51.100.1", "203.0.113.7", false),
            endpoints("198.51.100.1", "203.0.113.7", true),
            endpoints("2001:db8::1", "2001:db8::2", false),
            endpoints("2001:db8::1", "2001:db8::2", true),
        ]
    }

    fn key(crypto: &Crypto, suite: &str) -> Key {
        let suite: Suite = suite.parse().unwrap();
        let material = (0..suite.key_len()).map(|i| i as u8).collect();
        crypto.key(suite, true, &KeyMaterial::new(material)).unwrap()
    }

    /// A UDP packet of `len` bytes in all.
    fn inner(version: Version, len: usize, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let mut packet: Vec<u8> = (0..len).map(|i| i as u8).collect();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::Repr {
                source,
                destination,
                protocol: protocol::UDP,
                total_len: len as u16,
                identification: 1,
                dont_fragment: true,
                ttl: 64,
                tos: 0,
            }
            .emit(packet.first_chunk_mut().unwrap()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::Repr {
                source,
                destination,
                next_header: protocol::UDP,
                payload_len: (len - 40) as u16,
                hop_limit: 64,
                traffic_class: 0,
                flow_label: 5,
            }
            .emit(packet.first_chunk_mut().unwrap()),
            _ => panic!("mixed families for {version:?}"),
        }
        packet
    }

    fn tunnelled(version: Version, len: usize) -> Vec<u8> {
        match version {
            Version::V4 => inner(version, len, [10, 1, 0, 1].into(), [10, 2, 0, 1].into()),
            Version::V6 => inner(version, len, "fd00:1::1".parse().unwrap(), "fd00:2::1".parse().unwrap()),
        }
    }

    fn run(key: &Key, packet: &mut Packet, at: usize, engine: impl Fn(&mut [Job<'_>])) -> bool {
        let mut jobs = [Job { key, packet: &mut packet.data_mut()[at..], seq: HEADER.seq, ok: false }];
        engine(&mut jobs);
        jobs[0].ok
    }

    #[test]
    fn tunnel_mode_wraps_and_unwraps_every_family_in_every_other() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let pool = Pool::new(1, 4096).unwrap();
        for suite in ["aes128gcm16", "aes256-sha512", "null-sha256", "chacha20poly1305"] {
            let key = key(&crypto, suite);
            for endpoints in all_endpoints() {
                let outer = Outer::new(&endpoints, protocol::ESP, 64);
                for version in [Version::V4, Version::V6] {
                    for len in [48, 49, 64, 100, 511, 1400] {
                        let original = tunnelled(version, len);
                        let mut packet = pool.alloc_from(&original).unwrap();
                        let at =
                            outbound::tunnel(&mut packet, key.suite(), &outer, STAMP, HEADER, version, 0)
                                .unwrap();
                        assert_eq!(packet.len(), outbound::tunnel_len(key.suite(), &outer, len));
                        assert!(run(&key, &mut packet, at, |jobs| crypto.seal(jobs)));
                        outer.finish_udp6(packet.data_mut(), 40);

                        let info = ip::parse(packet.data()).unwrap();
                        assert_eq!(
                            (info.source.to_ip(), info.destination.to_ip()),
                            (endpoints.local, endpoints.remote)
                        );
                        assert_eq!((info.tos, usize::from(info.total_len)), (0xb8, packet.len()));
                        let udp = endpoints.udp.map(|ports| (ports.local, ports.remote));
                        assert_eq!(info.ports, udp);
                        if info.version == Version::V6 && udp.is_some() {
                            let datagram = &packet.data()[40..];
                            crate::packet::udp::verify(info.source, info.destination, datagram).unwrap();
                        }
                        assert!(
                            !packet.data().windows(20).any(|window| window == &original[..20])
                                || suite.starts_with("null")
                        );

                        Layout::of(key.suite()).check_len(packet.len() - at).unwrap();
                        assert!(run(&key, &mut packet, at, |jobs| crypto.open(jobs)));
                        inbound::unwrap(
                            &mut packet,
                            Layout::of(key.suite()),
                            Mode::Tunnel,
                            usize::from(info.header_len),
                            at,
                        )
                        .unwrap();
                        assert_eq!(packet.data(), original);
                    }
                }
            }
        }
    }

    #[test]
    fn transport_mode_protects_the_payload_in_place() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let pool = Pool::new(1, 4096).unwrap();
        let key = key(&crypto, "aes128gcm16");
        for endpoints in all_endpoints() {
            let outer = Outer::new(&endpoints, protocol::ESP, 64);
            let version = outer.version();
            let original = inner(version, 200, endpoints.local, endpoints.remote);
            let mut packet = pool.alloc_from(&original).unwrap();
            let info = ip::parse(packet.data()).unwrap();
            let at = outbound::transport(
                &mut packet,
                key.suite(),
                &outer,
                HEADER,
                info.header_len.into(),
                info.protocol,
            )
            .unwrap();
            assert!(run(&key, &mut packet, at, |jobs| crypto.seal(jobs)));
            let outer_info = ip::parse(packet.data()).unwrap();
            let expected = if endpoints.udp.is_some() { protocol::UDP } else { protocol::ESP };
            assert_eq!((outer_info.protocol, outer_info.destination.to_ip()), (expected, endpoints.remote));
            assert!(run(&key, &mut packet, at, |jobs| crypto.open(jobs)));
            inbound::unwrap(
                &mut packet,
                Layout::of(key.suite()),
                Mode::Transport,
                usize::from(outer_info.header_len),
                at,
            )
            .unwrap();
            assert_eq!(packet.data(), original);
        }
    }

    #[test]
    fn capacity_is_the_longest_packet_that_fits() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        for suite in ["aes128gcm16", "aes256-sha512", "null-sha256"] {
            let key = key(&crypto, suite);
            for endpoints in all_endpoints() {
                let outer = Outer::new(&endpoints, protocol::ESP, 64);
                for mtu in [576, 1280, 1499, 1500, 9000] {
                    let capacity = outbound::tunnel_capacity(key.suite(), &outer, mtu);
                    assert!(outbound::tunnel_len(key.suite(), &outer, capacity) <= mtu);
                    assert!(outbound::tunnel_len(key.suite(), &outer, capacity + 1) > mtu);
                }
            }
        }
    }

    #[test]
    fn tfc_padding_hides_the_length_and_is_cut_off_by_the_inner_header() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let pool = Pool::new(1, 4096).unwrap();
        let key = key(&crypto, "aes128gcm16");
        let outer = Outer::new(&all_endpoints()[0], protocol::ESP, 64);
        let original = tunnelled(Version::V4, 60);
        let mut packet = pool.alloc_from(&original).unwrap();
        let at =
            outbound::tunnel(&mut packet, key.suite(), &outer, STAMP, HEADER, Version::V4, 1000).unwrap();
        assert_eq!(packet.len(), outbound::tunnel_len(key.suite(), &outer, 1000));
        inbound::unwrap(&mut packet, Layout::of(key.suite()), Mode::Tunnel, 20, at).unwrap();
        let info = ip::parse(packet.data()).unwrap();
        packet.truncate(info.total_len.into());
        assert_eq!(packet.data(), original);
    }

    #[test]
    fn what_does_not_fit_the_mode_is_refused_by_name() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let pool = Pool::new(1, 4096).unwrap();
        let key = key(&crypto, "null-sha256");
        let outer = Outer::new(&all_endpoints()[0], protocol::ESP, 64);
        // The engine has not sealed it, so the plaintext is there to be spoilt.
        let wrapped = |spoil: &dyn Fn(&mut [u8])| {
            let mut packet = pool.alloc_from(&tunnelled(Version::V4, 60)).unwrap();
            let at =
                outbound::tunnel(&mut packet, key.suite(), &outer, STAMP, HEADER, Version::V4, 0).unwrap();
            let end = packet.len() - key.icv_len();
            spoil(&mut packet.data_mut()[at + 8..end]);
            inbound::unwrap(&mut packet, Layout::of(key.suite()), Mode::Tunnel, 20, at)
        };
        let last = |bytes: &mut [u8], back: usize, value: u8| {
            let at = bytes.len() - back;
            bytes[at] = value;
        };
        assert_eq!(wrapped(&|_| {}), Ok(()));
        assert_eq!(wrapped(&|b| last(b, 1, protocol::IPV6)), Err(DropReason::NextHeaderBad));
        assert_eq!(wrapped(&|b| last(b, 1, protocol::TCP)), Err(DropReason::NextHeaderBad));
        assert_eq!(wrapped(&|b| last(b, 1, protocol::NO_NEXT_HEADER)), Err(DropReason::Dummy));
        assert_eq!(wrapped(&|b| last(b, 2, 200)), Err(DropReason::PadBad));
        assert_eq!(wrapped(&|b| b[0] = 0x65), Err(DropReason::NextHeaderBad));
        assert_eq!(Layout::of(key.suite()).check_len(8 + 16 + 1), Err(DropReason::EspMalformed));
        assert_eq!(Layout::of(key.suite()).check_len(8 + 16 + 5), Err(DropReason::EspMalformed));
    }

    #[test]
    fn a_dummy_is_sealed_like_any_packet_and_dropped_on_arrival() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let pool = Pool::new(1, 4096).unwrap();
        let key = key(&crypto, "aes128gcm16");
        let outer = Outer::new(&all_endpoints()[0], protocol::ESP, 64);
        let mut packet = pool.alloc().unwrap();
        let at = outbound::dummy(&mut packet, key.suite(), &outer, STAMP, HEADER, 300).unwrap();
        assert!(run(&key, &mut packet, at, |jobs| crypto.seal(jobs)));
        assert!(run(&key, &mut packet, at, |jobs| crypto.open(jobs)));
        assert_eq!(
            inbound::unwrap(&mut packet, Layout::of(key.suite()), Mode::Tunnel, 20, at),
            Err(DropReason::Dummy)
        );
    }
}
