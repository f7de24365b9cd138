//! Chains that a test CA makes, good and bad.

use std::time::Duration;

use aws_lc_rs::digest;
use rcgen::{
    CidrSubnet, ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, SerialNumber,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::testing::{Authority, authority_params, now, params};
use super::*;
use crate::auth::Identity;
use crate::crypto::{Hash, RsaPadding};

fn store(authorities: &[&Authority]) -> TrustStore {
    let mut store = TrustStore::default();
    for authority in authorities {
        store.add_authority(Certificate::from_der(&authority.der).unwrap()).unwrap();
    }
    store
}

fn check(
    store: &TrustStore,
    chain: &[&CertificateDer<'static>],
    id: &str,
) -> Result<Certificate, CertificateError> {
    let chain: Vec<_> = chain.iter().map(|der| (*der).clone()).collect();
    store.verify(&chain, &Identity::parse(id).unwrap(), Usage::Ike, now())
}

#[test]
fn chains_of_every_algorithm_verify_and_the_key_signs() {
    for algorithm in [
        &PKCS_RSA_SHA256,
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ECDSA_P521_SHA512,
        &PKCS_ED25519,
    ] {
        let root = Authority::root_with(authority_params("Root"), algorithm);
        let leaf = root.issue_with(params("gw", &["gw.example.net"]), algorithm);
        let certificate = check(&store(&[&root]), &[&leaf.der], "gw.example.net").unwrap();
        let key = leaf.signing_key();
        assert_eq!(key.public(), certificate.public_key());
        let scheme = key.choose(&Hash::ANNOUNCED, RsaPadding::Pss).unwrap();
        let signature = key.sign(scheme, b"octets").unwrap();
        certificate.public_key().verify(scheme, b"octets", &signature).unwrap();
    }
}

#[test]
fn intermediates_come_in_any_order() {
    let root = Authority::root("Root");
    let first = root.subordinate(authority_params("First"));
    let second = first.subordinate(authority_params("Second"));
    let leaf = second.issue("gw", &["gw.example.net"]);
    let store = store(&[&root]);
    check(&store, &[&leaf.der, &first.der, &second.der], "gw.example.net").unwrap();
    check(&store, &[&leaf.der, &second.der, &root.der, &first.der], "gw.example.net").unwrap();
    let error = check(&store, &[&leaf.der, &second.der], "gw.example.net").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate C=CH, O=Example, CN=Second was issued by C=CH, O=Example, CN=First, which is neither \
         sent along nor trusted; trusted: C=CH, O=Example, CN=Root"
    );
}

#[test]
fn identities_match_their_own_kind_of_name() {
    let root = Authority::root("Root");
    let leaf = root
        .issue("gw", &["GW.example.net", "*.wild.example.net", "c@example.net", "192.0.2.1", "2001:db8::1"]);
    let store = store(&[&root]);
    for id in ["gw.example.net", "c@Example.net", "192.0.2.1", "2001:db8::1", "C=ch, O=example, CN=GW"] {
        check(&store, &[&leaf.der], id).unwrap();
    }
    for id in [
        "gw",
        "a.wild.example.net",
        "example.net",
        "d@example.net",
        "192.0.2.2",
        "@192.0.2.1",
        "CN=gw",
        "keyid:gw",
    ] {
        assert!(matches!(check(&store, &[&leaf.der], id), Err(CertificateError::Identity { .. })), "{id}");
    }
    let error = check(&store, &[&leaf.der], "evil.example.net").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the peer claims to be evil.example.net, but its certificate is for gw.example.net; *.wild.example.net; \
         c@example.net; 192.0.2.1; 2001:db8::1; C=CH, O=Example, CN=gw"
    );
    let chain = [leaf.der.clone()];
    assert!(store.verify(&chain, &Identity::Null, Usage::Ike, now()).is_err());
    let key_id = Certificate::from_der(&leaf.der).unwrap();
    assert!(!key_id.names(&Identity::KeyId(Vec::new())));
}

