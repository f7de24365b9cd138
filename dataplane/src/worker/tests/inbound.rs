//! Packets that an inbound SA refuses: each is counted by name, on the worker and on the SA.

use super::support::*;
use crate::drops::DropReason;
use crate::message::{Direction, SaUpdate, Update};
use crate::packet::ethernet;
use crate::packet::ip::protocol;
use crate::sa::{OutboundOptions, Protocol};

fn tunnel() -> Tunnel {
    Tunnel::new("198.51.100.1", "198.51.100.2")
}

/// The right gateway gets one forged plaintext.
fn refused(plaintext: impl Fn(&Forger) -> Vec<u8>) -> Vec<(DropReason, u64)> {
    let mut pair = Pair::new(&tunnel());
    let forger = Forger::new(&pair, &tunnel());
    let frame = forger.frame(1, &plaintext(&forger));
    pair.right.receive(WAN, &[frame]);
    assert_eq!(pair.right.sent(LAN), [] as [Vec<u8>; 0]);
    let drops = pair.right.drops();
    pair.right.assert_dropped_on(0x1001, &drops);
    drops
}

fn inner() -> Vec<u8> {
    udp4("10.1.0.5", "10.2.0.5", 100)
}

#[test]
fn an_honest_plaintext_passes() {
    let mut pair = Pair::new(&tunnel());
    let forger = Forger::new(&pair, &tunnel());
    pair.right.receive(WAN, &[forger.frame(7, &forger.plaintext(&inner(), protocol::IPV4))]);
    assert_eq!(pair.right.drops(), []);
    assert_eq!(pair.right.sent(LAN).len(), 1);
}

/// Trains of packets to one host are looked up once, and no other host's go with them.
#[test]
fn each_packet_of_a_burst_goes_to_its_own_host() {
    let hosts = [
        ("10.2.0.5", HOST_MAC),
        ("10.2.0.6", [0x02, 0, 0, 0, 0, 0x98]),
        ("10.3.0.7", [0x02, 0, 0, 0, 0, 0x97]),
    ];
    let mut wide = tunnel();
    wide.remote = "10.2.0.0/15";
    let mut pair = Pair::new(&wide);
    pair.left.route("10.3.0.0/16", WAN, "198.51.100.2");
    pair.right.neighbour(LAN, "10.2.0.6", hosts[1].1);
    // Behind a router on the WAN's link.
    pair.right.neighbour(WAN, "198.51.100.77", hosts[2].1);
    pair.right.route("10.3.0.0/16", WAN, "198.51.100.77");
    let order = [0, 0, 1, 0, 2, 2, 0, 1, 2, 1];
    let packets: Vec<_> = order.iter().map(|&to| udp4("10.1.0.5", hosts[to].0, 100)).collect();
    // The first burst finds the ways, the second knows them.
    for _ in 0..2 {
        pair.left.receive_ip(LAN, &packets);
        let wire = pair.left.sent(WAN);
        pair.right.receive(WAN, &wire);
        for (port, own) in [(LAN, &[0, 1][..]), (WAN, &[2])] {
            let sent = pair.right.sent(port);
            let sent = sent.iter().map(|frame| (frame[..6].to_vec(), frame[30..34].to_vec()));
            let wanted = order.iter().filter(|to| own.contains(to)).map(|&to| {
                let address: std::net::Ipv4Addr = hosts[to].0.parse().unwrap();
                (hosts[to].1.to_vec(), address.octets().to_vec())
            });
            assert_eq!(sent.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "port {port}");
        }
    }
    assert_eq!(pair.right.drops(), []);
}

#[test]
fn bad_padding_and_next_headers() {
    let spoilt = |back: usize, value: u8| {
        refused(move |forger| {
            let mut plaintext = forger.plaintext(&inner(), protocol::IPV4);
            let at = plaintext.len() - back;
            plaintext[at] = value;
            plaintext
        })
    };
    assert_eq!(spoilt(2, 200), [(DropReason::PadBad, 1)], "longer than the packet");
    assert_eq!(spoilt(2, 4), [(DropReason::PadBad, 1)], "not 1, 2, 3, 4");
    for next_header in [protocol::IPV6, protocol::TCP, protocol::ESP, 0, 255] {
        assert_eq!(spoilt(1, next_header), [(DropReason::NextHeaderBad, 1)], "{next_header}");
    }
    assert_eq!(
        refused(|_| vec![1, 2, 2, protocol::IPV4]),
        [(DropReason::NextHeaderBad, 1)],
        "nothing inside"
    );
}

