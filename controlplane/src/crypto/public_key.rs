//! Public keys, and the checking of signatures with them.

use std::fmt;

use aws_lc_rs::signature::{self as aws, VerificationAlgorithm};
use rustls_pki_types::pem::PemObject;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::scheme::{ClassicMethod, Hash, SignatureScheme};

/// Why a signature was not made or not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The file holds no private key that Spillway can use.
    #[error("not a usable private key (PEM: PKCS#8, PKCS#1 or SEC 1, without a password; {accepted})", accepted = ACCEPTED)]
    PrivateKey,
    /// The public key is none that Spillway can use.
    #[error("public key not usable: {found} ({accepted})", accepted = ACCEPTED)]
    PublicKey {
        /// What it is.
        found: String,
    },
    /// The peer accepts none of the hash functions that this key can sign with.
    #[error("the peer accepts none of the hash functions that {key} can sign with; it accepts {offered}")]
    NoCommonHash {
        /// The kind of our key.
        key: KeyKind,
        /// What the peer announced.
        offered: String,
    },
    /// A signature algorithm that does not go with the key.
    #[error("{scheme} is not a signature of {key}")]
    WrongKey {
        /// The algorithm of the signature.
        scheme: String,
        /// The kind of the key.
        key: KeyKind,
    },
    /// The signature is not of this key over these octets.
    #[error("the {scheme} signature is wrong")]
    Wrong {
        /// The algorithm of the signature.
        scheme: String,
    },
    /// The crypto library could not sign.
    #[error("signing failed")]
    Signing,
}

const ACCEPTED: &str = "RSA of 2048 to 8192 bits, ECDSA P-256, P-384 and P-521, and Ed25519 are";

/// The kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, with the bits of its modulus.
    Rsa(usize),
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// ECDSA on P-521.
    EcdsaP521,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "an RSA key of {bits} bits"),
            Self::EcdsaP256 => f.write_str("an ECDSA P-256 key"),
            Self::EcdsaP384 => f.write_str("an ECDSA P-384 key"),
            Self::EcdsaP521 => f.write_str("an ECDSA P-521 key"),
            Self::Ed25519 => f.write_str("an Ed25519 key"),
        }
    }
}

/// A public key: from a certificate, or raw (RFC 7670).
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    /// The SubjectPublicKeyInfo.
    spki: Vec<u8>,
    /// Its subjectPublicKey bits.
    bits: Vec<u8>,
}

impl PublicKey {
    /// From a DER SubjectPublicKeyInfo (RFC 5280 s4.1.2.7).
    pub fn from_spki(spki: &[u8]) -> Result<Self, SignatureError> {
        let unusable = |found: &str| SignatureError::PublicKey { found: found.to_owned() };
        let parsed =
            SubjectPublicKeyInfoRef::from_der(spki).map_err(|_| unusable("not a SubjectPublicKeyInfo"))?;
        let bits =
            parsed.subject_public_key.as_bytes().ok_or_else(|| unusable("no whole number of bytes"))?;
        let kind = match parsed.algorithm.oid {
            RSA | RSA_PSS => {
                let bits =
                    aws::RsaParameters::public_modulus_len(bits).map_err(|_| unusable("a broken RSA key"))?;
                if !(2048..=8192).contains(&bits) {
                    return Err(unusable(&format!("an RSA key of {bits} bits")));
                }
                KeyKind::Rsa(bits as usize)
            }
            EC => match parsed.algorithm.parameters.and_then(|curve| curve.decode_as().ok()) {
                Some(P256) => KeyKind::EcdsaP256,
                Some(P384) => KeyKind::EcdsaP384,
                Some(P521) => KeyKind::EcdsaP521,
                Some(curve) => return Err(unusable(&format!("an EC key on curve {curve}"))),
                None => return Err(unusable("an EC key without a named curve")),
            },
            ED25519 => KeyKind::Ed25519,
            other => return Err(unusable(&format!("a key of algorithm {other}"))),
        };
        Ok(Self { kind, spki: spki.to_vec(), bits: bits.to_vec() })
    }

