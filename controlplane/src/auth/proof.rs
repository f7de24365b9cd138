//! AUTH payloads: making one's own, and checking the peer's, by whatever method the configuration says.

use std::fmt;
use std::sync::Arc;

use super::eap::{PeerConfig, ServerConfig};
use super::x509::{
    Certificate, CertificateDer, CertificateError, TrustStore, UnixTime, Usage, verify_pinned,
};
use super::{Identity, psk};
use crate::crypto::{
    ClassicMethod, CryptoError, Hash, Prf, PublicKey, RsaPadding, Secret, SignatureError, SignatureScheme,
    SigningKey,
};
use crate::rejection::Rejection;

/// Auth Method 2: Shared Key Message Integrity Code. EAP ends with it too (RFC 7296 s2.16).
pub const SHARED_KEY: u8 = 2;
/// Auth Method 13: NULL Authentication (RFC 7619).
pub const NULL: u8 = 13;
/// Auth Method 14: Digital Signature (RFC 7427).
pub const DIGITAL_SIGNATURE: u8 = 14;
/// Cert Encoding 4: X.509 Certificate - Signature (RFC 7296 s3.6).
pub const X509_SIGNATURE: u8 = 4;
/// Cert Encoding 15: Raw Public Key, a SubjectPublicKeyInfo (RFC 7670).
pub const RAW_PUBLIC_KEY: u8 = 15;

/// How we prove who we are.
#[derive(Clone)]
pub enum LocalProof {
    /// By a preshared key.
    Psk(Secret),
    /// By a certificate.
    Certificate {
        /// The key of the first certificate.
        key: Arc<SigningKey>,
        /// Our certificate, then those of the CAs between it and the root.
        chain: Arc<[Certificate]>,
        /// How an RSA key signs.
        rsa: RsaPadding,
    },
    /// By a key that the peer knows without a certificate.
    RawKey {
        /// The key.
        key: Arc<SigningKey>,
        /// How an RSA key signs.
        rsa: RsaPadding,
    },
    /// Not at all (RFC 7619). Only when the configuration names it.
    Null,
    /// As an initiator: by EAP, which the responder asks for (RFC 7296 s2.16).
    Eap(Arc<PeerConfig>),
    /// As a responder: by the EAP method alone that the peer proves itself with (RFC 5998).
    EapOnly,
}

/// How the peer has to prove who it is.
#[derive(Clone)]
pub enum RemoteProof {
    /// By a preshared key.
    Psk(Secret),
    /// By a certificate of a trusted CA.
    Certificate(Arc<TrustStore>),
    /// By one of these certificates, whoever issued them.
    Pinned(Arc<[Certificate]>),
    /// By one of these keys.
    RawKey(Arc<[PublicKey]>),
    /// Not at all (RFC 7619). Only when the configuration names it.
    Null,
    /// An initiator: by EAP (RFC 7296 s2.16).
    Eap(Arc<ServerConfig>),
    /// A responder: by the EAP method alone that we prove ourselves with (RFC 5998).
    EapOnly,
}

/// What both sides know at this point of an IKE SA.
#[derive(Clone, Copy)]
pub struct ProofContext<'a> {
    /// The PRF of the IKE SA.
    pub prf: Prf,
    /// SK_pi if the initiator proves itself, SK_pr if the responder does.
    pub sk_p: &'a Secret,
    /// From [`super::signed_octets`], of the side that proves itself.
    pub octets: &'a [u8],
}

/// The contents of an AUTH payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthPayload {
    /// Auth Method.
    pub method: u8,
    /// Authentication Data.
    pub data: Vec<u8>,
}

/// The contents of a CERT payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertPayload<'a> {
    /// Cert Encoding.
    pub encoding: u8,
    /// Certificate Data.
    pub data: &'a [u8],
}

