//! Two endpoints and a network between them, in virtual time. Everything follows from a seed, so a failure is
//! repeated by running its seed again.

// The fuzz targets use the world alone.
#![cfg_attr(not(test), allow(dead_code))]

#[cfg(test)]
mod auth;
#[cfg(test)]
mod basic;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod cleartext;
#[cfg(test)]
mod collisions;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod eap;
#[cfg(test)]
mod followup;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod mobike;
#[cfg(test)]
mod puzzles;
#[cfg(test)]
mod reauth;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod traffic;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::message::Datagram;
use dataplane::sa::{Lifetime, Mode, TunnelId};

use crate::Endpoint;
use crate::auth::{IdPattern, Identity, LocalProof, RemoteProof};
use crate::config::{ChildConfig, Config, Connection, OnDown, RemoteAddress, Retransmit, Start};
use crate::crypto::{Random, Secret, Seeded};
use crate::proposal::Proposal;
use crate::selector::SelectorSpec;
use crate::update::{ChildInstall, ChildUpdate, DirectionKeys, Event};
use crate::wire::ProtocolId;

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

pub(super) fn address(side: usize) -> IpAddr {
    IpAddr::from([198, 51, 100, if side == A { 1 } else { 2 }])
}

/// A connection as side A or B has it.
pub(super) fn connection(side: usize) -> Connection {
    let other = 1 - side;
    let name = |side| if side == A { "a.example.net" } else { "b.example.net" };
    Connection {
        name: "net".into(),
        local_addresses: vec![address(side)],
        remote: RemoteAddress::Addresses(vec![address(other)]),
        local_id: Identity::parse(name(side)).expect("a name"),
        remote_id: IdPattern::parse(name(other)).expect("a name"),
        local_auth: LocalProof::Psk(Secret::copy_of(b"swordfish")),
        remote_auth: RemoteProof::Psk(Secret::copy_of(b"swordfish")),
        allow_sha1: false,
        ppk: None,
        proposals: vec![Proposal::ike("aes256gcm16-prfsha384-x25519").expect("a proposal")],
        rekey: None,
        rekey_jitter: Duration::ZERO,
        reauth: None,
        mobike: true,
        dpd: None,
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
        children: vec![Arc::new(child(side, "lan", 1))],
    }
}

/// A child between 10.`net`.1.0/24 and 10.`net`.2.0/24.
pub(super) fn child(side: usize, name: &str, net: u8) -> ChildConfig {
    let prefix = |side: usize| {
        SelectorSpec::from(format!("10.{net}.{}.0/24", side + 1).parse::<ipnet::IpNet>().expect("a prefix"))
    };
    ChildConfig {
        name: name.into(),
        protocol: ProtocolId::ESP,
        mode: Mode::Tunnel,
        local: vec![prefix(side)],
        remote: vec![prefix(1 - side)],
        proposals: vec![Proposal::esp("aes128gcm16-esn").expect("a proposal")],
        rekey: None,
        rekey_jitter: Duration::ZERO,
        lifetime: Lifetime::default(),
        grace: Duration::from_secs(5),
        start: Start::Wait,
    }
}

/// Both sides with a connection each, and retransmissions that survive heavy loss.
pub(super) fn configs(change: impl Fn(usize, &mut Connection)) -> [Config; 2] {
    [A, B].map(|side| {
        let mut connection = connection(side);
        change(side, &mut connection);
        let (initial, max) = (Duration::from_millis(300), Duration::from_secs(2));
        Config {
            connections: vec![Arc::new(connection)],
            retransmit: Retransmit { initial, factor: 1.5, max, tries: 60 },
            ..Config::default()
        }
    })
}

/// What the network does to packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    pub loss: f64,
    pub duplication: f64,
    pub min_delay: Duration,
    pub max_delay: Duration,
}

impl Network {
    pub const GOOD: Self = Self {
        loss: 0.0,
        duplication: 0.0,
        min_delay: Duration::from_millis(10),
        max_delay: Duration::from_millis(10),
    };

    /// A third is lost, a fifth comes twice, and nothing keeps its order.
    pub const BAD: Self = Self {
        loss: 0.3,
        duplication: 0.2,
        min_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(900),
    };
}

/// The data plane of one side: what is installed at this moment.
#[derive(Default)]
pub(super) struct Plane {
    pub inbound: HashMap<u32, (TunnelId, DirectionKeys)>,
    pub outbound: BTreeMap<TunnelId, ChildInstall>,
    /// Inbound SAs that were ever added.
    pub added: usize,
}

/// One side.
pub(super) struct Side {
    pub endpoint: Endpoint,
    pub rng: Seeded,
    pub plane: Plane,
    pub events: Vec<Event>,
}

