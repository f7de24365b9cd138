//! Vectors and properties that hold for every engine. An engine is put to all of them by one line of
//! [`engine_tests!`] at the end of this file.

mod dispatch;
pub mod nist;
mod peer;
mod properties;
mod published;
pub mod rfc4231;
mod wycheproof_aead;

use std::io::{self, Write};

use super::aws_lc::AwsLc;
use super::cbc_hmac::CbcHmac;
use super::engine::{ESP_HEADER_LEN, Engine};
use super::known_answer::unhex;
use super::vaes::{AesNi, Avx2, Avx512, Vaes};
use super::{Job, Key, KeyMaterial, Suite};

/// Bytes from hexadecimal digits; white space between them is skipped.
pub fn hex(digits: &str) -> Vec<u8> {
    unhex(&digits.split_whitespace().collect::<String>()).unwrap()
}

/// Key of a suite, of bytes that count up from `seed`.
pub fn key<E: Engine>(engine: &E, suite: Suite, esn: bool, seed: u8) -> Key {
    let bytes = (0..suite.key_len()).map(|n| (n as u8).wrapping_mul(29).wrapping_add(seed)).collect();
    Key::with_engine(engine, suite, esn, &KeyMaterial::new(bytes)).unwrap()
}

/// A packet ready to be sealed; what the engine is to write holds 0xa5.
pub fn unsealed(key: &Key, header: [u8; ESP_HEADER_LEN], plaintext: &[u8]) -> Vec<u8> {
    [&header, &*vec![0xa5; key.iv_len()], plaintext, &*vec![0xa5; key.icv_len()]].concat()
}

/// Seals one packet; returns [`Job::ok`].
pub fn seal<E: Engine>(engine: &E, key: &Key, packet: &mut [u8], seq: u64) -> bool {
    let mut jobs = [Job { key, packet, seq, ok: false }];
    engine.seal(&mut jobs);
    jobs[0].ok
}

/// Opens one packet; returns [`Job::ok`].
pub fn open<E: Engine>(engine: &E, key: &Key, packet: &mut [u8], seq: u64) -> bool {
    // A stale result must not survive.
    let mut jobs = [Job { key, packet, seq, ok: true }];
    engine.open(&mut jobs);
    jobs[0].ok
}

/// The payload of a packet of `key`.
pub fn payload<'p>(key: &Key, packet: &'p [u8]) -> &'p [u8] {
    &packet[ESP_HEADER_LEN + key.iv_len()..packet.len() - key.icv_len()]
}

/// The ESP suites that an engine carries; there must be some.
pub fn suites<E: Engine>(engine: &E) -> Vec<Suite> {
    let suites: Vec<_> = Suite::all().filter(|&suite| !suite.is_ah() && engine.supports(suite)).collect();
    assert!(!suites.is_empty());
    suites
}

/// Says that the test of this thread was skipped, past the test harness, which hides what a passing test prints. Unlike a
/// network test without its privileges it does not fail when CI=true: what a CPU misses nobody can install.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let _unread = writeln!(io::stderr(), "SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
}

/// An engine, unless this CPU cannot run it, which is said. Where every test must run, one engine of ours must, the one that
/// asks least.
pub fn engine_or_skip<E>(name: &str, engine: Result<E, String>) -> Option<E> {
    let must = name == "aes-ni" && std::env::var("CI").as_deref() == Ok("true");
    engine
        .map_err(|reason| {
            assert!(!must, "{name} cannot run: {reason}");
            skip(&format!("{name} cannot run: {reason}"));
        })
        .ok()
}

/// Puts an engine to a check, unless this CPU cannot run it.
fn put<E: Engine>(engine: Result<E, String>, check: fn(&E)) {
    if let Some(engine) = engine_or_skip(E::NAME, engine) {
        check(&engine);
    }
}

/// Puts an engine to every test in this folder.
macro_rules! engine_tests {
    ($name:ident, $engine:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn packets_of_another_implementation() {
                put($engine, peer::check);
            }

            #[test]
            fn what_is_sealed_opens_at_every_length() {
                put($engine, properties::opens_what_was_sealed);
            }

            #[test]
            fn a_changed_bit_is_refused_and_leaves_no_plaintext() {
                put($engine, properties::refuses_changed_bits);
            }

            #[test]
            fn another_upper_half_is_refused_with_esn_alone() {
                put($engine, properties::authenticates_the_upper_half);
            }

            #[test]
            fn a_packet_too_short_is_refused() {
                put($engine, properties::refuses_short_packets);
            }

            #[test]
            fn bursts_mix_suites_lengths_and_bad_packets() {
                put($engine, properties::mixes_bursts);
            }

            #[test]
            fn agrees_with_aws_lc() {
                put($engine, |engine| properties::agrees_with(engine, &AwsLc::new()));
            }
        }
    };
}

/// Puts an engine that carries AEADs to their vectors.
macro_rules! aead_tests {
    ($name:ident, $engine:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn published_vectors() {
                put($engine, published::check);
            }

            #[test]
            fn wycheproof() {
                put($engine, wycheproof_aead::check);
            }

            #[test]
            fn nist_vectors() {
                put($engine, nist::check_gcm);
            }
        }
    };
}

/// Puts an engine that carries AES-CBC with HMAC-SHA-256 to NIST's vectors.
macro_rules! cbc_tests {
    ($name:ident, $engine:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn nist_vectors() {
                put($engine, nist::check_cbc);
            }
        }
    };
}

engine_tests!(aws_lc, Ok(AwsLc::new()));
engine_tests!(cbc_hmac, CbcHmac::new());
engine_tests!(cbc_hmac_sha_ni, CbcHmac::sha_ni());
engine_tests!(cbc_hmac_avx512, CbcHmac::avx512());
engine_tests!(vaes_avx512, Vaes::<Avx512>::new());
engine_tests!(vaes_avx2, Vaes::<Avx2>::new());
engine_tests!(aes_ni, Vaes::<AesNi>::new());

aead_tests!(aws_lc_aead, Ok(AwsLc::new()));
aead_tests!(vaes_avx512_aead, Vaes::<Avx512>::new());
aead_tests!(vaes_avx2_aead, Vaes::<Avx2>::new());
aead_tests!(aes_ni_aead, Vaes::<AesNi>::new());

cbc_tests!(aws_lc_cbc, Ok(AwsLc::new()));
cbc_tests!(cbc_hmac_cbc, CbcHmac::new());
cbc_tests!(cbc_hmac_sha_ni_cbc, CbcHmac::sha_ni());
cbc_tests!(cbc_hmac_avx512_cbc, CbcHmac::avx512());
