//! The whole state machine: two ends, and bytes that say what happens to them, step by step.

use std::hash::Hasher;
use std::time::Duration;

use dataplane::message::Datagram;

use super::Input;
use super::decrypted::{forge, take_down};
use crate::crypto::{Group, repeat_key_exchanges};
use crate::endpoint::Forgery;
use crate::sim::{A, B, Network, World, child, configs, socket};
use crate::wire::{
    Delete, ExchangeType, KeId, KeyExchange, Notify, NotifyType, Payload, ProtocolId, emit_chain,
};

const NAMES: [&str; 2] = ["lan", "dmz"];
/// Steps of a run; more do not find more.
const STEPS: usize = 120;
/// Datagrams of the past that can come again.
const REMEMBERED: usize = 32;

/// One run.
struct Run {
    world: World,
    past: Vec<(usize, Datagram)>,
    /// One end sent what no honest one does: they need not agree afterwards.
    dishonest: bool,
}

/// The first byte says what the ends are like, and each further step is a byte and what it needs. Whatever is lost,
/// repeated, bent or said out of turn, both ends agree in the end, and can be taken down to nothing.
pub fn machine(data: &[u8]) -> u64 {
    repeat_key_exchanges();
    let mut input = Input(data);
    let mut run = Run { world: world(input.byte()), past: Vec::new(), dishonest: false };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
        for side in [A, B] {
            let ike_sas = run.world.sides[side].endpoint.status().count();
            assert!(ike_sas <= 4 * STEPS, "{ike_sas} IKE SAs");
        }
    }
    run.release();
    run.world.network = Network::GOOD;
    run.world.run(Duration::from_secs(1000));
    if !run.dishonest {
        run.world.assert_consistent();
    }
    take_down(&mut run.world);
    run.world.digest.finish()
}

fn world(setup: u8) -> World {
    let on = |bit: u8| setup & 1 << bit != 0;
    let mut world = World::new(
        setup.into(),
        configs(|side, connection| {
            let children = NAMES.iter().zip(1..).map(|(name, net)| {
                let mut child = child(side, name, net);
                let proposal = match (on(0), on(2)) {
                    (true, true) => "aes128gcm16-x25519-ke1_mlkem512-ke2_ecp256-esn",
                    (true, false) => "aes128gcm16-x25519-esn",
                    _ => "aes128gcm16-esn",
                };
                child.proposals = vec![crate::proposal::Proposal::esp(proposal).expect("it is one")];
                child.into()
            });
            connection.children = children.take(if on(1) { 2 } else { 1 }).collect();
            if on(2) {
                let keywords = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
                connection.proposals = vec![crate::proposal::Proposal::ike(keywords).expect("it is one")];
            }
            connection.fragment_size = if on(3) { 576 } else { 1280 };
            connection.unique = on(4);
            connection.childless = on(5);
            connection.force_encapsulation = on(6) && side == A;
            // Whoever is left with an IKE SA that the other has given up finds that out.
            connection.dpd = Some(Duration::from_secs(20));
        }),
    );
    if on(7) {
        // A is behind a NAT.
        world.rewrite[A] = Some(Box::new(|datagram| datagram.local.set_port(datagram.local.port() + 20_000)));
        world.rewrite[B] = Some(Box::new(|datagram| {
            datagram.remote.set_port(datagram.remote.port().saturating_sub(20_000));
        }));
        // The NAT lets B in only where A was out.
        world.filter = Some(Box::new(|side, datagram| side == A || datagram.remote.port() != 0));
    }
    world
}

impl Run {
    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let side = usize::from(what >> 7);
        let name = NAMES[usize::from(what >> 6 & 1)];
        let world = &mut self.world;
        // What an operator asks for may be impossible at the moment, which is an error and no more.
        match what & 15 {
            0 => _ = world.at(side, |endpoint, now, rng| endpoint.initiate(now, rng, "net", None)),
            1 => _ = world.at(side, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", name)),
            2 => _ = world.at(side, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")),
            3 => _ = world.at(side, |endpoint, now, rng| endpoint.terminate(now, rng, "net", Some(name))),
            4 => _ = world.at(side, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)),
            5 => _ = world.at(side, |endpoint, now, rng| endpoint.initiate(now, rng, "net", Some(name))),
            6 => self.expire(side, input.byte()),
            7 => world.run(Duration::from_millis(u64::from(input.byte()) * 20)),
            8 => world.network = if what & 16 == 0 { Network::GOOD } else { Network::BAD },
            9 if world.held.is_some() => self.release(),
            9 => world.held = Some(Default::default()),
            10 => self.deliver(side, what, input),
            11 => self.repeat(what, input),
            12 => self.stranger(side, input),
            13 => self.forge(side, what, input),
            _ => {
                world.held.get_or_insert_default();
                self.deliver(side, what, input);
            }
        }
    }

