//! TLS configurations for EAP, whose certificates are checked by the same code as those of IKE.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::super::EapError;
use crate::auth::x509::{TrustStore, Usage};
use crate::auth::{Certificate, CertificateError, IdPattern};

/// The TLS side of an EAP server. Made once, shared by all runs.
pub struct TlsServerConfig {
    pub(super) tls: Arc<rustls::ServerConfig>,
    pub(super) clock: Arc<Clock>,
}

/// The TLS side of an EAP peer. Made once, shared by all runs.
pub struct TlsPeerConfig {
    pub(super) tls: Arc<ClientConfig>,
    pub(super) clock: Arc<Clock>,
}

impl TlsServerConfig {
    /// [`TlsServerConfig::new`], with the private key as a PEM file.
    pub fn from_pem(trust: Arc<TrustStore>, chain: &[Certificate], key: &[u8]) -> Result<Self, EapError> {
        Self::new(trust, ders(chain), private_key(key)?)
    }

    /// `chain` and `key` prove the server; `trust` decides about peers, who always have to show a certificate.
    pub fn new(
        trust: Arc<TrustStore>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, EapError> {
        let (clock, provider) = (Arc::new(Clock::default()), Arc::new(aws_lc_rs::default_provider()));
        let verifier = Arc::new(Verifier { trust, provider: provider.clone(), expected: IdPattern::Any });
        let mut tls = rustls::ServerConfig::builder_with_details(provider, clock.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| EapError::Tls(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| EapError::Tls(error.to_string()))?;
        // Every login shows its certificate: no resumption, so a revocation counts at once.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self { tls: Arc::new(tls), clock })
    }
}

impl TlsPeerConfig {
    /// [`TlsPeerConfig::new`], with the private key as a PEM file.
    pub fn from_pem(
        trust: Arc<TrustStore>,
        chain: &[Certificate],
        key: &[u8],
        expected: IdPattern,
    ) -> Result<Self, EapError> {
        Self::new(trust, ders(chain), private_key(key)?, expected)
    }

    /// `chain` and `key` prove the peer; the server's certificate has to come from `trust` and match `expected`.
    pub fn new(
        trust: Arc<TrustStore>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        expected: IdPattern,
    ) -> Result<Self, EapError> {
        Self::with_versions(trust, chain, key, expected, &[&TLS13, &TLS12])
    }

    pub(in super::super) fn with_versions(
        trust: Arc<TrustStore>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        expected: IdPattern,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self, EapError> {
        let (clock, provider) = (Arc::new(Clock::default()), Arc::new(aws_lc_rs::default_provider()));
        let verifier = Arc::new(Verifier { trust, provider: provider.clone(), expected });
        let mut tls = ClientConfig::builder_with_details(provider, clock.clone())
            .with_protocol_versions(versions)
            .map_err(|error| EapError::Tls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)
            .map_err(|error| EapError::Tls(error.to_string()))?;
        tls.enable_sni = false;
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self { tls: Arc::new(tls), clock })
    }
}

fn ders(chain: &[Certificate]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|certificate| certificate.der().clone()).collect()
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, EapError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| EapError::Tls("no private key in PEM".into()))
}

impl fmt::Debug for TlsServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsServerConfig")
    }
}

impl fmt::Debug for TlsPeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsPeerConfig")
    }
}

/// The wall clock as it was handed in with the packet being handled.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn set(&self, now: UnixTime) {
        self.0.store(now.as_secs(), Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

/// Checks the other side's certificate, at both ends.
struct Verifier {
    trust: Arc<TrustStore>,
    provider: Arc<CryptoProvider>,
    expected: IdPattern,
}

impl Verifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<Certificate, rustls::Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        let verified = self.trust.verify_chain(&chain, usage, now).and_then(|certificate| {
            certificate.check_pattern(&self.expected)?;
            Ok(certificate)
        });
        verified.map_err(|error| rustls::CertificateError::Other(OtherError(Arc::new(error))).into())
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.expected)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Usage::EapServer, now).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: a peer has one certificate for this, and the names of our CAs are not for everybody.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Usage::EapPeer, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// A TLS error, and the certificate error inside it.
pub(super) fn explain(error: rustls::Error) -> EapError {
    if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(inner))) = &error
        && let Some(certificate) = inner.downcast_ref::<CertificateError>()
    {
        return EapError::Certificate(certificate.clone());
    }
    EapError::Tls(error.to_string())
}
