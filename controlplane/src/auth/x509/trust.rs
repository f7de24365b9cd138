//! Trusted CAs, their CRLs, and the verification of chains.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::certificate::utc;
use super::constraints::{Constraints, Hidden, Unaltered, Violation, check_path};
use super::error::List;
use super::usage::{Purpose, check_end_entity_usage, check_issuer_usage};
use super::{Certificate, CertificateError, Usage};
use crate::auth::Identity;
use crate::limits::FloodLimits;

/// How much CRLs decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// A certificate that a CRL lists is refused. Where there is no CRL, or an old one, that is no reason.
    #[default]
    IfKnown,
    /// Every certificate of the path needs a current CRL of its issuer.
    Strict,
}

/// The CAs that are trusted, and their CRLs.
pub struct TrustStore {
    anchors: Vec<TrustAnchor<'static>>,
    authorities: Vec<Certificate>,
    /// What the CAs may certify, where webpki does not compare it.
    constraints: Vec<Option<Constraints>>,
    crls: Vec<CertRevocationList<'static>>,
    revocation: Revocation,
    name_comparisons: usize,
}

impl Default for TrustStore {
    fn default() -> Self {
        Self::new(Revocation::default(), FloodLimits::default().name_comparisons)
    }
}

impl TrustStore {
    /// An empty store, which trusts nobody. `name_comparisons` is [`FloodLimits::name_comparisons`].
    pub fn new(revocation: Revocation, name_comparisons: usize) -> Self {
        let (anchors, authorities, constraints, crls) = Default::default();
        Self { anchors, authorities, constraints, crls, revocation, name_comparisons }
    }

    /// Trusts a CA.
    pub fn add_authority(&mut self, certificate: Certificate) -> Result<(), CertificateError> {
        check_issuer_usage(&certificate)?;
        let mut anchor = webpki::anchor_from_trusted_cert(certificate.der())
            .map_err(|error| CertificateError::Malformed { detail: error.to_string() })?
            .to_owned();
        let constraints = Constraints::of(certificate.der());
        if constraints.is_some() {
            anchor.name_constraints = None;
        }
        self.constraints.push(constraints);
        self.anchors.push(anchor);
        self.authorities.push(certificate);
        Ok(())
    }

    /// Trusts the CAs of a PEM file.
    pub fn add_authorities_pem(&mut self, pem: &[u8]) -> Result<(), CertificateError> {
        super::read_pem(pem)?.into_iter().try_for_each(|certificate| self.add_authority(certificate))
    }

    /// Adds the CRLs of a file, PEM or DER. Their signatures are checked when they are used.
    pub fn add_crls(&mut self, file: &[u8]) -> Result<(), CertificateError> {
        let malformed = |detail: String| CertificateError::Malformed { detail };
        let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(file).collect();
        let mut ders = found.map_err(|error| malformed(error.to_string()))?;
        if ders.is_empty() {
            ders.push(CertificateRevocationListDer::from(file.to_vec()));
        }
        for der in ders {
            let crl =
                OwnedCertRevocationList::from_der(&der).map_err(|error| malformed(error.to_string()))?;
            self.crls.push(crl.into());
        }
        Ok(())
    }

