//! Whether time depends on secrets, by Welch's t-test over many measurements (the method of dudect, Reparaz, Balasch and
//! Verbauwhede 2017).
//!
//! Two classes of keys, texts or faults are measured in random order, so that what disturbs the machine disturbs both alike; and
//! an engine fails only when the classes differ the same way in every one of three tries.

use std::arch::x86_64::_rdtsc;
use std::cell::Cell;
use std::hint::black_box;

use crate::crypto::aws_lc::AwsLc;
use crate::crypto::cbc_hmac::CbcHmac;
use crate::crypto::engine::Engine;
use crate::crypto::tests::engine_or_skip;
use crate::crypto::vaes::{AesNi, Avx2, Avx512, Vaes};
use crate::crypto::{EngineKey, Job, Key, KeyError, KeyMaterial, Suite};

const MEASUREMENTS: usize = 40_000;
/// The share of them that counts: the slowest are interrupts.
const KEPT: f64 = 0.8;
/// dudect's verdict: above it, time depends on the class.
const MOST: f64 = 10.0;
const TRIES: usize = 3;

/// Packets of a burst, and the bytes of each one's payload. Some engines take two short packets side by side.
const SHAPES: [(usize, usize); 6] = [(1, 64), (1, 224), (1, 704), (2, 48), (2, 64), (2, 112)];

/// Tests of each engine that the CPU has.
macro_rules! every_engine {
    ($($name:ident: $suite:literal $engine:expr),*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn seals_every_key_and_text_alike() {
                put($engine, $suite, |timed| timed.seals_every_key_and_text_alike());
            }

            #[test]
            fn opens_every_key_and_text_alike() {
                put($engine, $suite, |timed| timed.opens_every_key_and_text_alike());
            }

            #[test]
            fn opens_good_and_bad_padding_alike() {
                put($engine, $suite, |timed| timed.opens_good_and_bad_padding_alike());
            }

            #[test]
            fn refuses_an_icv_alike_wherever_it_is_wrong() {
                put($engine, $suite, |timed| timed.refuses_an_icv_alike_wherever_it_is_wrong());
            }
        }
    )*};
}

every_engine! {
    vaes_avx512: "aes128gcm16" Vaes::<Avx512>::new(),
    vaes_avx2: "aes128gcm16" Vaes::<Avx2>::new(),
    aes_ni: "aes128gcm16" Vaes::<AesNi>::new(),
    cbc_hmac: "aes128-sha256" CbcHmac::new(),
    cbc_hmac_sha_ni: "aes128-sha256" CbcHmac::sha_ni(),
    cbc_hmac_avx512: "aes128-sha256" CbcHmac::avx512()
}

fn put<E: Engine>(engine: Result<E, String>, suite: &str, check: impl Fn(&Timed<'_, E>)) {
    let Some(engine) = engine_or_skip(E::NAME, engine) else { return };
    for (packets, payload) in SHAPES {
        check(&Timed { engine: &engine, suite: suite.parse().unwrap(), packets, payload });
    }
}

/// An engine, and bursts for it.
struct Timed<'e, E> {
    engine: &'e E,
    suite: Suite,
    packets: usize,
    payload: usize,
}

/// What is timed.
#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Seal,
    Open,
}
use Operation::{Open, Seal};

/// What a class does to a burst before it is timed: to its key and payloads, and to what was sealed.
trait Class {
    fn prepare(&mut self, class: usize, key: &mut [u8], payload: &mut [u8]);
    fn spoil(&self, _class: usize, _packet: &mut [u8]) {}
}

impl<E: Engine> Timed<'_, E> {
    fn seals_every_key_and_text_alike(&self) {
        self.assert_alike(Seal, &mut ZeroOrRandom(Random(1)));
    }

    fn opens_every_key_and_text_alike(&self) {
        self.assert_alike(Open, &mut ZeroOrRandom(Random(1)));
    }

    fn opens_good_and_bad_padding_alike(&self) {
        self.assert_alike(Open, &mut Padding);
    }

    fn refuses_an_icv_alike_wherever_it_is_wrong(&self) {
        self.assert_alike(Open, &mut WrongIcv(self.suite.icv_len()));
    }

    fn assert_alike(&self, operation: Operation, classes: &mut impl Class) {
        let tries = self.tries(operation, classes);
        println!("{}, {} packets of {} bytes: t = {tries:.1?}", E::NAME, self.packets, self.payload);
        assert!(
            !leaks(&tries),
            "{}, {} packets of {} bytes: t = {tries:?}",
            E::NAME,
            self.packets,
            self.payload
        );
    }

    /// The statistic of each try: more than one only if the one before is suspicious.
    fn tries(&self, operation: Operation, classes: &mut impl Class) -> Vec<f64> {
        let mut tries = vec![self.measure(operation, classes)];
        while tries.len() < TRIES && leaks_so_far(&tries) {
            tries.push(self.measure(operation, classes));
        }
        tries
    }

    /// Measures bursts of two classes in random order, and compares the means.
    fn measure(&self, operation: Operation, classes: &mut impl Class) -> f64 {
        let clear = 8 + self.suite.iv_len();
        let mut packets = vec![vec![0x33; clear + self.payload + self.suite.icv_len()]; self.packets];
        let mut times = [Vec::new(), Vec::new()];
        let mut random = Random(9);
        for _ in 0..MEASUREMENTS {
            let class = (random.next() & 1) as usize;
            let mut material = vec![7; self.suite.key_len()];
            for packet in &mut packets {
                classes.prepare(class, &mut material, &mut packet[clear..clear + self.payload]);
            }
            let key = Key::with_engine(self.engine, self.suite, false, &KeyMaterial::new(material)).unwrap();
            let mut time = self.time(Seal, &key, &mut packets);
            if operation == Open {
                packets.iter_mut().for_each(|packet| classes.spoil(class, packet));
                time = self.time(Open, &key, &mut packets);
            }
            times[class].push(time);
        }
        welch(without_slowest(times))
    }

    /// Cycles that a burst takes.
    fn time(&self, operation: Operation, key: &Key, packets: &mut [Vec<u8>]) -> f64 {
        let job = |packet| Job { key, packet, seq: 5, ok: false };
        let mut jobs: Vec<_> = packets.iter_mut().map(|packet| job(packet.as_mut_slice())).collect();
        // SAFETY: every x86-64 CPU has the instruction.
        let start = unsafe { _rdtsc() };
        match operation {
            Seal => self.engine.seal(&mut jobs),
            Open => self.engine.open(&mut jobs),
        }
        // SAFETY: as above.
        let end = unsafe { _rdtsc() };
        end.wrapping_sub(start) as f64
    }
}

