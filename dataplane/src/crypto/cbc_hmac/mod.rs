//! AES-CBC with HMAC-SHA-256 for ESP (RFC 3602, RFC 4868) by the CPU's AES and SHA instructions, several packets side by side.
//!
//! Both algorithms are chains in which every step waits for the one before: call by call, a packet at a time, the CPU
//! mostly waits. A burst has packets that do not wait for each other (`cbc`, `hmac`). NULL encryption goes the same way
//! without the cipher.
//!
//! SHA-256 needs the SHA extensions (Zen, Ice Lake, Goldmont and later; four lanes) or AVX-512 (sixteen), which Skylake-X and
//! Cascade Lake have without them; a CPU with both takes the extensions (`hashes`). A few packets through sixteen lanes take
//! longer than one by one would, and go there all the same. CPUs with neither would need eight hashes side by side in AVX2
//! registers; there aws-lc-rs stays.
//!
//! AES-CBC goes through eight lanes of AES-NI, and packets of one key through sixteen of VAES where the CPU has it (`ciphers`).
//!
//! What binds is the SHA unit: of the 2,030 cycles that a packet of 1,424 bytes takes on Zen 3, 1,620 are 25 blocks of SHA-256, with
//! 64.8 where the unit can do no less than 64, and 350 are AES. The two phases follow each other. Rounds of AES between those of
//! SHA-256 were tried when eight lanes of AES-NI took 840 cycles, and are slower: four hashes alone fill the registers, so the states
//! of AES go through memory (sealing took 990 ns and not 770, opening 1,080 and not 680). With VAES there is less left to hide.
//!
//! Constant time: no table, and no branch or address depends on a key, a text or a hash. Lengths, key sizes and whether an
//! ICV was good are public. The cipher runs only after the ICV verified (RFC 4303 s3.4.4.1), so there is nothing for a padding
//! oracle to tell.

// Arrays of vectors are walked in step, and only a plain index is sure to be unrolled into registers.
#![allow(unsafe_code, clippy::needless_range_loop)]

use arrayvec::ArrayVec;
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::engine::{ESP_HEADER_LEN, Engine};
use super::suite::{Encryption, Integrity, Suite};
use super::{EngineKey, Job, KeyError, KeyMaterial};

mod cbc;
mod ciphers;
mod hashes;
mod hmac;
mod key;
mod self_test;
mod sha256;
#[cfg(test)]
mod tests;

use cbc::{BLOCK, Chain};
use ciphers::Ciphers;
use hashes::Hashes;
use hmac::Message;
pub use key::CbcHmacKey;
use sha256::{Avx512, DIGEST, ShaNi};

/// The engine. Exists only when the CPU has what it needs.
#[derive(Clone, Copy, Debug)]
pub struct CbcHmac {
    ciphers: Ciphers,
    hashes: Hashes,
}

impl CbcHmac {
    /// The engine with all that the CPU has.
    ///
    /// # Errors
    /// What the CPU misses, or the operating system did not turn on.
    pub fn new() -> Result<Self, String> {
        Ok(Self { ciphers: Ciphers::detect()?, hashes: Hashes::detect()? })
    }

    /// The engine with SHA extensions and without VAES.
    ///
    /// # Errors
    /// What the CPU misses, or the operating system did not turn on.
    pub fn sha_ni() -> Result<Self, String> {
        Ok(Self { ciphers: Ciphers::aes_ni()?, hashes: Hashes::ShaNi(ShaNi::detect()?) })
    }

    /// The engine without VAES and SHA extensions.
    ///
    /// # Errors
    /// What the CPU misses, or the operating system did not turn on.
    pub fn avx512() -> Result<Self, String> {
        Ok(Self { ciphers: Ciphers::aes_ni()?, hashes: Hashes::Avx512(Avx512::detect()?) })
    }

    /// Asks for what a packet needs of a key of this engine.
    #[inline]
    pub fn prefetch(&self, key: &EngineKey) {
        key::prefetch(key);
    }
}

impl Engine for CbcHmac {
    const NAME: &'static str = "cbc-hmac";

    fn supports(&self, suite: Suite) -> bool {
        matches!(suite.encryption(), Some(Encryption::AesCbc(_) | Encryption::Null))
            && suite.integrity() == Some(Integrity::HmacSha256)
    }

    fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError> {
        CbcHmacKey::new(*self, suite, esn, material.expose())
            .map(EngineKey::CbcHmac)
            .ok_or(KeyError::Rejected { suite })
    }

