//! IKE_SA_INIT: key exchange, nonces, and what both ends can do (RFC 7296 s1.2, s2.6, s2.7, s2.23).

mod initiator;
mod responder;
mod solving;

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::core::{Nat, Protection};
use super::{Core, Path};
use crate::auth::IntAuth;
use crate::crypto::kex::Deferred;
use crate::crypto::{CryptoError, Encr, Exchange, Hash, IkeKeys, IkeSuite, Integ, Prf, Secret, keys};
use crate::proposal::Chosen;
use crate::wire::{Notify, NotifyType, Payload};

pub(crate) use initiator::Sent;
pub(crate) use responder::{Answered, Refusal};
pub(crate) use solving::Solving;

/// Bytes of our nonces: at least half the key size of every PRF, and no fewer than 16 (RFC 7296 s2.10).
pub(super) const NONCE_LEN: usize = 32;

/// What the first exchange leaves for the ones that follow: both messages are covered by AUTH.
pub(crate) struct Transcript {
    pub ni: Vec<u8>,
    pub nr: Vec<u8>,
    /// The request, from the IKE header on (RFC 7296 s2.15, RealMessage1).
    pub request: Vec<u8>,
    /// The response (RealMessage2).
    pub response: Vec<u8>,
    /// The IKE_INTERMEDIATE exchanges since (RFC 9242 s3.3).
    pub int_auth: IntAuth,
}

/// What the peer announced.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerSupport {
    /// What it verifies (RFC 7427 s4); `None` when it knows only the older methods.
    pub hashes: Option<Vec<Hash>>,
    /// RFC 8784.
    pub ppk: bool,
    /// RFC 9242.
    pub intermediate: bool,
    /// RFC 7383.
    pub fragmentation: bool,
    /// RFC 6023.
    pub childless: bool,
    /// NAT traversal (RFC 7296 s2.23).
    pub nat_traversal: bool,
}

impl PeerSupport {
    fn of(payloads: &[Payload<'_>]) -> Self {
        let hashes = find_notify(payloads, NotifyType::SIGNATURE_HASH_ALGORITHMS).map(|notify| {
            let ids = notify.data.chunks_exact(2).filter_map(|id| id.try_into().ok());
            ids.filter_map(|id| Hash::from_iana(u16::from_be_bytes(id))).collect()
        });
        Self {
            hashes,
            ppk: find_notify(payloads, NotifyType::USE_PPK).is_some(),
            intermediate: find_notify(payloads, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some(),
            fragmentation: find_notify(payloads, NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).is_some(),
            childless: find_notify(payloads, NotifyType::CHILDLESS_IKEV2_SUPPORTED).is_some(),
            nat_traversal: find_notify(payloads, NotifyType::NAT_DETECTION_SOURCE_IP).is_some(),
        }
    }
}

/// The hashes that we verify (RFC 7427 s4).
fn hash_notify() -> Payload<'static> {
    let data: Vec<u8> = Hash::ANNOUNCED.iter().flat_map(|hash| hash.iana().to_be_bytes()).collect();
    Payload::Notify(Notify::new(NotifyType::SIGNATURE_HASH_ALGORITHMS, data))
}

/// The first notify of a type.
pub(crate) fn find_notify<'p, 'a>(payloads: &'p [Payload<'a>], kind: NotifyType) -> Option<&'p Notify<'a>> {
    notifies(payloads).find(|notify| notify.kind == kind)
}

/// All notifies.
pub(super) fn notifies<'p, 'a>(payloads: &'p [Payload<'a>]) -> impl Iterator<Item = &'p Notify<'a>> {
    payloads.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) => Some(notify),
        _ => None,
    })
}

/// The algorithms of an IKE SA. `None` cannot happen with a proposal of ours, which is checked when parsed.
pub(super) fn ike_suite(chosen: &Chosen) -> Option<IkeSuite> {
    let (encr, bits) = chosen.encr()?;
    let integ = match chosen.integ() {
        Some(id) => Some(Integ::from_iana(id.0)?),
        None => None,
    };
    let encr = Encr::from_iana(encr.0, bits)?;
    (encr.is_aead() == integ.is_none()).then_some(())?;
    Some(IkeSuite { encr, integ, prf: Prf::from_iana(chosen.prf()?.0)? })
}

/// A key exchange that was answered in IKE_SA_INIT. The shared secret and the keys are made when the peer sends something
/// encrypted, so that a spoofed request costs less.
pub(crate) struct Begun {
    suite: IkeSuite,
    ni: Vec<u8>,
    nr: Vec<u8>,
    exchange: Deferred,
}

impl Begun {
    /// Makes the keys.
    pub fn finish(self, core: &mut Core) -> Result<(), CryptoError> {
        let Self { suite, ni, nr, exchange } = self;
        protect(core, suite, &ni, &nr, &exchange.finish()?)
    }
}

