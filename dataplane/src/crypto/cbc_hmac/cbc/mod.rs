//! AES-CBC (RFC 3602, SP 800-38A s6.2).
//!
//! To encrypt, a block waits for the one before it, so that one packet keeps an eighth of the AES units busy, and a sixteenth
//! where they take two blocks at once: as many packets go side by side. To decrypt, blocks of one packet go side by side.

use super::key::CbcHmacKey;
use crate::crypto::vaes::schedule::{ROUND_KEYS, Rounds};

mod aes_ni;
mod vaes;

pub use vaes::Vaes;

/// Bytes of a block.
pub const BLOCK: usize = 16;

type Block = [u8; BLOCK];
type RoundKeys = [Block; ROUND_KEYS];

/// What to encrypt in place: a nonce, which becomes the IV, and the payload.
pub struct Chain<'p> {
    /// Of its SA.
    pub key: &'p CbcHmacKey,
    /// Whole blocks.
    pub blocks: &'p mut [Block],
}

/// AES instructions that encrypt `LANES` chains side by side. A value is proof that the CPU has them.
pub trait Cipher<const LANES: usize>: Copy {
    /// The keys of the lanes, laid out as the instructions want them.
    type Keys<'k>;

    /// Whether chains with these keys can go side by side.
    fn go_together(a: &CbcHmacKey, b: &CbcHmacKey) -> bool;
    /// Keys that are yet to be set.
    fn keys<'k>(self) -> Self::Keys<'k>;
    /// Sets the key of a lane, to one that can go with the others.
    fn set_key<'k>(keys: &mut Self::Keys<'k>, lane: usize, key: &'k RoundKeys);
    /// Encrypts `steps` blocks of each lane that has some. `last` is what each lane encrypted before.
    fn encrypt(
        self,
        rounds: Rounds,
        keys: &Self::Keys<'_>,
        last: &mut [Block; LANES],
        runs: &mut Runs<'_, LANES>,
        steps: usize,
    );
    /// Decrypts the blocks behind the IV, which is the first, in place.
    fn decrypt(self, key: &CbcHmacKey, blocks: &mut [Block]);
}

/// Encrypts all chains, from an IV of zero.
#[inline]
pub fn encrypt<C: Cipher<LANES>, const LANES: usize>(cipher: C, chains: &mut [Chain<'_>]) {
    for run in chains.chunk_by_mut(|a, b| C::go_together(a.key, b.key)) {
        encrypt_run(cipher, run);
    }
}

/// Encrypts chains that can go side by side. When one is done the next takes its lane.
fn encrypt_run<C: Cipher<LANES>, const LANES: usize>(cipher: C, chains: &mut [Chain<'_>]) {
    let Some(rounds) = chains.first().and_then(|chain| chain.key.rounds()) else { return };
    let mut waiting = chains.iter_mut();
    let mut keys = cipher.keys();
    let mut of = [std::ptr::null(); LANES];
    let mut lanes: [&mut [Block]; LANES] = std::array::from_fn(|_| Default::default());
    let mut last = [[0; BLOCK]; LANES];
    let mut runs: Runs<'_, LANES> = std::array::from_fn(|_| Run::default());
    loop {
        for (n, (lane, (of, last))) in lanes.iter_mut().zip(of.iter_mut().zip(&mut last)).enumerate() {
            while lane.is_empty() {
                let Some(chain) = waiting.next() else { break };
                if !std::ptr::eq(*of, chain.key) {
                    C::set_key(&mut keys, n, chain.key.round_keys());
                    *of = chain.key;
                }
                *lane = chain.blocks;
                *last = [0; BLOCK];
            }
        }
        let Some(steps) = lanes.iter().map(|lane| lane.len()).filter(|&len| len != 0).min() else { return };
        for (run, lane) in runs.iter_mut().zip(&mut lanes) {
            run.set(lane.split_off_mut(..steps).unwrap_or_default());
        }
        cipher.encrypt(rounds, &keys, &mut last, &mut runs, steps);
    }
}

type Runs<'r, const LANES: usize> = [Run<'r>; LANES];

/// Blocks of a lane. Whether they are there is looked up once for a group of them.
#[derive(Default)]
pub struct Run<'r> {
    groups: &'r mut [[Block; GROUP]],
    rest: &'r mut [[Block; 1]],
    /// What a lane that is idle works on.
    spare: ([Block; GROUP], [Block; 1]),
}

/// Blocks of a group.
const GROUP: usize = 4;

impl<'r> Run<'r> {
    #[inline]
    fn set(&mut self, blocks: &'r mut [Block]) {
        let (groups, rest) = blocks.as_chunks_mut();
        (self.groups, self.rest) = (groups, rest.as_chunks_mut().0);
    }

    /// A group of blocks.
    #[inline]
    fn group(&mut self, n: usize) -> &mut [Block; GROUP] {
        self.groups.get_mut(n).unwrap_or(&mut self.spare.0)
    }

    /// One of those that make no group.
    #[inline]
    fn single(&mut self, n: usize) -> &mut [Block; 1] {
        self.rest.get_mut(n).unwrap_or(&mut self.spare.1)
    }
}
