//! strongSwan's proposal keywords.

use thiserror::Error;

use super::{Proposal, is_combined, is_key_exchange};
use crate::wire::{EncrId, EsnId, IntegId, KeId, PrfId, ProtocolId, Transform, TransformType};

/// Why a proposal of the configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposalError {
    /// A word that means nothing here.
    #[error("unknown algorithm `{keyword}` in proposal `{proposal}`{}", hint(.keyword))]
    Unknown {
        /// The word.
        keyword: String,
        /// All of the proposal.
        proposal: String,
    },
    /// An algorithm that Spillway does not use.
    #[error("`{keyword}` is refused: {reason}")]
    Refused {
        /// The word.
        keyword: String,
        /// Why.
        reason: &'static str,
    },
    /// Something that the protocol needs is not there.
    #[error("proposal `{proposal}` for {protocol} needs {missing}")]
    Missing {
        /// All of the proposal.
        proposal: String,
        /// The protocol.
        protocol: ProtocolId,
        /// What is missing.
        missing: &'static str,
    },
    /// Algorithms that do not go together.
    #[error("proposal `{proposal}`: {reason}")]
    Conflict {
        /// All of the proposal.
        proposal: String,
        /// Why.
        reason: &'static str,
    },
}

/// Reads a proposal. Several algorithms of one type are alternatives, in order of preference.
pub(super) fn parse(text: &str, protocol: ProtocolId) -> Result<Proposal, ProposalError> {
    let mut transforms: Vec<Transform> = Vec::new();
    for word in text.split('-') {
        let transform = lookup(word, text)?;
        if !transforms.contains(&transform) {
            transforms.push(transform);
        }
    }
    let mut proposal = Proposal { protocol, transforms };
    check_types(&proposal, text)?;
    check_integrity(&proposal, text)?;
    complete(&mut proposal, text)?;
    proposal.transforms.sort_by_key(|transform| transform.kind);
    Ok(proposal)
}

/// What is weak and allowed only because it is named.
pub(super) fn warnings(transforms: &[Transform]) -> Vec<&'static str> {
    let weak = |transform: &Transform| match (transform.kind, transform.id) {
        (TransformType::ENCR, id) if id == EncrId::TRIPLE_DES.0 => Some(
            "3des has 64-bit blocks: plaintext leaks after some gigabytes (Sweet32; RFC 8221 SHOULD NOT)",
        ),
        (TransformType::PRF, id) if id == PrfId::HMAC_SHA1.0 => Some("prfsha1 is old (RFC 8247 s2.2)"),
        (TransformType::INTEG, id) if id == IntegId::HMAC_SHA1_96.0 => Some("sha1 is old (RFC 8247 s2.3)"),
        (TransformType::ENCR, id) if id == EncrId::NULL.0 => Some("null does not encrypt"),
        (TransformType::ENCR, id) if id == EncrId::NULL_AUTH_AES_GMAC.0 => Some("aesgmac does not encrypt"),
        _ => None,
    };
    transforms.iter().filter_map(weak).collect()
}

fn lookup(word: &str, text: &str) -> Result<Transform, ProposalError> {
    let word = word.trim().to_ascii_lowercase();
    if let Some(reason) = refusal(&word) {
        return Err(ProposalError::Refused { keyword: word, reason });
    }
    additional(&word)
        .or_else(|| encr(&word))
        .or_else(|| integ(&word).map(|id| Transform::new(TransformType::INTEG, id.0)))
        .or_else(|| prf(&word).map(|id| Transform::new(TransformType::PRF, id.0)))
        .or_else(|| ke(&word).map(|id| Transform::new(TransformType::KE, id.0)))
        .or_else(|| esn(&word).map(|id| Transform::new(TransformType::ESN, id.0)))
        .ok_or_else(|| ProposalError::Unknown { keyword: word, proposal: text.into() })
}

/// `ke1_mlkem768` to `ke7_none` (RFC 9370; strongSwan 6's naming).
fn additional(word: &str) -> Option<Transform> {
    let (position, method) = word.strip_prefix("ke")?.split_once('_')?;
    let position: u8 = position.parse().ok().filter(|position| (1..=7).contains(position))?;
    Some(Transform::new(TransformType(TransformType::ADDKE1.0 - 1 + position), ke(method)?.0))
}

