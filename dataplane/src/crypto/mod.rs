//! Crypto engines: whole ESP packets in, whole ESP packets out, a burst at a time.
//!
//! An engine sees an ESP packet in its final layout, `SPI | sequence | IV | ciphertext | ICV`, in one slice.
//! That is what lets a vectorised engine treat header and ciphertext as one stream, and what keeps the nonce
//! and AAD rules (RFC 4106, 4543, 7634, 8750) in one place. Padding and headers are the business of `esp`.
//!
//! [`Crypto`] is what the rest of the data plane uses: it picks the engine of each suite, makes keys, and
//! splits bursts into runs of jobs of one engine.

use std::fmt;
use std::str::FromStr;

use crate::buffer::prefetch;

pub mod aws_lc;
#[cfg(target_arch = "x86_64")]
pub mod cbc_hmac;
#[cfg(not(target_arch = "x86_64"))]
#[path = "cbc_hmac/elsewhere.rs"]
pub mod cbc_hmac;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod constant_time;
pub mod engine;
pub mod keyword;
mod known_answer;
mod self_test;
pub mod suite;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(target_arch = "x86_64")]
pub mod vaes;
#[cfg(not(target_arch = "x86_64"))]
#[path = "vaes/elsewhere.rs"]
pub mod vaes;

pub use keyword::SuiteError;
pub use suite::Suite;

use aws_lc::{AwsLc, AwsLcKey};
use cbc_hmac::{CbcHmac, CbcHmacKey};
use engine::Engine;
use vaes::{Fastest, VaesKey};

/// Raw key of one direction of an SA: encryption key, then salt (AEAD) or integrity key, as IKEv2 takes them from
/// KEYMAT (RFC 7296 s2.17, RFC 4106 s8.1). Zeroised when dropped, never printed.
#[derive(Clone, zeroize::ZeroizeOnDrop)]
pub struct KeyMaterial(Box<[u8]>);

impl KeyMaterial {
    /// Takes over the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into_boxed_slice())
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({} bytes)", self.0.len())
    }
}

/// One ESP packet to seal or open.
pub struct Job<'a> {
    /// Key of the SA.
    pub key: &'a Key,
    /// From the SPI to the end of the ICV. To seal: SPI, sequence number and the padded plaintext with its
    /// trailer are in place; the engine writes IV and ICV. To open: as received; the plaintext replaces the
    /// ciphertext when the ICV is good; when it is not, no plaintext is left in the packet. The engine does not
    /// look at padding and trailer: a payload may even be empty.
    pub packet: &'a mut [u8],
    /// The 64-bit sequence number. With ESN its upper half is authenticated though not sent (RFC 4303 s2.2.1).
    pub seq: u64,
    /// Set by the engine: it was sealed, or the ICV was good. Not so when the packet is shorter than header, IV
    /// and ICV or, with a block cipher, its payload is not whole blocks.
    pub ok: bool,
}

/// One IP packet whose AH to write or verify (RFC 4302).
pub struct AhJob<'a> {
    /// Key of the SA.
    pub key: &'a Key,
    /// From the outer IP header to the end of the payload, with the fields zero that may change in transit
    /// (RFC 4302 s3.3.3.1). With ESN four bytes more, whatever they hold, for the upper half of the sequence
    /// number.
    pub packet: &'a mut [u8],
    /// Where AH's ICV field begins in `packet`. To seal, [`Key::iv_len`] and [`Key::icv_len`] bytes are written
    /// there. Padding behind them is authenticated as it is (RFC 4302 s3.3.3.2.1).
    pub icv_at: usize,
    /// The 64-bit sequence number.
    pub seq: u64,
    /// Set by the engine: the ICV was written, or was good. Not so when it does not fit the packet.
    pub ok: bool,
}

/// An engine's key of one SA direction. Immutable and shared by all workers.
pub struct Key {
    suite: Suite,
    esn: bool,
    engine: EngineKey,
}

/// The part of a [`Key`] that belongs to an engine.
#[expect(
    clippy::large_enum_variant,
    reason = "the key block lies in the SA itself: a pointer would cost a cache miss"
)]
pub enum EngineKey {
    /// Of [`AwsLc`].
    AwsLc(AwsLcKey),
    /// Of every tier of [`vaes`].
    Vaes(VaesKey),
    /// Of [`CbcHmac`].
    CbcHmac(CbcHmacKey),
}

