//! What the CPU has to hash with.

use super::hmac::{self, Message};
use super::sha256::{Avx512, BLOCK, INITIAL, Sha256, ShaNi, Words};

/// Instructions to hash with.
#[derive(Clone, Copy, Debug)]
pub enum Hashes {
    /// SHA extensions: four lanes.
    ShaNi(ShaNi),
    /// AVX-512: sixteen lanes.
    Avx512(Avx512),
}

impl Hashes {
    /// The faster that the CPU has: on Zen 4, which has both, SHA extensions, by 17 % at 64 bytes and 3 % at 1,424.
    ///
    /// # Errors
    /// What it misses.
    pub fn detect() -> Result<Self, String> {
        match (ShaNi::detect(), Avx512::detect()) {
            (Ok(sha_ni), _) => Ok(Self::ShaNi(sha_ni)),
            (Err(_), Ok(avx512)) => Ok(Self::Avx512(avx512)),
            (Err(sha), Err(avx512)) => Err(format!("{sha}; {avx512}")),
        }
    }

    /// Whether there are sixteen lanes.
    #[inline]
    pub fn wide(self) -> bool {
        matches!(self, Self::Avx512(_))
    }

    /// Works out the tags of all messages.
    #[inline]
    pub fn tags(self, messages: &mut [Message<'_>]) {
        match self {
            Self::ShaNi(sha_ni) => hmac::tags(sha_ni, messages),
            Self::Avx512(avx512) => hmac::tags(avx512, messages),
        }
    }

    /// The hashes of single blocks, without padding: what HMAC keeps of a key.
    pub fn of_blocks(self, blocks: [&[u8; BLOCK]; 2]) -> [Words; 2] {
        match self {
            Self::ShaNi(sha_ni) => of_blocks(sha_ni, blocks),
            Self::Avx512(avx512) => of_blocks(avx512, blocks),
        }
    }
}

fn of_blocks<S: Sha256<LANES>, const LANES: usize>(sha256: S, blocks: [&[u8; BLOCK]; 2]) -> [Words; 2] {
    let mut states = sha256.states();
    let mut runs: [&[[u8; BLOCK]]; LANES] = [&[]; LANES];
    for (lane, (run, block)) in runs.iter_mut().zip(blocks).enumerate() {
        S::set_words(&mut states, lane, INITIAL);
        *run = std::slice::from_ref(block);
    }
    sha256.compress(&mut states, runs, 1);
    [0, 1].map(|lane| S::words(&states, lane))
}
