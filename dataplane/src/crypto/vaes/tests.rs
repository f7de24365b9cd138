//! The engine against aws-lc-rs, packet by packet.

use crate::crypto::aws_lc::AwsLc;
use crate::crypto::engine::Engine;
use crate::crypto::tests::engine_or_skip;
use crate::crypto::{EngineKey, Job, Key, KeyError, KeyMaterial, Suite};

use super::{AesNi, Avx2, Avx512, Tier, Vaes, VaesKey};

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

/// The engine of a tier, where the CPU has it.
fn engine<T: Tier>() -> Option<Vaes<T>> {
    engine_or_skip(T::NAME, Vaes::new())
}

/// Puts each tier to a check.
macro_rules! every_tier {
    ($($check:ident)*) => {$(
        mod $check {
            use super::*;

            #[test]
            fn vaes_avx512() {
                engine::<Avx512>().iter().for_each(super::$check);
            }

            #[test]
            fn vaes_avx2() {
                engine::<Avx2>().iter().for_each(super::$check);
            }

            #[test]
            fn aes_ni() {
                engine::<AesNi>().iter().for_each(super::$check);
            }
        }
    )*};
}

every_tier! {
    agrees_with_aws_lc_at_every_length
    bursts_of_different_keys_and_lengths_agree_with_aws_lc
    any_changed_byte_is_refused_and_leaves_nothing
    bytes_around_a_packet_stay_at_every_alignment
    a_packet_may_start_and_end_where_memory_does
    a_dropped_key_leaves_nothing
    a_key_of_no_known_shape_is_refused
    agrees_with_aws_lc_as_at_start_up
}

/// A key of both engines.
struct Pair {
    ours: Key,
    judge: Key,
}

impl Pair {
    fn new<T: Tier>(vaes: &Vaes<T>, suite: &str, esn: bool, seed: u64) -> Self {
        let suite: Suite = suite.parse().unwrap();
        let material = KeyMaterial::new(bytes(seed, suite.key_len()));
        Self {
            ours: Key::with_engine(vaes, suite, esn, &material).unwrap(),
            judge: Key::with_engine(&AwsLc::new(), suite, esn, &material).unwrap(),
        }
    }

