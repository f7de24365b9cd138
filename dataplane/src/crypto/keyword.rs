//! Keywords of suites: strongSwan's, since operators know them.
//!
//! A combined mode is one word (`aes128gcm16`), cipher and integrity two (`aes128-sha256`), AH is the
//! integrity algorithm alone (`sha256`). What strongSwan has no word for gets its suffix: `iiv` is an implicit
//! IV (RFC 8750), as in `aes128gcm16iiv`. GMAC is the same word in ESP and AH in strongSwan; here AH's is
//! written `ah-aes128gmac`, so that a keyword names one suite.

use std::fmt;
use std::str::FromStr;

use super::suite::{AesKey, CombinationError, Encryption, GcmIcv, Integrity, Suite};

/// Why a keyword names no suite.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// No such algorithm; the nearest keyword of a suite, when one is near.
    #[error("unknown algorithm \"{found}\"{}", suggestion(nearest.as_deref()))]
    Unknown {
        /// The word.
        found: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// An algorithm that is broken, with what to use instead.
    #[error("\"{found}\" is refused: {reason}; use {instead}")]
    Refused {
        /// The word.
        found: String,
        /// Why.
        reason: &'static str,
        /// What to use instead.
        instead: &'static str,
    },
    /// The algorithms are known, but do not make a suite.
    #[error("\"{found}\": {reason}; use {instead}")]
    Combination {
        /// The whole keyword.
        found: String,
        /// Why not.
        reason: CombinationError,
        /// What to use instead.
        instead: String,
    },
}

impl FromStr for Suite {
    type Err = SuiteError;

    fn from_str(keyword: &str) -> Result<Self, SuiteError> {
        let lower = keyword.trim().to_ascii_lowercase();
        if let Some(key) = lower.strip_prefix("ah-").and_then(gmac) {
            return Ok(Self::ah(Integrity::AesGmac(key)));
        }
        let (first, second) = match lower.split_once('-') {
            Some((first, second)) => (first, Some(second)),
            None => (lower.as_str(), None),
        };
        let Some(encryption) = encryption(first) else {
            return match (integrity(first), second) {
                (Some(integrity), None) => Ok(Self::ah(integrity)),
                _ => Err(unknown(first, &lower)),
            };
        };
        let integrity = match second {
            Some(word) => Some(integrity(word).ok_or_else(|| unknown(word, &lower))?),
            None => None,
        };
        Self::esp(encryption, integrity).map_err(|reason| SuiteError::Combination {
            instead: match reason {
                CombinationError::TwoIntegrities => first.to_owned(),
                CombinationError::NoIntegrity => format!("{first}-sha256, or aes128gcm16"),
                CombinationError::Nothing | CombinationError::GmacBesideEncryption => {
                    "null-sha256, or aes128gmac".to_owned()
                }
            },
            found: lower.clone(),
            reason,
        })
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.encryption(), self.integrity()) {
            (Some(encryption), None) => write!(f, "{encryption}"),
            (Some(encryption), Some(integrity)) => write!(f, "{encryption}-{integrity}"),
            (None, Some(Integrity::AesGmac(key))) => write!(f, "ah-aes{}gmac", key.bits()),
            (None, Some(integrity)) => write!(f, "{integrity}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AesGcm(key, icv) => write!(f, "aes{}gcm{}", key.bits(), icv.bytes()),
            Self::AesGcmImplicitIv(key) => write!(f, "aes{}gcm16iiv", key.bits()),
            Self::ChaCha20Poly1305 => f.write_str("chacha20poly1305"),
            Self::ChaCha20Poly1305ImplicitIv => f.write_str("chacha20poly1305iiv"),
            Self::AesGmac(key) => write!(f, "aes{}gmac", key.bits()),
            Self::AesCbc(key) => write!(f, "aes{}", key.bits()),
            Self::TripleDesCbc => f.write_str("3des"),
            Self::Null => f.write_str("null"),
        }
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HmacSha1 => f.write_str("sha1"),
            Self::HmacSha256 => f.write_str("sha256"),
            Self::HmacSha384 => f.write_str("sha384"),
            Self::HmacSha512 => f.write_str("sha512"),
            Self::AesCmac => f.write_str("aescmac"),
            Self::AesXcbc => f.write_str("aesxcbc"),
            Self::AesGmac(key) => write!(f, "aes{}gmac", key.bits()),
        }
    }
}

fn encryption(word: &str) -> Option<Encryption> {
    match word {
        "null" => return Some(Encryption::Null),
        "3des" => return Some(Encryption::TripleDesCbc),
        "aes" => return Some(Encryption::AesCbc(AesKey::Aes128)),
        "chacha20poly1305" => return Some(Encryption::ChaCha20Poly1305),
        "chacha20poly1305iiv" => return Some(Encryption::ChaCha20Poly1305ImplicitIv),
        _ => {}
    }
    if let Some(key) = gmac(word) {
        return Some(Encryption::AesGmac(key));
    }
    let (key, mode) = aes(word)?;
    // The numbers are the ICV's bytes or bits; strongSwan takes both.
    match mode {
        "" => Some(Encryption::AesCbc(key)),
        "gcm8" | "gcm64" => Some(Encryption::AesGcm(key, GcmIcv::Icv8)),
        "gcm12" | "gcm96" => Some(Encryption::AesGcm(key, GcmIcv::Icv12)),
        "gcm16" | "gcm128" => Some(Encryption::AesGcm(key, GcmIcv::Icv16)),
        "gcm16iiv" => Some(Encryption::AesGcmImplicitIv(key)),
        _ => None,
    }
}