impl Key {
    /// Makes a key with a given engine. [`Crypto::key`] picks the engine by itself.
    ///
    /// # Errors
    /// [`KeyError::Length`] unless `material` has [`Suite::key_len`] bytes; what [`Engine::key`] refuses.
    pub fn with_engine<E: Engine>(
        engine: &E,
        suite: Suite,
        esn: bool,
        material: &KeyMaterial,
    ) -> Result<Self, KeyError> {
        let (found, expected) = (material.expose().len(), suite.key_len());
        if found != expected {
            return Err(KeyError::Length { suite, found, expected });
        }
        Ok(Self { suite, esn, engine: engine.key(suite, esn, material)? })
    }

    /// Its algorithms.
    #[inline]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether sequence numbers have 64 bits.
    #[inline]
    pub fn esn(&self) -> bool {
        self.esn
    }

    /// [`Suite::iv_len`].
    #[inline]
    pub fn iv_len(&self) -> usize {
        self.suite.iv_len()
    }

    /// [`Suite::icv_len`].
    #[inline]
    pub fn icv_len(&self) -> usize {
        self.suite.icv_len()
    }

    /// [`Suite::pad_align`].
    #[inline]
    pub fn pad_align(&self) -> usize {
        self.suite.pad_align()
    }

    /// The engine's part.
    #[inline]
    pub fn engine(&self) -> &EngineKey {
        &self.engine
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}{})", self.suite, if self.esn { ", ESN" } else { "" })
    }
}

/// Which engines may be used (`workers.crypto` of the configuration). [`CbcHmac`] is beside all but [`Self::AwsLc`], with no
/// instructions beyond those that are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The fastest that the CPU has.
    #[default]
    Auto,
    /// aws-lc-rs alone.
    AwsLc,
    /// The fastest engine with 256-bit or 512-bit VAES for what it carries; an error on a CPU without it.
    Vaes,
    /// The one with AVX-512.
    VaesAvx512,
    /// The one with AVX2.
    VaesAvx2,
    /// The one with AES-NI and PCLMULQDQ.
    AesNi,
}

impl EngineChoice {
    /// All of them, by the words of the configuration.
    pub const KEYWORDS: [(&'static str, Self); 6] = [
        ("auto", Self::Auto),
        ("aws-lc", Self::AwsLc),
        ("vaes", Self::Vaes),
        ("vaes-avx512", Self::VaesAvx512),
        ("vaes-avx2", Self::VaesAvx2),
        ("aes-ni", Self::AesNi),
    ];
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::KEYWORDS.into_iter().find(|(_, choice)| choice == self).map(|(word, _)| word);
        f.write_str(word.unwrap_or_default())
    }
}

impl FromStr for EngineChoice {
    type Err = EngineError;

    fn from_str(word: &str) -> Result<Self, EngineError> {
        let known = Self::KEYWORDS.into_iter().find(|&(keyword, _)| keyword == word);
        known.map(|(_, choice)| choice).ok_or_else(|| EngineError::Unknown(word.to_owned()))
    }
}

/// Why there is no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No engine has this name.
    #[error("unknown crypto engine \"{0}\"; use auto, aws-lc, vaes, vaes-avx512, vaes-avx2 or aes-ni")]
    Unknown(String),
    /// The engine was asked for by name, and cannot run here.
    #[error("crypto engine {engine} cannot run on this machine: {reason}; use auto or aws-lc")]
    Unavailable {
        /// The engine.
        engine: &'static str,
        /// What it misses.
        reason: String,
    },
    /// An engine gave a wrong answer to a known question. It must not carry traffic.
    #[error("crypto engine {engine} failed its self-test: {what}")]
    SelfTest {
        /// The engine.
        engine: &'static str,
        /// The suite and the step.
        what: String,
    },
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short or too long.
    #[error("the key of {suite} has {expected} bytes, not {found}")]
    Length {
        /// The algorithms.
        suite: Suite,
        /// Bytes given.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// The engine refused it, as 3DES does with weak and repeated keys (RFC 2451 s2.3).
    #[error("the algorithm refuses this key of {suite}")]
    Rejected {
        /// The algorithms.
        suite: Suite,
    },
}

/// The crypto engines of this process.
#[derive(Debug)]
pub struct Crypto {
    aws_lc: AwsLc,
    vaes: Option<Fastest>,
    cbc_hmac: Option<CbcHmac>,
}

