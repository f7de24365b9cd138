//! What the gateway answers itself: ARP, Neighbour Discovery, ICMP, fragments.
//!
//! Sans-IO: functions take packets and the time, and put out packets. `now` is nanoseconds since the worker
//! started; it never goes back. State belongs to one worker. All memory is bounded.

use std::net::IpAddr;

use crate::buffer::{Packet, Pool};
use crate::drops::DropCounters;
use crate::message::Neighbour;
use crate::port::PortId;

pub mod arp;
pub mod feedback;
pub mod fragment;
pub mod icmp;
mod interface;
pub mod nd;
pub mod neighbour;
pub mod rate_limit;
pub mod reassembly;
#[cfg(test)]
mod test_support;

pub use interface::Interface;
pub use neighbour::{NeighbourIndex, NeighbourTable};

/// One second of `now`.
pub const SECOND: u64 = 1_000_000_000;

/// What host code works with during one call.
pub struct Context<'a> {
    /// Nanoseconds since the worker started.
    pub now: u64,
    /// Where frames for new packets come from.
    pub pool: &'a Pool,
    /// Packets that are given up.
    pub drops: &'a mut DropCounters,
    /// What is to be done; the worker empties it.
    pub out: &'a mut Vec<Output>,
}

/// Something for the worker to do.
#[derive(Debug)]
pub enum Output {
    /// Send this frame, complete with its Ethernet header, by this port.
    Frame(PortId, Packet),
    /// The next hop of this IP packet (without Ethernet header) does not answer. The packet is counted as
    /// dropped; its source may be told.
    Unreachable(Packet),
    /// Tell the other workers, since answers to their requests may arrive here.
    Learned(Neighbour),
    /// This station uses an address of ours; the operator must know.
    Conflict(Neighbour),
}

/// Tells the link of an interface that its addresses are ours, as after start or fail-over, and first asks whether
/// another station has one: its answer becomes an [`Output::Conflict`].
///
/// The addresses are used all the while, and after a conflict too. RFC 4862 s5.4 and RFC 5227 s2.1 want a host to wait
/// for seconds, and to give the address up when there is an answer, which nobody vouches for: then any station on the
/// link could keep a gateway from its work for as long as it likes.
pub fn announce(interface: &Interface, cx: &mut Context<'_>) {
    for net in interface.addresses() {
        let frames = match net.addr() {
            IpAddr::V4(address) => {
                [arp::probe(interface, address, cx.pool), arp::announcement(interface, address, cx.pool)]
            }
            IpAddr::V6(address) => {
                [nd::probe(interface, address, cx.pool), nd::announcement(interface, address, cx.pool)]
            }
        };
        for frame in frames {
            match frame {
                Ok(frame) => cx.out.push(Output::Frame(interface.port(), frame)),
                Err(reason) => cx.drops.count(reason),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::DropReason;
    use crate::packet::ethernet::Header;

    #[test]
    fn asks_about_every_address_and_announces_it() {
        let mut bench = test_support::Bench::new();
        let nets = ["198.51.100.1/24", "2001:db8::1/64"].map(|net| net.parse().unwrap());
        let interface = Interface::new(2, [2; 6], &[], &nets);
        bench.with(|cx| announce(&interface, cx));
        let frames = bench.frames(2);
        let ethertypes: Vec<_> = frames.iter().map(|f| Header::parse(f.data()).unwrap().ethertype).collect();
        assert_eq!(ethertypes, [0x0806, 0x0806, 0x86dd, 0x86dd, 0x86dd, 0x86dd]);
        let _rest: Vec<_> = std::iter::from_fn(|| bench.pool.alloc()).collect();
        bench.with(|cx| announce(&interface, cx));
        assert_eq!(bench.dropped(), [(DropReason::NoBuffer, 6)]);
    }
}
