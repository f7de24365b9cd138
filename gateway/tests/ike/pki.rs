//! Certificates for Spillway and strongSwan.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SignatureAlgorithm,
};

use crate::gateway::Files;
use crate::site::identity;

/// What each side proves itself with, and the authority that both trust.
pub struct Credentials {
    authority: String,
    /// Certificates, the own one first, and the key: left, right.
    ends: [(Vec<String>, String); 2],
}

impl Credentials {
    /// Certificates of an authority, with keys of this kind.
    pub fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        Self::with_chain(algorithm, 0)
    }

    /// The same, with an authority in between whose certificate has an extension of so many bytes that nobody knows.
    /// Without bytes there is no such authority.
    pub fn with_chain(algorithm: &'static SignatureAlgorithm, bytes: usize) -> Self {
        let (root, root_key) = (authority("Root"), KeyPair::generate_for(algorithm).unwrap());
        let authority_pem = root.self_signed(&root_key).unwrap().pem();
        let mut issuer = Issuer::new(root, root_key);
        let mut chain = Vec::new();
        if bytes > 0 {
            let (mut middle, key) = (authority("Middle"), KeyPair::generate_for(algorithm).unwrap());
            let padding = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], octets(bytes));
            middle.custom_extensions.push(padding);
            chain.push(middle.signed_by(&key, &issuer).unwrap().pem());
            issuer = Issuer::new(middle, key);
        }
        let ends = [1, 2].map(|side| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let mut params = CertificateParams::new(vec![identity(side).to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, identity(side));
            let own = params.signed_by(&key, &issuer).unwrap().pem();
            ([vec![own], chain.clone()].concat(), key.serialize_pem())
        });
        Self { authority: authority_pem, ends }
    }

    /// Puts those of the left side among a gateway's files.
    pub fn provide(&self, files: &Files) {
        let [(chain, key), _] = &self.ends;
        fs::write(files.path("ca.pem"), &self.authority).unwrap();
        fs::write(files.path("own.pem"), chain.concat()).unwrap();
        files.key_file("own.key", key);
    }

    /// Those of the right side as files of swanctl.
    pub fn of_peer(&self) -> Vec<(&'static str, String)> {
        let [_, (chain, key)] = &self.ends;
        let mut files = vec![
            ("x509ca/ca.pem", self.authority.clone()),
            ("x509/own.pem", chain[0].clone()),
            ("private/own.pem", key.clone()),
        ];
        files.extend(chain.get(1).map(|middle| ("x509ca/middle.pem", middle.clone())));
        files
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A DER OCTET STRING of this length, which takes two bytes to say.
fn octets(length: usize) -> Vec<u8> {
    let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
    [vec![4, 0x82, high, low], vec![0x55; length]].concat()
}
