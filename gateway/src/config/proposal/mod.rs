//! Proposals: which algorithms IKE or a Child SA may negotiate, as one string such as
//! `aes256gcm16-prfsha384-x25519` or `aes128gcm16-esn`.
//!
//! Algorithms of one kind are alternatives in order of preference. What they must have in common with each
//! other is checked here (RFC 7296 s3.3, RFC 5282 s8, RFC 9370 s2.2.1), so that a proposal that was parsed can
//! be sent as it is.

mod keywords;

use std::fmt;

use dataplane::sa::Protocol;

use super::node::nearest;
use keywords::{AH_GMAC, ALGORITHMS, ALIASES, ENCR_GMAC, ENCR_NULL, IMPLICIT_IV, REFUSED};
pub use keywords::{Algorithm, TransformType, Weak};

/// What a proposal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An IKE SA.
    Ike,
    /// A Child SA of ESP or AH.
    Child(Protocol),
}

/// One proposal, complete and consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    text: String,
    algorithms: Vec<Algorithm>,
}

impl Proposal {
    /// Parses a proposal.
    ///
    /// # Errors
    /// A message that names the word, what is wrong with it, and what would be accepted.
    pub fn parse(text: &str, purpose: Purpose) -> Result<Self, String> {
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for word in text.split('-') {
            let algorithm = algorithm(word, purpose)?;
            if algorithms.contains(&algorithm) {
                return Err(format!("`{word}` is there twice"));
            }
            algorithms.push(algorithm);
        }
        let mut proposal = Self { text: text.to_owned(), algorithms };
        match purpose {
            Purpose::Ike => proposal.complete_ike()?,
            Purpose::Child(Protocol::Esp) => proposal.check_esp()?,
            Purpose::Child(Protocol::Ah) => proposal.check_ah()?,
        }
        Ok(proposal)
    }

    /// The algorithms of one kind, in order of preference.
    pub fn of(&self, kind: TransformType) -> impl Iterator<Item = &Algorithm> {
        self.algorithms.iter().filter(move |algorithm| algorithm.kind == kind)
    }

    /// All algorithms. For IKE, a PRF that was left out stands last.
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    fn has(&self, kind: TransformType) -> bool {
        self.of(kind).next().is_some()
    }

    fn complete_ike(&mut self) -> Result<(), String> {
        self.check_encryption()?;
        // IANA's registry says "Not allowed" in its IKEv2 column for all of them.
        let barred = |a: &&Algorithm| matches!(a.id, ENCR_NULL | ENCR_GMAC) || IMPLICIT_IV.contains(&a.id);
        if let Some(cipher) = self.of(TransformType::Encryption).find(barred) {
            return Err(format!("`{}` is for ESP, not for IKE; use aes256gcm16", cipher.keyword));
        }
        if self.has(TransformType::Esn) {
            return Err("esn and noesn belong to a child's proposals, not to IKE's".to_owned());
        }
        if !self.has(TransformType::KeyExchange) {
            return Err("no key exchange (RFC 7296 s3.3.3); add one such as x25519 or ecp384".to_owned());
        }
        if !self.has(TransformType::Prf) {
            // As strongSwan does: the PRF is that of the integrity algorithm's hash.
            let derived: Vec<_> = self
                .of(TransformType::Integrity)
                .filter_map(|integrity| {
                    let prf = format!("prf{}", integrity.keyword);
                    ALGORITHMS.iter().find(|algorithm| algorithm.keyword == prf).copied()
                })
                .collect();
            if derived.is_empty() {
                return Err("no PRF (RFC 7296 s3.3.3); add one such as prfsha256 or prfsha384".to_owned());
            }
            self.algorithms.extend(derived);
        }
        Ok(())
    }

    fn check_esp(&self) -> Result<(), String> {
        self.check_encryption()?;
        self.check_child()
    }

    fn check_ah(&self) -> Result<(), String> {
        if let Some(cipher) = self.of(TransformType::Encryption).next() {
            return Err(format!("AH does not encrypt: `{}` has no place in it", cipher.keyword));
        }
        if !self.has(TransformType::Integrity) {
            return Err("no integrity algorithm; add one such as sha256".to_owned());
        }
        self.check_child()
    }

