//! Configurations of the two ends, for each way to authenticate.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use controlplane::auth::{Certificate, IdPattern, Identity, LocalProof, RemoteProof, TrustStore};
use controlplane::config::{ChildConfig, Config, Connection, OnDown, RemoteAddress, Start};
use controlplane::crypto::{RsaPadding, Secret, SigningKey};
use controlplane::proposal::Proposal;
use controlplane::selector::SelectorSpec;
use controlplane::wire::ProtocolId;
use dataplane::sa::{Lifetime, Mode};
use ipnet::IpNet;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm,
};

/// Address of the end that answers.
pub const RESPONDER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const RESPONDER_NAME: &str = "gateway.example.net";
/// Of the ends that initiate, when their names do not matter.
const INITIATOR_NAME: &str = "peer.branches.example.net";
const INITIATORS: &str = "*.branches.example.net";

/// How the peers authenticate, and what the key exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Preshared key, X25519.
    Psk,
    /// Certificates with ECDSA P-256 keys, X25519.
    Ecdsa,
    /// Certificates with RSA-2048 keys, X25519.
    Rsa,
    /// Preshared key, X25519 and ML-KEM-768 in IKE_INTERMEDIATE.
    Hybrid,
}

impl Kind {
    /// Handshakes in a second of the responder's CPU that it should reach.
    pub fn goal(self) -> Option<f64> {
        match self {
            Self::Psk => Some(7_000.0),
            Self::Hybrid => Some(5_000.0),
            Self::Ecdsa | Self::Rsa => None,
        }
    }
}

/// What both ends have in common.
pub struct Plan {
    pub kind: Kind,
    /// The proposal of the IKE SA.
    pub keywords: String,
    proposal: Proposal,
    responder: Credentials,
    initiator: Credentials,
}

/// How one end proves who it is, and how the other verifies it.
struct Credentials {
    local: LocalProof,
    remote: RemoteProof,
}

impl Plan {
    /// With `ike` as encryption and PRF of the IKE SA; makes keys and certificates.
    ///
    /// # Errors
    /// When `ike` is no such thing.
    pub fn new(kind: Kind, ike: &str) -> anyhow::Result<Self> {
        let additional = if kind == Kind::Hybrid { "-ke1_mlkem768" } else { "" };
        let keywords = format!("{ike}-x25519{additional}");
        let proposal = Proposal::ike(&keywords).with_context(|| format!("--ike: {ike}"))?;
        let (responder, initiator) = match kind {
            Kind::Psk | Kind::Hybrid => (preshared(), preshared()),
            Kind::Ecdsa => certified(&PKCS_ECDSA_P256_SHA256)?,
            Kind::Rsa => certified(&PKCS_RSA_SHA256)?,
        };
        Ok(Self { kind, keywords, proposal, responder, initiator })
    }

    /// One connection for all peers.
    pub fn responder(&self) -> anyhow::Result<Config> {
        let connection = Connection {
            local_addresses: vec![RESPONDER.into()],
            remote: RemoteAddress::Any,
            local_id: Identity::parse(RESPONDER_NAME)?,
            remote_id: IdPattern::parse(INITIATORS)?,
            local_auth: self.responder.local.clone(),
            remote_auth: self.initiator.remote.clone(),
            children: vec![Arc::new(child("10.0.0.0/16", "10.128.0.0/9")?)],
            ..self.connection("branches")?
        };
        Ok(Config { connections: vec![Arc::new(connection)], ..Config::default() })
    }

    /// A connection to the responder for each of these peers, whose name is its number. They all have the same identity,
    /// since a certificate names one; or, with a preshared key, each its own.
    pub fn initiator(&self, peers: std::ops::Range<usize>, distinct: bool) -> anyhow::Result<Config> {
        let connection = |peer: usize| -> anyhow::Result<Arc<Connection>> {
            let (own, rest) = (format!("peer{peer}.branches.example.net"), &self.initiator);
            // A /28 each.
            let subnet = Ipv4Addr::from_bits(0x0a80_0000 | ((peer as u32) << 4 & 0x7f_ffff));
            Ok(Arc::new(Connection {
                local_addresses: vec![address(peer)],
                remote: RemoteAddress::Addresses(vec![RESPONDER.into()]),
                local_id: Identity::parse(if distinct { &own } else { INITIATOR_NAME })?,
                remote_id: IdPattern::parse(RESPONDER_NAME)?,
                local_auth: rest.local.clone(),
                remote_auth: self.responder.remote.clone(),
                children: vec![Arc::new(child(&format!("{subnet}/28"), "10.0.0.0/16")?)],
                ..self.connection(&peer.to_string())?
            }))
        };
        let connections = peers.map(connection).collect::<anyhow::Result<_>>()?;
        Ok(Config { connections, ..Config::default() })
    }

