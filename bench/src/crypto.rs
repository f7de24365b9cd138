//! `spillway-bench crypto`: the engines alone, a burst at a time, beside the bare AEAD call of aws-lc-rs.

use std::time::Instant;

use anyhow::{Context, bail};
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use clap::Args;
use dataplane::buffer::BURST;
use dataplane::crypto::{Crypto, EngineChoice, Job, Key, KeyMaterial, Suite};

use crate::measure::{Case, Round, interleave};
use crate::report::{Finding, Report, Row};

const ESP_HEADER: usize = 8;

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Suites, by their keywords.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "aes128gcm16,aes256gcm16,chacha20poly1305,aes128-sha256"
    )]
    suites: Vec<String>,
    /// Bytes of plaintext with its padding and trailer.
    #[arg(long, value_delimiter = ',', default_value = "64,128,256,512,1024,1420")]
    sizes: Vec<usize>,
    /// Different keys, used at random.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    keys: Vec<usize>,
    /// Rounds of each case.
    #[arg(long, default_value_t = 101)]
    rounds: usize,
    /// Bursts of 64 packets in a round.
    #[arg(long, default_value_t = 40)]
    bursts: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Seal,
    Open,
}

/// Runs the bench.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("crypto");
    for suite in &options.suites {
        let suite: Suite = suite.parse().map_err(|error| anyhow::anyhow!("--suites: {error}"))?;
        for &size in &options.sizes {
            if !size.is_multiple_of(suite.pad_align()) {
                bail!("--sizes: {suite} needs multiples of {} bytes, not {size}", suite.pad_align());
            }
            for &keys in &options.keys {
                bench(options, suite, size, keys, &mut report)?;
            }
        }
    }
    Ok(report)
}

fn bench(
    options: &Options,
    suite: Suite,
    size: usize,
    keys: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut cases = Vec::new();
    let mut labels = Vec::new();
    for direction in [Direction::Seal, Direction::Open] {
        for engine in [EngineChoice::AwsLc, EngineChoice::Vaes] {
            let Ok(crypto) = Crypto::new(engine) else { continue };
            let name = crypto.engine_name(suite);
            if engine == EngineChoice::Vaes && name != "vaes" {
                continue;
            }
            labels.push((direction, name.to_owned()));
            cases.push(engine_case(options, crypto, suite, size, keys, direction)?);
        }
    }
    if let Some(algorithm) = bare_algorithm(suite) {
        labels.push((Direction::Seal, "bare call".to_owned()));
        cases.push(bare_case(options, algorithm, size, keys)?);
    }
    let stats = interleave(&mut cases, options.rounds);
    let of = |direction, name: &str| {
        labels.iter().position(|label| *label == (direction, name.to_owned())).and_then(|at| stats.get(at))
    };
    for ((direction, name), stats) in labels.iter().zip(&stats) {
        let labels = vec![
            format!("{suite:<18}", suite = suite.to_string()),
            format!("{size:>5} B"),
            format!("{keys:>6} keys"),
            format!("{direction:?}").to_lowercase(),
            name.clone(),
        ];
        report.rows.push(Row::new(labels, size as f64, *stats));
    }
    if let (Some(vaes), Some(bare)) = (of(Direction::Seal, "vaes"), of(Direction::Seal, "bare call")) {
        report.findings.push(Finding {
            what: format!("{suite}, {size} B, {keys} keys: bare aws-lc-rs call over vaes, seal"),
            value: bare.median / vaes.median,
            unit: "x",
            goal: "goal: 5 at 64 B, 2 at 1420 B".into(),
        });
    }
    Ok(())
}

