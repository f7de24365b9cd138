//! Why a certificate is not accepted, in an operator's terms.

use std::fmt;

use crate::rejection::Rejection;

/// Why a certificate is not accepted. Each error names the certificate by its subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The peer sent none, or a file holds none.
    #[error("no certificate")]
    Missing,
    /// Not a certificate, or a broken one.
    #[error("not a valid certificate: {detail}")]
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// Its time is over.
    #[error("the certificate {subject} expired at {not_after}; it is now {now}")]
    Expired {
        /// Subject of the expired certificate, which may be a CA.
        subject: String,
        /// End of its validity, UTC.
        not_after: String,
        /// When it was looked at, UTC.
        now: String,
    },
    /// Its time has not come. A wrong clock is the usual reason.
    #[error("the certificate {subject} is valid from {not_before} only; it is now {now}")]
    NotYetValid {
        /// Subject of the certificate, which may be a CA.
        subject: String,
        /// Start of its validity, UTC.
        not_before: String,
        /// When it was looked at, UTC.
        now: String,
    },
    /// No trusted CA stands behind it.
    #[error(
        "the certificate {subject} was issued by {issuer}, which is neither sent along nor trusted; trusted: {trusted}"
    )]
    UnknownIssuer {
        /// Subject of the last certificate of the path.
        subject: String,
        /// Its issuer.
        issuer: String,
        /// Subjects of the trusted CAs.
        trusted: List,
    },
    /// A signature in the path is wrong, though the names fit.
    #[error("a signature in the chain of {subject} is wrong: another CA with the same name, or a forgery")]
    Signature {
        /// Subject of the end entity.
        subject: String,
    },
    /// A CRL lists it.
    #[error("the certificate {subject} (serial {serial}) is revoked")]
    Revoked {
        /// Subject of the revoked certificate, which may be a CA.
        subject: String,
        /// Its serial number in hexadecimal.
        serial: String,
    },
    /// The configuration asks for a CRL and there is none, or none that is current.
    #[error("no current CRL covers {subject} or a CA above it")]
    NoCurrentCrl {
        /// Subject of the end entity.
        subject: String,
    },
    /// A name in it lies outside what its CA may certify.
    #[error("a name in the certificate {subject} violates the name constraints of its CA{detail}")]
    NameConstraint {
        /// Subject of the end entity.
        subject: String,
        /// The name, where it is known, after a colon.
        detail: String,
    },
    /// It would take too many comparisons to say whether its names lie inside what its CAs may certify.
    #[error(
        "the certificate {subject} and those with it have more names and name constraints than are compared"
    )]
    NameLimit {
        /// Subject of the end entity.
        subject: String,
    },
    /// Its key must not be used for this.
    #[error("the certificate {subject} must not be used for {wanted}: {found}")]
    Usage {
        /// Subject of the certificate, which may be a CA.
        subject: String,
        /// What it was wanted for.
        wanted: &'static str,
        /// What it says about its use.
        found: String,
    },
    /// Something else that webpki refuses.
    #[error("the certificate {subject} is refused: {detail}")]
    Refused {
        /// Subject of the end entity.
        subject: String,
        /// The reason.
        detail: String,
    },
    /// It does not belong to the identity that the peer claims.
    #[error("the peer claims to be {claimed}, but its certificate is for {found}")]
    Identity {
        /// The identity in the ID payload.
        claimed: String,
        /// The names in the certificate.
        found: List,
    },
}

impl CertificateError {
    /// The limit that it met.
    pub(crate) fn limit(&self) -> Option<Rejection> {
        matches!(self, Self::NameLimit { .. }).then_some(Rejection::NameLimit)
    }
}

/// A list that is printed with commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&self.0.join("; "))
    }
}
