//! How an SA treats packets: what manual SAs and children of connections have in common.

use std::borrow::Cow;
use std::time::Duration;

use controlplane::proposal::Weak;
use dataplane::sa::{
    DfPolicy, DscpPolicy, Fragmentation, Lifetime, Limits, Mode, MssClamp, OutboundOptions, Protocol,
};

use super::node::{Fields, FromNode, Keyword, Node};
use super::units::Bytes;

/// How an SA treats packets, whoever keys it.
#[derive(Clone, Debug)]
pub struct SaOptions {
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// ESP or AH.
    pub protocol: Protocol,
    /// Width of the replay window in packets; `None` when it is off.
    pub replay_window: Option<u32>,
    /// ECN is carried between inner and outer header.
    pub ecn: bool,
    /// How outbound packets are built.
    pub outbound: OutboundOptions,
    /// Weak algorithms that the operator accepts.
    pub allow_weak: Vec<Weak>,
}

/// The widest replay window, and the default.
const WINDOW_MAX: u64 = 65_536;
const WINDOW_DEFAULT: u32 = 4096;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// RFC 3948 s4: 20 seconds. Sent with UDP encapsulation only.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Workers look at idle SAs no more often.
const DUMMY_LEAST: Duration = Duration::from_millis(10);

impl SaOptions {
    /// Reads the keys that manual SAs and children have in common.
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let mode = fields.optional("mode").unwrap_or(Mode::Tunnel);
        let protocol = fields.optional("protocol").unwrap_or(Protocol::Esp);
        if mode == Mode::Transport {
            for key in ["df", "dscp", "ecn", "ttl", "tfc_pad"] {
                if fields.has(key) {
                    fields
                        .error::<()>(key, "only in tunnel mode: transport mode keeps the packet's IP header");
                }
            }
        }
        if protocol == Protocol::Ah && fields.has("tfc_pad") {
            fields.error::<()>("tfc_pad", "only with ESP: AH has no padding (RFC 4303 s2.7)");
        }
        if protocol == Protocol::Ah && fields.has("keepalive") {
            fields.error::<()>("keepalive", "only with ESP: AH cannot pass a NAT (RFC 3948 s1)");
        }
        if (protocol, mode) != (Protocol::Esp, Mode::Tunnel) && fields.has("dummy") {
            fields.error::<()>(
                "dummy",
                "only with ESP in tunnel mode: the outer header tells where it goes (RFC 4303 s2.6)",
            );
        }
        let replay_window =
            fields.optional("replay_window").map_or(Some(WINDOW_DEFAULT), |Window(bits)| bits);
        let ecn = fields.optional("ecn").unwrap_or(true);
        let default = match mode {
            Mode::Tunnel => Fragmentation::Before,
            Mode::Transport => Fragmentation::After,
        };
        let fragmentation = fields.optional("fragmentation").unwrap_or(default);
        if mode == Mode::Transport && fragmentation == Fragmentation::Before {
            fields.error::<()>(
                "fragmentation",
                "found \"before\", expected after: transport mode is for whole packets (RFC 4303 s3.3.4)",
            );
        }
        let outbound = OutboundOptions {
            df: fields.optional("df").unwrap_or_default(),
            dscp: fields.optional("dscp").unwrap_or_default(),
            fragmentation,
            tfc_pad: fields.number("tfc_pad", 64..=9216, "a number of bytes"),
            ttl: fields.number("ttl", 1..=255, "a TTL").unwrap_or(64),
            keepalive: fields.interval("keepalive", SECOND, HOUR).unwrap_or(Some(KEEPALIVE)),
            dummy: fields.interval("dummy", DUMMY_LEAST, HOUR).flatten(),
            mss_clamp: fields.optional("mss_clamp").and_then(|Mss(clamp)| clamp),
        };
        let allow_weak = fields.optional("allow_weak").unwrap_or_default();
        Some(Self { mode, protocol, replay_window, ecn, outbound, allow_weak })
    }

    /// Reports weak algorithms at `node`: as errors, or as warnings when they are allowed by name.
    pub(super) fn check_weak(&self, node: Node<'_>, used: impl Iterator<Item = Weak>) {
        check_weak(node, used, &self.allow_weak);
    }
}

/// Reports weak algorithms at `node`: as errors, or as warnings when they are allowed by name.
pub(super) fn check_weak(node: Node<'_>, used: impl Iterator<Item = Weak>, allowed: &[Weak]) {
    let mut seen = Vec::new();
    for weak in used {
        if seen.contains(&weak) {
            continue;
        }
        seen.push(weak);
        let (keyword, reason) = (weak.keyword(), weak.reason());
        if allowed.contains(&weak) {
            node.warning(format!("{reason}; it is used because `allow_weak` names it"));
        } else {
            node.error::<()>(format!("{reason}; to use it all the same, set `allow_weak: [{keyword}]`"));
        }
    }
}

