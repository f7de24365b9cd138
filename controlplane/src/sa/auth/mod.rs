//! IKE_AUTH: who both ends are, and the first Child SA (RFC 7296 s1.2, s2.15; childless: RFC 6023).
//!
//! With EAP it takes several round trips (`eap/`), in which one thing is the same as without: what stands at the
//! end is made by `initiator::Pending::establish` and `responder::Accepted::establish` alone.

mod eap;
mod initiator;
mod responder;

use std::borrow::Cow;

use super::Core;
use super::core::Protection;
use super::init::Transcript;
use crate::auth::proof::{X509_SIGNATURE, prove_msk, verify_msk};
use crate::auth::x509::UnixTime;
use crate::auth::{
    AuthError, AuthPayload, CertPayload, Identity, LocalProof, ProofContext, RemoteProof, signed_octets,
};
use crate::config::Connection;
use crate::crypto::{CryptoError, Hash, Secret};
use crate::wire::{Auth, AuthMethod, Cert, CertEncoding, CertReq, Id, IdType, Payload};

pub(crate) use eap::{Peering, Serving};
pub(crate) use initiator::Sent;
pub(super) use initiator::initiation_failed;
pub(super) use responder::respond;

/// What the sender says about itself.
struct Claims<'p, 'a> {
    pub id: &'p Id<'a>,
    /// Missing when EAP is to take its place.
    pub auth: Option<&'p Auth<'a>>,
    pub certificates: Vec<CertPayload<'p>>,
}

/// ID and AUTH of the sender, neither there twice, and its certificates.
fn claims<'p, 'a>(payloads: &'p [Payload<'a>], initiator: bool) -> Option<Claims<'p, 'a>> {
    let (mut id, mut auth, mut certificates) = (None, None, Vec::new());
    for payload in payloads {
        let twice = match payload {
            Payload::IdI(value) if initiator => id.replace(value).is_some(),
            Payload::IdR(value) if !initiator => id.replace(value).is_some(),
            Payload::Auth(value) => auth.replace(value).is_some(),
            Payload::Cert(Cert { encoding, data }) => {
                certificates.push(CertPayload { encoding: encoding.0, data });
                false
            }
            _ => false,
        };
        if twice {
            return None;
        }
    }
    Some(Claims { id: id?, auth, certificates })
}

fn id_payload(identity: &Identity) -> Id<'static> {
    let (kind, data) = identity.to_payload();
    Id { kind: IdType(kind), reserved: [0; 3], data: Cow::Owned(data) }
}

/// What one side signs (RFC 7296 s2.15).
fn octets(
    protection: &Protection,
    transcript: &Transcript,
    id: &Id<'_>,
    initiator: bool,
    message_id: u32,
) -> Result<Vec<u8>, CryptoError> {
    let prf = protection.suite.prf;
    let Transcript { ni, nr, request, response, int_auth } = transcript;
    let int_auth = int_auth.finish(message_id);
    if initiator {
        signed_octets(prf, &protection.pi, request, nr, &id.body(), int_auth.as_deref())
    } else {
        signed_octets(prf, &protection.pr, response, ni, &id.body(), int_auth.as_deref())
    }
}

/// What AUTH payloads are made and checked with.
struct Proofs<'a> {
    core: &'a Core,
    connection: &'a Connection,
    transcript: &'a Transcript,
    /// Message ID of the first IKE_AUTH request.
    message_id: u32,
}

impl Proofs<'_> {
    /// Our AUTH payload, by our own proof.
    fn prove(&self, id: &Id<'_>, hashes: Option<&[Hash]>) -> Result<Auth<'static>, AuthError> {
        self.ours(id, |context| self.connection.local_auth.prove(context, hashes))
    }

    /// Our AUTH payload at the end of EAP.
    fn prove_msk(&self, id: &Id<'_>, msk: &Secret) -> Result<Auth<'static>, AuthError> {
        self.ours(id, |context| prove_msk(context, msk))
    }

    fn ours(
        &self,
        id: &Id<'_>,
        make: impl FnOnce(&ProofContext<'_>) -> Result<AuthPayload, AuthError>,
    ) -> Result<Auth<'static>, AuthError> {
        let protection = self.core.protection.as_ref().ok_or(CryptoError::Library)?;
        let ours = self.core.initiator;
        let octets = octets(protection, self.transcript, id, ours, self.message_id)?;
        let sk_p = if ours { &protection.pi } else { &protection.pr };
        let AuthPayload { method, data } =
            make(&ProofContext { prf: protection.suite.prf, sk_p, octets: &octets })?;
        Ok(Auth { method: AuthMethod(method), data: Cow::Owned(data) })
    }

    /// Checks the peer's AUTH payload, and the certificates that belong to it.
    fn check(
        &self,
        claims: &Claims<'_, '_>,
        auth: &Auth<'_>,
        identity: &Identity,
        now: UnixTime,
    ) -> Result<(), AuthError> {
        let Connection { remote_auth, allow_sha1, .. } = self.connection;
        self.theirs(claims.id, auth, |context, auth| {
            remote_auth.verify(context, identity, auth, &claims.certificates, now, *allow_sha1).map(|_| ())
        })
    }

    /// Checks the peer's AUTH payload at the end of EAP.
    fn check_msk(
        &self,
        id: &Id<'_>,
        auth: &Auth<'_>,
        msk: &Secret,
        identity: &Identity,
    ) -> Result<(), AuthError> {
        self.theirs(id, auth, |context, auth| verify_msk(context, msk, identity, auth))
    }

    fn theirs(
        &self,
        id: &Id<'_>,
        auth: &Auth<'_>,
        verify: impl FnOnce(&ProofContext<'_>, &AuthPayload) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        let protection = self.core.protection.as_ref().ok_or(CryptoError::Library)?;
        let theirs = !self.core.initiator;
        let octets = octets(protection, self.transcript, id, theirs, self.message_id)?;
        let sk_p = if theirs { &protection.pi } else { &protection.pr };
        let auth = AuthPayload { method: auth.method.0, data: auth.data.to_vec() };
        verify(&ProofContext { prf: protection.suite.prf, sk_p, octets: &octets }, &auth)
    }
}

/// Our CERT payloads.
fn certificates(proof: &LocalProof) -> impl Iterator<Item = Payload<'_>> {
    proof.certificates().into_iter().map(|certificate| {
        let encoding = CertEncoding(certificate.encoding);
        Payload::Cert(Cert { encoding, data: Cow::Borrowed(certificate.data) })
    })
}

/// CERTREQ payloads for the authorities that we trust (RFC 7296 s3.7).
pub(super) fn certificate_requests<'a>(
    proofs: impl Iterator<Item = &'a RemoteProof>,
) -> Option<Payload<'static>> {
    let mut hashes: Vec<[u8; 20]> = Vec::new();
    for proof in proofs {
        if let RemoteProof::Certificate(trust) = proof {
            hashes.extend(trust.request_hashes());
        }
    }
    hashes.sort_unstable();
    hashes.dedup();
    let authorities = Cow::Owned(hashes.concat());
    (!hashes.is_empty())
        .then_some(Payload::CertReq(CertReq { encoding: CertEncoding(X509_SIGNATURE), authorities }))
}
