//! Two gateways and what is around them.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use crate::buffer::Pool;
use crate::crypto::{Crypto, EngineChoice, Job, Key, KeyMaterial, Suite};
use crate::drops::DropReason;
use crate::host::reassembly::ReassemblyConfig;
use crate::message::{Direction, Event, Neighbour, PolicyUpdate, Route, RouteUpdate, SaUpdate, Update};
use crate::packet::ip::protocol;
use crate::packet::{checksum, ethernet, ipv4, ipv6};
use crate::policy::{Action, Policy, PolicyId, Selector};
use crate::port::memory::{self, Handle};
use crate::port::{Mac, Port};
use crate::sa::counters::SaCounters;
use crate::sa::{
    Endpoints, InboundSa, Lifetime, Mode, OutboundOptions, OutboundSa, Protocol, SaParams, Spi, TunnelId,
};
use crate::snapshot::SaPage;
use crate::worker::{Channels, OnDemand, PortConfig, Worker, WorkerConfig};

/// Ports of every gateway.
pub const WAN: usize = 0;
pub const LAN: usize = 1;
/// What a host's Ethernet address is on any link.
pub const HOST_MAC: Mac = [0x02, 0, 0, 0, 0, 0x99];

/// One gateway under test.
pub struct Gateway {
    pub worker: Worker,
    pub ports: Vec<Handle>,
    pub macs: Vec<Mac>,
    pub updates: Sender<Update>,
    pub events: Receiver<Event>,
    pub pool: Pool,
    pub crypto: Arc<Crypto>,
    pub now: u64,
    neighbours: Vec<Neighbour>,
    /// Dropped last.
    _frames: FrameCheck,
}

// Pools are never unmapped, so they are used again.
thread_local!(static POOLS: RefCell<Vec<[Pool; 2]>> = const { RefCell::new(Vec::new()) });

/// Checks when a gateway is gone that all of its frames came back: a packet that is lost without being dropped is
/// a leak that ends a real worker.
struct FrameCheck {
    pools: [Pool; 2],
    ports: Vec<Handle>,
}

impl Drop for FrameCheck {
    fn drop(&mut self) {
        // The worker is gone: these are the last hands on the wires, and what is in them goes with them.
        self.ports.clear();
        if !std::thread::panicking() {
            self.pools.iter().for_each(|pool| assert_eq!(pool.available(), pool.capacity(), "frames leaked"));
            POOLS.with_borrow_mut(|idle| idle.push(self.pools));
        }
    }
}

impl Gateway {
    /// A gateway with addresses on its WAN and LAN port, and this MTU on both.
    pub fn with_mtu(number: u8, wan: &[&str], lan: &[&str], mtu: u32) -> Self {
        Self::configured(number, wan, lan, |config| config.ports.iter_mut().for_each(|port| port.mtu = mtu))
    }

