//! AES-CBC (RFC 3602) and 3DES-CBC (RFC 2451).
//!
//! The S-boxes of 3DES in aws-lc are tables, so its timing through the cache depends on key and data. With its
//! 64-bit blocks that is one more reason why it is only used when the operator names it. AES uses the CPU's AES
//! instructions or constant-time code.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand;

use crate::crypto::suite::{AesKey, Encryption};

/// The longest block.
const MAX_BLOCK: usize = 16;

/// Key of a block cipher in CBC mode, of one SA direction.
pub struct Cbc {
    encrypting: EncryptingKey,
    decrypting: DecryptingKey,
    block_len: usize,
    salt: [u8; MAX_BLOCK],
}

impl Cbc {
    /// `None` when the key's length is wrong, when 3DES refuses it (weak, or two of its three parts the same:
    /// RFC 2451 s2.3), or when there is no randomness.
    pub fn new(encryption: Encryption, key: &[u8]) -> Option<Self> {
        let algorithm = algorithm(encryption)?;
        let mut salt = [0; MAX_BLOCK];
        rand::fill(&mut salt).ok()?;
        Some(Self {
            encrypting: EncryptingKey::cbc(UnboundCipherKey::new(algorithm, key).ok()?).ok()?,
            decrypting: DecryptingKey::cbc(UnboundCipherKey::new(algorithm, key).ok()?).ok()?,
            block_len: algorithm.block_len(),
            salt,
        })
    }

    /// Encrypts the payload behind the IV's place, and writes the IV. False unless both are whole blocks.
    ///
    /// The IV must be unpredictable (RFC 3602 s3). It is made as SP 800-38A appendix C says first: the cipher
    /// applied to a nonce, here the sequence number under a random mask. That is what CBC with a zero IV makes of
    /// a nonce in the first block, so IV and payload are one call. The mask also keeps IVs from repeating when a
    /// manually keyed SA counts from 1 again after a restart.
    #[inline]
    pub fn seal(&self, iv_and_payload: &mut [u8], seq: u64) -> bool {
        let Some(iv) = iv_and_payload.get_mut(..self.block_len) else { return false };
        let nonce = (u128::from_ne_bytes(self.salt) ^ u128::from(seq)).to_le_bytes();
        iv.iter_mut().zip(nonce).for_each(|(place, byte)| *place = byte);
        let zero = match self.block_len {
            8 => EncryptionContext::Iv64(FixedLength::from([0; 8])),
            _ => EncryptionContext::Iv128(FixedLength::from([0; 16])),
        };
        self.encrypting.less_safe_encrypt(iv_and_payload, zero).is_ok()
    }

    /// Decrypts the payload behind the IV in place. False unless both are whole blocks.
    #[inline]
    pub fn open(&self, iv_and_payload: &mut [u8]) -> bool {
        let Some((iv, payload)) = iv_and_payload.split_at_mut_checked(self.block_len) else { return false };
        let context = match (<[u8; 8]>::try_from(&*iv), <[u8; 16]>::try_from(&*iv)) {
            (Ok(iv), _) => DecryptionContext::Iv64(FixedLength::from(iv)),
            (_, Ok(iv)) => DecryptionContext::Iv128(FixedLength::from(iv)),
            _ => return false,
        };
        self.decrypting.decrypt(payload, context).is_ok()
    }

    /// Bytes of a block, and of the IV.
    #[inline]
    pub fn block_len(&self) -> usize {
        self.block_len
    }
}

fn algorithm(encryption: Encryption) -> Option<&'static Algorithm> {
    match encryption {
        Encryption::AesCbc(AesKey::Aes128) => Some(&AES_128),
        Encryption::AesCbc(AesKey::Aes192) => Some(&AES_192),
        Encryption::AesCbc(AesKey::Aes256) => Some(&AES_256),
        #[expect(deprecated, reason = "3DES for peers that have nothing else, when the operator names it")]
        Encryption::TripleDesCbc => Some(&aws_lc_rs::cipher::DES_EDE3_FOR_LEGACY_USE_ONLY),
        _ => None,
    }
}
