//! What keys may be used for: key usage and extended key usage.

use webpki::{Error, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext};

use super::{Certificate, CertificateError};

/// What a certificate is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// An AUTH payload of IKE. If the extended key usage extension is there, it has to allow IPsec (ipsecIKE,
    /// or the older ipsecTunnel, ipsecUser and iKEIntermediate), TLS of either side, or anything (RFC 4945
    /// s5.1.3.12; gateways commonly carry TLS certificates).
    Ike,
    /// The server of EAP-TLS (RFC 5216 s5.3).
    EapServer,
    /// The peer of EAP-TLS.
    EapPeer,
}

impl Usage {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ike => "IKE",
            Self::EapServer => "the server of EAP-TLS",
            Self::EapPeer => "the peer of EAP-TLS",
        }
    }
}

/// The check of the extended key usage extension.
pub(super) struct Purpose(pub(super) Usage);

impl ExtendedKeyUsageValidator for Purpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        const KP: [usize; 8] = [1, 3, 6, 1, 5, 5, 7, 3];
        const ANY: [usize; 5] = [2, 5, 29, 37, 0];
        const IKE_INTERMEDIATE: [usize; 9] = [1, 3, 6, 1, 5, 5, 8, 2, 2];
        // serverAuth 1, clientAuth 2, ipsecTunnel 6, ipsecUser 7, ipsecIKE 17.
        let accepted: &[usize] = match self.0 {
            Usage::Ike => &[1, 2, 6, 7, 17],
            Usage::EapServer => &[1],
            Usage::EapPeer => &[2],
        };
        let mut present = Vec::new();
        for purpose in purposes {
            let oid = purpose?.to_decoded_oid();
            let by_number = match oid.split_last() {
                Some((number, arc)) => *arc == KP && accepted.contains(number),
                None => false,
            };
            if by_number || oid == ANY || (self.0 == Usage::Ike && oid == IKE_INTERMEDIATE) {
                return Ok(());
            }
            present.push(oid);
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = KeyUsage::required_if_present(match self.0 {
            Usage::Ike => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x11],
            Usage::EapServer => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01],
            Usage::EapPeer => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02],
        });
        Err(Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}

/// RFC 4945 s5.1.3.2: with a key usage extension, digitalSignature or nonRepudiation has to be there.
pub(super) fn check_end_entity_usage(certificate: &Certificate) -> Result<(), CertificateError> {
    match certificate.key_usage() {
        Some(usage) if !usage.digital_signature() && !usage.non_repudiation() => {
            Err(CertificateError::Usage {
                subject: certificate.subject().to_string(),
                wanted: "signatures",
                found: "its key usage has neither digitalSignature nor nonRepudiation".to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// RFC 5280 s6.1.4 (n): with a key usage extension, keyCertSign has to be there.
pub(super) fn check_issuer_usage(certificate: &Certificate) -> Result<(), CertificateError> {
    match certificate.key_usage() {
        Some(usage) if !usage.key_cert_sign() => Err(CertificateError::Usage {
            subject: certificate.subject().to_string(),
            wanted: "issuing certificates",
            found: "its key usage has no keyCertSign".to_owned(),
        }),
        _ => Ok(()),
    }
}
