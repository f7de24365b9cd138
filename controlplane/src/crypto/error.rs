//! What can go wrong in the cryptography of IKE.

use super::Group;

/// Why a cryptographic step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// AWS-LC refused an operation that it has no reason to refuse.
    #[error("the crypto library refused the operation")]
    Library,
    /// More key stream than prf+ defines (RFC 7296 s2.13).
    #[error("{wanted} bytes of keys are more than 255 outputs of the negotiated PRF")]
    KeyStreamTooLong {
        /// Bytes asked for.
        wanted: usize,
    },
    /// A key has the wrong length for its algorithm.
    #[error("{algorithm} takes a key of {expected} bytes, not {found}")]
    KeyLength {
        /// The algorithm, as the RFCs name it.
        algorithm: &'static str,
        /// Bytes it takes.
        expected: usize,
        /// Bytes it was given.
        found: usize,
    },
    /// A key exchange value of the wrong length.
    #[error("key exchange value for {group} is {found} bytes long, not {expected}")]
    PublicLength {
        /// The group.
        group: Group,
        /// Bytes a value of this role has.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// A key exchange value that no honest peer sends: 0, 1 or p-1, a point off the curve, an X25519 point of
    /// small order, an ML-KEM key with unreduced coefficients (RFC 6989 s2, RFC 8031 s3.2, FIPS 203 s7.2).
    #[error("key exchange value for {group} is not valid")]
    PublicValue {
        /// The group.
        group: Group,
    },
    /// The payload is too short for IV, padding length and ICV, or not a whole number of blocks.
    #[error("encrypted payload of {found} bytes has an impossible length")]
    SealedLength {
        /// Bytes of the payload body.
        found: usize,
    },
    /// The ICV is wrong: another key, or a forged or damaged message.
    #[error("integrity check failed")]
    Integrity,
    /// The ICV is good but the pad length octet points before the start of the payload.
    #[error("pad length {pad} exceeds the {plain} decrypted bytes")]
    Padding {
        /// The pad length octet.
        pad: usize,
        /// Decrypted bytes, the pad length octet left out.
        plain: usize,
    },
    /// 2^64 messages under one key: the IV counter may not wrap.
    #[error("no IV is left under this key")]
    IvExhausted,
}

impl From<aws_lc_rs::error::Unspecified> for CryptoError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Library
    }
}
