//! The whole packet path: a worker with SAs, policies and routes, and frames of any kind.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::{Arc, LazyLock};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use super::packets::{crypto, mend_v4};
use super::{Digest, Input, with_pool};
use crate::buffer::{BURST, Pool};
use crate::crypto::{Job, Key, KeyMaterial};
use crate::host::SECOND;
use crate::host::neighbour::NeighbourConfig;
use crate::host::reassembly::ReassemblyConfig;
use crate::message::{Event, PolicyUpdate, SaUpdate, Update};
use crate::packet::ethernet::ethertype;
use crate::packet::ip::protocol;
use crate::policy::{Action, Policy, PolicyId, Selector};
use crate::port::Port;
use crate::port::memory::{self, Handle};
use crate::sa::{
    Endpoints, InboundSa, Lifetime, Mode, OutboundOptions, OutboundSa, Protocol, SaParams, TunnelId, UdpPorts,
};
use crate::worker::{Channels, Legacy, OnDemand, PortConfig, Worker, WorkerConfig};

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const STATION: [u8; 6] = [2, 0, 0, 0, 9, 9];
const PEER: [u8; 4] = [198, 51, 100, 2];
const OURS: [u8; 4] = [198, 51, 100, 1];

/// Ways in which the bytes of a record become a frame.
mod flag {
    /// By the LAN port.
    pub const LAN: u8 = 1;
    /// An IP packet of the bytes, with an Ethernet header in front.
    pub const IP: u8 = 2;
    /// Length and checksum of an IPv4 header are made right.
    pub const MEND: u8 = 4;
    /// The plaintext of an ESP packet with a good ICV.
    pub const SEALED: u8 = 8;
    /// In UDP.
    pub const UDP: u8 = 16;
    /// Time passes before it comes.
    pub const LATE: u8 = 32;
    /// On the tunnel SA, or else that of transport mode.
    pub const TRANSPORT: u8 = 64;
}

/// Frames on a worker's ports. What carries no good ICV moves no replay window and takes no table entry, and all
/// frames come back. Each frame is a record: flags, length, bytes.
pub fn worker_rx(data: &[u8]) -> u64 {
    with_pool(512, 4096, |pool| with_pool(4, 66_560, |large| run(Input(data), pool, large)))
}

// What takes long to make is made once, and nothing that a run can change outlasts it. Not dropped at the end: the fuzzer's
// leak check must still find it.
thread_local!(static LEGACY: ManuallyDrop<Cell<Option<Legacy>>> = const { ManuallyDrop::new(Cell::new(None)) });

struct Bench {
    worker: Worker,
    ports: Vec<Handle>,
    _updates: Sender<Update>,
    events: Receiver<Event>,
    inbound: [Arc<InboundSa>; 2],
    keys: [Key; 2],
    now: u64,
}

fn run(mut input: Input<'_>, pool: Pool, large: Pool) -> u64 {
    let legacy = LEGACY.with(|legacy| legacy.take()).unwrap_or_else(|| legacy(pool, large));
    let mut bench = Bench::new(legacy, pool, large);
    let mut digest = Digest::default();
    let mut sealed = [0u64; 2];
    let mut records = 0;
    while !input.is_empty() && records < 64 {
        records += 1;
        let (flags, len) = (input.byte(), usize::from(input.u16()) % 2048);
        let bytes = input.take(len);
        if flags & flag::LATE != 0 {
            bench.now += SECOND;
        }
        let frame = if flags & flag::SEALED != 0 {
            let which = usize::from(flags & flag::TRANSPORT != 0);
            sealed[which] += 1;
            bench.sealed(which, sealed[which], flags & flag::UDP != 0, bytes)
        } else if flags & flag::IP != 0 {
            let mut packet = bytes.to_vec();
            if flags & flag::MEND != 0 {
                mend_v4(&mut packet);
            }
            framed(usize::from(flags & flag::LAN), &packet)
        } else {
            bytes.to_vec()
        };
        let Some(packet) = pool.alloc_from(&frame) else { continue };
        let port = &bench.ports[usize::from(flags & flag::LAN)];
        drop(port.push(packet));
        bench.poll(1000, &mut digest);
    }
    for (sa, sealed) in bench.inbound.iter().zip(sealed) {
        let high_water = sa.replay.as_ref().map_or(0, |window| window.high_water());
        assert!(high_water <= sealed, "a number was claimed without a good ICV");
        digest.saw(&high_water.to_be_bytes());
    }
    // Fragments and packets that wait for a neighbour end in time.
    for _ in 0..4 {
        bench.poll(20 * SECOND, &mut digest);
    }
    digest.saw_drops(bench.worker.drops());
    LEGACY.with(|legacy| legacy.set(Some(bench.worker.into_legacy())));
    digest.finish()
}