    fn check_child(&self) -> Result<(), String> {
        if let Some(prf) = self.of(TransformType::Prf).next() {
            return Err(format!("`{}` belongs to IKE's proposals: a Child SA has no PRF", prf.keyword));
        }
        self.check_additional()
    }

    /// Encryption with integrity, of one sort: a combined-mode algorithm and a cipher with an integrity
    /// algorithm cannot be alternatives in one proposal (RFC 5282 s8).
    fn check_encryption(&self) -> Result<(), String> {
        let combined = self.of(TransformType::Encryption).find(|algorithm| algorithm.combined);
        let separate = self.of(TransformType::Encryption).find(|algorithm| !algorithm.combined);
        let integrity = self.of(TransformType::Integrity).next();
        match (combined, separate, integrity) {
            (None, None, _) => Err("no encryption algorithm; add one such as aes128gcm16".to_owned()),
            (Some(aead), Some(cipher), _) => Err(format!(
                "`{}` and `{}` cannot be in one proposal (RFC 5282 s8); make two of it",
                aead.keyword, cipher.keyword
            )),
            (Some(aead), None, Some(integrity)) => {
                Err(format!("`{}` brings its own integrity; leave `{}` out", aead.keyword, integrity.keyword))
            }
            (None, Some(cipher), None) if cipher.id == ENCR_NULL => {
                Err("null encryption without integrity protects nothing; add sha256".to_owned())
            }
            (None, Some(cipher), None) => Err(format!(
                "encryption without integrity can be decrypted by an attacker (Paterson, Yau 2006; \
                 Degabriele, Paterson 2007); use {0}-sha256 or aes128gcm16",
                cipher.keyword
            )),
            (Some(_), None, None) | (None, Some(_), Some(_)) => Ok(()),
        }?;
        self.check_additional()
    }

    /// Additional key exchanges come on top of a first one (RFC 9370 s2.2.1).
    fn check_additional(&self) -> Result<(), String> {
        let additional =
            self.algorithms.iter().any(|a| matches!(a.kind, TransformType::AdditionalKeyExchange(_)));
        if additional && !self.has(TransformType::KeyExchange) {
            return Err("an additional key exchange needs a first one; add x25519 or ecp384".to_owned());
        }
        Ok(())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The algorithm that a word names.
fn algorithm(word: &str, purpose: Purpose) -> Result<Algorithm, String> {
    if word.is_empty() {
        return Err("an empty word between dashes".to_owned());
    }
    let (additional, name) = match additional(word) {
        Some((number, name)) => (Some(number), name),
        None => (None, word),
    };
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, keyword)| keyword);
    if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(format!("`{word}` is refused: {reason}"));
    }
    let table = match purpose {
        Purpose::Child(Protocol::Ah) => AH_GMAC,
        _ => &[],
    };
    let found = table.iter().chain(ALGORITHMS).find(|algorithm| algorithm.keyword == name).copied();
    match (found, additional) {
        (Some(algorithm), Some(number)) if algorithm.kind == TransformType::KeyExchange => {
            Ok(Algorithm { kind: TransformType::AdditionalKeyExchange(number), ..algorithm })
        }
        (Some(_), Some(_)) => Err(format!("`{word}`: only a key exchange can be an additional one")),
        (Some(algorithm), None) => Ok(algorithm),
        (None, _) => {
            let known = ALGORITHMS.iter().map(|algorithm| algorithm.keyword);
            let known = known.chain(ALIASES.iter().map(|(alias, _)| *alias));
            Err(match nearest(name, known) {
                Some(near) => format!("unknown algorithm `{word}`; did you mean `{near}`?"),
                None => format!("unknown algorithm `{word}`"),
            })
        }
    }
}

