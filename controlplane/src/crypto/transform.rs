//! Encryption and integrity transforms that can protect an IKE SA, with their IANA numbers and sizes.

/// Length of an AES key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AesKey {
    /// 128 bits.
    Aes128,
    /// 192 bits.
    Aes192,
    /// 256 bits.
    Aes256,
}

/// An encryption transform (transform type 1) with its key length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encr {
    /// ENCR_3DES (RFC 2451). Legacy: only when the configuration names it.
    TripleDes,
    /// ENCR_AES_CBC (RFC 3602).
    AesCbc(AesKey),
    /// ENCR_AES_CTR (RFC 5930).
    AesCtr(AesKey),
    /// AES-GCM with an ICV of 8 octets (RFC 5282).
    AesGcm8(AesKey),
    /// AES-GCM with an ICV of 12 octets (RFC 5282).
    AesGcm12(AesKey),
    /// AES-GCM with an ICV of 16 octets (RFC 5282).
    AesGcm16(AesKey),
    /// ENCR_CHACHA20_POLY1305 (RFC 7634).
    ChaCha20Poly1305,
}

/// An integrity transform (transform type 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum Integ {
    /// AUTH_HMAC_SHA1_96 (RFC 2404). Legacy: only when the configuration names it.
    HmacSha1_96,
    /// AUTH_AES_CMAC_96 (RFC 4494).
    AesCmac96,
    /// AUTH_HMAC_SHA2_256_128 (RFC 4868).
    HmacSha256_128,
    /// AUTH_HMAC_SHA2_384_192 (RFC 4868).
    HmacSha384_192,
    /// AUTH_HMAC_SHA2_512_256 (RFC 4868).
    HmacSha512_256,
}

impl AesKey {
    /// From the Key Length attribute, in bits.
    pub const fn from_bits(bits: u16) -> Option<Self> {
        Some(match bits {
            128 => Self::Aes128,
            192 => Self::Aes192,
            256 => Self::Aes256,
            _ => return None,
        })
    }

    /// The Key Length attribute, in bits.
    pub const fn bits(self) -> u16 {
        match self {
            Self::Aes128 => 128,
            Self::Aes192 => 192,
            Self::Aes256 => 256,
        }
    }

    /// Bytes.
    pub const fn key_len(self) -> usize {
        self.bits() as usize / 8
    }
}

impl Encr {
    /// From the IANA transform ID and the Key Length attribute. AES has no default key length
    /// (RFC 7296 s3.3.5); 3DES and ChaCha20 take no attribute.
    pub const fn from_iana(id: u16, key_bits: Option<u16>) -> Option<Self> {
        let aes = match key_bits {
            Some(bits) => AesKey::from_bits(bits),
            None => None,
        };
        Some(match (id, aes, key_bits) {
            (3, _, None) => Self::TripleDes,
            (12, Some(key), _) => Self::AesCbc(key),
            (13, Some(key), _) => Self::AesCtr(key),
            (18, Some(key), _) => Self::AesGcm8(key),
            (19, Some(key), _) => Self::AesGcm12(key),
            (20, Some(key), _) => Self::AesGcm16(key),
            (28, _, None) => Self::ChaCha20Poly1305,
            _ => return None,
        })
    }

    /// The IANA transform ID, and the Key Length attribute in bits if the transform takes one.
    pub const fn iana(self) -> (u16, Option<u16>) {
        match self {
            Self::TripleDes => (3, None),
            Self::AesCbc(key) => (12, Some(key.bits())),
            Self::AesCtr(key) => (13, Some(key.bits())),
            Self::AesGcm8(key) => (18, Some(key.bits())),
            Self::AesGcm12(key) => (19, Some(key.bits())),
            Self::AesGcm16(key) => (20, Some(key.bits())),
            Self::ChaCha20Poly1305 => (28, None),
        }
    }

    /// Whether it brings its own integrity, so that no integrity transform goes with it (RFC 7296 s3.3).
    pub const fn is_aead(self) -> bool {
        matches!(self, Self::AesGcm8(_) | Self::AesGcm12(_) | Self::AesGcm16(_) | Self::ChaCha20Poly1305)
    }