    /// The data plane says that an SA is used up.
    fn expire(&mut self, side: usize, which: u8) {
        let plane = &self.world.sides[side].plane;
        let mut spis: Vec<_> = plane.inbound.iter().map(|(&spi, &(tunnel, _))| (spi, tunnel)).collect();
        spis.extend(plane.outbound.iter().map(|(&tunnel, install)| (install.spi, tunnel)));
        spis.sort_unstable();
        if spis.is_empty() {
            return;
        }
        let (spi, tunnel) = spis[usize::from(which >> 1) % spis.len()];
        let hard = which & 1 != 0;
        self.world.at(side, |endpoint, now, rng| endpoint.child_expired(now, rng, tunnel, spi, hard));
    }

    /// Does something to a datagram that is held for `to`: hands it over, twice, bent, or not at all.
    fn deliver(&mut self, to: usize, what: u8, input: &mut Input<'_>) {
        let Some(held) = &mut self.world.held else { return };
        let queue = &mut held[to];
        if queue.is_empty() {
            return;
        }
        let at = input.index(queue.len());
        let Some(datagram) = queue.get(at).cloned() else { return };
        match what >> 4 & 3 {
            // Its turn has come.
            0 => _ = queue.remove(at),
            // A copy comes before.
            1 => {}
            // Bent on the way.
            2 => {
                let mut bent = datagram.clone();
                let place = (usize::from(input.byte()) << 8 | usize::from(input.byte())) % bent.payload.len();
                bent.payload[place] ^= input.byte();
                return self.hand_over(to, bent);
            }
            // Lost.
            _ => {
                queue.remove(at);
                return;
            }
        }
        self.past.push((to, datagram.clone()));
        if self.past.len() > REMEMBERED {
            self.past.remove(0);
        }
        self.hand_over(to, datagram);
    }

    fn hand_over(&mut self, to: usize, datagram: Datagram) {
        self.world.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
    }

    /// An old datagram comes again, or is thrown back at its sender.
    fn repeat(&mut self, what: u8, input: &mut Input<'_>) {
        if self.past.is_empty() {
            return;
        }
        let at = input.index(self.past.len());
        let Some((to, datagram)) = self.past.get(at).cloned() else { return };
        self.hand_over(if what & 16 == 0 { to } else { 1 - to }, datagram);
    }

    /// Somebody else sends bytes.
    fn stranger(&mut self, to: usize, input: &mut Input<'_>) {
        let len = usize::from(input.byte());
        let payload = input.take(len).to_vec();
        // With an address of its own, or with the peer's.
        let stranger = "198.51.100.99:500".parse().expect("an address");
        let remote = if len & 1 == 0 { stranger } else { socket(1 - to, 500) };
        self.hand_over(to, Datagram { local: socket(to, 500), remote, payload });
    }

    /// The other end says something authentic that no honest end would say.
    fn forge(&mut self, to: usize, what: u8, input: &mut Input<'_>) {
        self.dishonest = true;
        let exchanges = [
            ExchangeType::CREATE_CHILD_SA,
            ExchangeType::INFORMATIONAL,
            ExchangeType::IKE_AUTH,
            ExchangeType::IKE_FOLLOWUP_KE,
        ];
        let exchange = exchanges[input.index(4)];
        let mut payloads = Vec::new();
        let count = input.index(4);
        for _ in 0..count {
            payloads.push(self.payload(to, input));
        }
        let mut plain = Vec::new();
        let Ok(first) = emit_chain(&payloads, &mut plain) else { return };
        let (which, response) = (usize::from(what >> 5 & 1), what & 16 != 0);
        forge(&mut self.world, to, &Forgery { which, exchange, response, first, plain });
    }

    /// A payload that fits the moment more or less.
    fn payload(&self, to: usize, input: &mut Input<'_>) -> Payload<'static> {
        let spis = || {
            let planes = self.world.sides.iter().map(|side| &side.plane);
            let mut spis: Vec<u32> = planes.flat_map(|plane| plane.inbound.keys().copied()).collect();
            spis.sort_unstable();
            spis
        };
        let kind = NotifyType(u16::from_be_bytes([input.byte(), input.byte()]));
        match input.index(8) {
            0 => Payload::Delete(Delete::Ike),
            1 => Payload::Delete(Delete::Child { protocol: ProtocolId::ESP, spis: spis() }),
            2 => Payload::Notify(Notify::bare(kind)),
            3 => {
                let data = input.take(8).to_vec();
                Payload::Notify(Notify::new(kind, data))
            }
            4 => {
                let spis = spis();
                let spi = spis.get(input.index(spis.len().max(1))).copied().unwrap_or(1);
                Payload::Notify(Notify::about_child(NotifyType::REKEY_SA, ProtocolId::ESP, spi))
            }
            5 => Payload::Nonce(vec![input.byte(); 32].into()),
            6 => {
                let links = self.world.sides[to].endpoint.links();
                let link = links.get(input.index(links.len().max(1))).cloned().unwrap_or_default();
                Payload::Notify(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, link))
            }
            _ => {
                let group = Group::ALL[input.index(Group::ALL.len())];
                let data = vec![input.byte(); group.initiator_len()].into();
                Payload::Ke(KeyExchange { method: KeId(group.iana()), data })
            }
        }
    }

    /// What is held goes its way.
    fn release(&mut self) {
        for (to, queue) in self.world.held.take().into_iter().flatten().enumerate() {
            queue.into_iter().for_each(|datagram| self.world.inject(to, datagram));
        }
    }
}
