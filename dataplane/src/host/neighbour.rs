//! The neighbour cache: who has which Ethernet address (RFC 826, RFC 4861 s7).
//!
//! The fast path keeps a [`NeighbourIndex`] beside its route and asks [`NeighbourTable::mac`], one array access.
//! When that is `None` it hands the packet to [`NeighbourTable::send`], which resolves, waits or gives up.
//!
//! ```text
//!   send          answer               30 s, or          used             3 probes, no answer
//! ---------> incomplete ----> reachable ------> stale -------> probing -----------------------> incomplete
//!                 | 3 requests, no answer     other MAC   answer: reachable      (or removed when not used)
//!                 +----> failed ----> removed after the hold-down
//! ```
//!
//! Attacks it stands up to: an unsolicited message never creates an entry, so nobody on the link can fill the
//! table by announcing; requests to us create entries only while a quarter of the table is free. A scan through
//! a large prefix can take all slots that are not in use, but never one that is reachable or used. Packets that
//! wait are bounded per neighbour and in all, so that a scan cannot hold the worker's frames.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::rate_limit::TokenBucket;
use super::{Context, Interface, Output, SECOND, arp, nd};
use crate::buffer::Packet;
use crate::drops::{DropCounters, DropReason};
use crate::message::Neighbour;
use crate::packet::ethernet::ethertype;
use crate::port::{Mac, PortId};

mod waiting;

use waiting::Waiting;

/// A neighbour's place in the table. It stays valid until the entry is removed; then [`NeighbourTable::mac`]
/// returns `None` for it, also when the place is taken by another neighbour (a generation is part of it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighbourIndex(u32);

impl NeighbourIndex {
    /// As a number, to be kept among others.
    #[inline]
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// From what [`NeighbourIndex::to_bits`] gave.
    #[inline]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// Sizes and times, the latter in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourConfig {
    /// The most neighbours, up to 65,536.
    pub capacity: usize,
    /// The most packets that wait for one neighbour; the oldest makes room (RFC 4861 s7.2.2).
    pub waiting_each: usize,
    /// The most packets that wait in all; beyond, new ones are refused.
    pub waiting_total: usize,
    /// How long an answer is good for (RFC 4861 s10, REACHABLE_TIME).
    pub reachable: u64,
    /// Between requests (RFC 4861 s10, RETRANS_TIMER; RFC 1122 s2.3.2.1: no more than one a second).
    pub retransmit: u64,
    /// How many requests, and how many probes (RFC 4861 s10, MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT).
    pub attempts: u8,
    /// How long packets are refused at once after nobody answered.
    pub hold_down: u64,
    /// How long an entry that is not used is kept.
    pub idle: u64,
    /// How many [`Output::Learned`] a second.
    pub reports: u32,
}

impl Default for NeighbourConfig {
    fn default() -> Self {
        Self {
            capacity: 4096,
            waiting_each: 8,
            waiting_total: 256,
            reachable: 30 * SECOND,
            retransmit: SECOND,
            attempts: 3,
            hold_down: 5 * SECOND,
            idle: 600 * SECOND,
            reports: 1000,
        }
    }
}

/// The neighbours of all Ethernet ports, as one worker knows them.
pub struct NeighbourTable {
    config: NeighbourConfig,
    interfaces: Vec<Interface>,
    by_address: HashMap<(PortId, IpAddr), u16>,
    /// What the fast path reads; same places as `entries`.
    hot: Vec<Hot>,
    entries: Vec<Entry>,
    free: Vec<u16>,
    /// Where the search for an entry to replace goes on.
    hand: usize,
    waiting: Waiting,
    reports: TokenBucket,
    /// No entry changes with time before this.
    due: u64,
}

#[derive(Clone, Copy)]
struct Hot {
    mac: Mac,
    generation: u16,
    usable: bool,
    /// Since the state last changed.
    used: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    port: PortId,
    address: IpAddr,
    state: State,
    /// When the state changes by itself.
    deadline: u64,
}

impl Entry {
    const FREE: Self =
        Self { port: 0, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), state: State::Free, deadline: u64::MAX };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Incomplete { sent: u8 },
    Reachable,
    Stale,
    Probing { sent: u8 },
    Failed,
}

/// What a message on the link says about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It asked us for something (RFC 4861 s7.2.3).
    Asked(Mac),
    /// It told its address (RFC 4861 s7.2.5).
    Advertised { mac: Option<Mac>, solicited: bool, overriding: bool },
}

/// How many places are looked at for an entry to replace.
const SEARCH: usize = 64;

