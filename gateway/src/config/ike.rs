//! The section `ike`: what all connections have in common.

use std::borrow::Cow;
use std::time::Duration;

use controlplane::config::Retransmit;

use super::limits::{Limits, limits};
use super::node::{FromNode, Node};

/// The section `ike`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IkeSettings {
    /// How often requests are repeated before a peer counts as dead.
    pub retransmit: Retransmit,
    /// What strangers and peers can make us keep and do.
    pub limits: Limits,
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

impl FromNode for IkeSettings {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let retransmit = fields.read("retransmit", retransmit).unwrap_or_else(|| Some(Retransmit::default()));
        let limits = fields.read("limits", limits).unwrap_or_else(|| Some(Limits::default()));
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
