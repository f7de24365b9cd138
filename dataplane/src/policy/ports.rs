//! What a packet shows of its ports, as our side and the peer's.

use std::ops::RangeInclusive;

/// The port of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// It shows.
    Shown(u16),
    /// The packet has one and does not show it, or its protocol has none: OPAQUE in the words of RFC 4301.
    Hidden,
    /// Whatever the selector says of this side is not about this packet.
    Exempt,
}

/// Both sides of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) local: Port,
    pub(super) remote: Port,
}

impl Ports {
    /// Of a packet that we send; `ports` are those of source and destination.
    #[inline]
    pub(super) fn outbound(protocol: u8, ports: Option<(u16, u16)>) -> Self {
        let (local, remote) = sides(protocol, ports);
        Self { local, remote }
    }

    /// Of a packet that we receive.
    #[inline]
    pub(super) fn inbound(protocol: u8, ports: Option<(u16, u16)>) -> Self {
        let (remote, local) = sides(protocol, ports);
        Self { local, remote }
    }
}

impl Port {
    /// Whether a selector with this range matches. A range of all ports matches a hidden port too: ANY
    /// includes OPAQUE (RFC 4301 s4.4.1.1).
    #[inline]
    pub(super) fn is_in(self, range: Range) -> bool {
        match self {
            Self::Shown(port) => range.start <= port && port <= range.end,
            Self::Hidden => range.is_any(),
            Self::Exempt => true,
        }
    }
}

/// Ports that a selector admits on one side: [`RangeInclusive`] without its state as an iterator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    start: u16,
    end: u16,
}

impl Range {
    #[inline]
    pub(super) fn new(range: &RangeInclusive<u16>) -> Self {
        Self { start: *range.start(), end: *range.end() }
    }

    /// All ports.
    #[inline]
    pub(super) fn is_any(self) -> bool {
        self.start == 0 && self.end == u16::MAX
    }

    /// How many ports.
    pub(super) fn len(self) -> u64 {
        (u64::from(self.end) + 1).saturating_sub(u64::from(self.start))
    }
}

/// Source and destination. ICMP, ICMPv6 and the Mobility Header have one value, a message type and code. It is
/// held against the side that sends the packet, so that a selector can tell the types that we may send from
/// those that the peer may (RFC 4301 s4.4.1.3).
#[inline]
fn sides(protocol: u8, ports: Option<(u16, u16)>) -> (Port, Port) {
    match (ports, protocol) {
        (None, _) => (Port::Hidden, Port::Hidden),
        (Some((kind, _)), 1 | 58 | 135) => (Port::Shown(kind), Port::Exempt),
        (Some((source, destination)), _) => (Port::Shown(source), Port::Shown(destination)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_swap_the_sides() {
        assert_eq!(Ports::outbound(6, Some((1, 2))), Ports { local: Port::Shown(1), remote: Port::Shown(2) });
        assert_eq!(Ports::inbound(6, Some((1, 2))), Ports { local: Port::Shown(2), remote: Port::Shown(1) });
    }

    #[test]
    fn an_icmp_type_is_held_against_the_sender() {
        const ECHO_REQUEST: u16 = 8 << 8;
        const ECHO_REPLY: u16 = 0;
        // We may send requests and receive replies.
        let local = Range::new(&(ECHO_REQUEST..=ECHO_REQUEST));
        let remote = Range::new(&(ECHO_REPLY..=ECHO_REPLY));
        let allows = |ports: Ports| ports.local.is_in(local) && ports.remote.is_in(remote);
        assert!(allows(Ports::outbound(1, Some((ECHO_REQUEST, 0)))));
        assert!(!allows(Ports::outbound(1, Some((ECHO_REPLY, 0)))));
        assert!(allows(Ports::inbound(1, Some((ECHO_REPLY, 0)))));
        assert!(!allows(Ports::inbound(1, Some((ECHO_REQUEST, 0)))));
        assert!(!allows(Ports::inbound(1, None)));
    }

    #[test]
    fn hidden_ports_are_in_the_range_of_all_only() {
        assert!(Port::Hidden.is_in(Range::new(&(0..=u16::MAX))));
        assert!(!Port::Hidden.is_in(Range::new(&(1..=u16::MAX))));
        assert!(!Port::Hidden.is_in(Range::new(&(0..=u16::MAX - 1))));
        assert!(Port::Shown(0).is_in(Range::new(&(0..=0))));
    }
}
