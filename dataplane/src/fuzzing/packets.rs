//! Targets for parsers, and for the way into an SA's packet and out again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Digest, Input, with_pool};
use crate::buffer::Packet;
use crate::crypto::{Crypto, EngineChoice, Job, Key, KeyMaterial, Suite};
use crate::drops::DropReason;
use crate::esp::inbound::{self, Layout};
use crate::esp::outbound;
use crate::host::fragment::{DontFragment, fragment_v4, fragment_v6};
use crate::outer::{Outer, Stamp};
use crate::packet::ip::{self, IpInfo, Version, protocol};
use crate::packet::{checksum, ipv4, ipv6};
use crate::sa::{Endpoints, Mode, UdpPorts};
use crate::{ah, sa};

thread_local!(static CRYPTO: Arc<Crypto> =
    Arc::new(Crypto::new(EngineChoice::Auto).expect("the engines pass their self-test")));

/// The engines, started once.
pub(super) fn crypto() -> Arc<Crypto> {
    CRYPTO.with(Arc::clone)
}

/// A key of this suite with ESN that everybody knows. Nothing changes a key, so each is made once.
fn with_known_key<T>(suite: Suite, body: impl FnOnce(&Key) -> T) -> T {
    thread_local!(static KEYS: RefCell<HashMap<Suite, Key>> = RefCell::default());
    let fresh = || {
        let material = KeyMaterial::new((0..suite.key_len()).map(|i| i as u8).collect());
        crypto().key(suite, true, &material).expect("the key is as long as the suite wants and not weak")
    };
    KEYS.with_borrow_mut(|keys| body(keys.entry(suite).or_insert_with(fresh)))
}

/// Bytes as an IP packet: what parses is consistent, survives what routers do to it, and its fragments parse too.
/// The first byte says whether IPv4's header checksum is made right before; the second byte is an MTU in units of 8.
pub fn ip_parse(data: &[u8]) -> u64 {
    let mut input = Input(data);
    let (mend, mtu) = (input.byte() & 1 != 0, usize::from(input.byte()) * 8);
    let mut packet = input.0.to_vec();
    if mend {
        mend_v4(&mut packet);
    }
    let Ok(info) = ip::parse(&packet) else { return 0 };
    assert!(info.header_len <= info.total_len && usize::from(info.total_len) <= packet.len());
    let mut changed = packet.clone();
    if ip::decrement_ttl(&mut changed).is_ok() {
        ip::set_tos(&mut changed, info.tos ^ 0xff).expect("it parsed");
        let after = ip::parse(&changed).expect("a router may do this to any packet");
        assert_eq!(IpInfo { ttl: info.ttl, tos: info.tos, ..after }, info);
    }
    ip::clamp_mss(&mut changed, &info, 1300);
    ip::renew_checksum(&mut changed, &info);
    ip::parse(&changed).expect("nothing before the transport header changed");
    let mut digest = Digest::default();
    digest.saw(&changed);
    cut(&packet, &info, mtu, &mut digest);
    digest.finish()
}

/// Fragments a packet, and parses the pieces.
fn cut(packet: &[u8], info: &IpInfo, mtu: usize, digest: &mut Digest) {
    with_pool(256, 2048, |pool| {
        with_pool(1, 66_560, |large| {
            let Some(frame) = large.alloc_from(packet) else { return };
            let mut pieces = Vec::new();
            let made = match info.version {
                Version::V4 => fragment_v4(frame, info, mtu, DontFragment::Override, &pool, &mut pieces),
                Version::V6 => fragment_v6(frame, info, mtu, 7, &pool, &mut pieces),
            };
            if made.is_err() {
                return assert!(pieces.is_empty());
            }
            let mut data = 0;
            for piece in &pieces {
                digest.saw(piece.data());
                let piece_info = match ip::parse(piece.data()) {
                    // A small MTU cuts through a transport header, which receivers refuse.
                    Err(DropReason::FragmentMalformed) => return,
                    parsed => parsed.expect("a piece of a sound packet is sound"),
                };
                assert!(pieces.len() == 1 || usize::from(piece_info.total_len) <= mtu);
                data += piece_info.payload_len();
            }
            assert_eq!(data, info.payload_len(), "no byte is lost or doubled");
        });
    });
}