/// Why a proof was not made or not accepted. It goes to the log; the peer hears AUTHENTICATION_FAILED.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The peer used another method than the configuration expects.
    #[error("{peer} authenticates by {found}; expected is {expected}")]
    Method {
        /// The identity that the peer claims.
        peer: String,
        /// What came.
        found: String,
        /// What the configuration says.
        expected: &'static str,
    },
    /// The preshared keys differ.
    #[error("the preshared key of {peer} is another one than ours")]
    WrongPsk {
        /// The identity that the peer claims.
        peer: String,
    },
    /// The AUTH value of NULL authentication is wrong: somebody sits in the middle, or a bug.
    #[error("the NULL authentication of {peer} does not fit the exchange")]
    WrongNull {
        /// The identity that the peer claims.
        peer: String,
    },
    /// An algorithm identifier that Spillway does not know or does not accept.
    #[error("{peer} signs with an algorithm that is not accepted (AlgorithmIdentifier {identifier})")]
    Algorithm {
        /// The identity that the peer claims.
        peer: String,
        /// DER in hexadecimal.
        identifier: String,
    },
    /// AUTH data that ends too early.
    #[error("the AUTH payload of {peer} is cut short")]
    Cut {
        /// The identity that the peer claims.
        peer: String,
    },
    /// A raw public key that the configuration does not list.
    #[error("{peer} shows {key} that is not configured")]
    UnknownKey {
        /// The identity that the peer claims.
        peer: String,
        /// The kind of key.
        key: String,
    },
    /// Proofs that EAP must not be combined with, or a proof that belongs into EAP.
    #[error("{0}")]
    Eap(&'static str),
    /// The MSKs of the two ends differ: somebody sits in the middle of EAP (RFC 7296 s2.16).
    #[error("the AUTH payload of {peer} was not made with the key of its EAP exchange")]
    WrongMsk {
        /// The identity that the peer proved in EAP, or claims.
        peer: String,
    },
    /// Our key has no method that the peer knows.
    #[error("an Ed25519 key needs RFC 7427, which the peer does not announce")]
    NoMethod,
    /// A certificate is not accepted.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A signature is not accepted, or not made.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The crypto library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl AuthError {
    /// What it is counted as.
    pub(crate) fn rejection(&self) -> Rejection {
        match self {
            Self::Certificate(error) => error.limit().unwrap_or(Rejection::Authentication),
            _ => Rejection::Authentication,
        }
    }
}

impl LocalProof {
    /// Our AUTH payload. `peer_hashes` is what the peer announced in SIGNATURE_HASH_ALGORITHMS, or `None` if it
    /// did not, so that an older method has to do (RFC 7427 s4).
    pub fn prove(
        &self,
        context: &ProofContext<'_>,
        peer_hashes: Option<&[Hash]>,
    ) -> Result<AuthPayload, AuthError> {
        let shared = |method, secret: &Secret| {
            let value = psk::auth_value(context.prf, secret, context.octets)?;
            Ok(AuthPayload { method, data: value.expose().to_vec() })
        };
        match self {
            Self::Psk(secret) => shared(SHARED_KEY, secret),
            Self::Null => shared(NULL, context.sk_p),
            Self::Eap(_) | Self::EapOnly => {
                Err(AuthError::Eap("EAP makes no AUTH payload before it is done"))
            }
            Self::Certificate { key, rsa, .. } | Self::RawKey { key, rsa } => match peer_hashes {
                Some(hashes) => {
                    let scheme = key.choose(hashes, *rsa)?;
                    let data = scheme.encode_auth(&key.sign(scheme, context.octets)?);
                    Ok(AuthPayload { method: DIGITAL_SIGNATURE, data })
                }
                None => {
                    let method = key.classic_method().ok_or(AuthError::NoMethod)?.iana();
                    Ok(AuthPayload { method, data: key.sign_classic(context.octets)? })
                }
            },
        }
    }

    /// Our CERT payloads, in the order to send them.
    pub fn certificates(&self) -> Vec<CertPayload<'_>> {
        match self {
            Self::Certificate { chain, .. } => chain
                .iter()
                .map(|certificate| CertPayload { encoding: X509_SIGNATURE, data: certificate.der() })
                .collect(),
            Self::RawKey { key, .. } => {
                vec![CertPayload { encoding: RAW_PUBLIC_KEY, data: key.public().spki() }]
            }
            Self::Psk(_) | Self::Null | Self::Eap(_) | Self::EapOnly => Vec::new(),
        }
    }

    /// A signature by a key: what a responder has to prove itself by before EAP (RFC 7296 s2.16).
    pub const fn is_signature(&self) -> bool {
        matches!(self, Self::Certificate { .. } | Self::RawKey { .. })
    }
}

