//! Algorithms of an SA.
//!
//! A [`Suite`] can only be had by [`Suite::esp`], [`Suite::ah`] or from its keyword, and none of them makes
//! encryption without integrity: Paterson and Yau (2006), and Degabriele and Paterson (2007, 2010), recover
//! plaintext from every such configuration of ESP, whatever sits above or below it.

use std::fmt;

/// Key length of AES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AesKey {
    /// 128 bits.
    Aes128,
    /// 192 bits.
    Aes192,
    /// 256 bits.
    Aes256,
}

impl AesKey {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aes128, Self::Aes192, Self::Aes256];

    /// In bytes.
    pub const fn bytes(self) -> usize {
        self.bits() / 8
    }

    /// In bits.
    pub const fn bits(self) -> usize {
        match self {
            Self::Aes128 => 128,
            Self::Aes192 => 192,
            Self::Aes256 => 256,
        }
    }
}

/// ICV length of AES-GCM (RFC 4106 s6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GcmIcv {
    /// 8 bytes. RFC 4106 s9: only when the overhead of 16 cannot be borne.
    Icv8,
    /// 12 bytes.
    Icv12,
    /// 16 bytes.
    Icv16,
}

impl GcmIcv {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Icv8, Self::Icv12, Self::Icv16];

    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Icv8 => 8,
            Self::Icv12 => 12,
            Self::Icv16 => 16,
        }
    }
}

/// The encryption transform of an SA, or the combined-mode one, which brings its own integrity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// AES-GCM with an explicit IV (RFC 4106).
    AesGcm(AesKey, GcmIcv),
    /// AES-GCM with a 16-byte ICV and implicit IV (RFC 8750).
    AesGcmImplicitIv(AesKey),
    /// ChaCha20-Poly1305 with an explicit IV (RFC 7634).
    ChaCha20Poly1305,
    /// ChaCha20-Poly1305 with implicit IV (RFC 8750).
    ChaCha20Poly1305ImplicitIv,
    /// ENCR_NULL_AUTH_AES_GMAC: integrity alone, as a combined mode (RFC 4543).
    AesGmac(AesKey),
    /// AES-CBC (RFC 3602).
    AesCbc(AesKey),
    /// 3DES-CBC (RFC 2451). 64-bit blocks: Sweet32 after a few gigabytes. Opt-in.
    TripleDesCbc,
    /// NULL (RFC 2410): integrity alone.
    Null,
}

impl Encryption {
    /// A combined mode: integrity comes with it.
    pub const fn is_combined(self) -> bool {
        !matches!(self, Self::AesCbc(_) | Self::TripleDesCbc | Self::Null)
    }
}

/// The integrity transform of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// HMAC-SHA-1-96 (RFC 2404). Opt-in.
    HmacSha1,
    /// HMAC-SHA-256-128 (RFC 4868).
    HmacSha256,
    /// HMAC-SHA-384-192 (RFC 4868).
    HmacSha384,
    /// HMAC-SHA-512-256 (RFC 4868).
    HmacSha512,
    /// AES-CMAC-96 (RFC 4494).
    AesCmac,
    /// AES-XCBC-MAC-96 (RFC 3566).
    AesXcbc,
    /// AES-GMAC, in AH only (RFC 4543 s4); in ESP it is [`Encryption::AesGmac`].
    AesGmac(AesKey),
}

impl Integrity {
    /// Length of the key in bytes, without GMAC's salt (RFC 4868 s2.1.1: the length of the hash).
    const fn key_len(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
            Self::AesCmac | Self::AesXcbc => 16,
            Self::AesGmac(key) => key.bytes(),
        }
    }

    /// Length of the ICV in bytes, without the IV that GMAC carries in AH.
    const fn icv_len(self) -> usize {
        match self {
            Self::HmacSha1 | Self::AesCmac | Self::AesXcbc => 12,
            Self::HmacSha256 | Self::AesGmac(_) => 16,
            Self::HmacSha384 => 24,
            Self::HmacSha512 => 32,
        }
    }
}

/// A valid combination of algorithms for ESP or for AH. The lengths are worked out once, when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suite {
    algorithms: Algorithms,
    encryption_key_len: u8,
    salt_len: u8,
    integrity_key_len: u8,
    iv_len: u8,
    icv_len: u8,
    pad_align: u8,
}

/// What a [`Suite`] is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Algorithms {
    Combined(Encryption),
    Separate(Encryption, Integrity),
    Ah(Integrity),
}

/// Why algorithms do not make a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CombinationError {
    /// Open to the attacks of Paterson, Yau and Degabriele.
    #[error(
        "encryption without integrity is not offered: ESP without an ICV can be decrypted by an attacker (Paterson, Yau 2006; Degabriele, Paterson 2007)"
    )]
    NoIntegrity,
    /// Neither encryption nor integrity.
    #[error("NULL encryption without integrity protects nothing")]
    Nothing,
    /// A combined mode with an integrity algorithm beside it (RFC 4303 s3.2.3).
    #[error("a combined-mode algorithm brings its own integrity and takes none beside it")]
    TwoIntegrities,
    /// GMAC as an integrity algorithm of ESP.
    #[error("in ESP, GMAC is a combined mode (RFC 4543 s3) and goes with no other encryption")]
    GmacBesideEncryption,
}

