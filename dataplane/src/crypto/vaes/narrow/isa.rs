//! What the kernels need of a CPU.

use std::arch::x86_64::__m128i;

use super::AesNi;
use crate::crypto::vaes::frame::BLOCK;

/// Instructions on vectors of one or two blocks. A value is proof that the CPU has them, so all methods are safe; they
/// are to be called where the instructions are enabled, since only there they are inlined.
pub trait Isa: Copy {
    /// Blocks, one to a lane.
    type Vector: Copy;
    /// A vector in memory.
    type Bytes;
    /// All lanes but the first, in memory.
    type Head;
    /// Blocks of a vector.
    const LANES: usize;

    /// The instructions on single blocks.
    fn least(self) -> AesNi;
    /// `bytes` as vectors; what is left over is left out.
    fn vectors(bytes: &[u8]) -> &[Self::Bytes];
    /// `bytes` as vectors; what is left over is left out.
    fn vectors_mut(bytes: &mut [u8]) -> &mut [Self::Bytes];
    /// The first bytes.
    fn head(bytes: &mut [u8]) -> Option<&mut Self::Head>;

    /// From memory.
    fn load(self, bytes: &Self::Bytes) -> Self::Vector;
    /// To memory.
    fn store(self, bytes: &mut Self::Bytes, vector: Self::Vector);
    /// `first`, then `head`.
    fn with_head(self, first: __m128i, head: &Self::Head) -> Self::Vector;
    /// All lanes but the first to memory.
    fn store_head(self, head: &mut Self::Head, vector: Self::Vector);
    /// One block in every lane.
    fn broadcast(self, block: &[u8; BLOCK]) -> Self::Vector;
    /// Ones in the first `bytes` bytes, zeros behind.
    fn mask(self, bytes: usize) -> Self::Vector;
    /// Big-endian counters of the blocks from `block` on, in the last word.
    fn counters(self, block: usize) -> Self::Vector;

    /// Zeros.
    fn zero(self) -> Self::Vector;
    /// `block` in the first lane, zeros in the others.
    fn first(self, block: __m128i) -> Self::Vector;
    /// `block` in the first lane, `vector` in the others.
    fn with_first(self, vector: Self::Vector, block: __m128i) -> Self::Vector;
    /// `block` in the second lane, `vector` in the first. With one lane there is none: `vector`.
    fn with_second(self, vector: Self::Vector, block: __m128i) -> Self::Vector;
    /// The first lane.
    fn lane(self, vector: Self::Vector) -> __m128i;
    /// The second lane; with one lane the first.
    fn second(self, vector: Self::Vector) -> __m128i;
    /// The sum of the lanes.
    fn fold(self, vector: Self::Vector) -> __m128i;
    /// The sums of the lanes of `a` and of `b`, one to a lane; with one lane only that of `a`.
    fn gather(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// Addition in the field.
    fn xor(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Bitwise.
    fn and(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Reverses the bytes of each lane.
    fn reflect(self, vector: Self::Vector) -> Self::Vector;
    /// Swaps the halves of each lane.
    fn swap(self, vector: Self::Vector) -> Self::Vector;
    /// A round of AES.
    fn round(self, state: Self::Vector, key: Self::Vector) -> Self::Vector;
    /// The last round of AES.
    fn last_round(self, state: Self::Vector, key: Self::Vector) -> Self::Vector;
    /// Carry-less product of the lower halves of each lane.
    fn multiply_low(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Carry-less product of the upper halves of each lane.
    fn multiply_high(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
}

/// Ones, then zeros: where a mask begins decides how many ones it has.
pub static ONES_THEN_ZEROS: [u8; 64] = {
    let mut bytes = [0; 64];
    let mut at = 0;
    while at < 32 {
        bytes[at] = 0xff;
        at += 1;
    }
    bytes
};

/// Reverses the bytes of a block.
pub static REVERSE: [u8; BLOCK] = [15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];

/// Moves a little-endian word to the end of a block, big-endian; zeros elsewhere.
pub static COUNTER: [u8; BLOCK] = [128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 3, 2, 1, 0];

/// The value of an expression of intrinsics in a method of an [`Isa`].
macro_rules! cpu {
    ($expression:expr) => {
        // SAFETY: the `self` that every such method has exists only when the CPU has the instructions, and where there is an
        // address it comes from a reference to as many bytes as are read or written.
        unsafe { $expression }
    };
}
pub(super) use cpu;
