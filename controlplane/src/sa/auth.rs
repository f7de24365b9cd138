//! IKE_AUTH: who both ends are, and the first Child SA (RFC 7296 s1.2, s2.15; childless: RFC 6023).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::child::{self, Denied, Request, Settled};
use super::core::{Opened, Protection};
use super::init::{Answered, PeerSupport, Transcript, find_notify, notifies};
use super::ppk::{self, Unmixed};
use super::{Command, Context, Core, Established, State, Task, configuration};
use crate::auth::proof::X509_SIGNATURE;
use crate::auth::{
    AuthError, AuthPayload, CertPayload, Identity, LocalProof, ProofContext, RemoteProof, signed_octets,
};
use crate::config::{ChildConfig, Connection, OnDown, Ppk};
use crate::crypto::{CryptoError, Hash};
use crate::peer;
use crate::rejection::Rejection;
use crate::update::{DownReason, Event};
use crate::wire::{
    Auth, AuthMethod, Cert, CertEncoding, CertReq, ExchangeType, Id, IdType, Notify, NotifyType, Payload,
    WireError, parse_chain,
};

/// A connection that is to be kept up is tried again so long after an attempt that nobody answered, and up to
/// twice as long.
const RETRY_UNREACHABLE: Duration = Duration::from_secs(5);

/// The same after the peer, or we, refused: somebody must change something first.
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// Our IKE_AUTH is out.
pub(crate) struct Sent {
    pub connection: Arc<Connection>,
    transcript: Transcript,
    message_id: u32,
    /// A PPK went into the keys; this is for a responder that does not have it.
    unmixed: Option<Unmixed>,
    /// The Child SA that is negotiated in this exchange.
    child: Option<Request>,
    /// Children to set up afterwards.
    pub later: Vec<Arc<ChildConfig>>,
}

impl Sent {
    /// Sends IKE_AUTH.
    pub fn start(
        core: &mut Core,
        ctx: &mut Context<'_>,
        connection: Arc<Connection>,
        mut children: Vec<Arc<ChildConfig>>,
        transcript: Transcript,
        support: PeerSupport,
    ) -> State {
        let id = id_payload(&connection.local_id);
        let message_id = core.requests.next_id();
        let mut notifies = Vec::new();
        let proved = prove_with_ppk(core, &connection, &transcript, &id, message_id, &support, &mut notifies);
        let (auth, unmixed) = match proved {
            Ok(proved) => proved,
            Err(why) => {
                initiation_failed(core, ctx, &connection, &children, DownReason::Failed(why));
                return State::gone(ctx);
            }
        };
        let mut payloads = vec![Payload::IdI(id)];
        payloads.extend(certificates(&connection.local_auth));
        payloads.extend(certificate_requests(std::iter::once(&connection.remote_auth)));
        if let crate::auth::IdPattern::Exact(expected) = &connection.remote_id {
            payloads.push(Payload::IdR(id_payload(expected)));
        }
        payloads.push(Payload::Auth(auth));
        payloads.extend(notifies.into_iter().map(Payload::Notify));
        if ctx.first_contact && connection.unique {
            payloads.push(Payload::Notify(Notify::bare(NotifyType::INITIAL_CONTACT)));
        }
        let childless = connection.childless && support.childless || children.is_empty();
        if childless && !support.childless {
            let reason = "connection has no children, and the peer does not support that (RFC 6023)";
            initiation_failed(core, ctx, &connection, &children, DownReason::Failed(reason.into()));
            return State::gone(ctx);
        }
        core.inner.asking = true;
        payloads.extend(configuration::request(&connection));
        let child = (!childless).then(|| Request::first(ctx, core, &connection, children.remove(0)));
        if let Some(child) = &child {
            payloads.extend(child.payloads(None));
        }
        core.request(ctx, ExchangeType::IKE_AUTH, &payloads);
        drop(payloads);
        State::AuthSent(Box::new(Self {
            connection,
            transcript,
            message_id,
            unmixed,
            child,
            later: children,
        }))
    }

