//! What the CPU has to hash with, and which of it a burst takes.

use super::hmac::{self, Message};
use super::sha256::{Avx512, BLOCK, INITIAL, Sha256, ShaNi, Words};

/// Instructions to hash with.
#[derive(Clone, Copy, Debug)]
pub enum Hashes {
    /// SHA extensions: four lanes.
    ShaNi(ShaNi),
    /// AVX-512: sixteen lanes.
    Avx512(Avx512),
    /// Either, as suits the burst.
    Both(ShaNi, Avx512),
}

/// Lanes of AVX-512 that must have work until the last of them is done. A step of all sixteen takes 925 cycles whatever their
/// number, by llvm-mca's count for Skylake-X and Ice Lake, where SHA extensions take 64 to 80 for each block. No CPU with AVX-512
/// was at hand to measure it.
const ENOUGH: usize = 12;

impl Hashes {
    /// All that the CPU has.
    ///
    /// # Errors
    /// What it misses.
    pub fn detect() -> Result<Self, String> {
        match (ShaNi::detect(), Avx512::detect()) {
            (Ok(sha_ni), Ok(avx512)) => Ok(Self::Both(sha_ni, avx512)),
            (Ok(sha_ni), Err(_)) => Ok(Self::ShaNi(sha_ni)),
            (Err(_), Ok(avx512)) => Ok(Self::Avx512(avx512)),
            (Err(sha), Err(avx512)) => Err(format!("{sha}; {avx512}")),
        }
    }

    /// Whether a burst may go through sixteen lanes.
    #[inline]
    pub fn wide(self) -> bool {
        !matches!(self, Self::ShaNi(_))
    }

    /// Each set of instructions by itself.
    pub fn each(self) -> impl Iterator<Item = Self> {
        let (sha_ni, avx512) = match self {
            Self::ShaNi(sha_ni) => (Some(sha_ni), None),
            Self::Avx512(avx512) => (None, Some(avx512)),
            Self::Both(sha_ni, avx512) => (Some(sha_ni), Some(avx512)),
        };
        sha_ni.map(Self::ShaNi).into_iter().chain(avx512.map(Self::Avx512))
    }

    /// Works out the tags of all messages.
    #[inline]
    pub fn tags(self, messages: &mut [Message<'_>]) {
        match self {
            Self::ShaNi(sha_ni) => hmac::tags(sha_ni, messages),
            Self::Avx512(avx512) => hmac::tags(avx512, messages),
            Self::Both(_, avx512) if fill(messages) => hmac::tags(avx512, messages),
            Self::Both(sha_ni, _) => hmac::tags(sha_ni, messages),
        }
    }

    /// The hashes of single blocks, without padding: what HMAC keeps of a key.
    pub fn of_blocks(self, blocks: [&[u8; BLOCK]; 2]) -> [Words; 2] {
        match self {
            Self::ShaNi(sha_ni) | Self::Both(sha_ni, _) => of_blocks(sha_ni, blocks),
            Self::Avx512(avx512) => of_blocks(avx512, blocks),
        }
    }
}

/// Whether the messages keep [`ENOUGH`] of sixteen lanes at work. The longest decides how many steps there are.
fn fill(messages: &[Message<'_>]) -> bool {
    let blocks = messages.iter().map(Message::blocks);
    let longest = blocks.clone().max().unwrap_or(0);
    blocks.sum::<usize>() >= ENOUGH * longest
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::cbc_hmac::{CbcHmac, CbcHmacKey, DIGEST};
    use crate::crypto::tests::engine_or_skip;

    /// Sixteen lanes take a burst that fills twelve of them to the end, and no other.
    #[test]
    fn lanes_are_filled_or_left() {
        let Some(engine) = engine_or_skip("cbc-hmac", CbcHmac::new()) else { return };
        let suite = "null-sha256".parse().unwrap();
        let key = CbcHmacKey::new(engine, suite, false, &[1; 32]).unwrap();
        let fills = |lengths: &[usize]| {
            let data = vec![0; 10_000];
            let mut tags = vec![[0; DIGEST]; lengths.len()];
            let messages: Vec<_> = lengths
                .iter()
                .zip(&mut tags)
                .map(|(&len, tag)| Message { key: &key, data: &data[..len], upper: None, tag })
                .collect();
            fill(&messages)
        };
        assert!(fills(&[1440; 12]) && fills(&[100; 64]) && fills(&[100; 12]));
        assert!(!fills(&[1440; 11]) && !fills(&[100; 1]));
        let long_and_short = |long, short| [vec![1440; long], vec![100; short]].concat();
        assert!(!fills(&long_and_short(1, 63)) && fills(&long_and_short(8, 56)));
        assert!(fills(&[]));
    }
}
