//! AES-CMAC (RFC 4493) and AES-XCBC-MAC (RFC 3566) on the CBC mode of aws-lc-rs.
//!
//! aws-lc-rs has CMAC itself, but allocates a context for every call.

use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroizing;

const BLOCK: usize = 16;

/// A CBC-MAC whose last block is masked: with one value when it is whole, with another when it was padded.
/// CMAC and XCBC differ only in where key and masks come from.
pub struct CbcMac {
    aes: EncryptingKey,
    whole_mask: Zeroizing<[u8; BLOCK]>,
    padded_mask: Zeroizing<[u8; BLOCK]>,
}

impl CbcMac {
    /// AES-128-CMAC (RFC 4493 s2.3). `None` unless `key` has 16 bytes.
    pub fn cmac(key: &[u8]) -> Option<Self> {
        let aes = aes_128(key)?;
        let zero = encrypted(&aes, [0; BLOCK])?;
        let whole_mask = double(&zero);
        let padded_mask = double(&whole_mask);
        Some(Self { aes, whole_mask, padded_mask })
    }

    /// AES-XCBC-MAC (RFC 3566 s4). `None` unless `key` has 16 bytes.
    pub fn xcbc(key: &[u8]) -> Option<Self> {
        let derive = aes_128(key)?;
        let aes = aes_128(&*encrypted(&derive, [1; BLOCK])?)?;
        let (whole_mask, padded_mask) = (encrypted(&derive, [2; BLOCK])?, encrypted(&derive, [3; BLOCK])?);
        Some(Self { aes, whole_mask, padded_mask })
    }

    /// The tag of `data`, before truncation.
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

fn aes_128(key: &[u8]) -> Option<EncryptingKey> {
    EncryptingKey::cbc(UnboundCipherKey::new(&AES_128, key).ok()?).ok()
}

fn encrypted(aes: &EncryptingKey, block: [u8; BLOCK]) -> Option<Zeroizing<[u8; BLOCK]>> {
    let mut block = Zeroizing::new(block);
    cbc(aes, [0; BLOCK], &mut *block)?;
    Some(block)
}

/// CBC over whole blocks in place; returns the last one.
fn cbc(aes: &EncryptingKey, iv: [u8; BLOCK], blocks: &mut [u8]) -> Option<[u8; BLOCK]> {
    aes.less_safe_encrypt(blocks, EncryptionContext::Iv128(FixedLength::from(iv))).ok()?;
    blocks.last_chunk().copied()
}

/// Doubling in GF(2^128), most significant bit first, without a branch on the key.
fn double(block: &[u8; BLOCK]) -> Zeroizing<[u8; BLOCK]> {
    let value = u128::from_be_bytes(*block);
    Zeroizing::new(((value << 1) ^ (0x87 * (value >> 127))).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::tests::hex;

    /// RFC 4493 s4.
    #[test]
    fn cmac_of_rfc_4493() {
        let mac = CbcMac::cmac(&hex("2b7e151628aed2a6abf7158809cf4f3c")).unwrap();
        let message = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710");
        for (len, tag) in [
            (0, "bb1d6929e95937287fa37d129b756746"),
            (16, "070a16b46b4d4144f79bdd9dd04a287c"),
            (40, "dfa66747de9ae63030ca32611497c827"),
            (64, "51f0bebf7e3b9d92fc49741779363cfe"),
        ] {
            assert_eq!(mac.tag(&message[..len]).unwrap(), *hex(tag), "{len} bytes");
        }
    }

    /// RFC 3566 s4.6.
    #[test]
    fn xcbc_of_rfc_3566() {
        let mac = CbcMac::xcbc(&hex("000102030405060708090a0b0c0d0e0f")).unwrap();
        let message: Vec<u8> = (0..34).collect();
        for (len, tag) in [
            (0, "75f0251d528ac01c4573dfd584d79f29"),
            (3, "5b376580ae2f19afe7219ceef172756f"),
            (16, "d2a246fa349b68a79998a4394ff7a263"),
            (20, "47f51b4564966215b8985c63055ed308"),
            (32, "f54f0ec8d2b9f3d36807734bd5283fd4"),
            (34, "becbb3bccdb518a30677d5481fb6b4d8"),
        ] {
            assert_eq!(mac.tag(&message[..len]).unwrap(), *hex(tag), "{len} bytes");
        }
        assert_eq!(mac.tag(&[0; 1000]).unwrap(), *hex("f0dafee895db30253761103b5d84528f"));
    }
}
