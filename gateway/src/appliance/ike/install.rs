//! From a negotiated Child SA to SAs of the data plane.

use std::sync::Arc;

use anyhow::{Context, Result};
use controlplane::update::{ChildInstall, ChildSuite, DirectionKeys};
use controlplane::wire::{EncrId, IntegId, ProtocolId};
use dataplane::clock;
use dataplane::crypto::suite::{AesKey, Encryption, GcmIcv, Integrity, Suite};
use dataplane::crypto::{Crypto, KeyMaterial};
use dataplane::sa::{InboundSa, Lifetime, OutboundSa, Protocol, SaParams};

use crate::config::SaOptions;

/// Limits of bytes and packets are lowered by a random part of them, one in so many at most, so that both ends
/// seldom rekey at once.
const JITTER: u64 = 10;

/// The inbound SA.
///
/// # Errors
/// Algorithms that the data plane does not have, which no proposal of ours offers.
pub(super) fn inbound(
    install: &ChildInstall,
    options: &SaOptions,
    crypto: &Crypto,
) -> Result<Arc<InboundSa>> {
    let window = options.replay_window.unwrap_or(0);
    InboundSa::new(
        crypto,
        params(install, options)?,
        install.spi,
        &install.selectors,
        install.endpoints,
        window,
        &material(&install.keys),
        clock::now(),
    )
    .context("inbound SA")
}

/// The outbound SA.
///
/// # Errors
/// As [`inbound`].
pub(super) fn outbound(
    install: &ChildInstall,
    options: &SaOptions,
    crypto: &Crypto,
) -> Result<Arc<OutboundSa>> {
    let (params, key) = (params(install, options)?, material(&install.keys));
    OutboundSa::new(crypto, params, install.spi, options.outbound.clone(), &key, clock::now())
        .context("outbound SA")
}

fn params(install: &ChildInstall, options: &SaOptions) -> Result<SaParams> {
    let protocol = if install.suite.protocol == ProtocolId::AH { Protocol::Ah } else { Protocol::Esp };
    Ok(SaParams {
        tunnel: install.tunnel,
        protocol,
        mode: install.mode,
        suite: suite(&install.suite)?,
        esn: install.suite.esn,
        lifetime: jittered(install.child.lifetime),
        ecn: options.ecn,
    })
}

/// The control plane keeps the soft limit of time itself, with a jitter of its own.
fn jittered(mut lifetime: Lifetime) -> Lifetime {
    let mut dice = [0; 8];
    // A refused draw means no jitter, and a collision is resolved anyway (RFC 7296 s2.8.1).
    let _ = aws_lc_rs::rand::fill(&mut dice);
    let dice = u64::from_ne_bytes(dice);
    let lower = |limit: u64| limit - (dice % (limit / JITTER).max(1));
    lifetime.soft.time = None;
    lifetime.soft.bytes = lifetime.soft.bytes.map(lower);
    lifetime.soft.packets = lifetime.soft.packets.map(lower);
    lifetime
}

/// Key material in the data plane's order: encryption key, integrity key, salt. Only a combined mode has a salt, and
/// it has no integrity key; GMAC in AH has its salt behind the key already.
fn material(keys: &DirectionKeys) -> KeyMaterial {
    let mut bytes = Vec::with_capacity(keys.encr.len() + keys.integ.len());
    bytes.extend_from_slice(keys.encr.expose());
    bytes.extend_from_slice(keys.integ.expose());
    KeyMaterial::new(bytes)
}

fn suite(negotiated: &ChildSuite) -> Result<Suite> {
    let integrity = negotiated.integ.filter(|&id| id != IntegId::NONE);
    let integrity = integrity.map(|id| integrity_of(id).with_context(|| format!("integrity algorithm {id}")));
    let integrity = integrity.transpose()?;
    match negotiated.encr {
        Some((id, bits)) => {
            let encryption = encryption_of(id, bits).with_context(|| format!("encryption algorithm {id}"))?;
            Ok(Suite::esp(encryption, integrity)?)
        }
        None => Ok(Suite::ah(integrity.context("AH without an integrity algorithm")?)),
    }
}

fn encryption_of(id: EncrId, bits: Option<u16>) -> Option<Encryption> {
    let aes = || match bits {
        Some(128) => Some(AesKey::Aes128),
        Some(192) => Some(AesKey::Aes192),
        Some(256) => Some(AesKey::Aes256),
        _ => None,
    };
    Some(match id {
        EncrId::AES_GCM_16 => Encryption::AesGcm(aes()?, GcmIcv::Icv16),
        EncrId::AES_GCM_12 => Encryption::AesGcm(aes()?, GcmIcv::Icv12),
        EncrId::AES_GCM_8 => Encryption::AesGcm(aes()?, GcmIcv::Icv8),
        EncrId::AES_GCM_16_IIV => Encryption::AesGcmImplicitIv(aes()?),
        EncrId::CHACHA20_POLY1305 => Encryption::ChaCha20Poly1305,
        EncrId::CHACHA20_POLY1305_IIV => Encryption::ChaCha20Poly1305ImplicitIv,
        EncrId::NULL_AUTH_AES_GMAC => Encryption::AesGmac(aes()?),
        EncrId::AES_CBC => Encryption::AesCbc(aes()?),
        EncrId::TRIPLE_DES => Encryption::TripleDesCbc,
        EncrId::NULL => Encryption::Null,
        _ => return None,
    })
}