    /// A gateway whose configuration is changed in some way.
    pub fn configured(
        number: u8,
        wan: &[&str],
        lan: &[&str],
        change: impl FnOnce(&mut WorkerConfig),
    ) -> Self {
        let macs: Vec<Mac> = (0..2).map(|port| [0x02, 0, 0, 0, number, port]).collect();
        let addresses = [wan, lan];
        let configs = addresses.iter().zip(&macs).map(|(addresses, &mac)| PortConfig {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            mac: Some(mac),
            mtu: 1500,
            vlan: None,
            reverse_path: true,
        });
        let mut config = WorkerConfig {
            index: 0,
            max_sas: 4096,
            max_tunnels: 4096,
            on_demand: OnDemand::default(),
            max_policies: 4096,
            reassembly: ReassemblyConfig::default(),
            answers_per_second: 1000,
            nat_port: 4500,
            ports: configs.collect(),
        };
        change(&mut config);
        let [pool, large] = POOLS
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| [Pool::new(2048, 16_384).unwrap(), Pool::new(16, 66_560).unwrap()]);
        let (ports, handles): (Vec<_>, Vec<_>) = (0..2).map(|_| memory::local(1024)).unzip();
        let queues = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        let (updates, receiver) = unbounded();
        let (sender, events) = bounded(1024);
        thread_local!(static CRYPTO: Arc<Crypto> = Arc::new(Crypto::new(EngineChoice::Auto).unwrap()));
        let crypto = CRYPTO.with(Arc::clone);
        let channels = Channels { updates: receiver, events: sender };
        let worker = Worker::new(config, queues, pool, large, Arc::clone(&crypto), channels);
        let frames = FrameCheck { pools: [pool, large], ports: handles.clone() };
        Self {
            worker,
            ports: handles,
            macs,
            updates,
            events,
            pool,
            crypto,
            now: 1,
            neighbours: Vec::new(),
            _frames: frames,
        }
    }

    /// Lets time pass, housekeeping included. The neighbours stay where they are.
    pub fn pass(&mut self, time: Duration) {
        const STEP: u64 = 10_000_000_000;
        let end = self.now + time.as_nanos() as u64;
        while self.now < end {
            self.now = end.min(self.now + STEP);
            for neighbour in &self.neighbours {
                self.updates.send(Update::Neighbour(*neighbour)).unwrap();
            }
            self.worker.poll(self.now);
        }
    }

    /// How often a packet was dropped for this reason.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.worker.drops.get(reason)
    }

    /// What was counted of an SA, read as the control side does.
    pub fn sa(&mut self, direction: Direction, spi: Spi) -> SaCounters {
        self.updates.send(Update::SaPage(Box::new(SaPage::first(direction)))).unwrap();
        self.poll();
        let pages = self.events().into_iter().filter_map(|event| match event {
            Event::SaPage(page) => Some(page),
            _ => None,
        });
        let entries = pages.flat_map(|page| page.entries);
        entries.filter(|reading| reading.spi == spi).map(|reading| reading.counters).next().unwrap()
    }

    /// Checks that nothing was dropped but these, one by one: on the worker, and on the inbound SA.
    #[track_caller]
    pub fn assert_dropped_on(&mut self, spi: Spi, expected: &[(DropReason, u64)]) {
        assert_eq!(self.drops(), expected, "on the worker");
        let counters = self.sa(Direction::Inbound, spi);
        assert_eq!(counters.drops().collect::<Vec<_>>(), expected, "on the SA");
    }

    pub fn update(&mut self, update: Update) {
        self.updates.send(update).unwrap();
        self.poll();
    }

    pub fn route(&mut self, to: &str, port: usize, via: &str) {
        let route =
            Route { to: to.parse().unwrap(), port: Some(port as u16), via: Some(via.parse().unwrap()) };
        self.update(Update::Route(RouteUpdate::Add(route)));
    }

    pub fn policy(&mut self, id: u32, local: &str, remote: &str, action: Action) {
        let selector = Selector::between(local.parse().unwrap(), remote.parse().unwrap());
        self.update(Update::Policy(PolicyUpdate::Add(Policy { id: PolicyId(id), selector, action })));
    }

    /// Lets the worker know a neighbour, as if it had answered.
    pub fn neighbour(&mut self, port: usize, address: &str, mac: Mac) {
        let address: IpAddr = address.parse().unwrap();
        // A packet makes the entry, the answer fills it in.
        let probe = match address {
            IpAddr::V4(_) => udp4("198.51.100.77", &address.to_string(), 10),
            IpAddr::V6(_) => udp6("2001:db8::77", &address.to_string(), 10),
        };
        let packet = self.pool.alloc_from(&probe).unwrap();
        let adjacency = self.worker.adjacency(address.into()).unwrap();
        self.worker.transmit(packet, &adjacency, self.now);
        let neighbour = Neighbour { port: port as u16, address, mac };
        self.neighbours.push(neighbour);
        self.update(Update::Neighbour(neighbour));
        while self.ports[port].pop().is_some() {}
    }

    /// Receives frames on a port, as many as there are, and lets the worker work.
    pub fn receive(&mut self, port: usize, frames: &[Vec<u8>]) {
        for burst in frames.chunks(64) {
            for frame in burst {
                let packet = self.pool.alloc_from(frame).unwrap();
                self.ports[port].push(packet).unwrap();
            }
            self.poll();
        }
    }

    /// An IP packet in a frame from the host on the port's link.
    pub fn frame(&self, port: usize, packet: &[u8]) -> Vec<u8> {
        let ethertype =
            if packet[0] >> 4 == 6 { ethernet::ethertype::IPV6 } else { ethernet::ethertype::IPV4 };
        let mut frame = vec![0; ethernet::HEADER_LEN];
        ethernet::Header::untagged(self.macs[port], HOST_MAC, ethertype).emit(&mut frame).unwrap();
        frame.extend_from_slice(packet);
        frame
    }

    /// Receives IP packets from the host on the port's link.
    pub fn receive_ip(&mut self, port: usize, packets: &[Vec<u8>]) {
        let frames: Vec<_> = packets.iter().map(|packet| self.frame(port, packet)).collect();
        self.receive(port, &frames);
    }

    pub fn poll(&mut self) {
        self.now += 1_000_000;
        self.worker.poll(self.now);
    }

    /// Frames that were sent by a port.
    pub fn sent(&mut self, port: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.ports[port].pop()).map(|packet| packet.data().to_vec()).collect()
    }

    /// IP packets that were sent by a port, without their Ethernet header.
    pub fn sent_ip(&mut self, port: usize) -> Vec<Vec<u8>> {
        self.sent(port).into_iter().map(|frame| frame[ethernet::HEADER_LEN..].to_vec()).collect()
    }

    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        self.worker.drops.nonzero().collect()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }
}

