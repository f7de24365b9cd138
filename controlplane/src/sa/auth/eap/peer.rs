//! EAP as the initiator.

use std::sync::Arc;

use tracing::{debug, info};

use super::super::super::child::Wanted;
use super::super::super::core::Opened;
use super::super::super::init::notifies;
use super::super::super::ppk::Unmixed;
use super::super::super::{Context, Core, State};
use super::super::initiator::Pending;
use super::super::{Proofs, claims, id_payload};
use super::only_eap;
use crate::auth::eap::{EapPeer, PeerConfig, PeerStep};
use crate::auth::{Identity, RemoteProof};
use crate::config::Connection;
use crate::crypto::Secret;
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{Eap, ExchangeType, Id, Payload};

/// We authenticate by EAP, and a request of ours is out.
pub(crate) struct Peering {
    pending: Pending,
    stage: Stage,
}

enum Stage {
    /// The first request: the responder proves itself, and begins EAP.
    Asked(Arc<PeerConfig>),
    /// A packet of the method.
    Running(Box<EapPeer>, Responder),
    /// The AUTH payload by the key of the method, with a PPK or without.
    Proved { msk: Secret, unmixed: Option<Unmixed>, responder: Responder },
}

/// Who the responder is. With EAP alone that is a claim until the end.
struct Responder {
    id: Id<'static>,
    identity: Identity,
}

impl Peering {
    /// The first request is out.
    pub(in crate::sa::auth) fn start(pending: Pending, config: Arc<PeerConfig>) -> State {
        State::EapSent(Box::new(Self { pending, stage: Stage::Asked(config) }))
    }

    /// The response to our request.
    pub fn response(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, opened: &Opened) -> State {
        let payloads = match opened.payloads(ctx) {
            Ok(payloads) => payloads,
            Err(error) => return self.pending.fail(core, ctx, Rejection::from(&error), error.to_string()),
        };
        let Self { pending, stage } = *self;
        match stage {
            Stage::Asked(config) => first(pending, core, ctx, &payloads, config),
            Stage::Running(peer, responder) => run(pending, core, ctx, &payloads, peer, responder),
            Stage::Proved { msk, unmixed, responder } => {
                finish(pending, core, ctx, &payloads, &msk, unmixed, responder)
            }
        }
    }

    /// Repeats the request, or gives up.
    pub fn timeout(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        if core.retransmit(ctx) {
            return State::EapSent(self);
        }
        self.pending.end(core, ctx, DownReason::Unreachable(" in IKE_AUTH with EAP".into()))
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

/// Who the responder is, and its first EAP packet. Nothing of EAP begins before the responder has proved itself by
/// a certificate or a raw key; only where the configuration says EAP alone, the method has to do it.
fn first(
    pending: Pending,
    core: &mut Core,
    ctx: &mut Context<'_>,
    payloads: &[Payload<'_>],
    config: Arc<PeerConfig>,
) -> State {
    let Some(claims) = claims(payloads, false) else {
        return pending.refused(core, ctx, payloads, "response without IDr, or with a payload twice");
    };
    let identity = match pending.identify(claims.id) {
        Ok(identity) => identity,
        Err(why) => return pending.fail(core, ctx, Rejection::Identity, why),
    };
    let eap_only = matches!(pending.connection.remote_auth, RemoteProof::EapOnly);
    let proved = match claims.auth {
        Some(auth) => {
            pending.proofs(core).check(&claims, auth, &identity, ctx.unix).map_err(|why| why.to_string())
        }
        None if eap_only => Ok(()),
        None => Err(format!(
            "{identity} wants EAP without proving itself first, expected a certificate or a raw key"
        )),
    };
    if let Err(why) = proved {
        return pending.fail(core, ctx, Rejection::Authentication, why);
    }
    let responder = Responder { id: claims.id.clone().into_owned(), identity };
    debug!(connection = %pending.connection.name, ike = core.spi, responder = %responder.identity, "EAP begins");
    run(pending, core, ctx, payloads, Box::new(EapPeer::new(config, ctx.config.limits.of_eap())), responder)
}

/// One packet of EAP.
fn run(
    pending: Pending,
    core: &mut Core,
    ctx: &mut Context<'_>,
    payloads: &[Payload<'_>],
    mut peer: Box<EapPeer>,
    responder: Responder,
) -> State {
    let Some(eap) = only_eap(payloads) else {
        return pending.refused(core, ctx, payloads, "one EAP payload expected");
    };
    match peer.handle(&eap.to_packet(), ctx.unix, ctx.rng) {
        PeerStep::Response(packet) => {
            let Some(packet) = Eap::from_packet(&packet) else {
                let why = "an EAP packet of ours is malformed";
                return pending.fail(core, ctx, Rejection::Eap, why.into());
            };
            core.request(ctx, ExchangeType::IKE_AUTH, &[Payload::Eap(packet)]);
            State::EapSent(Box::new(Peering { pending, stage: Stage::Running(peer, responder) }))
        }
        PeerStep::Success { msk, method } => {
            if matches!(pending.connection.remote_auth, RemoteProof::EapOnly) && !method.allows_eap_only() {
                let why = "the EAP method does not prove safely who the responder is (RFC 5998 s4)";
                return pending.fail(core, ctx, Rejection::Authentication, why.into());
            }
            info!(connection = %pending.connection.name, ?method, "EAP succeeded");
            prove(pending, core, ctx, msk, responder)
        }
        PeerStep::Failure(error) => {
            // The responder has closed the IKE SA when it said so itself.
            ctx.reject(error.rejection());
            let reason = DownReason::Failed(format!("EAP failed: {error}"));
            match notifies(payloads).find(|notify| notify.kind.is_error()) {
                Some(_) => pending.end(core, ctx, reason),
                None => pending.fail(core, ctx, Rejection::Authentication, reason.to_string()),
            }
        }
    }
}

/// Ties EAP to this IKE SA by its key.
fn prove(
    pending: Pending,
    core: &mut Core,
    ctx: &mut Context<'_>,
    msk: Secret,
    responder: Responder,
) -> State {
    let id = id_payload(&pending.connection.local_id);
    match pending.prove(core, |proofs| proofs.prove_msk(&id, &msk)) {
        Ok((payloads, unmixed)) => {
            core.request(ctx, ExchangeType::IKE_AUTH, &payloads);
            let stage = Stage::Proved { msk, unmixed, responder };
            State::EapSent(Box::new(Peering { pending, stage }))
        }
        Err(why) => pending.fail(core, ctx, Rejection::Authentication, why),
    }
}

/// The responder's AUTH payload by the key of EAP.
fn finish(
    pending: Pending,
    core: &mut Core,
    ctx: &mut Context<'_>,
    payloads: &[Payload<'_>],
    msk: &Secret,
    unmixed: Option<Unmixed>,
    responder: Responder,
) -> State {
    let mut auths = payloads.iter().filter_map(|payload| match payload {
        Payload::Auth(auth) => Some(auth),
        _ => None,
    });
    let (Some(auth), None) = (auths.next(), auths.next()) else {
        return pending.refused(core, ctx, payloads, "one AUTH payload expected after EAP");
    };
    let Responder { id, identity } = responder;
    let check = |proofs: Proofs<'_>, identity: &Identity| proofs.check_msk(&id, auth, msk, identity);
    pending.conclude(core, ctx, payloads, identity, unmixed, check)
}