impl Suite {
    /// For ESP: an encryption transform and, unless it is a combined mode, an integrity transform.
    ///
    /// # Errors
    /// When the two do not make a suite that protects: see [`CombinationError`].
    pub const fn esp(encryption: Encryption, integrity: Option<Integrity>) -> Result<Self, CombinationError> {
        match (encryption, integrity) {
            (_, Some(Integrity::AesGmac(_))) => Err(CombinationError::GmacBesideEncryption),
            (_, Some(_)) if encryption.is_combined() => Err(CombinationError::TwoIntegrities),
            (_, Some(integrity)) => Ok(Self::new(Algorithms::Separate(encryption, integrity))),
            (_, None) if encryption.is_combined() => Ok(Self::new(Algorithms::Combined(encryption))),
            (Encryption::Null, None) => Err(CombinationError::Nothing),
            (_, None) => Err(CombinationError::NoIntegrity),
        }
    }

    /// For AH.
    pub const fn ah(integrity: Integrity) -> Self {
        Self::new(Algorithms::Ah(integrity))
    }

    /// Every suite there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let aead = [Encryption::ChaCha20Poly1305, Encryption::ChaCha20Poly1305ImplicitIv].into_iter();
        let aead = aead.chain(AesKey::ALL.into_iter().flat_map(|key| {
            let gcm = GcmIcv::ALL.into_iter().map(move |icv| Encryption::AesGcm(key, icv));
            gcm.chain([Encryption::AesGcmImplicitIv(key), Encryption::AesGmac(key)])
        }));
        let ciphers = AesKey::ALL.map(Encryption::AesCbc).into_iter();
        let ciphers = ciphers.chain([Encryption::TripleDesCbc, Encryption::Null]);
        let separate =
            ciphers.flat_map(|cipher| ESP_INTEGRITY.into_iter().map(move |mac| (cipher, Some(mac))));
        let esp = aead.map(|aead| (aead, None)).chain(separate);
        let ah = ESP_INTEGRITY.into_iter().chain(AesKey::ALL.map(Integrity::AesGmac));
        esp.filter_map(|(encryption, integrity)| Self::esp(encryption, integrity).ok())
            .chain(ah.map(Self::ah))
    }

    /// The encryption transform; `None` for AH.
    pub const fn encryption(self) -> Option<Encryption> {
        match self.algorithms {
            Algorithms::Combined(encryption) | Algorithms::Separate(encryption, _) => Some(encryption),
            Algorithms::Ah(_) => None,
        }
    }

    /// The integrity transform; `None` for a combined mode.
    pub const fn integrity(self) -> Option<Integrity> {
        match self.algorithms {
            Algorithms::Combined(_) => None,
            Algorithms::Separate(_, integrity) | Algorithms::Ah(integrity) => Some(integrity),
        }
    }

    /// For AH; every other suite is for ESP.
    pub const fn is_ah(self) -> bool {
        matches!(self.algorithms, Algorithms::Ah(_))
    }

    /// A combined-mode algorithm (AEAD, or GMAC in ESP).
    pub const fn is_aead(self) -> bool {
        matches!(self.algorithms, Algorithms::Combined(_))
    }

    /// The IV is the sequence number and is not sent (RFC 8750).
    pub const fn implicit_iv(self) -> bool {
        matches!(
            self.algorithms,
            Algorithms::Combined(Encryption::AesGcmImplicitIv(_) | Encryption::ChaCha20Poly1305ImplicitIv)
        )
    }

    /// Weak algorithms that are used only when the operator names them: SHA-1 and 3DES.
    pub const fn needs_opt_in(self) -> bool {
        matches!(self.encryption(), Some(Encryption::TripleDesCbc))
            || matches!(self.integrity(), Some(Integrity::HmacSha1))
    }

    /// Bytes of [`KeyMaterial`](super::KeyMaterial): encryption key, integrity key, salt, those that there are.
    /// This is also what IKEv2 takes from the KEYMAT of a Child SA for one direction (RFC 7296 s2.17).
    pub const fn key_len(self) -> usize {
        self.encryption_key_len() + self.salt_len() + self.integrity_key_len()
    }

    /// Bytes of the encryption key, without salt.
    pub const fn encryption_key_len(self) -> usize {
        self.encryption_key_len as usize
    }

    /// Bytes of the salt, the first part of the nonce, which comes last in the key material.
    pub const fn salt_len(self) -> usize {
        self.salt_len as usize
    }

    /// Bytes of the integrity key.
    pub const fn integrity_key_len(self) -> usize {
        self.integrity_key_len as usize
    }

    /// Bytes of IV in each packet: after the sequence number in ESP, before the ICV in AH with GMAC.
    #[inline]
    pub const fn iv_len(self) -> usize {
        self.iv_len as usize
    }

    /// Bytes of ICV at the end of each packet, after truncation.
    #[inline]
    pub const fn icv_len(self) -> usize {
        self.icv_len as usize
    }

    /// What the length of plaintext, padding and the two trailer bytes must be a multiple of: the cipher's
    /// block, or 4 (RFC 4303 s2.4). 1 for AH, which has no padding of this kind.
    #[inline]
    pub const fn pad_align(self) -> usize {
        self.pad_align as usize
    }

    const fn new(algorithms: Algorithms) -> Self {
        let (encryption_key_len, salt_len, iv_len, pad_align) = match algorithms {
            Algorithms::Combined(encryption) | Algorithms::Separate(encryption, _) => match encryption {
                Encryption::AesGcm(key, _) | Encryption::AesGmac(key) => (key.bytes(), 4, 8, 4),
                Encryption::AesGcmImplicitIv(key) => (key.bytes(), 4, 0, 4),
                Encryption::ChaCha20Poly1305 => (32, 4, 8, 4),
                Encryption::ChaCha20Poly1305ImplicitIv => (32, 4, 0, 4),
                Encryption::AesCbc(key) => (key.bytes(), 0, 16, 16),
                Encryption::TripleDesCbc => (24, 0, 8, 8),
                Encryption::Null => (0, 0, 0, 4),
            },
            Algorithms::Ah(Integrity::AesGmac(_)) => (0, 4, 8, 1),
            Algorithms::Ah(_) => (0, 0, 0, 1),
        };
        let (integrity_key_len, icv_len) = match algorithms {
            Algorithms::Combined(Encryption::AesGcm(_, icv)) => (0, icv.bytes()),
            Algorithms::Combined(_) => (0, 16),
            Algorithms::Separate(_, integrity) | Algorithms::Ah(integrity) => {
                (integrity.key_len(), integrity.icv_len())
            }
        };
        Self {
            algorithms,
            encryption_key_len: encryption_key_len as u8,
            salt_len,
            integrity_key_len: integrity_key_len as u8,
            iv_len,
            icv_len: icv_len as u8,
            pad_align,
        }
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Suite({self})")
    }
}

