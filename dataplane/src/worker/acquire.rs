//! Packets whose tunnel has no SA (RFC 4301 s4.4.1): the control side is asked for one, and where it sets up tunnels
//! on demand, the first packets wait for it, a few of each tunnel and a few in all, for a short time.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::buffer::Packet;
use crate::clock::SECOND;
use crate::drops::DropReason;
use crate::message::Event;
use crate::packet::ip::{self, IpInfo};
use crate::policy::Action;
use crate::sa::TunnelId;
use crate::worker::Worker;
use crate::worker::outbound::SealQueue;
use crate::worker::transit::Origin;

/// Tunnels that the control side sets up when it is asked.
#[derive(Clone, Debug, Default)]
pub struct OnDemand {
    /// Which.
    pub tunnels: Range<u32>,
    /// How much waits for them.
    pub limits: WaitingLimits,
}

/// Bounds on packets that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingLimits {
    /// Packets that wait in all.
    pub all: usize,
    /// Packets of one tunnel that wait.
    pub each: usize,
    /// Flows of one tunnel that the control side is asked for within a second. More than one, since the peer may leave out
    /// one and not another. Packets of others wait with them, and are dropped as they are when nothing comes of it.
    pub flows: usize,
    /// How long they wait.
    pub patience: Duration,
}

impl Default for WaitingLimits {
    /// The time is an exchange on a long path, with one loss.
    fn default() -> Self {
        Self { all: 256, each: 16, flows: 8, patience: Duration::from_secs(3) }
    }
}

/// The control side is asked again for the same after this.
const AGAIN: u64 = SECOND;

/// Source, destination and protocol.
type Flow = (IpAddr, IpAddr, u8);

/// Packets that wait for an SA.
pub(super) struct Waiting {
    packets: VecDeque<Waiter>,
    /// There may be an SA for some of them.
    look: bool,
    /// What the control side was lately asked for; each tunnel at its id's place.
    asked: [Asked; 64],
    /// Of these each has so many at most; there is room for them from the start.
    flows: usize,
}

/// The flows of a tunnel that the control side was lately asked for, and when.
#[derive(Debug)]
struct Asked {
    tunnel: Option<TunnelId>,
    flows: Vec<(Flow, u64)>,
}

impl Asked {
    /// Whether it may be asked now.
    fn may(&mut self, tunnel: TunnelId, flow: &Flow, most: usize, now: u64) -> bool {
        if self.tunnel.replace(tunnel) != Some(tunnel) {
            self.flows.clear();
        }
        self.flows.retain(|(_, at)| now.saturating_sub(*at) < AGAIN);
        self.flows.len() < most && self.flows.iter().all(|(asked, _)| asked != flow)
    }
}

struct Waiter {
    packet: Packet,
    tunnel: TunnelId,
    origin: Origin,
    since: u64,
}

impl Waiting {
    pub(super) fn new(limits: &WaitingLimits) -> Self {
        let asked = |_| Asked { tunnel: None, flows: Vec::with_capacity(limits.flows) };
        Self {
            packets: VecDeque::with_capacity(limits.all),
            look: false,
            asked: std::array::from_fn(asked),
            flows: limits.flows,
        }
    }

    /// An SA or a policy is new.
    pub(super) fn hope(&mut self) {
        self.look = !self.packets.is_empty();
    }
}

impl Worker {
    /// A packet's tunnel has no SA.
    pub(super) fn acquire(&mut self, packet: Packet, tunnel: TunnelId, origin: Origin, now: u64) {
        if let Ok(info) = ip::parse(packet.data()) {
            self.ask_for(tunnel, &info, now);
        }
        if !self.on_demand.tunnels.contains(&tunnel.0) {
            return self.drop_packet(packet, DropReason::NoSa);
        }
        let (packets, limits) = (&mut self.waiting.packets, self.on_demand.limits);
        let full = packets.len() >= limits.all
            || packets.iter().filter(|waiter| waiter.tunnel == tunnel).count() >= limits.each;
        if full {
            return self.drop_packet(packet, DropReason::AcquireQueueFull);
        }
        packets.push_back(Waiter { packet, tunnel, origin, since: now });
    }

    /// Asks the control side for an SA. Once a second for each flow is enough, and leaves room in the channel for the
    /// answers of the peer.
    fn ask_for(&mut self, tunnel: TunnelId, info: &IpInfo, now: u64) {
        let (source, destination) = (info.source.to_ip(), info.destination.to_ip());
        let (protocol, ports) = (info.protocol, info.ports);
        let flow = (source, destination, protocol);
        let place = tunnel.0 as usize % self.waiting.asked.len();
        let most = self.waiting.flows;
        let may = self.waiting.asked.get_mut(place).is_some_and(|asked| asked.may(tunnel, &flow, most, now));
        if may
            && self.hint_limited(Event::Acquire { tunnel, source, destination, protocol, ports }, now)
            && let Some(asked) = self.waiting.asked.get_mut(place)
        {
            asked.flows.push((flow, now));
        }
    }

    /// Sends what waits and now has an SA. Policy decides anew: the SA is another tunnel's than the one that asked.
    #[inline]
    pub(super) fn send_waiting(&mut self, now: u64) {
        if self.waiting.look {
            self.look_again(now);
        }
    }

    #[cold]
    fn look_again(&mut self, now: u64) {
        self.waiting.look = false;
        let mut sealing = SealQueue::default();
        for _ in 0..self.waiting.packets.len() {
            let Some(waiter) = self.waiting.packets.pop_front() else { break };
            let info = match ip::parse(waiter.packet.data()) {
                Ok(info) => info,
                Err(reason) => {
                    self.drop_packet(waiter.packet, reason);
                    continue;
                }
            };
            match self.tables.spd.lookup(info.source, info.destination, info.protocol, info.ports) {
                Some((_, Action::Protect(tunnel))) if self.tables.tunnel(tunnel).is_some() => {
                    self.protect(waiter.packet, 0, tunnel, &info, waiter.origin, now, &mut sealing);
                }
                Some((_, Action::Protect(_))) => self.waiting.packets.push_back(waiter),
                // It was to be protected when it came, and it does not go in the clear because that changed.
                _ => self.drop_packet(waiter.packet, DropReason::PolicyDiscard),
            }
        }
        self.seal(&mut sealing, now);
        self.originate(&mut sealing, now);
    }

    /// Drops all that waits.
    pub(super) fn abandon_waiting(&mut self) {
        while let Some(waiter) = self.waiting.packets.pop_front() {
            self.drop_packet(waiter.packet, DropReason::AcquireTimeout);
        }
    }

    /// Drops what has waited too long. The oldest are in front.
    pub(super) fn expire_waiting(&mut self, now: u64) {
        let patience = self.on_demand.limits.patience.as_nanos() as u64;
        while self.waiting.packets.front().is_some_and(|waiter| now.saturating_sub(waiter.since) > patience) {
            if let Some(waiter) = self.waiting.packets.pop_front() {
                self.drop_packet(waiter.packet, DropReason::AcquireTimeout);
            }
        }
    }
}