fn integrity(word: &str) -> Option<Integrity> {
    match word {
        "sha" | "sha1" => Some(Integrity::HmacSha1),
        "sha256" | "sha2_256" => Some(Integrity::HmacSha256),
        "sha384" | "sha2_384" => Some(Integrity::HmacSha384),
        "sha512" | "sha2_512" => Some(Integrity::HmacSha512),
        "aescmac" => Some(Integrity::AesCmac),
        "aesxcbc" => Some(Integrity::AesXcbc),
        _ => gmac(word).map(Integrity::AesGmac),
    }
}

fn gmac(word: &str) -> Option<AesKey> {
    match aes(word)? {
        (key, "gmac") => Some(key),
        _ => None,
    }
}

/// Key length, and what stands behind it.
fn aes(word: &str) -> Option<(AesKey, &str)> {
    AesKey::ALL.into_iter().find_map(|key| {
        let rest = word.strip_prefix("aes")?.strip_prefix(&key.bits().to_string())?;
        Some((key, rest))
    })
}

/// The error for a word that no algorithm has: refused by name, or a typing error.
fn unknown(word: &str, keyword: &str) -> SuiteError {
    let refused = |reason, instead| SuiteError::Refused { found: word.to_owned(), reason, instead };
    match word {
        "des" => refused("its 56-bit key is found by search in a day (RFC 8221 s5: MUST NOT)", "aes128gcm16"),
        "md5" | "md5_128" => refused("MD5 is broken (RFC 8221 s6: MUST NOT)", "sha256"),
        "none" | "noauth" => refused("a packet needs an ICV", "sha256"),
        "blowfish" | "cast128" | "idea" | "rc5" => {
            refused("it has 64-bit blocks and no users left (RFC 8221 s5)", "aes128gcm16")
        }
        _ => SuiteError::Unknown { found: word.to_owned(), nearest: nearest(keyword) },
    }
}

/// The nearest keyword that is near enough. What is weak is not suggested.
fn nearest(keyword: &str) -> Option<String> {
    let short = |suite: &Suite| {
        matches!(suite.encryption(), Some(Encryption::AesGcm(_, GcmIcv::Icv8 | GcmIcv::Icv12)))
    };
    Suite::all()
        .filter(|suite| !suite.needs_opt_in() && !short(suite))
        .map(|suite| suite.to_string())
        .map(|known| (strsim::damerau_levenshtein(keyword, &known), known))
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, _)| distance <= 3)
        .map(|(_, known)| known)
}

fn suggestion(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean \"{nearest}\"?"),
        None => "; try aes128gcm16, chacha20poly1305 or aes128-sha256".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(keyword: &str) -> Result<Suite, String> {
        keyword.parse().map_err(|error: SuiteError| error.to_string())
    }

    #[test]
    fn every_suite_reads_back() {
        let mut names = std::collections::BTreeSet::new();
        for suite in Suite::all() {
            assert_eq!(parse(&suite.to_string()), Ok(suite));
            assert!(names.insert(suite.to_string()), "{suite} twice");
        }
        assert_eq!(names.len(), 56);
    }

    #[test]
    fn other_spellings_of_strongswan_are_read() {
        for (other, canonical) in [
            ("aes256gcm128", "aes256gcm16"),
            ("aes128gcm96", "aes128gcm12"),
            ("aes192gcm64", "aes192gcm8"),
            ("aes-sha1", "aes128-sha1"),
            ("AES128-SHA2_256", "aes128-sha256"),
            (" 3des-sha ", "3des-sha1"),
            ("sha2_512", "sha512"),
        ] {
            assert_eq!(parse(other).map(|suite| suite.to_string()), Ok(canonical.to_owned()));
        }
    }

    #[test]
    fn encryption_without_integrity_cannot_be_said() {
        for cipher in ["aes128", "aes256", "3des", "aes"] {
            let error = parse(cipher).unwrap_err();
            assert!(error.contains("Paterson") && error.contains(&format!("{cipher}-sha256")), "{error}");
        }
        assert!(parse("null").unwrap_err().contains("protects nothing"));
        assert!(parse("aes128-none").unwrap_err().contains("needs an ICV"));
    }

    #[test]
    fn combined_modes_stand_alone() {
        let error = parse("aes128gcm16-sha256").unwrap_err();
        assert!(error.ends_with("use aes128gcm16"), "{error}");
        assert!(parse("aes128-aes128gmac").unwrap_err().contains("RFC 4543"));
        assert!(parse("ah-sha256").is_err());
    }

    #[test]
    fn broken_algorithms_are_refused_with_the_reason() {
        for (keyword, reason) in
            [("des-sha256", "56-bit"), ("aes128-md5", "MD5"), ("md5", "MD5"), ("blowfish-sha256", "64-bit")]
        {
            let error = parse(keyword).unwrap_err();
            assert!(error.contains("refused") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_typing_error_brings_the_nearest_keyword() {
        for (typed, meant) in [
            ("aes128gmc16", "aes128gcm16"),
            ("aes256gcm-16", "aes256gcm16"),
            ("aes128-sha265", "aes128-sha256"),
            ("chacha20-poly1305", "chacha20poly1305"),
            ("aes128gcm", "aes128gcm16"),
        ] {
            let error = parse(typed).unwrap_err();
            assert!(error.contains("did you mean"), "{typed}: {error}");
            assert!(error.contains(meant), "{typed}: {error}");
        }
        for nonsense in ["", "-", "rot13", "aes129", "aes128-", "aes128-sha256-esn", "sha256-aes128"] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
        assert!(parse("something").unwrap_err().contains("try aes128gcm16"));
    }
}
