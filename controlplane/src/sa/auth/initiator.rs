//! IKE_AUTH as the initiator.

use std::sync::Arc;

use tracing::{info, warn};

use super::super::child::{Request, Settled, Wanted};
use super::super::core::Opened;
use super::super::init::{PeerSupport, Transcript, find_notify, notifies};
use super::super::intermediate::Opening;
use super::super::mobike::{self, Mobike};
use super::super::ppk::{self, Unmixed};
use super::super::reauth;
use super::super::retry::{RETRY_REFUSED, RETRY_UNREACHABLE};
use super::super::{Command, Context, Core, Established, State, Task, configuration};
use super::{Peering, Proofs, certificate_requests, certificates, claims, id_payload};
use crate::auth::{AuthError, IdPattern, Identity, LocalProof, RemoteProof};
use crate::config::{Connection, OnDown};
use crate::rejection::Rejection;
use crate::update::{DownReason, Event};
use crate::wire::{Auth, ExchangeType, Id, Notify, NotifyType, Payload};

const NO_PPK: &str = "peer does not support PPK (RFC 8784), which the connection needs";

/// What an attempt carries through IKE_AUTH, however many round trips it takes.
pub(super) struct Pending {
    pub connection: Arc<Connection>,
    pub transcript: Transcript,
    pub support: PeerSupport,
    /// Message ID of the first IKE_AUTH request.
    pub message_id: u32,
    /// The Child SA that is negotiated in this exchange.
    child: Option<Request>,
    /// Children to set up afterwards.
    pub later: Vec<Wanted>,
}

/// Our IKE_AUTH with AUTH is out; EAP is not used.
pub(crate) struct Sent {
    pub(super) pending: Pending,
    /// A PPK went into the keys; this is for a responder that does not have it.
    unmixed: Option<Unmixed>,
}

impl Sent {
    /// Sends IKE_AUTH.
    pub fn start(core: &mut Core, ctx: &mut Context<'_>, opening: Opening) -> State {
        let Opening { connection, children, transcript, support, solution } = opening;
        let by_eap = matches!(connection.local_auth, LocalProof::Eap(_));
        let message_id = core.requests.next_id();
        let mut pending =
            Pending { connection, transcript, support, message_id, child: None, later: children };
        let id = id_payload(&pending.connection.local_id);
        let (proof, unmixed) = if by_eap {
            if pending.connection.ppk.as_ref().is_some_and(|ppk| ppk.required && !pending.support.ppk) {
                return pending.end(core, ctx, DownReason::Failed(NO_PPK.into()));
            }
            let eap_only = matches!(pending.connection.remote_auth, RemoteProof::EapOnly);
            let notify = Payload::Notify(Notify::bare(NotifyType::EAP_ONLY_AUTHENTICATION));
            (eap_only.then_some(notify).into_iter().collect(), None)
        } else {
            let hashes = pending.support.hashes.clone();
            match pending.prove(core, |proofs| proofs.prove(&id, hashes.as_deref())) {
                Ok(proof) => proof,
                Err(why) => return pending.end(core, ctx, DownReason::Failed(why)),
            }
        };
        let connection = pending.connection.clone();
        let mut payloads: Vec<_> =
            solution.map(|keys| Payload::PuzzleSolution(keys.into())).into_iter().collect();
        payloads.push(Payload::IdI(id));
        payloads.extend(certificates(&connection.local_auth));
        payloads.extend(certificate_requests(std::iter::once(&connection.remote_auth)));
        if let IdPattern::Exact(expected) = &connection.remote_id {
            payloads.push(Payload::IdR(id_payload(expected)));
        }
        payloads.extend(proof);
        if ctx.first_contact && connection.unique {
            payloads.push(Payload::Notify(Notify::bare(NotifyType::INITIAL_CONTACT)));
        }
        let childless = connection.childless && pending.support.childless || pending.later.is_empty();
        if childless && !pending.support.childless {
            let reason = "connection has no children, and the peer does not support that (RFC 6023)";
            return pending.end(core, ctx, DownReason::Failed(reason.into()));
        }
        core.inner.asking = true;
        payloads.extend(configuration::request(&connection, &core.inner.local));
        if !childless {
            let child = Request::first(ctx, core, &connection, pending.later.remove(0));
            payloads.extend(child.payloads(None));
            pending.child = Some(child);
        }
        payloads.extend(mobike::announcement(&connection, core, ctx));
        core.request(ctx, ExchangeType::IKE_AUTH, &payloads);
        drop(payloads);
        if let LocalProof::Eap(config) = &connection.local_auth {
            return Peering::start(pending, config.clone());
        }
        State::AuthSent(Box::new(Self { pending, unmixed }))
    }