enum Packet {
    Ike(Datagram),
    /// A packet of a tunnel, by SPI and keys.
    Data {
        spi: u32,
        keys: DirectionKeys,
        counts: bool,
    },
}

type Rewrite = Box<dyn FnMut(&mut Datagram)>;
type Filter = Box<dyn FnMut(usize, &Datagram) -> bool>;

/// The two sides and all that is under way.
pub(super) struct World {
    pub now: Instant,
    start: Instant,
    pub sides: [Side; 2],
    pub network: Network,
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    packets: HashMap<u64, Packet>,
    sequence: u64,
    dice: Seeded,
    /// Data packets that found no SA, or another key.
    pub lost: usize,
    pub delivered: usize,
    /// Data packets are sent this often by each tunnel of each side.
    pub probe_every: Option<Duration>,
    next_probe: Instant,
    /// A NAT: changes what a side sends before the other gets it.
    pub rewrite: [Option<Rewrite>; 2],
    /// Datagrams to each side, when a test delivers them by hand.
    pub held: Option<[VecDeque<Datagram>; 2]>,
    /// Lets a datagram of a side pass.
    pub filter: Option<Filter>,
    /// NAT keepalives of each side (RFC 3948 s2.3).
    pub keepalives: [usize; 2],
    /// Of all that the sides sent.
    pub digest: DefaultHasher,
}

impl World {
    pub fn new(seed: u64, configs: [Config; 2]) -> Self {
        let start = Instant::now();
        let mut number = seed;
        let sides = configs.map(|config| {
            number = number.wrapping_mul(31).wrapping_add(7);
            Side {
                endpoint: Endpoint::new(Arc::new(config), wall_clock(start)),
                rng: Seeded(number),
                plane: Plane::default(),
                events: Vec::new(),
            }
        });
        Self {
            now: start,
            start,
            sides,
            network: Network::GOOD,
            queue: BinaryHeap::new(),
            packets: HashMap::new(),
            sequence: 0,
            dice: Seeded(seed ^ 0x5eed),
            lost: 0,
            delivered: 0,
            probe_every: None,
            next_probe: start,
            rewrite: [None, None],
            held: None,
            filter: None,
            keepalives: [0; 2],
            digest: DefaultHasher::new(),
        }
    }

    /// Does something at one side and lets its results out.
    pub fn at<R>(
        &mut self,
        side: usize,
        step: impl FnOnce(&mut Endpoint, Instant, &mut dyn Random) -> R,
    ) -> R {
        let Side { endpoint, rng, .. } = &mut self.sides[side];
        let result = step(endpoint, self.now, rng);
        self.drain(side);
        result
    }

    pub fn initiate(&mut self, side: usize) {
        self.at(side, |endpoint, now, rng| endpoint.initiate(now, rng, "net", None))
            .expect("it is configured");
    }

