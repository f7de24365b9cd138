//! The words of proposals: strongSwan's keywords, since operators know them, and IANA's transform IDs ("Internet Key
//! Exchange Version 2 (IKEv2) Parameters").

use crate::wire::{EncrId, EsnId, IntegId, KeId, PrfId, Transform, TransformType};

/// An algorithm that is used only when the configuration allows it by name.
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

    /// Of this transform, if any.
    pub(super) fn of(transform: &Transform) -> Option<Self> {
        match (transform.kind, transform.id) {
            (TransformType::ENCR, id) if id == EncrId::TRIPLE_DES.0 => Some(Self::TripleDes),
            (TransformType::PRF, id) if id == PrfId::HMAC_SHA1.0 => Some(Self::Sha1),
            (TransformType::INTEG, id) if id == IntegId::HMAC_SHA1_96.0 => Some(Self::Sha1),
            _ => None,
        }
    }
}

/// A word and its transform.
pub(super) type Word = (&'static str, Transform);

const fn encr(word: &'static str, id: EncrId, bits: u16) -> Word {
    let key_length = if bits == 0 { None } else { Some(bits) };
    (word, Transform { kind: TransformType::ENCR, id: id.0, key_length, unknown_attribute: None })
}

const fn plain(word: &'static str, kind: TransformType, id: u16) -> Word {
    (word, Transform { kind, id, key_length: None, unknown_attribute: None })
}

const fn integ(word: &'static str, id: IntegId) -> Word {
    plain(word, TransformType::INTEG, id.0)
}

const fn prf(word: &'static str, id: PrfId) -> Word {
    plain(word, TransformType::PRF, id.0)
}

const fn ke(word: &'static str, id: KeId) -> Word {
    plain(word, TransformType::KE, id.0)
}

/// Every word, the recommended ones of each kind first.
pub(super) const WORDS: &[Word] = &[
    encr("aes128gcm16", EncrId::AES_GCM_16, 128),
    encr("aes192gcm16", EncrId::AES_GCM_16, 192),
    encr("aes256gcm16", EncrId::AES_GCM_16, 256),
    encr("chacha20poly1305", EncrId::CHACHA20_POLY1305, 0),
    encr("aes128gcm12", EncrId::AES_GCM_12, 128),
    encr("aes192gcm12", EncrId::AES_GCM_12, 192),
    encr("aes256gcm12", EncrId::AES_GCM_12, 256),
    encr("aes128gcm8", EncrId::AES_GCM_8, 128),
    encr("aes192gcm8", EncrId::AES_GCM_8, 192),
    encr("aes256gcm8", EncrId::AES_GCM_8, 256),
    encr("aes128gcm16iiv", EncrId::AES_GCM_16_IIV, 128),
    encr("aes192gcm16iiv", EncrId::AES_GCM_16_IIV, 192),
    encr("aes256gcm16iiv", EncrId::AES_GCM_16_IIV, 256),
    encr("chacha20poly1305iiv", EncrId::CHACHA20_POLY1305_IIV, 0),
    encr("aes128gmac", EncrId::NULL_AUTH_AES_GMAC, 128),
    encr("aes192gmac", EncrId::NULL_AUTH_AES_GMAC, 192),
    encr("aes256gmac", EncrId::NULL_AUTH_AES_GMAC, 256),
    encr("aes128", EncrId::AES_CBC, 128),
    encr("aes192", EncrId::AES_CBC, 192),
    encr("aes256", EncrId::AES_CBC, 256),
    encr("aes128ctr", EncrId::AES_CTR, 128),
    encr("aes192ctr", EncrId::AES_CTR, 192),
    encr("aes256ctr", EncrId::AES_CTR, 256),
    encr("3des", EncrId::TRIPLE_DES, 0),
    encr("null", EncrId::NULL, 0),
    integ("sha256", IntegId::HMAC_SHA2_256_128),
    integ("sha384", IntegId::HMAC_SHA2_384_192),
    integ("sha512", IntegId::HMAC_SHA2_512_256),
    integ("aescmac", IntegId::AES_CMAC_96),
    integ("sha1", IntegId::HMAC_SHA1_96),
    prf("prfsha256", PrfId::HMAC_SHA2_256),
    prf("prfsha384", PrfId::HMAC_SHA2_384),
    prf("prfsha512", PrfId::HMAC_SHA2_512),
    prf("prfaescmac", PrfId::AES128_CMAC),
    prf("prfsha1", PrfId::HMAC_SHA1),
    ke("x25519", KeId::CURVE25519),
    ke("ecp256", KeId::ECP_256),
    ke("ecp384", KeId::ECP_384),
    ke("ecp521", KeId::ECP_521),
    ke("modp2048", KeId::MODP_2048),
    ke("modp3072", KeId::MODP_3072),
    ke("modp4096", KeId::MODP_4096),
    ke("modp6144", KeId::MODP_6144),
    ke("modp8192", KeId::MODP_8192),
    ke("mlkem512", KeId::ML_KEM_512),
    ke("mlkem768", KeId::ML_KEM_768),
    ke("mlkem1024", KeId::ML_KEM_1024),
    ke("none", KeId::NONE),
    plain("esn", TransformType::ESN, EsnId::ESN.0),
    plain("noesn", TransformType::ESN, EsnId::NO_ESN.0),
];

/// GMAC as an integrity algorithm, which it is in AH (RFC 4543 s4).
pub(super) const AH_WORDS: &[Word] = &[
    integ("aes128gmac", IntegId::AES_128_GMAC),
    integ("aes192gmac", IntegId::AES_192_GMAC),
    integ("aes256gmac", IntegId::AES_256_GMAC),
];

/// Other ways to write the same.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("aes", "aes128"),
    ("aes128cbc", "aes128"),
    ("aes192cbc", "aes192"),
    ("aes256cbc", "aes256"),
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
const SMALL_CURVE: &str = "curves of less than 256 bits are too weak (RFC 8247 s2.4); use ecp256 or x25519";
const MD5: &str = "MD5 is broken (RFC 8221 s6); use sha256";
const BLOCK64: &str = "it has 64-bit blocks and is in no current standard (RFC 8221 s5); use aes128gcm16";

/// Algorithms that are refused: the word, what it stands for on the wire where IANA has a number for it (all lengths of
/// key have one), and why.
pub(super) const REFUSED: &[(&str, TransformType, Option<u16>, &str)] = &[
    ("modp768", TransformType::KE, Some(1), SMALL_GROUP),
    ("modp1024", TransformType::KE, Some(2), SMALL_GROUP),
    ("modp1536", TransformType::KE, Some(5), SMALL_GROUP),
    ("modp1024s160", TransformType::KE, Some(22), SUBGROUPS),
    ("modp2048s224", TransformType::KE, Some(23), SUBGROUPS),
    ("modp2048s256", TransformType::KE, Some(24), SUBGROUPS),
    ("ecp192", TransformType::KE, Some(25), SMALL_CURVE),
    ("ecp224", TransformType::KE, Some(26), SMALL_CURVE),
    ("md5", TransformType::INTEG, Some(1), MD5),
    ("md5_128", TransformType::INTEG, Some(6), MD5),
    ("prfmd5", TransformType::PRF, Some(1), "MD5 is broken (RFC 8247 s2.2); use prfsha256"),
    (
        "des",
        TransformType::ENCR,
        Some(2),
        "its 56-bit keys are searched in a day (RFC 8221 s5); use aes128gcm16",
    ),
    ("blowfish", TransformType::ENCR, Some(7), BLOCK64),
    ("blowfish128", TransformType::ENCR, Some(7), BLOCK64),
    ("blowfish192", TransformType::ENCR, Some(7), BLOCK64),
    ("blowfish256", TransformType::ENCR, Some(7), BLOCK64),
    ("cast128", TransformType::ENCR, Some(6), BLOCK64),
    ("idea", TransformType::ENCR, Some(5), BLOCK64),
    ("sha256_96", TransformType::INTEG, None, "it truncates SHA-256 as no standard does; use sha256"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_means_one_thing() {
        let mut words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
        words.extend(ALIASES.iter().map(|(alias, _)| alias));
        words.extend(REFUSED.iter().map(|(word, ..)| word));
        words.sort_unstable();
        let count = words.len();
        words.dedup();
        assert_eq!(words.len(), count);
        for (alias, word) in ALIASES {
            assert!(WORDS.iter().any(|(known, _)| known == word), "{alias}");
        }
    }

    #[test]
    fn every_transform_has_one_word() {
        for (index, (word, transform)) in WORDS.iter().enumerate() {
            assert!(!WORDS[..index].iter().any(|(_, other)| other == transform), "{word}");
        }
    }
}
