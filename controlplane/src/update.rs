//! What the protocol core tells the thread that drives it: Child SAs to install, and news.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::policy::Selector;
use dataplane::sa::{Endpoints, Mode, Spi, TunnelId};
use ipnet::IpNet;
use thiserror::Error;

use crate::auth::Identity;
use crate::config::ChildConfig;
use crate::crypto::Secret;
use crate::wire::{EncrId, IntegId, NotifyType, ProtocolId};

/// A change to the Child SAs, to be put in force in order. Whoever drives the core must have put every update
/// in force before it sends a datagram that the core queued after it: the responder of a rekey may get packets
/// on the new SA as soon as its response is out.
#[derive(Clone, Debug)]
pub enum ChildUpdate {
    /// Accept packets on this SA.
    AddInbound(Box<ChildInstall>),
    /// No longer accept them.
    RemoveInbound {
        /// The tunnel that the SA belonged to.
        tunnel: TunnelId,
        /// Our SPI.
        spi: Spi,
    },
    /// Send the tunnel's traffic through this SA from now on.
    SetOutbound(Box<ChildInstall>),
    /// The tunnel is down.
    RemoveOutbound(TunnelId),
    /// The tunnel's outer addresses changed.
    MovePeer(TunnelId, Endpoints),
}

/// One direction of a Child SA, with all that an SA of the data plane is made from.
#[derive(Clone, Debug)]
pub struct ChildInstall {
    /// The tunnel, the same across rekeys.
    pub tunnel: TunnelId,
    /// Name of the connection.
    pub connection: Arc<str>,
    /// Configuration of the child.
    pub child: Arc<ChildConfig>,
    /// Inbound: chosen by us. Outbound: chosen by the peer.
    pub spi: Spi,
    /// Algorithms.
    pub suite: ChildSuite,
    /// Keys of this direction.
    pub keys: DirectionKeys,
    /// Tunnel or transport mode, as negotiated.
    pub mode: Mode,
    /// Negotiated selectors, each pair of a local and a remote prefix.
    pub selectors: Arc<[Selector]>,
    /// Outer addresses.
    pub endpoints: Endpoints,
}

/// Negotiated algorithms of a Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildSuite {
    /// ESP or AH.
    pub protocol: ProtocolId,
    /// Encryption algorithm and key length in bits, `None` for AH.
    pub encr: Option<(EncrId, Option<u16>)>,
    /// Integrity algorithm, `None` with a combined-mode cipher.
    pub integ: Option<IntegId>,
    /// 64-bit sequence numbers.
    pub esn: bool,
}

/// Keys of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectionKeys {
    /// Encryption key, followed by the salt of a combined-mode cipher.
    pub encr: Secret,
    /// Integrity key; empty with a combined-mode cipher.
    pub integ: Secret,
}

/// What a gateway assigned to us (RFC 7296 s2.19).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Our inner addresses.
    pub addresses: Vec<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Prefixes behind the gateway; empty when it does not say.
    pub subnets: Vec<IpNet>,
}

/// News for the operator and for whoever decides what to set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// We try to set up an IKE SA.
    Connecting {
        /// The connection.
        connection: Arc<str>,
        /// Our SPI, which names the IKE SA.
        ike: u64,
        /// Where the peer should be.
        remote: SocketAddr,
    },
    /// We refused a peer that claimed to belong to this connection.
    Refused {
        /// The connection.
        connection: Arc<str>,
        /// Where the peer is.
        remote: SocketAddr,
        /// What was expected and what came.
        why: String,
    },
    /// An IKE SA is established.
    IkeUp {
        /// The connection.
        connection: Arc<str>,
        /// Our SPI, which names the IKE SA.
        ike: u64,
        /// Who the peer is.
        peer: Identity,
    },
    /// The peer assigned inner addresses to us.
    Configured {
        /// The connection.
        connection: Arc<str>,
        /// What it assigned.
        assigned: Assigned,
    },
    /// An IKE SA was replaced by a new one, in a rekey or because it was authenticated anew.
    IkeRekeyed {
        /// The connection.
        connection: Arc<str>,
        /// Our SPI of the old IKE SA.
        old: u64,
        /// Our SPI of the new one.
        new: u64,
    },
    /// An IKE SA is gone, or could not be set up.
    IkeDown {
        /// The connection, when it is known.
        connection: Option<Arc<str>>,
        /// Our SPI.
        ike: u64,
        /// Why.
        reason: DownReason,
    },
    /// A Child SA is up.
    ChildUp {
        /// The connection.
        connection: Arc<str>,
        /// The child's name.
        child: Arc<str>,
        /// Its tunnel.
        tunnel: TunnelId,
    },
    /// A Child SA was replaced in a rekey.
    ChildRekeyed {
        /// The connection.
        connection: Arc<str>,
        /// The child's name.
        child: Arc<str>,
        /// Its tunnel.
        tunnel: TunnelId,
        /// New inbound SPI.
        spi: Spi,
    },
    /// A Child SA is down.
    ChildDown {
        /// The connection.
        connection: Arc<str>,
        /// The child's name.
        child: Arc<str>,
        /// Its tunnel.
        tunnel: TunnelId,
        /// Why.
        reason: DownReason,
    },
    /// A Child SA could not be set up; the IKE SA stays.
    ChildFailed {
        /// The connection.
        connection: Arc<str>,
        /// The child's name.
        child: Arc<str>,
        /// Why.
        reason: DownReason,
    },
}

/// Why something is down, or did not come up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DownReason {
    /// The peer deleted it.
    #[error("deleted by the peer")]
    PeerDeleted,
    /// The operator, or a change of the configuration.
    #[error("terminated")]
    Terminated,
    /// No answer came, for all repetitions.
    #[error("peer does not answer{0}")]
    Unreachable(String),
    /// The peer answered with an error.
    #[error("peer says {0}")]
    Rejected(NotifyType),
    /// The peer answered with an error to what we offered.
    #[error("peer says {0} to {1}")]
    Declined(NotifyType, String),
    /// What the peer sent was not acceptable to us.
    #[error("{0}")]
    Failed(String),
    /// A new IKE SA of the same peer takes its place (INITIAL_CONTACT).
    #[error("replaced by a new connection of the same peer")]
    Replaced,
    /// Its hard lifetime is over.
    #[error("lifetime is over")]
    Expired,
    /// The IKE SA that it belonged to is gone.
    #[error("its IKE SA is down")]
    IkeDown,
}