/// How a tunnel between two gateways is.
#[derive(Clone, Debug)]
pub struct Tunnel {
    pub protocol: Protocol,
    pub mode: Mode,
    pub suite: &'static str,
    pub esn: bool,
    pub window: u32,
    pub lifetime: Lifetime,
    pub options: OutboundOptions,
    pub endpoints: Endpoints,
    pub local: &'static str,
    pub remote: &'static str,
    pub spi: (Spi, Spi),
    pub ecn: bool,
    /// Selectors and policy are for this protocol and port alone, on the remote side or, mirrored, on the local one.
    pub only: Option<(u8, u16)>,
    pub only_local: bool,
}

impl Tunnel {
    pub fn new(local: &str, remote: &str) -> Self {
        Self {
            protocol: Protocol::Esp,
            mode: Mode::Tunnel,
            suite: "aes128gcm16",
            esn: true,
            window: 4096,
            lifetime: Lifetime::default(),
            options: OutboundOptions { ttl: 64, ..OutboundOptions::default() },
            endpoints: Endpoints {
                local: local.parse().unwrap(),
                remote: remote.parse().unwrap(),
                udp: None,
            },
            local: "10.1.0.0/16",
            remote: "10.2.0.0/16",
            spi: (0x1001, 0x2001),
            ecn: true,
            only: None,
            only_local: false,
        }
    }

    /// The same tunnel as the other gateway sees it.
    pub fn mirrored(&self) -> Self {
        let Endpoints { local, remote, udp } = self.endpoints;
        let udp = udp.map(|ports| crate::sa::UdpPorts { local: ports.remote, remote: ports.local });
        Self {
            endpoints: Endpoints { local: remote, remote: local, udp },
            local: self.remote,
            remote: self.local,
            spi: (self.spi.1, self.spi.0),
            only_local: !self.only_local,
            ..self.clone()
        }
    }

    /// Installs both SAs and the policy, as tunnel and policy `id`.
    pub fn install(&self, gateway: &mut Gateway, id: u32) {
        let (inbound, outbound) = (self.inbound(gateway, id), self.outbound(gateway, id));
        gateway.update(Update::Sa(SaUpdate::AddInbound(inbound)));
        gateway.update(Update::Sa(SaUpdate::SetOutbound(outbound, self.endpoints)));
        let (selector, action) = (self.selector(), Action::Protect(TunnelId(id)));
        gateway.update(Update::Policy(PolicyUpdate::Add(Policy { id: PolicyId(id), selector, action })));
    }

