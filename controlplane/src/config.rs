//! What the control plane needs to know of the configuration. The gateway's YAML is converted into this.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::sa::{Lifetime, Mode, Spi};
use ipnet::IpNet;

use crate::auth::{IdPattern, Identity, LocalProof, RemoteProof};
use crate::crypto::Secret;
pub use crate::limits::{FloodLimits, PeerLimits};
use crate::proposal::Proposal;
use crate::selector::SelectorSpec;
use crate::wire::ProtocolId;

/// Everything that an [`Endpoint`](crate::Endpoint) is given.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections; of several that fit a peer the best identity match wins, then the first.
    pub connections: Vec<Arc<Connection>>,
    /// Inner addresses for peers.
    pub pools: Vec<PoolConfig>,
    /// Retransmission of requests.
    pub retransmit: Retransmit,
    /// Limits against floods.
    pub limits: FloodLimits,
    /// Limits on what a peer can have.
    pub peers: PeerLimits,
    /// Keys of IKE SAs are to be written down ([`crate::keylog`]).
    pub log_keys: bool,
    /// Tunnels below this are somebody else's.
    pub first_tunnel: u32,
    /// Inbound SPIs that are somebody else's: those of manual SAs.
    pub reserved_spis: Vec<Spi>,
    /// As many inbound SAs as the data plane's tables hold, which SPIs are chosen for.
    pub inbound_sas: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections: Vec::new(),
            pools: Vec::new(),
            retransmit: Retransmit::default(),
            limits: FloodLimits::default(),
            peers: PeerLimits::default(),
            log_keys: false,
            first_tunnel: 0,
            reserved_spis: Vec::new(),
            inbound_sas: 1 << 12,
        }
    }
}

impl Config {
    /// The connection of this name.
    pub fn connection(&self, name: &str) -> Option<&Arc<Connection>> {
        self.connections.iter().find(|connection| &*connection.name == name)
    }
}

/// How a request is repeated until its response comes (RFC 7296 s2.4: at least a dozen times over several
/// minutes before giving up).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retransmit {
    /// Until the first repetition.
    pub initial: Duration,
    /// Each wait is so many times the one before.
    pub factor: f64,
    /// No wait is longer.
    pub max: Duration,
    /// Repetitions before the peer counts as dead.
    pub tries: u32,
}

impl Default for Retransmit {
    fn default() -> Self {
        let (initial, max) = (Duration::from_secs(1), Duration::from_secs(32));
        Self { initial, factor: 1.8, max, tries: 12 }
    }
}

impl Retransmit {
    /// The wait after `tries` repetitions.
    pub fn wait(&self, tries: u32) -> Duration {
        let exponent = i32::try_from(tries).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        Duration::from_secs_f64(seconds.min(self.max.as_secs_f64()))
    }

    /// From the first transmission until the peer counts as dead.
    pub fn total(&self) -> Duration {
        (0..=self.tries).map(|tries| self.wait(tries)).sum()
    }
}

/// One connection: how an IKE SA with a peer is set up, and its children.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub name: Arc<str>,
    /// Our addresses; empty for any. The first is used to initiate.
    pub local_addresses: Vec<IpAddr>,
    /// The peer's addresses.
    pub remote: RemoteAddress,
    /// Who we are.
    pub local_id: Identity,
    /// Who the peer must be.
    pub remote_id: IdPattern,
    /// How we prove who we are.
    pub local_auth: LocalProof,
    /// How the peer must prove who it is.
    pub remote_auth: RemoteProof,
    /// Accept SHA-1 in signatures of method 1 (RFC 7296 s3.8), for old peers.
    pub allow_sha1: bool,
    /// A post-quantum preshared key on top (RFC 8784).
    pub ppk: Option<Ppk>,
    /// For the IKE SA, in order of preference.
    pub proposals: Vec<Proposal>,
    /// Rekey the IKE SA after this time; `None` never.
    pub rekey: Option<Duration>,
    /// Rekeying starts earlier by a random part of this time, so that both ends seldom do it at once.
    pub rekey_jitter: Duration,
    /// Authenticate anew after this time, with new IKE SA and new children before the old ones go; `None` never. A
    /// peer that authenticates by EAP is told to do it (RFC 4478).
    pub reauth: Option<Duration>,
    /// Offer and accept to move to other addresses (RFC 4555).
    pub mobike: bool,
    /// Ask whether the peer is alive when nothing was heard for this time (RFC 7296 s2.4).
    pub dpd: Option<Duration>,
    /// What happens when the peer is dead, or deletes what we want up.
    pub on_down: OnDown,
    /// Offer and accept IKE fragmentation (RFC 7383).
    pub fragmentation: bool,
    /// Longest IP packet that an IKE message travels in when fragmentation is negotiated (RFC 7383 s2.5.1).
    pub fragment_size: usize,
    /// Use UDP encapsulation even when no NAT is found (RFC 7296 s2.23).
    pub force_encapsulation: bool,
    /// Port 4500 from the first message on (RFC 7296 s2.23).
    pub start_on_4500: bool,
    /// Send NAT keepalives this often while we are behind a NAT (RFC 3948 s4).
    pub nat_keepalive: Duration,
    /// Set up the IKE SA without a Child SA when the peer supports it (RFC 6023).
    pub childless: bool,
    /// Our identity has at most one IKE SA: a new one with INITIAL_CONTACT replaces the old ones (RFC 7296 s2.4).
    pub unique: bool,
    /// As a gateway: pools that inner addresses are taken from for a peer that asks, at most one of each family.
    pub pools: Vec<Arc<str>>,
    /// As a gateway: name servers that the peer is told.
    pub dns: Vec<IpAddr>,
    /// As a gateway: prefixes behind us that the peer is told (split tunnelling).
    pub subnets: Vec<IpNet>,
    /// As a client: inner addresses to ask for, unspecified for any of the family.
    pub request_addresses: Vec<IpAddr>,
    /// Child SAs.
    pub children: Vec<Arc<ChildConfig>>,
}

