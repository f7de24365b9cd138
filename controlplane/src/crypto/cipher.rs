//! Protection of the Encrypted payload (RFC 7296 s3.14, RFC 5282, RFC 7634) and of its fragments (RFC 7383 s2.5).
//!
//! A whole IKE message is sealed and opened in place:
//!
//! ```text
//! | IKE header | unencrypted payloads | generic header of SK or SKF | IV | plaintext | pad | pad length | ICV |
//! ^ 0                                                               ^ body
//! ```
//!
//! Everything before `body` is authenticated and not encrypted, so all lengths in it must be final before
//! sealing: [`IkeSuite::sealed_len`] tells them. For a fragment, the fragment number and count lie before `body`.

#[cfg(test)]
mod tests;

use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{cmac, hmac};
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use zeroize::Zeroize;

use super::{AesKey, CryptoError, Encr, IkeSuite, Integ, Random, Secret};

impl IkeSuite {
    /// Bytes of the IV.
    pub const fn iv_len(&self) -> usize {
        self.encr.iv_len()
    }

    /// Bytes of the ICV.
    pub const fn icv_len(&self) -> usize {
        match self.integ {
            Some(integ) => integ.icv_len(),
            None => self.encr.icv_len(),
        }
    }

    /// Bytes of the body of an Encrypted payload that carries `plain` bytes: IV, padded plaintext and ICV.
    pub const fn sealed_len(&self, plain: usize) -> usize {
        self.iv_len() + (plain + 1).next_multiple_of(self.encr.block_len()) + self.icv_len()
    }

    /// The most plaintext that fits a body of `body` bytes; `None` when not even an empty one does.
    pub const fn max_plain(&self, body: usize) -> Option<usize> {
        let Some(padded) = body.checked_sub(self.iv_len() + self.icv_len()) else { return None };
        (padded - padded % self.encr.block_len()).checked_sub(1)
    }
}

/// Seals the messages of one direction.
///
/// It holds the raw keys and expands them for each message. That costs a fraction of a microsecond and saves
/// two kilobytes a tunnel, of which there are tens of thousands and which send a message now and then.
pub struct SkSealer {
    keys: Keys,
    /// The next IV of a counter mode. It never repeats under a key, which AES-GCM, AES-CTR and ChaCha20 depend
    /// on (RFC 5282 s3.1).
    next_iv: Option<u64>,
}

/// Opens the messages of one direction. It holds the raw keys, as [`SkSealer`] does.
pub struct SkOpener {
    keys: Keys,
}

impl SkSealer {
    /// `sk_e` is SK_ei or SK_er, `sk_a` the matching SK_ai or SK_ar (empty with an AEAD).
    pub fn new(suite: &IkeSuite, sk_e: &Secret, sk_a: &Secret) -> Result<Self, CryptoError> {
        Ok(Self { keys: Keys::new(suite, sk_e, sk_a)?, next_iv: Some(0) })
    }

    /// SK_e and SK_a, for the key log.
    pub fn keys(&self) -> (Secret, Secret) {
        (self.keys.sk_e.clone(), self.keys.sk_a.clone())
    }

    /// Seals `message`, whose plaintext starts [`IkeSuite::iv_len`] bytes after `body` and reaches to its end.
    /// The IV is written into the gap; padding and ICV are appended, so that the body gets the length that
    /// [`IkeSuite::sealed_len`] said.
    ///
    /// Fails with [`CryptoError::SealedLength`] when the gap for the IV is missing.
    pub fn seal(
        &mut self,
        random: &mut dyn Random,
        message: &mut Vec<u8>,
        body: usize,
    ) -> Result<(), CryptoError> {
        let suite = self.keys.suite;
        let plain_at = body + suite.iv_len();
        let too_short = CryptoError::SealedLength { found: message.len().saturating_sub(body) };
        let plain = message.len().checked_sub(plain_at).ok_or(too_short)?;

        let pad = (plain + 1).next_multiple_of(suite.encr.block_len()) - (plain + 1);
        message.resize(message.len() + pad, 0);
        // The pad is shorter than a block.
        message.push(pad as u8);

        let (head, plaintext) = message.split_at_mut(plain_at);
        let (aad, iv) = head.split_at_mut(body);
        match suite.encr {
            Encr::TripleDes | Encr::AesCbc(_) => random.fill(iv),
            _ => iv.copy_from_slice(&take_iv(&mut self.next_iv)?),
        }
        let (key, salt) = self.keys.encr();
        match suite.encr {
            Encr::AesGcm8(_) | Encr::AesGcm12(_) | Encr::AesGcm16(_) | Encr::ChaCha20Poly1305 => {
                let tag = Aead::new(suite.encr, key, salt)?.seal(iv, aad, plaintext)?;
                message.extend_from_slice(cut(tag.as_ref(), suite.icv_len())?);
                return Ok(());
            }
            Encr::AesCtr(size) => apply_ctr(size, key, salt, iv, plaintext)?,
            Encr::AesCbc(size) => {
                let context = EncryptionContext::Iv128(FixedLength::try_from(&*iv)?);
                EncryptingKey::cbc(aes(size, key)?)?.less_safe_encrypt(plaintext, context)?;
            }
            Encr::TripleDes => {
                let length = plaintext.len();
                cbc::Encryptor::<des::TdesEde3>::new_from_slices(key, iv)
                    .map_err(|_| CryptoError::Library)?
                    .encrypt_padded::<NoPadding>(plaintext, length)
                    .map_err(|_| CryptoError::Library)?;
            }
        }
        let tag = self.keys.mac(message)?;
        message.extend_from_slice(cut(tag.expose(), suite.icv_len())?);
        Ok(())
    }
}

