//! What the tests of host code share.

use std::cell::RefCell;

use super::{Context, Output};
use crate::buffer::{Packet, Pool};
use crate::drops::{DropCounters, DropReason};
use crate::message::Neighbour;
use crate::packet::{ipv4, ipv6};
use crate::port::PortId;

/// A pool, a clock, and what was put out.
pub(super) struct Bench {
    pub pool: Pool,
    pub now: u64,
    pub drops: DropCounters,
    pub out: Vec<Output>,
}

impl Bench {
    pub fn new() -> Self {
        let pool = cached_pool(64, 2048);
        Self { pool, now: 0, drops: DropCounters::default(), out: Vec::new() }
    }

    /// Calls host code.
    pub fn with<T>(&mut self, call: impl FnOnce(&mut Context<'_>) -> T) -> T {
        call(&mut Context { now: self.now, pool: &self.pool, drops: &mut self.drops, out: &mut self.out })
    }

    /// The frames put out on a port since the last time.
    pub fn frames(&mut self, port: PortId) -> Vec<Packet> {
        let take = |output: &mut Output| matches!(output, Output::Frame(of, _) if *of == port);
        let taken = self.out.extract_if(.., take);
        taken
            .filter_map(|output| if let Output::Frame(_, packet) = output { Some(packet) } else { None })
            .collect()
    }

    /// The packets given up since the last time.
    pub fn unreachable(&mut self) -> Vec<Packet> {
        let taken = self.out.extract_if(.., |output| matches!(output, Output::Unreachable(_)));
        taken
            .filter_map(|output| if let Output::Unreachable(packet) = output { Some(packet) } else { None })
            .collect()
    }

    /// The neighbours learned since the last time.
    pub fn learned(&mut self) -> Vec<Neighbour> {
        let taken = self.out.extract_if(.., |output| matches!(output, Output::Learned(_)));
        taken
            .filter_map(|output| if let Output::Learned(neighbour) = output { Some(neighbour) } else { None })
            .collect()
    }

    /// The conflicts reported since the last time.
    pub fn conflicts(&mut self) -> Vec<Neighbour> {
        let taken = self.out.extract_if(.., |output| matches!(output, Output::Conflict(_)));
        taken
            .filter_map(|output| if let Output::Conflict(other) = output { Some(other) } else { None })
            .collect()
    }

    /// Drops of all reasons so far.
    pub fn dropped(&self) -> Vec<(DropReason, u64)> {
        self.drops.nonzero().collect()
    }
}

/// A pool of this thread. Pools are never unmapped, so a property test must not make one a case.
pub(super) fn cached_pool(frames: usize, frame_size: usize) -> Pool {
    thread_local!(static POOLS: RefCell<Vec<Pool>> = const { RefCell::new(Vec::new()) });
    POOLS.with_borrow_mut(|pools| {
        let fits = |pool: &&Pool| {
            pool.frame_size() == frame_size && pool.capacity() == frames && pool.available() == frames
        };
        if let Some(pool) = pools.iter().find(fits) {
            return *pool;
        }
        let pool = Pool::new(frames, frame_size).unwrap();
        pools.push(pool);
        pool
    })
}

/// An IPv4 packet with identification 7 and without DF.
pub(super) fn packet_v4(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; ipv4::HEADER_LEN];
    let repr = ipv4::Repr {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        total_len: (ipv4::HEADER_LEN + payload.len()) as u16,
        identification: 7,
        dont_fragment: false,
        ttl: 17,
        tos: 0,
    };
    repr.emit(&mut header);
    [&header[..], payload].concat()
}

/// An IPv6 packet.
pub(super) fn packet_v6(source: &str, destination: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; ipv6::HEADER_LEN];
    let repr = ipv6::Repr {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        next_header,
        payload_len: payload.len() as u16,
        hop_limit: 17,
        traffic_class: 0,
        flow_label: 0,
    };
    repr.emit(&mut header);
    [&header[..], payload].concat()
}