    /// The response came, and its ICV is good. That alone proves nothing about who sent it.
    pub fn response(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, opened: &Opened) -> State {
        let payloads = match opened.payloads(ctx) {
            Ok(payloads) => payloads,
            Err(error) => return self.pending.fail(core, ctx, Rejection::from(&error), error.to_string()),
        };
        let Some(claims) = claims(&payloads, false) else {
            return self.pending.refused(
                core,
                ctx,
                &payloads,
                "response without IDr, or with a payload twice",
            );
        };
        let Some(auth) = claims.auth else {
            return self.pending.refused(core, ctx, &payloads, "response without AUTH");
        };
        let identity = match self.pending.identify(claims.id) {
            Ok(identity) => identity,
            Err(why) => return self.pending.fail(core, ctx, Rejection::Identity, why),
        };
        let Self { pending, unmixed } = *self;
        let unix = ctx.unix;
        let check = |proofs: Proofs<'_>, identity: &Identity| proofs.check(&claims, auth, identity, unix);
        pending.conclude(core, ctx, &payloads, identity, unmixed, check)
    }

    /// Repeats the request, or gives up.
    pub fn timeout(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        if core.retransmit(ctx) {
            return State::AuthSent(self);
        }
        self.pending.end(core, ctx, DownReason::Unreachable(" in IKE_AUTH".into()))
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.pending.connection
    }

    /// Nobody waits for the response any more.
    pub fn withdraw(&mut self, ctx: &mut Context<'_>) {
        self.pending.withdraw(ctx);
    }

    pub fn later(&mut self) -> &mut Vec<Wanted> {
        &mut self.pending.later
    }
}

impl Pending {
    pub fn proofs<'a>(&'a self, core: &'a Core) -> Proofs<'a> {
        let Self { connection, transcript, message_id, .. } = self;
        Proofs { core, connection, transcript, message_id: *message_id }
    }

    /// Who the responder claims to be, if that is whom we want.
    pub fn identify(&self, id: &Id<'_>) -> Result<Identity, String> {
        match Identity::from_payload(id.kind.0, &id.data) {
            Ok(identity) if self.connection.remote_id.matches(&identity).is_some() => Ok(identity),
            _ => Err(format!("peer is {id}, expected {}", self.connection.remote_id)),
        }
    }

