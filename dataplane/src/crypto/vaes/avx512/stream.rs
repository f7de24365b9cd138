//! A packet as a stream of vectors: how many, its counter blocks, its length block.

use std::arch::x86_64::*;

use super::lanes::{BLOCK, VECTOR, load, load_words};
use crate::crypto::vaes::counters::COUNTERS;
use crate::crypto::vaes::frame::{Block, Frame};
use crate::crypto::vaes::key::VaesKey;

impl Frame<'_> {
    /// Vectors of header and payload.
    #[inline]
    pub fn vectors(&self) -> usize {
        (self.len + BLOCK).div_ceil(VECTOR)
    }
}

/// Most vectors of a packet that is hashed in one piece.
pub const SHORT: usize = 4;

/// How many short packets stand at the front, four at most.
#[inline]
pub fn short_ones(frames: &[Frame<'_>]) -> usize {
    frames.iter().take(4).take_while(|frame| frame.vectors() <= SHORT).count()
}

/// Four short packets that can go through AES side by side, and their vectors: as many, and keys with as many rounds.
#[inline]
pub fn alike<'f, 'p>(frames: &'f mut [Frame<'p>]) -> Option<(&'f mut [Frame<'p>; 4], usize)> {
    let four: &mut [Frame<'p>; 4] = frames.try_into().ok()?;
    let form = |frame: &Frame<'_>| (frame.vectors(), frame.key.rounds());
    let first = form(&four[0]);
    four.iter().all(|frame| form(frame) == first).then_some((four, first.0))
}

/// Puts up to four short packets through `kernel::<vectors, packets>`, as many side by side as fill the units: what became of
/// each. A macro, since the kernel's instructions must be enabled around it.
macro_rules! side_by_side {
    ($kernel:ident, $frames:ident) => {
        match alike($frames) {
            Some(([a, b, c, d], 1)) => $kernel::<1, 4>([a, b, c, d]),
            Some(([a, b, c, d], 2)) => $kernel::<2, 4>([a, b, c, d]),
            Some(([a, b, c, d], 3)) => {
                let ([a, b], [c, d]) = ($kernel::<3, 2>([a, b]), $kernel::<3, 2>([c, d]));
                [a, b, c, d]
            }
            Some(([a, b, c, d], _)) => {
                let ([a, b], [c, d]) = ($kernel::<4, 2>([a, b]), $kernel::<4, 2>([c, d]));
                [a, b, c, d]
            }
            None => {
                let mut slots = [Hashed::nothing(); 4];
                for (frame, slot) in $frames.iter_mut().zip(&mut slots) {
                    [*slot] = match frame.vectors() {
                        1 => $kernel::<1, 1>([frame]),
                        2 => $kernel::<2, 1>([frame]),
                        3 => $kernel::<3, 1>([frame]),
                        _ => $kernel::<4, 1>([frame]),
                    };
                }
                slots
            }
        }
    };
}
pub(super) use side_by_side;

/// How the stream of a packet ends.
#[derive(Clone, Copy, Default)]
pub struct Ending {
    /// Blocks of the payload, or the header, in the last vector of both: 1 to 4.
    occupied: usize,
}

impl Ending {
    /// Of a packet.
    #[inline]
    pub fn of(frame: &Frame<'_>) -> Self {
        Self { occupied: frame.len.div_ceil(BLOCK) % 4 + 1 }
    }

    /// Whether the last vector has a lane left for the length block.
    #[inline]
    pub fn has_room(self) -> bool {
        self.occupied < 4
    }

    /// Blocks from the last vector on, the length block among them.
    #[inline]
    pub fn blocks(self) -> usize {
        self.occupied + 1
    }

    /// The last vector, with the length block if there is room.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn with_lengths(self, vector: __m512i, lengths: &Block) -> __m512i {
        let halves = 0b11u32 << (2 * self.occupied);
        _mm512_mask_broadcast_i64x2(vector, halves as u8, load_words(lengths))
    }
}

/// The counter blocks of a packet, after the first key addition.
#[derive(Clone, Copy)]
pub struct Counters {
    base: __m512i,
}

impl Counters {
    /// For a [`Frame::nonce`].
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn new(key: &VaesKey, nonce: &Block) -> Self {
        Self { base: _mm512_xor_si512(key.whitening(), _mm512_broadcast_i32x4(load_words(nonce))) }
    }

    /// Vectors `first` to `first + N - 1` of the stream.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub fn batch<const N: usize>(self, first: usize) -> [__m512i; N] {
        let mut states = [self.base; N];
        match COUNTERS.0.get(first..).and_then(<[_]>::first_chunk::<N>) {
            Some(rows) => {
                for n in 0..N {
                    states[n] = _mm512_xor_si512(self.base, load(&rows[n]));
                }
            }
            None => {
                for n in 0..N {
                    states[n] = _mm512_xor_si512(self.base, computed(first + n));
                }
            }
        }
        states
    }
}

/// Counters of a longer packet.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn computed(vector: usize) -> __m512i {
    let first = (vector * 4) as u32;
    let lanes = _mm512_set_epi32(4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0);
    let counters = _mm512_add_epi32(lanes, _mm512_set1_epi32(first as i32));
    // Word 3 big-endian, the others zero.
    let word_3 = _mm_set_epi8(12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    _mm512_shuffle_epi8(counters, _mm512_broadcast_i32x4(word_3))
}