/// A post-quantum preshared key (RFC 8784).
#[derive(Clone, Debug)]
pub struct Ppk {
    /// Its name, which both ends know it by.
    pub id: Arc<[u8]>,
    /// The key: 256 bits of entropy or more (RFC 8784 s6).
    pub secret: Secret,
    /// Refuse a peer that does not have it.
    pub required: bool,
}

/// Inner addresses that are handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Its name.
    pub name: Arc<str>,
    /// All of them; the network and broadcast address are left out.
    pub prefix: IpNet,
}

impl Connection {
    /// A connection without children that is rekeyed every four hours, asks a silent peer every 30 seconds, and has
    /// what is usual otherwise.
    pub fn new(
        name: Arc<str>,
        (local_id, local_auth): (Identity, LocalProof),
        (remote_id, remote_auth): (IdPattern, RemoteProof),
        proposals: Vec<Proposal>,
    ) -> Self {
        Self {
            name,
            local_addresses: Vec::new(),
            remote: RemoteAddress::Any,
            local_id,
            remote_id,
            local_auth,
            remote_auth,
            allow_sha1: false,
            ppk: None,
            proposals,
            rekey: Some(Duration::from_secs(4 * 3600)),
            rekey_jitter: Duration::from_secs(20 * 60),
            reauth: None,
            mobike: true,
            dpd: Some(Duration::from_secs(30)),
            on_down: OnDown::Clear,
            fragmentation: true,
            fragment_size: 1280,
            force_encapsulation: false,
            start_on_4500: false,
            nat_keepalive: Duration::from_secs(20),
            childless: false,
            unique: true,
            pools: Vec::new(),
            dns: Vec::new(),
            subnets: Vec::new(),
            request_addresses: Vec::new(),
            children: Vec::new(),
        }
    }

    /// The child of this name.
    pub fn child(&self, name: &str) -> Option<&Arc<ChildConfig>> {
        self.children.iter().find(|child| &*child.name == name)
    }
}

/// Where the peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteAddress {
    /// Anywhere: we only respond.
    Any,
    /// One of these; the first is used to initiate.
    Addresses(Vec<IpAddr>),
}

impl RemoteAddress {
    /// The peer may be there.
    pub fn allows(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Addresses(addresses) => addresses.contains(&address),
        }
    }
}

/// What happens when a Child SA or its IKE SA goes down without our wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnDown {
    /// Set it up again at once.
    Restart,
    /// Nothing: traffic or the operator sets it up again.
    #[default]
    Clear,
}

/// When a Child SA is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Start {
    /// As soon as the gateway runs.
    Boot,
    /// When a packet needs it.
    Traffic,
    /// When the peer or the operator does.
    #[default]
    Wait,
}

/// One Child SA of a connection.
#[derive(Clone, Debug)]
pub struct ChildConfig {
    /// Its name, unique in the connection.
    pub name: Arc<str>,
    /// ESP or AH.
    pub protocol: ProtocolId,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// What is protected on our side.
    pub local: Vec<SelectorSpec>,
    /// What is protected on the peer's side.
    pub remote: Vec<SelectorSpec>,
    /// In order of preference. A key exchange method in them means perfect forward secrecy at rekeys.
    pub proposals: Vec<Proposal>,
    /// Rekey after this time; `None` never by time.
    pub rekey: Option<Duration>,
    /// Rekeying starts earlier by a random part of this time.
    pub rekey_jitter: Duration,
    /// Given to the data plane: bytes and packets, and the hard limit of time.
    pub lifetime: Lifetime,
    /// An old inbound SA still receives for this time after its deletion, for packets that are under way.
    pub grace: Duration,
    /// When it is set up.
    pub start: Start,
}
