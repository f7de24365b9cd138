//! From the section `connections` to the control plane's configuration.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use controlplane::auth::eap::{PeerConfig, PeerMethod, ServerConfig, ServerMethod};
use controlplane::auth::x509::{Revocation, read_pem};
use controlplane::auth::{Identity, LocalProof, RemoteProof, TrustStore};
use controlplane::config as core;
use controlplane::crypto::{RsaPadding, Secret, SigningKey};
use controlplane::selector::SelectorSpec;
use controlplane::wire::{ProtocolId, TrafficSelector};
use dataplane::policy::Selector;
use dataplane::sa::Protocol;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::config::{Auth, Child, Config, Connection, Encapsulation, OnDown, Start};

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
    let connections = config.connections.iter().map(|(name, one)| {
        connection(name, one).map(Arc::new).with_context(|| format!("connections.{name}"))
    });
    Ok(core::Config {
        connections: connections.collect::<Result<_>>()?,
        pools: config
            .pools
            .iter()
            .map(|(name, pool)| core::PoolConfig { name: name.as_str().into(), prefix: pool.0 })
            .collect(),
        retransmit: config.ike.retransmit,
        limits: config.ike.limits,
        log_keys: config.log.key_log.is_some(),
        first_tunnel,
        reserved_spis: config.manual_sas.values().map(|sa| sa.inbound.spi).collect(),
    })
}

fn connection(name: &str, connection: &Connection) -> Result<core::Connection> {
    let (local_auth, remote_auth) = proofs(&connection.auth, &connection.local.id).context("auth")?;
    let children = connection.children.iter().map(|(name, one)| Arc::new(child(name, one)));
    Ok(core::Connection {
        name: name.into(),
        local_addresses: connection.local.address.into_iter().collect(),
        remote: match connection.remote.address {
            Some(address) => core::RemoteAddress::Addresses(vec![address]),
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
        unique: true,
        pools: connection.pools.iter().map(|name| name.as_str().into()).collect(),
        dns: connection.dns.clone(),
        subnets: connection.subnets.clone(),
        request_addresses: Vec::new(),
        children: children.collect(),
    })
}

fn child(name: &str, child: &Child) -> core::ChildConfig {
    let protocol = match child.options.protocol {
        Protocol::Esp => ProtocolId::ESP,
        Protocol::Ah => ProtocolId::AH,
    };
    let rekey = child.lifetime.soft.time;
    let local = side(&child.selectors, |one| (one.local, &one.local_ports, one.protocol));
    core::ChildConfig {
        name: name.into(),
        protocol,
        mode: child.options.mode,
        local: if child.behind.is_empty() {
            local
        } else {
            child.behind.iter().map(|&net| net.into()).collect()
        },
        remote: side(&child.selectors, |one| (one.remote, &one.remote_ports, one.protocol)),
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

fn proofs(auth: &Auth, local_id: &Identity) -> Result<(LocalProof, RemoteProof)> {
    Ok(match auth {
        Auth::Psk(psk) => {
            let secret = Secret::copy_of(psk.expose());
            (LocalProof::Psk(secret.clone()), RemoteProof::Psk(secret))
        }
        Auth::Certificate { cert, key, ca, crl } => {
            (own_certificate(cert, key)?, authorities(ca, crl.as_deref())?)
        }
        Auth::EapUsers { cert, key, users } => {
            let methods = vec![ServerMethod::Mschapv2(users.clone())];
            let server = ServerConfig { name: local_id.to_string(), ask_identity: true, methods };
            (own_certificate(cert, key)?, RemoteProof::Eap(Arc::new(server)))
        }
        Auth::EapPassword { ca, user, password } => {
            let password = Secret::copy_of(password.expose());
            let methods = vec![PeerMethod::Mschapv2 { user: user.clone(), password }];
            let peer = PeerConfig { identity: user.clone(), methods };
            (LocalProof::Eap(Arc::new(peer)), authorities(ca, None)?)
        }
    })
}

fn own_certificate(cert: &Path, key: &Path) -> Result<LocalProof> {
    let chain = read_pem(&read(cert)?).with_context(|| cert.display().to_string())?;
    let pem = Zeroizing::new(read(key)?);
    let key_path = key.display();
    let key = SigningKey::from_pem(&pem).with_context(|| key_path.to_string())?;
    if chain.first().is_none_or(|first| first.public_key().spki() != key.public().spki()) {
        anyhow::bail!("{key_path} is not the key of the first certificate in {}", cert.display());
    }
    Ok(LocalProof::Certificate { key: Arc::new(key), chain: chain.into(), rsa: RsaPadding::default() })
}

fn authorities(ca: &Path, crl: Option<&Path>) -> Result<RemoteProof> {
    let mut trust = TrustStore::new(Revocation::IfKnown);
    trust.add_authorities_pem(&read(ca)?).with_context(|| ca.display().to_string())?;
    if let Some(crl) = crl {
        trust.add_crls(&read(crl)?).with_context(|| crl.display().to_string())?;
    }
    Ok(RemoteProof::Certificate(Arc::new(trust)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What a child holds back in the clear while it is not up: its selectors, or in transport mode all traffic
/// between the ends, where both are known.
pub(super) fn held(connection: &Connection, child: &Child) -> Vec<Selector> {
    // Where the peer's side is not known yet there is nothing to name; what nothing matches is discarded.
    if !child.selectors.is_empty() || !child.behind.is_empty() {
        return child.selectors.clone();
    }
    let host = |address: Option<IpAddr>| address.map(IpNet::from);
    let ends = host(connection.local.address).zip(host(connection.remote.address));
    ends.map(|(local, remote)| Selector::between(local, remote)).into_iter().collect()
}