/// Key and text are zero, or random. The same work for both, so that only its outcome differs.
struct ZeroOrRandom(Random);

impl Class for ZeroOrRandom {
    fn prepare(&mut self, class: usize, key: &mut [u8], payload: &mut [u8]) {
        let keep = if class == 0 { 0 } else { 0xff };
        key.iter_mut().chain(payload).for_each(|byte| *byte = self.0.next() as u8 & keep);
    }
}

/// The padding of ESP is right, or nothing about it is (RFC 4303 s2.4).
struct Padding;

impl Class for Padding {
    fn prepare(&mut self, class: usize, _: &mut [u8], payload: &mut [u8]) {
        let padding = if class == 0 { [1, 2, 3, 4, 5, 6, 6, 4] } else { [0xff; 8] };
        payload.fill(0x33);
        if let Some(end) = payload.last_chunk_mut() {
            *end = padding;
        }
    }
}

/// The ICV, of this many bytes, is wrong in its first byte or in its last.
struct WrongIcv(usize);

impl Class for WrongIcv {
    fn prepare(&mut self, _: usize, _: &mut [u8], payload: &mut [u8]) {
        payload.fill(0x33);
    }

    fn spoil(&self, class: usize, packet: &mut [u8]) {
        let at = packet.len() - if class == 0 { self.0 } else { 1 };
        packet[at] ^= 1;
    }
}

/// Whether the tries say that time depends on the class: each of them, and in the same direction.
fn leaks(tries: &[f64]) -> bool {
    tries.len() == TRIES && leaks_so_far(tries)
}

fn leaks_so_far(tries: &[f64]) -> bool {
    tries.iter().all(|t| *t > MOST) || tries.iter().all(|t| *t < -MOST)
}

/// Leaves out what is slower than most, by one bound for both classes: were each cut by its own, the means would differ by more than
/// their variances say where the machine's clock jumps.
fn without_slowest(times: [Vec<f64>; 2]) -> [Vec<f64>; 2] {
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let most = all[(all.len() as f64 * KEPT) as usize];
    times.map(|times| times.into_iter().filter(|time| *time <= most).collect())
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

/// aws-lc-rs, but it compares ICVs byte by byte up to the first that is wrong.
struct Leaky(AwsLc, Cell<[u8; 16]>);

impl Engine for Leaky {
    const NAME: &'static str = "leaky";
    fn supports(&self, suite: Suite) -> bool {
        self.0.supports(suite)
    }
    fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError> {
        self.0.key(suite, esn, material)
    }
    fn seal(&self, jobs: &mut [Job<'_>]) {
        self.0.seal(jobs);
        jobs.iter().for_each(|job| self.1.set(*job.packet.last_chunk().unwrap()));
    }
    fn open(&self, jobs: &mut [Job<'_>]) {
        for job in jobs {
            let icv: [u8; 16] = *job.packet.last_chunk().unwrap();
            job.ok = icv.iter().zip(self.1.get()).all(|(byte, right)| black_box(*byte) == black_box(right));
        }
    }
}

#[test]
fn an_engine_that_compares_icvs_byte_by_byte_is_caught() {
    let engine = Leaky(AwsLc::new(), Cell::default());
    let timed = Timed { engine: &engine, suite: "aes128gcm16".parse().unwrap(), packets: 1, payload: 64 };
    let tries = timed.tries(Open, &mut WrongIcv(16));
    assert!(leaks(&tries), "t = {tries:?}");
}

#[test]
fn the_statistic_sees_a_difference() {
    let times = |mean: f64| (0..1000).map(|n| mean + f64::from(n % 10)).collect::<Vec<_>>();
    assert!(welch([times(100.0), times(100.0)]).abs() < 1.0);
    assert!(welch([times(100.0), times(102.0)]).abs() > MOST);
    // Two clocks, a fifth of the time the slower one, a little more often with one class.
    let clocks = |slow: usize| [vec![100.0; 100_000 - slow], vec![160.0; slow]].concat();
    assert!(welch(without_slowest([clocks(19_800), clocks(20_200)])).abs() < MOST);
    assert!(leaks(&[11.0, 12.0, 13.0]) && leaks(&[-11.0, -12.0, -13.0]));
    assert!(!leaks(&[11.0, -12.0, 13.0]) && !leaks(&[11.0, 12.0, 9.0]) && !leaks(&[11.0, 12.0]));
}
