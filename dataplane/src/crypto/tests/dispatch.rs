//! [`Crypto`]: the choice of engines, keys, and bursts across them.

use super::*;
use crate::crypto::{Crypto, EngineChoice, KeyError};

#[test]
fn engines_are_chosen_by_name() {
    assert_eq!("auto".parse(), Ok(EngineChoice::Auto));
    assert_eq!("aws-lc".parse(), Ok(EngineChoice::AwsLc));
    assert_eq!("vaes".parse(), Ok(EngineChoice::Vaes));
    for (word, choice) in EngineChoice::KEYWORDS {
        assert_eq!((word.parse(), choice.to_string()), (Ok(choice), word.to_owned()));
    }
    let error = "openssl".parse::<EngineChoice>().unwrap_err().to_string();
    assert!(error.contains("auto, aws-lc, vaes, vaes-avx512, vaes-avx2 or aes-ni"), "{error}");
}

#[test]
fn a_key_of_the_wrong_length_is_refused() {
    let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
    for suite in Suite::all() {
        for found in [0, suite.key_len() - 1, suite.key_len() + 1] {
            let expected = suite.key_len();
            let error = crypto.key(suite, true, &KeyMaterial::new(vec![1; found])).unwrap_err();
            assert_eq!(error, KeyError::Length { suite, found, expected });
        }
    }
}

#[test]
fn secrets_are_not_printed() {
    let material = KeyMaterial::new(vec![0xab; 20]);
    assert_eq!(format!("{material:?}"), "KeyMaterial(20 bytes)");
    let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
    let key = crypto.key("aes128gcm16".parse().unwrap(), true, &material).unwrap();
    assert_eq!(format!("{key:?}"), "Key(aes128gcm16, ESN)");
}

#[test]
fn a_burst_goes_through() {
    let crypto = Crypto::new(EngineChoice::Auto).unwrap();
    let suites = ["aes128gcm16", "chacha20poly1305", "aes128-sha256", "aes256gcm16"];
    let keys = suites.map(|suite| {
        let suite: Suite = suite.parse().unwrap();
        crypto.key(suite, true, &KeyMaterial::new((0..suite.key_len() as u8).collect())).unwrap()
    });
    let mut packets = [[0x42; 160]; 16];
    let mut jobs: Vec<_> = packets
        .iter_mut()
        .enumerate()
        .map(|(at, packet)| {
            let key = &keys[at / 3 % 4];
            let end = 8 + key.iv_len() + 64 + key.icv_len();
            Job { key, packet: &mut packet[..end], seq: at as u64, ok: false }
        })
        .collect();
    crypto.seal(&mut jobs);
    assert!(jobs.iter().all(|job| job.ok));
    crypto.open(&mut jobs);
    for job in &jobs {
        assert!(job.ok, "{:?}", job.key);
        assert!(job.packet[8 + job.key.iv_len()..][..64].iter().all(|&byte| byte == 0x42));
    }
    crypto.seal(&mut []);
}
