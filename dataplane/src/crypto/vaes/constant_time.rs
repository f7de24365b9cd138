//! Whether time depends on secrets, by Welch's t-test over many measurements (the method of dudect, Reparaz, Balasch and
//! Verbauwhede 2017). Valgrind, which could follow the data instead, knows no AVX-512.
//!
//! `cargo test --release -p spillway-dataplane constant_time -- --ignored --test-threads 1`, on a quiet machine.

use std::arch::x86_64::_rdtsc;

use crate::crypto::engine::Engine;
use crate::crypto::{Job, Key, KeyMaterial, Suite};

use super::{AesNi, Avx2, Avx512, Tier, Vaes};

const MEASUREMENTS: usize = 200_000;
/// Of those of one class, the share that counts: the slowest are interrupts.
const KEPT: f64 = 0.8;
/// dudect's verdict: above it, time depends on the class.
const MOST: f64 = 10.0;

/// A test of each tier that the CPU has.
macro_rules! every_tier {
    ($($tier:ty: $seal:ident $open:ident),*) => {$(
        #[test]
        #[ignore = "a statistic, for a quiet machine"]
        fn $seal() {
            Vaes::<$tier>::new().iter().for_each(seal_takes_the_same_time_for_every_key_and_text);
        }

        #[test]
        #[ignore = "a statistic, for a quiet machine"]
        fn $open() {
            Vaes::<$tier>::new().iter().for_each(open_takes_the_same_time_wherever_an_icv_is_wrong);
        }
    )*};
}

every_tier! {
    Avx512: vaes_avx512_seals_alike vaes_avx512_opens_alike,
    Avx2: vaes_avx2_seals_alike vaes_avx2_opens_alike,
    AesNi: aes_ni_seals_alike aes_ni_opens_alike
}

fn seal_takes_the_same_time_for_every_key_and_text<T: Tier>(vaes: &Vaes<T>) {
    for payload in [64, 230, 700] {
        let mut random = Random(1);
        compare(vaes, payload, |class, packet| {
            let fixed = class == 0;
            // The same work for both, so that only its outcome differs.
            let keep = if fixed { 0 } else { 0xff };
            let material = (0..20).map(|_| random.next() as u8 & keep).collect();
            packet.iter_mut().for_each(|byte| *byte = random.next() as u8 & keep);
            (KeyMaterial::new(material), true)
        });
    }
}

fn open_takes_the_same_time_wherever_an_icv_is_wrong<T: Tier>(vaes: &Vaes<T>) {
    for payload in [64, 230, 700] {
        compare(vaes, payload, |class, packet| {
            packet.fill(0x33);
            let key = KeyMaterial::new(vec![7; 20]);
            let sealer = Key::with_engine(vaes, SUITE.parse().unwrap(), false, &key).unwrap();
            vaes.seal(&mut [Job { key: &sealer, packet, seq: 5, ok: false }]);
            let at = packet.len() - if class == 0 { 16 } else { 1 };
            packet[at] ^= 1;
            (key, false)
        });
    }
}

const SUITE: &str = "aes128gcm16";

/// Measures packets of two classes in random order, and compares the means.
fn compare<T: Tier>(
    vaes: &Vaes<T>,
    payload: usize,
    mut prepare: impl FnMut(usize, &mut [u8]) -> (KeyMaterial, bool),
) {
    let suite: Suite = SUITE.parse().unwrap();
    let mut packet = vec![0; 16 + payload + 16];
    let mut times = [Vec::new(), Vec::new()];
    let mut random = Random(9);
    for _ in 0..MEASUREMENTS {
        let class = (random.next() & 1) as usize;
        let (material, seal) = prepare(class, &mut packet);
        let key = Key::with_engine(vaes, suite, false, &material).unwrap();
        let mut jobs = [Job { key: &key, packet: &mut packet, seq: 5, ok: false }];
        // SAFETY: every x86-64 CPU has the instruction.
        let start = unsafe { _rdtsc() };
        if seal {
            vaes.seal(&mut jobs)
        } else {
            vaes.open(&mut jobs)
        }
        // SAFETY: as above.
        let end = unsafe { _rdtsc() };
        times[class].push((end - start) as f64);
    }
    let t = welch(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times.truncate((times.len() as f64 * KEPT) as usize);
        times
    }));
    println!("{}, {payload} bytes: t = {t:.2}", T::NAME);
    assert!(t.abs() < MOST, "{}, {payload} bytes: t = {t}", T::NAME);
}

/// Welch's t.
fn welch([a, b]: [Vec<f64>; 2]) -> f64 {
    let moments = |times: &[f64]| {
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        (mean, times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0) / count)
    };
    let ((mean_a, error_a), (mean_b, error_b)) = (moments(&a), moments(&b));
    (mean_a - mean_b) / (error_a + error_b).sqrt()
}

/// xorshift64*: the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }
}

#[test]
fn the_statistic_sees_a_difference() {
    let times = |mean: f64| (0..1000).map(|n| mean + f64::from(n % 10)).collect::<Vec<_>>();
    assert!(welch([times(100.0), times(100.0)]).abs() < 1.0);
    assert!(welch([times(100.0), times(102.0)]).abs() > MOST);
}
