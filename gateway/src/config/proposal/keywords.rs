//! The algorithms that a proposal can name: strongSwan's keywords, since operators know them, and IANA's
//! transform IDs ("Internet Key Exchange Version 2 (IKEv2) Parameters").

/// Kind of algorithm: the transform types of RFC 7296 s3.3.2 and RFC 9370 s2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransformType {
    /// Encryption (1).
    Encryption,
    /// Pseudorandom function (2).
    Prf,
    /// Integrity (3).
    Integrity,
    /// Key exchange (4).
    KeyExchange,
    /// Extended sequence numbers (5).
    Esn,
    /// Additional key exchange 1 to 7 (6 to 12, RFC 9370).
    AdditionalKeyExchange(u8),
}

/// An algorithm that is used only when `allow_weak` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weak {
    /// SHA-1.
    Sha1,
    /// 3DES.
    TripleDes,
}

impl Weak {
    /// As it is written in `allow_weak`.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::TripleDes => "3des",
        }
    }

    /// What is wrong with it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1 is broken for signatures and on its way out for HMAC (RFC 8221 s6)",
            Self::TripleDes => "3DES has 64-bit blocks: birthday attacks after some gigabytes (Sweet32)",
        }
    }
}

/// One algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    /// As it is written.
    pub keyword: &'static str,
    /// Kind. A key exchange counts as an additional one when it is written with `ke1_` to `ke7_`.
    pub kind: TransformType,
    /// IANA's transform ID.
    pub id: u16,
    /// Key length attribute (RFC 7296 s3.3.5) in bits, where the transform has one.
    pub key_bits: Option<u16>,
    /// Brings its own integrity: AEAD, or GMAC in ESP.
    pub combined: bool,
    /// Not to be used unless named.
    pub weak: Option<Weak>,
}

impl Algorithm {
    const fn new(keyword: &'static str, kind: TransformType, id: u16) -> Self {
        Self { keyword, kind, id, key_bits: None, combined: false, weak: None }
    }

    const fn cipher(keyword: &'static str, id: u16, key_bits: u16) -> Self {
        let key_bits = Some(key_bits);
        Self { keyword, kind: Encryption, id, key_bits, combined: false, weak: None }
    }

    const fn aead(keyword: &'static str, id: u16, key_bits: u16) -> Self {
        Self { combined: true, ..Self::cipher(keyword, id, key_bits) }
    }

    const fn weak(self, weak: Weak) -> Self {
        Self { weak: Some(weak), ..self }
    }
}

/// ENCR_NULL (RFC 2410).
pub(super) const ENCR_NULL: u16 = 11;
/// ENCR_NULL_AUTH_AES_GMAC (RFC 4543).
pub(super) const ENCR_GMAC: u16 = 21;
/// ENCR_AES_GCM_16_IIV and ENCR_CHACHA20_POLY1305_IIV (RFC 8750).
pub(super) const IMPLICIT_IV: [u16; 2] = [30, 31];

use TransformType::{Encryption, Esn, Integrity, KeyExchange, Prf};

/// Every algorithm, the recommended ones of each kind first.
pub(super) const ALGORITHMS: &[Algorithm] = &[
    Algorithm::aead("aes128gcm16", 20, 128),
    Algorithm::aead("aes192gcm16", 20, 192),
    Algorithm::aead("aes256gcm16", 20, 256),
    Algorithm { combined: true, ..Algorithm::new("chacha20poly1305", Encryption, 28) },
    Algorithm::aead("aes128gcm12", 19, 128),
    Algorithm::aead("aes192gcm12", 19, 192),
    Algorithm::aead("aes256gcm12", 19, 256),
    Algorithm::aead("aes128gcm8", 18, 128),
    Algorithm::aead("aes192gcm8", 18, 192),
    Algorithm::aead("aes256gcm8", 18, 256),
    Algorithm::aead("aes128gcm16iiv", 30, 128),
    Algorithm::aead("aes192gcm16iiv", 30, 192),
    Algorithm::aead("aes256gcm16iiv", 30, 256),
    Algorithm { combined: true, ..Algorithm::new("chacha20poly1305iiv", Encryption, 31) },
    Algorithm::aead("aes128gmac", ENCR_GMAC, 128),
    Algorithm::aead("aes192gmac", ENCR_GMAC, 192),
    Algorithm::aead("aes256gmac", ENCR_GMAC, 256),
    Algorithm::cipher("aes128", 12, 128),
    Algorithm::cipher("aes192", 12, 192),
    Algorithm::cipher("aes256", 12, 256),
    Algorithm::new("3des", Encryption, 3).weak(Weak::TripleDes),
    Algorithm::new("null", Encryption, ENCR_NULL),
    Algorithm::new("sha256", Integrity, 12),
    Algorithm::new("sha384", Integrity, 13),
    Algorithm::new("sha512", Integrity, 14),
    Algorithm::new("aescmac", Integrity, 8),
    Algorithm::new("sha1", Integrity, 2).weak(Weak::Sha1),
    Algorithm::new("prfsha256", Prf, 5),
    Algorithm::new("prfsha384", Prf, 6),
    Algorithm::new("prfsha512", Prf, 7),
    Algorithm::new("prfaescmac", Prf, 8),
    Algorithm::new("prfsha1", Prf, 2).weak(Weak::Sha1),
    Algorithm::new("x25519", KeyExchange, 31),
    Algorithm::new("ecp256", KeyExchange, 19),
    Algorithm::new("ecp384", KeyExchange, 20),
    Algorithm::new("ecp521", KeyExchange, 21),
    Algorithm::new("modp2048", KeyExchange, 14),
    Algorithm::new("modp3072", KeyExchange, 15),
    Algorithm::new("modp4096", KeyExchange, 16),
    Algorithm::new("modp6144", KeyExchange, 17),
    Algorithm::new("modp8192", KeyExchange, 18),
    Algorithm::new("mlkem512", KeyExchange, 35),
    Algorithm::new("mlkem768", KeyExchange, 36),
    Algorithm::new("mlkem1024", KeyExchange, 37),
    Algorithm::new("esn", Esn, 1),
    Algorithm::new("noesn", Esn, 0),
];