static CONFIG: LazyLock<WorkerConfig> = LazyLock::new(|| {
    let nets = [["198.51.100.1/24", "2001:db8::1/64"], ["10.1.0.1/16", "fd01::1/64"]];
    let ports = nets.iter().zip(MACS).map(|(nets, mac)| PortConfig {
        addresses: nets.iter().map(|net| net.parse().expect("a prefix")).collect(),
        mac: Some(mac),
        mtu: 1500,
        vlan: None,
        reverse_path: true,
    });
    WorkerConfig {
        index: 0,
        max_sas: 64,
        max_tunnels: 64,
        on_demand: OnDemand::default(),
        max_policies: 16,
        reassembly: ReassemblyConfig { packets: 16, fragments: 32, ..ReassemblyConfig::default() },
        answers_per_second: 1000,
        nat_port: 4500,
        ports: ports.collect(),
    }
});

/// Routes and policies.
fn legacy(pool: Pool, large: Pool) -> Legacy {
    let ((updates, receiver), (sender, _events)) = (unbounded(), bounded(64));
    let channels = Channels { updates: receiver, events: sender };
    let queues = (0..2).map(|_| Box::new(memory::local(1).0) as Box<dyn Port>).collect();
    let mut worker = Worker::new(CONFIG.clone(), queues, pool, large, crypto(), channels);
    for (id, selector) in (1..).zip(SELECTORS.clone()) {
        let policy = Policy { id: PolicyId(id), selector, action: Action::Protect(TunnelId(id)) };
        // The worker holds the other end.
        let _ = updates.send(Update::Policy(PolicyUpdate::Add(policy)));
    }
    worker.poll(1);
    worker.into_legacy()
}

/// What the tunnel carries, and what transport mode.
static SELECTORS: LazyLock<[Selector; 2]> = LazyLock::new(|| {
    let prefixes = [["10.1.0.0/16", "10.2.0.0/16"], ["198.51.100.1/32", "198.51.100.2/32"]];
    prefixes.map(|pair| {
        let [local, remote] = pair.map(|prefix| prefix.parse().expect("a prefix"));
        Selector::between(local, remote)
    })
});

impl Bench {
    fn new(legacy: Legacy, pool: Pool, large: Pool) -> Self {
        let (queues, handles): (Vec<_>, Vec<_>) = (0..2).map(|_| memory::local(BURST)).unzip();
        let queues = queues.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        let ((updates, receiver), (sender, events)) = (unbounded(), bounded(64));
        let channels = Channels { updates: receiver, events: sender };
        // Few neighbours, so that a run can fill the table.
        let neighbours = NeighbourConfig { capacity: 16, ..NeighbourConfig::default() };
        let mut worker =
            Worker::inheriting(legacy, neighbours, CONFIG.clone(), queues, [pool, large], crypto(), channels);
        let [first, second] = SELECTORS.clone();
        let (tunnel, key) = install(&updates, 1, Mode::Tunnel, first);
        let (transport, other) = install(&updates, 2, Mode::Transport, second);
        worker.poll(1);
        Self {
            worker,
            ports: handles,
            _updates: updates,
            events,
            inbound: [tunnel, transport],
            keys: [key, other],
            now: 1,
        }
    }

