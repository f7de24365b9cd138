//! Proposals: what we offer, how one is chosen, and why none was (RFC 7296 s2.7, s3.3).
//!
//! As a responder we choose in the order of our own configuration, as strongSwan does by default: the operator
//! of this gateway decides what is best, and a peer's order is only a wish. A key exchange method that the
//! peer offered but did not send a value for then costs one INVALID_KE_PAYLOAD round trip.

mod explain;
mod keyword;
mod words;

use std::fmt;

use crate::wire::{self, EncrId, IntegId, KeId, PrfId, ProposalSpi, ProtocolId, Transform, TransformType};

pub use explain::NoMatch;
pub use keyword::ProposalError;
pub use words::Weak;

/// The transform types that are negotiated, in the order of the wire.
const TYPES: [TransformType; 12] = [
    TransformType::ENCR,
    TransformType::PRF,
    TransformType::INTEG,
    TransformType::KE,
    TransformType::ESN,
    TransformType::ADDKE1,
    TransformType::ADDKE2,
    TransformType::ADDKE3,
    TransformType::ADDKE4,
    TransformType::ADDKE5,
    TransformType::ADDKE6,
    TransformType::ADDKE7,
];

/// A proposal of the configuration: a protocol and the transforms that may be combined for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    protocol: ProtocolId,
    transforms: Vec<Transform>,
}

impl Proposal {
    /// Parses strongSwan's keywords for a protocol: see [`Proposal::ike`] and its siblings.
    ///
    /// # Errors
    /// A message that names the word, what is wrong with it, and what would be accepted.
    pub fn parse(keywords: &str, protocol: ProtocolId) -> Result<Self, ProposalError> {
        keyword::parse(keywords, protocol)
    }

    /// Parses strongSwan's keywords for an IKE SA, for example `aes256gcm16-prfsha384-x25519-ke1_mlkem768`.
    pub fn ike(keywords: &str) -> Result<Self, ProposalError> {
        keyword::parse(keywords, ProtocolId::IKE)
    }

    /// Parses strongSwan's keywords for an ESP SA, for example `aes128gcm16-esn`. A key exchange method in it
    /// is for perfect forward secrecy when the SA is rekeyed.
    pub fn esp(keywords: &str) -> Result<Self, ProposalError> {
        keyword::parse(keywords, ProtocolId::ESP)
    }

    /// Parses strongSwan's keywords for an AH SA, for example `sha256-esn`.
    pub fn ah(keywords: &str) -> Result<Self, ProposalError> {
        keyword::parse(keywords, ProtocolId::AH)
    }

    /// IKE, ESP or AH.
    pub fn protocol(&self) -> ProtocolId {
        self.protocol
    }

    /// What is weak in it, to be accepted only when the configuration allows it by name.
    pub fn weak(&self) -> impl Iterator<Item = Weak> {
        self.transforms.iter().filter_map(Weak::of)
    }

    /// The transforms of a type, in order of preference.
    pub fn of(&self, kind: TransformType) -> impl Iterator<Item = &Transform> {
        self.transforms.iter().filter(move |transform| transform.kind == kind)
    }

    /// The key exchange methods, in order of preference.
    pub fn key_exchanges(&self) -> impl Iterator<Item = KeId> {
        self.of(TransformType::KE).map(|transform| KeId(transform.id)).filter(|&id| id != KeId::NONE)
    }

    /// The same without key exchange: for the Child SA of IKE_AUTH (RFC 7296 s1.2: SK_d is its only key
    /// source), or when a rekey goes without perfect forward secrecy.
    pub fn without_key_exchange(&self) -> Self {
        let keep = |transform: &&Transform| !is_key_exchange(transform.kind);
        Self { protocol: self.protocol, transforms: self.transforms.iter().filter(keep).copied().collect() }
    }

    /// Additional key exchanges are possible or needed (RFC 9370).
    pub fn has_additional(&self) -> bool {
        let additional = |one: &Transform| one.kind != TransformType::KE && is_key_exchange(one.kind);
        self.transforms.iter().any(additional)
    }

    /// As it goes on the wire.
    fn to_wire(&self, number: u8, spi: ProposalSpi) -> wire::Proposal {
        wire::Proposal { number, protocol: self.protocol, spi, transforms: self.transforms.clone() }
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_wire(1, ProposalSpi::None).fmt(f)
    }
}

/// The proposals of an SA payload, numbered.
pub fn offer(ours: &[Proposal], spi: ProposalSpi) -> Vec<wire::Proposal> {
    (1..=u8::MAX).zip(ours).map(|(number, proposal)| proposal.to_wire(number, spi)).collect()
}

/// Proposals in words, for the log.
pub(crate) fn display(ours: &[Proposal]) -> String {
    ours.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The proposal to answer with, or that was answered: one transform of each type, the peer's number.
    /// Its SPI is the peer's.
    pub proposal: wire::Proposal,
}

