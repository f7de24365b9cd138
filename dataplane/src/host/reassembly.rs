//! Reassembly (RFC 791 s3.2, RFC 8200 s4.5), for packets to the gateway and for policies that need ports.
//!
//! Attacks it stands up to:
//! - Overlaps (RFC 1858, RFC 3128, RFC 5722): any overlap gives up the whole packet, and its later fragments until
//!   the timeout too. Only an exact copy of a fragment is dropped alone, since networks make copies (RFC 8200 s4.5).
//! - Tiny fragments: [`ip::parse`](crate::packet::ip::parse) refuses those that hide a header; here the number of
//!   fragments of a packet is bounded.
//! - Exhaustion: packets, fragments and bytes are bounded. The oldest packet makes room, so that a flood of first
//!   fragments cannot keep others out: a sound packet is complete long before it is the oldest.
//! - Mixing: `context` is part of the key, so that fragments out of one tunnel never complete a packet out of another.

use std::collections::{BTreeMap, HashMap};

use super::SECOND;
use crate::buffer::{Packet, Pool};
use crate::drops::{DropCounters, DropReason};
use crate::packet::address::Address;
use crate::packet::ip::{FragmentInfo, IpInfo, MAX_TOTAL_LEN, Version, set_tos, set_total_len};
use crate::packet::{ecn, ipv4, ipv6};

/// Bounds of the memory of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReassemblyConfig {
    /// The most packets in the making, given up ones included until their timeout.
    pub packets: usize,
    /// The most fragments that are kept, each in its frame.
    pub fragments: usize,
    /// The most bytes of payload that are kept.
    pub bytes: usize,
    /// The most fragments of one packet.
    pub fragments_each: usize,
    /// Nanoseconds from the first fragment that comes until the rest is no longer waited for.
    pub timeout: u64,
}

impl Default for ReassemblyConfig {
    fn default() -> Self {
        Self { packets: 1024, fragments: 2048, bytes: 4 << 20, fragments_each: 128, timeout: 15 * SECOND }
    }
}

/// Packets in the making.
pub struct Reassembly {
    config: ReassemblyConfig,
    packets: HashMap<Key, Entry>,
    /// By the number given when its first fragment came: the oldest, and so the next to time out, is first.
    order: BTreeMap<u64, Key>,
    next_number: u64,
    fragments: usize,
    bytes: usize,
}

/// What the fragments of a packet have in common (RFC 791 s3.2, RFC 8200 s4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    context: u32,
    source: Address,
    destination: Address,
    /// 0 for IPv6, where it is not part of the key.
    protocol: u8,
    identification: u32,
}

struct Entry {
    number: u64,
    deadline: u64,
    state: State,
}

enum State {
    Collecting(Pieces),
    /// Given up for this reason; so is what still comes.
    Poisoned(DropReason),
}

/// Fragments by offset, without overlap.
#[derive(Default)]
struct Pieces {
    list: Vec<Piece>,
    /// Bytes of payload so far.
    bytes: usize,
    /// Bytes of payload in the end, known when the last fragment came.
    total: Option<usize>,
}

struct Piece {
    offset: usize,
    /// Where the payload is in the packet, fragment header excluded.
    data_at: usize,
    tos: u8,
    packet: Packet,
}

/// What a new fragment is to those that are there.
enum Fit {
    At(usize),
    Duplicate,
    Bad(DropReason),
}

impl Reassembly {
    /// Nothing in the making.
    pub fn new(config: ReassemblyConfig) -> Self {
        Self {
            packets: HashMap::with_capacity(config.packets),
            order: BTreeMap::new(),
            next_number: 0,
            fragments: 0,
            bytes: 0,
            config,
        }
    }