/// Makes the length and the checksum of an IPv4 header right.
pub(super) fn mend_v4(packet: &mut [u8]) {
    let len = packet.len() as u16;
    let header_len = packet.first().map_or(0, |byte| usize::from(byte & 15) * 4);
    if packet.first().is_some_and(|byte| byte >> 4 == 4)
        && let Some(header) = packet.get_mut(..header_len)
        && let Some(fixed) = header.first_chunk_mut::<{ ipv4::HEADER_LEN }>()
    {
        fixed[2..4].copy_from_slice(&len.to_be_bytes());
        fixed[10..12].fill(0);
        let sum = checksum::of(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A payload of any bytes through ESP or AH, tunnel or transport mode, every suite, and back: it comes out as it went
/// in. With a byte changed on the way it does not come out.
pub fn esp_roundtrip(data: &[u8]) -> u64 {
    const SUITES: [&str; 6] =
        ["aes128gcm16", "aes256gcm8", "chacha20poly1305", "aes128-sha256", "null-sha1", "aes128gmac"];
    let mut input = Input(data);
    let (choice, seq) = (input.byte(), u64::from(input.u16()) << 24 | 1);
    let suite: Suite = input.choose(&SUITES).parse().expect("the names are those of suites");
    let (is_ah, six, udp, transport) =
        (choice & 1 != 0, choice & 2 != 0, choice & 4 != 0 && choice & 1 == 0, choice & 8 != 0);
    let suite = if is_ah { "sha256".parse().expect("a suite") } else { suite };
    let (tfc_pad, flip_at, flip) = (usize::from(input.byte()) * 4, input.u16(), input.byte());
    let (local, remote) = if six { ("2001:db8::1", "2001:db8::2") } else { ("198.51.100.1", "198.51.100.2") };
    let endpoints = Endpoints {
        local: local.parse().expect("an address"),
        remote: remote.parse().expect("an address"),
        udp: udp.then_some(UdpPorts { local: 4500, remote: 4500 }),
    };
    let original = packet(&endpoints, input.take(1500));
    let info = ip::parse(&original).expect("made to be right");
    let number = if is_ah { sa::Protocol::Ah.number() } else { sa::Protocol::Esp.number() };
    let (outer, mode) =
        (Outer::new(&endpoints, number, 64), if transport { Mode::Transport } else { Mode::Tunnel });
    with_known_key(suite, |key| {
        with_pool(2, 4096, |pool| {
            let mut digest = Digest::default();
            let mut frame = pool.alloc_from(&original).expect("frames are free and long enough");
            let header = outbound::Header { spi: 0x1001, seq };
            let stamp = Stamp { tos: 0, dont_fragment: true, id: 1 };
            let at = match (is_ah, mode) {
                (true, Mode::Tunnel) => ah::tunnel(&mut frame, key, &outer, stamp, header, info.version),
                (true, Mode::Transport) => ah::transport(
                    &mut frame,
                    key,
                    header,
                    info.header_len.into(),
                    info.protocol,
                    info.version,
                ),
                (false, Mode::Tunnel) => {
                    outbound::tunnel(&mut frame, key.suite(), &outer, stamp, header, info.version, tfc_pad)
                }
                (false, Mode::Transport) => outbound::transport(
                    &mut frame,
                    key.suite(),
                    &outer,
                    header,
                    info.header_len.into(),
                    info.protocol,
                ),
            }
            .expect("there is room");
            assert!(seal(key, is_ah, &mut frame, at, seq));
            outer.finish_udp6(frame.data_mut(), at.saturating_sub(8));
            digest.saw(frame.data());
            let wrapped = ip::parse(frame.data()).expect("what we send parses");
            assert_eq!(usize::from(wrapped.total_len), frame.len());
            if flip != 0 {
                let span = frame.len() - at;
                let place = at + usize::from(flip_at) % span;
                let mut spoilt = pool.alloc_from(frame.data()).expect("frames are free and long enough");
                spoilt.data_mut()[place] ^= flip;
                assert!(!open(key, is_ah, &mut spoilt, at, seq), "byte {place} of {}", spoilt.len());
            }
            assert!(open(key, is_ah, &mut frame, at, seq));
            let unwrapped = if is_ah {
                ah::unwrap(&mut frame, mode, at)
            } else {
                inbound::unwrap(&mut frame, Layout::of(key.suite()), mode, wrapped.header_len.into(), at)
            };
            unwrapped.expect("it was wrapped by us");
            let len = ip::parse(frame.data()).expect("the inner packet").total_len;
            frame.truncate(len.into());
            assert!(frame.data() == original, "something else came out");
            digest.finish()
        })
    })
}

/// A packet between the endpoints with a protocol that has no header of its own to be checked.
fn packet(endpoints: &Endpoints, payload: &[u8]) -> Vec<u8> {
    match (endpoints.local, endpoints.remote) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
            let mut packet = [0; ipv4::HEADER_LEN];
            let repr = ipv4::Repr {
                source,
                destination,
                protocol: 253,
                total_len: (ipv4::HEADER_LEN + payload.len()) as u16,
                identification: 1,
                dont_fragment: false,
                ttl: 64,
                tos: 0,
            };
            repr.emit(&mut packet);
            [&packet, payload].concat()
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
            // With an extension header, which transport mode has to find its way around.
            let mut packet = [0; ipv6::HEADER_LEN];
            let repr = ipv6::Repr {
                source,
                destination,
                next_header: protocol::DESTINATION_OPTIONS,
                payload_len: (8 + payload.len()) as u16,
                hop_limit: 64,
                traffic_class: 0,
                flow_label: 0,
            };
            repr.emit(&mut packet);
            [&packet[..], &[253, 0, 1, 4, 0, 0, 0, 0], payload].concat()
        }
        _ => Vec::new(),
    }
}

fn seal(key: &Key, is_ah: bool, packet: &mut Packet, at: usize, seq: u64) -> bool {
    if is_ah {
        return ah::seal(&crypto(), key, packet, at, seq);
    }
    let mut jobs = [Job { key, packet: &mut packet.data_mut()[at..], seq, ok: false }];
    crypto().seal(&mut jobs);
    jobs[0].ok
}

fn open(key: &Key, is_ah: bool, packet: &mut Packet, at: usize, seq: u64) -> bool {
    if is_ah {
        return ah::verify(&crypto(), key, packet, at, seq);
    }
    let mut jobs = [Job { key, packet: &mut packet.data_mut()[at..], seq, ok: false }];
    crypto().open(&mut jobs);
    jobs[0].ok
}