    pub fn outbound(&self, gateway: &Gateway, id: u32) -> Arc<OutboundSa> {
        let (params, options) = (self.params(id), self.options.clone());
        OutboundSa::new(&gateway.crypto, params, self.spi.0, options, &self.key(self.spi.0), gateway.now)
            .unwrap()
    }

    pub fn inbound(&self, gateway: &Gateway, id: u32) -> Arc<InboundSa> {
        InboundSa::new(
            &gateway.crypto,
            self.params(id),
            self.spi.1,
            &[self.selector()],
            self.endpoints,
            self.window,
            &self.key(self.spi.1),
            gateway.now,
        )
        .unwrap()
    }

    fn selector(&self) -> Selector {
        let between = Selector::between(self.local.parse().unwrap(), self.remote.parse().unwrap());
        match self.only {
            Some((protocol, port)) if self.only_local => {
                Selector { protocol: Some(protocol), local_ports: port..=port, ..between }
            }
            Some((protocol, port)) => {
                Selector { protocol: Some(protocol), remote_ports: port..=port, ..between }
            }
            None => between,
        }
    }

    fn params(&self, id: u32) -> SaParams {
        SaParams {
            tunnel: TunnelId(id),
            protocol: self.protocol,
            mode: self.mode,
            suite: self.suite.parse().unwrap(),
            esn: self.esn,
            lifetime: self.lifetime,
            ecn: self.ecn,
        }
    }

    fn key(&self, spi: Spi) -> KeyMaterial {
        let len = self.suite.parse::<Suite>().unwrap().key_len();
        KeyMaterial::new((0..len).map(|i| (i as u32 ^ spi) as u8).collect())
    }
}

/// The left gateway's hand on its outbound SA: makes ESP packets that no honest gateway sends, with a good ICV.
pub struct Forger {
    crypto: Arc<Crypto>,
    key: Key,
    spi: Spi,
    endpoints: Endpoints,
    frame: (Mac, Mac),
}

impl Forger {
    pub fn new(pair: &Pair, tunnel: &Tunnel) -> Self {
        let crypto = Arc::clone(&pair.left.crypto);
        let suite = tunnel.suite.parse().unwrap();
        let key = crypto.key(suite, tunnel.esn, &tunnel.key(tunnel.spi.0)).unwrap();
        let frame = (pair.right.macs[WAN], pair.left.macs[WAN]);
        Self { crypto, key, spi: tunnel.spi.0, endpoints: tunnel.endpoints, frame }
    }

    /// A frame with this plaintext, its trailer included, sealed under this sequence number.
    pub fn frame(&self, seq: u64, plaintext: &[u8]) -> Vec<u8> {
        let mut esp = [&self.spi.to_be_bytes()[..], &(seq as u32).to_be_bytes()].concat();
        esp.extend(vec![0; self.key.iv_len()]);
        esp.extend_from_slice(plaintext);
        esp.extend(vec![0; self.key.icv_len()]);
        let mut jobs = [Job { key: &self.key, packet: &mut esp, seq, ok: false }];
        self.crypto.seal(&mut jobs);
        assert!(jobs[0].ok);
        let mut outer = udp4(&self.endpoints.local.to_string(), &self.endpoints.remote.to_string(), 0);
        outer.truncate(20);
        outer[9] = protocol::ESP;
        outer[2..4].copy_from_slice(&(20 + esp.len() as u16).to_be_bytes());
        mend4(&mut outer);
        let mut frame = vec![0; ethernet::HEADER_LEN];
        let header = ethernet::Header::untagged(self.frame.0, self.frame.1, ethernet::ethertype::IPV4);
        header.emit(&mut frame).unwrap();
        [frame, outer, esp].concat()
    }

    /// The plaintext of an honest packet: payload, padding 1, 2, 3, and the trailer.
    pub fn plaintext(&self, payload: &[u8], next_header: u8) -> Vec<u8> {
        let align = self.key.pad_align();
        let pad = (payload.len() + 2).wrapping_neg() & (align - 1);
        let mut plaintext = payload.to_vec();
        plaintext.extend(1..=pad as u8);
        plaintext.extend([pad as u8, next_header]);
        plaintext
    }
}