/// Integrity algorithms that go with NULL and CBC, and alone in AH.
const ESP_INTEGRITY: [Integrity; 6] = [
    Integrity::HmacSha256,
    Integrity::HmacSha384,
    Integrity::HmacSha512,
    Integrity::AesCmac,
    Integrity::AesXcbc,
    Integrity::HmacSha1,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_rfcs() {
        // Key, IV, ICV, alignment, as the RFC of each says.
        for (keyword, lengths) in [
            ("aes128gcm16", (20, 8, 16, 4)),
            ("aes192gcm12", (28, 8, 12, 4)),
            ("aes256gcm8", (36, 8, 8, 4)),
            ("aes256gcm16iiv", (36, 0, 16, 4)),
            ("chacha20poly1305", (36, 8, 16, 4)),
            ("chacha20poly1305iiv", (36, 0, 16, 4)),
            ("aes128gmac", (20, 8, 16, 4)),
            ("aes128-sha256", (48, 16, 16, 16)),
            ("aes192-sha384", (72, 16, 24, 16)),
            ("aes256-sha512", (96, 16, 32, 16)),
            ("aes128-aesxcbc", (32, 16, 12, 16)),
            ("3des-sha1", (44, 8, 12, 8)),
            ("null-aescmac", (16, 0, 12, 4)),
            ("sha256", (32, 0, 16, 1)),
            ("ah-aes256gmac", (36, 8, 16, 1)),
        ] {
            let suite: Suite = keyword.parse().unwrap();
            let found = (suite.key_len(), suite.iv_len(), suite.icv_len(), suite.pad_align());
            assert_eq!(found, lengths, "{keyword}");
        }
    }

    #[test]
    fn weak_algorithms_need_opt_in() {
        for suite in Suite::all() {
            let name = suite.to_string();
            assert_eq!(suite.needs_opt_in(), name.contains("sha1") || name.contains("3des"), "{name}");
            assert_eq!(suite.implicit_iv(), name.ends_with("iiv"), "{name}");
            assert_eq!(suite.is_aead(), suite.integrity().is_none(), "{name}");
            assert_eq!(suite.is_ah(), suite.encryption().is_none(), "{name}");
        }
    }

    #[test]
    fn only_what_protects_can_be_made() {
        use CombinationError::*;
        let cbc = Encryption::AesCbc(AesKey::Aes128);
        let (gcm, sha) = (Encryption::AesGcm(AesKey::Aes128, GcmIcv::Icv16), Integrity::HmacSha256);
        assert_eq!(Suite::esp(cbc, None), Err(NoIntegrity));
        assert_eq!(Suite::esp(Encryption::TripleDesCbc, None), Err(NoIntegrity));
        assert_eq!(Suite::esp(Encryption::Null, None), Err(Nothing));
        assert_eq!(Suite::esp(gcm, Some(sha)), Err(TwoIntegrities));
        let gmac = Integrity::AesGmac(AesKey::Aes128);
        assert_eq!(Suite::esp(Encryption::Null, Some(gmac)), Err(GmacBesideEncryption));
        assert!(Suite::all().all(|suite| suite.icv_len() >= 8));
    }
}
