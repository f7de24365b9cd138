//! The Security Policy Database (RFC 4301 s4.4.1): which traffic is protected, bypassed or discarded.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::sa::TunnelId;

mod ports;
mod rules;
mod selectors;
pub mod spd;

pub use selectors::{Admitted, OnlyV4, Selectors};

/// Traffic between two prefixes (RFC 4301 s4.4.1.1). `local` is our side: the source of outbound packets
/// and the destination of inbound ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Addresses on our side.
    pub local: IpNet,
    /// Addresses on the peer's side, of the same family.
    pub remote: IpNet,
    /// IP protocol number, `None` for any.
    pub protocol: Option<u8>,
    /// Ports on our side. A restriction matches only packets that show their ports: no later fragments. For
    /// ICMP and the Mobility Header it restricts the type and code of packets that we send, and
    /// `remote_ports` of those that we receive (RFC 4301 s4.4.1.3).
    pub local_ports: RangeInclusive<u16>,
    /// Ports on the peer's side.
    pub remote_ports: RangeInclusive<u16>,
}

impl Selector {
    /// All protocols and ports between two prefixes.
    pub fn between(local: IpNet, remote: IpNet) -> Self {
        Self { local, remote, protocol: None, local_ports: 0..=u16::MAX, remote_ports: 0..=u16::MAX }
    }
}

/// Names a policy for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u32);

/// What happens to packets that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// They go through this tunnel, or are dropped when it has no SA.
    Protect(TunnelId),
    /// They are forwarded in the clear.
    Bypass,
    /// They are dropped.
    Discard,
}

/// One entry of the SPD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// What it matches. Of several matches the longest remote prefix wins, then the longest local prefix,
    /// then a named protocol, then the narrower ports, then the lower id.
    pub selector: Selector,
    /// What happens then.
    pub action: Action,
}

impl Policy {
    /// Sorts policies in the order in which they are tried.
    pub fn order(&self) -> impl Ord + use<> {
        let Selector { local, remote, protocol, local_ports, remote_ports } = &self.selector;
        let lengths = (remote.prefix_len(), local.prefix_len(), protocol.is_some());
        (std::cmp::Reverse(lengths), local_ports.len() + remote_ports.len(), self.id)
    }
}
