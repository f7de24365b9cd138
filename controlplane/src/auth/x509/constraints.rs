//! Name constraints on directory names, e-mail addresses and URIs (RFC 5280 s4.2.1.10).
//!
//! `rustls-webpki` compares DNS names and IP addresses, and refuses every certificate below a CA that constrains
//! anything else. So where a CA does, webpki is shown its certificate without the extension, in the same place and of
//! the same length: renamed, and not critical. The signature is still verified over the true bytes ([`Unaltered`]), and
//! all constraints of such a CA, of whatever form, are compared here. A CA whose extension cannot be hidden keeps it,
//! and webpki refuses what it has issued.

use std::cell::Cell;

use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
};
use x509_cert::Certificate;
use x509_cert::attr::AttributeValue;
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};
use x509_cert::ext::pkix::constraints::name::GeneralSubtrees;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{NameConstraints, SubjectAltName};
use x509_cert::name::Name;

use crate::auth::DistinguishedName;

/// PKCS #9 emailAddress, in subjects (RFC 5280 s4.1.2.6).
const EMAIL_ADDRESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1");

/// What a CA may certify, where webpki does not compare it.
#[derive(Clone, Debug)]
pub(super) struct Constraints {
    permitted: Vec<Base>,
    excluded: Vec<Base>,
}

/// The root of a subtree.
#[derive(Clone, Debug)]
enum Base {
    Name(GeneralName),
    /// With bounds that this profile does not have: nothing is known to be within it.
    Bounded(GeneralName),
}

/// Why the names of a path are not accepted.
#[derive(Debug)]
pub(super) enum Violation {
    /// This name lies outside, or cannot be read.
    Name(String),
    /// It would take more comparisons than are left.
    Limit,
}

/// How a name stands to the root of a subtree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Within,
    Outside,
    /// The name is of another form, so this says nothing of it.
    OtherForm,
    /// Nobody can say: it counts as excluded, and as not permitted.
    Unknown,
}

impl Constraints {
    /// Those of a CA; `None` when it has none, or none but what webpki compares.
    pub fn of(der: &[u8]) -> Option<Self> {
        // Most certificates need no second look.
        let oid = NameConstraints::OID.to_der().ok()?;
        der.windows(oid.len()).any(|window| window == oid).then_some(())?;
        let certificate = Certificate::from_der(der).ok()?;
        let (_, found) = certificate.tbs_certificate().get_extension::<NameConstraints>().ok()??;
        let bases = |subtrees: Option<GeneralSubtrees>| -> Vec<Base> {
            subtrees
                .unwrap_or_default()
                .into_iter()
                .map(|subtree| match (subtree.minimum, subtree.maximum) {
                    (0, None) => Base::Name(subtree.base),
                    _ => Base::Bounded(subtree.base),
                })
                .collect()
        };
        let constraints =
            Self { permitted: bases(found.permitted_subtrees), excluded: bases(found.excluded_subtrees) };
        let webpki_compares =
            |base: &Base| matches!(base, Base::Name(GeneralName::DnsName(_) | GeneralName::IpAddress(_)));
        let all = constraints.permitted.iter().chain(&constraints.excluded);
        (!all.clone().all(webpki_compares)).then_some(constraints)
    }

    /// Every name is of a form that is not constrained, or within a permitted and no excluded subtree (RFC 5280 s6.1.3).
    fn check(&self, names: &[GeneralName], budget: &Cell<usize>) -> Result<(), Violation> {
        for name in names {
            let comparisons = self.permitted.len() + self.excluded.len();
            let left = budget.get().checked_sub(comparisons);
            budget.set(left.ok_or(Violation::Limit)?);
            let mut excluded = self.excluded.iter().map(|base| base.position(name));
            let permitted: Vec<_> = self.permitted.iter().map(|base| base.position(name)).collect();
            let is_constrained = permitted.iter().any(|position| *position != Position::OtherForm);
            let is_permitted = !is_constrained || permitted.contains(&Position::Within);
            if !is_permitted || excluded.any(|one| matches!(one, Position::Within | Position::Unknown)) {
                return Err(Violation::Name(display(name)));
            }
        }
        Ok(())
    }
}

/// Checks a path from the end entity up to the last intermediate CA. `constraints` are those of the CA above each
/// certificate; the constraints of a CA bind all certificates below it. `budget` is how many comparisons are left, in all
/// of the paths.
pub(super) fn check_path(
    path: &[(&[u8], Option<&Constraints>)],
    budget: &Cell<usize>,
) -> Result<(), Violation> {
    if path.iter().all(|(_, constraints)| constraints.is_none()) {
        return Ok(());
    }
    for (place, (der, _)) in path.iter().enumerate() {
        let certificate = Certificate::from_der(der).map_err(|error| Violation::Name(error.to_string()))?;
        let tbs = certificate.tbs_certificate();
        // RFC 5280 s6.1.3: a CA that renews its own key is not below itself.
        if place > 0 && tbs.subject() == tbs.issuer() {
            continue;
        }
        let names = names(&certificate).map_err(Violation::Name)?;
        for (_, constraints) in path.iter().skip(place) {
            constraints.map_or(Ok(()), |constraints| constraints.check(&names, budget))?;
        }
    }
    Ok(())
}

