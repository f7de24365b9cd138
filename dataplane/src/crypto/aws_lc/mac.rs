//! Integrity algorithms that stand beside encryption: HMAC (RFC 2404, RFC 4868) and AES-CMAC (RFC 4494).

use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use crate::crypto::suite::Integrity;

/// Longest ICV after truncation: HMAC-SHA-512-256.
pub const MAX_ICV_LEN: usize = 32;

/// Longest tag before truncation: HMAC-SHA-512.
const MAX_TAG_LEN: usize = 64;

const BLOCK: usize = 16;

/// Key of an integrity algorithm. Neither kind allocates when it is used.
pub enum Mac {
    /// With the inner and outer hash of the key worked out; using it copies those states.
    Hmac(Box<hmac::Key>),
    /// aws-lc-rs has CMAC too, but allocates a context a call.
    Cmac(Box<Cmac>),
}

impl Mac {
    /// `None` when the key's length is wrong, or the algorithm is GMAC.
    pub fn new(integrity: Integrity, key: &[u8]) -> Option<Self> {
        let algorithm = match integrity {
            Integrity::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Integrity::HmacSha256 => hmac::HMAC_SHA256,
            Integrity::HmacSha384 => hmac::HMAC_SHA384,
            Integrity::HmacSha512 => hmac::HMAC_SHA512,
            Integrity::AesCmac => return Cmac::new(key).map(Box::new).map(Self::Cmac),
            Integrity::AesGmac(_) => return None,
        };
        Some(Self::Hmac(Box::new(hmac::Key::new(algorithm, key))))
    }

    /// Writes the tag of `data`, cut to the length of `icv`. False when `icv` is longer than the tag.
    #[inline]
    pub fn sign(&self, data: &[u8], icv: &mut [u8]) -> bool {
        self.with_tag(data, |tag| tag.get(..icv.len()).map(|tag| icv.copy_from_slice(tag)))
            .flatten()
            .is_some()
    }

    /// Whether `icv` begins the tag of `data`, in constant time.
    #[inline]
    pub fn verify(&self, data: &[u8], icv: &[u8]) -> bool {
        self.with_tag(data, |tag| {
            tag.get(..icv.len()).is_some_and(|tag| verify_slices_are_equal(tag, icv).is_ok())
        })
        .unwrap_or(false)
    }

    #[inline]
    fn with_tag<T>(&self, data: &[u8], use_tag: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self {
            Self::Hmac(key) => {
                let mut tag = [0; MAX_TAG_LEN];
                hmac::sign_to_buffer(key, data, &mut tag).ok().map(|tag| use_tag(tag))
            }
            Self::Cmac(key) => key.tag(data).map(|tag| use_tag(&tag)),
        }
    }
}

/// AES-128-CMAC (RFC 4493) on the CBC mode of aws-lc-rs.
pub struct Cmac {
    aes: EncryptingKey,
    whole_mask: zeroize::Zeroizing<[u8; BLOCK]>,
    padded_mask: zeroize::Zeroizing<[u8; BLOCK]>,
}

impl Cmac {
    /// `None` unless `key` has 16 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        let aes = EncryptingKey::cbc(UnboundCipherKey::new(&AES_128, key).ok()?).ok()?;
        // RFC 4493 s2.3: subkeys.
        let mut zero = zeroize::Zeroizing::new([0; BLOCK]);
        cbc(&aes, [0; BLOCK], &mut *zero)?;
        let whole_mask = zeroize::Zeroizing::new(double(*zero));
        let padded_mask = zeroize::Zeroizing::new(double(*whole_mask));
        Some(Self { aes, whole_mask, padded_mask })
    }

    /// The tag of `data` (RFC 4493 s2.4).
    pub fn tag(&self, data: &[u8]) -> Option<[u8; BLOCK]> {
        let tail_len = match data.len() % BLOCK {
            0 if !data.is_empty() => BLOCK,
            rest => rest,
        };
        let (blocks, tail) = data.split_at_checked(data.len() - tail_len)?;
        // CBC works in place, and `data` must stay: it goes through a buffer piece by piece.
        let mut state = [0; BLOCK];
        let mut buffer = [0; 32 * BLOCK];
        for piece in blocks.chunks(buffer.len()) {
            let buffer = buffer.get_mut(..piece.len())?;
            buffer.copy_from_slice(piece);
            state = cbc(&self.aes, state, buffer)?;
        }
        let mut last = [0; BLOCK];
        last.get_mut(..tail.len())?.copy_from_slice(tail);
        let mask = match last.get_mut(tail.len()) {
            Some(end) => {
                *end = 0x80;
                &self.padded_mask
            }
            None => &self.whole_mask,
        };
        last.iter_mut().zip(mask.iter()).for_each(|(byte, mask)| *byte ^= mask);
        cbc(&self.aes, state, &mut last)
    }
}

/// CBC over whole blocks in place; returns the last one.
fn cbc(aes: &EncryptingKey, iv: [u8; BLOCK], blocks: &mut [u8]) -> Option<[u8; BLOCK]> {
    aes.less_safe_encrypt(blocks, EncryptionContext::Iv128(FixedLength::from(iv))).ok()?;
    blocks.last_chunk().copied()
}

/// Doubling in GF(2^128), most significant bit first, without a branch on the key.
fn double(block: [u8; BLOCK]) -> [u8; BLOCK] {
    let value = u128::from_be_bytes(block);
    ((value << 1) ^ (0x87 * (value >> 127))).to_be_bytes()
}