    fn all<T: Tier>(vaes: &Vaes<T>) -> Vec<Self> {
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

fn agrees_with_aws_lc_at_every_length<T: Tier>(vaes: &Vaes<T>) {
    let long = (0..16).map(|i| 2100 + i * 473);
    for pair in Pair::all(vaes) {
        for payload in (0..=2100).chain(long.clone()).chain(4000..4100).chain(9180..=9200) {
            let seq = 0x0102_0304_f000_0000 + payload as u64 * 77;
            let plain = pair.packet(payload, seq);
            let (mut ours, mut judge) = (plain.clone(), plain.clone());
            assert!(seal(&AwsLc::new(), &pair.judge, &mut judge, seq));
            assert!(seal(vaes, &pair.ours, &mut ours, seq));
            assert_eq!(ours, judge, "{:?} {payload}", pair.ours);
            assert!(open(vaes, &pair.ours, &mut ours, seq), "{:?} {payload}", pair.ours);
            let text = 8 + pair.ours.iv_len()..ours.len() - pair.ours.icv_len();
            assert_eq!(ours[text.clone()], plain[text], "{:?} {payload}", pair.ours);
        }
    }
}

fn bursts_of_different_keys_and_lengths_agree_with_aws_lc<T: Tier>(vaes: &Vaes<T>) {
    let pairs = Pair::all(vaes);
    for burst in (1..=64).chain([65, 100, 257]) {
        for (most, alike) in [(100, 4), (240, 1), (700, 2), (1500, 1), (9200, 3)] {
            let random = bytes(burst as u64 * 7 + most as u64, 4 * burst);
            // `alike` packets in a row have one key and one length.
            let pick = |n: usize| {
                let at = n / alike * alike;
                let random = u32::from_le_bytes(random[4 * at..4 * at + 4].try_into().unwrap()) as usize;
                (&pairs[random % pairs.len()], random / pairs.len() % most, 0x7_ffff_fff0 + n as u64)
            };
            let plain: Vec<_> = (0..burst).map(|n| pick(n).0.packet(pick(n).1, pick(n).2)).collect();
            let mut judged = plain.clone();
            for (n, packet) in judged.iter_mut().enumerate() {
                let (pair, _, seq) = pick(n);
                assert!(seal(&AwsLc::new(), &pair.judge, packet, seq));
            }
            let mut ours = plain.clone();
            let mut jobs: Vec<_> = ours
                .iter_mut()
                .enumerate()
                .map(|(n, packet)| {
                    let (pair, _, seq) = pick(n);
                    Job { key: &pair.ours, packet, seq, ok: false }
                })
                .collect();
            vaes.seal(&mut jobs);
            assert!(jobs.iter().all(|job| job.ok));
            assert!(jobs.iter().zip(&judged).all(|(job, judged)| job.packet == judged), "{burst} of {most}");
            // Every third is damaged somewhere; that may not show in the others.
            let damaged = |n: usize| n % 3 == 1;
            for (n, job) in jobs.iter_mut().enumerate().filter(|(n, _)| damaged(*n)) {
                let at = random[n] as usize % job.packet.len();
                job.packet[at] ^= 0x80;
            }
            vaes.open(&mut jobs);
            for (n, job) in jobs.iter().enumerate() {
                let text = 8 + job.key.iv_len()..job.packet.len() - job.key.icv_len();
                assert_eq!(job.ok, !damaged(n), "packet {n} of {burst}");
                let opened = &job.packet[text.clone()];
                assert!(if damaged(n) { opened.iter().all(|&b| b == 0) } else { *opened == plain[n][text] });
            }
        }
    }
}

fn any_changed_byte_is_refused_and_leaves_nothing<T: Tier>(vaes: &Vaes<T>) {
    for pair in Pair::all(vaes) {
        for payload in [0, 16, 64, 100, 236, 300, 500, 1424] {
            let mut sealed = pair.packet(payload, 5);
            assert!(seal(vaes, &pair.ours, &mut sealed, 5));
            let text = 8 + pair.ours.iv_len()..sealed.len() - pair.ours.icv_len();
            for at in 0..sealed.len() {
                let mut packet = sealed.clone();
                packet[at] ^= 1 << (at % 8);
                assert!(!open(vaes, &pair.ours, &mut packet, 5), "{:?} {payload} at {at}", pair.ours);
                assert!(packet[text.clone()].iter().all(|&byte| byte == 0));
            }
            assert!(open(vaes, &pair.ours, &mut sealed, 5));
        }
    }
}

fn bytes_around_a_packet_stay_at_every_alignment<T: Tier>(vaes: &Vaes<T>) {
    const GUARD: usize = 128;
    for pair in [Pair::new(vaes, "aes128gcm16", true, 1), Pair::new(vaes, "aes256gcm16iiv", false, 2)] {
        for payload in [0, 4, 31, 64, 68, 100, 200, 230, 300, 494, 500, 1000, 1424] {
            for offset in 0..64 {
                let plain = pair.packet(payload, 9);
                let mut memory = vec![0xee; GUARD + offset + plain.len() + GUARD];
                let place = GUARD + offset..GUARD + offset + plain.len();
                memory[place.clone()].copy_from_slice(&plain);
                assert!(seal(vaes, &pair.ours, &mut memory[place.clone()], 9));
                assert!(open(vaes, &pair.ours, &mut memory[place.clone()], 9));
                assert_eq!(
                    memory[place.clone()][8 + pair.ours.iv_len()..][..payload],
                    plain[8 + pair.ours.iv_len()..][..payload]
                );
                memory[place.clone()].fill(0xee);
                assert!(memory.iter().all(|&byte| byte == 0xee), "{payload} at {offset}");
            }
        }
    }
}

fn a_packet_may_start_and_end_where_memory_does<T: Tier>(vaes: &Vaes<T>) {
    let mut island = Island::new();
    for pair in [
        Pair::new(vaes, "aes128gcm16", true, 1),
        Pair::new(vaes, "aes192gcm8", false, 2),
        Pair::new(vaes, "aes256gcm16iiv", false, 2),
    ] {
        for payload in (0..=600).chain([1000, 1424, 2000, 4000, 4040]) {
            let plain = pair.packet(payload, 9);
            let at_end = Island::LEN - plain.len();
            for start in [0, at_end] {
                let packet = &mut island.bytes()[start..start + plain.len()];
                packet.copy_from_slice(&plain);
                assert!(seal(vaes, &pair.ours, packet, 9));
                assert!(open(vaes, &pair.ours, packet, 9));
                packet[4] ^= 1;
                assert!(!open(vaes, &pair.ours, packet, 9));
            }
        }
    }
}

/// A page with nothing mapped before and behind it.
struct Island(std::ptr::NonNull<u8>);

impl Island {
    const LEN: usize = 4096;

    fn new() -> Self {
        // SAFETY: a new anonymous mapping; the outer pages lose all access, the middle one is used by `bytes` alone.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(std::ptr::null_mut(), 3 * Self::LEN, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            let middle = base.byte_add(Self::LEN);
            assert_eq!(libc::mprotect(middle, Self::LEN, libc::PROT_READ | libc::PROT_WRITE), 0);
            base
        };
        Self(std::ptr::NonNull::new(base.cast()).unwrap())
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the middle page is mapped, zeroed by the kernel, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().add(Self::LEN), Self::LEN) }
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, and nothing borrows it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), 3 * Self::LEN) };
    }
}