fn encr(word: &str) -> Option<Transform> {
    let (id, bits) = match word {
        "null" => (EncrId::NULL, None),
        "3des" => (EncrId::TRIPLE_DES, None),
        "chacha20poly1305" => (EncrId::CHACHA20_POLY1305, None),
        "chacha20poly1305iiv" => (EncrId::CHACHA20_POLY1305_IIV, None),
        "aes" => (EncrId::AES_CBC, Some(128)),
        _ => {
            let rest = word.strip_prefix("aes")?;
            let (bits, mode) = rest.split_at_checked(3)?;
            let bits: u16 = bits.parse().ok().filter(|bits| matches!(bits, 128 | 192 | 256))?;
            let id = match mode {
                "" | "cbc" => EncrId::AES_CBC,
                "ctr" => EncrId::AES_CTR,
                "gcm" | "gcm16" | "gcm128" => EncrId::AES_GCM_16,
                "gcm16iiv" => EncrId::AES_GCM_16_IIV,
                "gcm12" | "gcm96" => EncrId::AES_GCM_12,
                "gcm8" | "gcm64" => EncrId::AES_GCM_8,
                "gmac" => EncrId::NULL_AUTH_AES_GMAC,
                _ => return None,
            };
            (id, Some(bits))
        }
    };
    Some(Transform::encr(id, bits))
}

fn integ(word: &str) -> Option<IntegId> {
    Some(match word {
        "sha1" | "sha" => IntegId::HMAC_SHA1_96,
        "sha256" | "sha2_256" => IntegId::HMAC_SHA2_256_128,
        "sha384" | "sha2_384" => IntegId::HMAC_SHA2_384_192,
        "sha512" | "sha2_512" => IntegId::HMAC_SHA2_512_256,
        "aescmac" => IntegId::AES_CMAC_96,
        _ => return None,
    })
}

fn prf(word: &str) -> Option<PrfId> {
    Some(match word {
        "prfsha1" => PrfId::HMAC_SHA1,
        "prfsha256" => PrfId::HMAC_SHA2_256,
        "prfsha384" => PrfId::HMAC_SHA2_384,
        "prfsha512" => PrfId::HMAC_SHA2_512,
        "prfaescmac" => PrfId::AES128_CMAC,
        _ => return None,
    })
}

fn ke(word: &str) -> Option<KeId> {
    Some(match word {
        "none" => KeId::NONE,
        "modp2048" => KeId::MODP_2048,
        "modp3072" => KeId::MODP_3072,
        "modp4096" => KeId::MODP_4096,
        "modp6144" => KeId::MODP_6144,
        "modp8192" => KeId::MODP_8192,
        "ecp256" => KeId::ECP_256,
        "ecp384" => KeId::ECP_384,
        "ecp521" => KeId::ECP_521,
        "x25519" | "curve25519" => KeId::CURVE25519,
        "mlkem512" => KeId::ML_KEM_512,
        "mlkem768" => KeId::ML_KEM_768,
        "mlkem1024" => KeId::ML_KEM_1024,
        _ => return None,
    })
}

fn esn(word: &str) -> Option<EsnId> {
    match word {
        "esn" => Some(EsnId::ESN),
        "noesn" => Some(EsnId::NO_ESN),
        _ => None,
    }
}

/// Algorithms that strongSwan's users know, that we know too, and that we do not use.
fn refusal(word: &str) -> Option<&'static str> {
    let method =
        word.split_once('_').filter(|(position, _)| position.starts_with("ke")).map_or(word, |(_, ke)| ke);
    Some(match method {
        "modp768" => "768-bit MODP (group 1) is broken (Logjam; RFC 8247 s2.4 MUST NOT)",
        "modp1024" => "1024-bit MODP (group 2) is within reach of large attackers (Logjam; RFC 8247 s2.4)",
        "modp1536" => "1536-bit MODP (group 5) is too weak (RFC 8247 s2.4)",
        "modp1024s160" => "1024-bit MODP with a small subgroup (group 22) is broken (RFC 8247 s2.4 MUST NOT)",
        "modp2048s224" | "modp2048s256" => "MODP with a small subgroup of unknown origin (RFC 8247 s2.4)",
        "ecp192" | "ecp224" => "curves of less than 256 bits are too weak (RFC 8247 s2.4)",
        "des" => "DES has 56-bit keys (RFC 8247 s2.1 MUST NOT)",
        "md5" | "md5_128" | "prfmd5" => "MD5 is broken (RFC 8247 s2.2 and s2.3 MUST NOT)",
        "blowfish" | "blowfish128" | "blowfish192" | "blowfish256" | "cast128" => {
            "64-bit block ciphers leak plaintext after some gigabytes (Sweet32; RFC 8221)"
        }
        _ => return None,
    })
}

