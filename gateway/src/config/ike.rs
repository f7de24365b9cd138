//! The section `ike`: what all connections have in common.

use std::borrow::Cow;
use std::time::Duration;

use controlplane::config::{FloodLimits, Retransmit};

use super::node::{FromNode, Node};

/// The section `ike`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IkeSettings {
    /// How often requests are repeated before a peer counts as dead.
    pub retransmit: Retransmit,
    /// What strangers can make us keep.
    pub limits: FloodLimits,
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// As many half-open IKE SAs take about a gigabyte.
const HALF_OPEN_MAX: u64 = 1_000_000;

impl FromNode for IkeSettings {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let retransmit = fields.read("retransmit", retransmit).unwrap_or_else(|| Some(Retransmit::default()));
        let limits = fields.read("limits", limits).unwrap_or_else(|| Some(FloodLimits::default()));
        fields.finish();
        Some(Self { retransmit: retransmit?, limits: limits? })
    }
}

fn retransmit(node: Node<'_>) -> Option<Retransmit> {
    let default = Retransmit::default();
    let mut fields = node.fields()?;
    let initial = fields.duration("initial", 10 * MILLISECOND, 60 * SECOND).unwrap_or(default.initial);
    let max = fields.duration("max", 10 * MILLISECOND, HOUR).unwrap_or(default.max);
    let factor = |node: Node<'_>| match node.value.as_f64().filter(|factor| (1.0..=10.0).contains(factor)) {
        Some(factor) => Some(factor),
        None => node.unexpected("a factor from 1 to 10"),
    };
    let factor = fields.read("factor", factor).flatten().unwrap_or(default.factor);
    let tries = fields.number("tries", 1..=100, "a number of repetitions").unwrap_or(default.tries);
    if max < initial {
        let initial = humantime::format_duration(initial);
        fields.error::<()>("max", format!("expected {initial}, the value of `initial`, or more"));
    }
    fields.finish();
    Some(Retransmit { initial, factor, max, tries })
}

fn limits(node: Node<'_>) -> Option<FloodLimits> {
    let default = FloodLimits::default();
    let mut fields = node.fields()?;
    let mut number = |key, least, default: usize| {
        fields.number(key, least..=HALF_OPEN_MAX, "a number of half-open IKE SAs").unwrap_or(default)
    };
    let cookie_threshold = number("cookie_threshold", 0, default.cookie_threshold);
    let cookie_threshold_per_address =
        number("cookie_threshold_per_address", 0, default.cookie_threshold_per_address);
    let half_open = number("half_open", 1, default.half_open);
    let half_open_per_address = number("half_open_per_address", 1, default.half_open_per_address);
    let eap = number("eap", 0, default.eap);
    let half_open_timeout =
        fields.duration("half_open_timeout", SECOND, HOUR / 12).unwrap_or(default.half_open_timeout);
    let cookie_lifetime = fields.duration("cookie_lifetime", SECOND, HOUR).unwrap_or(default.cookie_lifetime);
    for (key, threshold, all) in [
        ("cookie_threshold", cookie_threshold, half_open),
        ("cookie_threshold_per_address", cookie_threshold_per_address, half_open_per_address),
    ] {
        if threshold > all {
            let message =
                format!("found {threshold}, expected {all} at most: beyond that requests are dropped");
            fields.error::<()>(key, message);
        }
    }
    fields.finish();
    Some(FloodLimits {
        cookie_threshold,
        cookie_threshold_per_address,
        half_open,
        half_open_per_address,
        half_open_timeout,
        eap,
        cookie_lifetime,
    })
}
