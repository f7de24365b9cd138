//! From words to a proposal that can be sent as it is: what its algorithms must have in common with each other is
//! checked here (RFC 7296 s3.3, RFC 5282 s8, RFC 9370 s2.2.1).

use thiserror::Error;

use super::words::{AH_WORDS, ALIASES, REFUSED, WORDS};
use super::{Proposal, is_combined, is_key_exchange};
use crate::wire::{EncrId, EsnId, IntegId, PrfId, ProtocolId, Transform, TransformType};

/// Why a proposal of the configuration was refused: the word, what is wrong with it, and what would do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ProposalError(String);

fn refuse<T>(why: impl Into<String>) -> Result<T, ProposalError> {
    Err(ProposalError(why.into()))
}

/// Reads a proposal. Several algorithms of one type are alternatives, in order of preference.
pub(super) fn parse(text: &str, protocol: ProtocolId) -> Result<Proposal, ProposalError> {
    let mut transforms: Vec<Transform> = Vec::new();
    for word in text.split('-') {
        let transform = transform(word, protocol)?;
        if transforms.contains(&transform) {
            return refuse(format!("`{word}` is there twice"));
        }
        transforms.push(transform);
    }
    let mut proposal = Proposal { protocol, transforms };
    match protocol {
        ProtocolId::IKE => complete_ike(&mut proposal)?,
        ProtocolId::AH => check_ah(&proposal)?,
        _ => check_esp(&proposal)?,
    }
    if protocol != ProtocolId::IKE && !has(&proposal, TransformType::ESN) {
        // As strongSwan does.
        proposal.transforms.push(Transform::new(TransformType::ESN, EsnId::NO_ESN.0));
    }
    proposal.transforms.sort_by_key(|transform| transform.kind);
    Ok(proposal)
}

/// What a word stands for.
fn transform(word: &str, protocol: ProtocolId) -> Result<Transform, ProposalError> {
    if word.is_empty() {
        return refuse("an empty word between dashes");
    }
    let (additional, name) = match additional(word) {
        Some((kind, name)) => (Some(kind), name),
        None => (None, word),
    };
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, word)| word);
    if let Some((.., reason)) = REFUSED.iter().find(|(refused, ..)| *refused == name) {
        return refuse(format!("`{word}` is refused: {reason}"));
    }
    let own = if protocol == ProtocolId::AH { AH_WORDS } else { &[] };
    let found = own.iter().chain(WORDS).find(|(known, _)| *known == name).map(|&(_, transform)| transform);
    match (found, additional) {
        (Some(transform), Some(kind)) if transform.kind == TransformType::KE => {
            Ok(Transform { kind, ..transform })
        }
        (Some(_), Some(_)) => refuse(format!("`{word}`: only a key exchange can be an additional one")),
        (Some(transform), None) => Ok(transform),
        (None, _) => {
            let known = WORDS.iter().map(|(word, _)| *word).chain(ALIASES.iter().map(|(alias, _)| *alias));
            refuse(match nearest(name, known) {
                Some(near) => format!("unknown algorithm `{word}`; did you mean `{near}`?"),
                None => format!("unknown algorithm `{word}`"),
            })
        }
    }
}

/// `ke1_mlkem768` to `ke7_none` (RFC 9370; strongSwan 6's naming).
fn additional(word: &str) -> Option<(TransformType, &str)> {
    let (position, name) = word.strip_prefix("ke")?.split_once('_')?;
    let position: u8 = position.parse().ok().filter(|position| (1..=7).contains(position))?;
    Some((TransformType(TransformType::ADDKE1.0 - 1 + position), name))
}

/// The word that was probably meant, if one is near enough to be a slip of the hand.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|&(distance, known)| distance * 3 <= word.len().max(known.len()))
        .map(|(_, known)| known)
}

fn has(proposal: &Proposal, kind: TransformType) -> bool {
    proposal.of(kind).next().is_some()
}

