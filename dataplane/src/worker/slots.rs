//! What a worker keeps of each SA in its own tables: with many SAs each cache line is a miss, so what a usual packet needs
//! stands in two of them, in front.

use std::mem::offset_of;
use std::sync::Arc;

use crate::buffer::LINE;
use crate::esp::inbound::Layout;
use crate::esp::run::Run;
use crate::outer::Outer;
use crate::policy::OnlyV4;
use crate::sa::counters::SaCounters;
use crate::sa::lifetime::Lease;
use crate::sa::{Endpoints, InboundSa, OutboundSa};
use crate::worker::next_hops::Hop;
use crate::worker::whence::Whence;

/// An inbound SA.
#[repr(C)]
pub(super) struct InboundSlot {
    pub(super) sa: Arc<InboundSa>,
    /// The short way of its packets, if it has one.
    pub(super) usual: Option<UsualSa>,
    pub(super) lease: Lease,
    /// Where its packets come from. Packets from there need no look at the tunnel's own endpoints while
    /// [`Tables::moves`](crate::worker::tables::Tables) is the number beside it.
    pub(super) heard: Heard,
    pub(super) counters: SaCounters,
}

/// See [`InboundSlot::heard`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Heard {
    pub(super) moves: u32,
    pub(super) from: Whence,
}

/// What packets of an SA that is ESP in tunnel mode, with one selector of IPv4 that looks at no ports, must be.
#[derive(Clone, Copy)]
pub(super) struct UsualSa {
    pub(super) selector: OnlyV4,
    pub(super) layout: Layout,
    /// As [`SaParams::ecn`](crate::sa::SaParams).
    pub(super) ecn: bool,
}

/// A tunnel's outbound SA.
#[repr(C)]
pub(super) struct OutboundSlot {
    pub(super) sa: Arc<OutboundSa>,
    /// Where its packets leave, once they did.
    pub(super) exit: Option<Exit>,
    /// The short way of its packets, if it has one.
    pub(super) usual: Option<Run>,
    pub(super) lease: Lease,
    pub(super) counters: SaCounters,
    pub(super) outer: Outer,
    pub(super) endpoints: Endpoints,
    pub(super) quiet: Quiet,
}

/// Where a tunnel's packets leave, good while the routing table's generation is the same.
#[derive(Clone, Copy)]
pub(super) struct Exit {
    pub(super) generation: u64,
    pub(super) hop: Hop,
    /// Of the link.
    pub(super) mtu: u32,
}

/// Since when no worker has sent on an SA. The SA's sequence number tells, so that sending costs nothing extra.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quiet {
    /// The next sequence number at the last look.
    pub(super) next: u64,
    /// When it last changed, or we sent something without one.
    pub(super) since: u64,
}

/// Counters of packets and bytes.
const COUNTED: usize = 2 * size_of::<u64>();

// In front of an inbound slot stands its SPI.
const _: () = assert!(InboundSlot::USUAL + size_of::<u64>() <= 2 * LINE && OutboundSlot::USUAL <= 2 * LINE);

impl InboundSlot {
    /// Bytes that a usual packet needs.
    pub(super) const USUAL: usize = offset_of!(Self, counters) + COUNTED;

    pub(super) fn new(sa: Arc<InboundSa>, moves: u32) -> Self {
        let heard = Heard { moves, from: sa.endpoints.into() };
        let params = &sa.params;
        let usual = sa.selectors.only_v4().filter(|_| params.is_esp_tunnel()).map(|selector| UsualSa {
            selector,
            layout: Layout::of(params.suite),
            ecn: params.ecn,
        });
        Self { sa, usual, lease: Lease::default(), heard, counters: SaCounters::default() }
    }
}

impl OutboundSlot {
    /// Bytes that a usual packet needs.
    pub(super) const USUAL: usize = offset_of!(Self, counters) + COUNTED;

    pub(super) fn new(sa: Arc<OutboundSa>, endpoints: Endpoints) -> Self {
        let outer = Outer::new(&endpoints, sa.params.protocol.number(), sa.options.ttl);
        let mut slot = Self {
            sa,
            exit: None,
            usual: None,
            lease: Lease::default(),
            counters: SaCounters::default(),
            outer,
            endpoints,
            quiet: Quiet::default(),
        };
        slot.usual = slot.short_way();
        slot
    }

    /// Sends to another address or port from now on. What was learned of the old path does not hold for the new.
    pub(super) fn move_to(&mut self, endpoints: Endpoints) {
        self.outer = Outer::new(&endpoints, self.sa.params.protocol.number(), self.sa.options.ttl);
        self.endpoints = endpoints;
        self.exit = None;
        self.usual = self.short_way();
        self.sa.path_mtu.forget();
    }

    fn short_way(&self) -> Option<Run> {
        // The MSS is clamped by the long way.
        if self.sa.options.mss_clamp.is_none() { Run::new(&self.sa, &self.outer) } else { None }
    }
}