fn check_types(proposal: &Proposal, text: &str) -> Result<(), ProposalError> {
    let wrong = |kind: TransformType| match proposal.protocol {
        ProtocolId::IKE => kind == TransformType::ESN,
        ProtocolId::ESP => kind == TransformType::PRF,
        _ => matches!(kind, TransformType::PRF | TransformType::ENCR),
    };
    if proposal.transforms.iter().any(|transform| wrong(transform.kind)) {
        let reason = match proposal.protocol {
            ProtocolId::IKE => "esn and noesn are for ESP and AH",
            ProtocolId::ESP => "a PRF is for IKE only",
            _ => "AH takes an integrity algorithm, a key exchange method and esn, nothing else",
        };
        return Err(ProposalError::Conflict { proposal: text.into(), reason });
    }
    let only_ike = |transform: &Transform| {
        transform.kind == TransformType::ENCR
            && (transform.id == EncrId::NULL.0
                || transform.id == EncrId::NULL_AUTH_AES_GMAC.0
                || transform.id == EncrId::AES_GCM_16_IIV.0
                || transform.id == EncrId::CHACHA20_POLY1305_IIV.0)
    };
    if proposal.protocol == ProtocolId::IKE && proposal.transforms.iter().any(only_ike) {
        // RFC 7296 s5: IKE always encrypts. RFC 8750 s4: implicit IV is for ESP.
        let reason = "null, gmac and implicit IV are for ESP only";
        return Err(ProposalError::Conflict { proposal: text.into(), reason });
    }
    Ok(())
}

/// Encryption without integrity is refused (Paterson and Yau 2006, Degabriele and Paterson 2007), and a
/// combined-mode cipher goes without integrity algorithm (RFC 7296 s3.3).
fn check_integrity(proposal: &Proposal, text: &str) -> Result<(), ProposalError> {
    let conflict = |reason| Err(ProposalError::Conflict { proposal: text.into(), reason });
    let missing =
        |missing| Err(ProposalError::Missing { proposal: text.into(), protocol: proposal.protocol, missing });
    let has_integ = proposal.of(TransformType::INTEG).next().is_some();
    if proposal.protocol == ProtocolId::AH {
        return if has_integ { Ok(()) } else { missing("an integrity algorithm, for example sha256") };
    }
    let combined: Vec<bool> =
        proposal.of(TransformType::ENCR).map(|transform| is_combined(EncrId(transform.id))).collect();
    match (combined.iter().all(|&combined| combined), combined.iter().any(|&combined| combined)) {
        _ if combined.is_empty() => missing("an encryption algorithm, for example aes256gcm16"),
        (true, _) if has_integ => {
            conflict("a combined-mode cipher takes no integrity algorithm (for a PRF write prfsha256)")
        }
        (false, true) => conflict("combined-mode and other ciphers belong in two proposals (RFC 7296 s3.3)"),
        (false, false) if !has_integ => missing("an integrity algorithm: encryption alone is not safe"),
        _ => Ok(()),
    }
}

/// Fills in what strongSwan fills in: the PRF of the integrity algorithm, and noesn.
fn complete(proposal: &mut Proposal, text: &str) -> Result<(), ProposalError> {
    let missing =
        |protocol, missing| Err(ProposalError::Missing { proposal: text.into(), protocol, missing });
    let has = |proposal: &Proposal, kind| proposal.of(kind).next().is_some();
    if proposal.protocol == ProtocolId::IKE {
        if !has(proposal, TransformType::PRF) {
            let implied: Vec<_> = proposal.of(TransformType::INTEG).filter_map(implied_prf).collect();
            if implied.is_empty() {
                return missing(ProtocolId::IKE, "a PRF, for example prfsha384");
            }
            proposal.transforms.extend(implied);
        }
        if proposal.key_exchanges().next().is_none() {
            return missing(ProtocolId::IKE, "a key exchange method, for example x25519");
        }
        proposal.transforms.retain(|transform| transform.kind != TransformType::KE || transform.id != 0);
    } else if !has(proposal, TransformType::ESN) {
        proposal.transforms.push(Transform::new(TransformType::ESN, EsnId::NO_ESN.0));
    }
    let additional =
        |transform: &&Transform| is_key_exchange(transform.kind) && transform.kind != TransformType::KE;
    if proposal.transforms.iter().any(|transform| additional(&transform)) && !has(proposal, TransformType::KE)
    {
        return missing(
            proposal.protocol,
            "a first key exchange before the additional ones (RFC 9370 s2.2.1)",
        );
    }
    Ok(())
}

fn implied_prf(integ: &Transform) -> Option<Transform> {
    let prf = match IntegId(integ.id) {
        IntegId::HMAC_SHA1_96 => PrfId::HMAC_SHA1,
        IntegId::HMAC_SHA2_256_128 => PrfId::HMAC_SHA2_256,
        IntegId::HMAC_SHA2_384_192 => PrfId::HMAC_SHA2_384,
        IntegId::HMAC_SHA2_512_256 => PrfId::HMAC_SHA2_512,
        IntegId::AES_CMAC_96 => PrfId::AES128_CMAC,
        _ => return None,
    };
    Some(Transform::new(TransformType::PRF, prf.0))
}

/// A word that is known with another spelling.
fn hint(keyword: &str) -> String {
    let known = ["aes256gcm16", "sha256", "prfsha256", "x25519", "ecp256", "modp2048", "ke1_mlkem768", "esn"];
    format!(
        " (known are for example {})",
        known.iter().filter(|known| **known != keyword).copied().collect::<Vec<_>>().join(", ")
    )
}