    /// The response came, and its ICV is good. That alone proves nothing about who sent it.
    pub fn response(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, opened: &Opened) -> State {
        let payloads = match parse_chain(opened.first, &opened.plain, 0) {
            Ok(payloads) => payloads,
            Err(error) => return self.fail(core, ctx, Rejection::Malformed, error.to_string()),
        };
        let claims = match claims(&payloads, false) {
            Some(claims) => claims,
            None => {
                let error = notifies(&payloads).find(|notify| notify.kind.is_error());
                let Some(error) = error else {
                    return self.fail(
                        core,
                        ctx,
                        Rejection::Authentication,
                        "response without IDr and AUTH".into(),
                    );
                };
                // The responder has closed the IKE SA with this (RFC 7296 s2.21.2).
                let reason = DownReason::Rejected(error.kind);
                return self.end(core, ctx, reason);
            }
        };
        let id = claims.id;
        let identity = match Identity::from_payload(id.kind.0, &id.data) {
            Ok(identity) if self.connection.remote_id.matches(&identity).is_some() => identity,
            _ => {
                let why = format!("peer is {id}, expected {}", self.connection.remote_id);
                return self.fail(core, ctx, Rejection::Identity, why);
            }
        };
        if let Some(unmixed) =
            self.unmixed.take_if(|_| find_notify(&payloads, NotifyType::PPK_IDENTITY).is_none())
        {
            if self.connection.ppk.as_ref().is_some_and(|ppk| ppk.required) {
                let why = "peer does not have the PPK, which the connection needs";
                return self.fail(core, ctx, Rejection::Authentication, why.into());
            }
            ppk::restore(core, unmixed);
        }
        let checked =
            check(core, ctx, &self.connection, &self.transcript, &claims, &identity, self.message_id);
        if let Err(why) = checked {
            return self.fail(core, ctx, Rejection::Authentication, why.to_string());
        }
        let mut established = Established::new(ctx, self.connection.clone(), identity);
        established.announce(core, ctx);
        core.inner.asking = false;
        match configuration::accept(&self.connection, &payloads) {
            Ok(None) => {}
            Ok(Some(assigned)) => {
                core.inner.local = assigned.addresses.clone();
                let connection = self.connection.name.clone();
                ctx.out.events.push_back(Event::Configured { connection, assigned });
            }
            Err(why) => {
                warn!(connection = %self.connection.name, %why, "no inner address");
                established.leave(ctx, DownReason::Failed(why));
            }
        }
        if let Some(child) = self.child.take() {
            let nonces = Some((self.transcript.ni.as_slice(), self.transcript.nr.as_slice()));
            match child.settle(ctx, core, &self.connection, &payloads, nonces) {
                Settled::Made(pair, _) => {
                    let spi = established.children.accept(ctx, *pair);
                    established.children.send_on(ctx, spi);
                }
                settled => established.child_failed(ctx, child, &settled),
            }
        }
        for child in self.later {
            established.add_task(ctx.now, Task::CreateChild { config: child, group: None });
        }
        established.advance(core, ctx);
        State::Established(Box::new(established))
    }

    /// Repeats the request, or gives up.
    pub fn timeout(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        if core.retransmit(ctx) {
            return State::AuthSent(self);
        }
        self.end(core, ctx, DownReason::Unreachable(" in IKE_AUTH".into()))
    }

    /// We do not accept the peer: it is told in an exchange of its own (RFC 7296 s2.21.2), without waiting for
    /// an answer from somebody who could not prove anything.
    fn fail(
        self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        rejection: Rejection,
        why: String,
    ) -> State {
        warn!(connection = %self.connection.name, remote = %core.path.remote, %why, "peer not accepted");
        ctx.reject(rejection);
        let notify = Payload::Notify(Notify::bare(NotifyType::AUTHENTICATION_FAILED));
        core.request(ctx, ExchangeType::INFORMATIONAL, &[notify]);
        self.end(core, ctx, DownReason::Failed(why))
    }

    fn end(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, reason: DownReason) -> State {
        let Self { connection, child, later: mut children, .. } = *self;
        if let Some(child) = child {
            children.insert(0, child.config.clone());
            child.discard(ctx);
        }
        initiation_failed(core, ctx, &connection, &children, reason);
        State::closed(ctx)
    }
}

