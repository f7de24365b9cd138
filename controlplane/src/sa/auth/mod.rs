//! IKE_AUTH: who both ends are, and the first Child SA (RFC 7296 s1.2, s2.15; childless: RFC 6023).

mod initiator;
mod responder;

use std::borrow::Cow;

use super::core::Protection;
use super::init::Transcript;
use super::{Context, Core};
use crate::auth::proof::X509_SIGNATURE;
use crate::auth::{
    AuthError, AuthPayload, CertPayload, Identity, LocalProof, ProofContext, RemoteProof, signed_octets,
};
use crate::config::Connection;
use crate::crypto::{CryptoError, Hash};
use crate::wire::{Auth, AuthMethod, Cert, CertEncoding, CertReq, Id, IdType, Payload};

pub(crate) use initiator::Sent;
pub(super) use initiator::initiation_failed;
pub(super) use responder::respond;

/// What the sender says about itself.
struct Claims<'p, 'a> {
    pub id: &'p Id<'a>,
    pub auth: &'p Auth<'a>,
    pub certificates: Vec<CertPayload<'p>>,
}

/// ID and AUTH of the sender, each there once, and its certificates.
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
    Some(Claims { id: id?, auth: auth?, certificates })
}

fn id_payload(identity: &Identity) -> Id<'static> {
    let (kind, data) = identity.to_payload();
    Id { kind: IdType(kind), data: Cow::Owned(data) }
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

/// Our AUTH payload. `message_id` is that of IKE_AUTH.
fn prove(
    core: &Core,
    connection: &Connection,
    transcript: &Transcript,
    id: &Id<'_>,
    message_id: u32,
    hashes: Option<&[Hash]>,
) -> Result<Auth<'static>, AuthError> {
    let protection = core.protection.as_ref().ok_or(CryptoError::Library)?;
    let octets = octets(protection, transcript, id, core.initiator, message_id)?;
    let sk_p = if core.initiator { &protection.pi } else { &protection.pr };
    let context = ProofContext { prf: protection.suite.prf, sk_p, octets: &octets };
    let AuthPayload { method, data } = connection.local_auth.prove(&context, hashes)?;
    Ok(Auth { method: AuthMethod(method), data: Cow::Owned(data) })
}
/// Checks the peer's AUTH payload, and the certificates that belong to it.
fn check(
    core: &Core,
    ctx: &Context<'_>,
    connection: &Connection,
    transcript: &Transcript,
    claims: &Claims<'_, '_>,
    identity: &Identity,
    message_id: u32,
) -> Result<(), AuthError> {
    let protection = core.protection.as_ref().ok_or(CryptoError::Library)?;
    let octets = octets(protection, transcript, claims.id, !core.initiator, message_id)?;
    let sk_p = if core.initiator { &protection.pr } else { &protection.pi };
    let context = ProofContext { prf: protection.suite.prf, sk_p, octets: &octets };
    let auth = AuthPayload { method: claims.auth.method.0, data: claims.auth.data.to_vec() };
    let (certificates, allow_sha1) = (&claims.certificates, connection.allow_sha1);
    connection.remote_auth.verify(&context, identity, &auth, certificates, ctx.unix, allow_sha1).map(|_| ())
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
