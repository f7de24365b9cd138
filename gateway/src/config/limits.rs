//! `ike.limits`: what strangers and peers can make the gateway keep and do.

use std::ops::RangeInclusive;
use std::time::Duration;

use controlplane::config::{FloodLimits, PeerLimits};
use dataplane::worker::WaitingLimits;

use super::node::{Fields, FromNode, Node};
use super::units::Bytes;

/// The section `ike.limits`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of strangers.
    pub flood: FloodLimits,
    /// Of peers that have proved themselves.
    pub peers: PeerLimits,
    /// Of packets that wait for a tunnel.
    pub waiting: WaitingLimits,
}

/// As many inbound SAs as the workers' tables hold.
pub const MAX_SAS: u32 = 1 << 18;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// As many half-open IKE SAs take about a gigabyte.
const IKE_SAS_MAX: u64 = 1_000_000;
/// A message that this does not suffice for is no message.
const MESSAGE: (RangeInclusive<u64>, &str) = (16 << 10..=1 << 20, "a size from 16KiB to 1MiB");
/// RFC 7296 s2: implementations should take 3,000 octets.
const FIRST_REQUEST: (RangeInclusive<u64>, &str) = (3_000..=65_535, "a size from 3000 to 65535 bytes");

/// A name of DNS has up to 255 octets; a payload no more than its length field says.
const IDENTITY: (RangeInclusive<u64>, &str) = (255..=65_535, "a size from 255 to 65535 bytes");

pub(super) fn limits(node: Node<'_>) -> Option<Limits> {
    let mut fields = node.fields()?;
    let (flood, peers, waiting) = (flood(&mut fields), peers(&mut fields), waiting(&mut fields));
    for (key, found, all, why) in [
        ("cookie_threshold", flood.cookie_threshold, flood.half_open, "beyond that requests are dropped"),
        (
            "cookie_threshold_per_address",
            flood.cookie_threshold_per_address,
            flood.half_open_per_address,
            "beyond that requests are dropped",
        ),
        (
            "puzzle_difficulty",
            flood.puzzle_difficulty.into(),
            flood.puzzle_difficulty_max.into(),
            "the value of `puzzle_difficulty_max`",
        ),
        ("half_open", flood.half_open, flood.ike_sas, "the value of `ike_sas`"),
        ("children", peers.children, peers.child_sas, "the value of `child_sas`"),
        ("acquire_queue_per_tunnel", waiting.each, waiting.all, "the value of `acquire_queue`"),
    ] {
        if found > all {
            fields.error::<()>(key, format!("found {found}, expected {all} at most: {why}"));
        }
    }
    fields.finish();
    Some(Limits { flood, peers, waiting })
}

fn flood(fields: &mut Fields<'_>) -> FloodLimits {
    let default = FloodLimits::default();
    let mut half_open = |key, least, default: usize| {
        fields.number(key, least..=IKE_SAS_MAX, "a number of half-open IKE SAs").unwrap_or(default)
    };
    FloodLimits {
        cookie_threshold: half_open("cookie_threshold", 0, default.cookie_threshold),
        cookie_threshold_per_address: half_open(
            "cookie_threshold_per_address",
            0,
            default.cookie_threshold_per_address,
        ),
        half_open: half_open("half_open", 1, default.half_open),
        half_open_per_address: half_open("half_open_per_address", 1, default.half_open_per_address),
        eap: half_open("eap", 0, default.eap),
        puzzle_threshold: puzzle_threshold(fields).unwrap_or(default.puzzle_threshold),
        puzzle_difficulty: difficulty(fields, "puzzle_difficulty", default.puzzle_difficulty),
        puzzle_difficulty_max: difficulty(fields, "puzzle_difficulty_max", default.puzzle_difficulty_max),
        puzzle_solve: difficulty(fields, "puzzle_solve", default.puzzle_solve),
        puzzle_unsolved_per_second: fields
            .number("puzzle_unsolved_per_second", 0..=1_000_000, "a number of requests")
            .unwrap_or(default.puzzle_unsolved_per_second),
        cookie_lifetime: fields.duration("cookie_lifetime", SECOND, HOUR).unwrap_or(default.cookie_lifetime),
        half_open_timeout: fields
            .duration("half_open_timeout", 5 * SECOND, 5 * MINUTE)
            .unwrap_or(default.half_open_timeout),
        ike_sas: number(fields, "ike_sas", 1..=IKE_SAS_MAX, "a number of IKE SAs", default.ike_sas),
        eap_timeout: fields.duration("eap_timeout", SECOND, HOUR).unwrap_or(default.eap_timeout),
        eap_packets: fields
            .number("eap_packets", 20..=10_000, "a number of packets")
            .unwrap_or(default.eap_packets),
        eap_message: bytes(fields, "eap_message", MESSAGE, default.eap_message),
        first_request: bytes(fields, "first_request", FIRST_REQUEST, default.first_request),
        message: bytes(fields, "message", MESSAGE, default.message),
        fragments: fields
            .number("fragments", 16..=65_535, "a number of fragments")
            .unwrap_or(default.fragments),
        payloads: number(fields, "payloads", 32..=16_384, "a number of payloads", default.payloads),
        proposals: number(fields, "proposals", 1..=255, "a number of proposals", default.proposals),
        identity: bytes(fields, "identity", IDENTITY, default.identity),
        name_comparisons: number(
            fields,
            "name_comparisons",
            0..=10_000_000,
            "a number of comparisons",
            default.name_comparisons,
        ),
        answers_per_second: fields
            .number("answers_per_second", 0..=1_000_000, "a number of answers")
            .unwrap_or(default.answers_per_second),
        log_lines_per_second: fields
            .number("log_lines_per_second", 0..=1_000_000, "a number of lines")
            .unwrap_or(default.log_lines_per_second),
        queue: number(fields, "queue", 16..=1_000_000, "a number of datagrams", default.queue),
    }
}

