//! What a crypto engine does, and the packet layout that all of them share.

use super::{EngineKey, Job, KeyError, KeyMaterial, Suite};

/// A crypto engine: bursts of whole ESP packets in, bursts out.
pub trait Engine: Sized {
    /// Its name in `show status` and metrics.
    const NAME: &'static str;

    /// Whether it carries a suite.
    fn supports(&self, suite: Suite) -> bool;

    /// Makes the key of one SA direction. `material` has the length that `suite` wants.
    ///
    /// # Errors
    /// [`KeyError::Rejected`] when the algorithm refuses the key, or the engine does not carry the suite.
    fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError>;

    /// Seals every packet. Writes IV, ciphertext and ICV, and sets [`Job::ok`].
    fn seal(&self, jobs: &mut [Job<'_>]);

    /// Opens every packet: the ICV first, plaintext only when it is good. Sets [`Job::ok`].
    fn open(&self, jobs: &mut [Job<'_>]);
}

/// Length of SPI and sequence number.
pub const ESP_HEADER_LEN: usize = 8;

/// The fields of an ESP packet.
#[derive(Debug)]
pub struct EspFields<'p> {
    /// SPI and the sequence number as sent.
    pub header: &'p mut [u8; ESP_HEADER_LEN],
    /// Empty with an implicit IV or NULL.
    pub iv: &'p mut [u8],
    /// Plaintext or ciphertext with padding, pad length and next header.
    pub payload: &'p mut [u8],
    /// Integrity check value.
    pub icv: &'p mut [u8],
}

impl<'p> EspFields<'p> {
    /// Splits a packet; `None` when it is shorter than its header, IV and ICV.
    #[inline]
    pub fn split(packet: &'p mut [u8], iv_len: usize, icv_len: usize) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk_mut()?;
        let (iv, rest) = rest.split_at_mut_checked(iv_len)?;
        let (payload, icv) = rest.split_at_mut_checked(rest.len().checked_sub(icv_len)?)?;
        Some(Self { header, iv, payload, icv })
    }
}

/// AAD of a combined mode other than GMAC: `SPI | sequence`, with ESN its upper half between them
/// (RFC 4106 s5, RFC 7634 s2.1). The second value is its length, 8 or 12.
#[inline]
pub fn aead_aad(header: [u8; ESP_HEADER_LEN], seq: u64, esn: bool) -> ([u8; 12], usize) {
    let [s0, s1, s2, s3, l0, l1, l2, l3] = header;
    if esn {
        let [h0, h1, h2, h3] = upper_half(seq);
        ([s0, s1, s2, s3, h0, h1, h2, h3, l0, l1, l2, l3], 12)
    } else {
        ([s0, s1, s2, s3, l0, l1, l2, l3, 0, 0, 0, 0], 8)
    }
}

/// The half of an extended sequence number that is authenticated but not sent (RFC 4303 s2.2.1).
#[inline]
pub fn upper_half(seq: u64) -> [u8; 4] {
    ((seq >> 32) as u32).to_be_bytes()
}
