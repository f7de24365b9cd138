//! The engine against aws-lc-rs, packet by packet.

use crate::crypto::aws_lc::AwsLc;
use crate::crypto::engine::Engine;
use crate::crypto::{Job, Key, KeyMaterial, Suite};

use super::Vaes;

const SUITES: [&str; 12] = [
    "aes128gcm16",
    "aes192gcm16",
    "aes256gcm16",
    "aes128gcm12",
    "aes192gcm12",
    "aes256gcm12",
    "aes128gcm8",
    "aes192gcm8",
    "aes256gcm8",
    "aes128gcm16iiv",
    "aes192gcm16iiv",
    "aes256gcm16iiv",
];

/// A key of both engines.
struct Pair {
    ours: Key,
    judge: Key,
}

impl Pair {
    fn new(vaes: &Vaes, suite: &str, esn: bool, seed: u64) -> Self {
        let suite: Suite = suite.parse().unwrap();
        let material = KeyMaterial::new(bytes(seed, suite.key_len()));
        Self {
            ours: Key::with_engine(vaes, suite, esn, &material).unwrap(),
            judge: Key::with_engine(&AwsLc::new(), suite, esn, &material).unwrap(),
        }
    }

    fn all(vaes: &Vaes) -> Vec<Self> {
        let each = SUITES.iter().flat_map(|suite| [false, true].map(|esn| (suite, esn)));
        each.zip(0..).map(|((suite, esn), seed)| Self::new(vaes, suite, esn, seed)).collect()
    }

    /// A packet with `payload` bytes of payload, to be sealed.
    fn packet(&self, payload: usize, seq: u64) -> Vec<u8> {
        let mut packet = bytes(seq ^ payload as u64, 8 + self.ours.iv_len() + payload + self.ours.icv_len());
        packet[4..8].copy_from_slice(&(seq as u32).to_be_bytes());
        packet
    }
}

/// Bytes that look random and are the same each time (splitmix64).
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn seal<E: Engine>(engine: &E, key: &Key, packet: &mut [u8], seq: u64) -> bool {
    let mut jobs = [Job { key, packet, seq, ok: false }];
    engine.seal(&mut jobs);
    jobs[0].ok
}

fn open<E: Engine>(engine: &E, key: &Key, packet: &mut [u8], seq: u64) -> bool {
    let mut jobs = [Job { key, packet, seq, ok: false }];
    engine.open(&mut jobs);
    jobs[0].ok
}

#[test]
fn agrees_with_aws_lc_at_every_length() {
    let Ok(vaes) = Vaes::new() else { return };
    let long = (0..16).map(|i| 2100 + i * 473);
    for pair in Pair::all(&vaes) {
        for payload in (0..=2100).chain(long.clone()).chain(4000..4100).chain(9180..=9200) {
            let seq = 0x0102_0304_f000_0000 + payload as u64 * 77;
            let plain = pair.packet(payload, seq);
            let (mut ours, mut judge) = (plain.clone(), plain.clone());
            assert!(seal(&AwsLc::new(), &pair.judge, &mut judge, seq));
            assert!(seal(&vaes, &pair.ours, &mut ours, seq));
            assert_eq!(ours, judge, "{:?} {payload}", pair.ours);
            assert!(open(&vaes, &pair.ours, &mut ours, seq), "{:?} {payload}", pair.ours);
            let text = 8 + pair.ours.iv_len()..ours.len() - pair.ours.icv_len();
            assert_eq!(ours[text.clone()], plain[text], "{:?} {payload}", pair.ours);
        }
    }
}

#[test]
fn scratch_seal_128() {
    let Ok(vaes) = Vaes::new() else { return };
    for burst in [1, 4, 7] {
        for pair in Pair::all(&vaes).into_iter().filter(|p| p.ours.suite().to_string().starts_with("aes128"))
        {
            for payload in (0..=2100).chain(4000..4100).chain(9180..=9200) {
                let seq = 0x0102_0304_f000_0000 + payload as u64 * 77;
                let plain = pair.packet(payload, seq);
                let (mut ours, mut judge) = (vec![plain.clone(); burst], plain.clone());
                assert!(seal(&AwsLc::new(), &pair.judge, &mut judge, seq));
                let mut jobs: Vec<Job> =
                    ours.iter_mut().map(|packet| Job { key: &pair.ours, packet, seq, ok: false }).collect();
                vaes.seal(&mut jobs);
                for ours in &ours {
                    assert_eq!(ours, &judge, "{:?} {payload}", pair.ours);
                }
            }
        }
    }
}
