//! What holds for every suite, whatever key, length and number.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

const HEADER: [u8; ESP_HEADER_LEN] = [0xc0, 0xff, 0xee, 1, 0, 0, 0, 9];
const SEQ: u64 = 0x3_0000_0009;

/// Runs `test` with random values, `cases` times.
fn random<S: Strategy>(cases: u32, values: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner.run(&values, test).unwrap();
}

/// Every count of blocks up to where every loop of an engine has run more than once, and the longest packets.
fn lengths(suite: Suite) -> impl Iterator<Item = usize> {
    let blocks = (0..=72).chain([87, 88, 89, 127, 128, 355, 512, 2250, 4080]);
    let first = usize::from(suite.pad_align() > 4);
    blocks.filter(move |&count| count >= first).map(move |count| count * suite.pad_align())
}

fn plaintext(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8 ^ 0x5a).collect()
}

/// A packet that `key` sealed.
fn sealed<E: Engine>(engine: &E, key: &Key, plaintext: &[u8], seq: u64) -> Vec<u8> {
    let mut packet = unsealed(key, HEADER, plaintext);
    assert!(seal(engine, key, &mut packet, seq), "{key:?}, {} bytes", plaintext.len());
    packet
}

/// No eight bytes of the plaintext in a row.
fn assert_no_plaintext(key: &Key, packet: &[u8], plaintext: &[u8]) {
    let found = plaintext.windows(8).zip(payload(key, packet).windows(8)).any(|(a, b)| a == b);
    assert!(!found, "{key:?}: plaintext is left");
}

pub fn opens_what_was_sealed<E: Engine>(engine: &E) {
    for (suite, esn) in suites(engine).into_iter().flat_map(|suite| [(suite, false), (suite, true)]) {
        let key = key(engine, suite, esn, 3);
        for len in lengths(suite) {
            let plaintext = plaintext(len);
            let mut packet = sealed(engine, &key, &plaintext, SEQ);
            assert_eq!(packet[..ESP_HEADER_LEN], HEADER, "{key:?}: the header stays");
            let encrypts =
                !matches!(suite.to_string(), name if name.starts_with("null") || name.ends_with("gmac"));
            if encrypts {
                assert_no_plaintext(&key, &packet, &plaintext);
            } else {
                assert_eq!(payload(&key, &packet), plaintext, "{key:?}");
            }
            assert!(open(engine, &key, &mut packet, SEQ), "{key:?}, {len} bytes");
            assert_eq!(payload(&key, &packet), plaintext, "{key:?}, {len} bytes");
        }
    }
    let suites = suites(engine);
    random(
        256,
        (0..suites.len(), any::<bool>(), any::<[u8; 96]>(), any::<u64>(), 0..120_usize, any::<u8>()),
        |(at, esn, bytes, seq, blocks, fill)| {
            let suite = suites[at];
            let material = KeyMaterial::new(bytes[..suite.key_len()].to_vec());
            let key = Key::with_engine(engine, suite, esn, &material).unwrap();
            let plaintext = vec![fill; (blocks + 1) * suite.pad_align()];
            let mut packet = sealed(engine, &key, &plaintext, seq);
            prop_assert!(open(engine, &key, &mut packet, seq));
            prop_assert_eq!(payload(&key, &packet), plaintext);
            Ok(())
        },
    );
}

pub fn refuses_changed_bits<E: Engine>(engine: &E) {
    for (suite, esn) in suites(engine).into_iter().flat_map(|suite| [(suite, false), (suite, true)]) {
        let key = key(engine, suite, esn, 5);
        for len in [2, 5].map(|count| count * 16) {
            let plaintext = plaintext(len);
            let packet = sealed(engine, &key, &plaintext, SEQ);
            for bit in 0..packet.len() * 8 {
                let mut packet = packet.clone();
                packet[bit / 8] ^= 1 << (bit % 8);
                assert!(!open(engine, &key, &mut packet, SEQ), "{key:?}, bit {bit}");
                assert_no_plaintext(&key, &packet, &plaintext);
            }
        }
        // Another key of the same suite, and a packet that was cut or grew.
        let plaintext = plaintext(256);
        let packet = sealed(engine, &key, &plaintext, SEQ);
        let other = super::key(engine, suite, esn, 6);
        let mut copy = packet.clone();
        assert!(!open(engine, &other, &mut copy, SEQ), "{key:?}");
        assert_no_plaintext(&key, &copy, &plaintext);
        for len in [packet.len() - suite.pad_align(), packet.len() + suite.pad_align()] {
            let mut copy = packet.clone();
            copy.resize(len, 0);
            assert!(!open(engine, &key, &mut copy, SEQ), "{key:?}, {len} bytes");
            assert_no_plaintext(&key, &copy, &plaintext);
        }
    }
}