/// `ke1_mlkem768` is (1, `mlkem768`).
fn additional(word: &str) -> Option<(u8, &str)> {
    let (number, name) = word.strip_prefix("ke")?.split_once('_')?;
    let number = number.parse().ok().filter(|number| (1..=7).contains(number))?;
    Some((number, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESP: Purpose = Purpose::Child(Protocol::Esp);
    const AH: Purpose = Purpose::Child(Protocol::Ah);

    fn ids(text: &str, purpose: Purpose) -> Vec<(TransformType, u16, Option<u16>)> {
        let proposal = Proposal::parse(text, purpose).unwrap();
        proposal.algorithms().iter().map(|a| (a.kind, a.id, a.key_bits)).collect()
    }

    fn refused(text: &str, purpose: Purpose) -> String {
        Proposal::parse(text, purpose).unwrap_err()
    }

    #[test]
    fn words_become_transforms() {
        use TransformType::*;
        assert_eq!(
            ids("aes256gcm16-prfsha384-x25519-ke1_mlkem768", Purpose::Ike),
            [
                (Encryption, 20, Some(256)),
                (Prf, 6, None),
                (KeyExchange, 31, None),
                (AdditionalKeyExchange(1), 36, None)
            ]
        );
        assert_eq!(
            ids("aes128gcm-esn-noesn", ESP),
            [(Encryption, 20, Some(128)), (Esn, 1, None), (Esn, 0, None)]
        );
        assert_eq!(ids("aes128gmac", ESP), [(Encryption, 21, Some(128))]);
        assert_eq!(ids("aes128gmac", AH), [(Integrity, 9, None)]);
        assert_eq!(ids("null-sha256", ESP), [(Encryption, 11, None), (Integrity, 12, None)]);
    }

    #[test]
    fn the_prf_follows_the_integrity_algorithm_when_it_is_left_out() {
        let proposal = Proposal::parse("aes128-sha256-modp2048", Purpose::Ike).unwrap();
        assert_eq!(proposal.of(TransformType::Prf).map(|a| a.id).collect::<Vec<_>>(), [5]);
        assert_eq!(proposal.to_string(), "aes128-sha256-modp2048");
        assert!(refused("aes128gcm16-modp2048", Purpose::Ike).starts_with("no PRF"));
    }

    #[test]
    fn broken_algorithms_are_refused_with_the_reason() {
        for group in ["modp768", "modp1024", "modp1536"] {
            let message = refused(&format!("aes128-sha256-{group}"), Purpose::Ike);
            assert!(message.starts_with(&format!("`{group}` is refused: ")) && message.contains("Logjam"));
        }
        assert!(refused("aes128-sha256-modp1024s160", Purpose::Ike).contains("small subgroups"));
        assert!(refused("aes128-md5", ESP).contains("MD5 is broken"));
        assert!(refused("des-sha256", ESP).contains("56-bit"));
        assert!(refused("aes128gcm16-ke1_modp768-x25519", ESP).contains("Logjam"));
    }

    #[test]
    fn what_protects_nothing_or_half_is_refused() {
        assert!(refused("aes128", ESP).contains("Paterson"));
        assert!(refused("null", ESP).contains("protects nothing"));
        assert!(refused("sha256", ESP).contains("no encryption"));
        assert!(refused("null-sha256-prfsha256-x25519", Purpose::Ike).contains("for ESP, not for IKE"));
        assert!(refused("aes128gmac-prfsha256-x25519", Purpose::Ike).contains("for ESP, not for IKE"));
        assert!(refused("aes128gcm16iiv-prfsha256-x25519", Purpose::Ike).contains("for ESP, not for IKE"));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(refused("aes128gcm16-aes128-sha256", ESP).contains("make two of it"));
        assert!(refused("aes128gcm16-sha256", ESP).contains("leave `sha256` out"));
        assert!(refused("aes128-sha256", AH).contains("AH does not encrypt"));
        assert!(refused("esn", AH).contains("no integrity"));
        assert!(refused("aes128gcm16-prfsha256", ESP).contains("no PRF"));
        assert!(refused("aes128gcm16-prfsha256-x25519-esn", Purpose::Ike).contains("child's proposals"));
        assert!(refused("aes128gcm16-prfsha256", Purpose::Ike).contains("no key exchange"));
        assert!(refused("aes128gcm16-ke1_mlkem768", ESP).contains("needs a first one"));
        assert!(refused("aes128gcm16-ke1_sha256", ESP).contains("only a key exchange"));
        assert!(refused("aes128gcm16-aes128gcm16", ESP).contains("twice"));
        assert!(refused("aes128gcm16-", ESP).contains("empty word"));
    }

    #[test]
    fn slips_get_a_suggestion() {
        assert_eq!(
            refused("aes128cgm16", ESP),
            "unknown algorithm `aes128cgm16`; did you mean `aes128gcm16`?"
        );
        assert_eq!(refused("rot13", ESP), "unknown algorithm `rot13`");
    }
}