    /// From a PEM file with a public key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SignatureError> {
        let found = rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(pem);
        let spki =
            found.map_err(|_| SignatureError::PublicKey { found: "no PUBLIC KEY in PEM".to_owned() })?;
        Self::from_spki(spki.as_ref())
    }

    /// All public keys of a PEM file, of which there is one at least.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, SignatureError> {
        let none = || SignatureError::PublicKey { found: "no PUBLIC KEY in PEM".to_owned() };
        let keys: Vec<_> = rustls_pki_types::SubjectPublicKeyInfoDer::pem_slice_iter(pem)
            .map(|der| Self::from_spki(der.map_err(|_| none())?.as_ref()))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(none()) } else { Ok(keys) }
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The kind of key.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Checks a signature in the form of RFC 7427.
    pub fn verify(
        &self,
        scheme: SignatureScheme,
        octets: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let algorithm: &dyn VerificationAlgorithm = match (self.kind, scheme) {
            (KeyKind::Rsa(_), SignatureScheme::RsaPkcs1(Hash::Sha256)) => &aws::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa(_), SignatureScheme::RsaPkcs1(Hash::Sha384)) => &aws::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa(_), SignatureScheme::RsaPkcs1(Hash::Sha512)) => &aws::RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::Rsa(_), SignatureScheme::RsaPss(Hash::Sha256)) => &aws::RSA_PSS_2048_8192_SHA256,
            (KeyKind::Rsa(_), SignatureScheme::RsaPss(Hash::Sha384)) => &aws::RSA_PSS_2048_8192_SHA384,
            (KeyKind::Rsa(_), SignatureScheme::RsaPss(Hash::Sha512)) => &aws::RSA_PSS_2048_8192_SHA512,
            (KeyKind::EcdsaP256, SignatureScheme::Ecdsa(Hash::Sha256)) => &aws::ECDSA_P256_SHA256_ASN1,
            (KeyKind::EcdsaP256, SignatureScheme::Ecdsa(Hash::Sha384)) => &aws::ECDSA_P256_SHA384_ASN1,
            (KeyKind::EcdsaP256, SignatureScheme::Ecdsa(Hash::Sha512)) => &aws::ECDSA_P256_SHA512_ASN1,
            (KeyKind::EcdsaP384, SignatureScheme::Ecdsa(Hash::Sha256)) => &aws::ECDSA_P384_SHA256_ASN1,
            (KeyKind::EcdsaP384, SignatureScheme::Ecdsa(Hash::Sha384)) => &aws::ECDSA_P384_SHA384_ASN1,
            (KeyKind::EcdsaP384, SignatureScheme::Ecdsa(Hash::Sha512)) => &aws::ECDSA_P384_SHA512_ASN1,
            (KeyKind::EcdsaP521, SignatureScheme::Ecdsa(Hash::Sha256)) => &aws::ECDSA_P521_SHA256_ASN1,
            (KeyKind::EcdsaP521, SignatureScheme::Ecdsa(Hash::Sha384)) => &aws::ECDSA_P521_SHA384_ASN1,
            (KeyKind::EcdsaP521, SignatureScheme::Ecdsa(Hash::Sha512)) => &aws::ECDSA_P521_SHA512_ASN1,
            (KeyKind::Ed25519, SignatureScheme::Ed25519) => &aws::ED25519,
            _ => return Err(self.wrong_key(scheme)),
        };
        self.check(algorithm, &scheme.to_string(), octets, signature)
    }

    /// Checks a signature of an older method. The method must fit the key, so that a peer cannot choose another.
    /// RSA names its hash inside the signature; SHA-1 is accepted only with `allow_sha1`.
    pub fn verify_classic(
        &self,
        method: ClassicMethod,
        octets: &[u8],
        signature: &[u8],
        allow_sha1: bool,
    ) -> Result<(), SignatureError> {
        let name = method.to_string();
        match (self.kind, method) {
            (KeyKind::Rsa(_), ClassicMethod::Rsa) => {
                let sha1: &dyn VerificationAlgorithm = &aws::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY;
                let sha2 = [
                    &aws::RSA_PKCS1_2048_8192_SHA256,
                    &aws::RSA_PKCS1_2048_8192_SHA384,
                    &aws::RSA_PKCS1_2048_8192_SHA512,
                ];
                let mut accepted: Vec<&dyn VerificationAlgorithm> =
                    sha2.map(|algorithm| algorithm as _).to_vec();
                accepted.extend(allow_sha1.then_some(sha1));
                let good = accepted
                    .into_iter()
                    .any(|algorithm| self.check(algorithm, &name, octets, signature).is_ok());
                if good { Ok(()) } else { Err(SignatureError::Wrong { scheme: name }) }
            }
            (KeyKind::EcdsaP256, ClassicMethod::EcdsaP256) => {
                self.check(&aws::ECDSA_P256_SHA256_FIXED, &name, octets, signature)
            }
            (KeyKind::EcdsaP384, ClassicMethod::EcdsaP384) => {
                self.check(&aws::ECDSA_P384_SHA384_FIXED, &name, octets, signature)
            }
            (KeyKind::EcdsaP521, ClassicMethod::EcdsaP521) => {
                self.check(&aws::ECDSA_P521_SHA512_FIXED, &name, octets, signature)
            }
            _ => Err(SignatureError::WrongKey { scheme: name, key: self.kind }),
        }
    }

    fn check(
        &self,
        algorithm: &dyn VerificationAlgorithm,
        name: &str,
        octets: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        algorithm
            .verify_sig(&self.bits, octets, signature)
            .map_err(|_| SignatureError::Wrong { scheme: name.to_owned() })
    }

    pub(super) fn wrong_key(&self, scheme: SignatureScheme) -> SignatureError {
        SignatureError::WrongKey { scheme: scheme.to_string(), key: self.kind }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kind)
    }
}

impl KeyKind {
    /// The hash that an ECDSA key signs with.
    pub(super) fn own_hash(self) -> Option<Hash> {
        match self {
            Self::EcdsaP256 => Some(Hash::Sha256),
            Self::EcdsaP384 => Some(Hash::Sha384),
            Self::EcdsaP521 => Some(Hash::Sha512),
            Self::Rsa(_) | Self::Ed25519 => None,
        }
    }
}

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
