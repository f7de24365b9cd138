//! HMAC-SHA-256 (RFC 2104, RFC 4868) of several packets side by side.
//!
//! A hash is three runs of blocks: the whole blocks of the packet where they are, its end with the padding in a buffer, and the
//! outer hash. A lane goes through them; when it is done the next packet takes it over, so packets of all lengths keep
//! the lanes filled.

use super::key::CbcHmacKey;
use super::sha256::{BLOCK, DIGEST, LANES, State, compress};

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
#[target_feature(enable = "avx,aes,sha")]
pub fn tags(messages: &mut [Message<'_>]) {
    let mut waiting = messages.iter_mut();
    let mut lanes: [Lane<'_, '_>; LANES] = std::array::from_fn(|_| Lane::idle());
    let mut ends = [[[0; BLOCK]; 2]; LANES];
    loop {
        for (lane, end) in lanes.iter_mut().zip(&mut ends) {
            while lane.left == 0 && lane.next(end, &mut waiting) {}
        }
        // As many blocks as every lane that has some can take. The others hash a block of zeros, which costs no time.
        let Some(steps) = lanes.iter().map(|lane| lane.left).filter(|&left| left != 0).min() else { return };
        let mut states = [0, 1, 2, 3].map(|lane: usize| State::load(&lanes[lane].state));
        for step in 0..steps {
            let blocks = [0, 1, 2, 3].map(|lane: usize| lanes[lane].block(&ends[lane], step));
            compress(&mut states, blocks);
        }
        for (lane, state) in lanes.iter_mut().zip(states) {
            if lane.left != 0 {
                lane.state = state.words();
                lane.left -= steps;
                lane.at += steps;
            }
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
    state: [u32; 8],
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
        Self { message: None, run: Run::Outer, at: 0, left: 0, state: [0; 8] }
    }

    /// The block of a step.
    #[inline]
    fn block<'b>(&'b self, end: &'b [[u8; BLOCK]; 2], step: usize) -> &'b [u8; BLOCK] {
        let run = match (&self.message, self.run) {
            (Some(message), Run::Packet) => message.data.as_chunks().0,
            _ => end.as_slice(),
        };
        run.get(self.at + step).unwrap_or(&[0; BLOCK])
    }

    /// Goes on to the next run, or the next message. False when there is none.
    fn next(
        &mut self,
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
                digest.copy_from_slice(&bytes(self.state));
                finish(padding, (BLOCK + DIGEST) as u64 * 8);
                end[0] = block;
                self.state = *message.key.outer();
                self.run = Run::Outer;
                self.left = 1;
            }
            (message, _) => {
                if let Some(message) = message.take() {
                    *message.tag = bytes(self.state);
                }
                *message = waiting.next();
                let Some(message) = message else { return false };
                self.run = Run::Packet;
                self.left = message.data.len() / BLOCK;
                self.state = *message.key.inner();
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

fn bytes(words: [u32; 8]) -> [u8; DIGEST] {
    let mut bytes = [0; DIGEST];
    for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *to = word.to_be_bytes();
    }
    bytes
}