    /// The trusted CAs.
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// Contents of CERTREQ payloads: the SHA-1 hash of each CA's public key (RFC 7296 s3.7).
    pub fn request_hashes(&self) -> Vec<[u8; 20]> {
        let hash = |authority: &Certificate| {
            let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, authority.public_key().spki());
            digest.as_ref().try_into().expect("a SHA-1 digest has 20 octets")
        };
        self.authorities.iter().map(hash).collect()
    }

    /// Verifies the certificates of a peer at `now`: the end entity first, then others in any order
    /// (RFC 7296 s3.6), and that the first one names `claimed`.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        claimed: &Identity,
        usage: Usage,
        now: UnixTime,
    ) -> Result<Certificate, CertificateError> {
        let certificate = self.verify_chain(chain, usage, now)?;
        certificate.check_identity(claimed)?;
        Ok(certificate)
    }

    /// [`TrustStore::verify`] for any identity.
    pub fn verify_chain(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<Certificate, CertificateError> {
        let (first, others) = chain.split_first().ok_or(CertificateError::Missing)?;
        let certificate = Certificate::from_der(first)?;
        check_end_entity_usage(&certificate)?;
        let entity = EndEntityCert::try_from(first)
            .map_err(|error| CertificateError::Malformed { detail: error.to_string() })?;
        let crls: Vec<_> = self.crls.iter().collect();
        let (status, expiration) = match self.revocation {
            Revocation::IfKnown => (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
            Revocation::Strict => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
        };
        let revocation = match RevocationOptionsBuilder::new(&crls) {
            Ok(builder) => Some(
                builder
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_status_policy(status)
                    .with_expiration_policy(expiration)
                    .build(),
            ),
            Err(_) if self.revocation == Revocation::IfKnown => None,
            Err(_) => {
                return Err(CertificateError::NoCurrentCrl { subject: certificate.subject().to_string() });
            }
        };
        let hide = |der: &CertificateDer<'_>| Some((Constraints::of(der)?, Hidden::of(der)?));
        let hidden: Vec<_> = others.iter().map(hide).collect();
        let seen = others.iter().zip(&hidden);
        let seen: Vec<_> = seen
            .map(|(der, hidden)| hidden.as_ref().map_or(der, |(_, hidden)| &hidden.der).clone())
            .collect();
        let (constraints, hidden): (Vec<_>, Vec<_>) = hidden.into_iter().flatten().unzip();
        let algorithms = Unaltered::all(&hidden);
        let algorithms: Vec<_> =
            algorithms.iter().map(|one| one as &dyn SignatureVerificationAlgorithm).collect();
        let violation = RefCell::new(None);
        let budget = Cell::new(self.name_comparisons);
        let constrained = |der: &[u8]| {
            let mut all = hidden.iter().zip(&constraints);
            all.find(|(hidden, _)| *hidden.der == *der).map(|(_, constraints)| constraints)
        };
        entity
            .verify_for_usage(
                &algorithms,
                &self.anchors,
                &seen,
                now,
                Purpose(usage),
                revocation,
                Some(&|path| self.accept_path(path, now, constrained, &violation, &budget)),
            )
            .map_err(|error| match self.explain(error, &certificate, others, usage, now) {
                CertificateError::NameConstraint { subject, .. } => match violation.take() {
                    Some(Violation::Limit) => CertificateError::NameLimit { subject },
                    Some(Violation::Name(name)) => {
                        CertificateError::NameConstraint { subject, detail: format!(": {name}") }
                    }
                    None => CertificateError::NameConstraint { subject, detail: String::new() },
                },
                other => other,
            })?;
        Ok(certificate)
    }

    /// What webpki leaves out: key usage of the CAs on the path (RFC 5280 s6.1.4 n), the dates of the anchor, and name
    /// constraints that webpki does not compare. [`TrustStore::explain`] finds the certificate again; `violation`
    /// is set to what was found last.
    fn accept_path<'c>(
        &'c self,
        path: &VerifiedPath<'_>,
        now: UnixTime,
        constrained: impl Fn(&[u8]) -> Option<&'c Constraints>,
        violation: &RefCell<Option<Violation>>,
        budget: &Cell<usize>,
    ) -> Result<(), Error> {
        let intermediates: Vec<_> = path.intermediate_certificates().map(|one| one.der()).collect();
        for der in &intermediates {
            let authority = Certificate::from_der(der).map_err(|_| Error::BadDer)?;
            check_issuer_usage(&authority).map_err(|_| Error::EndEntityUsedAsCa)?;
        }
        let entity = path.end_entity().der();
        let ders = std::iter::once(&entity).chain(&intermediates).map(|der| der.as_ref());
        // A CA that was renewed with the same key is there twice; one current certificate of it is enough.
        let authorities = self.authorities.iter().zip(&self.constraints);
        let same = self.anchors.iter().zip(authorities).filter(|(anchor, _)| *anchor == path.anchor());
        let time = Duration::from_secs(now.as_secs());
        let mut result = Ok(());
        for (_, (authority, constraints)) in same {
            let (not_before, not_after) = authority.validity();
            if time < not_before {
                let not_before = UnixTime::since_unix_epoch(not_before);
                result = Err(Error::CertNotValidYet { time: now, not_before });
            } else if time > not_after {
                let not_after = UnixTime::since_unix_epoch(not_after);
                result = Err(Error::CertExpired { time: now, not_after });
            } else {
                let above = intermediates.iter().map(|der| constrained(der)).chain([constraints.as_ref()]);
                let Err(found) = check_path(&ders.clone().zip(above).collect::<Vec<_>>(), budget) else {
                    return Ok(());
                };
                *violation.borrow_mut() = Some(found);
                result = Err(Error::NameConstraintViolation);
            }
        }
        result
    }

    /// Whether a CRL of its issuer lists the certificate. For the error only; webpki has decided.
    fn is_listed(&self, certificate: &Certificate) -> bool {
        self.crls.iter().any(|crl| {
            certificate.issuer().der().ends_with(crl.issuer())
                && crl.find_serial(certificate.serial_octets()).is_ok_and(|entry| entry.is_some())
        })
    }

    /// Turns webpki's error into one that names the certificate.
    fn explain(
        &self,
        error: Error,
        certificate: &Certificate,
        others: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> CertificateError {
        let subject = certificate.subject().to_string();
        let others: Vec<_> = others.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
        let mut all = std::iter::once(certificate).chain(&others).chain(&self.authorities);
        match error {
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => all
                .find_map(|candidate| candidate.check_validity(now).err())
                .unwrap_or(CertificateError::Refused { subject, detail: error.to_string() }),
            Error::UnknownIssuer => {
                let last = path_end(certificate, &others);
                let trusted = self.authorities.iter().map(|authority| authority.subject().to_string());
                CertificateError::UnknownIssuer {
                    subject: last.subject().to_string(),
                    issuer: last.issuer().to_string(),
                    trusted: List(trusted.collect()),
                }
            }
            Error::InvalidSignatureForPublicKey => CertificateError::Signature { subject },
            Error::CertRevoked => {
                let revoked = all.find(|candidate| self.is_listed(candidate)).unwrap_or(certificate);
                CertificateError::Revoked { subject: revoked.subject().to_string(), serial: revoked.serial() }
            }
            Error::UnknownRevocationStatus | Error::CrlExpired { .. } => {
                CertificateError::NoCurrentCrl { subject }
            }
            Error::NameConstraintViolation => {
                CertificateError::NameConstraint { subject, detail: String::new() }
            }
            Error::EndEntityUsedAsCa => {
                let found = others.iter().find_map(|candidate| check_issuer_usage(candidate).err());
                found.unwrap_or(CertificateError::Usage {
                    subject: path_end(certificate, &others).issuer().to_string(),
                    wanted: "issuing certificates",
                    found: "it is no CA".to_owned(),
                })
            }
            Error::CaUsedAsEndEntity => CertificateError::Usage {
                subject,
                wanted: "authentication",
                found: "it is the certificate of a CA".to_owned(),
            },
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => CertificateError::Usage {
                subject,
                wanted: usage.name(),
                found: "its extended key usage, or that of a CA above it, allows other purposes only"
                    .to_owned(),
            },
            other => CertificateError::Refused {
                subject,
                detail: format!("{other} (at {})", utc(Duration::from_secs(now.as_secs()))),
            },
        }
    }
}

/// Accepts a certificate that an operator has listed himself, self-signed or not, with no CA involved. Its dates,
/// its key usage and its names count.
pub fn verify_pinned(
    chain: &[CertificateDer<'_>],
    pinned: &[Certificate],
    claimed: &Identity,
    now: UnixTime,
) -> Result<Certificate, CertificateError> {
    let certificate = Certificate::from_der(chain.first().ok_or(CertificateError::Missing)?)?;
    if !pinned.iter().any(|known| known.der() == certificate.der()) {
        return Err(CertificateError::UnknownIssuer {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            trusted: List(pinned.iter().map(|known| known.subject().to_string()).collect()),
        });
    }
    certificate.check_validity(now)?;
    check_end_entity_usage(&certificate)?;
    certificate.check_identity(claimed)?;
    Ok(certificate)
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TrustStore({} CAs, {} CRLs, {:?})",
            self.authorities.len(),
            self.crls.len(),
            self.revocation
        )
    }
}

/// Follows the issuers among `others` as far as they go.
fn path_end<'a>(first: &'a Certificate, others: &'a [Certificate]) -> &'a Certificate {
    let mut last = first;
    for _ in others {
        match others.iter().find(|candidate| candidate.subject() == last.issuer()) {
            Some(next) if next.subject() != last.subject() => last = next,
            _ => break,
        }
    }
    last
}