    /// Runs until nothing is left to happen before `until` has passed.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        let (mut last, mut idle) = (self.now, 0);
        loop {
            let packet = self.queue.peek().map(|Reverse((at, ..))| *at);
            let deadlines = self.sides.iter().filter_map(|side| side.endpoint.next_deadline());
            let probe = self.probe_every.map(|_| self.next_probe);
            let Some(next) = deadlines.chain(packet).chain(probe).min().filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            idle = if self.now == last { idle + 1 } else { 0 };
            last = self.now;
            assert!(idle < 10_000, "time stands still at {:?}", self.now - self.start);
            if packet == Some(next) {
                self.arrive();
            } else if probe == Some(next) {
                self.probe();
            } else {
                for side in [A, B] {
                    if self.sides[side].endpoint.next_deadline().is_some_and(|at| at <= self.now) {
                        self.at(side, |endpoint, now, rng| endpoint.handle_timeout(now, rng));
                    }
                }
            }
        }
        self.now = until;
    }

    fn arrive(&mut self) {
        let Some(Reverse((_, id, to))) = self.queue.pop() else { return };
        match self.packets.remove(&id) {
            Some(Packet::Ike(datagram)) => {
                self.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
            }
            Some(Packet::Data { spi, keys, counts }) => {
                let opened = self.sides[to].plane.inbound.get(&spi).is_some_and(|(_, ours)| *ours == keys);
                self.delivered += usize::from(opened);
                if !opened && counts {
                    self.lost += 1;
                    tracing::error!(at = ?(self.now - self.start), to, spi, "data packet lost");
                }
            }
            None => {}
        }
    }

    fn drain(&mut self, side: usize) {
        while let Some(update) = self.sides[side].endpoint.poll_sa_update() {
            self.sides[side].plane.apply(update);
        }
        while let Some(event) = self.sides[side].endpoint.poll_event() {
            self.sides[side].events.push(event);
        }
        while let Some(mut datagram) = self.sides[side].endpoint.poll_transmit() {
            self.digest.write(&datagram.payload);
            if datagram.payload == [0xff] {
                self.keepalives[side] += 1;
                continue;
            }
            if let Some(rewrite) = &mut self.rewrite[side] {
                rewrite(&mut datagram);
            }
            if self.filter.as_mut().is_some_and(|filter| !filter(side, &datagram)) {
                continue;
            }
            let Datagram { local, remote, payload } = datagram;
            let datagram = Datagram { local: remote, remote: local, payload };
            if let Some(held) = &mut self.held {
                held[1 - side].push_back(datagram);
                continue;
            }
            let copies = 1 + usize::from(self.chance(self.network.duplication));
            for _ in 0..copies {
                if !self.chance(self.network.loss) {
                    self.send(1 - side, Packet::Ike(datagram.clone()));
                }
            }
        }
    }

    /// Puts a datagram on the network as if somebody had sent it.
    pub fn inject(&mut self, to: usize, datagram: Datagram) {
        self.send(to, Packet::Ike(datagram));
    }

    fn send(&mut self, to: usize, packet: Packet) {
        let Network { min_delay, max_delay, .. } = self.network;
        let at = self.now + min_delay + (max_delay - min_delay).mul_f64(self.dice());
        self.sequence += 1;
        self.packets.insert(self.sequence, packet);
        self.queue.push(Reverse((at, self.sequence, to)));
    }

    /// Every tunnel that is up at both ends sends a packet each way. It must find the SA that it was sealed for.
    fn probe(&mut self) {
        self.next_probe = self.now + self.probe_every.unwrap_or(Duration::from_secs(1));
        for side in [A, B] {
            let tunnels: Vec<_> = self.sides[side].plane.outbound.values().cloned().collect();
            for install in tunnels {
                let others = self.sides[1 - side].plane.outbound.values();
                let counts = others.clone().any(|other| other.child.name == install.child.name);
                let (spi, keys) = (install.spi, install.keys);
                self.send(1 - side, Packet::Data { spi, keys, counts });
            }
        }
    }

    pub fn dice(&mut self) -> f64 {
        let mut bytes = [0; 4];
        self.dice.fill(&mut bytes);
        f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.dice() < probability
    }

    /// Both ends have the same IKE SA and the same children, with the same keys, and nothing besides.
    #[track_caller]
    pub fn assert_agreement(&self, children: &[&str]) {
        let others = self.sides.iter().flat_map(|side| side.endpoint.status());
        assert_eq!(others.filter(|one| !matches!(one.state, "closed" | "established")).count(), 0);
        self.assert_agreement_of_established(children);
    }

    /// The same, whatever half-open IKE SAs there are.
    #[track_caller]
    pub fn assert_agreement_of_established(&self, children: &[&str]) {
        let ike = |side: usize| {
            let mut all: Vec<_> =
                self.sides[side].endpoint.status().filter(|one| one.state == "established").collect();
            all.sort_by_key(|one| one.spi);
            all
        };
        let (a, b) = (ike(A), ike(B));
        assert_eq!((a.len(), b.len()), (1, 1), "one IKE SA each: {a:#?} {b:#?}");
        let (a, b) = (&a[0], &b[0]);
        assert_eq!((a.spi, a.peer_spi), (b.peer_spi, b.spi));
        let names = |status: &crate::endpoint::IkeStatus| {
            let mut names: Vec<_> = status.children.iter().map(|child| child.name.to_string()).collect();
            names.sort_unstable();
            names
        };
        let mut expected: Vec<_> = children.iter().map(ToString::to_string).collect();
        expected.sort_unstable();
        assert_eq!((names(a), names(b)), (expected.clone(), expected), "{a:#?} {b:#?}");
        for ours in &a.children {
            let theirs = b.children.iter().find(|theirs| theirs.name == ours.name).expect("as many at both");
            assert_eq!((ours.spi_in, ours.spi_out), (theirs.spi_out, theirs.spi_in));
            assert!(ours.active && theirs.active);
            let (out_a, out_b) =
                (&self.sides[A].plane.outbound[&ours.tunnel], &self.sides[B].plane.outbound[&theirs.tunnel]);
            assert_eq!(self.sides[B].plane.inbound[&out_a.spi].1, out_a.keys);
            assert_eq!(self.sides[A].plane.inbound[&out_b.spi].1, out_b.keys);
            assert_ne!(out_a.keys, out_b.keys);
            assert_eq!((out_a.spi, out_b.spi), (ours.spi_out, ours.spi_in));
        }
        for side in [A, B] {
            let plane = &self.sides[side].plane;
            assert_eq!(
                (plane.inbound.len(), plane.outbound.len()),
                (children.len(), children.len()),
                "side {side}"
            );
        }
    }

    /// Both ends see the same IKE SAs and the same children, whichever they are, and their data planes have what
    /// they say.
    #[track_caller]
    pub fn assert_consistent(&self) {
        let view = |side: usize| {
            let mut all = Vec::new();
            for ike in self.sides[side].endpoint.status().filter(|one| one.state != "closed") {
                assert_eq!(ike.state, "established", "side {side}");
                all.push((ike.spi.min(ike.peer_spi), ike.spi.max(ike.peer_spi), 0, 0));
                for child in &ike.children {
                    let (low, high) = (child.spi_in.min(child.spi_out), child.spi_in.max(child.spi_out));
                    all.push((ike.spi.min(ike.peer_spi), ike.spi.max(ike.peer_spi), low, high));
                }
            }
            all.sort_unstable();
            all
        };
        assert_eq!(view(A), view(B));
        let children = view(A).iter().filter(|one| one.2 != 0).count();
        for side in [A, B] {
            let Side { plane, endpoint, .. } = &self.sides[side];
            // A tunnel may have several Child SAs, and sends on one.
            let tunnels: BTreeSet<_> =
                endpoint.status().flat_map(|ike| ike.children).map(|child| child.tunnel).collect();
            let expected = (children, tunnels.len());
            assert_eq!((plane.inbound.len(), plane.outbound.len()), expected, "side {side}");
        }
        self.assert_usable();
    }

    /// At this moment, what one end sends on the other accepts, for all tunnels that both have.
    #[track_caller]
    pub fn assert_usable(&self) {
        for side in [A, B] {
            let other = &self.sides[1 - side].plane;
            for install in self.sides[side].plane.outbound.values() {
                let both = other.outbound.values().any(|other| other.child.name == install.child.name);
                let fits = other.inbound.get(&install.spi).is_some_and(|(_, keys)| *keys == install.keys);
                assert!(
                    fits || !both,
                    "side {side} sends on {:x}, which the peer does not have",
                    install.spi
                );
            }
        }
    }

    /// Nothing is left anywhere.
    #[track_caller]
    pub fn assert_empty(&self) {
        for side in [A, B] {
            let Side { endpoint, plane, .. } = &self.sides[side];
            assert!(endpoint.is_empty(), "side {side}: {:#?}", endpoint.status().collect::<Vec<_>>());
            assert!(plane.inbound.is_empty() && plane.outbound.is_empty(), "side {side}");
            assert_eq!(endpoint.next_deadline(), None, "side {side}");
            assert_eq!(endpoint.half_open(), 0);
        }
    }

    pub fn has_event(&self, side: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.sides[side].events.iter().any(wanted)
    }
}

