//! IKE_AUTH: who both ends are, and the first Child SA (RFC 7296 s1.2, s2.15; childless: RFC 6023).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::child::{self, Denied, Request, Settled};
use super::core::{Opened, Protection};
use super::init::{Answered, PeerSupport, Transcript, find_notify, notifies};
use super::{Command, Context, Core, Established, State, Task};
use crate::auth::{Identity, psk, signed_octets};
use crate::config::{ChildConfig, Connection, LocalAuth, OnDown, RemoteAuth};
use crate::crypto::CryptoError;
use crate::peer;
use crate::rejection::Rejection;
use crate::update::{DownReason, Event};
use crate::wire::{
    Auth, AuthMethod, ExchangeType, Id, IdType, Notify, NotifyType, Payload, WireError, parse_chain,
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
        let auth = match prove(core, &connection, &transcript, &id, true) {
            Ok(auth) => auth,
            Err(error) => {
                let reason = DownReason::Failed(error.to_string());
                initiation_failed(core, ctx, &connection, &children, reason);
                return State::gone(ctx);
            }
        };
        let mut payloads = vec![Payload::IdI(id)];
        if let crate::auth::IdPattern::Exact(expected) = &connection.remote_id {
            payloads.push(Payload::IdR(id_payload(expected)));
        }
        payloads.push(Payload::Auth(auth));
        if ctx.first_contact && connection.unique {
            payloads.push(Payload::Notify(Notify::bare(NotifyType::INITIAL_CONTACT)));
        }
        let childless = connection.childless && support.childless || children.is_empty();
        if childless && !support.childless {
            let reason = "connection has no children, and the peer does not support that (RFC 6023)";
            initiation_failed(core, ctx, &connection, &children, DownReason::Failed(reason.into()));
            return State::gone(ctx);
        }
        let child = (!childless).then(|| Request::first(ctx, core, children.remove(0)));
        if let Some(child) = &child {
            payloads.extend(child.payloads(None));
        }
        core.request(ctx, ExchangeType::IKE_AUTH, &payloads);
        State::AuthSent(Box::new(Self { connection, transcript, child, later: children }))
    }

    /// The response came, and its ICV is good. That alone proves nothing about who sent it.
    pub fn response(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, opened: &Opened) -> State {
        let payloads = match parse_chain(opened.first, &opened.plain, 0) {
            Ok(payloads) => payloads,
            Err(error) => return self.fail(core, ctx, Rejection::Malformed, error.to_string()),
        };
        let (id, auth) = match claims(&payloads, false) {
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
        let identity = match Identity::from_payload(id.kind.0, &id.data) {
            Ok(identity) if self.connection.remote_id.matches(&identity).is_some() => identity,
            _ => {
                let why = format!("peer is {id}, expected {}", self.connection.remote_id);
                return self.fail(core, ctx, Rejection::Identity, why);
            }
        };
        if let Err(why) = check(core, &self.connection, &self.transcript, id, auth, false) {
            return self.fail(core, ctx, Rejection::Authentication, why);
        }
        let mut established = Established::new(ctx, self.connection.clone(), identity);
        established.announce(core, ctx);
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
    let Some((id, auth)) = claims(&payloads, true) else {
        return refuse(core, ctx, Rejection::Authentication, "request without IDi and AUTH");
    };
    let wanted = payloads.iter().find_map(|payload| match payload {
        Payload::IdR(id) => Some(id),
        _ => None,
    });
    let (connection, identity) = match peer::identify(&answered.candidates, id, wanted) {
        Ok(found) => found,
        Err(why) => return refuse(core, ctx, Rejection::Identity, &why),
    };
    if let Err(why) = check(core, &connection, &answered.transcript, id, auth, true) {
        let why = format!("{}: {why}", connection.name);
        return refuse(core, ctx, Rejection::Authentication, &why);
    }
    let our_id = id_payload(&connection.local_id);
    let our_auth = match prove(core, &connection, &answered.transcript, &our_id, false) {
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
    let mut answer = vec![Payload::IdR(our_id), Payload::Auth(our_auth)];
    if payloads.iter().any(|payload| matches!(payload, Payload::Sa(_))) {
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

/// ID and AUTH of the sender, each there once.
fn claims<'p, 'a>(payloads: &'p [Payload<'a>], initiator: bool) -> Option<(&'p Id<'a>, &'p Auth<'a>)> {
    let (mut id, mut auth) = (None, None);
    for payload in payloads {
        let twice = match payload {
            Payload::IdI(value) if initiator => id.replace(value).is_some(),
            Payload::IdR(value) if !initiator => id.replace(value).is_some(),
            Payload::Auth(value) => auth.replace(value).is_some(),
            _ => false,
        };
        if twice {
            return None;
        }
    }
    Some((id?, auth?))
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
) -> Result<Vec<u8>, CryptoError> {
    let prf = protection.suite.prf;
    let Transcript { ni, nr, request, response } = transcript;
    if initiator {
        signed_octets(prf, &protection.pi, request, nr, &id.body(), None)
    } else {
        signed_octets(prf, &protection.pr, response, ni, &id.body(), None)
    }
}

/// Our AUTH payload.
fn prove(
    core: &Core,
    connection: &Connection,
    transcript: &Transcript,
    id: &Id<'_>,
    initiator: bool,
) -> Result<Auth<'static>, CryptoError> {
    let protection = core.protection.as_ref().ok_or(CryptoError::Library)?;
    let octets = octets(protection, transcript, id, initiator)?;
    match &connection.local_auth {
        LocalAuth::Psk(key) => {
            let value = psk::auth_value(protection.suite.prf, key, &octets)?;
            Ok(Auth { method: AuthMethod::SHARED_KEY, data: Cow::Owned(value.expose().to_vec()) })
        }
    }
}

/// Checks the peer's AUTH payload. `initiator`: the peer is the initiator.
fn check(
    core: &Core,
    connection: &Connection,
    transcript: &Transcript,
    id: &Id<'_>,
    auth: &Auth<'_>,
    initiator: bool,
) -> Result<(), String> {
    let protection = core.protection.as_ref().ok_or("no keys yet")?;
    let octets = octets(protection, transcript, id, initiator).map_err(|error| error.to_string())?;
    match &connection.remote_auth {
        RemoteAuth::Psk(key) => {
            if auth.method != AuthMethod::SHARED_KEY {
                return Err(format!("{id} authenticates by {}, expected a preshared key", auth.method));
            }
            match psk::verify(protection.suite.prf, key, &octets, &auth.data) {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("{id} has another preshared key")),
                Err(error) => Err(error.to_string()),
            }
        }
    }
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
