//! Private keys that sign AUTH payloads: RFC 7427 (any algorithm by its AlgorithmIdentifier), RFC 8420 (Ed25519),
//! and the older methods with a fixed algorithm (RFC 7296 s3.8, RFC 4754).

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self as aws, EcdsaKeyPair, Ed25519KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::public_key::{KeyKind, PublicKey, SignatureError};
use super::scheme::{ClassicMethod, Hash, RsaPadding, SignatureScheme};

/// A private key that signs. AWS-LC keeps the key material and wipes it.
pub struct SigningKey {
    inner: Private,
    public: PublicKey,
}

enum Private {
    Rsa(Box<rsa::KeyPair>),
    /// The same key twice: the binding fixes the form of the signature when it loads a key. RFC 7427 uses the
    /// ASN.1 form, RFC 4754 the plain r | s.
    Ecdsa {
        asn1: Box<EcdsaKeyPair>,
        plain: Box<EcdsaKeyPair>,
    },
    Ed25519(Box<Ed25519KeyPair>),
}

impl SigningKey {
    /// Reads the first private key of a PEM file: PKCS#8, or the traditional forms of RSA and EC.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SignatureError> {
        Self::from_der(&PrivateKeyDer::from_pem_slice(pem).map_err(|_| SignatureError::PrivateKey)?)
    }

    /// Takes over a private key.
    pub fn from_der(der: &PrivateKeyDer<'_>) -> Result<Self, SignatureError> {
        let (inner, spki) = load(der).ok_or(SignatureError::PrivateKey)?;
        Ok(Self { inner, public: PublicKey::from_spki(&spki)? })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The algorithm to sign with (RFC 7427 s4): the one that fits the key, with a hash that the peer announced
    /// in SIGNATURE_HASH_ALGORITHMS. RSA keys take SHA-256 first, as more does not help a key of usual length;
    /// ECDSA keys the hash of the size of their curve.
    pub fn choose(&self, peer_hashes: &[Hash], rsa: RsaPadding) -> Result<SignatureScheme, SignatureError> {
        let able: &[SignatureScheme] = match (self.public.kind(), rsa) {
            (KeyKind::Rsa(_), RsaPadding::Pkcs1) => &[
                SignatureScheme::RsaPkcs1(Hash::Sha256),
                SignatureScheme::RsaPkcs1(Hash::Sha384),
                SignatureScheme::RsaPkcs1(Hash::Sha512),
            ],
            (KeyKind::Rsa(_), RsaPadding::Pss) => &[
                SignatureScheme::RsaPss(Hash::Sha256),
                SignatureScheme::RsaPss(Hash::Sha384),
                SignatureScheme::RsaPss(Hash::Sha512),
            ],
            (KeyKind::EcdsaP256, _) => &[SignatureScheme::Ecdsa(Hash::Sha256)],
            (KeyKind::EcdsaP384, _) => &[SignatureScheme::Ecdsa(Hash::Sha384)],
            (KeyKind::EcdsaP521, _) => &[SignatureScheme::Ecdsa(Hash::Sha512)],
            (KeyKind::Ed25519, _) => &[SignatureScheme::Ed25519],
        };
        able.iter().find(|scheme| peer_hashes.contains(&scheme.hash())).copied().ok_or_else(|| {
            let names: Vec<_> = peer_hashes.iter().map(ToString::to_string).collect();
            let offered = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            SignatureError::NoCommonHash { key: self.public.kind(), offered }
        })
    }

    /// Signs `octets` with an algorithm from [`SigningKey::choose`], in the form of RFC 7427.
    pub fn sign(&self, scheme: SignatureScheme, octets: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let random = SystemRandom::new();
        match (&self.inner, scheme) {
            (Private::Rsa(pair), SignatureScheme::RsaPkcs1(hash)) => {
                let encoding = match hash {
                    Hash::Sha256 => &aws::RSA_PKCS1_SHA256,
                    Hash::Sha384 => &aws::RSA_PKCS1_SHA384,
                    Hash::Sha512 => &aws::RSA_PKCS1_SHA512,
                    Hash::Sha1 | Hash::Identity => return Err(self.public.wrong_key(scheme)),
                };
                sign_rsa(pair, encoding, octets)
            }
            (Private::Rsa(pair), SignatureScheme::RsaPss(hash)) => {
                let encoding = match hash {
                    Hash::Sha256 => &aws::RSA_PSS_SHA256,
                    Hash::Sha384 => &aws::RSA_PSS_SHA384,
                    Hash::Sha512 => &aws::RSA_PSS_SHA512,
                    Hash::Sha1 | Hash::Identity => return Err(self.public.wrong_key(scheme)),
                };
                sign_rsa(pair, encoding, octets)
            }
            (Private::Ecdsa { asn1, .. }, SignatureScheme::Ecdsa(hash))
                if Some(hash) == self.public.kind().own_hash() =>
            {
                let signature = asn1.sign(&random, octets).map_err(|_| SignatureError::Signing)?;
                Ok(signature.as_ref().to_vec())
            }
            (Private::Ed25519(pair), SignatureScheme::Ed25519) => {
                Ok(pair.try_sign(octets).map_err(|_| SignatureError::Signing)?.as_ref().to_vec())
            }
            _ => Err(self.public.wrong_key(scheme)),
        }
    }

    /// The older method that fits the key, for a peer that does not announce RFC 7427; `None` for Ed25519.
    pub fn classic_method(&self) -> Option<ClassicMethod> {
        match self.public.kind() {
            KeyKind::Rsa(_) => Some(ClassicMethod::Rsa),
            KeyKind::EcdsaP256 => Some(ClassicMethod::EcdsaP256),
            KeyKind::EcdsaP384 => Some(ClassicMethod::EcdsaP384),
            KeyKind::EcdsaP521 => Some(ClassicMethod::EcdsaP521),
            KeyKind::Ed25519 => None,
        }
    }

    /// Signs `octets` by the older method of the key. RSA takes SHA-256 here, which the signature itself names;
    /// SHA-1, the default of RFC 7296 s3.8, MUST NOT be used any more (RFC 8247 s3.2).
    pub fn sign_classic(&self, octets: &[u8]) -> Result<Vec<u8>, SignatureError> {
        match &self.inner {
            Private::Rsa(_) => self.sign(SignatureScheme::RsaPkcs1(Hash::Sha256), octets),
            Private::Ecdsa { plain, .. } => {
                let signature =
                    plain.sign(&SystemRandom::new(), octets).map_err(|_| SignatureError::Signing)?;
                Ok(signature.as_ref().to_vec())
            }
            Private::Ed25519(_) => Err(self.public.wrong_key(SignatureScheme::Ed25519)),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.kind())
    }
}

