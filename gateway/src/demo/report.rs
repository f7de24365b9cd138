//! What the demo found out: an object for programs (`--json`), tables and sentences for people.
//!
//! Names of fields are stable. What was not reached, because something before it failed, is `null` or empty.

use std::collections::BTreeMap;

use serde::Serialize;

use super::census::Wire;
use super::plan::Side;
use crate::show::cells::{count, nanoseconds, optional};
use crate::show::table;
use crate::snapshot::Latency;

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Of the program.
    pub(super) version: &'static str,
    /// Everything that the demo shows was shown.
    pub(super) passed: bool,
    /// What was not, or why not.
    pub(super) failures: Vec<String>,
    pub(super) tunnel: Option<Tunnel>,
    pub(super) pings: Vec<Pings>,
    pub(super) throughput: Option<Throughput>,
    pub(super) rekey: Option<Rekey>,
    /// After the throughput run and the rekeys.
    pub(super) gateways: Vec<GatewayDrops>,
    pub(super) proof: Option<Proof>,
}

/// The tunnel as the gateways tell of it.
#[derive(Debug, Serialize)]
pub(super) struct Tunnel {
    pub(super) protocol: String,
    pub(super) mode: String,
    pub(super) suite: String,
    pub(super) esn: bool,
    pub(super) replay_window: Option<u32>,
    /// The engine that encrypts.
    pub(super) crypto: String,
    /// How its keys were agreed on, and how the gateways proved who they are.
    pub(super) keys: &'static str,
}

/// A series of pings through the tunnel.
#[derive(Debug, Serialize)]
pub(super) struct Pings {
    pub(super) from: Side,
    pub(super) to: Side,
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) rtt_min_ns: Option<u64>,
    pub(super) rtt_p50_ns: Option<u64>,
    pub(super) rtt_max_ns: Option<u64>,
}

/// The throughput run.
#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) seconds: f64,
    /// The hosts' IP packets; Mbit/s count these, not what the tunnel adds.
    pub(super) packet_bytes: usize,
    pub(super) flows: Vec<Flow>,
}

/// One direction of it.
#[derive(Debug, Serialize)]
pub(super) struct Flow {
    pub(super) from: Side,
    pub(super) to: Side,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) reordered: u64,
    pub(super) packets_per_second: f64,
    pub(super) mbit_per_second: f64,
    /// From host to host.
    pub(super) latency: Option<Latency>,
}

/// New keys while packets go through.
#[derive(Debug, Serialize)]
pub(super) struct Rekey {
    /// Of the Child SA.
    pub(super) child_rekeys: u64,
    /// Of the IKE SA.
    pub(super) ike_rekeys: u64,
    /// Between two packets of one direction.
    pub(super) interval_ns: u64,
    pub(super) flows: Vec<Flow>,
}

/// What a gateway dropped.
#[derive(Debug, Serialize)]
pub(super) struct GatewayDrops {
    pub(super) name: Side,
    /// Packets by reason; only reasons that occurred.
    pub(super) drops: BTreeMap<String, u64>,
}

/// What only a gateway that does IPsec passes.
#[derive(Debug, Serialize)]
pub(super) struct Proof {
    /// Frames between the gateways, all of them from start to end.
    pub(super) wire: Wire,
    /// The same search behind the right gateway, while pings went: here the plaintext must be found.
    pub(super) lan: Lan,
    /// A ping with one bit of its ciphertext flipped.
    pub(super) tampered: Attack,
    /// The genuine packet, after the tampered one, was accepted.
    pub(super) genuine_answered: bool,
    /// The genuine packet once more.
    pub(super) replayed: Attack,
}

/// What was seen behind a gateway.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Lan {
    /// Frames other than ARP and ND.
    pub(super) frames: u64,
    /// Those in which the hosts' marker can be read.
    pub(super) with_plaintext: u64,
}

/// An attack, and what the gateway made of it.
#[derive(Debug, Serialize)]
pub(super) struct Attack {
    /// The drop reason that counts it.
    pub(super) reason: &'static str,
    pub(super) dropped_before: u64,
    pub(super) dropped_after: u64,
    /// The packet got through: its ping was answered.
    pub(super) answered: bool,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            passed: false,
            failures: Vec::new(),
            tunnel: None,
            pings: Vec::new(),
            throughput: None,
            rekey: None,
            gateways: Vec::new(),
            proof: None,
        }
    }
}

impl Report {
    /// A report of nothing but a failure.
    pub(super) fn failed(failure: String) -> Self {
        Self { failures: vec![failure], ..Self::default() }
    }

    /// Notes a failure unless `good`.
    pub(super) fn expect(&mut self, good: bool, failure: impl FnOnce() -> String) {
        if !good {
            self.failures.push(failure());
        }
    }
}

impl From<&Wire> for Lan {
    fn from(wire: &Wire) -> Self {
        Self { frames: wire.frames - wire.arp - wire.nd, with_plaintext: wire.with_plaintext }
    }
}

impl Tunnel {
    pub(super) fn text(&self) -> String {
        let esn = if self.esn { " with 64-bit sequence numbers (ESN)" } else { "" };
        format!(
            "Tunnel   {} in {} mode, both ways, {}{esn}, replay window {}, crypto {}\nKeys     {}",
            self.protocol.to_uppercase(),
            self.mode,
            self.suite,
            optional(self.replay_window),
            self.crypto,
            self.keys,
        )
    }
}