    /// Connections to a peer at this address, each from an identity of its own.
    pub fn towards(&self, local: IpAddr, peer: IpAddr, connections: usize) -> anyhow::Result<Config> {
        let mut config = self.initiator(0..connections, true)?;
        for connection in &mut config.connections {
            let connection = Arc::make_mut(connection);
            connection.local_addresses = vec![local];
            connection.remote = RemoteAddress::Addresses(vec![peer]);
            // Not every peer has 64-bit sequence numbers.
            for child in &mut connection.children {
                Arc::make_mut(child).proposals.push(Proposal::esp("aes128gcm16")?);
            }
        }
        Ok(config)
    }

    /// The end that answers them, at this address.
    #[cfg(test)]
    pub fn answering(&self, local: IpAddr) -> anyhow::Result<Config> {
        let mut config = self.responder()?;
        for connection in &mut config.connections {
            Arc::make_mut(connection).local_addresses = vec![local];
        }
        Ok(config)
    }

    /// What is the same at both ends; addresses, identities and children are for the caller to set.
    fn connection(&self, name: &str) -> anyhow::Result<Connection> {
        Ok(Connection {
            name: name.into(),
            local_addresses: Vec::new(),
            remote: RemoteAddress::Any,
            local_id: Identity::parse(RESPONDER_NAME)?,
            remote_id: IdPattern::Any,
            local_auth: self.responder.local.clone(),
            remote_auth: self.responder.remote.clone(),
            allow_sha1: false,
            ppk: None,
            proposals: vec![self.proposal.clone()],
            rekey: Some(Duration::from_secs(4 * 3600)),
            rekey_jitter: Duration::from_secs(600),
            reauth: None,
            mobike: false,
            dpd: Some(Duration::from_secs(30)),
            on_down: OnDown::Clear,
            fragmentation: true,
            fragment_size: 1280,
            force_encapsulation: false,
            start_on_4500: false,
            nat_keepalive: Duration::from_secs(20),
            childless: false,
            unique: false,
            pools: Vec::new(),
            dns: Vec::new(),
            subnets: Vec::new(),
            request_addresses: Vec::new(),
            children: Vec::new(),
        })
    }
}

/// Where a peer is: in 198.18.0.0/15 (RFC 2544).
fn address(peer: usize) -> IpAddr {
    Ipv4Addr::from_bits(0xc612_0000 | (peer as u32 & 0x1_ffff)).into()
}

fn child(local: &str, remote: &str) -> anyhow::Result<ChildConfig> {
    Ok(ChildConfig {
        name: "lan".into(),
        protocol: ProtocolId::ESP,
        mode: Mode::Tunnel,
        local: vec![SelectorSpec::from(local.parse::<IpNet>()?)],
        remote: vec![SelectorSpec::from(remote.parse::<IpNet>()?)],
        proposals: vec![Proposal::esp("aes128gcm16-esn")?],
        rekey: Some(Duration::from_secs(3600)),
        rekey_jitter: Duration::from_secs(300),
        lifetime: Lifetime::default(),
        grace: Duration::from_secs(5),
        start: Start::Wait,
    })
}

fn preshared() -> Credentials {
    let key = Secret::copy_of(b"a preshared key that everybody knows");
    Credentials { local: LocalProof::Psk(key.clone()), remote: RemoteProof::Psk(key) }
}

/// Certificates of one authority, with keys of this kind, as are the authority's.
fn certified(algorithm: &'static SignatureAlgorithm) -> anyhow::Result<(Credentials, Credentials)> {
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "Bench CA");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate_for(algorithm)?;
    let mut trust = TrustStore::default();
    trust.add_authority(Certificate::from_der(root.self_signed(&key)?.der())?)?;
    let (trust, issuer) = (Arc::new(trust), Issuer::new(root, key));
    let credentials = |name: &str| -> anyhow::Result<Credentials> {
        let key = KeyPair::generate_for(algorithm)?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
        let chain = Arc::from([Certificate::from_der(certificate.der())?]);
        let key = Arc::new(SigningKey::from_pem(key.serialize_pem().as_bytes())?);
        let local = LocalProof::Certificate { key, chain, rsa: RsaPadding::Pkcs1 };
        Ok(Credentials { local, remote: RemoteProof::Certificate(trust.clone()) })
    };
    Ok((credentials(RESPONDER_NAME)?, credentials(INITIATOR_NAME)?))
}
