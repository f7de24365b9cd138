//! Cases below the worker: an engine over bursts of whole ESP packets, and the bare AEAD call of aws-lc-rs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use dataplane::buffer::BURST;
use dataplane::crypto::{Crypto, Job, Key, KeyMaterial, Suite};

use crate::measure::{Case, Round};
use crate::random::Random;

const ESP_HEADER: usize = 8;

/// What the packets of a case are.
#[derive(Clone, Debug)]
pub struct Work {
    /// Their algorithms.
    pub suite: Suite,
    /// Bytes of plaintext with padding and trailer; they repeat.
    pub bodies: Vec<usize>,
    /// Different keys, used at random.
    pub keys: usize,
    /// Bursts in a round, after one that is not timed.
    pub bursts: usize,
}

/// What an engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Encrypt and authenticate.
    Seal,
    /// Verify and decrypt.
    Open,
}

impl Operation {
    /// As in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
        }
    }
}

/// Bytes of plaintext that an inner packet of `length` bytes becomes in tunnel mode (RFC 4303 s2.4).
pub fn body_len(suite: Suite, length: usize) -> usize {
    (length + 2).next_multiple_of(suite.pad_align())
}

/// An engine alone, called as the worker calls it.
///
/// # Errors
/// When a key is refused.
pub fn engine<'a>(crypto: Arc<Crypto>, work: &Work, operation: Operation) -> anyhow::Result<Case<'a>> {
    let keys = make_keys(&crypto, work.suite, work.keys)?;
    let around = ESP_HEADER + work.suite.iv_len() + work.suite.icv_len();
    let mut packets: Vec<Vec<u8>> =
        work.bodies.iter().cycle().take(BURST).map(|body| frame(around + body)).collect();
    let bursts = work.bursts;
    let mut random = Random::default();
    let mut seq = 0_u64;
    let run = move || {
        let mut time = Duration::ZERO;
        for burst in 0..=bursts {
            let chosen: Vec<&Key> = (0..BURST).filter_map(|_| keys.get(random.below(keys.len()))).collect();
            let mut jobs: Vec<Job<'_>> = packets
                .iter_mut()
                .zip(&chosen)
                .map(|(packet, key)| {
                    seq += 1;
                    Job { key, packet, seq, ok: false }
                })
                .collect();
            if operation == Operation::Open {
                crypto.seal(&mut jobs);
            }
            let start = Instant::now();
            match operation {
                Operation::Seal => crypto.seal(&mut jobs),
                Operation::Open => crypto.open(&mut jobs),
            }
            // The first burst brings code, keys and packets back into the caches.
            time += if burst == 0 { Duration::ZERO } else { start.elapsed() };
            ensure!(jobs.iter().all(|job| job.ok), "the engine refused a packet");
        }
        Ok(Round { time, packets: (bursts * BURST) as u64 })
    };
    Ok(Case { run: Box::new(run) })
}

/// What everybody who calls aws-lc-rs pays: one call a packet, nonce and AAD made for it. `None` for a suite that is
/// not an AEAD of aws-lc-rs.
///
/// # Errors
/// When a key is refused.
pub fn bare<'a>(work: &Work) -> anyhow::Result<Option<Case<'a>>> {
    let Some(algorithm) = algorithm(work.suite) else { return Ok(None) };
    let keys = (0..work.keys)
        .map(|i| {
            let mut bytes = vec![7; algorithm.key_len()];
            bytes.iter_mut().zip((i as u64).to_be_bytes()).for_each(|(to, from)| *to ^= from);
            UnboundKey::new(algorithm, &bytes).map(LessSafeKey::new)
        })
        .collect::<Result<Vec<_>, _>>()
        .context("aws-lc-rs refused a key")?;
    let mut packets: Vec<Vec<u8>> = work.bodies.iter().cycle().take(BURST).map(|body| frame(*body)).collect();
    let bursts = work.bursts;
    let mut random = Random::default();
    let mut seq = 0_u64;
    let run = move || {
        let mut time = Duration::ZERO;
        let mut sealed = 0;
        for burst in 0..=bursts {
            let chosen: Vec<&LessSafeKey> =
                (0..BURST).filter_map(|_| keys.get(random.below(keys.len()))).collect();
            let start = Instant::now();
            for (packet, key) in packets.iter_mut().zip(&chosen) {
                seq += 1;
                let mut nonce = [1; 12];
                nonce[4..].copy_from_slice(&seq.to_be_bytes());
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from([2; 12]), packet);
                sealed += usize::from(std::hint::black_box(tag).is_ok());
            }
            time += if burst == 0 { Duration::ZERO } else { start.elapsed() };
        }
        ensure!(sealed == (bursts + 1) * BURST, "aws-lc-rs refused a packet");
        Ok(Round { time, packets: (bursts * BURST) as u64 })
    };
    Ok(Some(Case { run: Box::new(run) }))
}

/// A packet with room around it, as it has on the path. Side by side, a masked load at the start of one would wait for the store
/// at the end of another.
pub fn frame(len: usize) -> Vec<u8> {
    const ROOM: usize = 2048;
    let mut frame = Vec::with_capacity(len + ROOM);
    frame.resize(len, 0x5a);
    frame
}

fn algorithm(suite: Suite) -> Option<&'static Algorithm> {
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

#[cfg(test)]
mod tests {
    use dataplane::crypto::EngineChoice;

    use super::*;

    #[test]
    fn bodies_are_padded_as_esp_wants() {
        let gcm: Suite = "aes128gcm16".parse().unwrap();
        let cbc: Suite = "aes128-sha256".parse().unwrap();
        assert_eq!((body_len(gcm, 64), body_len(gcm, 1420)), (68, 1424));
        assert_eq!((body_len(cbc, 64), body_len(cbc, 1420)), (80, 1424));
    }

    #[test]
    fn engine_and_bare_call_carry_the_packets_they_count() {
        let crypto = Arc::new(Crypto::new(EngineChoice::AwsLc).unwrap());
        let work = Work { suite: "aes128gcm16".parse().unwrap(), bodies: vec![68, 596], keys: 3, bursts: 2 };
        let mut cases = [
            engine(Arc::clone(&crypto), &work, Operation::Seal).unwrap(),
            engine(Arc::clone(&crypto), &work, Operation::Open).unwrap(),
            bare(&work).unwrap().unwrap(),
        ];
        for case in &mut cases {
            assert_eq!((case.run)().unwrap().packets, 128);
        }
        let cbc = Work { suite: "aes128-sha256".parse().unwrap(), ..work };
        assert!(bare(&cbc).unwrap().is_none());
    }
}
