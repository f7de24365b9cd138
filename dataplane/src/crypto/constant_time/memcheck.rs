//! Keys, texts and ICVs are marked as undefined memory, and memcheck finds what depends on them (the method of ctgrind,
//! Langley 2010). The test starts itself again under valgrind.
//!
//! Lengths and headers are public, and so is whether an ICV was good: the engine says so where it has that outcome.

use std::hint::black_box;
use std::process::Command;

use super::valgrind;
use crate::crypto::engine::{ESP_HEADER_LEN, Engine};
use crate::crypto::suite::Suite;
use crate::crypto::tests::skip;
use crate::crypto::vaes::{AesNi, Vaes};
use crate::crypto::{Job, Key, KeyMaterial};

/// Runs `check` under valgrind, in a process that runs the test `name` of this file and no other.
fn under_memcheck(name: &str, check: fn()) {
    if valgrind::runs() {
        return check();
    }
    let (_, path) = module_path!().split_once("::").unwrap();
    let run = Command::new("valgrind")
        .args(["--tool=memcheck", "--quiet", "--leak-check=no"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{path}::{name}"), "--nocapture"])
        .output();
    match run {
        Ok(run) => {
            let [out, errors] =
                [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
            assert!(run.status.success() && out.contains("1 passed"), "{out}\n{errors}");
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "valgrind: {error}");
            skip(&format!("valgrind does not run: {error}"));
        }
    }
}

/// Errors that something makes.
fn errors(of: impl FnOnce()) -> usize {
    let before = valgrind::errors();
    of();
    valgrind::errors() - before
}

#[test]
fn no_branch_and_no_address_of_aes_ni_depends_on_a_secret() {
    under_memcheck("no_branch_and_no_address_of_aes_ni_depends_on_a_secret", || {
        let engine = Vaes::<AesNi>::new().unwrap();
        for suite in Suite::all().filter(|&suite| engine.supports(suite)) {
            for esn in [false, true] {
                assert_eq!(errors(|| seal_and_open(&engine, suite, esn)), 0, "{suite}, see above");
            }
        }
    });
}

/// Payloads: every way through the kernels.
const LENGTHS: [usize; 16] = [0, 7, 16, 17, 40, 64, 75, 100, 118, 127, 128, 129, 144, 250, 400, 1424];

fn seal_and_open<E: Engine>(engine: &E, suite: Suite, esn: bool) {
    // Two keys for bursts.
    let keys = [1, 2].map(|seed| {
        let mut material: Vec<_> = (0..suite.key_len()).map(|n| (n * 7 + seed) as u8).collect();
        valgrind::secret(&mut material);
        Key::with_engine(engine, suite, esn, &KeyMaterial::new(material)).unwrap()
    });
    let clear = ESP_HEADER_LEN + suite.iv_len();
    // Each length twice: with either key.
    let lengths = LENGTHS.iter().flat_map(|len| [len, len]);
    let mut packets: Vec<_> = lengths.map(|len| vec![0x5a; clear + len + suite.icv_len()]).collect();
    let run = |packets: &mut [Vec<u8>], operation: &dyn Fn(&mut [Job<'_>])| -> Vec<bool> {
        let jobs = packets.iter_mut().zip(keys.iter().cycle());
        let mut jobs: Vec<_> = jobs.map(|(packet, key)| Job { key, packet, seq: 5, ok: false }).collect();
        operation(&mut jobs);
        jobs.iter().map(|job| job.ok).collect()
    };
    packets.iter_mut().for_each(|packet| valgrind::secret(&mut packet[clear..]));
    assert!(run(&mut packets, &|jobs| engine.seal(jobs)).iter().all(|ok| *ok));
    // What the secrets were is in there, and memcheck knows.
    assert!(packets.iter().all(|packet| valgrind::is_secret(&packet[clear..])));

    let mut spoilt = packets.clone();
    for (n, packet) in spoilt.iter_mut().enumerate() {
        let at = packet.len() - 1 - n % suite.icv_len();
        packet[at] ^= 0x10;
    }
    assert!(run(&mut packets, &|jobs| engine.open(jobs)).iter().all(|ok| *ok));
    assert!(!run(&mut spoilt, &|jobs| engine.open(jobs)).iter().any(|ok| *ok));
}

#[test]
fn a_branch_and_an_address_that_depend_on_a_secret_are_found() {
    under_memcheck("a_branch_and_an_address_that_depend_on_a_secret_are_found", || {
        static TABLE: [u8; 256] = [7; 256];
        let mut bytes = [3; 16];
        valgrind::secret(&mut bytes);
        let branch = errors(|| {
            black_box(bytes.iter().all(|byte| black_box(*byte) == 3));
        });
        let address = errors(|| {
            black_box(black_box(&TABLE)[usize::from(black_box(bytes[0]))]);
        });
        let neither = errors(|| {
            black_box(bytes.iter().fold(0, |all, byte| all | byte ^ 3));
        });
        assert!(branch > 0 && address > 0, "{branch} and {address} errors");
        assert_eq!(neither, 0);
    });
}