impl Plane {
    fn apply(&mut self, update: ChildUpdate) {
        match update {
            ChildUpdate::AddInbound(install) => {
                tracing::debug!(spi = install.spi, tunnel = install.tunnel.0, "add inbound");
                self.added += 1;
                let before = self.inbound.insert(install.spi, (install.tunnel, install.keys));
                assert!(before.is_none(), "inbound SPI in use");
            }
            ChildUpdate::RemoveInbound { spi, .. } => {
                tracing::debug!(spi, "remove inbound");
                assert!(self.inbound.remove(&spi).is_some(), "inbound SA removed twice");
            }
            ChildUpdate::SetOutbound(install) => {
                tracing::debug!(spi = install.spi, tunnel = install.tunnel.0, "set outbound");
                self.outbound.insert(install.tunnel, *install);
            }
            ChildUpdate::RemoveOutbound(tunnel) => {
                self.outbound.remove(&tunnel);
            }
            ChildUpdate::MovePeer(tunnel, endpoints) => {
                self.outbound.get_mut(&tunnel).expect("a tunnel that moves is up").endpoints = endpoints;
            }
        }
    }
}

/// Shows the log of a run that failed: `RUST_LOG=controlplane=debug`.
#[cfg(test)]
pub(super) fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().without_time().try_init();
}

pub(super) fn socket(side: usize, port: u16) -> SocketAddr {
    SocketAddr::new(address(side), port)
}

pub(super) fn wall_clock(now: Instant) -> crate::endpoint::WallClock {
    // Noon of 2026-07-01, when the certificates of `auth::x509::testing` are valid.
    crate::endpoint::WallClock { now, unix: Duration::from_secs(1_782_907_200) }
}