impl SkOpener {
    /// `sk_e` is SK_ei or SK_er, `sk_a` the matching SK_ai or SK_ar (empty with an AEAD).
    pub fn new(suite: &IkeSuite, sk_e: &Secret, sk_a: &Secret) -> Result<Self, CryptoError> {
        Ok(Self { keys: Keys::new(suite, sk_e, sk_a)? })
    }

    /// SK_e and SK_a, for the key log.
    pub fn keys(&self) -> (Secret, Secret) {
        (self.keys.sk_e.clone(), self.keys.sk_a.clone())
    }

    /// Opens `message` and says where in it the inner payloads now are.
    ///
    /// The ICV is checked before anything else is looked at. On an error the body's contents are unspecified
    /// and must not be used.
    pub fn open(&self, message: &mut [u8], body: usize) -> Result<Range<usize>, CryptoError> {
        let suite = self.keys.suite;
        let sealed = message.len().saturating_sub(body);
        let bad_length = CryptoError::SealedLength { found: sealed };
        let padded = sealed.checked_sub(suite.iv_len() + suite.icv_len()).ok_or(bad_length.clone())?;
        if padded == 0 || !padded.is_multiple_of(suite.encr.block_len()) {
            return Err(bad_length);
        }

        let plain_at = body + suite.iv_len();
        let (covered, icv) = message.split_at_mut(plain_at + padded);
        if suite.integ.is_some() {
            let tag = self.keys.mac(covered)?;
            verify_slices_are_equal(cut(tag.expose(), suite.icv_len())?, icv)
                .map_err(|_| CryptoError::Integrity)?;
        }
        let (head, ciphertext) = covered.split_at_mut(plain_at);
        let (aad, iv) = head.split_at(body);
        let (key, salt) = self.keys.encr();
        match suite.encr {
            Encr::AesGcm8(_) | Encr::AesGcm12(_) | Encr::AesGcm16(_) | Encr::ChaCha20Poly1305 => {
                Aead::new(suite.encr, key, salt)?.open(iv, aad, ciphertext, icv)?;
            }
            Encr::AesCtr(size) => apply_ctr(size, key, salt, iv, ciphertext)?,
            Encr::AesCbc(size) => {
                let context = DecryptionContext::Iv128(FixedLength::try_from(iv)?);
                DecryptingKey::cbc(aes(size, key)?)?.decrypt(ciphertext, context)?;
            }
            Encr::TripleDes => {
                cbc::Decryptor::<des::TdesEde3>::new_from_slices(key, iv)
                    .map_err(|_| CryptoError::Library)?
                    .decrypt_padded::<NoPadding>(ciphertext)
                    .map_err(|_| CryptoError::Library)?;
            }
        }

        // The contents of the padding are the sender's choice (RFC 7296 s3.14), so they are not looked at.
        let plain = padded - 1;
        let pad = ciphertext.last().copied().map_or(0, usize::from);
        let used = plain.checked_sub(pad).ok_or(CryptoError::Padding { pad, plain })?;
        Ok(plain_at..plain_at + used)
    }
}

/// The keys of one direction, of the lengths that the suite asks for.
struct Keys {
    suite: IkeSuite,
    sk_e: Secret,
    sk_a: Secret,
}

impl Keys {
    fn new(suite: &IkeSuite, sk_e: &Secret, sk_a: &Secret) -> Result<Self, CryptoError> {
        let expected = suite.encr.key_len() + suite.encr.salt_len();
        if sk_e.len() != expected {
            return Err(CryptoError::KeyLength { algorithm: "SK_e", expected, found: sk_e.len() });
        }
        let expected = suite.integ.map_or(0, Integ::key_len);
        if sk_a.len() != expected || suite.integ.is_none() != suite.encr.is_aead() {
            return Err(CryptoError::KeyLength { algorithm: "SK_a", expected, found: sk_a.len() });
        }
        Ok(Self { suite: *suite, sk_e: sk_e.clone(), sk_a: sk_a.clone() })
    }

    /// The cipher key and the salt that follows it.
    fn encr(&self) -> (&[u8], &[u8]) {
        self.sk_e.expose().split_at(self.suite.encr.key_len())
    }

