//! HMAC-SHA-256 (RFC 2104, RFC 4868) of several packets side by side.
//!
//! A hash is three runs of blocks: the whole blocks of the packet where they are, its end with the padding in a buffer, and the
//! outer hash. A lane goes through them; when it is done the next packet takes it over, so packets of all lengths keep
//! the lanes filled.

use super::key::CbcHmacKey;
use super::sha256::{BLOCK, DIGEST, Runs, Sha256, Words};

/// What is authenticated, and where the tag goes.
pub struct Message<'p> {
    /// Of its SA.
    pub key: &'p CbcHmacKey,
    /// From the SPI to the end of the payload.
    pub data: &'p [u8],
    /// The upper half of the sequence number when it is authenticated (RFC 4303 s2.2.1).
    pub upper: Option<[u8; 4]>,
    /// The tag, when [`tags`] is done.
    pub tag: &'p mut [u8; DIGEST],
}

/// Works out the tags of all messages.
#[inline]
pub fn tags<S: Sha256<LANES>, const LANES: usize>(sha256: S, messages: &mut [Message<'_>]) {
    let mut waiting = messages.iter_mut();
    let mut states = sha256.states();
    let mut lanes: [Lane<'_, '_>; LANES] = std::array::from_fn(|_| Lane::idle());
    let mut ends = [[[0; BLOCK]; 2]; LANES];
    loop {
        for (n, (lane, end)) in lanes.iter_mut().zip(&mut ends).enumerate() {
            if lane.left == 0 && (lane.message.is_some() || waiting.len() != 0) {
                let mut words = S::words(&states, n);
                while lane.left == 0 && lane.next(&mut words, end, &mut waiting) {}
                S::set_words(&mut states, n, words);
            }
        }
        // As many blocks as every lane that has some can take.
        let Some(steps) = lanes.iter().map(|lane| lane.left).filter(|&left| left != 0).min() else { return };
        let mut runs: Runs<'_, LANES> = [&[]; LANES];
        for (run, (lane, end)) in runs.iter_mut().zip(lanes.iter().zip(&ends)) {
            *run = lane.blocks(end);
        }
        sha256.compress(&mut states, runs, steps);
        for lane in lanes.iter_mut().filter(|lane| lane.left != 0) {
            lane.left -= steps;
            lane.at += steps;
        }
    }
}

/// A hash on its way.
struct Lane<'m, 'p> {
    message: Option<&'m mut Message<'p>>,
    run: Run,
    /// Blocks of the run that are done, and that are left.
    at: usize,
    left: usize,
}

/// Which blocks a lane goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Those of the packet.
    Packet,
    /// Its end, with padding.
    End,
    /// The one of the outer hash.
    Outer,
}

impl<'m, 'p> Lane<'m, 'p> {
    fn idle() -> Self {
        Self { message: None, run: Run::Outer, at: 0, left: 0 }
    }

    /// The blocks that are left of the run.
    #[inline]
    fn blocks<'b>(&'b self, end: &'b [[u8; BLOCK]; 2]) -> &'b [[u8; BLOCK]] {
        let run = match (&self.message, self.run) {
            (Some(message), Run::Packet) => message.data.as_chunks().0,
            _ => end.as_slice(),
        };
        run.get(self.at..self.at + self.left).unwrap_or_default()
    }

    /// Goes on to the next run, or the next message. False when there is none.
    fn next(
        &mut self,
        words: &mut Words,
        end: &mut [[u8; BLOCK]; 2],
        waiting: &mut std::slice::IterMut<'m, Message<'p>>,
    ) -> bool {
        self.at = 0;
        match (&mut self.message, self.run) {
            (Some(message), Run::Packet) => {
                self.run = Run::End;
                self.left = pad(message.data, message.upper, end);
            }
            (Some(message), Run::End) => {
                // The inner hash, one block, after the block of the key (RFC 2104 s2).
                let mut block = [0; BLOCK];
                let (digest, padding) = block.split_at_mut(DIGEST);
                digest.copy_from_slice(&bytes(*words));
                finish(padding, (BLOCK + DIGEST) as u64 * 8);
                end[0] = block;
                *words = *message.key.outer();
                self.run = Run::Outer;
                self.left = 1;
            }
            (message, _) => {
                if let Some(message) = message.take() {
                    *message.tag = bytes(*words);
                }
                *message = waiting.next();
                let Some(message) = message else { return false };
                self.run = Run::Packet;
                self.left = message.data.len() / BLOCK;
                *words = *message.key.inner();
            }
        }
        true
    }
}

/// Fills `end` with what is left of a message behind its whole blocks, and the padding (FIPS 180-4 s5.1.1). Returns the
/// number of blocks.
fn pad(data: &[u8], upper: Option<[u8; 4]>, end: &mut [[u8; BLOCK]; 2]) -> usize {
    let rest = data.as_chunks::<BLOCK>().1;
    let upper = upper.as_ref().map_or(&[][..], |upper| upper);
    let used = rest.len() + upper.len();
    // A one bit and the length, nine bytes at least.
    let blocks = if used + 9 <= BLOCK { 1 } else { 2 };
    let bytes = &mut end.as_flattened_mut()[..blocks * BLOCK];
    bytes[..rest.len()].copy_from_slice(rest);
    bytes[rest.len()..used].copy_from_slice(upper);
    finish(&mut bytes[used..], (BLOCK + data.len() + upper.len()) as u64 * 8);
    blocks
}

/// A one bit, zeros, and the length of the whole in bits.
fn finish(padding: &mut [u8], bits: u64) {
    padding.fill(0);
    if let Some(first) = padding.first_mut() {
        *first = 0x80;
    }
    if let Some(length) = padding.last_chunk_mut() {
        *length = bits.to_be_bytes();
    }
}

fn bytes(words: Words) -> [u8; DIGEST] {
    let mut bytes = [0; DIGEST];
    for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *to = word.to_be_bytes();
    }
    bytes
}
