//! The inner process: the demo itself, from the first cable to the last sentence. It is PID 1 of its namespaces.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::rand;
use dataplane::drops::DropReason;
use nix::mount::{MsFlags, mount};

use super::Options;
use super::authority;
use super::census::Census;
use super::console::{Console, Live};
use super::gateway::{self, Gateway};
use super::netns::Namespace;
use super::ping::{self, Pinger};
use super::plan::{self, HOST, LAN, Side, WAN};
use super::report::{Attack, GatewayDrops, Lan, Proof, Rekey, Report, Tunnel, drops_text};
use super::traffic::{Hosts, Load, PACKET};
use super::wiretap::Wiretap;
use crate::control::What;
use crate::snapshot::{Direction, Sa};

/// Files go here: memory that only these namespaces see.
const DIRECTORY: &str = "/tmp";
/// How long a counter may take to show a packet.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);
/// After which an answer that must not come is taken not to come. An answer takes well under a millisecond.
const NO_ANSWER: Duration = Duration::from_millis(300);
/// How long the rekeys under traffic go on, a rekey how often, and a packet in each direction how often.
const REKEYS_FOR: Duration = Duration::from_secs(3);
const REKEY_EVERY: Duration = Duration::from_millis(250);
const PACKET_EVERY: Duration = Duration::from_millis(1);
/// One in so many rekeys is that of the IKE SA.
const IKE_REKEY: u64 = 4;
/// What both gateways' configurations say.
const KEYS: &str = "by IKEv2: X25519 and ML-KEM-768, ECDSA certificates of a CA that was made for this run";
/// A byte of the ciphertext in a frame: behind Ethernet, IP, SPI, sequence number and IV.
const CIPHERTEXT: usize = 14 + 20 + 8 + 8 + 10;