fn a_dropped_key_leaves_nothing<T: Tier>(vaes: &Vaes<T>) {
    let mut key =
        std::mem::MaybeUninit::new(VaesKey::new(vaes.0.least(), &[0x5a; 36], 16, false, true).unwrap());
    let bytes = key.as_ptr().cast::<[u8; size_of::<VaesKey>()]>();
    // SAFETY: the key is initialised and dropped once; its bytes, all initialised, stay where they are.
    let (before, after) = unsafe {
        let before = *bytes;
        key.assume_init_drop();
        (before, std::ptr::read_volatile(bytes))
    };
    let full = |bytes: &[u8]| bytes.chunks(16).filter(|block| block.iter().any(|&byte| byte != 0)).count();
    // One block is reserved, and one, which stays, has the parameters.
    assert_eq!((full(&before), full(&after)), (size_of::<VaesKey>() / 16 - 1, 1));
}

fn a_key_of_no_known_shape_is_refused<T: Tier>(vaes: &Vaes<T>) {
    for len in (0..64).filter(|len| ![20, 28, 36].contains(len)) {
        assert!(VaesKey::new(vaes.0.least(), &vec![1; len], 16, false, false).is_none());
    }
    assert!(
        (0..32).filter(|icv| ![8, 12, 16].contains(icv)).all(|icv| VaesKey::new(
            vaes.0.least(),
            &[1; 20],
            icv,
            false,
            false
        )
        .is_none())
    );
}

fn agrees_with_aws_lc_as_at_start_up<T: Tier>(vaes: &Vaes<T>) {
    assert_eq!(vaes.agrees_with(&AwsLc::new()), Ok(()));
    // It can fail: a judge with another idea of the upper half.
    assert!(vaes.agrees_with(&Wrong).is_err());
}

/// aws-lc with the upper half of the sequence number one off.
struct Wrong;

impl Engine for Wrong {
    const NAME: &'static str = "wrong";
    fn supports(&self, suite: Suite) -> bool {
        AwsLc::new().supports(suite)
    }
    fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError> {
        AwsLc::new().key(suite, esn, material)
    }
    fn seal(&self, jobs: &mut [Job<'_>]) {
        jobs.iter_mut().filter(|job| job.key.esn()).for_each(|job| job.seq += 1 << 32);
        AwsLc::new().seal(jobs);
    }
    fn open(&self, jobs: &mut [Job<'_>]) {
        AwsLc::new().open(jobs);
    }
}