#[test]
fn inner_packets_that_do_not_parse() {
    let inner_is = |packet: Vec<u8>| refused(move |forger| forger.plaintext(&packet, protocol::IPV4));
    assert_eq!(inner_is(inner()[..60].to_vec()), [(DropReason::IpMalformed, 1)]);
    let mut bad_sum = inner();
    bad_sum[10] ^= 1;
    assert_eq!(inner_is(bad_sum), [(DropReason::IpChecksum, 1)]);
    let mut source_route = inner();
    source_route[0] = 0x46;
    source_route[20..24].copy_from_slice(&[131, 3, 4, 0]);
    source_route[10..12].fill(0);
    let sum = crate::packet::checksum::of(&source_route[..24]);
    source_route[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(inner_is(source_route), [(DropReason::IpOptions, 1)]);
}

#[test]
fn extension_header_bombs() {
    let mut tunnel = tunnel();
    (tunnel.local, tunnel.remote) = ("fd01::/64", "fd02::/64");
    let mut pair = Pair::new(&tunnel);
    let forger = Forger::new(&pair, &tunnel);
    // Nine destination option headers of eight bytes; then one of 2,048 bytes.
    let mut many = udp6("fd01::5", "fd02::5", 72 - 8);
    many[6] = protocol::DESTINATION_OPTIONS;
    for at in (40..40 + 72).step_by(8) {
        many[at..at + 8].copy_from_slice(&[protocol::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0]);
    }
    many[40 + 64] = protocol::NO_NEXT_HEADER;
    let mut long = udp6("fd01::5", "fd02::5", 2048 - 8);
    long[6] = protocol::DESTINATION_OPTIONS;
    long[40..42].copy_from_slice(&[protocol::NO_NEXT_HEADER, 255]);
    for (seq, packet) in [(1, &many), (2, &long)] {
        pair.right.receive(WAN, &[forger.frame(seq, &forger.plaintext(packet, protocol::IPV6))]);
    }
    pair.right.assert_dropped_on(0x1001, &[(DropReason::ExtensionHeaders, 2)]);
    // In the clear too, to transit and to us.
    let mut to_us = many.clone();
    to_us[24..40].copy_from_slice(&"2001:db8::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    pair.right.receive_ip(WAN, &[many, to_us]);
    assert_eq!(pair.right.count(DropReason::ExtensionHeaders), 4);
}

#[test]
fn inner_packets_outside_of_the_selectors() {
    for (source, destination) in [
        ("10.3.0.5", "10.2.0.5"),
        ("10.1.0.5", "10.3.0.5"),
        ("10.2.0.5", "10.1.0.5"),
        ("198.51.100.1", "198.51.100.2"),
    ] {
        let drops = refused(|forger| forger.plaintext(&udp4(source, destination, 20), protocol::IPV4));
        assert_eq!(drops, [(DropReason::SelectorMismatch, 1)], "{source} {destination}");
    }
}

#[test]
fn a_selector_that_names_a_port_does_not_admit_another_nor_a_hidden_one() {
    let mut tunnel = tunnel();
    tunnel.only = Some((protocol::UDP, 0x2000));
    let mut pair = Pair::new(&tunnel);
    let forger = Forger::new(&pair, &tunnel);
    let good = udp4("10.1.0.5", "10.2.0.5", 20);
    let mut other = good.clone();
    other[23] = 1;
    let mut hidden = good.clone();
    hidden[7] = 9;
    mend4(&mut hidden);
    for (seq, packet) in [(1, good), (2, other), (3, hidden)] {
        pair.right.receive(WAN, &[forger.frame(seq, &forger.plaintext(&packet, protocol::IPV4))]);
    }
    assert_eq!(pair.right.sent(LAN).len(), 1);
    pair.right.assert_dropped_on(0x1001, &[(DropReason::SelectorMismatch, 1)]);
    // The rest of it never comes.
    pair.right.pass(std::time::Duration::from_secs(60));
    assert_eq!(pair.right.count(DropReason::FragmentTimeout), 1);
}

#[test]
fn the_window_refuses_what_it_saw_and_what_is_too_old() {
    let mut tunnel = tunnel();
    // With ESN a number left of the window is taken for one of the next round.
    (tunnel.window, tunnel.esn) = (64, false);
    let mut pair = Pair::new(&tunnel);
    let forger = Forger::new(&pair, &tunnel);
    let frame = |seq| forger.frame(seq, &forger.plaintext(&inner(), protocol::IPV4));
    pair.right.receive(WAN, &[frame(1000)]);
    // All of them in one burst: a copy must not pass because its original is not counted yet.
    pair.right.receive(WAN, &[frame(999), frame(999), frame(1000), frame(500), frame(2000), frame(999)]);
    assert_eq!(pair.right.sent(LAN).len(), 3);
    let expected = [(DropReason::ReplayDuplicate, 2), (DropReason::ReplayTooOld, 2)];
    pair.right.assert_dropped_on(0x1001, &expected);
}

#[test]
fn a_bad_icv_changes_nothing() {
    let mut pair = Pair::new(&tunnel());
    let forger = Forger::new(&pair, &tunnel());
    let mut frame = forger.frame(4_000_000, &forger.plaintext(&inner(), protocol::IPV4));
    *frame.last_mut().unwrap() ^= 1;
    // From another address, to see that the peer is not believed to have moved either.
    frame[14 + 12..14 + 16].copy_from_slice(&[203, 0, 113, 9]);
    let mut header = frame[14..34].to_vec();
    mend4(&mut header);
    frame[14..34].copy_from_slice(&header);
    pair.right.receive(WAN, &[frame]);
    pair.right.assert_dropped_on(0x1001, &[(DropReason::IcvBad, 1)]);
    assert!(pair.right.events().is_empty());
    // The window did not move: an honest packet with a low number passes.
    pair.right.receive(WAN, &[forger.frame(1, &forger.plaintext(&inner(), protocol::IPV4))]);
    assert_eq!(pair.right.sent(LAN).len(), 1);
}

#[test]
fn lengths_that_no_esp_packet_has() {
    let mut pair = Pair::new(&tunnel());
    let forger = Forger::new(&pair, &tunnel());
    let whole = forger.frame(1, &forger.plaintext(&inner(), protocol::IPV4));
    let cut = |len: usize| {
        let mut packet = whole[14..14 + 20 + len].to_vec();
        packet[2..4].copy_from_slice(&(20 + len as u16).to_be_bytes());
        mend4(&mut packet);
        packet
    };
    // Header, IV, ICV and trailer are 8 + 8 + 16 + 2, and the body comes in words.
    let packets: Vec<_> = [8, 15, 31, 33, 34, 35, 37].map(cut).into();
    pair.right.receive_ip(WAN, &packets);
    pair.right.assert_dropped_on(0x1001, &[(DropReason::EspMalformed, 7)]);
    // Too short even for an SPI, so it is nobody's.
    pair.right.receive_ip(WAN, &[cut(0), cut(7)]);
    assert_eq!(pair.right.drops(), [(DropReason::EspMalformed, 9)]);
    // Longer than the packet: the frame is cut.
    pair.right.receive(WAN, &[whole[..100].to_vec()]);
    assert_eq!(pair.right.count(DropReason::IpMalformed), 1);
}

#[test]
fn spis_that_are_reserved_unknown_or_of_the_other_protocol() {
    let mut pair = Pair::new(&tunnel());
    let mut other = tunnel();
    (other.protocol, other.suite, other.spi) = (Protocol::Ah, "sha256", (0x1002, 0x2002));
    let sa = other.mirrored().inbound(&pair.right, 2);
    pair.right.update(Update::Sa(SaUpdate::AddInbound(sa)));
    let frame = |spi: u32| {
        let forger = Forger::new(&pair, &tunnel());
        let mut frame = forger.frame(1, &forger.plaintext(&inner(), protocol::IPV4));
        frame[34..38].copy_from_slice(&spi.to_be_bytes());
        frame
    };
    let frames: Vec<_> = [0, 1, 255, 256, 0x9999_9999, 0x1002].map(frame).into();
    pair.right.receive(WAN, &frames);
    let expected = [(DropReason::SpiReserved, 3), (DropReason::SpiUnknown, 2), (DropReason::SaMismatch, 1)];
    assert_eq!(pair.right.drops(), expected);
    let of_sa: Vec<_> = pair.right.sa(Direction::Inbound, 0x1002).drops().collect();
    assert_eq!(of_sa, [(DropReason::SaMismatch, 1)]);
}

#[test]
fn tfc_padding_and_dummies_are_taken_off() {
    let mut tunnel = tunnel();
    tunnel.options = OutboundOptions { tfc_pad: Some(1300), ..tunnel.options };
    let mut pair = Pair::new(&tunnel);
    let packets: Vec<_> = (0..20).map(|len| udp4("10.1.0.5", "10.2.0.5", len * 60)).collect();
    let (wire, out) = pair.left_to_right(&packets);
    assert!(wire.iter().all(|frame| frame.len() == wire[0].len()), "one length on the wire");
    assert_eq!(
        out.iter().map(Vec::len).collect::<Vec<_>>(),
        packets.iter().map(Vec::len).collect::<Vec<_>>()
    );
    let forger = Forger::new(&pair, &tunnel);
    let dummy = forger.frame(1000, &forger.plaintext(&[0xaa; 200], protocol::NO_NEXT_HEADER));
    pair.right.receive(WAN, &[dummy.clone(), dummy]);
    assert_eq!(pair.right.sent(LAN).len(), 0);
    pair.right.assert_dropped_on(0x1001, &[(DropReason::ReplayDuplicate, 1), (DropReason::Dummy, 1)]);
}

#[test]
fn mutations_of_a_good_packet_end_by_name() {
    let mut pair = Pair::new(&tunnel());
    let forger = Forger::new(&pair, &tunnel());
    let good = forger.frame(1, &forger.plaintext(&inner(), protocol::IPV4));
    let mut sent = 0;
    for bit in 0..(good.len() - ethernet::HEADER_LEN) * 8 {
        let mut frame = good.clone();
        frame[ethernet::HEADER_LEN + bit / 8] ^= 1 << (bit % 8);
        pair.right.receive(WAN, &[frame]);
        sent += 1;
    }
    assert_eq!(pair.right.sent(LAN).len(), 0);
    assert_eq!(pair.right.drops().iter().map(|&(_, count)| count).sum::<u64>(), sent, "one drop each");
    pair.right.receive(WAN, &[good]);
    assert_eq!(pair.right.sent(LAN).len(), 1, "and none of them used up the number");
}
