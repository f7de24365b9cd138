//! Targets for what the gateway answers itself.

use std::net::IpAddr;

use super::packets::mend_v4;
use super::{Digest, Input, with_pool};
use crate::drops::DropCounters;
use crate::host::icmp::{Error, Icmp, IcmpConfig, Offender};
use crate::host::neighbour::NeighbourConfig;
use crate::host::reassembly::{Reassembly, ReassemblyConfig};
use crate::host::{Context, Interface, NeighbourTable, Output, SECOND, arp, feedback, nd};
use crate::packet::ip::{self, protocol};
use crate::packet::{checksum, ethernet, icmpv6};
use crate::port::Mac;

const OURS: Mac = [2, 0, 0, 0, 0, 1];

/// Fragments in any order, of a few packets, some of them overlapping: what comes out whole is a packet, and what
/// is kept stays within its bounds. Each fragment is a record: identification (4 values) and flags, offset in units
/// of 8, length, filling.
pub fn reassembly(data: &[u8]) -> u64 {
    let mut input = Input(data);
    let config =
        ReassemblyConfig { packets: 4, fragments: 16, bytes: 8192, fragments_each: 8, timeout: SECOND };
    with_pool(64, 2048, |pool| {
        with_pool(2, 66_560, |large| {
            let mut digest = Digest::default();
            let mut reassembly = Reassembly::new(config.clone());
            let (mut drops, mut expired, mut now) = (DropCounters::default(), Vec::new(), 0);
            while !input.is_empty() {
                let (flags, offset, len, filling) =
                    (input.byte(), input.byte(), usize::from(input.u16()) % 1600, input.byte());
                let bytes = fragment(flags, offset, len, filling);
                now += u64::from(flags >> 4) * SECOND / 16;
                if let (Ok(info), Some(packet)) = (ip::parse(&bytes), pool.alloc_from(&bytes))
                    && let Some(whole) = reassembly.add(packet, &info, 0, now, &large, &mut drops)
                {
                    digest.saw(whole.data());
                    // It may hide a header that only shows now, which parsing refuses by name.
                    if let Ok(info) = ip::parse(whole.data()) {
                        assert!(info.fragment.is_none(), "put together, and still a piece");
                        assert_eq!(usize::from(info.total_len), whole.len());
                    }
                }
                assert!(reassembly.len() <= config.packets);
                assert!(pool.capacity() - pool.available() <= config.fragments, "frames are bounded");
                reassembly.tick(now, &mut drops, &mut expired);
                expired.drain(..).for_each(|first| digest.saw(first.data()));
            }
            digest.saw_drops(&drops);
            digest.finish()
        })
    })
}

/// A fragment over IPv4, or IPv6 by a flag.
fn fragment(flags: u8, offset: u8, len: usize, filling: u8) -> Vec<u8> {
    let (id, more, six) = (flags & 3, flags & 4 != 0, flags & 8 != 0);
    let payload = vec![filling; len];
    let offset = u16::from(offset);
    if six {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol::FRAGMENT, 64];
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        let word = (offset << 3 | u16::from(more)).to_be_bytes();
        packet.extend([protocol::UDP, 0, word[0], word[1], 0, 0, 0, id]);
        packet[4..6].copy_from_slice(&(8 + len as u16).to_be_bytes());
        packet.extend(payload);
        packet
    } else {
        let word = (offset | if more { 0x2000 } else { 0 }).to_be_bytes();
        let mut packet = vec![0x45, 0, 0, 0, 0, id, word[0], word[1], 64, protocol::UDP, 0, 0];
        packet.extend([10, 1, 0, 1, 10, 2, 0, 1]);
        packet.extend(payload);
        mend_v4(&mut packet);
        packet
    }
}

