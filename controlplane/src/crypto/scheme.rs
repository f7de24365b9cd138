//! Names and encodings of signature algorithms in IKEv2.

use std::fmt;

/// A hash function as SIGNATURE_HASH_ALGORITHMS announces it (RFC 7427 s4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// Read and named in errors, never used with RFC 7427 (RFC 8247 s3.2.1 MUST NOT).
    Sha1,
    /// SHA2-256.
    Sha256,
    /// SHA2-384.
    Sha384,
    /// SHA2-512.
    Sha512,
    /// The message itself (RFC 8420), which stands for Ed25519.
    Identity,
}

/// A signature algorithm of RFC 7427.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(Hash),
    /// RSASSA-PSS with MGF1 of the same hash, and a salt as long as the hash.
    RsaPss(Hash),
    /// ECDSA; the curve is that of the key.
    Ecdsa(Hash),
    /// Ed25519, without prehashing (RFC 8420).
    Ed25519,
}

/// An authentication method with a fixed algorithm (RFC 7296 s3.8, RFC 4754).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassicMethod {
    /// Method 1: RSASSA-PKCS1-v1_5.
    Rsa,
    /// Method 9: ECDSA with SHA-256 on P-256, as r | s.
    EcdsaP256,
    /// Method 10: ECDSA with SHA-384 on P-384, as r | s.
    EcdsaP384,
    /// Method 11: ECDSA with SHA-512 on P-521, as r | s.
    EcdsaP521,
}

/// How an RSA key signs. RFC 7427 has no way to ask the peer, so the configuration says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RsaPadding {
    /// RSASSA-PKCS1-v1_5, which every peer understands.
    #[default]
    Pkcs1,
    /// RSASSA-PSS (RFC 8247 s3.2.1 MUST).
    Pss,
}

impl Hash {
    /// What Spillway announces: all that it verifies.
    pub const ANNOUNCED: [Self; 4] = [Self::Sha256, Self::Sha384, Self::Sha512, Self::Identity];

    /// From the 16-bit identifier.
    pub const fn from_iana(id: u16) -> Option<Self> {
        Some(match id {
            1 => Self::Sha1,
            2 => Self::Sha256,
            3 => Self::Sha384,
            4 => Self::Sha512,
            5 => Self::Identity,
            _ => return None,
        })
    }

    /// The 16-bit identifier.
    pub const fn iana(self) -> u16 {
        match self {
            Self::Sha1 => 1,
            Self::Sha256 => 2,
            Self::Sha384 => 3,
            Self::Sha512 => 4,
            Self::Identity => 5,
        }
    }

    /// Bytes of a digest.
    const fn output_len(self) -> u8 {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
            Self::Identity => 0,
        }
    }

    /// Last octet of sha256WithRSAEncryption and its kin, of ecdsa-with-SHA256 and its kin, and of id-sha256
    /// and its kin. The SHA-2 family counts alike in all three arcs.
    const fn arcs(self) -> Option<(u8, u8, u8)> {
        match self {
            Self::Sha256 => Some((11, 2, 1)),
            Self::Sha384 => Some((12, 3, 2)),
            Self::Sha512 => Some((13, 4, 3)),
            Self::Sha1 | Self::Identity => None,
        }
    }
}

impl SignatureScheme {
    /// All that Spillway verifies.
    pub const ALL: [Self; 10] = [
        Self::RsaPkcs1(Hash::Sha256),
        Self::RsaPkcs1(Hash::Sha384),
        Self::RsaPkcs1(Hash::Sha512),
        Self::RsaPss(Hash::Sha256),
        Self::RsaPss(Hash::Sha384),
        Self::RsaPss(Hash::Sha512),
        Self::Ecdsa(Hash::Sha256),
        Self::Ecdsa(Hash::Sha384),
        Self::Ecdsa(Hash::Sha512),
        Self::Ed25519,
    ];

