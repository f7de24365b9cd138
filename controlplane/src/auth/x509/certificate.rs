//! A certificate's names, dates and key.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_cert::der::{DateTime, Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{KeyUsage, SubjectAltName, SubjectKeyIdentifier};

use super::CertificateError;
use super::error::List;
use crate::auth::{DistinguishedName, IdPattern, Identity};
use crate::crypto::PublicKey;

/// A certificate that was read. Reading it says nothing about trust.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    subject: DistinguishedName,
    issuer: DistinguishedName,
    serial: Vec<u8>,
    not_before: Duration,
    not_after: Duration,
    names: Vec<Identity>,
    key_id: Option<Vec<u8>>,
    key_usage: Option<KeyUsage>,
    public_key: PublicKey,
}

/// Reads all certificates of a PEM file, in their order.
pub fn read_pem(pem: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    let mut certificates = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem) {
        let der = der.map_err(|error| CertificateError::Malformed { detail: error.to_string() })?;
        certificates.push(Certificate::from_der(&der)?);
    }
    if certificates.is_empty() {
        return Err(CertificateError::Missing);
    }
    Ok(certificates)
}

impl Certificate {
    /// Reads a DER certificate, as a CERT payload of encoding 4 holds it (RFC 7296 s3.6).
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |detail: String| CertificateError::Malformed { detail };
        let broken = |error: x509_cert::der::Error| malformed(error.to_string());
        let parsed = x509_cert::Certificate::from_der(der).map_err(broken)?;
        let tbs = parsed.tbs_certificate();
        let name = |name: &x509_cert::name::Name| {
            let der = name.to_der().map_err(broken)?;
            DistinguishedName::from_der(&der).map_err(|error| malformed(error.to_string()))
        };
        let spki = tbs.subject_public_key_info().to_der().map_err(broken)?;
        let alternative = tbs.get_extension::<SubjectAltName>().map_err(broken)?;
        let names = alternative.map(|(_, names)| names.0.iter().filter_map(identity).collect());
        let key_id = tbs.get_extension::<SubjectKeyIdentifier>().map_err(broken)?;
        let key_usage = tbs.get_extension::<KeyUsage>().map_err(broken)?;
        Ok(Self {
            der: CertificateDer::from(der.to_vec()),
            subject: name(tbs.subject())?,
            issuer: name(tbs.issuer())?,
            serial: tbs.serial_number().as_bytes().to_vec(),
            not_before: tbs.validity().not_before.to_unix_duration(),
            not_after: tbs.validity().not_after.to_unix_duration(),
            names: names.unwrap_or_default(),
            key_id: key_id.map(|(_, key_id)| key_id.0.as_bytes().to_vec()),
            key_usage: key_usage.map(|(_, usage)| usage),
            public_key: PublicKey::from_spki(&spki).map_err(|error| malformed(error.to_string()))?,
        })
    }

    /// The DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The subject.
    pub fn subject(&self) -> &DistinguishedName {
        &self.subject
    }

    /// The issuer.
    pub fn issuer(&self) -> &DistinguishedName {
        &self.issuer
    }

    /// The serial number in hexadecimal.
    pub fn serial(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.serial)
    }

    /// The key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// First and last second of its validity, since the Unix epoch.
    pub fn validity(&self) -> (Duration, Duration) {
        (self.not_before, self.not_after)
    }

    /// Whether it names `identity` (RFC 4945 s3.1): an FQDN, e-mail or IP address among the subject alternative
    /// names; a distinguished name that is the subject, or an alternative name; a key ID that is the subject
    /// key identifier. A `*` in a certificate stands for itself, and the common name for nothing but a part of
    /// the subject.
    pub fn names(&self, identity: &Identity) -> bool {
        match identity {
            Identity::Null => false,
            Identity::KeyId(key_id) => self.key_id.as_ref() == Some(key_id),
            Identity::Dn(name) if !name.is_empty() && self.subject == *name => true,
            other => self.names.contains(other),
        }
    }

    /// [`Certificate::names`], as an error that says what was expected and what came.
    pub fn check_identity(&self, claimed: &Identity) -> Result<(), CertificateError> {
        if self.names(claimed) {
            return Ok(());
        }
        Err(CertificateError::Identity { claimed: claimed.to_string(), found: self.all_names() })
    }

    /// Whether one of its names, or its subject, matches `expected`.
    pub fn check_pattern(&self, expected: &IdPattern) -> Result<(), CertificateError> {
        if let IdPattern::Exact(identity) = expected {
            return self.check_identity(identity);
        }
        let subject = Identity::Dn(self.subject.clone());
        if self.names.iter().chain([&subject]).any(|name| expected.matches(name).is_some()) {
            return Ok(());
        }
        Err(CertificateError::Identity { claimed: expected.to_string(), found: self.all_names() })
    }

    /// An identity that the certificate proves: its first alternative name, or its subject.
    pub fn own_identity(&self) -> Identity {
        self.names.first().cloned().unwrap_or_else(|| Identity::Dn(self.subject.clone()))
    }

    /// Checks its dates.
    pub fn check_validity(&self, now: UnixTime) -> Result<(), CertificateError> {
        let now = Duration::from_secs(now.as_secs());
        let subject = self.subject.to_string();
        if now < self.not_before {
            let not_before = utc(self.not_before);
            return Err(CertificateError::NotYetValid { subject, not_before, now: utc(now) });
        }
        if now > self.not_after {
            return Err(CertificateError::Expired { subject, not_after: utc(self.not_after), now: utc(now) });
        }
        Ok(())
    }

    /// The serial number as it is encoded.
    pub(super) fn serial_octets(&self) -> &[u8] {
        &self.serial
    }

    fn all_names(&self) -> List {
        let mut names: Vec<_> = self.names.iter().map(ToString::to_string).collect();
        if !self.subject.is_empty() {
            names.push(self.subject.to_string());
        }
        List(names)
    }

    /// The key usage extension, if there is one.
    pub(super) fn key_usage(&self) -> Option<&KeyUsage> {
        self.key_usage.as_ref()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, serial {})", self.subject, self.serial())
    }
}

/// A name that IKE can claim; others are skipped.
fn identity(name: &GeneralName) -> Option<Identity> {
    match name {
        GeneralName::Rfc822Name(name) => Identity::from_payload(3, name.as_bytes()).ok(),
        GeneralName::DnsName(name) => Identity::from_payload(2, name.as_bytes()).ok(),
        GeneralName::DirectoryName(name) => {
            Some(Identity::Dn(DistinguishedName::from_der(&name.to_der().ok()?).ok()?))
        }
        GeneralName::IpAddress(octets) => match octets.as_bytes().len() {
            4 => <[u8; 4]>::try_from(octets.as_bytes())
                .ok()
                .map(|octets| Identity::Address(IpAddr::from(octets))),
            _ => <[u8; 16]>::try_from(octets.as_bytes())
                .ok()
                .map(|octets| Identity::Address(IpAddr::from(octets))),
        },
        _ => None,
    }
}

/// A time as ISO 8601 in UTC.
pub(super) fn utc(since_epoch: Duration) -> String {
    match DateTime::from_unix_duration(since_epoch) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{} s after the epoch", since_epoch.as_secs()),
    }
}