/// Serves the request as the responder.
pub(super) fn respond(answered: Answered, core: &mut Core, ctx: &mut Context<'_>, opened: &Opened) -> State {
    let payloads = match parse_chain(opened.first, &opened.plain, 0) {
        Ok(payloads) => payloads,
        Err(error) => return refuse_malformed(core, ctx, &error),
    };
    let Some(mut claims) = claims(&payloads, true) else {
        return refuse(core, ctx, Rejection::Authentication, "request without IDi and AUTH");
    };
    let wanted = payloads.iter().find_map(|payload| match payload {
        Payload::IdR(id) => Some(id),
        _ => None,
    });
    let (connection, identity) = match peer::identify(&answered.candidates, claims.id, wanted) {
        Ok(found) => found,
        Err(why) => return refuse(core, ctx, Rejection::Identity, &why),
    };
    let message_id = core.responses.expected();
    let instead;
    let mut with_ppk = false;
    match choose_ppk(&connection, &payloads) {
        PpkChoice::Mix(ppk) => {
            with_ppk = true;
            if let Err(error) = ppk::mix(core, ppk) {
                return refuse(core, ctx, Rejection::Authentication, &error.to_string());
            }
        }
        PpkChoice::Without(None) => {}
        PpkChoice::Without(Some(data)) => {
            // RFC 8784 s3: NO_PPK_AUTH stands in for AUTH.
            instead = Auth { method: claims.auth.method, data: Cow::Borrowed(data) };
            claims.auth = &instead;
        }
        PpkChoice::Refuse(why) => return refuse(core, ctx, Rejection::Authentication, why),
    }
    if let Err(why) = check(core, ctx, &connection, &answered.transcript, &claims, &identity, message_id) {
        let why = format!("{}: {why}", connection.name);
        return refuse(core, ctx, Rejection::Authentication, &why);
    }
    let our_id = id_payload(&connection.local_id);
    let hashes = answered.support.hashes.as_deref();
    let our_auth = match prove(core, &connection, &answered.transcript, &our_id, message_id, hashes) {
        Ok(auth) => auth,
        Err(error) => return refuse(core, ctx, Rejection::Authentication, &error.to_string()),
    };
    if find_notify(&payloads, NotifyType::INITIAL_CONTACT).is_some() && connection.unique {
        let (connection, peer) = (connection.clone(), identity.clone());
        ctx.out.commands.push(Command::Replace {
            connection,
            peer,
            except: core.spi,
            before: answered.since,
        });
    }
    if core.fragment_size.is_some() {
        core.fragment_size =
            (connection.fragmentation && answered.support.fragmentation).then_some(connection.fragment_size);
    }
    let mut established = Established::new(ctx, connection.clone(), identity);
    established.announce(core, ctx);
    let mut answer = vec![Payload::IdR(our_id)];
    answer.extend(certificates(&connection.local_auth));
    answer.push(Payload::Auth(our_auth));
    if with_ppk {
        answer.push(Payload::Notify(Notify::bare(NotifyType::PPK_IDENTITY)));
    }
    let mut denied = false;
    let configured = configuration::reply(ctx, &connection, &established.peer, &payloads);
    if let Ok(Some((reply, leases))) = configured {
        core.inner.remote = leases.iter().map(|lease| lease.address).collect();
        established.leases = leases;
        answer.push(reply);
    } else if let Err(Denied { rejection, notify }) = configured {
        // RFC 7296 s3.10.1: the IKE SA stands without the Child SA.
        ctx.reject(rejection);
        answer.push(Payload::Notify(notify));
        denied = true;
    }
    if !denied && payloads.iter().any(|payload| matches!(payload, Payload::Sa(_))) {
        let nonces = Some((answered.transcript.ni.as_slice(), answered.transcript.nr.as_slice()));
        match child::respond(ctx, core, &connection, &payloads, None, nonces) {
            Ok(made) => {
                let spi = established.children.accept(ctx, made.pair);
                established.children.send_on(ctx, spi);
                answer.extend(made.payloads);
            }
            // RFC 7296 s2.21.2: the IKE SA stands without the Child SA.
            Err(Denied { rejection, notify }) => {
                ctx.reject(rejection);
                answer.push(Payload::Notify(notify));
            }
        }
    }
    core.respond(ctx, ExchangeType::IKE_AUTH, &answer);
    established.advance(core, ctx);
    State::Established(Box::new(established))
}

