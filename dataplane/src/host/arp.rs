//! ARP on our ports (RFC 826, RFC 5227).

use std::net::Ipv4Addr;

use super::neighbour::{Evidence, NeighbourTable};
use super::{Context, Interface, Output};
use crate::buffer::{Packet, Pool};
use crate::drops::DropReason;
use crate::message::Neighbour;
use crate::packet::arp::{LEN, Operation, Repr};
use crate::packet::ethernet::{BROADCAST, Header, ethertype, is_multicast};
use crate::port::{Mac, PortId};

/// Takes in an ARP frame (from its Ethernet header on) that came in by `port`: answers it when it asks for an
/// address of ours, in the frame itself, and lets the table learn from it.
///
/// # Errors
/// - [`DropReason::EthernetTruncated`], [`DropReason::ArpMalformed`]; the latter also for a sender that is a group
///   (RFC 1812 s3.3.2).
/// - [`DropReason::AddressConflict`] when another station claims our address. It is told that the address is ours,
///   once in ten seconds (RFC 5227 s2.4 (c)), and learns nothing else; the conflict is reported.
/// - [`DropReason::NotOurMac`] for a port that has no interface.
pub fn receive(
    table: &mut NeighbourTable,
    port: PortId,
    mut frame: Packet,
    cx: &mut Context<'_>,
) -> Result<(), DropReason> {
    let header = Header::parse(frame.data())?;
    let header_len = header.header_len();
    let message = Repr::parse(frame.data().get(header_len..).unwrap_or_default())?;
    let interface = table.interface(port).ok_or(DropReason::NotOurMac)?;
    let (mac, sender, target) = (interface.mac(), message.sender_ip, message.target_ip);
    if is_multicast(message.sender_mac) || message.sender_mac == [0; 6] || sender.is_multicast() {
        return Err(DropReason::ArpMalformed);
    }
    if message.sender_mac == mac {
        // Our own, come back.
        return Ok(());
    }
    if interface.owns(sender.into()) {
        let defence = announcement(interface, sender, cx.pool);
        let other = Neighbour { port, address: sender.into(), mac: message.sender_mac };
        cx.out.push(Output::Conflict(other));
        if table.defend(port, cx.now) {
            cx.out.push(Output::Frame(port, defence?));
        }
        return Err(DropReason::AddressConflict);
    }
    let asks_us = message.operation == Operation::Request && interface.owns(target.into());
    let answers_us =
        message.operation == Operation::Reply && interface.owns(target.into()) && header.destination == mac;
    let on_link = interface.is_on_link(sender.into());
    if asks_us {
        let reply = Repr {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: target,
            target_mac: message.sender_mac,
            target_ip: sender,
        };
        frame.truncate(header_len + LEN);
        header.reply(mac).emit(frame.data_mut())?;
        if let Some(out) = frame.data_mut().get_mut(header_len..).and_then(|rest| rest.first_chunk_mut()) {
            reply.emit(out);
        }
        cx.out.push(Output::Frame(port, frame));
    }
    // A probe (RFC 5227 s1.1) says nothing about who has an address.
    if !sender.is_unspecified() {
        let evidence = if asks_us && on_link {
            Evidence::Asked(message.sender_mac)
        } else {
            Evidence::Advertised { mac: Some(message.sender_mac), solicited: answers_us, overriding: true }
        };
        table.learn(port, sender.into(), evidence, cx);
    }
    Ok(())
}

/// A request for `target`: to everybody, or to the address that it had (RFC 1122 s2.3.2.1 (2)).
///
/// # Errors
/// [`DropReason::NoRoute`] when the interface has no IPv4 address to ask from, [`DropReason::NoBuffer`].
pub fn request(
    interface: &Interface,
    target: Ipv4Addr,
    known: Option<Mac>,
    pool: &Pool,
) -> Result<Packet, DropReason> {
    let std::net::IpAddr::V4(sender_ip) = interface.source_for(target.into()).ok_or(DropReason::NoRoute)?
    else {
        return Err(DropReason::NoRoute);
    };
    let message = Repr {
        operation: Operation::Request,
        sender_mac: interface.mac(),
        sender_ip,
        target_mac: [0; 6],
        target_ip: target,
    };
    frame(interface, known.unwrap_or(BROADCAST), &message, pool)
}