impl RemoteProof {
    /// Checks the peer's AUTH payload: that it is of the configured kind, that what it is made with belongs to
    /// `claimed`, and that it covers the exchange. Gives the certificate that it was made with, if there is one.
    ///
    /// `certificates` are the peer's CERT payloads; encodings of no use are skipped. `now` is the wall clock.
    /// `allow_sha1` lets method 1 use SHA-1, for old peers.
    pub fn verify(
        &self,
        context: &ProofContext<'_>,
        claimed: &Identity,
        auth: &AuthPayload,
        certificates: &[CertPayload<'_>],
        now: UnixTime,
        allow_sha1: bool,
    ) -> Result<Option<Certificate>, AuthError> {
        let peer = || claimed.to_string();
        let wrong_method = || AuthError::Method {
            peer: peer(),
            found: method_name(auth.method),
            expected: self.method_name(),
        };
        match self {
            Self::Psk(_) | Self::Null => {
                let (method, secret) = match self {
                    Self::Psk(secret) => (SHARED_KEY, secret),
                    _ => (NULL, context.sk_p),
                };
                if auth.method != method {
                    return Err(wrong_method());
                }
                match psk::verify(context.prf, secret, context.octets, &auth.data)? {
                    true => Ok(None),
                    false if method == NULL => Err(AuthError::WrongNull { peer: peer() }),
                    false => Err(AuthError::WrongPsk { peer: peer() }),
                }
            }
            Self::Eap(_) | Self::EapOnly => Err(wrong_method()),
            _ if !is_signature(auth.method) => Err(wrong_method()),
            Self::Certificate(trust) => {
                let certificate = trust.verify(&x509_chain(certificates), claimed, Usage::Ike, now)?;
                verify_signature(certificate.public_key(), context, claimed, auth, allow_sha1)?;
                Ok(Some(certificate))
            }
            Self::Pinned(pinned) => {
                let mut chain = x509_chain(certificates);
                if chain.is_empty() {
                    // A peer may leave out what the other side has anyway (RFC 7296 s3.6).
                    let known = pinned.iter().find(|certificate| certificate.names(claimed));
                    chain.extend(known.map(|certificate| certificate.der().clone()));
                }
                let certificate = verify_pinned(&chain, pinned, claimed, now)?;
                verify_signature(certificate.public_key(), context, claimed, auth, allow_sha1)?;
                Ok(Some(certificate))
            }
            Self::RawKey(keys) => {
                let key = raw_key(keys, certificates, claimed)?;
                verify_signature(key, context, claimed, auth, allow_sha1)?;
                Ok(None)
            }
        }
    }

    /// A signature by a key: what a responder has to prove itself by before EAP (RFC 7296 s2.16).
    pub const fn is_signature(&self) -> bool {
        matches!(self, Self::Certificate(_) | Self::Pinned(_) | Self::RawKey(_))
    }

    const fn method_name(&self) -> &'static str {
        match self {
            Self::Psk(_) => "a preshared key",
            Self::Certificate(_) | Self::Pinned(_) => "a certificate",
            Self::RawKey(_) => "a raw public key",
            Self::Null => "NULL",
            Self::Eap(_) => "EAP",
            Self::EapOnly => "EAP alone",
        }
    }
}

impl fmt::Debug for LocalProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Psk(_) => f.write_str("a preshared key"),
            Self::Certificate { key, .. } => write!(f, "a certificate with {}", key.public().kind()),
            Self::RawKey { key, .. } => write!(f, "the raw public key of {}", key.public().kind()),
            Self::Null => f.write_str("NULL"),
            Self::Eap(_) => f.write_str("EAP"),
            Self::EapOnly => f.write_str("EAP alone"),
        }
    }
}

impl fmt::Debug for RemoteProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method_name())
    }
}

/// Our AUTH payload at the end of EAP, by its MSK (RFC 7296 s2.16).
pub fn prove_msk(context: &ProofContext<'_>, msk: &Secret) -> Result<AuthPayload, AuthError> {
    let value = psk::auth_value(context.prf, msk, context.octets)?;
    Ok(AuthPayload { method: SHARED_KEY, data: value.expose().to_vec() })
}

/// Checks the peer's AUTH payload at the end of EAP.
pub fn verify_msk(
    context: &ProofContext<'_>,
    msk: &Secret,
    peer: &dyn fmt::Display,
    auth: &AuthPayload,
) -> Result<(), AuthError> {
    if auth.method != SHARED_KEY {
        let (found, expected) = (method_name(auth.method), "the key of its EAP exchange");
        return Err(AuthError::Method { peer: peer.to_string(), found, expected });
    }
    match psk::verify(context.prf, msk, context.octets, &auth.data)? {
        true => Ok(()),
        false => Err(AuthError::WrongMsk { peer: peer.to_string() }),
    }
}

fn is_signature(method: u8) -> bool {
    method == DIGITAL_SIGNATURE || ClassicMethod::from_iana(method).is_some()
}