    /// The whole tag over `covered`, which reaches from the IKE header to the pad length octet.
    fn mac(&self, covered: &[u8]) -> Result<Secret, CryptoError> {
        let key = self.sk_a.expose();
        let hmac = |algorithm| Secret::copy_of(hmac::sign(&hmac::Key::new(algorithm, key), covered).as_ref());
        Ok(match self.suite.integ {
            None => Secret::zeroed(0),
            Some(Integ::HmacSha1_96) => hmac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Some(Integ::HmacSha256_128) => hmac(hmac::HMAC_SHA256),
            Some(Integ::HmacSha384_192) => hmac(hmac::HMAC_SHA384),
            Some(Integ::HmacSha512_256) => hmac(hmac::HMAC_SHA512),
            Some(Integ::AesCmac96) => {
                Secret::copy_of(cmac::sign(&cmac::Key::new(cmac::AES_128, key)?, covered)?.as_ref())
            }
        })
    }
}

/// AES-GCM or ChaCha20-Poly1305. The nonce is salt | IV (RFC 5282 s4, RFC 7634 s2), and the AAD everything from
/// the IKE header to the generic header of the payload (RFC 5282 s5.1).
struct Aead {
    key: LessSafeKey,
    salt: [u8; 4],
    icv_len: usize,
}

impl Aead {
    fn new(encr: Encr, key: &[u8], salt: &[u8]) -> Result<Self, CryptoError> {
        let algorithm = match encr {
            Encr::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
            _ => match key.len() {
                16 => &aead::AES_128_GCM,
                24 => &aead::AES_192_GCM,
                _ => &aead::AES_256_GCM,
            },
        };
        Ok(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key)?),
            salt: salt.try_into().map_err(|_| CryptoError::Library)?,
            icv_len: encr.icv_len(),
        })
    }

    fn nonce(&self, iv: &[u8]) -> Result<Nonce, CryptoError> {
        let mut nonce = [0; 12];
        let (salt, rest) = nonce.split_at_mut(self.salt.len());
        salt.copy_from_slice(&self.salt);
        rest.copy_from_slice(iv);
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Encrypts in place and gives the whole tag.
    fn seal(&self, iv: &[u8], aad: &[u8], data: &mut [u8]) -> Result<aead::Tag, CryptoError> {
        Ok(self.key.seal_in_place_separate_tag(self.nonce(iv)?, Aad::from(aad), data)?)
    }

    fn open(&self, iv: &[u8], aad: &[u8], data: &mut [u8], icv: &[u8]) -> Result<(), CryptoError> {
        if self.icv_len == self.key.algorithm().tag_len() {
            self.key
                .open_in_place_separate_tag(self.nonce(iv)?, Aad::from(aad), icv, data)
                .map_err(|_| CryptoError::Integrity)?;
            return Ok(());
        }
        // AWS-LC opens whole tags only. GCM encrypts by XOR with a key stream, so sealing the ciphertext under
        // the same nonce gives the plaintext, and sealing that again gives the tag to compare with. Neither
        // tag leaves this function.
        let _tag_of_the_wrong_text = self.seal(iv, aad, data)?;
        let mut again = data.to_vec();
        let tag = self.seal(iv, aad, &mut again)?;
        again.zeroize();
        if verify_slices_are_equal(cut(tag.as_ref(), self.icv_len)?, icv).is_err() {
            data.zeroize();
            return Err(CryptoError::Integrity);
        }
        Ok(())
    }
}

/// AES in counter mode; the counter block is nonce | IV | 1 (RFC 5930 s2.3, RFC 3686 s4).
fn apply_ctr(size: AesKey, key: &[u8], nonce: &[u8], iv: &[u8], data: &mut [u8]) -> Result<(), CryptoError> {
    let mut block = [0; 16];
    for (to, from) in block.iter_mut().zip(nonce.iter().chain(iv).chain(&1u32.to_be_bytes())) {
        *to = *from;
    }
    let context = EncryptionContext::Iv128(FixedLength::from(block));
    EncryptingKey::ctr(aes(size, key)?)?.less_safe_encrypt(data, context)?;
    Ok(())
}

fn aes(size: AesKey, key: &[u8]) -> Result<UnboundCipherKey, CryptoError> {
    let algorithm = match size {
        AesKey::Aes128 => &cipher::AES_128,
        AesKey::Aes192 => &cipher::AES_192,
        AesKey::Aes256 => &cipher::AES_256,
    };
    Ok(UnboundCipherKey::new(algorithm, key)?)
}

/// The first `length` bytes of a tag.
fn cut(tag: &[u8], length: usize) -> Result<&[u8], CryptoError> {
    tag.get(..length).ok_or(CryptoError::Library)
}

fn take_iv(next: &mut Option<u64>) -> Result<[u8; 8], CryptoError> {
    let iv = next.ok_or(CryptoError::IvExhausted)?;
    *next = iv.checked_add(1);
    Ok(iv.to_be_bytes())
}