impl Chosen {
    /// The transform of a type. NONE counts as none.
    fn get(&self, kind: TransformType) -> Option<&Transform> {
        self.proposal.transforms.iter().find(|transform| transform.kind == kind)
    }

    /// Encryption algorithm and its key length attribute.
    pub fn encr(&self) -> Option<(EncrId, Option<u16>)> {
        self.get(TransformType::ENCR).map(|transform| (EncrId(transform.id), transform.key_length))
    }

    /// Pseudorandom function.
    pub fn prf(&self) -> Option<PrfId> {
        self.get(TransformType::PRF).map(|transform| PrfId(transform.id))
    }

    /// Integrity algorithm; `None` with a combined-mode cipher.
    pub fn integ(&self) -> Option<IntegId> {
        self.get(TransformType::INTEG)
            .map(|transform| IntegId(transform.id))
            .filter(|&id| id != IntegId::NONE)
    }

    /// Key exchange method.
    pub fn ke(&self) -> Option<KeId> {
        self.get(TransformType::KE).map(|transform| KeId(transform.id)).filter(|&id| id != KeId::NONE)
    }

    /// Additional key exchange methods, in the order in which they are done (RFC 9370 s2.2.1: NONE is skipped).
    pub fn additional(&self) -> Vec<KeId> {
        let kinds = TransformType::ADDKE1.0..=TransformType::ADDKE7.0;
        kinds
            .filter_map(|kind| self.get(TransformType(kind)))
            .map(|transform| KeId(transform.id))
            .filter(|&id| id != KeId::NONE)
            .collect()
    }

    /// 64-bit sequence numbers.
    pub fn esn(&self) -> bool {
        self.get(TransformType::ESN).is_some_and(|transform| transform.id == wire::EsnId::ESN.0)
    }

    /// The answer: the chosen proposal with our SPI in it.
    pub fn answer(&self, spi: ProposalSpi) -> wire::Proposal {
        wire::Proposal { spi, ..self.proposal.clone() }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.proposal.fmt(f)
    }
}

/// Chooses among the peer's proposals as a responder: the first of ours that one of theirs allows, and in it
/// the first of our transforms of every type (RFC 7296 s2.7).
pub fn select(ours: &[Proposal], theirs: &[wire::Proposal]) -> Result<Chosen, Box<NoMatch>> {
    for our in ours {
        for their in theirs.iter().filter(|their| their.protocol == our.protocol) {
            if let Ok(transforms) = combine(our, their) {
                return Ok(Chosen { proposal: wire::Proposal { transforms, ..their.clone() } });
            }
        }
    }
    Err(Box::new(explain::explain(ours, theirs)))
}

/// Checks the one proposal of a response as an initiator (RFC 7296 s2.7, s3.3.6): it has the number of one of
/// ours, and takes exactly one transform of each type from it.
pub fn verify(ours: &[Proposal], theirs: &[wire::Proposal]) -> Result<Chosen, Box<NoMatch>> {
    let no_match = || Box::new(explain::explain(ours, theirs));
    let [their] = theirs else { return Err(no_match()) };
    let index = usize::from(their.number).checked_sub(1).ok_or_else(no_match)?;
    let our = ours.get(index).filter(|our| our.protocol == their.protocol).ok_or_else(no_match)?;
    let chosen = combine(our, their).map_err(|_| no_match())?;
    // `combine` picks one a type, so a response that names more than one of a type is longer.
    if chosen.len() != their.transforms.len() {
        return Err(no_match());
    }
    Ok(Chosen { proposal: wire::Proposal { transforms: chosen, ..their.clone() } })
}

/// One transform of each type that both proposals have, or the first type without a common one.
fn combine(our: &Proposal, their: &wire::Proposal) -> Result<Vec<Transform>, TransformType> {
    // RFC 7296 s3.3.6: a proposal with a transform type that we do not understand is unacceptable.
    if let Some(unknown) = their.transforms.iter().find(|transform| !TYPES.contains(&transform.kind)) {
        return Err(unknown.kind);
    }
    let mut chosen: Vec<Transform> = Vec::new();
    for kind in TYPES {
        match choose(our, their, kind, &chosen) {
            Choice::Transform(transform) => chosen.push(transform),
            Choice::Absent => {}
            Choice::Nothing => return Err(kind),
        }
    }
    Ok(chosen)
}

enum Choice {
    Transform(Transform),
    /// The type does not appear in the answer.
    Absent,
    Nothing,
}