/// Runs the demo. 0 only if everything was shown.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(std::process::id() == 1, "`--inside` is for `spillway demo` itself");
    std::thread::Builder::new().name("end".to_owned()).spawn(end_with_parent)?;
    let console = if options.json { Console::Quiet } else { Console::Text };
    let mut report = Report::default();
    if let Err(error) = play(options, console, &mut report) {
        report.failures.push(format!("{error:#}"));
    }
    report.passed = report.failures.is_empty();
    if options.json {
        Console::Text.say(&serde_json::to_string_pretty(&report)?)?;
    } else if report.passed {
        console.say("\nAll of it holds. What the demo made goes away with it.")?;
    }
    if !report.passed {
        for failure in &report.failures {
            eprintln!("spillway: demo: {failure}");
        }
        eprint!("{}", gateway::logs(Path::new(DIRECTORY)));
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends this process, and so all of its namespaces, when standard input does: the outer process holds the other end.
fn end_with_parent() {
    let mut nothing = [0; 64];
    // An error ends it too.
    while io::stdin().read(&mut nothing).is_ok_and(|len| len > 0) {}
    std::process::exit(1);
}

/// The machine of the demo, in the order in which it goes away.
struct Stage {
    gateways: [Gateway; 2],
    attacker: Wiretap,
    hosts: [Namespace; 2],
    /// All SPIs that the gateways negotiated.
    spis: BTreeSet<u32>,
    marker: Vec<u8>,
}

fn play(options: &Options, console: Console, report: &mut Report) -> Result<()> {
    console.say(&plan::drawing())?;
    let mut stage = Stage::build()?;
    let tunnel = stage.tunnel()?;
    console.say(&tunnel.text())?;
    report.tunnel = Some(tunnel);

    let (mut left, lan) = stage.ping(console, report)?;
    stage.push(options, console, report)?;
    stage.rekey(console, report)?;
    let proof = stage.prove(&mut left, lan);
    let Stage { gateways, spis, .. } = stage;
    for gateway in gateways {
        gateway.stop()?;
    }
    let proof = proof?;
    console.say(&format!("\n{}", proof.text()))?;
    judge(&proof, &spis, report);
    report.proof = Some(proof);
    Ok(())
}

impl Stage {
    /// Lays the cables, starts the attacker, then the gateways.
    fn build() -> Result<Self> {
        private_directory().context("cannot mount a directory for the demo's files")?;
        let hosts = [Namespace::new("host left")?, Namespace::new("host right")?];
        let attacker = Namespace::new("the attacker")?;
        let places = [Namespace::new("gateway left")?, Namespace::new("gateway right")?];
        for ((side, host), place) in Side::ALL.into_iter().zip(&hosts).zip(&places) {
            host.join(HOST, place, LAN)?;
            place.join(WAN, &attacker, side.name())?;
            host.make_host(HOST, side.host(), side.other().lan().trunc(), side.lan())?;
        }
        let marker = marker()?;
        let census = |side| Census::new(side, &marker);
        let attacker = Wiretap::between(&attacker, census(Side::Left), census(Side::Right))?;
        let directory = Path::new(DIRECTORY);
        authority::issue(directory)?;
        let [left, right] = &places;
        let (first, second) = cores()?;
        // The left one sets the tunnel up as soon as it runs, so the right one is there before it.
        let mut right = Gateway::start(Side::Right, right, directory, (second, first))?;
        right.wait_until_up()?;
        let mut left = Gateway::start(Side::Left, left, directory, (first, second))?;
        left.wait_until_up()?;
        left.wait_until_connected()?;
        right.wait_until_connected()?;
        let spis = left.spis()?.into_iter().collect();
        Ok(Self { gateways: [left, right], attacker, hosts, spis, marker })
    }

    /// The tunnel as the left gateway tells of it.
    fn tunnel(&mut self) -> Result<Tunnel> {
        let [left, _] = &mut self.gateways;
        let status = left.wait_until_up()?;
        // What is shown of SAs may be a moment older than what is shown of connections.
        let end = Instant::now() + COUNTED_WITHIN;
        let sa = loop {
            let mut sas = left.ask::<Vec<Sa>>(What::Sas)?.into_iter();
            match sas.find(|sa| sa.direction == Direction::Inbound) {
                Some(sa) => break sa,
                None if Instant::now() > end => bail!("the gateway has no SA"),
                None => sleep(Duration::from_millis(5)),
            }
        };
        Ok(Tunnel {
            protocol: sa.protocol,
            mode: sa.mode,
            suite: sa.suite,
            esn: sa.esn,
            replay_window: sa.replay_window,
            crypto: status.crypto,
            keys: KEYS,
        })
    }

    /// Pings both ways. Returns the left host's pinger, and what the same search as the attacker's found on the LAN
    /// meanwhile.
    fn ping(&self, console: Console, report: &mut Report) -> Result<(Pinger, Lan)> {
        let [left_host, right_host] = &self.hosts;
        let census = Census::new(Side::Left, &self.marker);
        let lan = Wiretap::listening(right_host, HOST, census)?;
        let mut left = Pinger::open(Side::Left, left_host, &self.marker)?;
        let mut right = Pinger::open(Side::Right, right_host, &self.marker)?;
        for pinger in [&mut left, &mut right] {
            let pings = pinger.series()?;
            console.say(&pings.text())?;
            let (from, to) = (pings.from, pings.to);
            report.expect(pings.answered == pings.sent, || {
                let missing = pings.sent - pings.answered;
                format!("{missing} of {} pings from host {from} to host {to} were not answered", pings.sent)
            });
            report.pings.push(pings);
        }
        Ok((left, Lan::from(&lan.seen()?)))
    }

    /// The throughput run.
    fn push(&self, options: &Options, console: Console, report: &mut Report) -> Result<()> {
        let [left, right] = &self.hosts;
        let hosts = Hosts::open(left, right, &self.marker)?;
        let duration = Duration::from_secs(options.seconds.into());
        console.say(&format!(
            "Traffic  UDP both ways at once, IP packets of {PACKET} bytes, {} s",
            options.seconds
        ))?;
        let mut live = console.live(duration);
        let throughput =
            hosts.run(Load::Full, duration, Live::INTERVAL, |progress| Ok(live.show(&progress)?))?;
        drop(live);
        console.say(&format!("\n{}\n", throughput.text()))?;
        for flow in &throughput.flows {
            report.expect(flow.received > 0, || {
                format!("nothing arrived from host {} to {}", flow.from, flow.to)
            });
        }
        report.throughput = Some(throughput);
        Ok(())
    }

    /// New keys again and again, from both sides in turn, while packets go through.
    fn rekey(&mut self, console: Console, report: &mut Report) -> Result<()> {
        let [left, right] = &self.hosts;
        let hosts = Hosts::open(left, right, &self.marker)?;
        let (mut spis, done) = (std::mem::take(&mut self.spis), Cell::new(0));
        let run = hosts.run(Load::Paced(PACKET_EVERY), REKEYS_FOR, REKEY_EVERY, |_| {
            let number = done.get() + 1;
            let [left, right] = &self.gateways;
            let gateway = if number % 2 == 1 { left } else { right };
            match number % IKE_REKEY {
                0 => gateway.rekey_ike()?,
                _ => gateway.rekey_child()?,
            }
            spis.extend(gateway.spis()?);
            done.set(number);
            Ok(())
        })?;
        self.spis = spis;
        let ike_rekeys = done.get() / IKE_REKEY;
        let rekey = Rekey {
            child_rekeys: done.get() - ike_rekeys,
            ike_rekeys,
            interval_ns: PACKET_EVERY.as_nanos() as u64,
            flows: run.flows,
        };
        console.say(&rekey.text())?;
        report.expect(rekey.ike_rekeys > 0, || "there was no time for all kinds of rekey".to_owned());
        report.expect(rekey.lost() == 0, || format!("{} packets were lost in rekeys", rekey.lost()));
        report.rekey = Some(rekey);
        for gateway in &self.gateways {
            report.gateways.push(GatewayDrops { name: gateway.side, drops: gateway.drops()? });
        }
        Ok(console.say(&drops_text(&report.gateways))?)
    }

    /// The attacker takes a ping off the wire, delivers it with one bit flipped, then as it was, then once more.
    fn prove(&self, pinger: &mut Pinger, lan: Lan) -> Result<Proof> {
        let mut sent = None;
        let genuine = self.attacker.intercept(|| {
            sent = Some(pinger.send()?);
            Ok(())
        })?;
        let ping = sent.context("no ping was sent")?;
        let mut forged = genuine.clone();
        *forged.get_mut(CIPHERTEXT).context("the packet is too short for a ping")? ^= 1;

        let tampered = self.attack(&forged, DropReason::IcvBad, || pinger.answer(ping, NO_ANSWER))?;
        // It is accepted although a forgery with its sequence number came first: only what is authentic moves the
        // replay window (RFC 4303 s3.4.3).
        self.attacker.deliver(&genuine)?;
        let genuine_answered = pinger.answer(ping, ping::PATIENCE)?.is_some();
        let replayed =
            self.attack(&genuine, DropReason::ReplayDuplicate, || pinger.answer(ping, NO_ANSWER))?;
        Ok(Proof { wire: self.attacker.seen()?, lan, tampered, genuine_answered, replayed })
    }

    /// Delivers a frame to the right gateway, which is to drop it for `reason`.
    fn attack(
        &self,
        frame: &[u8],
        reason: DropReason,
        answer: impl FnOnce() -> Result<Option<Duration>>,
    ) -> Result<Attack> {
        let [_, right] = &self.gateways;
        let dropped_before = right.dropped(reason)?;
        self.attacker.deliver(frame)?;
        let end = Instant::now() + COUNTED_WITHIN;
        while right.dropped(reason)? == dropped_before && Instant::now() < end {
            sleep(Duration::from_millis(5));
        }
        let answered = answer()?.is_some();
        // After the wait for an answer: a packet that was counted twice would show.
        let dropped_after = right.dropped(reason)?;
        Ok(Attack { reason: reason.name(), dropped_before, dropped_after, answered })
    }
}

/// What the proof must show.
fn judge(proof: &Proof, negotiated: &BTreeSet<u32>, report: &mut Report) {
    let wire = &proof.wire;
    report.expect(wire.esp > 0, || "no ESP was seen between the gateways".to_owned());
    report.expect(wire.spis.is_subset(negotiated), || {
        let strange = wire.spis.difference(negotiated).map(|spi| format!("{spi:#010x}"));
        format!("ESP with SPIs that nobody negotiated: {}", strange.collect::<Vec<_>>().join(", "))
    });
    report.expect(wire.other == 0, || {
        let first = wire.first_other.as_deref().unwrap_or("unknown");
        format!(
            "{} frames between the gateways were neither ESP, IKE, ARP nor ND; the first: {first}",
            wire.other
        )
    });
    report.expect(wire.with_plaintext == 0, || {
        format!("{} frames between the gateways showed the hosts' plaintext", wire.with_plaintext)
    });
    report.expect(proof.lan.with_plaintext > 0, || {
        "the search for the hosts' plaintext did not find it behind the gateway either".to_owned()
    });
    for (name, attack) in [("tampered", &proof.tampered), ("replayed", &proof.replayed)] {
        report.expect(attack.was_repelled(), || {
            format!("the {name} packet was not dropped and counted exactly once: {attack:?}")
        });
    }
    report.expect(proof.genuine_answered, || {
        "the genuine packet was not accepted after the tampered one".to_owned()
    });
}

/// Mounts memory over a directory that every system has. Nobody outside sees it, and it goes with the namespace:
/// keys never reach a disk.
fn private_directory() -> nix::Result<()> {
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), DIRECTORY, Some("tmpfs"), flags, Some("mode=0700,size=16m"))
}

/// What all packets of the hosts carry, and what nothing else does.
fn marker() -> Result<Vec<u8>> {
    let mut random = [0; 16];
    rand::fill(&mut random).context("random numbers")?;
    Ok([b"spillway demo plaintext ", random.as_slice()].concat())
}

/// Two cores that we may run on, for the gateways' workers; the same one twice when there is no other.
fn cores() -> Result<(usize, usize)> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    match cores.as_slice() {
        [] => bail!("the kernel does not say on which cores we may run"),
        [only] => Ok((only.id, only.id)),
        [first, second, ..] => Ok((first.id, second.id)),
    }
}