fn complete_ike(proposal: &mut Proposal) -> Result<(), ProposalError> {
    check_encryption(proposal)?;
    // RFC 7296 s5: IKE always encrypts. RFC 8750 s4: implicit IV is for ESP.
    let barred =
        [EncrId::NULL, EncrId::NULL_AUTH_AES_GMAC, EncrId::AES_GCM_16_IIV, EncrId::CHACHA20_POLY1305_IIV];
    let is_barred = |one: &&Transform| barred.contains(&EncrId(one.id));
    if let Some(cipher) = proposal.of(TransformType::ENCR).find(is_barred) {
        return refuse(format!("`{}` is for ESP, not for IKE; use aes256gcm16", word_of(cipher)));
    }
    if has(proposal, TransformType::ESN) {
        return refuse("esn and noesn belong to a child's proposals, not to IKE's");
    }
    if proposal.key_exchanges().next().is_none() {
        return refuse("no key exchange (RFC 7296 s3.3.3); add one such as x25519 or ecp384");
    }
    proposal.transforms.retain(|transform| transform.kind != TransformType::KE || transform.id != 0);
    if !has(proposal, TransformType::PRF) {
        // As strongSwan does: the PRF is that of the integrity algorithm's hash.
        let implied: Vec<_> = proposal.of(TransformType::INTEG).filter_map(implied_prf).collect();
        if implied.is_empty() {
            return refuse("no PRF (RFC 7296 s3.3.3); add one such as prfsha256 or prfsha384");
        }
        proposal.transforms.extend(implied);
    }
    Ok(())
}

fn check_esp(proposal: &Proposal) -> Result<(), ProposalError> {
    check_encryption(proposal)?;
    if let Some(ctr) = proposal.of(TransformType::ENCR).find(|one| one.id == EncrId::AES_CTR.0) {
        return refuse(format!("`{}` is not offered for ESP; use aes128gcm16", word_of(ctr)));
    }
    check_child(proposal)
}

fn check_ah(proposal: &Proposal) -> Result<(), ProposalError> {
    if let Some(cipher) = proposal.of(TransformType::ENCR).next() {
        return refuse(format!("AH does not encrypt: `{}` has no place in it", word_of(cipher)));
    }
    if !has(proposal, TransformType::INTEG) {
        return refuse("no integrity algorithm; add one such as sha256");
    }
    check_child(proposal)
}

fn check_child(proposal: &Proposal) -> Result<(), ProposalError> {
    if let Some(prf) = proposal.of(TransformType::PRF).next() {
        return refuse(format!("`{}` belongs to IKE's proposals: a Child SA has no PRF", word_of(prf)));
    }
    check_additional(proposal)
}

/// Encryption with integrity, of one sort: a combined-mode algorithm and a cipher with an integrity algorithm cannot
/// be alternatives in one proposal (RFC 5282 s8), and encryption alone is open to attack.
fn check_encryption(proposal: &Proposal) -> Result<(), ProposalError> {
    let combined = |one: &&Transform| is_combined(EncrId(one.id));
    let aead = proposal.of(TransformType::ENCR).find(combined);
    let cipher = proposal.of(TransformType::ENCR).find(|one| !combined(one));
    let integrity = proposal.of(TransformType::INTEG).next();
    match (aead, cipher, integrity) {
        (None, None, _) => refuse("no encryption algorithm; add one such as aes128gcm16"),
        (Some(aead), Some(cipher), _) => refuse(format!(
            "`{}` and `{}` cannot be in one proposal (RFC 5282 s8); make two of it",
            word_of(aead),
            word_of(cipher)
        )),
        (Some(aead), None, Some(integrity)) => refuse(format!(
            "`{}` brings its own integrity; leave `{}` out",
            word_of(aead),
            word_of(integrity)
        )),
        (None, Some(cipher), None) if cipher.id == EncrId::NULL.0 => {
            refuse("null encryption without integrity protects nothing; add sha256")
        }
        (None, Some(cipher), None) => refuse(format!(
            "encryption without integrity can be decrypted by an attacker (Paterson, Yau 2006; \
             Degabriele, Paterson 2007); use {0}-sha256 or aes128gcm16",
            word_of(cipher)
        )),
        (Some(_), None, None) | (None, Some(_), Some(_)) => check_additional(proposal),
    }
}

/// Additional key exchanges come on top of a first one (RFC 9370 s2.2.1).
fn check_additional(proposal: &Proposal) -> Result<(), ProposalError> {
    let additional = |one: &Transform| is_key_exchange(one.kind) && one.kind != TransformType::KE;
    if proposal.transforms.iter().any(additional) && proposal.key_exchanges().next().is_none() {
        return refuse("an additional key exchange needs a first one; add x25519 or ecp384");
    }
    Ok(())
}

/// The word of a transform that a word was read for.
fn word_of(transform: &Transform) -> &'static str {
    let all = WORDS.iter().chain(AH_WORDS);
    all.into_iter().find(|(_, known)| known == transform).map_or("?", |(word, _)| word)
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
