//! The crypto engines against each other.

use std::ops::Range;
use std::sync::{LazyLock, OnceLock};

use super::{Digest, Input};
use crate::crypto::{Crypto, EngineChoice, EngineError, Job, Key, KeyMaterial, Suite};

/// A burst through each engine of ours and through aws-lc-rs: they seal alike, open what the other sealed, and refuse what was
/// changed without leaving plaintext. An input is a suite, flags, a sequence number, and then one record a packet: length, filling, the
/// byte to change, and how.
pub fn crypto_engines(data: &[u8]) -> u64 {
    let mut input = Input(data);
    static SUITES: LazyLock<Vec<Suite>> =
        LazyLock::new(|| Suite::all().filter(|suite| !suite.is_ah()).collect());
    let suite = input.choose(&SUITES);
    let esn = input.byte() & 1 != 0;
    let seq = u64::from(input.u16()) << 40 | u64::from(input.u16()) << 16 | u64::from(input.u16());
    let material: Vec<u8> = input.take(suite.key_len()).to_vec();
    let material: Vec<u8> = material.iter().copied().chain(1..).take(suite.key_len()).collect();
    let mut packets = Vec::new();
    while !input.is_empty() && packets.len() < 80 {
        packets.push(Record {
            len: usize::from(input.u16()) % 2400 / suite.pad_align() * suite.pad_align() + suite.pad_align(),
            filling: input.byte(),
            place: input.u16(),
            change: input.byte(),
        });
    }
    let Ok(theirs) = judge().key(suite, esn, &KeyMaterial::new(material.clone())) else { return 0 };
    let judgement = Judgement::new(theirs, seq, packets);
    for engine in engines() {
        if engine.engine_name(suite) == "aws-lc" {
            continue;
        }
        let ours = engine.key(suite, esn, &KeyMaterial::new(material.clone())).expect("aws-lc took it");
        judgement.compare(engine, &ours);
    }
    let mut digest = Digest::default();
    if suite.is_aead() {
        // The IVs of others depend on a secret that each key draws.
        judgement.sealed.iter().for_each(|packet| digest.saw(packet));
    }
    digest.finish()
}

struct Record {
    len: usize,
    filling: u8,
    place: u16,
    change: u8,
}

/// What aws-lc-rs makes of a burst.
struct Judgement {
    key: Key,
    seq: u64,
    records: Vec<Record>,
    plain: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
    /// What it sealed, changed as the records say.
    spoilt: Vec<Vec<u8>>,
}

impl Judgement {
    fn new(key: Key, seq: u64, records: Vec<Record>) -> Self {
        let around = 8 + key.iv_len() + key.icv_len();
        let plain: Vec<_> =
            records.iter().map(|record| pattern(record.filling, around + record.len).to_vec()).collect();
        let mut sealed = plain.clone();
        assert!(run(&mut sealed, &key, seq, |jobs| judge().seal(jobs)));
        let mut spoilt = sealed.clone();
        for (record, packet) in records.iter().zip(&mut spoilt) {
            let place = usize::from(record.place) % packet.len();
            packet[place] ^= record.change;
        }
        let judgement = Self { key, seq, records, plain, sealed, spoilt };
        judgement.open(&judgement.sealed);
        judgement
    }

    /// It opens what somebody sealed, and gets what was put in.
    fn open(&self, sealed: &[Vec<u8>]) {
        let mut opened = sealed.to_vec();
        assert!(run(&mut opened, &self.key, self.seq, |jobs| judge().open(jobs)));
        for (opened, plain) in opened.iter().zip(&self.plain) {
            let payload = self.payload(plain);
            assert!(opened[payload.clone()] == plain[payload], "{:?} sealed something else", self.key);
        }
    }

    fn payload(&self, packet: &[u8]) -> Range<usize> {
        8 + self.key.iv_len()..packet.len() - self.key.icv_len()
    }

    fn compare(&self, engine: &Crypto, ours: &Key) {
        let mut sealed = self.plain.clone();
        assert!(run(&mut sealed, ours, self.seq, |jobs| engine.seal(jobs)));
        if sealed != self.sealed {
            assert!(!ours.suite().is_aead(), "{ours:?} seals something else");
            self.open(&sealed);
        }
        let mut opened = self.spoilt.clone();
        let mut jobs = jobs(&mut opened, ours, self.seq);
        engine.open(&mut jobs);
        let ok: Vec<_> = jobs.iter().map(|job| job.ok).collect();
        for ((record, ok), (packet, plain)) in self.records.iter().zip(ok).zip(opened.iter().zip(&self.plain))
        {
            assert_eq!(ok, record.change == 0, "{ours:?}, {} bytes", record.len);
            let payload = self.payload(packet);
            let expected = if ok { &plain[payload.clone()] } else { &ZEROS[..payload.len()] };
            assert!(packet[payload] == *expected, "{ours:?}, {} bytes", record.len);
        }
    }
}

/// The longest packet that a record asks for.
const LONGEST: usize = 2560;
const ZEROS: [u8; LONGEST] = [0; LONGEST];

/// Bytes that all differ from those beside them. Copied and not computed, which the fuzzer would watch byte by byte.
fn pattern(filling: u8, len: usize) -> &'static [u8] {
    static BYTES: [u8; LONGEST + 256] = {
        let mut bytes = [0; LONGEST + 256];
        let mut at = 0;
        while at < bytes.len() {
            bytes[at] = at as u8;
            at += 1;
        }
        bytes
    };
    &BYTES[filling.into()..][..len]
}

fn jobs<'a>(packets: &'a mut [Vec<u8>], key: &'a Key, seq: u64) -> Vec<Job<'a>> {
    (seq..).zip(packets.iter_mut()).map(|(seq, packet)| Job { key, packet, seq, ok: false }).collect()
}

/// Whether all of it went well.
fn run(packets: &mut [Vec<u8>], key: &Key, seq: u64, call: impl Fn(&mut [Job<'_>])) -> bool {
    let mut jobs = jobs(packets, key, seq);
    call(&mut jobs);
    jobs.iter().all(|job| job.ok)
}

fn judge() -> &'static Crypto {
    static JUDGE: OnceLock<Crypto> = OnceLock::new();
    JUDGE.get_or_init(|| Crypto::new(EngineChoice::AwsLc).expect("it passes its self-test"))
}

/// All that run here.
fn engines() -> &'static [Crypto] {
    static ENGINES: OnceLock<Vec<Crypto>> = OnceLock::new();
    let all = [EngineChoice::VaesAvx512, EngineChoice::VaesAvx2, EngineChoice::AesNi];
    let start = |choice| match Crypto::new(choice) {
        Err(EngineError::Unavailable { .. }) => None,
        started => Some(started.expect("it passes its self-test")),
    };
    ENGINES.get_or_init(|| all.into_iter().filter_map(start).collect())
}