fn peers(fields: &mut Fields<'_>) -> PeerLimits {
    let default = PeerLimits::default();
    // The rest is for rekeys, which make one more of each for a while.
    let sas = 1..=u64::from(MAX_SAS / 8 * 7);
    PeerLimits {
        child_sas: number(fields, "child_sas", sas, "a number of Child SAs", default.child_sas),
        children: number(fields, "children", 1..=65_536, "a number of Child SAs", default.children),
        policies: number(fields, "policies", 1..=65_536, "a number of policies", default.policies),
        narrowed: number(fields, "narrowed", 1..=4096, "a number of Child SAs", default.narrowed),
        left_out: number(fields, "left_out", 1..=65_536, "a number of packets", default.left_out),
        left_out_pause: fields.duration("left_out_pause", SECOND, HOUR).unwrap_or(default.left_out_pause),
        followups: number(fields, "followups", 1..=64, "a number of exchanges", default.followups),
        followup_timeout: fields
            .duration("followup_timeout", SECOND, 5 * MINUTE)
            .unwrap_or(default.followup_timeout),
        followup_retries: fields
            .number("followup_retries", 1..=100, "a number of retries")
            .unwrap_or(default.followup_retries),
        addresses: number(fields, "addresses", 0..=255, "a number of addresses", default.addresses),
        shortest_reauth: fields.duration("shortest_reauth", SECOND, HOUR).unwrap_or(default.shortest_reauth),
        init_attempts: fields
            .number("init_attempts", 2..=100, "a number of requests")
            .unwrap_or(default.init_attempts),
        acquire_pause: fields
            .duration("acquire_pause", 100 * MILLISECOND, HOUR)
            .unwrap_or(default.acquire_pause),
        remembered_addresses: number(
            fields,
            "remembered_addresses",
            0..=10_000_000,
            "a number of peers",
            default.remembered_addresses,
        ),
    }
}

fn waiting(fields: &mut Fields<'_>) -> WaitingLimits {
    let default = WaitingLimits::default();
    let packets = || 0..=4096;
    WaitingLimits {
        all: number(fields, "acquire_queue", packets(), "a number of packets", default.all),
        each: number(fields, "acquire_queue_per_tunnel", packets(), "a number of packets", default.each),
        flows: number(fields, "acquire_flows", 1..=64, "a number of flows", default.flows),
        patience: fields.duration("acquire_timeout", 100 * MILLISECOND, MINUTE).unwrap_or(default.patience),
    }
}

/// A number of half-open IKE SAs, or `off`, which is `Some(None)`.
fn puzzle_threshold(fields: &mut Fields<'_>) -> Option<Option<usize>> {
    let key = "puzzle_threshold";
    if fields.read(key, |node| node.value.as_str() == Some("off")) == Some(true) {
        return Some(None);
    }
    fields.number(key, 0..=IKE_SAS_MAX, "off, or a number of half-open IKE SAs").map(Some)
}

/// RFC 8019 s4.4 excludes what is too easy. 28 is 200 times what takes a second.
fn difficulty(fields: &mut Fields<'_>, key: &'static str, default: u8) -> u8 {
    fields.number(key, 8..=28, "a number of bits").unwrap_or(default)
}

fn number(
    fields: &mut Fields<'_>,
    key: &'static str,
    range: RangeInclusive<u64>,
    unit: &str,
    default: usize,
) -> usize {
    fields.number(key, range, unit).unwrap_or(default)
}

fn bytes(
    fields: &mut Fields<'_>,
    key: &'static str,
    (range, expected): (RangeInclusive<u64>, &str),
    default: usize,
) -> usize {
    let read = |node: Node<'_>| match Bytes::from_node(node)? {
        Bytes(bytes) if range.contains(&bytes) => Some(bytes as usize),
        Bytes(_) => node.unexpected(expected),
    };
    fields.read(key, read).flatten().unwrap_or(default)
}
