//! From the section `connections` to the control plane's configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use controlplane::config as core;
use controlplane::crypto::Secret;
use controlplane::selector::SelectorSpec;
use controlplane::wire::{ProtocolId, TrafficSelector};
use dataplane::policy::Selector;
use dataplane::sa::Protocol;
use ipnet::IpNet;

use super::proofs::proofs;
use crate::config::MAX_SAS;
use crate::config::{Child, Config, Connection, Encapsulation, OnDown, OurProof, Start, TheirProof};

/// Rekeying starts earlier by up to this part of the time that is configured.
const JITTER: u32 = 10;
/// Packets that are under way on an old SA are accepted for so long.
const GRACE: Duration = Duration::from_secs(5);
/// IKE messages travel in IP packets of this size at most (RFC 7383 s2.5.1), which every IPv6 path carries.
const FRAGMENT_SIZE: usize = 1280;
/// RFC 3948 s4.
const NAT_KEEPALIVE: Duration = Duration::from_secs(20);

/// The control plane's configuration. Its tunnels start at `first_tunnel`.
///
/// # Errors
/// Files of certificates and keys that cannot be used.
pub(super) fn config(config: &Config, first_tunnel: u32) -> Result<core::Config> {
    let limits = config.ike.limits.flood;
    let connections = config.connections.iter().map(|(name, one)| {
        connection(name, one, limits).map(Arc::new).with_context(|| format!("connections.{name}"))
    });
    Ok(core::Config {
        connections: connections.collect::<Result<_>>()?,
        pools: config
            .pools
            .iter()
            .map(|(name, pool)| core::PoolConfig { name: name.as_str().into(), prefix: pool.0 })
            .collect(),
        retransmit: config.ike.retransmit,
        limits,
        peers: config.ike.limits.peers,
        log_keys: config.log.key_log.is_some(),
        first_tunnel,
        inbound_sas: MAX_SAS,
        reserved_spis: config.manual_sas.values().map(|sa| sa.inbound.spi).collect(),
    })
}

fn connection(name: &str, connection: &Connection, limits: core::FloodLimits) -> Result<core::Connection> {
    let (local_auth, remote_auth) = proofs(connection, limits.name_comparisons).context("auth")?;
    let children = connection.children.iter().map(|(name, one)| Arc::new(child(name, one)));
    Ok(core::Connection {
        name: name.into(),
        local_addresses: connection.local.addresses().collect(),
        remote: match connection.remote.address {
            Some(_) => core::RemoteAddress::Addresses(connection.remote.addresses().collect()),
            None => core::RemoteAddress::Any,
        },
        local_id: connection.local.id.clone(),
        remote_id: connection.remote.id.clone(),
        local_auth,
        remote_auth,
        allow_sha1: false,
        ppk: connection.ppk.as_ref().map(|ppk| core::Ppk {
            id: ppk.id.as_bytes().into(),
            secret: Secret::copy_of(ppk.secret.expose()),
            required: ppk.required,
        }),
        proposals: connection.ike.proposals.clone(),
        rekey: Some(connection.ike.rekey),
        rekey_jitter: connection.ike.rekey / JITTER,
        reauth: connection.ike.reauth,
        mobike: connection.ike.mobike,
        dpd: connection.ike.dpd,
        on_down: match connection.on_down {
            OnDown::Restart => core::OnDown::Restart,
            OnDown::Clear => core::OnDown::Clear,
        },
        fragmentation: true,
        fragment_size: FRAGMENT_SIZE,
        force_encapsulation: connection.ike.encapsulation == Encapsulation::Always,
        start_on_4500: false,
        nat_keepalive: NAT_KEEPALIVE,
        childless: false,
        // Who is nobody is not the same as another nobody (RFC 7619 s2.3).
        unique: !is_anonymous(connection),
        pools: connection.pools.iter().map(|name| name.as_str().into()).collect(),
        dns: connection.dns.clone(),
        subnets: connection.subnets.clone(),
        request_addresses: request_addresses(connection),
        children: children.collect(),
    })
}

/// One end, or both, prove nothing.
pub(super) fn is_anonymous(connection: &Connection) -> bool {
    matches!(connection.auth.ours, OurProof::Null) || matches!(connection.auth.theirs, TheirProof::Null)
}

/// Inner addresses to ask the peer for: one of each family that is behind it.
fn request_addresses(connection: &Connection) -> Vec<IpAddr> {
    let prefixes = || connection.children.values().flat_map(|child| &child.assigned);
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let wanted = |any: &IpAddr| prefixes().any(|prefix| prefix.addr().is_ipv4() == any.is_ipv4());
    any.into_iter().filter(wanted).collect()
}

fn child(name: &str, child: &Child) -> core::ChildConfig {
    let protocol = match child.options.protocol {
        Protocol::Esp => ProtocolId::ESP,
        Protocol::Ah => ProtocolId::AH,
    };
    let rekey = child.lifetime.soft.time;
    let prefixes = |prefixes: &[IpNet]| prefixes.iter().map(|&net| net.into()).collect();
    let local = side(&child.selectors, |one| (one.local, &one.local_ports, one.protocol));
    let remote = side(&child.selectors, |one| (one.remote, &one.remote_ports, one.protocol));
    core::ChildConfig {
        name: name.into(),
        protocol,
        mode: child.options.mode,
        local: if child.behind.is_empty() { local } else { prefixes(&child.behind) },
        remote: if child.assigned.is_empty() { remote } else { prefixes(&child.assigned) },
        proposals: child.proposals.clone(),
        rekey,
        rekey_jitter: rekey.unwrap_or_default() / JITTER,
        lifetime: child.lifetime,
        grace: GRACE,
        start: match child.start {
            Start::Boot => core::Start::Boot,
            Start::Traffic => core::Start::Traffic,
            Start::Wait => core::Start::Wait,
        },
    }
}

type Side<'a> = (IpNet, &'a std::ops::RangeInclusive<u16>, Option<u8>);

/// One side of the pairs of a child, each prefix once. Without pairs it is the host itself.
fn side(pairs: &[Selector], part: for<'a> fn(&'a Selector) -> Side<'a>) -> Vec<SelectorSpec> {
    let mut side: Vec<SelectorSpec> = Vec::new();
    for (prefix, ports, protocol) in pairs.iter().map(part) {
        let (start_port, end_port) = (*ports.start(), *ports.end());
        let protocol = protocol.unwrap_or(0);
        let spec = SelectorSpec::Fixed(TrafficSelector { protocol, start_port, end_port, ..prefix.into() });
        if !side.contains(&spec) {
            side.push(spec);
        }
    }
    if side.is_empty() { vec![SelectorSpec::DYNAMIC] } else { side }
}

/// What a child holds back in the clear while it is not up: its selectors, or in transport mode all traffic
/// between the ends, where both are known.
pub(super) fn held(connection: &Connection, child: &Child) -> Vec<Selector> {
    // Where one side is not known yet there is nothing to name; what nothing matches is discarded.
    if !(child.selectors.is_empty() && child.behind.is_empty() && child.assigned.is_empty()) {
        return child.selectors.clone();
    }
    let host = |address: Option<IpAddr>| address.map(IpNet::from);
    let ends = host(connection.local.address).zip(host(connection.remote.address));
    ends.map(|(local, remote)| Selector::between(local, remote)).into_iter().collect()
}
