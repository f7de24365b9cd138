//! The section `connections`: peers that IKEv2 keys.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use controlplane::auth::{IdPattern, Identity, IdentityError};
use controlplane::proposal::{Proposal, Weak};
use controlplane::wire::{EsnId, ProtocolId, TransformType};
use dataplane::policy::Selector;
use dataplane::sa::{Lifetime, Limits, Mode, Protocol};
use indexmap::IndexMap;
use ipnet::IpNet;
use serde_yaml::Value;

use super::auth::{Auth, OurProof, TheirProof, secret_file};
use super::keyfile::Psk;
use super::node::{Fields, FromNode, Keyword, Named, Node, OneOrMany};
use super::options::{LimitsEntry, SaOptions, check_weak, soft_beyond_hard};
use super::port::is_unicast;
use super::selector::read_selectors;

/// A peer, or a group of them that is told apart by address or identity.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Our end; `None` is any of our addresses.
    pub local: End<Identity>,
    /// The peer's end; `None` is any address, and then we only respond.
    pub remote: End<IdPattern>,
    /// How both sides prove who they are.
    pub auth: Auth,
    /// The IKE SA.
    pub ike: Ike,
    /// Names of the pools that a peer that asks gets its inner addresses from.
    pub pools: Vec<String>,
    /// Name servers that such a peer is told.
    pub dns: Vec<IpAddr>,
    /// Prefixes behind us that such a peer is told, for split tunnelling.
    pub subnets: Vec<IpNet>,
    /// A post-quantum preshared key on top (RFC 8784).
    pub ppk: Option<Ppk>,
    /// What happens when the peer is dead, or takes a child down.
    pub on_down: OnDown,
    /// Its Child SAs by name.
    pub children: IndexMap<String, Child>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End<I> {
    /// Outer address; of several the preferred one.
    pub address: Option<IpAddr>,
    /// The others, in the order of preference.
    pub others: Vec<IpAddr>,
    /// Identity (RFC 7296 s3.5), or what it must be like.
    pub id: I,
}

impl<I> End<I> {
    /// All addresses, in the order of preference; none for any.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address.into_iter().chain(self.others.iter().copied())
    }
}

/// A post-quantum preshared key (RFC 8784).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ppk {
    /// Its name, which both ends know it by.
    pub id: String,
    /// The key.
    pub secret: Psk,
    /// Refuse a peer that does not have it.
    pub required: bool,
}

/// What happens when a child goes down without our wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// It is set up again, until that succeeds.
    Restart,
    /// It stays down until a packet, the peer or the operator wants it.
    Clear,
}

impl Keyword for OnDown {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("restart", Self::Restart), ("clear", Self::Clear)];
}

/// The IKE SA of a connection.
#[derive(Clone, Debug)]
pub struct Ike {
    /// In order of preference.
    pub proposals: Vec<Proposal>,
    /// Age at which it is rekeyed.
    pub rekey: Duration,
    /// Age at which both ends authenticate anew, without a gap; never when `None`.
    pub reauth: Option<Duration>,
    /// The peer, or we, may move to other addresses (RFC 4555).
    pub mobike: bool,
    /// Silence after which the peer is asked whether it is alive (RFC 7296 s2.4); never when `None`.
    pub dpd: Option<Duration>,
    /// When ESP goes in UDP.
    pub encapsulation: Encapsulation,
}

/// When ESP goes in UDP (RFC 7296 s2.23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Where there is a NAT.
    Auto,
    /// Always, as where a firewall drops ESP.
    Always,
}

impl Keyword for Encapsulation {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("always", Self::Always)];
}

/// A Child SA of a connection.
#[derive(Clone, Debug)]
pub struct Child {
    /// How packets are treated.
    pub options: SaOptions,
    /// In order of preference.
    pub proposals: Vec<Proposal>,
    /// Traffic that goes through it. Empty in transport mode, for all between the ends, with `remote: dynamic` and with
    /// `local: assigned`.
    pub selectors: Vec<Selector>,
    /// With `remote: dynamic`: what is behind us. The peer's side is its inner address, or its outer one.
    pub behind: Vec<IpNet>,
    /// With `local: assigned`: what is behind the peer. Our side is the inner address that it gives us.
    pub assigned: Vec<IpNet>,
    /// `rekey` as soft limit, and the hard one.
    pub lifetime: Lifetime,
    /// When it is set up.
    pub start: Start,
}

