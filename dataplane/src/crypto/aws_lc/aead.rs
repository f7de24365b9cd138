//! AES-GCM (RFC 4106, RFC 8750) and ChaCha20-Poly1305 (RFC 7634, RFC 8750).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::crypto::engine::{EspFields, aead_aad};
use crate::crypto::suite::{AesKey, Encryption, Suite};

/// ICV before truncation.
const FULL_ICV_LEN: usize = 16;

/// An aws-lc-rs key with the salt of its nonces.
pub struct SaltedKey {
    /// Of a 96-bit nonce and 128-bit tag.
    pub key: LessSafeKey,
    salt: [u8; 4],
}

impl SaltedKey {
    /// `material` is key, then salt; `None` when its length is not the algorithm's.
    pub fn new(algorithm: &'static Algorithm, material: &[u8]) -> Option<Self> {
        let (key, &salt) = material.split_last_chunk()?;
        Some(Self { key: LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?), salt })
    }

    /// `salt | IV` (RFC 4106 s4, RFC 4543 s3.2, RFC 7634 s2).
    #[inline]
    pub fn nonce(&self, iv: [u8; 8]) -> Nonce {
        let [s0, s1, s2, s3] = self.salt;
        let [i0, i1, i2, i3, i4, i5, i6, i7] = iv;
        Nonce::assume_unique_for_key([s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7])
    }
}

/// AES-GCM with a key length.
pub fn aes_gcm(key: AesKey) -> &'static Algorithm {
    match key {
        AesKey::Aes128 => &AES_128_GCM,
        AesKey::Aes192 => &AES_192_GCM,
        AesKey::Aes256 => &AES_256_GCM,
    }
}

/// Key of one SA direction.
pub struct AeadKey {
    key: SaltedKey,
    iv_len: u8,
    icv_len: u8,
    esn: bool,
}

impl AeadKey {
    /// `material` is key and salt. `None` when the suite is another's or the length is wrong.
    pub fn new(suite: Suite, esn: bool, material: &[u8]) -> Option<Self> {
        let algorithm = match suite.encryption()? {
            Encryption::AesGcm(key, _) | Encryption::AesGcmImplicitIv(key) => aes_gcm(key),
            Encryption::ChaCha20Poly1305 | Encryption::ChaCha20Poly1305ImplicitIv => &CHACHA20_POLY1305,
            _ => return None,
        };
        let key = SaltedKey::new(algorithm, material)?;
        let (iv_len, icv_len) = (u8::try_from(suite.iv_len()).ok()?, u8::try_from(suite.icv_len()).ok()?);
        Some(Self { key, iv_len, icv_len, esn })
    }

    /// Seals a packet; false when it is too short. The IV is the sequence number: never used twice with one
    /// key, since no two workers are given the same number (RFC 4106 s3.1, RFC 7634 s2, RFC 8750 s4).
    #[inline]
    pub fn seal(&self, packet: &mut [u8], seq: u64) -> bool {
        let Some(EspFields { header, iv, payload, icv }) = self.split(packet) else { return false };
        let nonce = seq.to_be_bytes();
        if let Ok(iv) = <&mut [u8; 8]>::try_from(iv) {
            *iv = nonce;
        }
        let (aad, aad_len) = aead_aad(*header, seq, self.esn);
        let (nonce, aad) = (self.key.nonce(nonce), Aad::from(aad.get(..aad_len).unwrap_or_default()));
        if icv.len() == FULL_ICV_LEN {
            return self.key.key.seal_in_place_scatter(nonce, aad, payload, &[], icv).is_ok();
        }
        let Ok(tag) = self.key.key.seal_in_place_separate_tag(nonce, aad, payload) else { return false };
        let Some(tag) = tag.as_ref().get(..icv.len()) else { return false };
        icv.copy_from_slice(tag);
        true
    }

    /// Opens a packet; false when it is too short or the ICV is wrong.
    #[inline]
    pub fn open(&self, packet: &mut [u8], seq: u64) -> bool {
        let Some(EspFields { header, iv, payload, icv }) = self.split(packet) else { return false };
        // RFC 8750 s4: the IV that is not sent is the sequence number.
        let nonce = <[u8; 8]>::try_from(&*iv).unwrap_or(seq.to_be_bytes());
        let (aad, aad_len) = aead_aad(*header, seq, self.esn);
        let aad = aad.get(..aad_len).unwrap_or_default();
        let ok = if icv.len() == FULL_ICV_LEN {
            let (nonce, aad) = (self.key.nonce(nonce), Aad::from(aad));
            self.key.key.open_in_place_separate_tag(nonce, aad, icv, payload).is_ok()
        } else {
            self.open_truncated(nonce, aad, payload, icv)
        };
        if !ok {
            payload.fill(0);
        }
        ok
    }

    /// aws-lc-rs opens only with the whole tag. Counter mode is its own inverse, so sealing the ciphertext gives
    /// the plaintext, and sealing that gives ciphertext and whole tag again; only when the tag's start is the ICV
    /// is the plaintext made once more. Three passes, for ICV lengths that RFC 8221 does not ask for.
    #[cold]
    fn open_truncated(&self, nonce: [u8; 8], aad: &[u8], payload: &mut [u8], icv: &[u8]) -> bool {
        let mut seal =
            || self.key.key.seal_in_place_separate_tag(self.key.nonce(nonce), Aad::from(aad), payload);
        let (Ok(_), Ok(tag)) = (seal(), seal()) else { return false };
        let good = tag.as_ref().get(..icv.len()).is_some_and(|tag| verify_slices_are_equal(tag, icv).is_ok());
        good && seal().is_ok()
    }

    #[inline]
    fn split<'p>(&self, packet: &'p mut [u8]) -> Option<EspFields<'p>> {
        EspFields::split(packet, usize::from(self.iv_len), usize::from(self.icv_len))
    }
}