/// Keys from the shared secret of the first key exchange (RFC 7296 s2.14).
fn protect(
    core: &mut Core,
    suite: IkeSuite,
    ni: &[u8],
    nr: &[u8],
    shared: &Secret,
) -> Result<(), CryptoError> {
    let (spi_i, spi_r) = core.spis();
    let exchange = Exchange { ni, nr, spi_i, spi_r };
    let seed = keys::skeyseed(suite.prf, &exchange, shared)?;
    let keys = IkeKeys::derive(&suite, &seed, &exchange)?;
    core.protection = Some(Protection::new(suite, &keys, core.initiator)?);
    Ok(())
}

/// `SHA-1(SPIi | SPIr | address | port)` (RFC 7296 s2.23). SHA-1 is what the RFC says, and it protects nothing.
pub(crate) fn nat_detection((spi_i, spi_r): (u64, u64), end: SocketAddr) -> Vec<u8> {
    let mut input = Vec::with_capacity(34);
    input.extend_from_slice(&spi_i.to_be_bytes());
    input.extend_from_slice(&spi_r.to_be_bytes());
    match end.ip() {
        IpAddr::V4(v4) => input.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => input.extend_from_slice(&v6.octets()),
    }
    input.extend_from_slice(&end.port().to_be_bytes());
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &input).as_ref().to_vec()
}

/// The two NAT detection notifies of a message from us. A false source hash makes the peer believe in a NAT,
/// so that it encapsulates.
pub(super) fn nat_notifies(path: &Path, spis: (u64, u64), forced: bool) -> [Payload<'static>; 2] {
    let mut source = nat_detection(spis, path.local);
    if forced {
        source.iter_mut().for_each(|byte| *byte = !*byte);
    }
    let destination = nat_detection(spis, path.remote);
    [
        Payload::Notify(Notify::new(NotifyType::NAT_DETECTION_SOURCE_IP, source)),
        Payload::Notify(Notify::new(NotifyType::NAT_DETECTION_DESTINATION_IP, destination)),
    ]
}

/// Compares the peer's hashes with the path that its message took. A peer that sends none has no NAT traversal.
pub(super) fn detect_nat(path: &Path, spis: (u64, u64), payloads: &[Payload<'_>], forced: bool) -> Nat {
    let mismatch = |kind, end| {
        let mut hashes = notifies(payloads).filter(|notify| notify.kind == kind).peekable();
        let expected = nat_detection(spis, end);
        hashes.peek().is_some() && !hashes.any(|notify| *notify.data == *expected)
    };
    Nat {
        remote: mismatch(NotifyType::NAT_DETECTION_SOURCE_IP, path.remote),
        local: mismatch(NotifyType::NAT_DETECTION_DESTINATION_IP, path.local),
        forced,
    }
}

/// Exactly one payload of each kind, as IKE_SA_INIT needs them.
pub(super) struct Essentials<'p, 'a> {
    pub sa: &'p [crate::wire::Proposal],
    pub ke: Option<&'p crate::wire::KeyExchange<'a>>,
    pub nonce: &'p [u8],
}

impl<'p, 'a> Essentials<'p, 'a> {
    /// `None` when SA or Nonce is missing, or one of them or KE is there twice.
    pub fn find(payloads: &'p [Payload<'a>]) -> Option<Self> {
        let (mut sa, mut ke, mut nonce) = (None, None, None);
        for payload in payloads {
            let twice = match payload {
                Payload::Sa(proposals) => sa.replace(proposals.as_slice()).is_some(),
                Payload::Ke(value) => ke.replace(value).is_some(),
                Payload::Nonce(value) => nonce.replace(value.as_ref()).is_some(),
                _ => false,
            };
            if twice {
                return None;
            }
        }
        Some(Self { sa: sa?, ke, nonce: nonce? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nat_detection_hash_covers_spis_address_and_port() {
        let end = "198.51.100.1:500".parse().unwrap();
        let hash = nat_detection((1, 2), end);
        assert_eq!(hash.len(), 20);
        let others = [
            nat_detection((1, 3), end),
            nat_detection((3, 2), end),
            nat_detection((1, 2), "198.51.100.2:500".parse().unwrap()),
            nat_detection((1, 2), "198.51.100.1:501".parse().unwrap()),
            nat_detection((1, 2), "[2001:db8::1]:500".parse().unwrap()),
        ];
        assert!(others.iter().all(|other| *other != hash));
    }

    #[test]
    fn essentials_are_there_once() {
        let nonce = || Payload::Nonce(vec![1; 16].into());
        assert!(Essentials::find(&[Payload::Sa(vec![]), nonce()]).is_some());
        assert!(Essentials::find(&[Payload::Sa(vec![])]).is_none());
        assert!(Essentials::find(&[nonce()]).is_none());
        assert!(Essentials::find(&[Payload::Sa(vec![]), nonce(), nonce()]).is_none());
    }
}