/// Two gateways with hosts behind them, joined at their WAN ports.
pub struct Pair {
    pub left: Gateway,
    pub right: Gateway,
}

impl Pair {
    /// IPv4 outside and inside, an MTU of 1500, and this tunnel.
    pub fn new(tunnel: &Tunnel) -> Self {
        Self::with_mtu(tunnel, 1500)
    }

    pub fn with_mtu(tunnel: &Tunnel, mtu: u32) -> Self {
        let wan = [["198.51.100.1/24", "2001:db8::1/64"], ["198.51.100.2/24", "2001:db8::2/64"]];
        let lan = [["10.1.0.1/16", "fd01::1/64"], ["10.2.0.1/16", "fd02::1/64"]];
        let mut left = Gateway::with_mtu(1, &wan[0], &lan[0], mtu);
        let mut right = Gateway::with_mtu(2, &wan[1], &lan[1], mtu);
        left.route("10.2.0.0/16", WAN, "198.51.100.2");
        left.route("fd02::/64", WAN, "2001:db8::2");
        right.route("10.1.0.0/16", WAN, "198.51.100.1");
        right.route("fd01::/64", WAN, "2001:db8::1");
        for address in ["198.51.100.2", "2001:db8::2"] {
            let mac = right.macs[WAN];
            left.neighbour(WAN, address, mac);
        }
        for address in ["198.51.100.1", "2001:db8::1"] {
            let mac = left.macs[WAN];
            right.neighbour(WAN, address, mac);
        }
        for address in ["10.1.0.5", "fd01::5"] {
            left.neighbour(LAN, address, HOST_MAC);
        }
        for address in ["10.2.0.5", "fd02::5"] {
            right.neighbour(LAN, address, HOST_MAC);
        }
        tunnel.install(&mut left, 1);
        tunnel.mirrored().install(&mut right, 1);
        Self { left, right }
    }

    /// Sends packets from the host behind the left gateway, and returns what was on the wire and what came out.
    pub fn left_to_right(&mut self, packets: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        self.left.receive_ip(LAN, packets);
        let wire = self.left.sent(WAN);
        self.right.receive(WAN, &wire);
        (wire, self.right.sent_ip(LAN))
    }
}

/// A UDP packet over IPv4 with `len` bytes of payload, DF clear.
pub fn udp4(source: &str, destination: &str, len: usize) -> Vec<u8> {
    let total = 28 + len;
    let mut packet = vec![0; total];
    let repr = ipv4::Repr {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: protocol::UDP,
        total_len: total as u16,
        identification: 7,
        dont_fragment: false,
        ttl: 64,
        tos: 0,
    };
    repr.emit(packet.first_chunk_mut().unwrap());
    packet[20..24].copy_from_slice(&[0x10, 0, 0x20, 0]);
    packet[24..26].copy_from_slice(&((8 + len) as u16).to_be_bytes());
    for (i, byte) in packet[28..].iter_mut().enumerate() {
        *byte = i as u8;
    }
    packet
}

/// A UDP packet over IPv6 with `len` bytes of payload.
pub fn udp6(source: &str, destination: &str, len: usize) -> Vec<u8> {
    let mut packet = vec![0; 48 + len];
    let repr = ipv6::Repr {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        next_header: protocol::UDP,
        payload_len: (8 + len) as u16,
        hop_limit: 64,
        traffic_class: 0,
        flow_label: 0,
    };
    repr.emit(packet.first_chunk_mut().unwrap());
    packet[40..44].copy_from_slice(&[0x10, 0, 0x20, 0]);
    packet[44..46].copy_from_slice(&((8 + len) as u16).to_be_bytes());
    packet
}

/// An ICMP echo request over IPv4 with `len` bytes of payload.
pub fn ping4(source: &str, destination: &str, len: usize) -> Vec<u8> {
    let mut packet = udp4(source, destination, len);
    packet[9] = protocol::ICMP;
    packet[20..28].copy_from_slice(&[8, 0, 0, 0, 0, 1, 0, 1]);
    mend4(&mut packet);
    let sum = checksum::of(&packet[20..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Computes the IPv4 header checksum anew.
pub fn mend4(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}
