//! Name constraints that webpki does not compare, in chains that a test CA makes (RFC 5280 s4.2.1.10).

use rcgen::{CertificateParams, CustomExtension, date_time_ymd};
use rustls_pki_types::CertificateDer;
use x509_cert::der::asn1::{Ia5String, OctetString};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;

use super::testing::{Authority, authority_params, now, params};
use super::*;
use crate::auth::AuthError;
use crate::auth::eap::EapError;
use crate::auth::x509::CertificateError;
use crate::rejection::Rejection;

fn store(authorities: &[&Authority]) -> TrustStore {
    let mut store = TrustStore::default();
    for authority in authorities {
        store.add_authority(Certificate::from_der(&authority.der).unwrap()).unwrap();
    }
    store
}

/// What a chain with an intermediate CA of these constraints says of an end entity.
fn constrained(
    permitted: &[GeneralName],
    excluded: &[GeneralName],
    critical: bool,
    leaf: CertificateParams,
) -> Result<(), CertificateError> {
    let mut both = Vec::new();
    // At an intermediate CA, and at the trust anchor itself.
    for anchor in [false, true] {
        let mut params = authority_params("Constrained");
        params.custom_extensions = vec![name_constraints(permitted, excluded, critical)];
        let root = Authority::root("Root");
        let (store, issuer) = if anchor {
            let issuer = Authority::root_with(params, &rcgen::PKCS_ECDSA_P256_SHA256);
            (store(&[&issuer]), issuer)
        } else {
            (store(&[&root]), root.subordinate(params))
        };
        let leaf = issuer.issue_with(leaf.clone(), &rcgen::PKCS_ECDSA_P256_SHA256);
        let chain = if anchor { vec![leaf.der] } else { vec![leaf.der, issuer.der.clone()] };
        both.push(store.verify_chain(&chain, Usage::Ike, now()).map(drop));
    }
    assert_eq!(both[0], both[1]);
    both.remove(0)
}

fn name_constraints(permitted: &[GeneralName], excluded: &[GeneralName], critical: bool) -> CustomExtension {
    let subtrees = |names: &[GeneralName]| {
        let subtree = |base: &GeneralName| x509_cert::ext::pkix::constraints::name::GeneralSubtree {
            base: base.clone(),
            minimum: 0,
            maximum: None,
        };
        (!names.is_empty()).then(|| names.iter().map(subtree).collect())
    };
    let constraints = x509_cert::ext::pkix::NameConstraints {
        permitted_subtrees: subtrees(permitted),
        excluded_subtrees: subtrees(excluded),
    };
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints.to_der().unwrap());
    extension.set_criticality(critical);
    extension
}

fn email_name(text: &str) -> GeneralName {
    GeneralName::Rfc822Name(Ia5String::new(text).unwrap())
}

fn uri_name(text: &str) -> GeneralName {
    GeneralName::UniformResourceIdentifier(Ia5String::new(text).unwrap())
}

fn dns_name(text: &str) -> GeneralName {
    GeneralName::DnsName(Ia5String::new(text).unwrap())
}

fn directory_name(text: &str) -> GeneralName {
    let name = crate::auth::DistinguishedName::parse(text).unwrap();
    GeneralName::DirectoryName(x509_cert::name::Name::from_der(name.der()).unwrap())
}

