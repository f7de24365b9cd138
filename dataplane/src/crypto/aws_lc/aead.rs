//! AES-GCM (RFC 4106, RFC 8750) and ChaCha20-Poly1305 (RFC 7634, RFC 8750).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::crypto::engine::{ESP_HEADER_LEN, EspFields, aead_aad};
use crate::crypto::suite::{AesKey, Encryption, Suite};

/// ICV before truncation.
const FULL_ICV_LEN: usize = 16;

/// Key of one SA direction.
pub struct AeadKey {
    key: LessSafeKey,
    salt: [u8; 4],
    icv_len: u8,
    implicit_iv: bool,
    esn: bool,
}

impl AeadKey {
    /// `material` is key and salt. `None` when the suite is another's or the length is wrong.
    pub fn new(suite: Suite, esn: bool, material: &[u8]) -> Option<Self> {
        let algorithm: &'static Algorithm = match suite.encryption()? {
            Encryption::AesGcm(key, _) | Encryption::AesGcmImplicitIv(key) => match key {
                AesKey::Aes128 => &AES_128_GCM,
                AesKey::Aes192 => &AES_192_GCM,
                AesKey::Aes256 => &AES_256_GCM,
            },
            Encryption::ChaCha20Poly1305 | Encryption::ChaCha20Poly1305ImplicitIv => &CHACHA20_POLY1305,
            _ => return None,
        };
        let (key, &salt) = material.split_last_chunk()?;
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?),
            salt,
            icv_len: u8::try_from(suite.icv_len()).ok()?,
            implicit_iv: suite.implicit_iv(),
            esn,
        })
    }

    /// Seals a packet; false when it is too short. The IV is the sequence number: never used twice with one
    /// key, since no two workers are given the same number (RFC 4106 s3.1, RFC 7634 s2).
    #[inline]
    pub fn seal(&self, packet: &mut [u8], seq: u64) -> bool {
        let Some(fields) = EspFields::split(packet, self.iv_len(), self.icv_len()) else { return false };
        let iv = seq.to_be_bytes();
        if !self.implicit_iv {
            fields.iv.copy_from_slice(&iv);
        }
        self.seal_with_iv(fields, iv, seq)
    }

    /// Opens a packet; false when it is too short or the ICV is wrong.
    #[inline]
    pub fn open(&self, packet: &mut [u8], seq: u64) -> bool {
        let Some(fields) = EspFields::split(packet, self.iv_len(), self.icv_len()) else { return false };
        let iv = match <[u8; 8]>::try_from(&*fields.iv) {
            Ok(iv) => iv,
            // RFC 8750 s3: an implicit IV is the sequence number, extended by zeros without ESN.
            Err(_) => seq.to_be_bytes(),
        };
        let EspFields { header, payload, icv, .. } = fields;
        let ok = if icv.len() == FULL_ICV_LEN {
            let (aad, aad_len) = aead_aad(*header, seq, self.esn);
            let aad = Aad::from(aad.get(..aad_len).unwrap_or_default());
            self.key.open_in_place_separate_tag(self.nonce(iv), aad, icv, payload).is_ok()
        } else {
            self.open_truncated(*header, iv, payload, icv, seq)
        };
        if !ok {
            payload.fill(0);
        }
        ok
    }

    #[inline]
    fn seal_with_iv(&self, fields: EspFields<'_>, iv: [u8; 8], seq: u64) -> bool {
        let EspFields { header, payload, icv, .. } = fields;
        let (aad, aad_len) = aead_aad(*header, seq, self.esn);
        let aad = Aad::from(aad.get(..aad_len).unwrap_or_default());
        if icv.len() == FULL_ICV_LEN {
            return self.key.seal_in_place_scatter(self.nonce(iv), aad, payload, &[], icv).is_ok();
        }
        let Ok(tag) = self.key.seal_in_place_separate_tag(self.nonce(iv), aad, payload) else { return false };
        let Some(tag) = tag.as_ref().get(..icv.len()) else { return false };
        icv.copy_from_slice(tag);
        true
    }

    /// aws-lc-rs opens only with the whole tag. Counter mode is its own inverse, so sealing the ciphertext gives
    /// the plaintext, and sealing that gives ciphertext and whole tag again; only when its start is the ICV is
    /// the plaintext made once more. Three passes, for an ICV length that nearly nobody uses.
    #[cold]
    fn open_truncated(
        &self,
        header: [u8; ESP_HEADER_LEN],
        iv: [u8; 8],
        payload: &mut [u8],
        icv: &[u8],
        seq: u64,
    ) -> bool {
        let (aad, aad_len) = aead_aad(header, seq, self.esn);
        let aad = aad.get(..aad_len).unwrap_or_default();
        let mut seal = || self.key.seal_in_place_separate_tag(self.nonce(iv), Aad::from(aad), payload);
        let (Ok(_), Ok(tag)) = (seal(), seal()) else { return false };
        let good = tag.as_ref().get(..icv.len()).is_some_and(|tag| verify_slices_are_equal(tag, icv).is_ok());
        good && seal().is_ok()
    }

    #[inline]
    fn nonce(&self, iv: [u8; 8]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&iv);
        Nonce::assume_unique_for_key(nonce)
    }

    #[inline]
    fn iv_len(&self) -> usize {
        if self.implicit_iv { 0 } else { 8 }
    }

    #[inline]
    fn icv_len(&self) -> usize {
        usize::from(self.icv_len)
    }
}