pub fn authenticates_the_upper_half<E: Engine>(engine: &E) {
    for (suite, esn) in suites(engine).into_iter().flat_map(|suite| [(suite, false), (suite, true)]) {
        let key = key(engine, suite, esn, 7);
        let plaintext = plaintext(160);
        let packet = sealed(engine, &key, &plaintext, SEQ);
        for bit in 32..64 {
            let mut packet = packet.clone();
            let ok = open(engine, &key, &mut packet, SEQ ^ (1 << bit));
            // An implicit IV is the whole number, so it is authenticated as the nonce even without ESN.
            assert_eq!(ok, !esn && !suite.implicit_iv(), "{key:?}, bit {bit}");
            if !ok {
                assert_no_plaintext(&key, &packet, &plaintext);
            }
        }
    }
}

pub fn refuses_short_packets<E: Engine>(engine: &E) {
    for (suite, esn) in suites(engine).into_iter().flat_map(|suite| [(suite, false), (suite, true)]) {
        let key = key(engine, suite, esn, 9);
        let overhead = ESP_HEADER_LEN + key.iv_len() + key.icv_len();
        for len in 0..overhead + 64 {
            let mut packet = vec![0; len];
            let payload_len = len.checked_sub(overhead);
            // Only block ciphers mind that a payload is not a multiple of what it is padded to.
            let fits = match suite.pad_align() {
                4 => payload_len.is_some(),
                block => payload_len.is_some_and(|len| len % block == 0),
            };
            assert!(!open(engine, &key, &mut packet, 1), "{key:?}, {len} bytes of nothing");
            assert_eq!(seal(engine, &key, &mut packet, 1), fits, "{key:?}, {len} bytes");
            assert_eq!(open(engine, &key, &mut packet, 1), fits, "{key:?}, {len} bytes");
        }
    }
}

pub fn mixes_bursts<E: Engine>(engine: &E) {
    let keys: Vec<_> = suites(engine)
        .into_iter()
        .flat_map(|suite| [key(engine, suite, false, 1), key(engine, suite, true, 2)])
        .collect();
    let cases = prop::collection::vec((0..keys.len(), 0..90_usize, 0..8_u8, any::<u64>()), 0..80);
    random(64, cases, |burst| {
        // Every eighth packet is one byte long, and every eighth is spoiled on its way.
        let plaintexts: Vec<_> =
            burst.iter().map(|&(at, blocks, _, _)| plaintext((blocks + 1) * keys[at].pad_align())).collect();
        let mut packets: Vec<_> = burst
            .iter()
            .zip(&plaintexts)
            .map(|(&(at, _, fate, _), plaintext)| match fate {
                0 => vec![1],
                _ => unsealed(&keys[at], HEADER, plaintext),
            })
            .collect();
        let mut jobs: Vec<_> = burst
            .iter()
            .zip(&mut packets)
            .map(|(&(at, _, fate, seq), packet)| Job { key: &keys[at], packet, seq, ok: fate == 0 })
            .collect();
        engine.seal(&mut jobs);
        for (job, &(_, _, fate, _)) in jobs.iter_mut().zip(&burst) {
            prop_assert_eq!(job.ok, fate != 0);
            if fate == 1 {
                job.packet[6] ^= 4;
            }
        }
        engine.open(&mut jobs);
        for ((job, &(_, _, fate, _)), plaintext) in jobs.iter().zip(&burst).zip(&plaintexts) {
            prop_assert_eq!(job.ok, fate > 1);
            if fate > 1 {
                prop_assert_eq!(payload(job.key, job.packet), plaintext.as_slice());
            }
        }
        Ok(())
    });
}

/// What one engine seals the other opens, both ways; where the IV is not random, byte for byte the same.
pub fn agrees_with<E: Engine, J: Engine>(engine: &E, judge: &J) {
    for (suite, esn) in suites(engine).into_iter().flat_map(|suite| [(suite, false), (suite, true)]) {
        let (key, judge_key) = (key(engine, suite, esn, 11), key(judge, suite, esn, 11));
        for len in lengths(suite) {
            let plaintext = plaintext(len);
            let (mut ours, mut theirs) =
                (sealed(engine, &key, &plaintext, SEQ), sealed(judge, &judge_key, &plaintext, SEQ));
            if suite.is_aead() {
                assert_eq!(ours, theirs, "{key:?}, {len} bytes");
            }
            assert!(open(judge, &judge_key, &mut ours, SEQ), "{key:?}, {len} bytes");
            assert!(open(engine, &key, &mut theirs, SEQ), "{key:?}, {len} bytes");
            assert_eq!(payload(&key, &ours), plaintext, "{key:?}, {len} bytes");
            assert_eq!(payload(&key, &theirs), plaintext, "{key:?}, {len} bytes");
        }
    }
}