    /// Takes in a fragment (from its IP header on; `info` is of it) and returns the packet that it completes. A packet
    /// that is not a fragment is returned as it is. Only fragments of the same `context` belong together: a port, or
    /// the tunnel that they came out of. The packet is put together in the frame of its first fragment, or in one of
    /// `large`. Drops are counted in `drops`, one per fragment:
    /// - [`DropReason::FragmentOverlap`], [`DropReason::FragmentMalformed`], [`DropReason::FragmentTooLong`],
    ///   [`DropReason::EcnInvalid`]: all of the
    ///   packet, and what still comes of it;
    /// - [`DropReason::FragmentDuplicate`]: this fragment;
    /// - [`DropReason::FragmentMemory`]: this packet when it has too many fragments, or the oldest ones;
    /// - [`DropReason::NoBuffer`], [`DropReason::NoRoom`]: all of the packet, when `large` has no frame or it is small.
    pub fn add(
        &mut self,
        mut packet: Packet,
        info: &IpInfo,
        context: u32,
        now: u64,
        large: &Pool,
        drops: &mut DropCounters,
    ) -> Option<Packet> {
        let Some(fragment) = info.fragment else { return Some(packet) };
        packet.truncate(usize::from(info.total_len));
        let Some(data_at) = data_at(&packet, info) else {
            drops.count(DropReason::FragmentMalformed);
            return None;
        };
        let key = Key {
            context,
            source: info.source,
            destination: info.destination,
            protocol: if info.version == Version::V4 { info.protocol } else { 0 },
            identification: fragment.identification,
        };
        let piece = Piece { offset: usize::from(fragment.offset), data_at, tos: info.tos, packet };
        if !self.packets.contains_key(&key) {
            self.open(key, now, drops);
        }
        let entry = self.packets.get_mut(&key)?;
        let pieces = match &mut entry.state {
            State::Collecting(pieces) => pieces,
            State::Poisoned(reason) => {
                drops.count(*reason);
                return None;
            }
        };
        let at = match pieces.fit(&piece, &fragment) {
            Fit::At(_) if pieces.list.len() >= self.config.fragments_each => {
                self.poison(key, DropReason::FragmentMemory, drops);
                return None;
            }
            Fit::At(at) => at,
            Fit::Duplicate => {
                drops.count(DropReason::FragmentDuplicate);
                return None;
            }
            Fit::Bad(reason) => {
                self.poison(key, reason, drops);
                return None;
            }
        };
        if !fragment.more {
            pieces.total = Some(piece.end());
        }
        let len = piece.len();
        pieces.bytes += len;
        pieces.list.insert(at, piece);
        let complete = pieces.total == Some(pieces.bytes);
        self.fragments += 1;
        self.bytes += len;
        if complete {
            return self.complete(key, info.version, large, drops);
        }
        while self.fragments > self.config.fragments || self.bytes > self.config.bytes {
            if !self.evict(drops) {
                break;
            }
        }
        None
    }

    /// Gives up packets that are not complete in time. Of those whose first fragment came it is put into `expired`, so
    /// that the source may be told (RFC 792, RFC 8200 s4.5); it is counted already.
    pub fn tick(&mut self, now: u64, drops: &mut DropCounters, expired: &mut Vec<Packet>) {
        while let Some((_, &key)) = self.order.first_key_value() {
            if self.packets.get(&key).is_none_or(|entry| entry.deadline > now) {
                break;
            }
            for piece in self.close(key) {
                drops.count(DropReason::FragmentTimeout);
                if piece.offset == 0 {
                    expired.push(piece.packet);
                }
            }
        }
    }

    /// Gives up all packets.
    pub fn abandon(&mut self, drops: &mut DropCounters) {
        while let Some((_, &key)) = self.order.first_key_value() {
            drops.add(DropReason::FragmentTimeout, self.close(key).len() as u64);
        }
    }

    /// Packets in the making, given up ones included until their timeout.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn open(&mut self, key: Key, now: u64, drops: &mut DropCounters) {
        if self.packets.len() >= self.config.packets.max(1) {
            self.evict(drops);
        }
        let number = self.next_number;
        self.next_number += 1;
        self.order.insert(number, key);
        let deadline = now.saturating_add(self.config.timeout);
        self.packets.insert(key, Entry { number, deadline, state: State::Collecting(Pieces::default()) });
    }

    /// Forgets a packet and returns what came of it.
    fn close(&mut self, key: Key) -> Vec<Piece> {
        let Some(entry) = self.packets.remove(&key) else { return Vec::new() };
        self.order.remove(&entry.number);
        match entry.state {
            State::Collecting(pieces) => {
                self.fragments -= pieces.list.len();
                self.bytes -= pieces.bytes;
                pieces.list
            }
            State::Poisoned(_) => Vec::new(),
        }
    }

    /// Forgets the oldest packet; false when there is none.
    fn evict(&mut self, drops: &mut DropCounters) -> bool {
        let Some((_, &key)) = self.order.first_key_value() else { return false };
        let pieces = self.close(key);
        drops.add(DropReason::FragmentMemory, pieces.len() as u64);
        true
    }

    /// Gives up a packet, what came of it, the fragment at hand, and what is still to come.
    fn poison(&mut self, key: Key, reason: DropReason, drops: &mut DropCounters) {
        let Some(entry) = self.packets.get_mut(&key) else { return };
        drops.count(reason);
        if let State::Collecting(pieces) = std::mem::replace(&mut entry.state, State::Poisoned(reason)) {
            self.fragments -= pieces.list.len();
            self.bytes -= pieces.bytes;
            drops.add(reason, pieces.list.len() as u64);
        }
    }

    fn complete(
        &mut self,
        key: Key,
        version: Version,
        large: &Pool,
        drops: &mut DropCounters,
    ) -> Option<Packet> {
        let pieces = self.close(key);
        let count = pieces.len() as u64;
        assemble(pieces, version, large).map_err(|reason| drops.add(reason, count)).ok()
    }
}