/// Whether a refusal is for the constraints. The subject of all end entities is `C=CH, O=Example, CN=gw`.
fn is_allowed(result: Result<(), CertificateError>) -> bool {
    match result {
        Ok(()) => true,
        Err(CertificateError::NameConstraint { detail, .. }) => {
            assert!(detail.starts_with(": "), "{detail}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn directory_names_are_compared() {
    for (base, within) in [
        ("C=CH, O=Example", true),
        ("C=CH", true),
        ("C=ch, O=  EXAMPLE", true),
        ("C=CH, O=Example, CN=gw", true),
        ("O=Example", false),
        ("C=CH, O=Other", false),
        ("C=CH, O=Example, CN=gw, CN=more", false),
    ] {
        let base = [directory_name(base)];
        for critical in [true, false] {
            let leaf = || params("gw", &["gw.example.net"]);
            assert_eq!(is_allowed(constrained(&base, &[], critical, leaf())), within, "{base:?}");
            assert_eq!(is_allowed(constrained(&[], &base, critical, leaf())), !within, "{base:?}");
        }
    }
    // One of several is enough; all excluded ones count.
    let (ours, both_names) = ([directory_name("C=CH")], [directory_name("C=LI"), directory_name("C=CH")]);
    let leaf = || params("gw", &[]);
    assert!(is_allowed(constrained(&both_names, &[], true, leaf())));
    assert!(!is_allowed(constrained(&ours, &both_names, true, leaf())));
    // An alternative name of the form counts like the subject.
    let mut both = params("gw", &[]);
    let names = vec![directory_name("C=LI")].to_der().unwrap();
    both.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
    assert!(!is_allowed(constrained(&ours, &[], true, both.clone())));
    assert!(is_allowed(constrained(&both_names, &[], true, both)));
}

#[test]
fn mailboxes_are_compared() {
    for (base, name, within) in [
        ("carol@example.net", "carol@example.net", true),
        ("carol@example.net", "carol@EXAMPLE.net", true),
        ("carol@example.net", "Carol@example.net", false),
        ("example.net", "carol@example.net", true),
        ("example.net", "carol@vpn.example.net", false),
        (".example.net", "carol@vpn.example.net", true),
        (".example.net", "carol@example.net", false),
        (".example.net", "carol@badexample.net", false),
        ("example.net", "carol@example.org", false),
    ] {
        let base = [email_name(base)];
        let leaf = || params("gw", &[name]);
        assert_eq!(is_allowed(constrained(&base, &[], true, leaf())), within, "{base:?} {name}");
        assert_eq!(is_allowed(constrained(&[], &base, false, leaf())), !within, "{base:?} {name}");
    }
    let base = [email_name("example.net")];
    assert!(
        is_allowed(constrained(&base, &[], true, params("gw", &["gw.example.org"]))),
        "no mailbox at all"
    );
    // One in the subject counts, with alternative names and without.
    for names in [&[][..], &["carol@example.net"]] {
        for (address, allowed) in [("carol@example.net", true), ("carol@example.org", false)] {
            let mut old = params("gw", names);
            let email = rcgen::DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
            let value = rcgen::DnValue::Ia5String(address.try_into().unwrap());
            old.distinguished_name.push(email, value);
            assert_eq!(is_allowed(constrained(&base, &[], true, old)), allowed);
        }
    }
}

#[test]
fn hosts_of_uris_are_compared() {
    for (base, name, within) in [
        ("gw.example.net", "ike://gw.example.net/x", Some(true)),
        ("gw.example.net", "ike://user@GW.example.net:500?x", Some(true)),
        ("gw.example.net", "ike://vpn.gw.example.net", Some(false)),
        (".example.net", "ike://gw.example.net", Some(true)),
        (".example.net", "ike://example.net", Some(false)),
        (".example.net", "ike://evil.org/.example.net", Some(false)),
        (".example.net", "ike://evil.org#@gw.example.net", Some(false)),
        // Without a name for the host it cannot be compared, whatever the constraint.
        (".example.net", "ike://192.0.2.1/", None),
        (".example.net", "ike://[2001:db8::1]/", None),
        (".example.net", "urn:gw.example.net", None),
    ] {
        let base = [uri_name(base)];
        let mut leaf = params("gw", &["gw.example.net"]);
        leaf.subject_alt_names.push(rcgen::SanType::URI(name.try_into().unwrap()));
        let allowed = is_allowed(constrained(&base, &[], true, leaf.clone()));
        assert_eq!(allowed, within == Some(true), "{base:?} {name}");
        let allowed = is_allowed(constrained(&[], &base, true, leaf));
        assert_eq!(allowed, within == Some(false), "{base:?} {name}");
    }
}

/// What cannot be read excludes everything of its form, and permits nothing.
#[test]
fn a_name_or_base_that_cannot_be_read_is_refused() {
    // So that webpki does not compare the DNS names.
    let other = directory_name("C=LI");
    for (base, name) in [
        (email_name("@example.org"), "carol@example.net"),
        (email_name(""), "carol@example.net"),
        (email_name("example.org."), "carol@example.net"),
        (email_name("example.org"), "carol@example.net."),
        (uri_name(""), "ike://gw.example.net"),
        (uri_name("https://example.org"), "ike://gw.example.net"),
        (uri_name("example.org"), "ike://gw.example.net./"),
        (dns_name("*.example.org"), "gw.example.net"),
        (dns_name("example.org."), "gw.example.net"),
        (dns_name("example.org"), "gw.example.net."),
        (dns_name("secret.example.net"), "*.example.net"),
    ] {
        let leaf = || {
            let mut leaf = params("gw", &[]);
            let name = vec![match base {
                GeneralName::Rfc822Name(_) => email_name(name),
                GeneralName::DnsName(_) => dns_name(name),
                _ => uri_name(name),
            }];
            let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], name.to_der().unwrap());
            leaf.custom_extensions.push(extension);
            leaf
        };
        let excluded = [base.clone(), other.clone()];
        assert!(!is_allowed(constrained(&[], &excluded, true, leaf())), "{base:?} {name}");
        let permitted = [base.clone(), directory_name("C=CH")];
        assert!(!is_allowed(constrained(&permitted, &[], true, leaf())), "{base:?} {name}");
    }
    // A wildcard whose names are all on one side is compared.
    let bases = [dns_name("example.net"), directory_name("C=CH")];
    assert!(is_allowed(constrained(&bases, &[], true, params("gw", &["*.example.net"]))));
    assert!(!is_allowed(constrained(&bases, &[], true, params("gw", &["*.example.org"]))));
    let bases = [dns_name("secret.example.net"), other];
    assert!(is_allowed(constrained(&[], &bases, true, params("gw", &["*.example.org"]))));
    assert!(!is_allowed(constrained(&[], &bases, true, params("gw", &["*.secret.example.net"]))));
    // As an identity, an address in the subject is compared without its spaces.
    for (address, allowed) in [("admin@example.net", true), ("admin@example.org ", false)] {
        let mut leaf = params("gw", &[]);
        let email = rcgen::DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        let value = rcgen::DnValue::Utf8String(address.into());
        leaf.distinguished_name.push(email, value);
        let excluded = [email_name("example.org")];
        assert_eq!(is_allowed(constrained(&[], &excluded, true, leaf)), allowed);
    }
}

#[test]
fn a_chain_that_takes_too_many_comparisons_is_refused() {
    let bases: Vec<_> = (0..200).map(|number| directory_name(&format!("C=LI, CN={number}"))).collect();
    let mut leaf = params("gw", &[]);
    let names: Vec<_> = (0..200).map(|number| directory_name(&format!("C=CH, CN={number}"))).collect();
    let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], names.to_der().unwrap());
    leaf.custom_extensions.push(names);
    let error = constrained(&[], &bases, true, leaf).unwrap_err();
    assert!(matches!(error, CertificateError::NameLimit { .. }), "{error}");
    assert_eq!(AuthError::from(error.clone()).rejection(), Rejection::NameLimit);
    assert_eq!(EapError::from(error).rejection(), Rejection::NameLimit);
    assert!(constrained(&[], &bases, true, params("gw", &[])).is_ok());
}