    /// Lets time pass and the worker do what is to be done.
    fn poll(&mut self, time: u64, digest: &mut Digest) {
        self.now += time;
        self.worker.poll(self.now);
        for port in &self.ports {
            while let Some(packet) = port.pop() {
                digest.saw(packet.data());
            }
        }
        for event in self.events.try_iter() {
            let kind = std::mem::discriminant(&event);
            digest.saw(format!("{kind:?}").as_bytes());
            if let Event::Punt(datagram) = event {
                digest.saw(&datagram.payload);
            }
        }
    }

    /// A frame from the peer with this plaintext under a good ICV.
    fn sealed(&self, which: usize, seq: u64, udp: bool, plaintext: &[u8]) -> Vec<u8> {
        let key = &self.keys[which];
        let mut esp = [&self.inbound[which].spi.to_be_bytes()[..], &(seq as u32).to_be_bytes()].concat();
        esp.extend(vec![0; key.iv_len()]);
        esp.extend_from_slice(plaintext);
        // Whole blocks, else nobody looks at it.
        esp.extend(vec![0; plaintext.len().max(2).next_multiple_of(key.pad_align()) - plaintext.len()]);
        esp.extend(vec![0; key.icv_len()]);
        crypto().seal(&mut [Job { key, packet: &mut esp, seq, ok: false }]);
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol::ESP, 0, 0];
        packet.extend(PEER.iter().chain(&OURS));
        if udp {
            packet[9] = protocol::UDP;
            packet.extend([0x11, 0x94, 0x11, 0x94]);
            packet.extend((8 + esp.len() as u16).to_be_bytes());
            packet.extend([0; 2]);
        }
        packet.extend(esp);
        mend_v4(&mut packet);
        framed(0, &packet)
    }
}

/// An IP packet in a frame to one of our ports.
fn framed(port: usize, packet: &[u8]) -> Vec<u8> {
    let kind = match packet.first() {
        Some(byte) if byte >> 4 == 6 => ethertype::IPV6,
        _ => ethertype::IPV4,
    };
    [&MACS[port][..], &STATION, &kind.to_be_bytes(), packet].concat()
}

/// Both SAs of a tunnel; the inbound SA and its key.
fn install(updates: &Sender<Update>, id: u32, mode: Mode, selector: Selector) -> (Arc<InboundSa>, Key) {
    let params = SaParams {
        tunnel: TunnelId(id),
        protocol: Protocol::Esp,
        mode,
        suite: "aes128gcm16".parse().expect("a suite"),
        esn: false,
        lifetime: Lifetime::default(),
        ecn: true,
    };
    let material = KeyMaterial::new((0..params.suite.key_len()).map(|i| (i as u32 + id) as u8).collect());
    let udp = Some(UdpPorts { local: 4500, remote: 4500 });
    let endpoints = Endpoints { local: OURS.into(), remote: PEER.into(), udp: udp.filter(|_| id == 1) };
    let key = crypto().key(params.suite, params.esn, &material).expect("a key of the right length");
    let options = OutboundOptions { ttl: 64, ..OutboundOptions::default() };
    let outbound = OutboundSa::new(&crypto(), params.clone(), 0x1000 + id, options, &material, 1)
        .expect("a key of the right length");
    let inbound = InboundSa::new(&crypto(), params, 0x2000 + id, [selector], endpoints, 64, &material, 1)
        .expect("a key of the right length");
    for update in [SaUpdate::AddInbound(Arc::clone(&inbound)), SaUpdate::SetOutbound(outbound, endpoints)] {
        // The worker holds the other end for as long as we hold this one.
        let _ = updates.send(Update::Sa(update));
    }
    (inbound, key)
}