/// GMAC as an integrity algorithm, which it is in AH (RFC 4543 s4).
pub(super) const AH_GMAC: &[Algorithm] = &[
    Algorithm::new("aes128gmac", Integrity, 9),
    Algorithm::new("aes192gmac", Integrity, 10),
    Algorithm::new("aes256gmac", Integrity, 11),
];

/// Other ways to write the same.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("aes", "aes128"),
    ("aes128gcm", "aes128gcm16"),
    ("aes192gcm", "aes192gcm16"),
    ("aes256gcm", "aes256gcm16"),
    ("aes128gcm64", "aes128gcm8"),
    ("aes192gcm64", "aes192gcm8"),
    ("aes256gcm64", "aes256gcm8"),
    ("aes128gcm96", "aes128gcm12"),
    ("aes192gcm96", "aes192gcm12"),
    ("aes256gcm96", "aes256gcm12"),
    ("aes128gcm128", "aes128gcm16"),
    ("aes192gcm128", "aes192gcm16"),
    ("aes256gcm128", "aes256gcm16"),
    ("sha", "sha1"),
    ("sha2_256", "sha256"),
    ("sha2_384", "sha384"),
    ("sha2_512", "sha512"),
    ("curve25519", "x25519"),
];

const SMALL_GROUP: &str = "precomputation makes groups of 1024 bits and less readable (Logjam), and 1536 bits \
                           are next (RFC 8247 s2.4); use x25519, ecp256 or modp2048";
const SUBGROUPS: &str = "the origin of its prime is unknown and small subgroups weaken it (RFC 8247 s2.4); \
                         use modp3072 or ecp384";
const MD5: &str = "MD5 is broken (RFC 8221 s6); use sha256";
const BLOCK64: &str = "it has 64-bit blocks and is in no current standard (RFC 8221 s5); use aes128gcm16";

/// Algorithms that are refused, and why.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("modp768", SMALL_GROUP),
    ("modp1024", SMALL_GROUP),
    ("modp1536", SMALL_GROUP),
    ("modp1024s160", SUBGROUPS),
    ("modp2048s224", SUBGROUPS),
    ("modp2048s256", SUBGROUPS),
    ("md5", MD5),
    ("md5_128", MD5),
    ("prfmd5", "MD5 is broken (RFC 8247 s2.2); use prfsha256"),
    ("des", "its 56-bit keys are searched in a day (RFC 8221 s5); use aes128gcm16"),
    ("blowfish", BLOCK64),
    ("blowfish128", BLOCK64),
    ("blowfish192", BLOCK64),
    ("blowfish256", BLOCK64),
    ("cast128", BLOCK64),
    ("idea", BLOCK64),
    ("sha256_96", "it truncates SHA-256 as no standard does; use sha256"),
    ("none", "it leaves a proposal without that protection; leave the word out"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_means_one_thing() {
        let mut words: Vec<&str> = ALGORITHMS.iter().map(|algorithm| algorithm.keyword).collect();
        words.extend(ALIASES.iter().map(|(alias, _)| alias));
        words.extend(REFUSED.iter().map(|(word, _)| word));
        words.sort_unstable();
        let count = words.len();
        words.dedup();
        assert_eq!(words.len(), count);
        for (alias, keyword) in ALIASES {
            assert!(ALGORITHMS.iter().any(|algorithm| algorithm.keyword == *keyword), "{alias}");
        }
    }

    #[test]
    fn ids_are_unique_within_a_kind_and_key_length() {
        let mut ids: Vec<_> = ALGORITHMS.iter().map(|a| (a.kind, a.id, a.key_bits)).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
