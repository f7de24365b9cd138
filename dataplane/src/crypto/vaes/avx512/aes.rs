//! AES rounds, interleaved with GHASH.

use std::arch::x86_64::*;

use super::lanes::broadcast;
use crate::crypto::vaes::key::VaesKey;
use crate::crypto::vaes::schedule::Rounds;

/// The keys of the last round, in every lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub fn last_keys<const Q: usize>(keys: &[&VaesKey; Q], rounds: Rounds) -> [__m512i; Q] {
    // No `map`: the compiler would not inline it, for want of these instructions, and put all vectors in memory around it.
    let mut last = [_mm512_setzero_si512(); Q];
    for q in 0..Q {
        last[q] = broadcast(&keys[q].round_keys()[rounds.count()]);
    }
    last
}

/// All rounds between the first key addition and the last round, on the vectors `states` of packets with `keys`, which have as
/// many rounds. Gives the keys of the last round, in every lane.
///
/// `step`, when given, is the name of a macro that does step 1 to 9 of a hash: they are done between the rounds. In this
/// order the core sees instructions that can run while others wait. Rounds in a row fill its schedulers with what
/// waits, and the work behind them does not get in.
///
/// A macro, since nothing less makes the compiler keep all of it in registers.
macro_rules! rounds {
    ($keys:expr, $states:ident $(, $step:ident)?) => {{
        let keys = $keys;
        rounds!(@rounds keys, $states, ($($step)?), 1 2 3 4 5 6 7 8 9);
        let count = keys[0].rounds();
        if count != Rounds::Ten {
            rounds!(@rounds keys, $states, (), 10 11);
            if count != Rounds::Twelve {
                rounds!(@rounds keys, $states, (), 12 13);
            }
        }
        last_keys(&keys, count)
    }};
    (@rounds $keys:ident, $states:ident, $step:tt, $($round:literal)*) => {
        $(
            for q in 0..$keys.len() {
                let key = broadcast(&$keys[q].round_keys()[$round]);
                for state in &mut $states[q] {
                    *state = _mm512_aesenc_epi128(*state, key);
                }
            }
            rounds!(@step $step, $round);
        )*
    };
    (@step ($step:ident), $round:literal) => {
        $step!($round)
    };
    (@step (), $round:literal) => {};
}
pub(super) use rounds;