/// ARP and ND frames, packets to neighbours, and time: our own addresses stay ours, and what waits is bounded. Each
/// step is a record: what, an address on the link, and bytes.
pub fn nd_arp(data: &[u8]) -> u64 {
    let mut input = Input(data);
    let nets = ["198.51.100.1/24", "2001:db8::1/64"].map(|net| net.parse().expect("a prefix"));
    let config =
        NeighbourConfig { capacity: 8, waiting_each: 2, waiting_total: 6, ..NeighbourConfig::default() };
    with_pool(64, 2048, |pool| {
        let mut digest = Digest::default();
        let mut table = NeighbourTable::new(config, vec![Interface::new(0, OURS, &[], &nets)]);
        let (mut drops, mut out, mut now) = (DropCounters::default(), Vec::new(), 0);
        while !input.is_empty() {
            let (what, host, len) = (input.byte(), input.byte(), usize::from(input.byte()));
            let bytes = input.take(len);
            let mut cx = Context { now, pool: &pool, drops: &mut drops, out: &mut out };
            match what % 4 {
                0 => {
                    let frame = [&OURS[..], &[2, 0, 0, 0, 9, host], &[8, 6], bytes].concat();
                    if let Some(frame) = pool.alloc_from(&frame) {
                        let _ = arp::receive(&mut table, 0, frame, &mut cx);
                    }
                }
                1 => {
                    if let Some(frame) = pool.alloc_from(&neighbour_frame(host, bytes)) {
                        let _ = nd::receive(&mut table, 0, frame, &mut cx);
                    }
                }
                2 => {
                    let address: IpAddr = if host & 1 == 0 {
                        [198, 51, 100, host].into()
                    } else {
                        [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)].into()
                    };
                    if let Some(packet) =
                        pool.alloc_from(if host & 1 == 0 { &[0x45; 20] } else { &[0x60; 40] })
                    {
                        table.send(0, address, packet, &mut cx);
                    }
                }
                _ => {
                    now += u64::from(host) * SECOND;
                    cx.now = now;
                    table.tick(&mut cx);
                }
            }
            for output in out.drain(..) {
                if let Output::Frame(_, frame) = output {
                    digest.saw(frame.data());
                    let header = ethernet::Header::parse(frame.data()).expect("we send whole frames");
                    assert_eq!(header.source, OURS);
                }
            }
            assert!(table.len() <= 8);
            assert!(pool.capacity() - pool.available() <= 6, "packets that wait are bounded");
            let stolen =
                table.resolved().any(|n| nets.iter().any(|net: &ipnet::IpNet| net.addr() == n.address));
            assert!(!stolen, "an address of ours is nobody else's");
        }
        digest.saw_drops(&drops);
        digest.finish()
    })
}

/// A Neighbour Discovery message with hop limit and checksum as they must be.
fn neighbour_frame(host: u8, bytes: &[u8]) -> Vec<u8> {
    let source = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into());
    let target = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let mut message = bytes.to_vec();
    message.resize(message.len().max(8), 0);
    message[2..4].fill(0);
    let sum = ip::pseudo_header(source, target, protocol::ICMPV6, message.len() as u32);
    let sum = sum.bytes(&message).finish();
    message[icmpv6::CHECKSUM_OFFSET..][..2].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&OURS[..], &[2, 0, 0, 0, 9, host], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([protocol::ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(target.octets());
    frame.extend(message);
    frame
}

/// Bytes as an ICMP message to us, with good checksums: what is believed of it makes sense, and an error about any
/// packet is a packet, and is never about an error.
pub fn icmp_feedback(data: &[u8]) -> u64 {
    let mut input = Input(data);
    let six = input.byte() & 1 != 0;
    let mut message = input.0.to_vec();
    if message.len() > 1500 {
        return 0;
    }
    message.resize(message.len().max(8), 0);
    let (source, ours): (IpAddr, IpAddr) = if six {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into())
    } else {
        ([198, 51, 100, 9].into(), [198, 51, 100, 1].into())
    };
    message[2..4].fill(0);
    let sum = if six {
        ip::pseudo_header(source, ours, protocol::ICMPV6, message.len() as u32).bytes(&message).finish()
    } else {
        checksum::of(&message)
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let bytes = match (source, ours) {
        (IpAddr::V6(source), IpAddr::V6(ours)) => {
            let mut packet = [0x60, 0, 0, 0, 0, 0, protocol::ICMPV6, 64];
            packet[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
            [&packet[..], &source.octets(), &ours.octets(), &message].concat()
        }
        (IpAddr::V4(source), IpAddr::V4(ours)) => {
            let packet = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol::ICMP, 0, 0];
            let mut packet = [&packet[..], &source.octets(), &ours.octets(), &message].concat();
            mend_v4(&mut packet);
            packet
        }
        _ => return 0,
    };
    let info = ip::parse(&bytes).expect("made to be right");
    if let Ok(heard) = feedback::parse(&bytes, &info) {
        assert_eq!(heard.local, ours);
        if let feedback::Problem::PathMtu(mtu) = heard.problem {
            assert!(mtu >= if six { 1280 } else { feedback::MIN_PATH_MTU_V4 });
        }
    }
    with_pool(2, 2048, |pool| {
        let mut digest = Digest::default();
        let mut icmp = Icmp::new(&IcmpConfig::default());
        let (mut drops, mut out) = (DropCounters::default(), Vec::new());
        let mut cx = Context { now: 0, pool: &pool, drops: &mut drops, out: &mut out };
        let offender = Offender { packet: &bytes, info: &info, link_multicast: false };
        let is_error = feedback::parse(&bytes, &info).is_ok();
        if let Some(error) = icmp.error(Error::TimeExceeded, &offender, ours, &mut cx) {
            digest.saw(error.data());
            assert!(!is_error, "an error about an error");
            assert!(ip::parse(error.data()).is_ok());
        }
        if let Some(mut packet) = pool.alloc_from(&bytes)
            && icmp.echo(&mut packet, &info, 0).is_ok()
        {
            digest.saw(packet.data());
            let reply = ip::parse(packet.data()).expect("a reply is a packet");
            assert_eq!((reply.source.to_ip(), reply.destination.to_ip()), (ours, source));
        }
        digest.finish()
    })
}
