//! What the CPU has to encrypt with, and which of it a burst takes.

use super::cbc::{self, BLOCK, Chain, Cipher, Vaes};
use super::key::CbcHmacKey;
use crate::crypto::vaes::{AesNi, Tier};

/// Instructions to encrypt with.
#[derive(Clone, Copy, Debug)]
pub enum Ciphers {
    /// AES-NI: eight lanes.
    AesNi(AesNi),
    /// Beside it VAES, for what has one key: sixteen lanes.
    Vaes(AesNi, Vaes),
}

impl Ciphers {
    /// All that the CPU has.
    ///
    /// # Errors
    /// What it misses.
    pub fn detect() -> Result<Self, String> {
        let aes_ni = AesNi::detect()?;
        Ok(Vaes::detect().map_or(Self::AesNi(aes_ni), |vaes| Self::Vaes(aes_ni, vaes)))
    }

    /// AES-NI alone.
    ///
    /// # Errors
    /// What the CPU misses.
    pub fn aes_ni() -> Result<Self, String> {
        AesNi::detect().map(Self::AesNi)
    }

    /// What keys are made with.
    pub fn least(self) -> AesNi {
        match self {
            Self::AesNi(aes_ni) | Self::Vaes(aes_ni, _) => aes_ni,
        }
    }

    /// With and without VAES.
    pub fn each(self) -> impl Iterator<Item = Self> {
        let vaes = matches!(self, Self::Vaes(..)).then_some(self);
        [Self::AesNi(self.least())].into_iter().chain(vaes)
    }

    /// Encrypts all chains, from an IV of zero.
    #[inline]
    pub fn encrypt(self, chains: &mut [Chain<'_>]) {
        match self {
            Self::Vaes(_, vaes) if of_one_key(chains) => cbc::encrypt(vaes, chains),
            Self::AesNi(aes_ni) | Self::Vaes(aes_ni, _) => cbc::encrypt(aes_ni, chains),
        }
    }

    /// Decrypts the blocks behind the IV, which is the first, in place.
    #[inline]
    pub fn decrypt(self, key: &CbcHmacKey, blocks: &mut [[u8; BLOCK]]) {
        match self {
            Self::AesNi(aes_ni) => aes_ni.decrypt(key, blocks),
            Self::Vaes(_, vaes) => vaes.decrypt(key, blocks),
        }
    }
}

fn of_one_key(chains: &[Chain<'_>]) -> bool {
    chains.windows(2).all(|pair| matches!(pair, [a, b] if std::ptr::eq(a.key, b.key)))
}