#[test]
fn dates_count_for_every_certificate_of_the_path() {
    let expired = |mut params: rcgen::CertificateParams| {
        params.not_after = date_time_ymd(2026, 1, 1);
        params
    };
    let good = Authority::root("Root");
    let leaf = good.issue_with(expired(params("gw", &["gw.example.net"])), &rcgen::PKCS_ECDSA_P256_SHA256);
    let error = check(&store(&[&good]), &[&leaf.der], "gw.example.net").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate C=CH, O=Example, CN=gw expired at 2026-01-01T00:00:00Z; it is now 2026-07-01T12:00:00Z"
    );
    let middle = good.subordinate(expired(authority_params("Middle")));
    let leaf = middle.issue("gw", &["gw.example.net"]);
    let error = check(&store(&[&good]), &[&leaf.der, &middle.der], "gw.example.net").unwrap_err();
    assert!(
        matches!(&error, CertificateError::Expired { subject, .. } if subject.ends_with("CN=Middle")),
        "{error}"
    );
    let old = Authority::root_with(expired(authority_params("Old")), &PKCS_ED25519);
    let leaf = old.issue("gw", &["gw.example.net"]);
    let error = check(&store(&[&old]), &[&leaf.der], "gw.example.net").unwrap_err();
    assert!(
        matches!(&error, CertificateError::Expired { subject, .. } if subject.ends_with("CN=Old")),
        "{error}"
    );
    let mut future = params("gw", &["gw.example.net"]);
    future.not_before = date_time_ymd(2026, 12, 1);
    let leaf = good.issue_with(future, &rcgen::PKCS_ECDSA_P256_SHA256);
    let error = check(&store(&[&good]), &[&leaf.der], "gw.example.net").unwrap_err();
    assert!(matches!(error, CertificateError::NotYetValid { .. }));
}

#[test]
fn name_constraints_of_the_authority_bind() {
    let mut constrained = authority_params("Constrained");
    constrained.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("example.net".into()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([192, 0, 2, 0], 24)),
        ],
        excluded_subtrees: vec![GeneralSubtree::DnsName("secret.example.net".into())],
    });
    let root = Authority::root("Root");
    let middle = root.subordinate(constrained);
    let store = store(&[&root]);
    for (name, allowed) in [
        ("gw.example.net", true),
        ("192.0.2.7", true),
        ("gw.example.org", false),
        ("gw.secret.example.net", false),
        ("198.51.100.1", false),
    ] {
        let leaf = middle.issue("gw", &[name]);
        match check(&store, &[&leaf.der, &middle.der], name) {
            Ok(_) => assert!(allowed, "{name}"),
            Err(error) => {
                assert!(
                    !allowed && matches!(error, CertificateError::NameConstraint { .. }),
                    "{name}: {error}"
                );
            }
        }
    }
}

#[test]
fn key_usage_binds_end_entities_and_authorities() {
    let root = Authority::root("Root");
    let store = store(&[&root]);
    let mut encipher = params("gw", &["gw.example.net"]);
    encipher.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let leaf = root.issue_with(encipher, &rcgen::PKCS_ECDSA_P256_SHA256);
    let error = check(&store, &[&leaf.der], "gw.example.net").unwrap_err();
    assert!(error.to_string().contains("neither digitalSignature nor nonRepudiation"), "{error}");

    let mut no_cert_sign = authority_params("Signer");
    no_cert_sign.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let middle = root.subordinate(no_cert_sign.clone());
    let leaf = middle.issue("gw", &["gw.example.net"]);
    let error = check(&store, &[&leaf.der, &middle.der], "gw.example.net").unwrap_err();
    assert!(error.to_string().contains("CN=Signer must not be used for issuing certificates"), "{error}");
    let anchor = Authority::root_with(no_cert_sign, &PKCS_ED25519);
    let anchor = Certificate::from_der(&anchor.der).unwrap();
    assert!(TrustStore::default().add_authority(anchor).is_err());
}