/// Without a CERT payload the first configured key is meant, since there is no other way to tell.
fn raw_key<'a>(
    keys: &'a [PublicKey],
    certificates: &[CertPayload<'_>],
    claimed: &Identity,
) -> Result<&'a PublicKey, AuthError> {
    let Some(shown) = certificates.iter().find(|certificate| certificate.encoding == RAW_PUBLIC_KEY) else {
        return keys.first().ok_or(AuthError::Certificate(CertificateError::Missing));
    };
    keys.iter().find(|key| key.spki() == shown.data).ok_or_else(|| AuthError::UnknownKey {
        peer: claimed.to_string(),
        key: PublicKey::from_spki(shown.data)
            .map_or_else(|_| "a key".to_owned(), |key| key.kind().to_string()),
    })
}

fn x509_chain(certificates: &[CertPayload<'_>]) -> Vec<CertificateDer<'static>> {
    let x509 = certificates.iter().filter(|certificate| certificate.encoding == X509_SIGNATURE);
    x509.map(|certificate| CertificateDer::from(certificate.data.to_vec())).collect()
}

fn verify_signature(
    key: &PublicKey,
    context: &ProofContext<'_>,
    claimed: &Identity,
    auth: &AuthPayload,
    allow_sha1: bool,
) -> Result<(), AuthError> {
    if let Some(method) = ClassicMethod::from_iana(auth.method) {
        return Ok(key.verify_classic(method, context.octets, &auth.data, allow_sha1)?);
    }
    let (scheme, signature) =
        SignatureScheme::decode_auth(&auth.data).map_err(|identifier| match identifier {
            None => AuthError::Cut { peer: claimed.to_string() },
            Some(identifier) => AuthError::Algorithm {
                peer: claimed.to_string(),
                identifier: data_encoding::HEXLOWER.encode(identifier),
            },
        })?;
    Ok(key.verify(scheme, context.octets, signature)?)
}

fn method_name(method: u8) -> String {
    match (method, ClassicMethod::from_iana(method)) {
        (_, Some(classic)) => classic.to_string(),
        (SHARED_KEY, _) => "a shared key".to_owned(),
        (NULL, _) => "NULL".to_owned(),
        (DIGITAL_SIGNATURE, _) => "a digital signature (method 14)".to_owned(),
        (other, _) => format!("method {other}"),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::PKCS_ED25519;

    use super::super::x509::testing::{Authority, now, params};
    use super::*;

    const OCTETS: &[u8] = b"the signed octets";
    const ID: &str = "gw.example.net";

    fn context(sk_p: &Secret) -> ProofContext<'_> {
        ProofContext { prf: Prf::HmacSha256, sk_p, octets: OCTETS }
    }

    fn check(
        local: &LocalProof,
        remote: &RemoteProof,
        hashes: Option<&[Hash]>,
    ) -> Result<Option<Certificate>, AuthError> {
        let sk_p = Secret::copy_of(&[3; 32]);
        let auth = local.prove(&context(&sk_p), hashes)?;
        let id = Identity::parse(ID).unwrap();
        let result = remote.verify(&context(&sk_p), &id, &auth, &local.certificates(), now(), false);
        if result.is_ok() {
            // What proves one exchange proves no other.
            let other = ProofContext { octets: b"other octets", ..context(&sk_p) };
            assert!(remote.verify(&other, &id, &auth, &local.certificates(), now(), true).is_err());
            for length in 0..auth.data.len() {
                let cut = AuthPayload { method: auth.method, data: auth.data[..length].to_vec() };
                assert!(
                    remote.verify(&context(&sk_p), &id, &cut, &local.certificates(), now(), true).is_err()
                );
            }
        }
        result
    }

    /// Every pair of proofs: local, the remote that accepts it.
    fn pairs() -> Vec<(LocalProof, RemoteProof)> {
        let root = Authority::root("Root");
        let leaf = root.issue("gw", &[ID]);
        let certificate = Certificate::from_der(&leaf.der).unwrap();
        let key = Arc::new(leaf.signing_key());
        let mut trust = TrustStore::default();
        trust.add_authority(Certificate::from_der(&root.der).unwrap()).unwrap();
        let raw = LocalProof::RawKey { key: key.clone(), rsa: RsaPadding::Pkcs1 };
        let chain = LocalProof::Certificate {
            key: key.clone(),
            chain: Arc::from([certificate.clone()]),
            rsa: RsaPadding::Pkcs1,
        };
        let psk = Secret::copy_of(b"swordfish");
        vec![
            (LocalProof::Psk(psk.clone()), RemoteProof::Psk(psk)),
            (chain.clone(), RemoteProof::Certificate(Arc::new(trust))),
            (chain, RemoteProof::Pinned(Arc::from([certificate]))),
            (raw, RemoteProof::RawKey(Arc::from([key.public().clone()]))),
            (LocalProof::Null, RemoteProof::Null),
        ]
    }

    #[test]
    fn each_proof_satisfies_its_counterpart_only() {
        let pairs = pairs();
        for hashes in [Some(Hash::ANNOUNCED.as_slice()), None] {
            for (at, (local, _)) in pairs.iter().enumerate() {
                for (other, (_, remote)) in pairs.iter().enumerate() {
                    let result = check(local, remote, hashes);
                    let both_x509 = [1, 2].contains(&at) && [1, 2].contains(&other);
                    // The raw key is the one of the certificate, so it verifies without a raw CERT payload.
                    let same_key = [1, 2].contains(&at) && other == 3;
                    // And a pinned certificate stands in where no certificate is sent.
                    let stand_in = at == 3 && other == 2;
                    let expected = at == other || both_x509 || same_key || stand_in;
                    assert_eq!(result.is_ok(), expected, "{local:?} {remote:?}: {result:?}");
                }
            }
        }
    }

    #[test]
    fn a_wrong_method_and_a_wrong_key_are_told_apart() {
        let pairs = pairs();
        let error = check(&pairs[0].0, &pairs[1].1, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gw.example.net authenticates by a shared key; expected is a certificate"
        );
        let wrong = RemoteProof::Psk(Secret::copy_of(b"sword fish"));
        let error = check(&pairs[0].0, &wrong, None).unwrap_err();
        assert_eq!(error.to_string(), "the preshared key of gw.example.net is another one than ours");
        let error = check(&pairs[4].0, &pairs[0].1, None).unwrap_err();
        assert_eq!(error.to_string(), "gw.example.net authenticates by NULL; expected is a preshared key");
    }

    #[test]
    fn a_certificate_of_somebody_else_does_not_help() {
        let root = Authority::root("Root");
        let (own, stolen) = (root.issue("evil", &["evil.example.net"]), root.issue("gw", &[ID]));
        let mut trust = TrustStore::default();
        trust.add_authority(Certificate::from_der(&root.der).unwrap()).unwrap();
        let trust = RemoteProof::Certificate(Arc::new(trust));
        let with = |leaf: &crate::auth::x509::testing::Leaf| LocalProof::Certificate {
            key: Arc::new(own.signing_key()),
            chain: Arc::from([Certificate::from_der(&leaf.der).unwrap()]),
            rsa: RsaPadding::Pkcs1,
        };
        // Its own certificate names another identity; the right certificate goes with another key.
        let error = check(&with(&own), &trust, Some(&Hash::ANNOUNCED)).unwrap_err();
        assert!(matches!(error, AuthError::Certificate(CertificateError::Identity { .. })), "{error}");
        let error = check(&with(&stolen), &trust, Some(&Hash::ANNOUNCED)).unwrap_err();
        assert!(matches!(error, AuthError::Signature(SignatureError::Wrong { .. })), "{error}");
        // And without any certificate there is nothing to check.
        let raw = LocalProof::RawKey { key: Arc::new(own.signing_key()), rsa: RsaPadding::Pkcs1 };
        let error = check(&raw, &trust, Some(&Hash::ANNOUNCED)).unwrap_err();
        assert_eq!(error, AuthError::Certificate(CertificateError::Missing));
    }

    #[test]
    fn ed25519_needs_rfc_7427() {
        let root = Authority::root("Root");
        let leaf = root.issue_with(params("gw", &[ID]), &PKCS_ED25519);
        let key = Arc::new(leaf.signing_key());
        let remote = RemoteProof::RawKey(Arc::from([key.public().clone()]));
        let local = LocalProof::RawKey { key, rsa: RsaPadding::Pkcs1 };
        check(&local, &remote, Some(&Hash::ANNOUNCED)).unwrap();
        assert_eq!(check(&local, &remote, None), Err(AuthError::NoMethod));
        let error = check(&local, &remote, Some(&[Hash::Sha256])).unwrap_err();
        assert!(matches!(error, AuthError::Signature(SignatureError::NoCommonHash { .. })));
    }

    #[test]
    fn an_unknown_algorithm_is_named() {
        let (_, remote) = pairs().swap_remove(3);
        let sk_p = Secret::copy_of(&[3; 32]);
        let auth = AuthPayload { method: DIGITAL_SIGNATURE, data: vec![2, 0x30, 0, 1, 2, 3] };
        let id = Identity::parse(ID).unwrap();
        let error = remote.verify(&context(&sk_p), &id, &auth, &[], now(), false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gw.example.net signs with an algorithm that is not accepted (AlgorithmIdentifier 3000)"
        );
    }
}