impl Crypto {
    /// Starts the engines, and lets each prove itself by known answers.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] for an engine that the CPU cannot run, [`EngineError::SelfTest`] for one that
    /// gives a wrong answer.
    pub fn new(choice: EngineChoice) -> Result<Self, EngineError> {
        let aws_lc = AwsLc::new();
        self_test::esp(&aws_lc)?;
        self_test::ah(&aws_lc)?;
        let vaes = Fastest::new(choice)?;
        if let Some(vaes) = &vaes {
            vaes.prove(&aws_lc)?;
        }
        let cbc_hmac = match choice {
            EngineChoice::AwsLc => None,
            EngineChoice::AesNi => CbcHmac::sha_ni().ok(),
            EngineChoice::Auto | EngineChoice::Vaes | EngineChoice::VaesAvx512 | EngineChoice::VaesAvx2 => {
                CbcHmac::new().ok()
            }
        };
        if let Some(cbc_hmac) = &cbc_hmac {
            cbc_hmac.prove(&aws_lc)?;
        }
        Ok(Self { aws_lc, vaes, cbc_hmac })
    }

    /// Name of the engine that carries `suite`.
    pub fn engine_name(&self, suite: Suite) -> &'static str {
        match (&self.vaes, &self.cbc_hmac) {
            (Some(vaes), _) if vaes.supports(suite) => vaes.name(),
            (_, Some(cbc_hmac)) if cbc_hmac.supports(suite) => CbcHmac::NAME,
            _ => AwsLc::NAME,
        }
    }

    /// Makes the key of one SA direction.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<Key, KeyError> {
        match (&self.vaes, &self.cbc_hmac) {
            (Some(vaes), _) if vaes.supports(suite) => vaes.key(suite, esn, material),
            (_, Some(cbc_hmac)) if cbc_hmac.supports(suite) => {
                Key::with_engine(cbc_hmac, suite, esn, material)
            }
            _ => Key::with_engine(&self.aws_lc, suite, esn, material),
        }
    }

    /// Asks for what a packet of `len` bytes needs of a key of `suite`, without a look at the key. What AWS-LC keeps of a
    /// key is behind a pointer that it shows nobody.
    #[inline]
    pub fn prefetch(&self, key: &Key, suite: Suite, len: usize) {
        match (&self.vaes, &self.cbc_hmac) {
            (Some(vaes), _) if vaes.supports(suite) => vaes.prefetch(&key.engine, len),
            (_, Some(cbc_hmac)) if cbc_hmac.supports(suite) => cbc_hmac.prefetch(&key.engine),
            _ => prefetch(&key.engine, size_of::<AwsLcKey>()),
        }
    }

    /// Seals a burst; SAs and suites may be mixed. Sets [`Job::ok`] of each.
    #[inline]
    pub fn seal(&self, jobs: &mut [Job<'_>]) {
        for run in jobs.chunk_by_mut(same_engine) {
            let Some(first) = run.first() else { continue };
            match (first.key.engine(), &self.vaes, &self.cbc_hmac) {
                (EngineKey::AwsLc(_), ..) => self.aws_lc.seal(run),
                (EngineKey::Vaes(_), Some(vaes), _) => vaes.seal(run),
                (EngineKey::CbcHmac(_), _, Some(cbc_hmac)) => cbc_hmac.seal(run),
                // A key of an engine that this process did not start.
                (EngineKey::Vaes(_) | EngineKey::CbcHmac(_), ..) => {
                    run.iter_mut().for_each(|job| job.ok = false);
                }
            }
        }
    }

    /// Writes the ICVs of a burst of AH packets. Sets [`AhJob::ok`] of each.
    pub fn seal_ah(&self, jobs: &mut [AhJob<'_>]) {
        self.aws_lc.seal_ah(jobs);
    }

    /// Verifies the ICVs of a burst of AH packets, in constant time. Sets [`AhJob::ok`] of each.
    pub fn open_ah(&self, jobs: &mut [AhJob<'_>]) {
        self.aws_lc.open_ah(jobs);
    }

    /// Opens a burst; SAs and suites may be mixed. Sets [`Job::ok`] of each.
    #[inline]
    pub fn open(&self, jobs: &mut [Job<'_>]) {
        for run in jobs.chunk_by_mut(same_engine) {
            let Some(first) = run.first() else { continue };
            match (first.key.engine(), &self.vaes, &self.cbc_hmac) {
                (EngineKey::AwsLc(_), ..) => self.aws_lc.open(run),
                (EngineKey::Vaes(_), Some(vaes), _) => vaes.open(run),
                (EngineKey::CbcHmac(_), _, Some(cbc_hmac)) => cbc_hmac.open(run),
                // A key of an engine that this process did not start.
                (EngineKey::Vaes(_) | EngineKey::CbcHmac(_), ..) => {
                    run.iter_mut().for_each(|job| job.ok = false);
                }
            }
        }
    }
}

#[inline]
fn same_engine(a: &Job<'_>, b: &Job<'_>) -> bool {
    std::ptr::eq(a.key, b.key)
        || std::mem::discriminant(a.key.engine()) == std::mem::discriminant(b.key.engine())
}