#[test]
fn an_end_entity_issues_nothing_and_an_authority_is_no_peer() {
    let root = Authority::root("Root");
    let store = store(&[&root]);
    let not_ca = root.subordinate(params("Leaf", &["leaf.example.net"]));
    let forged = not_ca.issue("gw", &["gw.example.net"]);
    let error = check(&store, &[&forged.der, &not_ca.der], "gw.example.net").unwrap_err();
    assert!(matches!(error, CertificateError::Usage { .. }), "{error}");
    let middle = root.subordinate(authority_params("Middle"));
    assert!(check(&store, &[&middle.der], "C=CH, O=Example, CN=Middle").is_err());
}

#[test]
fn extended_key_usage_binds_when_it_is_there() {
    let root = Authority::root("Root");
    let store = store(&[&root]);
    let ipsec_ike = ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]);
    for (purpose, ike, server, peer) in [
        (ipsec_ike, true, false, false),
        (ExtendedKeyUsagePurpose::ServerAuth, true, true, false),
        (ExtendedKeyUsagePurpose::ClientAuth, true, false, true),
        (ExtendedKeyUsagePurpose::Any, true, true, true),
        (ExtendedKeyUsagePurpose::CodeSigning, false, false, false),
    ] {
        let mut limited = params("gw", &["gw.example.net"]);
        limited.extended_key_usages = vec![purpose.clone()];
        let leaf = root.issue_with(limited, &rcgen::PKCS_ECDSA_P256_SHA256);
        let chain = [leaf.der.clone()];
        for (usage, allowed) in [(Usage::Ike, ike), (Usage::EapServer, server), (Usage::EapPeer, peer)] {
            let result = store.verify_chain(&chain, usage, now());
            assert_eq!(result.is_ok(), allowed, "{purpose:?} {usage:?}");
        }
    }
}

#[test]
fn another_authority_of_the_same_name_is_noticed() {
    let (real, fake) = (Authority::root("Root"), Authority::root("Root"));
    let leaf = fake.issue("gw", &["gw.example.net"]);
    let error = check(&store(&[&real]), &[&leaf.der], "gw.example.net").unwrap_err();
    assert!(matches!(error, CertificateError::Signature { .. }), "{error}");
    let error = check(&store(&[&real]), &[&leaf.der, &fake.der], "gw.example.net").unwrap_err();
    assert!(
        matches!(error, CertificateError::Signature { .. } | CertificateError::UnknownIssuer { .. }),
        "{error}"
    );
    assert!(matches!(
        check(&store(&[]), &[&leaf.der], "gw.example.net"),
        Err(CertificateError::UnknownIssuer { .. })
    ));
    assert!(matches!(check(&store(&[]), &[], "gw.example.net"), Err(CertificateError::Missing)));
}

#[test]
fn revoked_certificates_are_refused() {
    let root = Authority::root("Root");
    let serial = |serial: u64| {
        let mut numbered = params("gw", &["gw.example.net"]);
        numbered.serial_number = Some(SerialNumber::from(serial));
        root.issue_with(numbered, &rcgen::PKCS_ECDSA_P256_SHA256)
    };
    let (bad, good) = (serial(7), serial(8));
    for revocation in [Revocation::IfKnown, Revocation::Strict] {
        let mut store = TrustStore::new(revocation, 0);
        store.add_authority(Certificate::from_der(&root.der).unwrap()).unwrap();
        store.add_crls(&root.revoke(7, 12)).unwrap();
        let error = check(&store, &[&bad.der], "gw.example.net").unwrap_err();
        assert!(matches!(&error, CertificateError::Revoked { serial, .. } if serial == "07"), "{error}");
        check(&store, &[&good.der], "gw.example.net").unwrap();
    }
}

