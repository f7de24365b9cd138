//! An ESP packet as AES-GCM sees it (RFC 4106, RFC 8750).
//!
//! Header, payload and length block are one stream of blocks. The header is block 0: its lane
//! of the counter vector is counter 1, whose keystream masks the ICV, and its lane of GHASH is the AAD, so that
//! payload and counters line up lane for lane. The length block follows the payload.

use super::key::VaesKey;
use crate::crypto::{EngineKey, Job};

/// Bytes of a block of AES and GHASH.
pub const BLOCK: usize = 16;

/// A packet, split. What can be worked out in registers is, when it is wanted: a store costs as much as two or three other
/// instructions.
pub struct Frame<'p> {
    /// Of its SA.
    pub key: &'p VaesKey,
    /// Payload and ICV.
    pub bytes: &'p mut [u8],
    /// Bytes of payload, no more than those.
    pub len: usize,
    /// As it stands in the packet, little-endian.
    iv: u64,
    /// SPI and sequence number, the block before the payload.
    pub aad: Block,
    /// [`Job::ok`].
    pub ok: &'p mut bool,
}

/// A block as two little-endian words.
pub type Block = [u64; 2];

/// Length of SPI and sequence number.
const HEADER: usize = 8;

impl<'p> Frame<'p> {
    /// Splits a packet. `None`, and the job is not ok, when it is too short or the key is of another engine.
    ///
    /// To seal, writes the IV: the sequence number (RFC 4106 s3.1, RFC 8750 s4). A burst is split before the first of it is
    /// encrypted, since a load that spans bytes just written waits until they are in the cache.
    #[inline(always)]
    pub fn split<const SEAL: bool>(job: &'p mut Job<'_>) -> Option<Self> {
        job.ok = false;
        let EngineKey::Vaes(key) = job.key.engine() else { return None };
        let (header, rest) = job.packet.split_first_chunk_mut::<HEADER>()?;
        let (iv_slot, bytes) = rest.split_at_mut_checked(key.iv_len())?;
        let len = bytes.len().checked_sub(key.icv_len())?;
        let mut iv = u64::from_le_bytes(job.seq.to_be_bytes());
        if let Ok(slot) = <&mut [u8; 8]>::try_from(iv_slot) {
            if SEAL {
                *slot = iv.to_le_bytes();
            } else {
                iv = u64::from_le_bytes(*slot);
            }
        }
        let header = u64::from_le_bytes(*header);
        // RFC 4106 s5: `SPI | sequence`, with ESN its upper half between them.
        let aad = if key.esn() {
            let upper = u64::from(((job.seq >> 32) as u32).swap_bytes());
            [header & 0xffff_ffff | upper << 32, header >> 32]
        } else {
            [header, 0]
        };
        Some(Self { key, bytes, len, iv, aad, ok: &mut job.ok })
    }

    /// `0 | IV | 0`, to be added to salt and counter.
    #[inline(always)]
    pub fn nonce(&self) -> Block {
        [self.iv << 32, self.iv >> 32]
    }

    /// The payload.
    #[inline(always)]
    pub fn payload(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// The ICV.
    #[inline(always)]
    pub fn icv(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }
}