fn engine_case<'a>(
    options: &Options,
    crypto: Crypto,
    suite: Suite,
    size: usize,
    keys: usize,
    direction: Direction,
) -> anyhow::Result<Case<'a>> {
    let keys = make_keys(&crypto, suite, keys)?;
    let len = ESP_HEADER + suite.iv_len() + size + suite.icv_len();
    let mut packets = vec![vec![0x5a_u8; len]; BURST];
    let bursts = options.bursts;
    let mut picks = Picks::default();
    let mut seq = 0_u64;
    let run = move || {
        let mut round = Round { time: std::time::Duration::ZERO, packets: 0 };
        for _ in 0..bursts {
            let chosen: Vec<&Key> = (0..BURST).filter_map(|_| keys.get(picks.below(keys.len()))).collect();
            let mut jobs: Vec<Job<'_>> = packets
                .iter_mut()
                .zip(&chosen)
                .map(|(packet, key)| {
                    seq += 1;
                    Job { key, packet, seq, ok: false }
                })
                .collect();
            if direction == Direction::Open {
                crypto.seal(&mut jobs);
            }
            let start = Instant::now();
            match direction {
                Direction::Seal => crypto.seal(&mut jobs),
                Direction::Open => crypto.open(&mut jobs),
            }
            round.time += start.elapsed();
            assert!(jobs.iter().all(|job| job.ok), "the engine refused a packet");
            round.packets += BURST as u64;
        }
        round
    };
    Ok(Case { run: Box::new(run) })
}

/// What everybody who calls aws-lc-rs pays: one call a packet, nonce and AAD made for it.
fn bare_case<'a>(
    options: &Options,
    algorithm: &'static Algorithm,
    size: usize,
    keys: usize,
) -> anyhow::Result<Case<'a>> {
    let keys = (0..keys)
        .map(|i| {
            let mut bytes = vec![7; algorithm.key_len()];
            bytes[..8].copy_from_slice(&(i as u64).to_be_bytes());
            UnboundKey::new(algorithm, &bytes).map(LessSafeKey::new)
        })
        .collect::<Result<Vec<_>, _>>()
        .context("aws-lc-rs refused a key")?;
    let mut packets = vec![vec![0x5a_u8; size]; BURST];
    let bursts = options.bursts;
    let mut picks = Picks::default();
    let mut seq = 0_u64;
    let run = move || {
        let mut round = Round { time: std::time::Duration::ZERO, packets: 0 };
        for _ in 0..bursts {
            let chosen: Vec<&LessSafeKey> =
                (0..BURST).filter_map(|_| keys.get(picks.below(keys.len()))).collect();
            let start = Instant::now();
            for (packet, key) in packets.iter_mut().zip(&chosen) {
                seq += 1;
                let mut nonce = [1; 12];
                nonce[4..].copy_from_slice(&seq.to_be_bytes());
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from([2; 12]), packet);
                assert!(tag.is_ok(), "aws-lc-rs refused a packet");
            }
            round.time += start.elapsed();
            round.packets += BURST as u64;
        }
        round
    };
    Ok(Case { run: Box::new(run) })
}

fn bare_algorithm(suite: Suite) -> Option<&'static Algorithm> {
    match suite.to_string().as_str() {
        "aes128gcm16" => Some(&AES_128_GCM),
        "aes256gcm16" => Some(&AES_256_GCM),
        "chacha20poly1305" => Some(&CHACHA20_POLY1305),
        _ => None,
    }
}

fn make_keys(crypto: &Crypto, suite: Suite, count: usize) -> anyhow::Result<Vec<Key>> {
    (0..count)
        .map(|i| {
            let mut bytes: Vec<u8> = (0..suite.key_len()).map(|at| at as u8).collect();
            bytes.iter_mut().zip((i as u64).to_be_bytes()).for_each(|(to, from)| *to ^= from);
            crypto.key(suite, true, &KeyMaterial::new(bytes)).with_context(|| format!("a key of {suite}"))
        })
        .collect()
}

/// A cheap sequence of indices without a pattern that a prefetcher knows (xorshift).
struct Picks(u64);

impl Default for Picks {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Picks {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % count as u64) as usize
    }
}