#[test]
fn a_revoked_authority_takes_its_certificates_with_it() {
    let root = Authority::root("Root");
    let mut numbered = authority_params("Middle");
    numbered.serial_number = Some(SerialNumber::from(7u64));
    let middle = root.subordinate(numbered);
    let leaf = middle.issue("gw", &["gw.example.net"]);
    let mut store = store(&[&root]);
    check(&store, &[&leaf.der, &middle.der], "gw.example.net").unwrap();
    store.add_crls(&root.revoke(7, 12)).unwrap();
    let error = check(&store, &[&leaf.der, &middle.der], "gw.example.net").unwrap_err();
    assert_eq!(error.to_string(), "the certificate C=CH, O=Example, CN=Middle (serial 07) is revoked");
}

#[test]
fn strict_revocation_needs_a_current_crl_of_the_right_authority() {
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let leaf = root.issue("gw", &["gw.example.net"]);
    for (crl, relaxed_ok) in
        [(None, true), (Some(root.revoke(7, 6)), true), (Some(other.revoke(7, 12)), true)]
    {
        for (revocation, ok) in [(Revocation::IfKnown, relaxed_ok), (Revocation::Strict, false)] {
            let mut store = TrustStore::new(revocation, 0);
            store.add_authority(Certificate::from_der(&root.der).unwrap()).unwrap();
            if let Some(crl) = &crl {
                store.add_crls(crl).unwrap();
            }
            match check(&store, &[&leaf.der], "gw.example.net") {
                Ok(_) => assert!(ok),
                Err(error) => {
                    assert!(!ok && matches!(error, CertificateError::NoCurrentCrl { .. }), "{error}")
                }
            }
        }
    }
}

#[test]
fn a_pinned_certificate_may_be_self_signed() {
    let own = Authority::root_with(params("gw", &["gw.example.net"]), &PKCS_ED25519);
    let other = Authority::root_with(params("gw", &["gw.example.net"]), &PKCS_ED25519);
    let pinned = [Certificate::from_der(&own.der).unwrap()];
    let id = Identity::parse("gw.example.net").unwrap();
    let verify = |der: &CertificateDer<'static>, id: &Identity, now| {
        verify_pinned(std::slice::from_ref(der), &pinned, id, now)
    };
    verify(&own.der, &id, now()).unwrap();
    assert!(matches!(verify(&other.der, &id, now()), Err(CertificateError::UnknownIssuer { .. })));
    let stranger = Identity::parse("x.example.net").unwrap();
    assert!(matches!(verify(&own.der, &stranger, now()), Err(CertificateError::Identity { .. })));
    let late = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + 400 * 86_400));
    assert!(matches!(verify(&own.der, &id, late), Err(CertificateError::Expired { .. })));
    assert!(matches!(verify_pinned(&[], &pinned, &id, now()), Err(CertificateError::Missing)));
}

#[test]
fn flipped_bits_never_pass() {
    let root = Authority::root("Root");
    let leaf = root.issue("gw", &["gw.example.net"]);
    let store = store(&[&root]);
    for bit in 0..leaf.der.len() * 8 {
        let mut bent = leaf.der.to_vec();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&store, &[&CertificateDer::from(bent)], "gw.example.net").is_err(), "bit {bit}");
    }
}

#[test]
fn request_hashes_and_pem_files() {
    let root = Authority::root("Root");
    let pem = pem("CERTIFICATE", &root.der);
    let mut store = TrustStore::default();
    store.add_authorities_pem(pem.as_bytes()).unwrap();
    let spki = store.authorities()[0].public_key().spki();
    let expected = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, spki);
    assert_eq!(store.request_hashes(), [expected.as_ref()]);
    assert_eq!(store.add_authorities_pem(b"").unwrap_err(), CertificateError::Missing);
    assert!(store.add_crls(b"nonsense").is_err());
    assert!(Certificate::from_der(b"nonsense").is_err());
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", data_encoding::BASE64.encode(der))
}