impl NeighbourTable {
    /// A table without neighbours. Ports that are not among `interfaces` have none.
    pub fn new(config: NeighbourConfig, interfaces: Vec<Interface>) -> Self {
        let capacity = config.capacity.clamp(1, 1 << 16);
        Self {
            interfaces,
            by_address: HashMap::with_capacity(capacity),
            hot: vec![Hot { mac: [0; 6], generation: 0, usable: false, used: false }; capacity],
            entries: vec![Entry::FREE; capacity],
            free: (0..capacity).rev().filter_map(|slot| u16::try_from(slot).ok()).collect(),
            hand: 0,
            waiting: Waiting::new(config.waiting_each, config.waiting_total),
            reports: TokenBucket::new(config.reports, config.reports),
            due: 0,
            config,
        }
    }

    /// The Ethernet address at a place, `None` when it is not known (any more). Marks the neighbour as used.
    #[inline]
    pub fn mac(&mut self, index: NeighbourIndex) -> Option<Mac> {
        let hot = self.hot.get_mut(index.slot())?;
        if !hot.usable || hot.generation != index.generation() {
            return None;
        }
        hot.used = true;
        Some(hot.mac)
    }

    /// The place of a neighbour that the table knows, resolved or not.
    pub fn find(&self, port: PortId, address: IpAddr) -> Option<NeighbourIndex> {
        self.by_address.get(&(port, address)).map(|&slot| self.index(slot))
    }

    /// Sends an IP packet (without Ethernet header) to a neighbour: at once, or when it answered. Returns its place,
    /// `None` when the table is full.
    pub fn send(
        &mut self,
        port: PortId,
        address: IpAddr,
        packet: Packet,
        cx: &mut Context<'_>,
    ) -> Option<NeighbourIndex> {
        let slot = match self.by_address.get(&(port, address)) {
            Some(&slot) => slot,
            None => match self.create(port, address, cx) {
                Some(slot) => slot,
                None => {
                    cx.drops.count(DropReason::NeighbourTableFull);
                    return None;
                }
            },
        };
        let entry = self.entry(slot);
        match entry.state {
            State::Reachable | State::Stale | State::Probing { .. } => self.transmit(slot, packet, cx),
            State::Incomplete { .. } => self.waiting.push(slot, packet, cx.drops),
            State::Failed if cx.now < entry.deadline => give_up(packet, cx),
            State::Failed | State::Free => {
                self.waiting.push(slot, packet, cx.drops);
                self.start(slot, cx);
            }
        }
        Some(self.index(slot))
    }

    /// Takes over what another worker learned. Only entries that are here already change.
    pub fn apply(&mut self, neighbour: &Neighbour, cx: &mut Context<'_>) {
        let Some(&slot) = self.by_address.get(&(neighbour.port, neighbour.address)) else { return };
        let known = self.hot(slot).mac;
        let solicited = match self.entry(slot).state {
            State::Incomplete { .. } | State::Failed => true,
            // A new address is only believed once it answered us.
            _ => known == neighbour.mac,
        };
        let mac = Some(neighbour.mac);
        self.update(slot, Evidence::Advertised { mac, solicited, overriding: true }, cx);
    }

    /// Lets time pass: puts out requests and probes that are due, ages entries, gives up packets. Cheap to call
    /// often.
    pub fn tick(&mut self, cx: &mut Context<'_>) {
        if cx.now < self.due {
            return;
        }
        // A stale entry that came into use is found at the next look, so look at least this often.
        let mut due = cx.now.saturating_add(self.config.retransmit);
        for slot in 0..self.entries.len() {
            let slot = slot as u16;
            let entry = self.entry(slot);
            if entry.state == State::Free {
                continue;
            }
            if entry.deadline <= cx.now || (entry.state == State::Stale && self.hot(slot).used) {
                self.advance(slot, cx);
            }
            due = due.min(self.entry(slot).deadline);
        }
        self.due = due;
    }

    /// Drops the packets that wait for an answer.
    pub fn abandon(&mut self, drops: &mut DropCounters) {
        self.waiting.abandon(drops);
    }