impl Pings {
    pub(super) fn text(&self) -> String {
        let ns = |value: Option<u64>| value.map_or("-".to_owned(), nanoseconds);
        format!(
            "Ping     host {} to host {}: {} of {} answered, round trip {} (median; {} to {})",
            self.from,
            self.to,
            self.answered,
            self.sent,
            ns(self.rtt_p50_ns),
            ns(self.rtt_min_ns),
            ns(self.rtt_max_ns),
        )
    }
}

impl Throughput {
    pub(super) fn text(&self) -> String {
        let row = |flow: &Flow| {
            let latency = |value: fn(&Latency) -> u64| {
                flow.latency.as_ref().map_or("-".to_owned(), |latency| nanoseconds(value(latency)))
            };
            [
                format!("{} to {}", flow.from, flow.to),
                format!("{:.0}", flow.mbit_per_second),
                count(flow.received),
                format!("{:.0}", flow.packets_per_second),
                count(flow.lost),
                latency(|l| l.p50_ns),
                latency(|l| l.p99_ns),
                latency(|l| l.p999_ns),
            ]
        };
        let header = ["DIRECTION", "#MBIT/S", "#PACKETS", "#PACKETS/S", "#LOST", "#P50", "#P99", "#P99.9"];
        table(header, self.flows.iter().map(row))
    }
}

impl Rekey {
    pub(super) fn lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.lost).sum()
    }

    pub(super) fn text(&self) -> String {
        let sum = |value: fn(&Flow) -> u64| count(self.flows.iter().map(value).sum());
        format!(
            "Rekey    {} times the Child SA and {} times the IKE SA, from both sides, under traffic: {} packets sent, {} \
             received, {} lost",
            self.child_rekeys,
            self.ike_rekeys,
            sum(|flow| flow.sent),
            sum(|flow| flow.received),
            count(self.lost()),
        )
    }
}

/// The drops of all gateways as a table.
pub(super) fn drops_text(gateways: &[GatewayDrops]) -> String {
    let row = |name: Side, (reason, packets): (&String, &u64)| {
        [format!("gateway {name}"), reason.clone(), count(*packets)]
    };
    let rows: Vec<_> = gateways.iter().flat_map(|g| g.drops.iter().map(|drop| row(g.name, drop))).collect();
    if rows.is_empty() {
        return "Drops    none in either gateway".to_owned();
    }
    table(["DROPS", "REASON", "#PACKETS"], rows.into_iter())
}

impl Proof {
    pub(super) fn text(&self) -> String {
        let Self { wire, lan, tampered, genuine_answered, replayed } = self;
        let first_other = wire.first_other.as_ref().map_or(String::new(), |what| format!(" (first: {what})"));
        let genuine = if *genuine_answered { "accepted and answered" } else { "NOT ANSWERED" };
        [
            "Proof".to_owned(),
            format!(
                "  Between the gateways went {} frames: {} ESP with the {} SPIs that were negotiated, {} IKE, {} ARP, {} ND, {} \
                 anything else{first_other}.",
                count(wire.frames),
                count(wire.esp),
                wire.spis.len(),
                count(wire.ike),
                count(wire.arp),
                count(wire.nd),
                count(wire.other),
            ),
            format!(
                "  The hosts' plaintext was found in {} of them; behind the gateway, the same search finds it in {} of {}.",
                count(wire.with_plaintext),
                count(lan.with_plaintext),
                count(lan.frames),
            ),
            format!("  The wiretap itself lost {} frames; what it does not see goes no further.", count(wire.lost)),
            format!("  A ping with one bit flipped: {}.", tampered.text()),
            format!("  The genuine packet after it: {genuine}."),
            format!("  The same packet once more: {}.", replayed.text()),
        ]
        .join("\n")
    }
}

impl Attack {
    /// Dropped and counted exactly once, and without effect.
    pub(super) fn was_repelled(&self) -> bool {
        self.dropped_after == self.dropped_before + 1 && !self.answered
    }

    fn text(&self) -> String {
        let fate = if self.answered { "ANSWERED" } else { "dropped" };
        format!("{fate}, {} {} -> {}", self.reason, self.dropped_before, self.dropped_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_is_repelled_when_it_is_counted_once_and_not_answered() {
        let attack = |dropped_after, answered| Attack {
            reason: "icv_bad",
            dropped_before: 3,
            dropped_after,
            answered,
        };
        assert!(attack(4, false).was_repelled());
        assert!(!attack(3, false).was_repelled() && !attack(5, false).was_repelled());
        assert!(!attack(4, true).was_repelled());
        assert_eq!(attack(4, false).text(), "dropped, icv_bad 3 -> 4");
    }

    #[test]
    fn what_was_not_reached_is_there_all_the_same() {
        let json = serde_json::to_value(Report::failed("no luck".to_owned())).unwrap();
        let expected = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"), "passed": false, "failures": ["no luck"], "tunnel": null, "pings": [], "throughput": null,
            "rekey": null, "gateways": [], "proof": null,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn drops_are_a_table_by_name() {
        let side = |name, drops: &[(&str, u64)]| GatewayDrops {
            name,
            drops: drops.iter().map(|&(reason, packets)| (reason.to_owned(), packets)).collect(),
        };
        assert_eq!(
            drops_text(&[
                side(Side::Left, &[]),
                side(Side::Right, &[("icv_bad", 2), ("wan.rx_missed", 1234)])
            ]),
            "DROPS          REASON         PACKETS\n\
             gateway right  icv_bad              2\n\
             gateway right  wan.rx_missed    1,234"
        );
        assert_eq!(drops_text(&[side(Side::Left, &[])]), "Drops    none in either gateway");
    }
}