/// When a child is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As soon as the gateway runs.
    Boot,
    /// With the first packet.
    Traffic,
    /// When the peer asks for it.
    Wait,
}

impl Keyword for Start {
    const KEYWORDS: &'static [(&'static str, Self)] =
        &[("boot", Self::Boot), ("traffic", Self::Traffic), ("wait", Self::Wait)];
}

/// What is offered when the configuration names nothing: see RFC 8247 s2 and RFC 8221 s5.
const IKE_PROPOSALS: [&str; 2] =
    ["aes256gcm16-prfsha384-x25519-ecp384", "aes128gcm16-prfsha256-x25519-ecp256"];
const ESP_PROPOSALS: [&str; 1] = ["aes256gcm16-aes128gcm16-esn"];
const AH_PROPOSALS: [&str; 1] = ["sha256-esn"];

const MINUTE: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

impl FromNode for Connection {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let allow_weak: Vec<Weak> = fields.optional("allow_weak").unwrap_or_default();
        let local = fields.required::<End<Identity>>("local");
        let remote = fields.required::<End<IdPattern>>("remote");
        let auth = fields.required::<Auth>("auth");
        let ike =
            fields.read("ike", |node| Ike::read(node, &allow_weak)).unwrap_or_else(|| Some(Ike::default()));
        let children = fields.required::<Named<Child>>("children");
        if children.as_ref().is_some_and(|children| children.complete && children.entries.is_empty()) {
            fields.error::<()>("children", "found no child, expected one at least: it carries the traffic");
        }
        let children = children.map(|children| children.entries);
        let pools = fields.optional("pools").map(|OneOrMany(names)| names).unwrap_or_default();
        let dns = fields.optional("dns").map(|OneOrMany(servers)| servers).unwrap_or_default();
        let subnets = fields.optional("subnets").map(|OneOrMany(prefixes)| prefixes).unwrap_or_default();
        let ppk = fields.optional::<Ppk>("ppk");
        let starts = children.iter().flatten().any(|(_, child)| child.start == Start::Boot);
        let default = if starts { OnDown::Restart } else { OnDown::Clear };
        let on_down = fields.optional("on_down").unwrap_or(default);
        if let (Some(End { address: None, .. }), Some(children)) = (&local, &children)
            && let Some((name, _)) = children.iter().find(|(_, child)| child.start != Start::Wait)
        {
            fields.error::<()>(
                "local",
                format!("with `address: any` it is not known where to start from, expected `start: wait` in the child {name}"),
            );
        }
        if let (Some(End { address: None, .. }), Some(children)) = (&remote, &children) {
            for (name, _) in children.iter().filter(|(_, child)| child.start != Start::Wait) {
                fields.error::<()>(
                    "remote",
                    format!("with `address: any` only the peer can start, expected `start: wait` in the child {name}"),
                );
            }
        }
        if let Some(auth) = &auth {
            check_auth(&fields, auth, local.as_ref(), remote.as_ref(), children.as_ref());
        }
        let assigned = children
            .as_ref()
            .and_then(|children| children.iter().find(|(_, child)| !child.assigned.is_empty()));
        if let (Some((name, _)), Some(End { address: None, .. })) = (assigned, &remote) {
            let message =
                format!("with `local: assigned` in the child {name} only we can start, expected an address");
            fields.error::<()>("remote", message);
        }
        fields.finish();
        let (local, remote) = (local?, remote?);
        if let (Some(ours), Some(theirs)) = (local.address, remote.address) {
            if ours.is_ipv4() != theirs.is_ipv4() {
                return node.error(format!("the addresses {ours} and {theirs} are not of one family"));
            }
            if ours == theirs {
                return node.error(format!("both ends have the address {ours}"));
            }
        }
        if let Some(children) = &children
            && !(local.others.is_empty() && remote.others.is_empty())
            && let Some((name, _)) = children.iter().find(|(_, child)| child.options.mode == Mode::Transport)
        {
            return node.error(format!(
                "the child {name} is in transport mode, which is between two addresses: expected one in `local` and `remote`"
            ));
        }
        Some(Self {
            local,
            remote,
            auth: auth?,
            ike: ike?,
            pools,
            dns,
            subnets,
            ppk,
            on_down,
            children: children?,
        })
    }
}

