//! The key of one SA direction, as one block of cache lines.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use aws_lc_rs::rand;
use zeroize::{Zeroize, Zeroizing};

use super::CbcHmac;
use super::cbc::BLOCK;
use super::sha256::{self, Words};
use crate::crypto::suite::{Encryption, Integrity, Suite};
use crate::crypto::vaes::schedule::{ROUND_KEYS, Rounds};
use crate::crypto::{EngineKey, engine::upper_half};

/// AES-CBC or NULL with HMAC-SHA-256 of one SA direction: 384 bytes, all of it here, without a pointer. Zeroised when
/// dropped, never printed.
///
/// The hash of the key's block is worked out for the inner and the outer hash; the key itself is not kept.
#[repr(C, align(64))]
pub struct CbcHmacKey {
    inner: Words,
    outer: Words,
    /// Added to the sequence number under the cipher, which makes the IV.
    mask: [u8; BLOCK],
    /// `None` for NULL.
    rounds: Option<Rounds>,
    icv_len: u8,
    esn: bool,
    /// So that no round key lies in two cache lines.
    reserved: [u8; 13],
    round_keys: [[u8; BLOCK]; ROUND_KEYS],
}

const _: () = assert!(size_of::<CbcHmacKey>() == 384);

impl CbcHmacKey {
    /// `material` is encryption key, then integrity key. `None` when the suite is another's, a length is wrong, or there is no
    /// randomness.
    pub(super) fn new(engine: CbcHmac, suite: Suite, esn: bool, material: &[u8]) -> Option<Self> {
        let (cipher_key, mac_key) = material.split_at_checked(suite.encryption_key_len())?;
        if suite.integrity() != Some(Integrity::HmacSha256) || mac_key.len() > sha256::BLOCK {
            return None;
        }
        let rounds = match suite.encryption()? {
            Encryption::AesCbc(_) => Some(Rounds::of_key_len(cipher_key.len())?),
            Encryption::Null => None,
            _ => return None,
        };
        let icv_len = u8::try_from(suite.icv_len()).ok()?;
        let mut key = Self {
            inner: [0; 8],
            outer: [0; 8],
            mask: [0; BLOCK],
            rounds,
            icv_len,
            esn,
            reserved: [0; 13],
            round_keys: [[0; BLOCK]; ROUND_KEYS],
        };
        if let Some(rounds) = rounds {
            rand::fill(&mut key.mask).ok()?;
            engine.ciphers.least().expand_key(cipher_key, rounds, &mut key.round_keys);
        }
        // RFC 2104 s2: the key, padded with zeros to a block, under 0x36 and under 0x5c.
        let mut padded = Zeroizing::new([[0x36; sha256::BLOCK], [0x5c; sha256::BLOCK]]);
        for block in padded.iter_mut() {
            block.iter_mut().zip(mac_key).for_each(|(byte, key)| *byte ^= key);
        }
        [key.inner, key.outer] = engine.hashes.of_blocks(padded.each_ref());
        Some(key)
    }

    /// Number of AES rounds; `None` for NULL.
    #[inline]
    pub(super) fn rounds(&self) -> Option<Rounds> {
        self.rounds
    }

    /// Bytes of IV in a packet: a block, or 0 for NULL.
    #[inline]
    pub(super) fn iv_len(&self) -> usize {
        if self.rounds.is_some() { BLOCK } else { 0 }
    }

    /// Bytes of ICV.
    #[inline]
    pub(super) fn icv_len(&self) -> usize {
        usize::from(self.icv_len)
    }

    /// The upper half of a sequence number, if it is authenticated.
    #[inline]
    pub(super) fn upper(&self, seq: u64) -> Option<[u8; 4]> {
        self.esn.then(|| upper_half(seq))
    }

    /// What becomes the IV when it is encrypted. The IV must be unpredictable (RFC 3602 s3). It is made as SP 800-38A appendix C says
    /// first: the cipher applied to a nonce, here the sequence number under a random mask, which also keeps IVs from repeating
    /// when a manually keyed SA counts from 1 again after a restart.
    #[inline]
    pub(super) fn nonce(&self, seq: u64) -> [u8; BLOCK] {
        (u128::from_le_bytes(self.mask) ^ u128::from(seq)).to_le_bytes()
    }

    /// State of the inner hash behind the block of the key.
    #[inline]
    pub(super) fn inner(&self) -> &Words {
        &self.inner
    }

    /// State of the outer hash behind the block of the key.
    #[inline]
    pub(super) fn outer(&self) -> &Words {
        &self.outer
    }

    /// Round keys of AES.
    #[inline]
    pub(super) fn round_keys(&self) -> &[[u8; BLOCK]; ROUND_KEYS] {
        &self.round_keys
    }
}

/// Asks for the cache lines of a key, without looking at it.
#[inline]
pub(super) fn prefetch(key: &EngineKey) {
    for line in 0..size_of::<CbcHmacKey>() / 64 {
        let address = std::ptr::from_ref(key).cast::<[u8; 64]>().wrapping_add(line);
        // SAFETY: a prefetch reads nothing that can be seen, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
}

impl Drop for CbcHmacKey {
    fn drop(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
        self.mask.zeroize();
        self.round_keys.zeroize();
    }
}
