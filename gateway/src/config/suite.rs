//! The suite of a manual SA: one keyword such as `aes128gcm16`, `aes256-sha256` or, for AH, `sha256`.
//!
//! The keywords are those of the data plane's suites: a combined mode is one word, cipher and integrity two,
//! AH is the integrity algorithm alone, and AH's GMAC is `ah-aes128gmac`.

use std::fmt;

use dataplane::sa::Protocol;

use super::proposal::{Algorithm, Proposal, Purpose, TransformType, Weak};

/// Algorithms of a manual SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    protocol: Protocol,
    encryption: Option<Algorithm>,
    integrity: Option<Algorithm>,
}

/// Lengths of a suite's keys in bytes, in the order in which a key file has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLayout {
    /// Encryption key.
    pub encryption: usize,
    /// Integrity key.
    pub integrity: usize,
    /// Salt, the constant part of the nonce.
    pub salt: usize,
}

impl Suite {
    /// Parses a keyword.
    ///
    /// # Errors
    /// A message that says what is wrong and what would be accepted.
    pub fn parse(keyword: &str, protocol: Protocol) -> Result<Self, String> {
        let (words, ah) = match keyword.strip_prefix("ah-") {
            Some(words) => (words, true),
            None => (keyword, false),
        };
        if ah && protocol == Protocol::Esp {
            return Err(format!("`{keyword}` is for AH; for ESP it is `{words}`"));
        }
        let proposal = Proposal::parse(words, Purpose::Child(protocol))?;
        let one = |kind| match proposal.of(kind).collect::<Vec<_>>().as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(**one)),
            [first, second, ..] => {
                Err(format!("a manual SA has one suite: `{}` or `{}`", first.keyword, second.keyword))
            }
        };
        let encryption = one(TransformType::Encryption)?;
        let integrity = one(TransformType::Integrity)?;
        let known = encryption.iter().count() + integrity.iter().count();
        if let Some(other) = proposal.algorithms().iter().find(|a| {
            proposal.algorithms().len() > known
                && !matches!(a.kind, TransformType::Encryption | TransformType::Integrity)
        }) {
            return Err(format!("`{}` has no place in a suite", other.keyword));
        }
        let suite = Self { protocol, encryption, integrity };
        if protocol == Protocol::Ah && suite.layout().salt > 0 && !ah {
            return Err(format!("`{keyword}` is for ESP; for AH it is `ah-{words}`"));
        }
        Ok(suite)
    }

    /// Lengths of the keys.
    pub fn layout(&self) -> KeyLayout {
        let (encryption, salt) = match self.encryption {
            Some(algorithm) => match (algorithm.id, algorithm.key_bits) {
                // AES-GCM and GMAC: 4 bytes of salt (RFC 4106 s4, RFC 4543 s3.2, RFC 8750).
                (18..=21 | 30, Some(bits)) => (usize::from(bits / 8), 4),
                // ChaCha20-Poly1305 (RFC 7634 s2).
                (28 | 31, _) => (32, 4),
                // 3DES (RFC 2451): three keys with parity bits.
                (3, _) => (24, 0),
                (_, Some(bits)) => (usize::from(bits / 8), 0),
                (_, None) => (0, 0),
            },
            None => (0, 0),
        };
        let (integrity, ah_salt) = match self.integrity.map(|algorithm| algorithm.id) {
            Some(2) => (20, 0),
            Some(8) => (16, 0),
            // GMAC in AH: the key, then 4 bytes of salt (RFC 4543 s4).
            Some(9) => (16, 4),
            Some(10) => (24, 4),
            Some(11) => (32, 4),
            // HMAC keys are as long as the hash (RFC 4868 s2.1.1).
            Some(12) => (32, 0),
            Some(13) => (48, 0),
            Some(14) => (64, 0),
            _ => (0, 0),
        };
        KeyLayout { encryption, integrity, salt: salt + ah_salt }
    }

    /// Weak algorithms in it.
    pub fn weak(&self) -> impl Iterator<Item = Weak> {
        [self.encryption, self.integrity].into_iter().flatten().filter_map(|algorithm| algorithm.weak)
    }

    /// Whether one key must never see a sequence number twice: GCM, GMAC and ChaCha20-Poly1305 take their
    /// nonce from it.
    pub fn counts_nonces(&self) -> bool {
        self.layout().salt > 0
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Ah && self.counts_nonces() {
            f.write_str("ah-")?;
        }
        let words: Vec<_> =
            [self.encryption, self.integrity].iter().flatten().map(|algorithm| algorithm.keyword).collect();
        f.write_str(&words.join("-"))
    }
}