/// All names of a certificate: the subject, e-mail addresses in it, and the alternative names. The addresses count beside
/// alternative names too, which is more than RFC 5280 asks for.
fn names(certificate: &Certificate) -> Result<Vec<GeneralName>, String> {
    let tbs = certificate.tbs_certificate();
    let mut names = Vec::new();
    if !tbs.subject().is_empty() {
        names.push(GeneralName::DirectoryName(tbs.subject().clone()));
    }
    for attribute in tbs.subject().iter().filter(|attribute| attribute.oid == EMAIL_ADDRESS) {
        names.push(GeneralName::Rfc822Name(email(&attribute.value).ok_or("a broken emailAddress")?));
    }
    let alternative = tbs.get_extension::<SubjectAltName>().map_err(|error| error.to_string())?;
    names.extend(alternative.into_iter().flat_map(|(_, alternative)| alternative.0));
    Ok(names)
}

/// As an identity it is compared without its spaces; so here it must not have any.
fn email(value: &AttributeValue) -> Option<x509_cert::der::asn1::Ia5String> {
    let is_text = matches!(value.tag(), Tag::Ia5String | Tag::Utf8String | Tag::PrintableString);
    let text = std::str::from_utf8(value.value()).ok().filter(|_| is_text)?;
    let text = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))?;
    Ia5StringRef::new(text).ok().map(Into::into)
}

impl Base {
    fn position(&self, name: &GeneralName) -> Position {
        let base = match self {
            Self::Name(base) => base,
            Self::Bounded(base) if std::mem::discriminant(base) == std::mem::discriminant(name) => {
                return Position::Unknown;
            }
            Self::Bounded(_) => return Position::OtherForm,
        };
        let within = match (name, base) {
            (GeneralName::DirectoryName(name), GeneralName::DirectoryName(base)) => {
                directory_name_is_within(name, base)
            }
            (GeneralName::Rfc822Name(name), GeneralName::Rfc822Name(base)) => {
                mailbox_is_within(name.as_str(), base.as_str())
            }
            (GeneralName::DnsName(name), GeneralName::DnsName(base)) => {
                dns_name_is_within(name.as_str(), base.as_str())
            }
            (GeneralName::UniformResourceIdentifier(name), GeneralName::UniformResourceIdentifier(base)) => {
                host_of(name.as_str()).and_then(|host| host_is_within(host, base.as_str()))
            }
            (GeneralName::IpAddress(name), GeneralName::IpAddress(base)) => {
                address_is_within(name.as_bytes(), base.as_bytes())
            }
            // Forms that nobody here knows how to compare.
            (name, base) if std::mem::discriminant(name) == std::mem::discriminant(base) => None,
            _ => return Position::OtherForm,
        };
        match within {
            Some(true) => Position::Within,
            Some(false) => Position::Outside,
            None => Position::Unknown,
        }
    }
}

/// The base's relative names come first in the name.
fn directory_name_is_within(name: &Name, base: &Name) -> Option<bool> {
    let read = |name: &Name| DistinguishedName::from_der(&name.to_der().ok()?).ok();
    Some(read(name)?.starts_with(&read(base)?))
}

/// A mailbox, all of one host, or all of the hosts below a domain when it begins with a period.
fn mailbox_is_within(name: &str, base: &str) -> Option<bool> {
    let (mailbox, host) =
        name.rsplit_once('@').filter(|(mailbox, host)| !mailbox.is_empty() && !host.is_empty())?;
    match base.rsplit_once('@') {
        // The part before the `@` is the host's own affair (RFC 5280 s7.5).
        Some((theirs, base)) if !theirs.is_empty() => {
            Some(host_is_within(host, base).filter(|_| !base.starts_with('.'))? && mailbox == theirs)
        }
        Some(_) => None,
        None => host_is_within(host, base),
    }
}

/// The host itself, or the hosts below it when the base begins with a period. `None` when either is no host: what an
/// operator meant by it is not known, so it excludes everything and permits nothing.
fn host_is_within(host: &str, base: &str) -> Option<bool> {
    let domain = base.strip_prefix('.');
    let readable = is_host(host) && is_host(domain.unwrap_or(base));
    let within = if domain.is_some() { is_below(host, base) } else { host.eq_ignore_ascii_case(base) };
    readable.then_some(within)
}

