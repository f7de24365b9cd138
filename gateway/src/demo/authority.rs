//! The demo's CA: it signs a certificate for each gateway, and nobody keeps its key.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use zeroize::Zeroizing;

use super::plan::Side;

/// The CA's certificate.
pub(super) const CA: &str = "ca.pem";

/// Writes the CA's certificate, and a certificate and its key (ECDSA P-256) for each gateway, all of them new.
pub(super) fn issue(directory: &Path) -> Result<()> {
    let mut authority = params("Spillway demo CA");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    fs::write(directory.join(CA), authority.self_signed(&key)?.pem())
        .context("cannot write a certificate")?;
    let issuer = Issuer::new(authority, key);
    for side in Side::ALL {
        let mut certificate = params(&identity(side));
        certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        certificate.subject_alt_names = vec![SanType::DnsName(identity(side).try_into()?)];
        let key = KeyPair::generate()?;
        let certificate = certificate.signed_by(&key, &issuer)?.pem();
        fs::write(directory.join(certificate_file(side)), certificate)
            .context("cannot write a certificate")?;
        let path = directory.join(key_file(side));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let pem = Zeroizing::new(key.serialize_pem());
        file.write_all(pem.as_bytes()).context("cannot write a key")?;
    }
    Ok(())
}

/// Who a gateway is.
pub(super) fn identity(side: Side) -> String {
    format!("{side}.demo.example")
}

/// Its certificate.
pub(super) fn certificate_file(side: Side) -> String {
    format!("{side}.pem")
}

/// The key of it.
pub(super) fn key_file(side: Side) -> String {
    format!("{side}.key")
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // A demo must not fail because of a clock that is a little wrong; what ends these certificates is that their
    // keys go with it.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2090, 1, 1);
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_certificates_and_keys_of_its_own() {
        let read = || {
            let directory = tempfile::tempdir().unwrap();
            issue(directory.path()).unwrap();
            let files = Side::ALL.map(|side| [certificate_file(side), key_file(side)]);
            let names = files.as_flattened().iter().map(String::as_str).chain([CA]);
            names.map(|name| fs::read_to_string(directory.path().join(name)).unwrap()).collect::<Vec<_>>()
        };
        let mut all = [read(), read()].concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 10);
    }
}