/// What the way of authentication asks of the rest of the connection.
fn check_auth(
    fields: &Fields<'_>,
    auth: &Auth,
    local: Option<&End<Identity>>,
    remote: Option<&End<IdPattern>>,
    children: Option<&IndexMap<String, Child>>,
) {
    let children = || children.into_iter().flatten();
    if matches!(auth.theirs, TheirProof::Eap { .. }) {
        for (name, _) in children().filter(|(_, child)| child.start != Start::Wait) {
            let message = format!(
                "peers that authenticate by EAP start themselves, expected `start: wait` in the child {name}"
            );
            fields.error::<()>("auth", message);
        }
    }
    if let (true, Some(End { address: None, .. })) = (auth.ours.is_eap(), remote) {
        fields.error::<()>("remote", "with EAP only we can start, expected an address");
    }
    let (we_are_nobody, peer_is_nobody) =
        (matches!(auth.ours, OurProof::Null), matches!(auth.theirs, TheirProof::Null));
    // RFC 7619 s2.2: a name that nobody proves says nothing.
    if let Some(End { id, .. }) = local
        && we_are_nobody != (*id == Identity::Null)
        && !auth.ours.is_eap()
    {
        let message = match we_are_nobody {
            true => {
                format!("we do not prove that we are {id} (`null_auth`), expected the identity \"%null\"")
            }
            false => "\"%null\" is nobody: expected a name, or `null_auth: ours`".to_owned(),
        };
        fields.error::<()>("local", message);
    }
    if let Some(End { id, .. }) = remote
        && peer_is_nobody != (*id == IdPattern::Exact(Identity::Null))
    {
        let message = match peer_is_nobody {
            true => format!(
                "the peer does not prove that it is {id} (`null_auth`), expected the identity \"%null\""
            ),
            false => "\"%null\" is nobody: expected a name, or `null_auth: peer`".to_owned(),
        };
        fields.error::<()>("remote", message);
    }
    if peer_is_nobody {
        let message = "whoever comes is let in as the peer, and nobody knows who it is (RFC 7619)";
        fields.warning("auth", message);
        // RFC 7619 s2.5: whoever comes could have the traffic of others.
        if let Some(End { address: None, .. }) = remote {
            for (name, _) in children().filter(|(_, child)| !child.selectors.is_empty()) {
                let message = format!(
                    "anybody could claim the traffic of the child {name}, expected `remote: dynamic` in it"
                );
                fields.error::<()>("auth", message);
            }
        }
    }
    if we_are_nobody {
        fields.warning("auth", "we do not prove who we are (RFC 7619)");
    }
}

impl<I: FromNode> FromNode for End<I> {
    fn expected() -> Cow<'static, str> {
        "a mapping with `address` and `id`".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let one = |node: Node<'_>| match IpAddr::from_node(node)? {
            address if is_unicast(address) => Some(address),
            address => node.error(format!("{address} cannot be the end of a tunnel")),
        };
        let read = |node: Node<'_>| match node.value {
            Value::String(text) if text == "any" => Some(Vec::new()),
            Value::Sequence(list) if list.is_empty() => {
                node.error("found an empty list, expected an address or any")
            }
            Value::Sequence(_) => node.each(one),
            _ => one(node).map(|address| vec![address]),
        };
        let addresses = match fields.read("address", read) {
            Some(addresses) => addresses,
            None => fields.error("address", "missing, expected an address or any"),
        };
        let id = fields.required::<I>("id");
        fields.finish();
        let mut addresses = addresses?.into_iter();
        Some(Self { address: addresses.next(), others: addresses.collect(), id: id? })
    }
}