/// What the sender says about itself.
struct Claims<'p, 'a> {
    id: &'p Id<'a>,
    auth: &'p Auth<'a>,
    certificates: Vec<CertPayload<'p>>,
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

pub(super) fn id_payload(identity: &Identity) -> Id<'static> {
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

/// Our AUTH payload as the initiator, with a PPK when both ends can (RFC 8784 s3). Adds the notifies that go with it.
fn prove_with_ppk(
    core: &mut Core,
    connection: &Connection,
    transcript: &Transcript,
    id: &Id<'_>,
    message_id: u32,
    support: &PeerSupport,
    notifies: &mut Vec<Notify<'static>>,
) -> Result<(Auth<'static>, Option<Unmixed>), String> {
    let hashes = support.hashes.as_deref();
    let prove = |core: &Core| {
        prove(core, connection, transcript, id, message_id, hashes).map_err(|error| error.to_string())
    };
    let ppk = match &connection.ppk {
        Some(ppk) if ppk.required && !support.ppk => {
            return Err("peer does not support PPK (RFC 8784)".into());
        }
        Some(ppk) if support.ppk => ppk,
        _ => return Ok((prove(core)?, None)),
    };
    notifies.push(ppk::identity(ppk));
    if !ppk.required {
        notifies.push(Notify::new(NotifyType::NO_PPK_AUTH, prove(core)?.data));
    }
    let unmixed = ppk::mix(core, ppk).map_err(|error| error.to_string())?;
    Ok((prove(core)?, Some(unmixed)))
}

/// What a responder does about the PPK.
enum PpkChoice<'a> {
    Mix(&'a Ppk),
    /// Goes on without, with the AUTH data that was made without.
    Without(Option<&'a [u8]>),
    Refuse(&'static str),
}

/// RFC 8784 s3, the table of the responder's choices.
fn choose_ppk<'a>(connection: &'a Connection, payloads: &'a [Payload<'_>]) -> PpkChoice<'a> {
    let identity = find_notify(payloads, NotifyType::PPK_IDENTITY);
    if let Some(ppk) = identity.and_then(|identity| ppk::named(connection, identity)) {
        return PpkChoice::Mix(ppk);
    }
    if connection.ppk.as_ref().is_some_and(|ppk| ppk.required) {
        return PpkChoice::Refuse("peer names no PPK that we have, which the connection needs");
    }
    match (identity, find_notify(payloads, NotifyType::NO_PPK_AUTH)) {
        (None, _) => PpkChoice::Without(None),
        (Some(_), Some(without)) => PpkChoice::Without(Some(&without.data)),
        (Some(_), None) => PpkChoice::Refuse("peer insists on a PPK that we do not have"),
    }
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

/// Answers AUTHENTICATION_FAILED and closes. The peer learns no more than that, so identities cannot be probed;
/// the log says what was expected (RFC 7296 s2.21.2).
fn refuse(core: &mut Core, ctx: &mut Context<'_>, rejection: Rejection, why: &str) -> State {
    warn!(ike = core.spi, remote = %core.path.remote, why, "peer not accepted");
    ctx.reject(rejection);
    let notify = Payload::Notify(Notify::bare(NotifyType::AUTHENTICATION_FAILED));
    core.respond(ctx, ExchangeType::IKE_AUTH, &[notify]);
    State::closed(ctx)
}

fn refuse_malformed(core: &mut Core, ctx: &mut Context<'_>, error: &WireError) -> State {
    warn!(ike = core.spi, remote = %core.path.remote, %error, "malformed IKE_AUTH");
    let notify = Payload::Notify(super::informational::error_notify(error));
    ctx.reject(Rejection::Malformed);
    core.respond(ctx, ExchangeType::IKE_AUTH, &[notify]);
    State::closed(ctx)
}

/// Tells that our attempt failed, and makes another one later when the connection is to be kept up.
pub(super) fn initiation_failed(
    core: &Core,
    ctx: &mut Context<'_>,
    connection: &Arc<Connection>,
    children: &[Arc<ChildConfig>],
    reason: DownReason,
) {
    info!(connection = %connection.name, ike = core.spi, remote = %core.path.remote, %reason, "initiation failed");
    if connection.on_down == OnDown::Restart {
        let wait =
            if matches!(reason, DownReason::Unreachable(_)) { RETRY_UNREACHABLE } else { RETRY_REFUSED };
        let after = wait + ctx.jitter(wait);
        for child in children {
            let (connection, child) = (connection.clone(), Some(child.clone()));
            ctx.out.commands.push(Command::Restart { connection, child, after });
        }
    }
    let name = Some(connection.name.clone());
    ctx.out.events.push_back(Event::IkeDown { connection: name, ike: core.spi, reason });
}