fn integrity_of(id: IntegId) -> Option<Integrity> {
    Some(match id {
        IntegId::HMAC_SHA1_96 => Integrity::HmacSha1,
        IntegId::HMAC_SHA2_256_128 => Integrity::HmacSha256,
        IntegId::HMAC_SHA2_384_192 => Integrity::HmacSha384,
        IntegId::HMAC_SHA2_512_256 => Integrity::HmacSha512,
        IntegId::AES_CMAC_96 => Integrity::AesCmac,
        IntegId::AES_128_GMAC => Integrity::AesGmac(AesKey::Aes128),
        IntegId::AES_192_GMAC => Integrity::AesGmac(AesKey::Aes192),
        IntegId::AES_256_GMAC => Integrity::AesGmac(AesKey::Aes256),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use controlplane::crypto::Secret;
    use controlplane::proposal;
    use dataplane::sa::Limits;

    use super::*;

    /// Every algorithm that can be negotiated, and the length of its key material as the control plane cuts it.
    #[test]
    fn every_algorithm_of_a_proposal_makes_a_suite_with_keys_of_its_length() {
        let ciphers = [
            (EncrId::AES_GCM_16, Some(128), None),
            (EncrId::AES_GCM_16, Some(256), None),
            (EncrId::AES_GCM_12, Some(192), None),
            (EncrId::AES_GCM_8, Some(128), None),
            (EncrId::AES_GCM_16_IIV, Some(256), None),
            (EncrId::CHACHA20_POLY1305, None, None),
            (EncrId::CHACHA20_POLY1305_IIV, None, None),
            (EncrId::NULL_AUTH_AES_GMAC, Some(128), None),
            (EncrId::AES_CBC, Some(128), Some(IntegId::HMAC_SHA2_256_128)),
            (EncrId::AES_CBC, Some(256), Some(IntegId::HMAC_SHA2_512_256)),
            (EncrId::TRIPLE_DES, None, Some(IntegId::HMAC_SHA1_96)),
            (EncrId::NULL, None, Some(IntegId::AES_CMAC_96)),
        ];
        let esp = ciphers.map(|(id, bits, integ)| (ProtocolId::ESP, Some((id, bits)), integ));
        let ah = [IntegId::HMAC_SHA2_384_192, IntegId::AES_256_GMAC];
        let ah = ah.map(|integ| (ProtocolId::AH, None, Some(integ)));
        for (protocol, encr, integ) in esp.into_iter().chain(ah) {
            let negotiated = ChildSuite { protocol, encr, integ, esn: true };
            let suite = suite(&negotiated).unwrap();
            let encr_len = encr.map_or(0, |(id, bits)| {
                let (key, salt) = proposal::encr_key_lengths(id, bits).unwrap();
                key + salt
            });
            let integ_len = integ.map_or(0, |id| proposal::integ_key_length(id).unwrap());
            let keys = DirectionKeys { encr: Secret::zeroed(encr_len), integ: Secret::zeroed(integ_len) };
            assert_eq!(material(&keys).expose().len(), suite.key_len(), "{suite}");
            assert_eq!(suite.is_ah(), protocol == ProtocolId::AH, "{suite}");
        }
    }

    #[test]
    fn soft_limits_come_early_and_hard_ones_stay() {
        let limits =
            Limits { time: Some(Duration::from_secs(60)), bytes: Some(1_000_000), packets: Some(1_000) };
        let lifetime = Lifetime { soft: limits, hard: limits };
        let draws: Vec<_> = (0..64).map(|_| jittered(lifetime)).collect();
        for drawn in &draws {
            assert_eq!((drawn.hard, drawn.soft.time), (limits, None));
            assert!((900_000..=1_000_000).contains(&drawn.soft.bytes.unwrap()), "{drawn:?}");
            assert!((900..=1_000).contains(&drawn.soft.packets.unwrap()), "{drawn:?}");
        }
        assert!(draws.iter().any(|drawn| drawn.soft.bytes != draws[0].soft.bytes));
        let tiny = Limits { packets: Some(1), ..Limits::default() };
        assert_eq!(jittered(Lifetime { soft: tiny, hard: tiny }).soft.packets, Some(1));
    }
}