fn choose(our: &Proposal, their: &wire::Proposal, kind: TransformType, so_far: &[Transform]) -> Choice {
    let theirs = || their.transforms.iter().filter(move |transform| transform.kind == kind);
    // RFC 7296 s3.3.6: a transform with an attribute that we do not understand is unacceptable.
    let offered = |wanted: &&Transform| theirs().any(|their| *their == **wanted);
    // RFC 9370 s2.2.2: no key exchange method is used twice.
    let fresh = |transform: &&Transform| {
        !is_key_exchange(kind)
            || transform.id == KeId::NONE.0
            || !so_far.iter().any(|before| is_key_exchange(before.kind) && before.id == transform.id)
    };
    // RFC 9370 s2.2.1: additional key exchanges come on top of a first one.
    let first = kind == TransformType::KE
        || !is_key_exchange(kind)
        || so_far.iter().any(|before| before.kind == TransformType::KE && before.id != KeId::NONE.0);
    let possible = |transform: &&Transform| first || transform.id == KeId::NONE.0;
    if let Some(transform) = our.of(kind).filter(fresh).filter(possible).find(offered) {
        return Choice::Transform(*transform);
    }
    // What we do not ask for may be declined by NONE where the type is optional; a missing type is the same.
    let optional = kind == TransformType::INTEG
        || is_key_exchange(kind) && kind != TransformType::KE
        || kind == TransformType::KE && our.protocol != ProtocolId::IKE;
    let none = Transform::new(kind, 0);
    let we_may_skip = our.of(kind).next().is_none() || our.of(kind).any(|transform| *transform == none);
    let they_may_skip = theirs().next().is_none() || theirs().any(|transform| *transform == none);
    if optional && we_may_skip && they_may_skip {
        return if theirs().next().is_none() { Choice::Absent } else { Choice::Transform(none) };
    }
    // Peers that leave ESN out mean 32-bit sequence numbers, though RFC 7296 s3.3.3 makes the type mandatory.
    let no_esn = Transform::new(TransformType::ESN, wire::EsnId::NO_ESN.0);
    if kind == TransformType::ESN && theirs().next().is_none() && our.of(kind).any(|ours| *ours == no_esn) {
        return Choice::Absent;
    }
    if our.of(kind).next().is_none() && theirs().next().is_none() { Choice::Absent } else { Choice::Nothing }
}

pub(crate) fn is_key_exchange(kind: TransformType) -> bool {
    kind == TransformType::KE || (TransformType::ADDKE1..=TransformType::ADDKE7).contains(&kind)
}

/// Key lengths of an encryption algorithm in bytes: key and salt, as they are cut from KEYMAT. `None` for an
/// algorithm or key length that no SA of ours uses.
pub fn encr_key_lengths(id: EncrId, bits: Option<u16>) -> Option<(usize, usize)> {
    let aes = || bits.filter(|bits| matches!(bits, 128 | 192 | 256)).map(|bits| usize::from(bits) / 8);
    Some(match id {
        EncrId::AES_CBC => (aes()?, 0),
        EncrId::AES_GCM_8 | EncrId::AES_GCM_12 | EncrId::AES_GCM_16 | EncrId::AES_GCM_16_IIV => (aes()?, 4),
        EncrId::AES_CTR | EncrId::NULL_AUTH_AES_GMAC => (aes()?, 4),
        EncrId::CHACHA20_POLY1305 | EncrId::CHACHA20_POLY1305_IIV if bits.is_none() => (32, 4),
        EncrId::TRIPLE_DES if bits.is_none() => (24, 0),
        EncrId::NULL if bits.is_none() => (0, 0),
        _ => return None,
    })
}

/// Key length of an integrity algorithm in bytes (RFC 4868 s2.1.1; GMAC in AH with its salt: RFC 4543 s5.4).
pub fn integ_key_length(id: IntegId) -> Option<usize> {
    Some(match id {
        IntegId::HMAC_SHA1_96 => 20,
        IntegId::AES_CMAC_96 => 16,
        IntegId::HMAC_SHA2_256_128 => 32,
        IntegId::HMAC_SHA2_384_192 => 48,
        IntegId::HMAC_SHA2_512_256 => 64,
        IntegId::AES_128_GMAC => 20,
        IntegId::AES_192_GMAC => 28,
        IntegId::AES_256_GMAC => 36,
        _ => return None,
    })
}

/// A cipher that brings its own integrity, so that no integrity algorithm goes with it (RFC 7296 s3.3).
pub fn is_combined(id: EncrId) -> bool {
    matches!(
        id,
        EncrId::AES_GCM_8
            | EncrId::AES_GCM_12
            | EncrId::AES_GCM_16
            | EncrId::AES_GCM_16_IIV
            | EncrId::NULL_AUTH_AES_GMAC
            | EncrId::CHACHA20_POLY1305
            | EncrId::CHACHA20_POLY1305_IIV
    )
}

#[cfg(test)]
mod tests;
