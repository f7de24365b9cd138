//! Tunnels whose ends prove themselves by certificates.

use std::cell::Cell;
use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};

use crate::gateway::Files;
use crate::netns::privileged;
use crate::serial;
use crate::site::{CONNECTION, Connection, Family, Sites, identity};

/// A CA that signs what the gateways need.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = params("Test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Puts the CA's certificate, and a certificate with its key for each side, among a gateway's files. They are
    /// valid until the first day of this year.
    pub fn provide(&self, files: &Files, until: i32) {
        fs::write(files.path("ca.pem"), &self.pem).unwrap();
        for side in [1, 2] {
            let mut params = params(identity(side));
            params.not_after = date_time_ymd(until, 1, 1);
            params.subject_alt_names = vec![SanType::DnsName(identity(side).try_into().unwrap())];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
            fs::write(files.path(&format!("{side}.pem")), certificate).unwrap();
            files.key_file(&format!("{side}.key"), &key.serialize_pem());
        }
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2090, 1, 1);
    params
}

fn connection(side: u8, outer: Family, child: &'static str) -> Connection {
    let auth = format!("cert: {side}.pem, key: {side}.key, ca: ca.pem");
    Connection { outer, auth, child, ..Connection::default() }
}

#[test]
fn a_tunnel_with_certificates_comes_up_and_carries_pings() {
    privileged(&[], || {
        let _alone = serial();
        let authority = Authority::new();
        let (left, right) =
            (connection(1, Family::V6, "start: boot"), connection(2, Family::V6, "start: wait"));
        let sites = Sites::with(&left, &right, |files| authority.provide(files, 2090));
        sites.wait_until_up();
        sites.ping();
    });
}

#[test]
fn a_certificate_that_expired_is_named_with_its_date() {
    privileged(&[], || {
        let _alone = serial();
        let authority = Authority::new();
        let (left, right) =
            (connection(1, Family::V4, "start: wait"), connection(2, Family::V4, "start: wait"));
        let sites = Sites::with(&left, &right, |files| authority.provide(files, 2021));
        assert!(sites.left.gateway.operate("initiate", CONNECTION).is_err());
        let log = sites.right.gateway.log();
        for part in ["left.example.net", "expired", "2021-01-01"] {
            assert!(log.contains(part), "{part} not in {log}");
        }
    });
}

#[test]
fn the_initiator_names_a_certificate_of_the_responder_that_expired() {
    privileged(&[], || {
        let _alone = serial();
        let authority = Authority::new();
        let (left, right) =
            (connection(1, Family::V4, "start: wait"), connection(2, Family::V4, "start: wait"));
        // The right gateway starts first.
        let until = Cell::new(2021);
        let sites = Sites::with(&left, &right, |files| authority.provide(files, until.replace(2090)));
        let refused = sites.left.gateway.operate("initiate", CONNECTION).unwrap_err();
        let log = sites.left.gateway.log();
        for part in ["right.example.net", "expired", "2021-01-01"] {
            assert!(refused.contains(part) && log.contains(part), "{part} not in {refused}, or {log}");
        }
    });
}

#[test]
fn a_certificate_of_another_authority_is_named() {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::with(
            &connection(1, Family::V4, "start: wait"),
            &connection(2, Family::V4, "start: wait"),
            |files| Authority::new().provide(files, 2090),
        );
        assert!(sites.left.gateway.operate("initiate", CONNECTION).is_err());
        let log = sites.right.gateway.log();
        assert!(log.contains("left.example.net") && log.contains("peer not accepted"), "{log}");
    });
}