    /// The hash that the peer must have announced.
    pub const fn hash(self) -> Hash {
        match self {
            Self::RsaPkcs1(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) => hash,
            Self::Ed25519 => Hash::Identity,
        }
    }

    /// Authentication Data of method 14: length octet, AlgorithmIdentifier, signature (RFC 7427 s3).
    pub fn encode_auth(self, signature: &[u8]) -> Vec<u8> {
        let identifier = self.identifier(true, true);
        // An AlgorithmIdentifier here has at most 67 octets.
        let mut data = vec![identifier.len() as u8];
        data.extend_from_slice(&identifier);
        data.extend_from_slice(signature);
        data
    }

    /// Takes Authentication Data of method 14 apart. The error is the AlgorithmIdentifier that is not known,
    /// or `None` when the data is cut short.
    pub fn decode_auth(data: &[u8]) -> Result<(Self, &[u8]), Option<&[u8]>> {
        let (length, rest) = data.split_first().ok_or(None)?;
        let (identifier, signature) = rest.split_at_checked(usize::from(*length)).ok_or(None)?;
        let scheme = Self::from_identifier(identifier).ok_or(Some(identifier))?;
        Ok((scheme, signature))
    }

    /// From a DER AlgorithmIdentifier. NULL parameters of RSA and of hashes may be there or left out, as
    /// receivers are asked to accept both (RFC 4055 s2.1, RFC 7427 s3).
    fn from_identifier(identifier: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| {
            [(true, true), (true, false), (false, true), (false, false)]
                .into_iter()
                .any(|(outer, inner)| scheme.identifier(outer, inner) == identifier)
        })
    }

    /// The DER AlgorithmIdentifier (RFC 7427 appendix A). `outer` writes the NULL after RSA and the first hash
    /// of PSS, `inner` the one after the hash of MGF1. ECDSA and Ed25519 have no parameters.
    fn identifier(self, outer: bool, inner: bool) -> Vec<u8> {
        let null = |write: bool| if write { [5u8, 0].as_slice() } else { &[] };
        match self {
            Self::RsaPkcs1(hash) => {
                let (rsa, ..) = hash.arcs().unwrap_or_default();
                sequence(&[&oid(&[PKCS1, &[rsa]].concat()), null(outer)])
            }
            Self::RsaPss(hash) => {
                let (_, _, sha) = hash.arcs().unwrap_or_default();
                let id = |write| sequence(&[&oid(&[SHA2, &[sha]].concat()), null(write)]);
                let mgf1 = sequence(&[&oid(&[PKCS1, &[8]].concat()), &id(inner)]);
                let parameters = sequence(&[
                    &tagged(0xa0, &id(outer)),
                    &tagged(0xa1, &mgf1),
                    &tagged(0xa2, &[2, 1, hash.output_len()]),
                ]);
                sequence(&[&oid(&[PKCS1, &[10]].concat()), &parameters])
            }
            Self::Ecdsa(hash) => {
                let (_, ecdsa, _) = hash.arcs().unwrap_or_default();
                sequence(&[&oid(&[ECDSA_WITH_SHA2, &[ecdsa]].concat())])
            }
            Self::Ed25519 => sequence(&[&oid(&[0x2b, 0x65, 0x70])]),
        }
    }
}

impl ClassicMethod {
    /// From the Auth Method octet.
    pub const fn from_iana(id: u8) -> Option<Self> {
        Some(match id {
            1 => Self::Rsa,
            9 => Self::EcdsaP256,
            10 => Self::EcdsaP384,
            11 => Self::EcdsaP521,
            _ => return None,
        })
    }

    /// The Auth Method octet.
    pub const fn iana(self) -> u8 {
        match self {
            Self::Rsa => 1,
            Self::EcdsaP256 => 9,
            Self::EcdsaP384 => 10,
            Self::EcdsaP521 => 11,
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
            Self::Identity => "identity",
        })
    }
}