/// Asks who else has `address` (RFC 5227 s2.1.1): from no address, so that nobody learns anything.
///
/// # Errors
/// [`DropReason::NoBuffer`].
pub fn probe(interface: &Interface, address: Ipv4Addr, pool: &Pool) -> Result<Packet, DropReason> {
    let message = Repr {
        operation: Operation::Request,
        sender_mac: interface.mac(),
        sender_ip: Ipv4Addr::UNSPECIFIED,
        target_mac: [0; 6],
        target_ip: address,
    };
    frame(interface, BROADCAST, &message, pool)
}

/// Tells the link that `address` is ours (RFC 5227 s2.3), so that caches and switches forget who had it before.
///
/// # Errors
/// [`DropReason::NoBuffer`].
pub fn announcement(interface: &Interface, address: Ipv4Addr, pool: &Pool) -> Result<Packet, DropReason> {
    let message = Repr {
        operation: Operation::Request,
        sender_mac: interface.mac(),
        sender_ip: address,
        target_mac: [0; 6],
        target_ip: address,
    };
    frame(interface, BROADCAST, &message, pool)
}

fn frame(interface: &Interface, to: Mac, message: &Repr, pool: &Pool) -> Result<Packet, DropReason> {
    let mut frame = pool.alloc().ok_or(DropReason::NoBuffer)?;
    let out = frame.append(LEN).and_then(|out| out.first_chunk_mut()).ok_or(DropReason::NoRoom)?;
    message.emit(out);
    interface.header(to, ethertype::ARP).push(&mut frame)?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::host::neighbour::NeighbourConfig;
    use crate::host::test_support::Bench;
    use crate::packet::ethernet::VlanTag;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const PEER: Mac = [2, 0, 0, 0, 0, 9];
    const OUR_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    fn table() -> NeighbourTable {
        let net = "198.51.100.1/24".parse().unwrap();
        let interface = Interface::new(4, OURS, &[VlanTag::customer(7)], &[net]);
        NeighbourTable::new(NeighbourConfig::default(), vec![interface])
    }

    fn message(operation: Operation, sender: &str, target: &str) -> Repr {
        Repr {
            operation,
            sender_mac: PEER,
            sender_ip: sender.parse().unwrap(),
            target_mac: OURS,
            target_ip: target.parse().unwrap(),
        }
    }

    /// Hands a message in a frame from the peer to `receive`, padded as on the wire.
    fn receive_message(
        bench: &mut Bench,
        table: &mut NeighbourTable,
        to: Mac,
        message: &Repr,
    ) -> Result<(), DropReason> {
        let peer = Interface::new(4, PEER, &[VlanTag::customer(7)], &[]);
        let mut packet = frame(&peer, to, message, &bench.pool).unwrap();
        packet.append(14).unwrap().fill(0x55);
        bench.with(|cx| receive(table, 4, packet, cx))
    }

    fn parse(frame: &Packet) -> (Header, Repr) {
        let header = Header::parse(frame.data()).unwrap();
        let message = Repr::parse(&frame.data()[header.header_len()..]).unwrap();
        (header, message)
    }

    #[test]
    fn answers_a_request_and_learns_who_asked() {
        let (mut bench, mut table) = (Bench::new(), table());
        let request = message(Operation::Request, "198.51.100.9", "198.51.100.1");
        receive_message(&mut bench, &mut table, BROADCAST, &request).unwrap();
        let (header, reply) = parse(&bench.frames(4)[0]);
        assert_eq!((header.destination, header.source, header.tags[0].id()), (PEER, OURS, 7));
        let expected = Repr {
            operation: Operation::Reply,
            sender_mac: OURS,
            sender_ip: [198, 51, 100, 1].into(),
            target_mac: PEER,
            target_ip: [198, 51, 100, 9].into(),
        };
        assert_eq!(reply, expected);
        let index = table.find(4, "198.51.100.9".parse().unwrap()).unwrap();
        assert_eq!(table.mac(index), Some(PEER));
    }

    #[test]
    fn a_reply_is_cut_to_its_length() {
        let (mut bench, mut table) = (Bench::new(), table());
        let request = message(Operation::Request, "198.51.100.9", "198.51.100.1");
        receive_message(&mut bench, &mut table, BROADCAST, &request).unwrap();
        assert_eq!(bench.frames(4)[0].len(), 18 + LEN);
    }

    #[test]
    fn a_probe_for_our_address_is_answered_and_teaches_nothing() {
        let (mut bench, mut table) = (Bench::new(), table());
        let probe = message(Operation::Request, "0.0.0.0", "198.51.100.1");
        receive_message(&mut bench, &mut table, BROADCAST, &probe).unwrap();
        assert_eq!(parse(&bench.frames(4)[0]).1.sender_ip, Ipv4Addr::new(198, 51, 100, 1));
        assert!(table.is_empty() && bench.learned().is_empty());
    }

    #[test]
    fn what_is_not_asked_of_us_creates_nothing() {
        let (mut bench, mut table) = (Bench::new(), table());
        for (to, operation, sender, target) in [
            (BROADCAST, Operation::Request, "198.51.100.9", "198.51.100.9"),
            (BROADCAST, Operation::Reply, "198.51.100.9", "198.51.100.9"),
            (BROADCAST, Operation::Request, "198.51.100.9", "198.51.100.77"),
            (OURS, Operation::Reply, "198.51.100.9", "198.51.100.1"),
            (OURS, Operation::Request, "192.0.2.9", "192.0.2.1"),
        ] {
            receive_message(&mut bench, &mut table, to, &message(operation, sender, target)).unwrap();
            assert!(bench.frames(4).is_empty() && table.is_empty());
        }
        // From off the link: answered, not learned.
        let request = message(Operation::Request, "192.0.2.9", "198.51.100.1");
        receive_message(&mut bench, &mut table, BROADCAST, &request).unwrap();
        assert_eq!(bench.frames(4).len(), 1);
        assert!(table.is_empty());
    }

    #[test]
    fn only_a_reply_to_our_own_address_confirms() {
        for (to, probes) in [(OURS, 0), (BROADCAST, 1)] {
            let (mut bench, mut table) = (Bench::new(), table());
            let reply = message(Operation::Reply, "198.51.100.9", "198.51.100.1");
            let packet = bench.pool.alloc_from(&[0x45]).unwrap();
            let index = bench.with(|cx| table.send(4, "198.51.100.9".parse().unwrap(), packet, cx)).unwrap();
            receive_message(&mut bench, &mut table, OURS, &reply).unwrap();
            bench.now = 30 * crate::host::SECOND;
            bench.with(|cx| table.tick(cx));
            receive_message(&mut bench, &mut table, to, &reply).unwrap();
            bench.out.clear();
            assert!(table.mac(index).is_some());
            bench.now += crate::host::SECOND;
            bench.with(|cx| table.tick(cx));
            assert_eq!(bench.frames(4).len(), probes, "a reply to {to:x?}");
        }
    }

    #[test]
    fn senders_that_cannot_be_are_malformed() {
        let (mut bench, mut table) = (Bench::new(), table());
        let good = message(Operation::Request, "198.51.100.9", "198.51.100.1");
        for bad in [
            Repr { sender_mac: BROADCAST, ..good },
            Repr { sender_mac: [1, 0, 0x5e, 0, 0, 1], ..good },
            Repr { sender_mac: [0; 6], ..good },
            Repr { sender_ip: [224, 0, 0, 1].into(), ..good },
        ] {
            let result = receive_message(&mut bench, &mut table, BROADCAST, &bad);
            assert_eq!(result, Err(DropReason::ArpMalformed));
        }
        assert!(bench.frames(4).is_empty() && table.is_empty());
        let cut = bench.pool.alloc_from(&[0; 10]).unwrap();
        assert_eq!(bench.with(|cx| receive(&mut table, 4, cut, cx)), Err(DropReason::EthernetTruncated));
        let cut = bench.pool.alloc_from(&[0; 20]).unwrap();
        assert_eq!(bench.with(|cx| receive(&mut table, 4, cut, cx)), Err(DropReason::ArpMalformed));
    }

    #[test]
    fn our_address_is_defended_now_and_then() {
        let (mut bench, mut table) = (Bench::new(), table());
        let claim = message(Operation::Request, "198.51.100.1", "198.51.100.1");
        for (second, defences) in [(0, 1), (5, 0), (10, 1)] {
            bench.now = second * crate::host::SECOND;
            let result = receive_message(&mut bench, &mut table, BROADCAST, &claim);
            assert_eq!(result, Err(DropReason::AddressConflict));
            assert_eq!(bench.conflicts(), [Neighbour { port: 4, address: OUR_IP.into(), mac: PEER }]);
            let frames = bench.frames(4);
            assert_eq!(frames.len(), defences, "at {second} s");
            for frame in &frames {
                let (header, announcement) = parse(frame);
                assert_eq!(header.destination, BROADCAST);
                assert_eq!((announcement.sender_ip, announcement.sender_mac), (claim.sender_ip, OURS));
            }
        }
        let ours = Repr { sender_mac: OURS, ..claim };
        assert_eq!(receive_message(&mut bench, &mut table, BROADCAST, &ours), Ok(()));
        assert!(table.is_empty() && bench.out.is_empty());
    }

    #[test]
    fn a_probe_says_nothing_and_its_answer_is_a_conflict() {
        let (mut bench, mut table) = (Bench::new(), table());
        let packet = probe(table.interface(4).unwrap(), OUR_IP, &bench.pool).unwrap();
        let (header, message) = parse(&packet);
        assert_eq!((header.destination, message.operation), (BROADCAST, Operation::Request));
        assert_eq!((message.sender_mac, message.sender_ip), (OURS, Ipv4Addr::UNSPECIFIED));
        assert_eq!((message.target_mac, message.target_ip), ([0; 6], OUR_IP));
        // A switch that sends it back does no harm.
        assert_eq!(bench.with(|cx| receive(&mut table, 4, packet, cx)), Ok(()));
        assert!(bench.out.is_empty());
        let answer = Repr {
            operation: Operation::Reply,
            sender_mac: PEER,
            sender_ip: OUR_IP,
            target_mac: OURS,
            target_ip: Ipv4Addr::UNSPECIFIED,
        };
        let result = receive_message(&mut bench, &mut table, OURS, &answer);
        assert_eq!(result, Err(DropReason::AddressConflict));
        assert_eq!(bench.conflicts(), [Neighbour { port: 4, address: OUR_IP.into(), mac: PEER }]);
    }

    #[test]
    fn requests_go_to_all_or_to_one() {
        let (bench, table) = (Bench::new(), table());
        let interface = table.interface(4).unwrap();
        let target = Ipv4Addr::new(198, 51, 100, 9);
        let (header, message) = parse(&request(interface, target, None, &bench.pool).unwrap());
        assert_eq!((header.destination, message.target_ip), (BROADCAST, target));
        assert_eq!(IpAddr::from(message.sender_ip), "198.51.100.1".parse::<IpAddr>().unwrap());
        let (header, _) = parse(&request(interface, target, Some(PEER), &bench.pool).unwrap());
        assert_eq!(header.destination, PEER);
        let six = Interface::new(1, OURS, &[], &[]);
        assert_eq!(request(&six, target, None, &bench.pool).unwrap_err(), DropReason::NoRoute);
        let _all: Vec<_> = std::iter::from_fn(|| bench.pool.alloc()).collect();
        assert_eq!(request(interface, target, None, &bench.pool).unwrap_err(), DropReason::NoBuffer);
    }
}
