//! The crypto engines against each other.

use std::sync::OnceLock;

use super::Input;
use crate::crypto::{Crypto, EngineChoice, EngineError, Job, Key, KeyMaterial, Suite};

/// A burst through each engine of ours and through aws-lc-rs: they seal alike, open what the other sealed, and refuse what was
/// changed without leaving plaintext. An input is a suite, flags, a sequence number, and then one record a packet: length, filling, the
/// byte to change, and how.
pub fn crypto_engines(data: &[u8]) {
    let mut input = Input(data);
    let suites: Vec<Suite> = Suite::all().filter(|suite| !suite.is_ah()).collect();
    let suite = input.choose(&suites);
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
    let Ok(judge) = judge().key(suite, esn, &KeyMaterial::new(material.clone())) else { return };
    for engine in engines() {
        if engine.engine_name(suite) == "aws-lc" {
            continue;
        }
        let ours = engine.key(suite, esn, &KeyMaterial::new(material.clone())).expect("aws-lc took it");
        compare(engine, &ours, &judge, seq, &packets);
    }
}

struct Record {
    len: usize,
    filling: u8,
    place: u16,
    change: u8,
}

fn compare(engine: &Crypto, ours: &Key, theirs: &Key, seq: u64, records: &[Record]) {
    let (start, icv_len) = (8 + ours.iv_len(), ours.icv_len());
    let plain: Vec<Vec<u8>> = records
        .iter()
        .map(|record| (0..start + record.len + icv_len).map(|at| (at as u8) ^ record.filling).collect())
        .collect();
    let (mut sealed, mut judged) = (plain.clone(), plain.clone());
    assert!(run(&mut sealed, ours, seq, |jobs| engine.seal(jobs)).iter().all(|ok| *ok));
    assert!(run(&mut judged, theirs, seq, |jobs| judge().seal(jobs)).iter().all(|ok| *ok));
    if ours.suite().is_aead() {
        assert!(sealed == judged, "{ours:?} seals something else");
    }
    // Each opens what the other sealed.
    let mut opened = sealed.clone();
    assert!(run(&mut opened, theirs, seq, |jobs| judge().open(jobs)).iter().all(|ok| *ok));
    for (opened, plain) in opened.iter().zip(&plain) {
        let payload = start..plain.len() - icv_len;
        assert!(opened[payload.clone()] == plain[payload], "{ours:?} sealed something else");
    }
    for (record, packet) in records.iter().zip(&mut judged) {
        let place = usize::from(record.place) % packet.len();
        packet[place] ^= record.change;
    }
    let ok = run(&mut judged, ours, seq, |jobs| engine.open(jobs));
    for ((record, ok), (packet, plain)) in records.iter().zip(ok).zip(judged.iter().zip(&plain)) {
        assert_eq!(ok, record.change == 0, "{ours:?}, {} bytes", record.len);
        let payload = &packet[start..start + record.len];
        if ok {
            assert!(*payload == plain[start..start + record.len], "{ours:?}, {} bytes", record.len);
        } else {
            assert!(payload.iter().all(|&byte| byte == 0), "{ours:?}, {} bytes", record.len);
        }
    }
}

fn run(packets: &mut [Vec<u8>], key: &Key, seq: u64, call: impl Fn(&mut [Job<'_>])) -> Vec<bool> {
    let mut jobs: Vec<_> =
        (seq..).zip(packets.iter_mut()).map(|(seq, packet)| Job { key, packet, seq, ok: false }).collect();
    call(&mut jobs);
    jobs.iter().map(|job| job.ok).collect()
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