/// Tries the key types in turn; each refuses the others. Gives the SubjectPublicKeyInfo with the key.
fn load(der: &PrivateKeyDer<'_>) -> Option<(Private, Vec<u8>)> {
    let bytes = der.secret_der();
    let rsa = match der {
        PrivateKeyDer::Pkcs1(_) => rsa::KeyPair::from_der(bytes),
        _ => rsa::KeyPair::from_pkcs8(bytes),
    };
    if let Ok(pair) = rsa {
        let spki: PublicKeyX509Der<'_> = aws::KeyPair::public_key(&pair).as_der().ok()?;
        let spki = spki.as_ref().to_vec();
        return Some((Private::Rsa(Box::new(pair)), spki));
    }
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8(bytes) {
        let spki: PublicKeyX509Der<'_> = aws::KeyPair::public_key(&pair).as_der().ok()?;
        let spki = spki.as_ref().to_vec();
        return Some((Private::Ed25519(Box::new(pair)), spki));
    }
    for (asn1, plain) in [
        (&aws::ECDSA_P256_SHA256_ASN1_SIGNING, &aws::ECDSA_P256_SHA256_FIXED_SIGNING),
        (&aws::ECDSA_P384_SHA384_ASN1_SIGNING, &aws::ECDSA_P384_SHA384_FIXED_SIGNING),
        (&aws::ECDSA_P521_SHA512_ASN1_SIGNING, &aws::ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        let Ok(asn1) = EcdsaKeyPair::from_private_key_der(asn1, bytes) else { continue };
        let plain = EcdsaKeyPair::from_private_key_der(plain, bytes).ok()?;
        let spki: PublicKeyX509Der<'_> = aws::KeyPair::public_key(&asn1).as_der().ok()?;
        let spki = spki.as_ref().to_vec();
        return Some((Private::Ecdsa { asn1: Box::new(asn1), plain: Box::new(plain) }, spki));
    }
    None
}

fn sign_rsa(
    pair: &rsa::KeyPair,
    encoding: &'static dyn aws::RsaEncoding,
    octets: &[u8],
) -> Result<Vec<u8>, SignatureError> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), octets, &mut signature).map_err(|_| SignatureError::Signing)?;
    Ok(signature)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::Pkcs8V1Der;
    use aws_lc_rs::rsa::KeySize;

    use super::*;

    const OCTETS: &[u8] = b"the signed octets";

    fn pkcs8(bytes: &[u8]) -> SigningKey {
        SigningKey::from_der(&PrivateKeyDer::Pkcs8(bytes.to_vec().into())).unwrap()
    }

    fn rsa_2048() -> SigningKey {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        pkcs8(der.as_ref())
    }

    fn ecdsa(algorithm: &'static aws::EcdsaSigningAlgorithm) -> SigningKey {
        pkcs8(EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap().as_ref())
    }

    fn keys() -> Vec<SigningKey> {
        vec![
            rsa_2048(),
            ecdsa(&aws::ECDSA_P256_SHA256_ASN1_SIGNING),
            ecdsa(&aws::ECDSA_P384_SHA384_ASN1_SIGNING),
            ecdsa(&aws::ECDSA_P521_SHA512_ASN1_SIGNING),
            pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref()),
        ]
    }

    #[test]
    fn every_key_signs_by_rfc_7427_and_every_flipped_bit_is_noticed() {
        for key in keys() {
            for padding in [RsaPadding::Pkcs1, RsaPadding::Pss] {
                let scheme = key.choose(&Hash::ANNOUNCED, padding).unwrap();
                let signature = key.sign(scheme, OCTETS).unwrap();
                key.public().verify(scheme, OCTETS, &signature).unwrap();
                assert!(key.public().verify(scheme, b"other octets", &signature).is_err());
                assert!(key.public().verify(scheme, OCTETS, &signature[1..]).is_err());
                assert!(key.public().verify(scheme, OCTETS, &[]).is_err());
                for bit in (0..signature.len() * 8).step_by(13) {
                    let mut forged = signature.clone();
                    forged[bit / 8] ^= 1 << (bit % 8);
                    let result = key.public().verify(scheme, OCTETS, &forged);
                    assert_eq!(
                        result,
                        Err(SignatureError::Wrong { scheme: scheme.to_string() }),
                        "{scheme} {bit}"
                    );
                }
            }
        }
    }

    #[test]
    fn rsa_signs_with_each_hash() {
        let key = rsa_2048();
        for scheme in SignatureScheme::ALL.into_iter().take(6) {
            let signature = key.sign(scheme, OCTETS).unwrap();
            key.public().verify(scheme, OCTETS, &signature).unwrap();
        }
    }

    #[test]
    fn a_signature_of_one_scheme_is_none_of_another() {
        let key = rsa_2048();
        let signature = key.sign(SignatureScheme::RsaPkcs1(Hash::Sha256), OCTETS).unwrap();
        for scheme in SignatureScheme::ALL.into_iter().skip(1) {
            assert!(key.public().verify(scheme, OCTETS, &signature).is_err(), "{scheme}");
        }
    }

    #[test]
    fn classic_methods_fit_their_keys_only() {
        let keys = keys();
        for key in &keys {
            let Some(method) = key.classic_method() else {
                assert_eq!(key.public().kind(), KeyKind::Ed25519);
                assert!(key.sign_classic(OCTETS).is_err());
                continue;
            };
            let signature = key.sign_classic(OCTETS).unwrap();
            key.public().verify_classic(method, OCTETS, &signature, false).unwrap();
            assert!(key.public().verify_classic(method, b"other", &signature, true).is_err());
            for other in &keys {
                if other.classic_method() != Some(method) {
                    let result = other.public().verify_classic(method, OCTETS, &signature, true);
                    assert!(matches!(result, Err(SignatureError::WrongKey { .. })));
                }
            }
        }
        // RFC 4754 s3: r and s, each as long as the order of the curve.
        assert_eq!(keys[1].sign_classic(OCTETS).unwrap().len(), 64);
        assert_eq!(keys[3].sign_classic(OCTETS).unwrap().len(), 132);
    }

    #[test]
    fn the_hash_comes_from_what_the_peer_announced() {
        let (rsa, p384) = (rsa_2048(), ecdsa(&aws::ECDSA_P384_SHA384_ASN1_SIGNING));
        let only = |hash| rsa.choose(&[hash], RsaPadding::Pkcs1);
        assert_eq!(only(Hash::Sha512), Ok(SignatureScheme::RsaPkcs1(Hash::Sha512)));
        assert!(matches!(only(Hash::Sha1), Err(SignatureError::NoCommonHash { .. })));
        let error = p384.choose(&[Hash::Sha256, Hash::Sha1], RsaPadding::Pkcs1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the peer accepts none of the hash functions that an ECDSA P-384 key can sign with; \
             it accepts SHA-256, SHA-1"
        );
    }

    #[test]
    fn unusable_keys_say_what_they_are() {
        let weak = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = weak.as_der().unwrap();
        assert!(SigningKey::from_pem(der.as_ref()).is_err());
        assert!(matches!(PublicKey::from_spki(b"nonsense"), Err(SignatureError::PublicKey { .. })));
        // secp256k1.
        let k1 = EcdsaKeyPair::generate(&aws::ECDSA_P256K1_SHA256_ASN1_SIGNING).unwrap();
        let spki: PublicKeyX509Der<'_> = aws::KeyPair::public_key(&k1).as_der().unwrap();
        let error = PublicKey::from_spki(spki.as_ref()).unwrap_err();
        assert!(error.to_string().contains("1.3.132.0.10"), "{error}");
        assert!(
            SigningKey::from_der(&PrivateKeyDer::Pkcs8(k1.to_pkcs8v1().unwrap().as_ref().to_vec().into()))
                .is_err()
        );
    }

    /// Files as `openssl genrsa -traditional`, `openssl ecparam -genkey` and `openssl genpkey` write them.
    #[test]
    fn key_files_of_every_form() {
        let rsa = SigningKey::from_pem(include_bytes!("testdata/rsa_pkcs1.pem")).unwrap();
        assert_eq!(rsa.public().kind(), KeyKind::Rsa(2048));
        let ec = SigningKey::from_pem(include_bytes!("testdata/ec_sec1.pem")).unwrap();
        assert_eq!(ec.public().kind(), KeyKind::EcdsaP384);
        assert_eq!(ec.public(), &PublicKey::from_pem(include_bytes!("testdata/ec_public.pem")).unwrap());
        let ed = SigningKey::from_pem(include_bytes!("testdata/ed25519_pkcs8_v1.pem")).unwrap();
        assert_eq!(ed.public().kind(), KeyKind::Ed25519);
        let locked = SigningKey::from_pem(include_bytes!("testdata/encrypted.pem"));
        assert!(matches!(locked, Err(SignatureError::PrivateKey)));
        assert!(PublicKey::from_pem(b"").is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", rsa_2048().public()), "PublicKey(an RSA key of 2048 bits)");
    }
}
