//! X.509 certificates: whose they are, and whether they are to be trusted (RFC 5280, RFC 4945).
//!
//! Path building, signatures, validity, basic and name constraints, extended key usage and CRLs are checked by
//! `rustls-webpki`, the library behind rustls. It is strict, bounded in work, without `unsafe`, and its
//! extended key usage check can be replaced, so that it serves IKE as well as TLS. What it leaves out is added
//! in `trust`: the key usage extension, the validity of the trust anchor, and errors that name the certificate.
//! `x509-cert` of RustCrypto reads the names and extensions that webpki keeps to itself.
//!
//! webpki compares name constraints on DNS names and IP addresses. For a CA that constrains directory names, e-mail
//! addresses or URIs, `constraints` does. A self-signed certificate of a peer is no path: it is trusted by
//! [`verify_pinned`] only.

mod certificate;
mod constraints;
#[cfg(test)]
mod constraints_tests;
mod error;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod usage;

pub use certificate::{Certificate, read_pem};
pub use error::CertificateError;
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
pub use trust::{Revocation, TrustStore, verify_pinned};
pub use usage::Usage;
