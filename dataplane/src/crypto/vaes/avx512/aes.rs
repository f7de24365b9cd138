//! AES rounds, interleaved with GHASH.

/// All rounds after the first key addition, on the vectors `states` of packets with `keys`. The last round key is
/// added to `inputs`, what the keystream is to be added to.
///
/// `step`, when given, is the name of a macro that does step 1 to 9 of a hash: they are done between the rounds. In this
/// order the core sees instructions that can run while others wait. Rounds in a row fill its schedulers with what
/// waits, and the work behind them does not get in.
///
/// A macro, since nothing less makes the compiler keep all of it in registers.
macro_rules! cipher {
    ($rounds:ident, $keys:expr, $states:ident, $inputs:expr $(, $step:ident)?) => {{
        let (keys, inputs) = ($keys, $inputs);
        cipher!(@rounds keys, $states, ($($step)?), 1 2 3 4 5 6 7 8 9);
        for extra in 10..$rounds {
            cipher!(@round keys, $states, extra);
        }
        for q in 0..keys.len() {
            let key = broadcast(&keys[q].round_keys()[$rounds]);
            for n in 0..$states[q].len() {
                let last = _mm512_xor_si512(key, inputs[q][n]);
                $states[q][n] = _mm512_aesenclast_epi128($states[q][n], last);
            }
        }
    }};
    (@rounds $keys:ident, $states:ident, $step:tt, $($round:literal)*) => {
        $(
            cipher!(@round $keys, $states, $round);
            cipher!(@step $step, $round);
        )*
    };
    (@round $keys:ident, $states:ident, $round:expr) => {
        for q in 0..$keys.len() {
            let key = broadcast(&$keys[q].round_keys()[$round]);
            for state in &mut $states[q] {
                *state = _mm512_aesenc_epi128(*state, key);
            }
        }
    };
    (@step ($step:ident), $round:literal) => {
        $step!($round)
    };
    (@step (), $round:literal) => {};
}
pub(super) use cipher;
