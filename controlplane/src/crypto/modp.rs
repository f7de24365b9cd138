//! MODP Diffie-Hellman (RFC 3526), over `crypto-bigint`.
//!
//! AWS-LC has finite-field Diffie-Hellman but its Rust binding does not show it. `crypto-bigint` does modular
//! exponentiation in Montgomery form in constant time: neither branches nor table look-ups depend on the
//! exponent, only its bound, which is public.

use std::sync::LazyLock;

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd, Resize};
use zeroize::Zeroizing;

use super::{Secret, modp_primes};

/// One group: its prime in Montgomery form and the size of private exponents.
pub(super) struct Params {
    monty: LazyLock<BoxedMontyParams>,
    bits: u32,
    exponent_bits: u32,
}

pub(super) static MODP_2048: Params =
    Params { monty: LazyLock::new(|| montgomery(modp_primes::MODP_2048)), bits: 2048, exponent_bits: 320 };
pub(super) static MODP_3072: Params =
    Params { monty: LazyLock::new(|| montgomery(modp_primes::MODP_3072)), bits: 3072, exponent_bits: 448 };
pub(super) static MODP_4096: Params =
    Params { monty: LazyLock::new(|| montgomery(modp_primes::MODP_4096)), bits: 4096, exponent_bits: 512 };
pub(super) static MODP_6144: Params =
    Params { monty: LazyLock::new(|| montgomery(modp_primes::MODP_6144)), bits: 6144, exponent_bits: 576 };
pub(super) static MODP_8192: Params =
    Params { monty: LazyLock::new(|| montgomery(modp_primes::MODP_8192)), bits: 8192, exponent_bits: 640 };

impl Params {
    /// The exponents have the upper of the two sizes that RFC 3526 s8 estimates for each group (rounded up to
    /// whole limbs), more than twice the strength of the group, as SP 800-56A rev. 3 s5.6.1.1.1 asks of safe
    /// primes. A longer exponent would cost time and add nothing.
    fn power(&self, base: BoxedUint, exponent: &BoxedUint) -> Zeroizing<BoxedUint> {
        let base = BoxedMontyForm::new(base, &self.monty);
        let power = Zeroizing::new(base.pow_bounded_exp(exponent, self.exponent_bits));
        Zeroizing::new(power.retrieve())
    }

    /// The public value `y`, unless it lies outside 1 < y < p-1 (RFC 6989 s2.1). The modulus is a safe prime, so
    /// what is left generates a group with no small subgroup.
    fn parse_public(&self, bytes: &[u8]) -> Option<BoxedUint> {
        let value = BoxedUint::from_be_slice(bytes, self.bits).ok()?;
        let one = BoxedUint::one_with_precision(self.bits);
        let last = self.monty.modulus().as_ref().wrapping_sub(&one);
        (value > one && value < last).then_some(value)
    }

    /// The public value is one of the group.
    pub(super) fn has(&self, public: &[u8]) -> bool {
        self.parse_public(public).is_some()
    }

    #[cfg(test)]
    pub(super) fn prime_bytes(&self) -> Vec<u8> {
        self.monty.modulus().to_be_bytes().into_vec()
    }
}

/// A private exponent.
pub(super) struct ModpPrivate {
    params: &'static Params,
    exponent: Zeroizing<BoxedUint>,
}

impl ModpPrivate {
    /// A fresh exponent from AWS-LC's generator.
    pub(super) fn generate(params: &'static Params) -> Self {
        let mut bytes = Zeroizing::new(vec![0u8; params.exponent_bits as usize / 8]);
        aws_lc_rs::rand::fill(&mut bytes)
            .expect("AWS-LC ends the process when the system has no randomness to give");
        // The exponent is held at the precision of the modulus, which the exponentiation expects.
        let exponent =
            BoxedUint::from_be_slice(&bytes, params.bits).expect("an exponent is shorter than its modulus");
        Self { params, exponent: Zeroizing::new(exponent) }
    }

    /// 2^x mod p, as long as the modulus (RFC 7296 s3.4: zeros are prepended).
    pub(super) fn public(&self) -> Vec<u8> {
        let two = BoxedUint::from(2u8).resize(self.params.bits);
        self.params.power(two, &self.exponent).to_be_bytes().into_vec()
    }

    /// y^x mod p, as long as the modulus (RFC 7296 s2.14), or `None` for a public value out of range.
    pub(super) fn agree(&self, peer_public: &[u8]) -> Option<Secret> {
        let peer = self.params.parse_public(peer_public)?;
        let shared = Zeroizing::new(self.params.power(peer, &self.exponent).to_be_bytes());
        Some(Secret::copy_of(&shared))
    }
}

fn montgomery(prime: &str) -> BoxedMontyParams {
    let bits = u32::try_from(prime.len() * 4).expect("a prime has at most 8192 bits");
    let prime: BoxedUint =
        Option::from(BoxedUint::from_be_hex(prime, bits)).expect("the primes are valid hexadecimal");
    let odd: Odd<BoxedUint> = Option::from(prime.into_odd()).expect("the primes are odd");
    BoxedMontyParams::new(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_case_by_hand() {
        let params = &MODP_2048;
        let bits = params.bits;
        let power = params.power(BoxedUint::from(3u8).resize(bits), &BoxedUint::from(5u8).resize(bits));
        assert_eq!(*power, BoxedUint::from(243u8).resize(bits));
    }

    #[test]
    fn secrets_are_as_long_as_the_modulus() {
        let (a, b) = (ModpPrivate::generate(&MODP_3072), ModpPrivate::generate(&MODP_3072));
        assert_eq!(a.public().len(), 384);
        let shared = a.agree(&b.public()).unwrap();
        assert_eq!(shared.len(), 384);
        assert_eq!(shared, b.agree(&a.public()).unwrap());
    }

    #[test]
    fn the_generator_has_prime_order() {
        // 2^q = 1 with q = (p-1)/2: 2 generates the subgroup of quadratic residues, and p is a probable prime.
        for params in [&MODP_2048, &MODP_3072, &MODP_4096] {
            let q = params.monty.modulus().as_ref() >> 1;
            let two = BoxedMontyForm::new(BoxedUint::from(2u8).resize(params.bits), &params.monty);
            assert_eq!(two.pow(&q).retrieve(), BoxedUint::one_with_precision(params.bits));
        }
    }
}
