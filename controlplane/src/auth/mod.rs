//! Who the peer is, and the proof of it.
//!
//! # The API in short
//!
//! ```text
//! octets::signed_octets(..), IntAuth      what an AUTH payload signs (RFC 7296 s2.15, RFC 9242 s3.3)
//! psk::auth_value, psk::verify            AUTH of shared keys: PSK, EAP's MSK, NULL authentication
//! LocalProof::prove, RemoteProof::verify  AUTH and CERT payloads of every method but EAP
//! Identity, IdPattern                     ID payloads, and what a configuration expects of them
//! eap::EapServer, eap::EapPeer            EAP-TLS and EAP-MSCHAPv2
//! Roles::of                               which proofs go together, and who may begin
//! x509::TrustStore::verify                chains, CRLs, and whether a certificate names an identity
//! ```

pub mod dn;
pub mod eap;
pub mod identity;
pub mod octets;
pub mod proof;
pub mod psk;
mod roles;
pub mod x509;

pub use dn::DistinguishedName;
pub use identity::{IdPattern, Identity, IdentityError};
pub use octets::{IntAuth, signed_octets};
pub use proof::{AuthError, AuthPayload, CertPayload, LocalProof, ProofContext, RemoteProof};
pub use roles::Roles;
pub use x509::{Certificate, CertificateError, TrustStore};