impl FromNode for Identity {
    fn expected() -> Cow<'static, str> {
        "a name such as gw.example.net, an address, user@example.net or \"CN=gw, O=Example\"".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let expected = Self::expected();
        identity(node, Self::parse(node.text(&expected)?), &expected)
    }
}

/// An identity, or what it must be like: `*.example.net`, `*@example.net`, a DN with `*`, or `"%any"`.
impl FromNode for IdPattern {
    fn expected() -> Cow<'static, str> {
        Identity::expected()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let expected = Self::expected();
        identity(node, Self::parse(node.text(&expected)?), &expected)
    }
}

fn identity<I>(node: Node<'_>, parsed: Result<I, IdentityError>, expected: &str) -> Option<I> {
    match parsed {
        Ok(identity) => Some(identity),
        Err(IdentityError::Name { kind, .. }) if !kind.starts_with("name;") => node.unexpected(expected),
        Err(error) => node.error(format!("found {}: {error}", node.found())),
    }
}

impl FromNode for Ppk {
    fn expected() -> Cow<'static, str> {
        "a mapping with `id` and `secret_file`".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let id = fields.required::<String>("id");
        let secret = match fields.read("secret_file", secret_file) {
            Some(secret) => secret,
            None => fields.error("secret_file", "missing, expected the path of a file"),
        };
        let required = fields.optional("required").unwrap_or(true);
        fields.finish();
        Some(Self { id: id?, secret: secret?, required })
    }
}

impl Default for Ike {
    fn default() -> Self {
        Self {
            proposals: defaults(&IKE_PROPOSALS, ProtocolId::IKE),
            rekey: Duration::from_secs(4 * 3600),
            reauth: None,
            mobike: true,
            dpd: Some(Duration::from_secs(30)),
            encapsulation: Encapsulation::Auto,
        }
    }
}

impl Ike {
    fn read(node: Node<'_>, allow_weak: &[Weak]) -> Option<Self> {
        let mut ike = Self::default();
        let mut fields = node.fields()?;
        if let Some(proposals) = read_proposals(&mut fields, ProtocolId::IKE, allow_weak) {
            ike.proposals = proposals;
        }
        if let Some(rekey) = fields.duration("rekey", 5 * MINUTE, WEEK) {
            ike.rekey = rekey;
        }
        if let Some(reauth) = fields.interval("reauth", 5 * MINUTE, WEEK) {
            ike.reauth = reauth;
        }
        if let Some(mobike) = fields.optional("mobike") {
            ike.mobike = mobike;
        }
        if let Some(dpd) = fields.interval("dpd", Duration::from_secs(1), 60 * MINUTE) {
            ike.dpd = dpd;
        }
        if let Some(encapsulation) = fields.optional("encapsulation") {
            ike.encapsulation = encapsulation;
        }
        fields.finish();
        Some(ike)
    }
}