    /// Bytes of the cipher key, without salt.
    pub const fn key_len(self) -> usize {
        match self {
            Self::TripleDes => 24,
            Self::AesCbc(key) | Self::AesCtr(key) => key.key_len(),
            Self::AesGcm8(key) | Self::AesGcm12(key) | Self::AesGcm16(key) => key.key_len(),
            Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of salt (nonce, in RFC 5930) that follow the cipher key in SK_ei and SK_er.
    pub const fn salt_len(self) -> usize {
        match self {
            Self::TripleDes | Self::AesCbc(_) => 0,
            Self::AesCtr(_) | Self::ChaCha20Poly1305 => 4,
            Self::AesGcm8(_) | Self::AesGcm12(_) | Self::AesGcm16(_) => 4,
        }
    }

    /// Bytes of the IV at the start of the payload.
    pub const fn iv_len(self) -> usize {
        match self {
            Self::AesCbc(_) => 16,
            _ => 8,
        }
    }

    /// Bytes of the ICV that the cipher itself appends; 0 without AEAD.
    pub const fn icv_len(self) -> usize {
        match self {
            Self::TripleDes | Self::AesCbc(_) | Self::AesCtr(_) => 0,
            Self::AesGcm8(_) => 8,
            Self::AesGcm12(_) => 12,
            Self::AesGcm16(_) | Self::ChaCha20Poly1305 => 16,
        }
    }

    /// Plaintext and padding are a multiple of this many bytes.
    pub const fn block_len(self) -> usize {
        match self {
            Self::TripleDes => 8,
            Self::AesCbc(_) => 16,
            _ => 1,
        }
    }
}

impl Integ {
    /// From the IANA transform ID.
    pub const fn from_iana(id: u16) -> Option<Self> {
        Some(match id {
            2 => Self::HmacSha1_96,
            8 => Self::AesCmac96,
            12 => Self::HmacSha256_128,
            13 => Self::HmacSha384_192,
            14 => Self::HmacSha512_256,
            _ => return None,
        })
    }

    /// The IANA transform ID.
    pub const fn iana(self) -> u16 {
        match self {
            Self::HmacSha1_96 => 2,
            Self::AesCmac96 => 8,
            Self::HmacSha256_128 => 12,
            Self::HmacSha384_192 => 13,
            Self::HmacSha512_256 => 14,
        }
    }

    /// Bytes of the key: the output length of the hash (RFC 4868 s2.1.1), or an AES-128 key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha1_96 => 20,
            Self::AesCmac96 => 16,
            Self::HmacSha256_128 => 32,
            Self::HmacSha384_192 => 48,
            Self::HmacSha512_256 => 64,
        }
    }

    /// Bytes of the truncated ICV.
    pub const fn icv_len(self) -> usize {
        match self {
            Self::HmacSha1_96 | Self::AesCmac96 => 12,
            Self::HmacSha256_128 => 16,
            Self::HmacSha384_192 => 24,
            Self::HmacSha512_256 => 32,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{AesKey, Encr, Integ};

    pub(crate) const ALL_INTEG: [Integ; 5] = [
        Integ::HmacSha1_96,
        Integ::AesCmac96,
        Integ::HmacSha256_128,
        Integ::HmacSha384_192,
        Integ::HmacSha512_256,
    ];

    /// Every encryption transform with every key length.
    pub(crate) fn all_encr() -> Vec<Encr> {
        let mut all = vec![Encr::TripleDes, Encr::ChaCha20Poly1305];
        for key in [AesKey::Aes128, AesKey::Aes192, AesKey::Aes256] {
            all.extend([Encr::AesCbc(key), Encr::AesCtr(key)]);
            all.extend([Encr::AesGcm8(key), Encr::AesGcm12(key), Encr::AesGcm16(key)]);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ALL_INTEG, all_encr};
    use super::*;

    #[test]
    fn iana_numbers_round_trip() {
        for encr in all_encr() {
            let (id, bits) = encr.iana();
            assert_eq!(Encr::from_iana(id, bits), Some(encr));
        }
        for integ in ALL_INTEG {
            assert_eq!(Integ::from_iana(integ.iana()), Some(integ));
        }
    }

    #[test]
    fn key_length_attribute_is_checked() {
        assert_eq!(Encr::from_iana(20, None), None);
        assert_eq!(Encr::from_iana(20, Some(129)), None);
        assert_eq!(Encr::from_iana(28, Some(256)), None);
        assert_eq!(Encr::from_iana(3, Some(192)), None);
    }

    #[test]
    fn md5_and_des_have_no_value() {
        assert_eq!(Encr::from_iana(2, None), None);
        assert_eq!(Encr::from_iana(11, None), None);
        assert_eq!(Integ::from_iana(1), None);
        assert_eq!(Integ::from_iana(0), None);
    }
}