/// One name, the subject, and two constraints.
#[test]
fn as_many_comparisons_as_configured() {
    for (most, refused) in [(1, true), (2, false)] {
        let mut constrained = authority_params("Constrained");
        constrained.custom_extensions =
            vec![name_constraints(&[directory_name("C=CH")], &[directory_name("C=LI")], true)];
        let issuer = Authority::root_with(constrained, &rcgen::PKCS_ECDSA_P256_SHA256);
        let mut store = TrustStore::new(Revocation::IfKnown, most);
        store.add_authority(Certificate::from_der(&issuer.der).unwrap()).unwrap();
        let leaf = issuer.issue_with(params("gw", &[]), &rcgen::PKCS_ECDSA_P256_SHA256);
        let verified = store.verify_chain(&[leaf.der], Usage::Ike, now());
        assert_eq!(matches!(verified, Err(CertificateError::NameLimit { .. })), refused);
        assert_eq!(verified.is_err(), refused);
    }
}

/// With a form that webpki does not compare in the list, its own forms are compared here.
#[test]
fn dns_names_and_addresses_are_compared_beside_other_forms() {
    let address = |octets: &[u8]| GeneralName::IpAddress(OctetString::new(octets).unwrap());
    let permitted =
        [directory_name("C=CH"), dns_name("example.net"), address(&[192, 0, 2, 0, 255, 255, 255, 0])];
    let excluded = [dns_name("secret.example.net")];
    for (name, allowed) in [
        ("gw.example.net", true),
        ("example.net", true),
        ("badexample.net", false),
        ("gw.example.org", false),
        ("gw.secret.example.net", false),
        ("192.0.2.7", true),
        ("198.51.100.1", false),
        ("2001:db8::1", false),
        ("carol@example.org", true),
    ] {
        assert_eq!(
            is_allowed(constrained(&permitted, &excluded, true, params("gw", &[name]))),
            allowed,
            "{name}"
        );
    }
}