impl FromNode for Child {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let options = SaOptions::read(&mut fields)?;
        let (protocol, words): (_, &[&str]) = match options.protocol {
            Protocol::Esp => (ProtocolId::ESP, &ESP_PROPOSALS),
            Protocol::Ah => (ProtocolId::AH, &AH_PROPOSALS),
        };
        let proposals = read_proposals(&mut fields, protocol, &options.allow_weak)
            .unwrap_or_else(|| defaults(words, protocol));
        // What was not negotiated is `noesn`; a proposal without either offers no ESN (RFC 7296 s3.3.2).
        let may_use_esn = proposals
            .iter()
            .any(|proposal| proposal.of(TransformType::ESN).any(|transform| transform.id == EsnId::ESN.0));
        if options.replay_window.is_none() && may_use_esn {
            fields.error::<()>(
                "replay_window",
                "found 0, expected 64 or more with ESN (RFC 4303 s3.3.3); or name proposals with `noesn`",
            );
        }
        let ends_only = options.mode == Mode::Transport && !fields.has("local") && !fields.has("remote");
        let dynamic = fields.read("remote", |node| node.value.as_str() == Some("dynamic")) == Some(true);
        let inner = fields.read("local", |node| node.value.as_str() == Some("assigned")) == Some(true);
        let prefixes = |OneOrMany(prefixes): OneOrMany<IpNet>| prefixes;
        let (mut selectors, mut behind, mut assigned) =
            (Some(Vec::new()), Some(Vec::new()), Some(Vec::new()));
        if inner && dynamic {
            fields.error::<()>("remote", "found dynamic, expected prefixes with `local: assigned`");
        } else if inner {
            assigned = fields.required("remote").map(prefixes);
        } else if dynamic {
            behind = fields.required("local").map(prefixes);
        } else if !ends_only {
            selectors = read_selectors(&mut fields);
        }
        if inner && options.mode == Mode::Transport {
            fields.error::<()>("mode", "found transport, expected tunnel with `local: assigned`");
        }
        let lifetime = read_lifetime(&mut fields);
        let start = fields.optional("start").unwrap_or(Start::Wait);
        if inner && start == Start::Traffic {
            let message = "found traffic, expected boot or wait: with `local: assigned` no packet is ours before the peer gave us an address";
            fields.error::<()>("start", message);
        }
        fields.finish();
        let (selectors, behind, assigned) = (selectors?, behind?, assigned?);
        Some(Self { options, proposals, selectors, behind, assigned, lifetime: lifetime?, start })
    }
}

/// `rekey` is the soft limit. The hard one, `expire`, is a tenth beyond it unless it is written.
fn read_lifetime(fields: &mut Fields<'_>) -> Option<Lifetime> {
    let soft = match fields.read("rekey", LimitsEntry::from_node) {
        Some(limits) => limits?.0,
        None => Limits { time: Some(60 * MINUTE), bytes: None, packets: None },
    };
    let tenth_more = |limit: u64| limit.saturating_add(limit / 10);
    let hard = match fields.read("expire", LimitsEntry::from_node) {
        Some(limits) => limits?.0,
        None => Limits {
            time: soft.time.map(|time| time.saturating_add(time / 10)),
            bytes: soft.bytes.map(tenth_more),
            packets: soft.packets.map(tenth_more),
        },
    };
    let lifetime = Lifetime { soft, hard };
    if let Some(kind) = soft_beyond_hard(&lifetime) {
        return fields.error("rekey", format!("the limit of {kind} is beyond that of `expire`"));
    }
    Some(lifetime)
}

/// Reads `proposals`; `None` when they are left out. Weak algorithms in them need to be allowed.
fn read_proposals(
    fields: &mut Fields<'_>,
    protocol: ProtocolId,
    allow_weak: &[Weak],
) -> Option<Vec<Proposal>> {
    fields.read("proposals", |node| {
        let proposals = node.each(|node| {
            let text = String::from_node(node)?;
            match Proposal::parse(&text, protocol) {
                Ok(proposal) => {
                    check_weak(node, proposal.weak(), allow_weak);
                    Some(proposal)
                }
                Err(error) => node.error(format!("in \"{text}\": {error}")),
            }
        })?;
        if proposals.is_empty() {
            return node.error("found an empty list, expected a proposal");
        }
        Some(proposals)
    })?
}

fn defaults(proposals: &[&str], protocol: ProtocolId) -> Vec<Proposal> {
    proposals.iter().filter_map(|text| Proposal::parse(text, protocol).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_proposals_are_valid() {
        let (esp, ah) = (ProtocolId::ESP, ProtocolId::AH);
        assert_eq!(defaults(&IKE_PROPOSALS, ProtocolId::IKE).len(), IKE_PROPOSALS.len());
        assert_eq!(defaults(&ESP_PROPOSALS, esp).len(), ESP_PROPOSALS.len());
        assert_eq!(defaults(&AH_PROPOSALS, ah).len(), AH_PROPOSALS.len());
    }
}