impl fmt::Display for SignatureScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RsaPkcs1(hash) => write!(f, "RSA PKCS#1 v1.5 with {hash}"),
            Self::RsaPss(hash) => write!(f, "RSA PSS with {hash}"),
            Self::Ecdsa(hash) => write!(f, "ECDSA with {hash}"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

impl fmt::Display for ClassicMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "RSA Digital Signature (method 1)",
            Self::EcdsaP256 => "ECDSA with SHA-256 on P-256 (method 9)",
            Self::EcdsaP384 => "ECDSA with SHA-384 on P-384 (method 10)",
            Self::EcdsaP521 => "ECDSA with SHA-512 on P-521 (method 11)",
        })
    }
}

/// 1.2.840.113549.1.1
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.3
const ECDSA_WITH_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
/// 2.16.840.1.101.3.4.2
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

fn oid(body: &[u8]) -> Vec<u8> {
    tagged(0x06, body)
}

/// Tag, length and body; all bodies here are shorter than 128 octets, so a length is one octet.
fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag, body.len() as u8], body].concat()
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;
    use x509_cert::der::Decode;
    use x509_cert::spki::AlgorithmIdentifierRef;

    use super::*;

    /// RFC 7427 appendix A, RFC 8420 appendix A.
    #[test]
    fn identifiers_are_those_of_the_rfcs() {
        let identifier = |scheme: SignatureScheme| scheme.identifier(true, true);
        assert_eq!(
            identifier(SignatureScheme::RsaPkcs1(Hash::Sha256)),
            hex!("300d06092a864886f70d01010b0500")
        );
        assert_eq!(
            identifier(SignatureScheme::RsaPkcs1(Hash::Sha512)),
            hex!("300d06092a864886f70d01010d0500")
        );
        assert_eq!(identifier(SignatureScheme::Ecdsa(Hash::Sha256)), hex!("300a06082a8648ce3d040302"));
        assert_eq!(identifier(SignatureScheme::Ecdsa(Hash::Sha384)), hex!("300a06082a8648ce3d040303"));
        assert_eq!(identifier(SignatureScheme::Ed25519), hex!("300506032b6570"));
        assert_eq!(
            identifier(SignatureScheme::RsaPss(Hash::Sha256)),
            hex!(
                "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
                "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
            )
        );
    }

    #[test]
    fn identifiers_are_valid_der() {
        for scheme in SignatureScheme::ALL {
            for (outer, inner) in [(true, true), (true, false), (false, true), (false, false)] {
                let der = scheme.identifier(outer, inner);
                assert!(AlgorithmIdentifierRef::from_der(&der).is_ok(), "{scheme}");
                assert_eq!(SignatureScheme::from_identifier(&der), Some(scheme));
            }
        }
    }

    #[test]
    fn auth_data_round_trips() {
        for scheme in SignatureScheme::ALL {
            let data = scheme.encode_auth(b"signature");
            assert_eq!(SignatureScheme::decode_auth(&data), Ok((scheme, b"signature".as_slice())));
        }
    }

    #[test]
    fn unknown_and_cut_auth_data_is_told_apart() {
        assert_eq!(SignatureScheme::decode_auth(&[]), Err(None));
        assert_eq!(SignatureScheme::decode_auth(&[5, 1, 2]), Err(None));
        // sha1WithRSAEncryption.
        let sha1 = hex!("300d06092a864886f70d0101050500");
        let data = [&[sha1.len() as u8], sha1.as_slice(), b"signature"].concat();
        assert_eq!(SignatureScheme::decode_auth(&data), Err(Some(sha1.as_slice())));
    }

    #[test]
    fn numbers_round_trip() {
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512, Hash::Identity] {
            assert_eq!(Hash::from_iana(hash.iana()), Some(hash));
        }
        for id in 0..=255 {
            assert!(ClassicMethod::from_iana(id).is_none_or(|method| method.iana() == id));
        }
    }

    proptest! {
        #[test]
        fn any_auth_data_is_taken_apart_or_refused(data: Vec<u8>) {
            let _ = SignatureScheme::decode_auth(&data);
        }
    }
}