/// Constraints of a CA hold for all below it, and a CA below cannot widen them.
#[test]
fn constraints_bind_the_whole_path() {
    let root = Authority::root("Root");
    let constrain = |name: &str, base: &str| {
        let mut params = authority_params(name);
        params.custom_extensions = vec![name_constraints(&[email_name(base)], &[], true)];
        params
    };
    let upper = root.subordinate(constrain("Upper", ".example.net"));
    let store = store(&[&root]);
    for (base, name, allowed) in [
        (".vpn.example.net", "carol@a.vpn.example.net", true),
        (".vpn.example.net", "carol@a.example.net", false),
        (".example.org", "carol@a.example.org", false),
    ] {
        let lower = upper.subordinate(constrain("Lower", base));
        let leaf = lower.issue("gw", &[name]);
        let chain = [leaf.der, lower.der.clone(), upper.der.clone()];
        assert_eq!(is_allowed(store.verify_chain(&chain, Usage::Ike, now()).map(drop)), allowed, "{name}");
    }
    // A CA below that has a name outside may issue nothing.
    let mut outside = params("x", &["ca@example.org"]);
    let plain = authority_params("Lower");
    (outside.is_ca, outside.key_usages, outside.not_after) = (plain.is_ca, plain.key_usages, plain.not_after);
    let lower = upper.subordinate(outside);
    let leaf = lower.issue("gw", &["carol@a.example.net"]);
    let chain = [leaf.der, lower.der.clone(), upper.der.clone()];
    assert!(!is_allowed(store.verify_chain(&chain, Usage::Ike, now()).map(drop)));
}

/// webpki is shown a CA's certificate with its constraints hidden. That must not make a forgery good, nor hide them from
/// whoever is sent what webpki sees.
#[test]
fn hiding_constraints_hides_no_forgery() {
    let root = Authority::root("Root");
    let mut params = authority_params("Constrained");
    params.custom_extensions = vec![name_constraints(&[directory_name("C=CH")], &[], true)];
    let middle = root.subordinate(params);
    let store = store(&[&root]);
    let (good, bad) = (middle.issue("gw", &["gw.example.net"]), {
        let mut foreign = CertificateParams::default();
        foreign.distinguished_name = rcgen::DistinguishedName::new();
        foreign.distinguished_name.push(rcgen::DnType::CountryName, "LI");
        (foreign.not_before, foreign.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2027, 1, 1));
        middle.issue_with(foreign, &rcgen::PKCS_ECDSA_P256_SHA256)
    });
    let verify = |chain: &[CertificateDer<'static>]| store.verify_chain(chain, Usage::Ike, now());
    verify(&[good.der.clone(), middle.der.clone()]).unwrap();
    let hidden = constraints::Hidden::of(&middle.der).unwrap().der;
    assert_eq!(hidden.len(), middle.der.len());
    assert!(verify(&[good.der.clone(), hidden.clone()]).is_err(), "nobody has signed it");
    for chain in [
        vec![bad.der.clone(), middle.der.clone()],
        vec![bad.der.clone(), hidden.clone(), middle.der.clone()],
        vec![bad.der.clone(), middle.der.clone(), hidden.clone()],
    ] {
        let error = verify(&chain).unwrap_err();
        assert!(matches!(error, CertificateError::NameConstraint { .. }), "{error}");
    }
    for bit in 0..middle.der.len() * 8 {
        let mut bent = middle.der.to_vec();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&[good.der.clone(), CertificateDer::from(bent)]).is_err(), "bit {bit}");
    }
}
