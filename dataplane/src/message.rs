//! What crosses the channels between the control side and the workers. Types only.
//!
//! Control to worker: [`Update`], applied in order at the batch boundary. Worker to control: [`Event`].
//! An SA that a worker no longer uses comes back in [`Event::Retired`], so that its memory is freed and its
//! keys are wiped on the control thread and never between two packets.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::drops::DropCounters;
use crate::host::feedback::Feedback;
use crate::policy::{Policy, PolicyId};
use crate::port::{Mac, PortId};
use crate::sa::counters::SaCounters;
use crate::sa::lifetime::Reached;
use crate::sa::{Endpoints, InboundSa, OutboundSa, SaParams, Spi, TunnelId};
use crate::snapshot::{SaPage, Snapshot};

/// What the control side tells a worker.
pub enum Update {
    /// To the SAs.
    Sa(SaUpdate),
    /// To the SPD.
    Policy(PolicyUpdate),
    /// To the routing table.
    Route(RouteUpdate),
    /// To our own addresses.
    Address(AddressUpdate),
    /// A neighbour that another worker learned.
    Neighbour(Neighbour),
    /// A packet of the control plane to send; goes to one worker only.
    Inject(Inject),
    /// Tell every link that our addresses are at our MACs, as after start or fail-over, and ask whether another
    /// station has one; goes to one worker only.
    Announce,
    /// Fill this in and send it back as [`Event::Snapshot`].
    Snapshot(Box<Snapshot>),
    /// Fill this in and send it back as [`Event::SaPage`].
    SaPage(Box<SaPage>),
    /// Answered by [`Event::Barrier`] once everything sent before it is in force.
    Barrier(u64),
    /// Receive from now on, if the worker was held. What was sent before is in force for the first packet.
    Receive,
    /// Stop receiving, send what is in hand, and return.
    Drain,
}

/// A change to the SAs.
#[derive(Clone)]
pub enum SaUpdate {
    /// Accept packets on this SA. Replaces an SA with the same SPI.
    AddInbound(Arc<InboundSa>),
    /// No longer accept them.
    RemoveInbound(Spi),
    /// Send a tunnel's traffic through this SA from now on; the one before it is retired.
    SetOutbound(Arc<OutboundSa>, Endpoints),
    /// The tunnel has no SA any more.
    RemoveOutbound(TunnelId),
    /// The peer's address or port changed (NAT rebinding, MOBIKE); the SA stays.
    MovePeer(TunnelId, Endpoints),
}

/// A change to the SPD.
#[derive(Clone, Debug)]
pub enum PolicyUpdate {
    /// Adds an entry, or replaces the one with its id.
    Add(Policy),
    /// Removes an entry.
    Remove(PolicyId),
}

/// A change to the routing table.
#[derive(Clone, Debug)]
pub enum RouteUpdate {
    /// Adds a route, or replaces the one with its prefix.
    Add(Route),
    /// Removes a route.
    Remove(IpNet),
}

/// A change to our own addresses beyond those of the ports: inner addresses that peers gave us. They are on no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressUpdate {
    /// It is ours from now on.
    Add(IpAddr),
    /// It is not any more.
    Remove(IpAddr),
}

/// Where packets to a prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub to: IpNet,
    /// The port that leads there; `None` for the one through which `via` is reached.
    pub port: Option<PortId>,
    /// The next hop; `None` when the destinations are on the port's own link.
    pub via: Option<IpAddr>,
}

/// A resolved neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The port whose link it is on.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// A UDP datagram of IKE, without IP and UDP headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Our address and port.
    pub local: std::net::SocketAddr,
    /// The peer's address and port.
    pub remote: std::net::SocketAddr,
    /// The message. On port 4500 without the non-ESP marker (RFC 3948 s2.2), which the data plane handles.
    pub payload: Vec<u8>,
}

/// A datagram that the control plane sends through the data plane's ports.
#[derive(Clone, Debug)]
pub struct Inject(pub Datagram);

/// What a worker reports.
pub enum Event {
    /// An IKE datagram arrived.
    Punt(Datagram),
    /// A packet matched a protect policy whose tunnel has no SA (RFC 4301 s4.4.1: on-demand set-up).
    Acquire {
        /// The tunnel.
        tunnel: TunnelId,
        /// Source of the packet.
        source: IpAddr,
        /// Destination of the packet.
        destination: IpAddr,
        /// Its IP protocol.
        protocol: u8,
        /// Its ports, or what counts as such, where it shows them.
        ports: Option<(u16, u16)>,
    },
    /// An SA reached a limit.
    Expired {
        /// The tunnel.
        tunnel: TunnelId,
        /// The SA: ours inbound, the peer's outbound.
        spi: Spi,
        /// Which direction.
        direction: Direction,
        /// Hard: the SA does not carry packets any more.
        hard: bool,
    },
    /// A packet with a good ICV came from another address or port than the peer's.
    PeerMoved {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SA.
        spi: Spi,
        /// Where it came from, with our own side as it was addressed.
        endpoints: Endpoints,
    },
    /// An ICMP error came about a packet of ours (RFC 4301 s8.2). Nobody vouches for it.
    Feedback(Feedback),
    /// A neighbour answered.
    Neighbour(Neighbour),
    /// This station uses an address of ours too. Nobody vouches for it.
    Conflict(Neighbour),
    /// A worker's table had no room for this. It is not in force there.
    Refused(Refused),
    /// A worker no longer uses this SA.
    Retired {
        /// Index of the worker.
        worker: usize,
        /// The SA.
        sa: Retired,
        /// What the worker counted of it.
        counters: SaCounters,
    },
    /// The answer to [`Update::Snapshot`].
    Snapshot(Box<Snapshot>),
    /// The answer to [`Update::SaPage`].
    SaPage(Box<SaPage>),
    /// Everything sent to this worker before the barrier is in force.
    Barrier {
        /// Index of the worker.
        worker: usize,
        /// The number that was sent.
        number: u64,
    },
    /// All of the worker's ports came to their end, and what they gave is sent. Nothing will be received any more.
    Finished {
        /// Index of the worker.
        worker: usize,
    },
    /// The last word of a worker, after [`Update::Drain`].
    Drained {
        /// All that it dropped, what it had to give up at the end included.
        drops: Box<DropCounters>,
    },
}

/// Direction of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Packets that we receive.
    Inbound,
    /// Packets that we send.
    Outbound,
}

/// What a worker had no room for.
pub enum Refused {
    /// An inbound SA.
    Inbound(Arc<InboundSa>),
    /// A tunnel's outbound SA.
    Outbound(Arc<OutboundSa>),
    /// A policy; see [`SpdError`](crate::policy::spd::SpdError).
    Policy(PolicyId),
}

/// An SA that a worker has let go.
pub enum Retired {
    /// Of the inbound table.
    Inbound(Arc<InboundSa>),
    /// Of a tunnel's outbound slot.
    Outbound(Arc<OutboundSa>),
}

impl Event {
    /// That an SA reached a limit.
    pub(crate) fn expired(params: &SaParams, spi: Spi, direction: Direction, reached: Reached) -> Self {
        Self::Expired { tunnel: params.tunnel, spi, direction, hard: reached == Reached::Hard }
    }
}
