//! IKE_AUTH as the initiator.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::super::child::{Request, Settled};
use super::super::core::Opened;
use super::super::init::{PeerSupport, Transcript, find_notify, notifies};
use super::super::ppk::{self, Unmixed};
use super::super::{Command, Context, Core, Established, State, Task, configuration};
use super::{certificate_requests, certificates, check, claims, id_payload, prove};
use crate::auth::Identity;
use crate::config::{ChildConfig, Connection, OnDown};
use crate::rejection::Rejection;
use crate::update::{DownReason, Event};
use crate::wire::{Auth, ExchangeType, Id, Notify, NotifyType, Payload, parse_chain};

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

    /// Nobody waits for the response any more.
    pub fn withdraw(&mut self, ctx: &mut Context<'_>) {
        if let Some(child) = self.child.take() {
            child.discard(ctx);
        }
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

/// Tells that our attempt failed, and makes another one later when the connection is to be kept up.
pub(in crate::sa) fn initiation_failed(
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