    /// Our side of a port.
    pub fn interface(&self, port: PortId) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.port() == port)
    }

    /// Our side of all ports.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Every neighbour whose Ethernet address is known.
    pub fn resolved(&self) -> impl Iterator<Item = Neighbour> + '_ {
        let entries = self.entries.iter().zip(&self.hot).filter(|(_, hot)| hot.usable);
        entries.map(|(entry, hot)| Neighbour { port: entry.port, address: entry.address, mac: hot.mac })
    }

    /// Takes in a message that was received on the link.
    pub(super) fn learn(&mut self, port: PortId, address: IpAddr, evidence: Evidence, cx: &mut Context<'_>) {
        let Some(&slot) = self.by_address.get(&(port, address)) else {
            match evidence {
                Evidence::Asked(_) if self.free.len() * 4 >= self.entries.len() => {
                    if let Some(slot) = self.create(port, address, cx) {
                        self.update(slot, evidence, cx);
                    }
                }
                // Another worker may have asked.
                Evidence::Advertised { mac: Some(mac), .. } => {
                    self.report(Neighbour { port, address, mac }, cx);
                }
                _ => {}
            }
            return;
        };
        let before = self.hot(slot);
        self.update(slot, evidence, cx);
        let after = self.hot(slot);
        let changed = after.mac != before.mac || !before.usable;
        let confirmed = matches!(evidence, Evidence::Advertised { solicited: true, .. });
        if after.usable && (changed || confirmed) {
            self.report(Neighbour { port, address, mac: after.mac }, cx);
        }
    }

    /// Whether the holder of our address may be answered now; see [`Interface::defend`].
    pub(super) fn defend(&mut self, port: PortId, now: u64) -> bool {
        self.interfaces
            .iter_mut()
            .find(|interface| interface.port() == port)
            .is_some_and(|interface| interface.defend(now))
    }

    fn update(&mut self, slot: u16, evidence: Evidence, cx: &mut Context<'_>) {
        let (hot, state) = (self.hot(slot), self.entry(slot).state);
        let (mac, solicited, overriding) = match evidence {
            Evidence::Asked(mac) => (Some(mac), false, true),
            Evidence::Advertised { mac, solicited, overriding } => (mac, solicited, overriding),
        };
        if !hot.usable {
            // RFC 4861 s7.2.5: without an address there is nothing to do in state INCOMPLETE.
            let Some(mac) = mac else { return };
            self.set(slot, Some(mac), if solicited { State::Reachable } else { State::Stale }, cx.now);
            self.release(slot, cx);
            return;
        }
        let differs = mac.is_some_and(|mac| mac != hot.mac);
        if differs && !overriding {
            // RFC 4861 s7.2.5 (I): doubt, but keep.
            if state == State::Reachable {
                self.set(slot, None, State::Stale, cx.now);
            }
        } else if solicited {
            self.set(slot, mac, State::Reachable, cx.now);
        } else if differs {
            self.set(slot, mac, State::Stale, cx.now);
        }
    }

    /// What happens to an entry whose time came.
    fn advance(&mut self, slot: u16, cx: &mut Context<'_>) {
        let (hot, entry) = (self.hot(slot), self.entry(slot));
        let again = |sent: u8| (sent < self.config.attempts).then(|| sent + 1);
        match entry.state {
            State::Free => {}
            State::Incomplete { sent } => match again(sent) {
                Some(sent) => self.ask(slot, State::Incomplete { sent }, cx),
                None => {
                    self.set(slot, None, State::Failed, cx.now);
                    self.waiting.drain(slot, |packet| give_up(packet, cx));
                }
            },
            State::Reachable => self.set(slot, None, State::Stale, cx.now),
            State::Stale if hot.used => self.ask(slot, State::Probing { sent: 1 }, cx),
            State::Probing { sent } => match again(sent) {
                Some(sent) => self.ask(slot, State::Probing { sent }, cx),
                None if hot.used => self.start(slot, cx),
                None => self.remove(slot, cx),
            },
            State::Stale | State::Failed => self.remove(slot, cx),
        }
    }

    /// Starts to ask everybody on the link.
    fn start(&mut self, slot: u16, cx: &mut Context<'_>) {
        self.ask(slot, State::Incomplete { sent: 1 }, cx);
    }

    /// Goes to a state with a request or probe.
    fn ask(&mut self, slot: u16, state: State, cx: &mut Context<'_>) {
        let used = self.hot(slot).used;
        self.set(slot, None, state, cx.now);
        if let State::Probing { sent: 2.. } = state {
            // Use during any of the probes counts.
            self.hot[usize::from(slot)].used = used;
        }
        let (hot, entry) = (self.hot(slot), self.entry(slot));
        let mac = hot.usable.then_some(hot.mac);
        let request = match self.interface(entry.port) {
            None => return,
            Some(interface) => match entry.address {
                IpAddr::V4(target) => arp::request(interface, target, mac, cx.pool),
                IpAddr::V6(target) => nd::solicitation(interface, target, mac, cx.pool),
            },
        };
        match request {
            Ok(frame) => cx.out.push(Output::Frame(entry.port, frame)),
            Err(reason) => cx.drops.count(reason),
        }
    }

    /// Changes an entry's state, and its Ethernet address when one is given.
    fn set(&mut self, slot: u16, mac: Option<Mac>, state: State, now: u64) {
        let time = match state {
            State::Free => u64::MAX,
            State::Incomplete { .. } | State::Probing { .. } => self.config.retransmit,
            State::Reachable => self.config.reachable,
            State::Stale => self.config.idle,
            State::Failed => self.config.hold_down,
        };
        let deadline = now.saturating_add(time);
        self.due = self.due.min(deadline);
        let (hot, entry) = (&mut self.hot[usize::from(slot)], &mut self.entries[usize::from(slot)]);
        (entry.state, entry.deadline) = (state, deadline);
        hot.usable = matches!(state, State::Reachable | State::Stale | State::Probing { .. });
        hot.used = false;
        hot.mac = mac.unwrap_or(hot.mac);
    }

    /// A place for a new neighbour, in state `Free`.
    fn create(&mut self, port: PortId, address: IpAddr, cx: &mut Context<'_>) -> Option<u16> {
        self.interface(port)?;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let victim = self.victim()?;
                self.remove(victim, cx);
                self.free.pop()?
            }
        };
        self.entries[usize::from(slot)] = Entry { port, address, ..Entry::FREE };
        self.by_address.insert((port, address), slot);
        Some(slot)
    }

    /// An entry that is least of a loss: failed, unanswered for longer than a request takes, or not used.
    fn victim(&mut self) -> Option<u16> {
        for _ in 0..SEARCH.min(self.entries.len()) {
            self.hand = (self.hand + 1) % self.entries.len();
            let slot = self.hand as u16;
            match self.entry(slot).state {
                State::Failed | State::Incomplete { sent: 2.. } => return Some(slot),
                State::Stale if !self.hot(slot).used => return Some(slot),
                _ => {}
            }
        }
        None
    }

    fn remove(&mut self, slot: u16, cx: &mut Context<'_>) {
        let entry = self.entry(slot);
        self.waiting.drain(slot, |packet| give_up(packet, cx));
        self.by_address.remove(&(entry.port, entry.address));
        self.set(slot, None, State::Free, cx.now);
        let hot = &mut self.hot[usize::from(slot)];
        hot.generation = hot.generation.wrapping_add(1);
        self.free.push(slot);
    }

    /// Sends what waited for a neighbour.
    fn release(&mut self, slot: u16, cx: &mut Context<'_>) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.drain(slot, |packet| self.transmit(slot, packet, cx));
        self.waiting = waiting;
    }

    fn transmit(&mut self, slot: u16, mut packet: Packet, cx: &mut Context<'_>) {
        self.hot[usize::from(slot)].used = true;
        let (mac, port) = (self.hot(slot).mac, self.entry(slot).port);
        let ethertype = match packet.data().first() {
            Some(byte) if byte >> 4 == 6 => ethertype::IPV6,
            _ => ethertype::IPV4,
        };
        let Some(interface) = self.interface(port) else { return };
        match interface.header(mac, ethertype).push(&mut packet) {
            Ok(()) => cx.out.push(Output::Frame(port, packet)),
            Err(reason) => cx.drops.count(reason),
        }
    }

    fn report(&mut self, neighbour: Neighbour, cx: &mut Context<'_>) {
        if self.reports.take(cx.now) {
            cx.out.push(Output::Learned(neighbour));
        }
    }

    fn index(&self, slot: u16) -> NeighbourIndex {
        NeighbourIndex(u32::from(self.hot(slot).generation) << 16 | u32::from(slot))
    }

    // A slot is an index below `capacity`: it comes from the list of free ones, which holds 0..capacity, or from
    // `by_address`, which only ever gets slots from that list.
    fn hot(&self, slot: u16) -> Hot {
        self.hot[usize::from(slot)]
    }

    fn entry(&self, slot: u16) -> Entry {
        self.entries[usize::from(slot)]
    }
}

impl NeighbourIndex {
    #[inline]
    fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    #[inline]
    fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// Counts a packet as dropped and hands it over to be answered.
fn give_up(packet: Packet, cx: &mut Context<'_>) {
    cx.drops.count(DropReason::NeighbourUnresolved);
    cx.out.push(Output::Unreachable(packet));
}

#[cfg(test)]
mod tests;
