//! The key of one SA direction, as one block of cache lines.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use zeroize::Zeroize;

use super::AesNi;
use super::frame::{BLOCK, Block};
use super::schedule::{ROUND_KEYS, Rounds};
use crate::crypto::EngineKey;

/// Consecutive powers of H: for the last four vectors of AVX-512 and a sum before them, or a batch and a block of AVX2.
pub const POWERS: usize = 20;
/// Powers above them, for batches of eight vectors of AVX-512.
pub const HIGH_POWERS: usize = 3;

/// AES-GCM key of one SA direction: 640 bytes, all of it here, for every tier.
///
/// With many SAs the cost of a packet is the cache lines of its key. So what a short packet needs stands
/// together in the middle: the low powers of H, the parameters, the round keys. A packet of 64 bytes touches
/// five lines with AES-128. Zeroised when dropped, never printed.
#[repr(C, align(64))]
pub struct VaesKey {
    reserved: [u8; BLOCK],
    /// H^32, H^28, H^24.
    high_powers: [[u8; BLOCK]; HIGH_POWERS],
    /// H^20 to H^1.
    powers: [[u8; BLOCK]; POWERS],
    parameters: Parameters,
    /// The first has the salt added to it: only nonces are ever combined with it.
    round_keys: [[u8; BLOCK]; ROUND_KEYS],
}

/// What makes the packet's layout.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    /// Length of the AAD in bits, 64 or 96.
    aad_bits: u64,
    rounds: Rounds,
    iv_len: u8,
    icv_len: u8,
    esn: bool,
    reserved: [u8; 4],
}

pub(super) const KEY_LEN: usize = 640;
/// Where H^20 stands.
pub(super) const FIRST_POWER: usize = (1 + HIGH_POWERS) * BLOCK;
const _: () = assert!(size_of::<VaesKey>() == KEY_LEN, "no padding: `VaesKey::bytes` reads every byte");

/// Bytes of the salt, which follows the AES key in the key material (RFC 4106 s8.1).
const SALT: usize = 4;

impl VaesKey {
    /// Makes a key of `material`, AES key and then salt. `None` unless it has 20, 28 or 36 bytes and `icv_len`
    /// is 16, 12 or 8 (RFC 4106 s6). `implicit_iv` is RFC 8750.
    pub fn new(isa: AesNi, material: &[u8], icv_len: usize, implicit_iv: bool, esn: bool) -> Option<Self> {
        let (key, salt) = material.split_last_chunk::<SALT>()?;
        let rounds = Rounds::of_key_len(key.len())?;
        let icv_len = u8::try_from(icv_len).ok().filter(|len| matches!(len, 8 | 12 | 16))?;
        let parameters = Parameters {
            aad_bits: if esn { 96 } else { 64 },
            rounds,
            iv_len: if implicit_iv { 0 } else { 8 },
            icv_len,
            esn,
            reserved: [0; 4],
        };
        let mut made = Self {
            reserved: [0; BLOCK],
            high_powers: [[0; BLOCK]; HIGH_POWERS],
            powers: [[0; BLOCK]; POWERS],
            parameters,
            round_keys: [[0; BLOCK]; ROUND_KEYS],
        };
        isa.expand_key(key, rounds, &mut made.round_keys);
        isa.expand_powers(rounds, &made.round_keys, &mut made.powers, &mut made.high_powers);
        for (byte, salt) in made.round_keys[0].iter_mut().zip(salt) {
            *byte ^= salt;
        }
        Some(made)
    }

    /// Number of AES rounds.
    #[inline]
    pub(super) fn rounds(&self) -> Rounds {
        self.parameters.rounds
    }

    /// Bytes of IV in a packet: 8 or 0.
    #[inline]
    pub(super) fn iv_len(&self) -> usize {
        usize::from(self.parameters.iv_len)
    }

    /// Bytes of ICV: 16, 12 or 8.
    #[inline]
    pub(super) fn icv_len(&self) -> usize {
        usize::from(self.parameters.icv_len)
    }

    /// Whether the AAD has the upper half of the sequence number.
    #[inline]
    pub(super) fn esn(&self) -> bool {
        self.parameters.esn
    }

    /// The block behind a payload of `len` bytes, reflected: the lengths of AAD and payload in bits.
    #[inline(always)]
    pub(super) fn lengths(&self, len: usize) -> Block {
        [len as u64 * 8, self.parameters.aad_bits]
    }

    /// Round keys; the first has the salt added to it: what AES starts from, but for IV and counter.
    #[inline(always)]
    pub(super) fn round_keys(&self) -> &[[u8; BLOCK]; ROUND_KEYS] {
        &self.round_keys
    }

    /// H^20 to H^1.
    #[inline(always)]
    pub(super) fn powers(&self) -> &[[u8; BLOCK]; POWERS] {
        &self.powers
    }

    /// H^32, H^28, H^24.
    #[inline(always)]
    pub(super) fn high_powers(&self) -> &[[u8; BLOCK]; HIGH_POWERS] {
        &self.high_powers
    }

    /// The whole key. Powers are read from it in vectors that may span what follows them.
    #[inline(always)]
    pub(super) fn bytes(&self) -> &[u8; KEY_LEN] {
        // SAFETY: `repr(C)`, of the asserted size, and each byte belongs to a field: all are initialised.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }
}

/// Asks for the cache lines of a key that a packet of this length will need, without looking at the key.
#[inline]
pub(super) fn prefetch(key: &EngineKey, packet_len: usize) {
    // The low powers, the parameters and the round keys of AES-128; a longer packet needs more powers. The last line is for
    // longer AES keys alone, and comes by itself when it is wanted.
    // Ranges that the compiler knows: as a loop the count costs more than what it counts.
    let ask = |line| {
        let address = std::ptr::from_ref(key).cast::<[u8; 64]>().wrapping_add(line);
        // SAFETY: a prefetch reads nothing that can be seen, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    };
    if packet_len > SHORT_PACKET {
        (0..4).for_each(ask);
    }
    (4..9).for_each(ask);
}

/// Longest packet that needs no more than eight powers, whatever its layout.
const SHORT_PACKET: usize = 8 + 6 * BLOCK + 8;
const _: () = assert!(
    size_of::<EngineKey>() == KEY_LEN,
    "the enum has no room of its own, so a key stands where it stands"
);

impl Drop for VaesKey {
    fn drop(&mut self) {
        self.high_powers.zeroize();
        self.powers.zeroize();
        self.round_keys.zeroize();
    }
}
