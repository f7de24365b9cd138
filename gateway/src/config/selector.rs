//! Traffic selectors as they are written: lists of prefixes on both sides, a protocol, and ports.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use dataplane::policy::Selector;
use ipnet::IpNet;
use serde_yaml::Value;

use super::node::{Fields, FromNode, Node, OneOrMany, nearest};
use super::units::PortRange;

/// The mapping `selectors` of a manual SA.
pub(super) struct Selectors(pub(super) Vec<Selector>);

impl FromNode for Selectors {
    fn expected() -> Cow<'static, str> {
        "a mapping with `local` and `remote`".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let selectors = read_selectors(&mut fields);
        fields.finish();
        selectors.map(Self)
    }
}

/// More pairs of prefixes than this in one place are a mistake.
const PAIRS_MAX: usize = 4096;

/// Reads `local`, `remote`, `ip_protocol`, `local_ports` and `remote_ports`, which may stand beside other keys.
/// Every local prefix is paired with every remote one of its family.
pub(super) fn read_selectors(fields: &mut Fields<'_>) -> Option<Vec<Selector>> {
    let local = fields.required::<OneOrMany<IpNet>>("local");
    let remote = fields.required::<OneOrMany<IpNet>>("remote");
    let narrow = read_protocol(fields);
    let (OneOrMany(local), OneOrMany(remote), narrow) = (local?, remote?, narrow?);
    if local.len().saturating_mul(remote.len()) > PAIRS_MAX {
        return fields.error(
            "local",
            format!(
                "{} local and {} remote prefixes make more than {PAIRS_MAX} pairs",
                local.len(),
                remote.len()
            ),
        );
    }
    lonely(fields, "local", &local, "remote", &remote)?;
    lonely(fields, "remote", &remote, "local", &local)?;
    let pairs = local.iter().flat_map(|&local| remote.iter().map(move |&remote| (local, remote)));
    let pairs = pairs.filter(|(local, remote)| same_family(local, remote));
    Some(pairs.map(|(local, remote)| narrow.between(local, remote)).collect())
}

/// Protocol and ports of a selector.
#[derive(Clone)]
pub(super) struct Narrow {
    protocol: Option<u8>,
    local_ports: RangeInclusive<u16>,
    remote_ports: RangeInclusive<u16>,
}

impl Narrow {
    /// All protocols and ports.
    pub(super) fn any() -> Self {
        Self { protocol: None, local_ports: 0..=u16::MAX, remote_ports: 0..=u16::MAX }
    }

    /// The selector between two prefixes of one family.
    pub(super) fn between(&self, local: IpNet, remote: IpNet) -> Selector {
        Selector {
            protocol: self.protocol,
            local_ports: self.local_ports.clone(),
            remote_ports: self.remote_ports.clone(),
            ..Selector::between(local, remote)
        }
    }
}

/// Reads `ip_protocol`, `local_ports` and `remote_ports`.
pub(super) fn read_protocol(fields: &mut Fields<'_>) -> Option<Narrow> {
    let protocol = fields.optional("ip_protocol").map(|IpProtocol(number)| number);
    let mut ports = |key| fields.optional(key).map(|PortRange(range)| range);
    let (local_ports, remote_ports) = (ports("local_ports"), ports("remote_ports"));
    if !protocol.is_some_and(has_ports) {
        for (key, given) in [("local_ports", local_ports.is_some()), ("remote_ports", remote_ports.is_some())]
        {
            if given {
                return fields
                    .error(key, "only with an `ip_protocol` that has ports: tcp, udp, sctp, dccp, udplite");
            }
        }
    }
    let any = Narrow::any();
    Some(Narrow {
        protocol,
        local_ports: local_ports.unwrap_or(any.local_ports),
        remote_ports: remote_ports.unwrap_or(any.remote_ports),
    })
}

/// The protocol above IP, by IANA number or name.
struct IpProtocol(u8);

const PROTOCOLS: [(&str, u8); 9] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("icmpv6", 58),
    ("ospf", 89),
    ("sctp", 132),
    ("udplite", 136),
];

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

impl FromNode for IpProtocol {
    fn expected() -> Cow<'static, str> {
        let names: Vec<_> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        format!("{} or a number from 1 to 255", names.join(", ")).into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let expected = Self::expected();
        if let Value::Number(_) = node.value {
            return node.number(1..=255, "a protocol number").map(Self);
        }
        let text = node.text(&expected)?;
        match PROTOCOLS.iter().find(|(name, _)| *name == text) {
            Some((_, number)) => Some(Self(*number)),
            None => match nearest(text, PROTOCOLS.iter().map(|(name, _)| *name)) {
                Some(near) => node.unexpected(&format!("{expected}; did you mean `{near}`?")),
                None => node.unexpected(&expected),
            },
        }
    }
}

/// Reports a prefix whose family no prefix of the other side has.
fn lonely(fields: &Fields<'_>, key: &str, side: &[IpNet], other_key: &str, other: &[IpNet]) -> Option<()> {
    match side.iter().find(|prefix| !other.iter().any(|other| same_family(prefix, other))) {
        Some(prefix) => {
            fields.error(key, format!("{prefix} has no prefix of its address family in `{other_key}`"))
        }
        None => Some(()),
    }
}

fn same_family(a: &IpNet, b: &IpNet) -> bool {
    matches!((a, b), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}
