//! AUTH by shared key: a preshared key, the MSK of an EAP method, or nothing at all (NULL authentication).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

use crate::crypto::{CryptoError, Prf, Secret};

/// `prf(prf(shared, "Key Pad for IKEv2"), octets)` (RFC 7296 s2.15).
///
/// `shared` is the preshared key; the MSK of a key-generating EAP method (s2.16); or SK_pi or SK_pr of the side
/// that sends it, both for an EAP method without a key (s2.16) and for NULL authentication (RFC 7619 s2.1).
pub fn auth_value(prf: Prf, shared: &Secret, octets: &[u8]) -> Result<Secret, CryptoError> {
    let key = prf.compute(shared.expose(), &[KEY_PAD])?;
    prf.compute(key.expose(), &[octets])
}

/// Whether `auth` is the right AUTH value, in constant time.
pub fn verify(prf: Prf, shared: &Secret, octets: &[u8], auth: &[u8]) -> Result<bool, CryptoError> {
    let expected = auth_value(prf, shared, octets)?;
    Ok(verify_slices_are_equal(expected.expose(), auth).is_ok())
}

/// A preshared key or PPK as an operator writes it, with strongSwan's notation: `0x` and hexadecimal, `0s` and
/// Base64, or else the text itself. White space around it, such as the line end of a file, is left out.
pub fn parse_secret(text: &str) -> Result<Secret, SecretError> {
    let text = text.trim();
    let bytes = if let Some(digits) = text.strip_prefix("0x") {
        let found = HEXLOWER_PERMISSIVE.decode(digits.as_bytes());
        zeroize::Zeroizing::new(found.map_err(|error| SecretError::Hex { position: error.position })?)
    } else if let Some(digits) = text.strip_prefix("0s") {
        let found = BASE64.decode(digits.as_bytes());
        zeroize::Zeroizing::new(found.map_err(|error| SecretError::Base64 { position: error.position })?)
    } else {
        zeroize::Zeroizing::new(text.as_bytes().to_vec())
    };
    if bytes.is_empty() {
        return Err(SecretError::Empty);
    }
    Ok(Secret::copy_of(&bytes))
}

/// Why a written secret is none. It never quotes the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing there: an empty shared key authenticates everybody (RFC 7296 s2.15).
    #[error("the secret is empty")]
    Empty,
    /// After `0x` comes something that is not hexadecimal.
    #[error(
        "a secret that starts with 0x is hexadecimal with an even number of digits; digit {position} is wrong"
    )]
    Hex {
        /// Where, from 0, after the prefix.
        position: usize,
    },
    /// After `0s` comes something that is not Base64.
    #[error("a secret that starts with 0s is Base64; character {position} is wrong")]
    Base64 {
        /// Where, from 0, after the prefix.
        position: usize,
    },
}

/// Seventeen ASCII octets without a terminator (RFC 7296 s2.15).
const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_is_two_prfs_deep() {
        let shared = Secret::copy_of(b"secret");
        let inner = Prf::HmacSha256.compute(b"secret", &[b"Key Pad for IKEv2"]).unwrap();
        let outer = Prf::HmacSha256.compute(inner.expose(), &[b"octets"]).unwrap();
        assert_eq!(auth_value(Prf::HmacSha256, &shared, b"octets").unwrap(), outer);
    }

    #[test]
    fn verify_takes_the_exact_value_only() {
        for prf in [Prf::HmacSha1, Prf::HmacSha384, Prf::Aes128Cmac] {
            let shared = Secret::copy_of(b"secret");
            let good = auth_value(prf, &shared, b"octets").unwrap();
            assert!(verify(prf, &shared, b"octets", good.expose()).unwrap());
            assert!(!verify(prf, &shared, b"octetz", good.expose()).unwrap());
            assert!(!verify(prf, &Secret::copy_of(b"secreu"), b"octets", good.expose()).unwrap());
            // An AUTH payload that was cut short is no match, not even an empty one.
            for length in 0..good.len() {
                assert!(!verify(prf, &shared, b"octets", &good.expose()[..length]).unwrap());
            }
        }
    }

    #[test]
    fn secrets_are_text_hex_or_base64() {
        assert_eq!(parse_secret("swordfish\n").unwrap().expose(), b"swordfish");
        assert_eq!(parse_secret("0x00fF").unwrap().expose(), [0, 0xff]);
        assert_eq!(parse_secret("0sAP8=").unwrap().expose(), [0, 0xff]);
        assert_eq!(parse_secret(" \n"), Err(SecretError::Empty));
        assert_eq!(parse_secret("0x"), Err(SecretError::Empty));
        assert_eq!(parse_secret("0x0g"), Err(SecretError::Hex { position: 1 }));
        assert!(matches!(parse_secret("0s!"), Err(SecretError::Base64 { .. })));
    }
}