impl Keyword for Mode {
    const KEYWORDS: &'static [(&'static str, Self)] =
        &[("tunnel", Self::Tunnel), ("transport", Self::Transport)];
}

impl Keyword for Protocol {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("esp", Self::Esp), ("ah", Self::Ah)];
}

impl Keyword for DfPolicy {
    const KEYWORDS: &'static [(&'static str, Self)] =
        &[("copy", Self::Copy), ("set", Self::Set), ("clear", Self::Clear)];
}

impl Keyword for Fragmentation {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("before", Self::Before), ("after", Self::After)];
}

impl Keyword for Weak {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("sha1", Self::Sha1), ("3des", Self::TripleDes)];
}

/// `copy` or a number.
impl FromNode for DscpPolicy {
    fn expected() -> Cow<'static, str> {
        "copy or a number from 0 to 63".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let number = node.value.as_u64().and_then(|dscp| u8::try_from(dscp).ok()).filter(|dscp| *dscp <= 63);
        match (node.value.as_str(), number) {
            (Some("copy"), _) => Some(Self::Copy),
            (_, Some(dscp)) => Some(Self::Set(dscp)),
            _ => node.unexpected(&Self::expected()),
        }
    }
}

/// 0 for off, or a width.
struct Window(Option<u32>);

impl FromNode for Window {
    fn expected() -> Cow<'static, str> {
        format!("0 (off) or a number of packets from 64 to {WINDOW_MAX}").into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        match node.value.as_u64() {
            Some(0) => Some(Self(None)),
            Some(64..=WINDOW_MAX) => node.number(64..=WINDOW_MAX, "packets").map(|bits| Self(Some(bits))),
            _ => node.unexpected(&Self::expected()),
        }
    }
}

/// `off`, `pmtu` or a number.
struct Mss(Option<MssClamp>);

impl FromNode for Mss {
    fn expected() -> Cow<'static, str> {
        "off, pmtu or a number of bytes from 256 to 9176".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let number = node.value.as_u64().and_then(|mss| u16::try_from(mss).ok());
        match (node.value.as_str(), number.filter(|mss| (256..=9176).contains(mss))) {
            (Some("off"), _) => Some(Self(None)),
            (Some("pmtu"), _) => Some(Self(Some(MssClamp::PathMtu))),
            (_, Some(mss)) => Some(Self(Some(MssClamp::Fixed(mss)))),
            _ => node.unexpected(&Self::expected()),
        }
    }
}

/// Limits as they are written: `{ time: 1h, bytes: 1TB, packets: 1000000 }`.
pub(super) struct LimitsEntry(pub(super) Limits);

impl FromNode for LimitsEntry {
    fn expected() -> Cow<'static, str> {
        "a mapping with `time`, `bytes` or `packets`".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let time = fields.optional::<Duration>("time");
        if time.is_some_and(|time| time < Duration::from_secs(1)) {
            fields.error::<()>("time", "expected a second or more");
        }
        let bytes = fields.optional("bytes").map(|Bytes(bytes)| bytes);
        if bytes == Some(0) {
            fields.error::<()>("bytes", "found 0, expected a byte or more");
        }
        let packets = fields.number("packets", 1..=u64::MAX, "a number of packets");
        fields.finish();
        Some(Self(Limits { time, bytes, packets }))
    }
}

/// `{ soft: {...}, hard: {...} }`.
pub(super) struct SoftHard(pub(super) Lifetime);

impl FromNode for SoftHard {
    fn expected() -> Cow<'static, str> {
        "a mapping with `soft` and `hard`".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let mut limits = |key| fields.optional(key).map(|LimitsEntry(limits)| limits).unwrap_or_default();
        let lifetime = Lifetime { soft: limits("soft"), hard: limits("hard") };
        if let Some(kind) = soft_beyond_hard(&lifetime) {
            fields.error::<()>("soft", format!("the soft limit of {kind} is beyond the hard one"));
        }
        fields.finish();
        Some(Self(lifetime))
    }
}

/// The kind of limit whose soft value would never be reached.
pub(super) fn soft_beyond_hard(Lifetime { soft, hard }: &Lifetime) -> Option<&'static str> {
    let beyond =
        |soft: Option<u64>, hard: Option<u64>| soft.zip(hard).is_some_and(|(soft, hard)| soft > hard);
    if soft.time.zip(hard.time).is_some_and(|(soft, hard)| soft > hard) {
        Some("time")
    } else if beyond(soft.bytes, hard.bytes) {
        Some("bytes")
    } else if beyond(soft.packets, hard.packets) {
        Some("packets")
    } else {
        None
    }
}