impl Piece {
    fn data(&self) -> &[u8] {
        self.packet.data().get(self.data_at..).unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.data().len()
    }

    fn end(&self) -> usize {
        self.offset + self.len()
    }
}

impl Pieces {
    fn fit(&self, new: &Piece, fragment: &FragmentInfo) -> Fit {
        let at = self.list.partition_point(|piece| piece.offset < new.offset);
        let (before, behind) = self.list.split_at_checked(at).unwrap_or_default();
        if let Some(same) = behind.first()
            && same.offset == new.offset
            && same.data() == new.data()
            && fragment.more != (self.total == Some(same.end()))
        {
            return Fit::Duplicate;
        }
        let overlaps_before = before.last().is_some_and(|piece| piece.end() > new.offset);
        let overlaps_behind = behind.first().is_some_and(|piece| piece.offset < new.end());
        if overlaps_before || overlaps_behind {
            return Fit::Bad(DropReason::FragmentOverlap);
        }
        // There is one end, and nothing lies behind it.
        let sound = match self.total {
            Some(total) => fragment.more && new.end() <= total,
            None => fragment.more || behind.is_empty(),
        };
        if sound { Fit::At(at) } else { Fit::Bad(DropReason::FragmentMalformed) }
    }
}

/// Where the payload of a fragment starts.
fn data_at(packet: &Packet, info: &IpInfo) -> Option<usize> {
    match info.version {
        Version::V4 => Some(usize::from(info.header_len)),
        Version::V6 => {
            let (at, _) = ipv6::walk(packet.data()).ok()?.fragment?;
            Some(at + ipv6::FRAGMENT_HEADER_LEN)
        }
    }
}

/// Puts a complete packet together.
fn assemble(pieces: Vec<Piece>, version: Version, large: &Pool) -> Result<Packet, DropReason> {
    let tos = ecn_of(&pieces)?;
    let mut pieces = pieces.into_iter();
    let first = pieces.next().ok_or(DropReason::FragmentMalformed)?;
    let header_len = match version {
        Version::V4 => first.data_at,
        Version::V6 => first.data_at - ipv6::FRAGMENT_HEADER_LEN,
    };
    let rest: usize = pieces.as_slice().iter().map(Piece::len).sum();
    let total_len = header_len + first.len() + rest;
    if total_len > MAX_TOTAL_LEN {
        return Err(DropReason::FragmentTooLong);
    }
    let mut whole = if first.packet.tailroom() >= rest {
        first.packet
    } else {
        let mut whole = large.alloc().ok_or(DropReason::NoBuffer)?;
        let len = first.packet.len();
        whole.append(len).ok_or(DropReason::NoRoom)?.copy_from_slice(first.packet.data());
        whole.rx_port = first.packet.rx_port;
        whole.set_from_sa(first.packet.is_from_sa());
        whole
    };
    for piece in pieces {
        whole.append(piece.len()).ok_or(DropReason::NoRoom)?.copy_from_slice(piece.data());
    }
    match version {
        Version::V4 => {
            let header = whole.data_mut().get_mut(..header_len).ok_or(DropReason::FragmentMalformed)?;
            ipv4::set_fragment(header, total_len as u16, 0, false);
        }
        Version::V6 => {
            remove_fragment_header(&mut whole)?;
            set_total_len(whole.data_mut(), total_len as u16)?;
        }
    }
    set_tos(whole.data_mut(), tos)?;
    Ok(whole)
}

/// The TOS byte of the whole: that of the first fragment, with the congestion that any of them saw (RFC 3168 s5.3).
fn ecn_of(pieces: &[Piece]) -> Result<u8, DropReason> {
    let first = pieces.first().map_or(0, |piece| piece.tos);
    let any = |codepoint| pieces.iter().any(|piece| piece.tos & ecn::MASK == codepoint);
    match (any(ecn::CE), any(ecn::NOT_ECT)) {
        (true, true) => Err(DropReason::EcnInvalid),
        (true, false) => Ok(first | ecn::CE),
        _ => Ok(first),
    }
}

/// Takes the fragment header out, and puts its next header in its place.
fn remove_fragment_header(packet: &mut Packet) -> Result<(), DropReason> {
    let chain = ipv6::walk(packet.data())?;
    let (at, header) = chain.fragment.ok_or(DropReason::FragmentMalformed)?;
    let data = packet.data_mut();
    *data.get_mut(chain.next_header_at).ok_or(DropReason::FragmentMalformed)? = header.next_header;
    // `walk` found the header at `at`, so both ranges lie within the packet.
    data.copy_within(..at, ipv6::FRAGMENT_HEADER_LEN);
    packet.trim_front(ipv6::FRAGMENT_HEADER_LEN);
    Ok(())
}

#[cfg(test)]
mod tests;