impl KeyLayout {
    /// Bytes in all.
    pub fn total(&self) -> usize {
        self.encryption + self.integrity + self.salt
    }
}

/// `16 of encryption key, then 4 of salt`.
impl fmt::Display for KeyLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts =
            [(self.encryption, "encryption key"), (self.integrity, "integrity key"), (self.salt, "salt")];
        let parts: Vec<_> = parts
            .iter()
            .filter(|(bytes, _)| *bytes > 0)
            .map(|(bytes, what)| format!("{bytes} of {what}"))
            .collect();
        f.write_str(&parts.join(", then "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(keyword: &str, protocol: Protocol) -> (usize, String) {
        let suite = Suite::parse(keyword, protocol).unwrap();
        (suite.layout().total(), suite.layout().to_string())
    }

    #[test]
    fn key_files_hold_encryption_key_integrity_key_and_salt() {
        let esp = |keyword| layout(keyword, Protocol::Esp);
        assert_eq!(esp("aes128gcm16"), (20, "16 of encryption key, then 4 of salt".to_owned()));
        assert_eq!(esp("chacha20poly1305"), (36, "32 of encryption key, then 4 of salt".to_owned()));
        assert_eq!(esp("aes256-sha384"), (80, "32 of encryption key, then 48 of integrity key".to_owned()));
        assert_eq!(esp("3des-sha1"), (44, "24 of encryption key, then 20 of integrity key".to_owned()));
        assert_eq!(esp("null-aescmac"), (16, "16 of integrity key".to_owned()));
        assert_eq!(esp("aes192gmac"), (28, "24 of encryption key, then 4 of salt".to_owned()));
        let ah = |keyword| layout(keyword, Protocol::Ah);
        assert_eq!(ah("sha512"), (64, "64 of integrity key".to_owned()));
        assert_eq!(ah("ah-aes256gmac"), (36, "32 of integrity key, then 4 of salt".to_owned()));
    }

    #[test]
    fn is_shown_as_the_canonical_keyword() {
        for (written, shown, protocol) in [
            ("aes128gcm", "aes128gcm16", Protocol::Esp),
            ("aes-sha2_256", "aes128-sha256", Protocol::Esp),
            ("ah-aes128gmac", "ah-aes128gmac", Protocol::Ah),
            ("sha256", "sha256", Protocol::Ah),
        ] {
            assert_eq!(Suite::parse(written, protocol).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_suite_has_one_algorithm_of_a_kind_and_nothing_else() {
        let refused = |keyword, protocol| Suite::parse(keyword, protocol).unwrap_err();
        assert!(refused("aes128gcm16-aes256gcm16", Protocol::Esp).contains("one suite"));
        assert!(refused("aes128-sha256-sha384", Protocol::Esp).contains("one suite"));
        assert!(refused("aes128gcm16-esn", Protocol::Esp).contains("`esn` has no place"));
        assert!(refused("aes128gcm16-x25519", Protocol::Esp).contains("`x25519` has no place"));
        assert!(refused("aes128", Protocol::Esp).contains("Paterson"));
        assert!(refused("sha256", Protocol::Esp).contains("no encryption"));
        assert!(refused("aes128gmac", Protocol::Ah).contains("for AH it is `ah-aes128gmac`"));
        assert!(refused("ah-aes128gmac", Protocol::Esp).contains("for ESP it is `aes128gmac`"));
    }
}