    #[inline]
    fn seal(&self, jobs: &mut [Job<'_>]) {
        prefetch(jobs);
        if self.hashes.wide() {
            self.seal_by::<TOGETHER_WIDE>(jobs);
        } else {
            self.seal_by::<TOGETHER>(jobs);
        }
    }

    #[inline]
    fn open(&self, jobs: &mut [Job<'_>]) {
        prefetch(jobs);
        if self.hashes.wide() {
            self.open_by::<TOGETHER_WIDE>(jobs);
        } else {
            self.open_by::<TOGETHER>(jobs);
        }
    }
}

/// Jobs that go through the cipher and the hash together: more than there are lanes, so that lanes stay filled when lengths
/// differ, and so few that what one of the two has touched is still in the nearest cache for the other.
const TOGETHER: usize = 16;
/// The same with sixteen lanes, where filled lanes are worth more than the nearest cache.
const TOGETHER_WIDE: usize = 64;

impl CbcHmac {
    fn seal_by<const TOGETHER: usize>(self, jobs: &mut [Job<'_>]) {
        for jobs in jobs.chunks_mut(TOGETHER) {
            self.encrypt::<TOGETHER>(jobs);
            let mut tags = [[0; DIGEST]; TOGETHER];
            self.hash(jobs, &mut tags);
            for (job, tag) in jobs.iter_mut().zip(&tags).filter(|(job, _)| job.ok) {
                if let Some(Parts { end, .. }) = Parts::split(job) {
                    let icv = &mut job.packet[end..];
                    icv.copy_from_slice(&tag[..icv.len()]);
                }
            }
        }
        wipe_stack::<TOGETHER>();
    }

    fn open_by<const TOGETHER: usize>(self, jobs: &mut [Job<'_>]) {
        for jobs in jobs.chunks_mut(TOGETHER) {
            for job in &mut *jobs {
                job.ok = Parts::split(job).is_some();
            }
            let mut tags = [[0; DIGEST]; TOGETHER];
            self.hash(jobs, &mut tags);
            for (job, tag) in jobs.iter_mut().zip(&tags).filter(|(job, _)| job.ok) {
                let Some(Parts { key, end }) = Parts::split(job) else { continue };
                let (body, icv) = job.packet.split_at_mut(end);
                job.ok = verify_slices_are_equal(&tag[..icv.len()], icv).is_ok();
                let body = &mut body[ESP_HEADER_LEN..];
                if !job.ok {
                    body.fill(0);
                } else if key.rounds().is_some() {
                    self.ciphers.decrypt(key, body.as_chunks_mut().0);
                }
            }
        }
        wipe_stack::<TOGETHER>();
    }

    /// Encrypts the payload of each job, if it has the form of a packet, and writes the IV. Sets [`Job::ok`].
    #[inline]
    fn encrypt<const TOGETHER: usize>(self, jobs: &mut [Job<'_>]) {
        let mut chains = ArrayVec::<Chain<'_>, TOGETHER>::new();
        for job in jobs {
            let parts = Parts::split(job);
            job.ok = parts.is_some();
            let Some(Parts { key, end }) = parts else { continue };
            let body = &mut job.packet[ESP_HEADER_LEN..end];
            if key.rounds().is_some()
                && let Some(nonce) = body.first_chunk_mut()
            {
                *nonce = key.nonce(job.seq);
                chains.push(Chain { key, blocks: body.as_chunks_mut().0 });
            }
        }
        self.ciphers.encrypt(&mut chains);
    }

    /// The tags of those jobs that are ok.
    #[inline]
    fn hash<const TOGETHER: usize>(self, jobs: &[Job<'_>], tags: &mut [[u8; DIGEST]; TOGETHER]) {
        let mut messages = ArrayVec::<Message<'_>, TOGETHER>::new();
        for (job, tag) in jobs.iter().zip(tags).filter(|(job, _)| job.ok) {
            if let Some(Parts { key, end }) = Parts::split(job) {
                messages.push(Message { key, data: &job.packet[..end], upper: key.upper(job.seq), tag });
            }
        }
        self.hashes.tags(&mut messages);
    }
}

/// What makes a packet of this engine.
struct Parts<'p> {
    key: &'p CbcHmacKey,
    /// Where the ICV begins.
    end: usize,
}

impl<'p> Parts<'p> {
    /// `None` when the packet is too short, its payload is not whole blocks, or the key is of another engine.
    #[inline]
    fn split(job: &Job<'p>) -> Option<Self> {
        let EngineKey::CbcHmac(key) = job.key.engine() else { return None };
        let end = job.packet.len().checked_sub(key.icv_len())?;
        let body = end.checked_sub(ESP_HEADER_LEN)?;
        let whole = key.rounds().is_none() || body >= key.iv_len() && body.is_multiple_of(BLOCK);
        whole.then_some(Self { key, end })
    }
}

/// Overwrites what was left on the stack: round keys, states of hashes. Those of sixteen lanes lie below longer lists.
#[inline(never)]
fn wipe_stack<const TOGETHER: usize>() {
    if TOGETHER == TOGETHER_WIDE {
        std::hint::black_box(&mut [0u8; 12_288]);
    } else {
        std::hint::black_box(&mut [0u8; 4096]);
    }
}

/// Asks for all keys.
#[inline]
fn prefetch(jobs: &[Job<'_>]) {
    let mut last = std::ptr::null();
    for job in jobs {
        if !std::ptr::eq(job.key, last) {
            last = job.key;
            key::prefetch(job.key.engine());
        }
    }
}
