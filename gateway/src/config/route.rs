//! The sections `routes` and `policies`.

use std::borrow::Cow;
use std::net::IpAddr;

use dataplane::policy::Selector;
use ipnet::IpNet;

use super::node::{FromNode, Keyword, Node};
use super::selector::read_selectors;

/// A route as it is written; [`super::validate`] finds its port.
pub(super) struct RouteEntry {
    pub(super) to: IpNet,
    pub(super) via: Option<IpAddr>,
    pub(super) port: Option<String>,
}

impl FromNode for RouteEntry {
    fn expected() -> Cow<'static, str> {
        "a mapping with `to` and `via` or `port`".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let to = fields.required::<IpNet>("to");
        let (has_via, has_port) = (fields.has("via"), fields.has("port"));
        let via = fields.optional::<IpAddr>("via");
        let port = fields.optional::<String>("port");
        fields.finish();
        if !has_via && !has_port {
            return node.error("a route needs a next hop (`via`), a `port`, or both");
        }
        let to = to?;
        if let Some(via) = via
            && via.is_ipv4() != matches!(to, IpNet::V4(_))
        {
            return node.error(format!("the next hop {via} is not of the address family of {to}"));
        }
        (via.is_some() == has_via && port.is_some() == has_port).then_some(Self { to, via, port })
    }
}

/// What happens to traffic that is not protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClearAction {
    /// It is forwarded in the clear.
    Bypass,
    /// It is dropped.
    Discard,
}

/// An entry of `policies`, for one pair of prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClearPolicy {
    /// What happens.
    pub action: ClearAction,
    /// To which traffic.
    pub selector: Selector,
}

/// An entry of `policies` as it is written.
pub(super) struct PolicyEntry {
    pub(super) action: ClearAction,
    pub(super) selectors: Vec<Selector>,
}

#[derive(Clone, Copy)]
enum ActionName {
    Clear(ClearAction),
    Protect,
}

impl Keyword for ActionName {
    const KEYWORDS: &'static [(&'static str, Self)] = &[
        ("bypass", Self::Clear(ClearAction::Bypass)),
        ("discard", Self::Clear(ClearAction::Discard)),
        ("protect", Self::Protect),
    ];
}

impl FromNode for PolicyEntry {
    fn expected() -> Cow<'static, str> {
        "a mapping with `action`, `local` and `remote`".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let action = match fields.required("action") {
            Some(ActionName::Clear(action)) => Some(action),
            Some(ActionName::Protect) => fields.error(
                "action",
                "protect policies come from the selectors of `manual_sas` and `connections`, expected bypass or discard",
            ),
            None => None,
        };
        let selectors = read_selectors(&mut fields);
        fields.finish();
        Some(Self { action: action?, selectors: selectors? })
    }
}