    /// Our AUTH payload, with a PPK when both ends can (RFC 8784 s3), and the notifies that go with it.
    pub fn prove(
        &self,
        core: &mut Core,
        prove: impl Fn(Proofs<'_>) -> Result<Auth<'static>, AuthError>,
    ) -> Result<(Vec<Payload<'static>>, Option<Unmixed>), String> {
        let prove = |core: &Core| prove(self.proofs(core)).map_err(|error| error.to_string());
        let ppk = match &self.connection.ppk {
            Some(ppk) if ppk.required && !self.support.ppk => return Err(NO_PPK.into()),
            Some(ppk) if self.support.ppk => ppk,
            _ => return Ok((vec![Payload::Auth(prove(core)?)], None)),
        };
        let mut notifies = vec![Payload::Notify(ppk::identity(ppk))];
        if !ppk.required {
            notifies.push(Payload::Notify(Notify::new(NotifyType::NO_PPK_AUTH, prove(core)?.data)));
        }
        let unmixed = ppk::mix(core, ppk).map_err(|error| error.to_string())?;
        notifies.insert(0, Payload::Auth(prove(core)?));
        Ok((notifies, Some(unmixed)))
    }

    /// The response with the responder's last AUTH payload: `check` says whether it is good, after a PPK that the
    /// responder does not have was taken out of the keys again.
    pub fn conclude(
        self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
        identity: Identity,
        unmixed: Option<Unmixed>,
        check: impl FnOnce(Proofs<'_>, &Identity) -> Result<(), AuthError>,
    ) -> State {
        let checked = self
            .settle_ppk(core, payloads, unmixed)
            .map_err(|why| (Rejection::Authentication, why))
            .and_then(|()| {
                check(self.proofs(core), &identity).map_err(|why| (why.rejection(), why.to_string()))
            });
        match checked {
            Ok(()) => self.establish(core, ctx, payloads, identity),
            Err((rejection, why)) => self.fail(core, ctx, rejection, why),
        }
    }

    /// Takes the PPK out of the keys again when the responder does not have it.
    fn settle_ppk(
        &self,
        core: &mut Core,
        payloads: &[Payload<'_>],
        unmixed: Option<Unmixed>,
    ) -> Result<(), String> {
        let without = find_notify(payloads, NotifyType::PPK_IDENTITY).is_none();
        if let Some(unmixed) = unmixed.filter(|_| without) {
            if self.connection.ppk.as_ref().is_some_and(|ppk| ppk.required) {
                return Err("peer does not have the PPK, which the connection needs".into());
            }
            ppk::restore(core, unmixed);
        }
        Ok(())
    }

    /// The responder has proved itself: what it agreed to comes up. `payloads` is its last response.
    fn establish(
        self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
        identity: Identity,
    ) -> State {
        let mut established = Established::new(ctx, self.connection.clone(), identity);
        established.announce(core, ctx);
        core.inner.asking = false;
        core.mobike = Mobike::of(&self.connection, core, ctx, payloads);
        established.reauth_at = reauth::initiator_deadline(&self.connection, ctx);
        established.hear_lifetime(ctx, payloads);
        match configuration::accept(&self.connection, payloads) {
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
        if let Some(mut child) = self.child {
            let nonces = Some((self.transcript.ni.as_slice(), self.transcript.nr.as_slice()));
            match child.settle(ctx, core, &self.connection, payloads, nonces) {
                Settled::Made(pair, _) => {
                    let spi = established.children.accept(ctx, *pair);
                    established.children.send_on(ctx, spi);
                }
                settled => established.ask_for_less_or_fail(ctx, child, &settled),
            }
        }
        for wanted in self.later {
            established.add_task(ctx.now, Task::CreateChild { wanted, group: None });
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

    /// A response without what proves the responder: it says why, or it is none.
    pub fn refused(
        self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
        otherwise: &str,
    ) -> State {
        // The responder has closed the IKE SA with this (RFC 7296 s2.21.2).
        match notifies(payloads).find(|notify| notify.kind.is_error()) {
            Some(error) => self.end(core, ctx, DownReason::Rejected(error.kind)),
            None => self.fail(core, ctx, Rejection::Authentication, otherwise.into()),
        }
    }

    /// We do not accept the peer: it is told in an exchange of its own (RFC 7296 s2.21.2), without waiting for
    /// an answer from somebody who could not prove anything.
    pub fn fail(self, core: &mut Core, ctx: &mut Context<'_>, rejection: Rejection, why: String) -> State {
        warn!(connection = %self.connection.name, remote = %core.path.remote, %why, "peer not accepted");
        ctx.reject(rejection);
        let notify = Payload::Notify(Notify::bare(NotifyType::AUTHENTICATION_FAILED));
        core.request(ctx, ExchangeType::INFORMATIONAL, &[notify]);
        self.end(core, ctx, DownReason::Failed(why))
    }

    pub fn end(self, core: &mut Core, ctx: &mut Context<'_>, reason: DownReason) -> State {
        let Self { connection, child, later: mut children, .. } = self;
        if let Some(child) = child {
            children.insert(0, child.wanted());
            child.discard(ctx);
        }
        initiation_failed(core, ctx, &connection, &children, reason);
        State::closed(ctx)
    }
}

/// Tells that our attempt failed, and makes another one later when the connection is to be kept up.
pub(in crate::sa) fn initiation_failed(
    core: &Core,
    ctx: &mut Context<'_>,
    connection: &Arc<Connection>,
    children: &[Wanted],
    reason: DownReason,
) {
    info!(connection = %connection.name, ike = core.spi, remote = %core.path.remote, %reason, "initiation failed");
    if core.renews {
        return ctx.out.commands.push(Command::NotRenewed(core.spi));
    }
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