/// The name itself, or one with more labels. A wildcard stands for all names that it matches.
fn dns_name_is_within(name: &str, base: &str) -> Option<bool> {
    let parent = name.strip_prefix("*.");
    let domain = base.strip_prefix('.').unwrap_or(base);
    if !is_host(parent.unwrap_or(name)) || !(base.is_empty() || is_host(domain)) {
        return None;
    }
    let suffix = format!(".{domain}");
    let within = base.is_empty()
        || is_below(name, &suffix)
        || (!base.starts_with('.') && name.eq_ignore_ascii_case(domain));
    // Some that it matches may be within, and others not.
    let in_part = parent.is_some_and(|parent| is_below(domain, &format!(".{parent}")));
    if !within && in_part { None } else { Some(within) }
}

/// Labels of letters, digits, hyphens and underscores.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.split('.').all(is_label)
}

/// `suffix` begins with a period.
fn is_below(name: &str, suffix: &str) -> bool {
    let (name, suffix) = (name.as_bytes(), suffix.as_bytes());
    name.len() > suffix.len()
        && name.iter().rev().zip(suffix.iter().rev()).all(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// The host of a URI. One without, or with an address for it, cannot be compared, and the certificate is refused
/// (RFC 5280 s4.2.1.10: MUST).
fn host_of(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None,
        None => host,
    };
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    (is_host(host) && !is_address).then_some(host)
}

/// An address and a mask, of the family of the name.
fn address_is_within(name: &[u8], base: &[u8]) -> Option<bool> {
    if !matches!((name.len(), base.len()), (4 | 16, 8 | 32)) {
        return None;
    }
    let (address, mask) = base.split_at(base.len() / 2);
    let same = |((name, address), mask): ((&u8, &u8), &u8)| name & mask == address & mask;
    Some(name.len() == address.len() && name.iter().zip(address).zip(mask).all(same))
}

fn display(name: &GeneralName) -> String {
    match name {
        GeneralName::DirectoryName(name) => name
            .to_der()
            .ok()
            .and_then(|der| DistinguishedName::from_der(&der).ok())
            .map_or_else(|| "a directory name".into(), |name| name.to_string()),
        GeneralName::Rfc822Name(text)
        | GeneralName::DnsName(text)
        | GeneralName::UniformResourceIdentifier(text) => text.as_str().escape_debug().to_string(),
        GeneralName::IpAddress(octets) => format!("the IP address {:02x?}", octets.as_bytes()),
        _ => "a name of another form".into(),
    }
}

/// The certificate of a CA as webpki is to see it: without its name constraints.
pub(super) struct Hidden {
    pub der: CertificateDer<'static>,
    /// What is signed, as webpki sees it and as it is.
    signed: (Vec<u8>, Vec<u8>),
}

impl Hidden {
    /// Hides the extension.
    pub fn of(original: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(original).ok()?;
        let extensions = certificate.tbs_certificate().extensions()?;
        let extension = extensions.iter().find(|extension| extension.extn_id == NameConstraints::OID)?;
        let (encoded, oid) = (extension.to_der().ok()?, NameConstraints::OID.to_der().ok()?);
        let mut altered = encoded.clone();
        let at = altered.windows(oid.len()).position(|window| window == oid)? + oid.len();
        // The last arc becomes 0, which stands for no extension.
        *altered.get_mut(at - 1)? = 0;
        if extension.critical {
            *altered.get_mut(at + 2)? = 0;
        }
        let start = original.windows(encoded.len()).position(|window| window == encoded)?;
        let mut der = original.to_vec();
        der.get_mut(start..start + altered.len())?.copy_from_slice(&altered);
        Some(Self { signed: (signed(&der)?, signed(original)?), der: CertificateDer::from(der) })
    }
}

/// The part of a certificate that is signed.
fn signed(der: &[u8]) -> Option<Vec<u8>> {
    let mut reader = SliceReader::new(der).ok()?;
    let tbs = |reader: &mut SliceReader<'_>| -> x509_cert::der::Result<Vec<u8>> {
        let signed = reader.tlv_bytes()?.to_vec();
        let rest = reader.remaining_len();
        reader.read_slice(rest)?;
        Ok(signed)
    };
    reader.sequence(tbs).ok()
}

/// Verifies signatures over what was signed, where webpki sees something else.
pub(super) struct Unaltered<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    hidden: &'a [Hidden],
}

impl<'a> Unaltered<'a> {
    /// All algorithms of webpki.
    pub fn all(hidden: &'a [Hidden]) -> Vec<Self> {
        webpki::ALL_VERIFICATION_ALGS.iter().map(|&algorithm| Self { algorithm, hidden }).collect()
    }
}

impl std::fmt::Debug for Unaltered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.algorithm.fmt(f)
    }
}

impl SignatureVerificationAlgorithm for Unaltered<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let seen = self.hidden.iter().find(|hidden| hidden.signed.0 == message);
        let message = seen.map_or(message, |hidden| &hidden.signed.1);
        self.algorithm.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}
