//! EAP as the responder.

use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::super::super::core::Opened;
use super::super::super::init::find_notify;
use super::super::super::{Context, Core, State};
use super::super::responder::{Accepted, mix_ppk, refuse, refuse_malformed};
use super::super::{certificates, id_payload};
use super::only_eap;
use crate::auth::eap::{EapError, EapServer, MethodKind, ServerStep};
use crate::auth::{Identity, LocalProof, RemoteProof};
use crate::config::Connection;
use crate::crypto::Secret;
use crate::rejection::Rejection;
use crate::update::Event;
use crate::wire::{Auth, Eap, ExchangeType, Header, Id, Notify, NotifyType, Payload};

/// An EAP exchange with the peer. The IKE SA is still half open.
pub(crate) struct Serving {
    accepted: Accepted,
    /// IDi, which the AUTH payload at the end covers.
    peer_id: Id<'static>,
    our_id: Id<'static>,
    /// The first request, which says what is to be set up.
    request: Opened,
    stage: Stage,
    /// When it is given up.
    pub expires: Instant,
}

enum Stage {
    /// Packets of the method.
    Running(Box<EapServer>),
    /// EAP has succeeded; the AUTH payload by its key is missing.
    Succeeded { msk: Secret, identity: Identity },
}

impl Serving {
    /// Answers a first request without AUTH: proves us, and begins EAP.
    pub(in crate::sa::auth) fn start(
        core: &mut Core,
        ctx: &mut Context<'_>,
        accepted: Accepted,
        peer_id: Id<'static>,
        eap_only: bool,
        request: Opened,
    ) -> State {
        let connection = accepted.connection.clone();
        let RemoteProof::Eap(config) = &connection.remote_auth else {
            let why = "the peer is not to authenticate by EAP";
            return accepted.refuse(core, ctx, Rejection::Authentication, why);
        };
        let our_id = id_payload(&connection.local_id);
        let mut answer = vec![Payload::IdR(our_id.clone())];
        if !matches!(connection.local_auth, LocalProof::EapOnly) {
            let hashes = accepted.answered.support.hashes.as_deref();
            match accepted.proofs(core).prove(&our_id, hashes) {
                Ok(auth) => {
                    answer.extend(certificates(&connection.local_auth));
                    answer.push(Payload::Auth(auth));
                }
                Err(error) => {
                    return accepted.refuse(core, ctx, Rejection::Authentication, &error.to_string());
                }
            }
        } else if !eap_only {
            // RFC 5998 s3: only a peer that says so may be left without our AUTH.
            let why = "the peer does not accept EAP alone, and we have no certificate";
            return accepted.refuse(core, ctx, Rejection::Authentication, why);
        }
        let (server, step) =
            EapServer::start(config.clone(), &accepted.peer, ctx.rng, ctx.config.limits.of_eap());
        let ServerStep::Request(packet) = step else {
            return refuse(core, ctx, Rejection::Eap, "no EAP method can be started");
        };
        let Some(packet) = Eap::from_packet(&packet) else {
            return refuse(core, ctx, Rejection::Eap, "no EAP method can be started");
        };
        debug!(connection = %connection.name, ike = core.spi, remote = %core.path.remote, "EAP begins");
        answer.push(Payload::Eap(packet));
        core.respond(ctx, ExchangeType::IKE_AUTH, &answer);
        let expires = ctx.now + ctx.config.limits.eap_timeout;
        let stage = Stage::Running(Box::new(server));
        State::EapServing(Box::new(Self { accepted, peer_id, our_id, request, stage, expires }))
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.accepted.connection
    }

    /// A copy of the first request of the IKE SA came.
    pub fn is_repetition(&self, request: &[u8]) -> bool {
        self.accepted.answered.is_repetition(request)
    }

    /// The peer's next request.
    pub fn request(
        self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        header: &Header,
        opened: &Opened,
    ) -> State {
        if header.exchange == ExchangeType::INFORMATIONAL {
            return self.informational(core, ctx, opened);
        }
        if header.exchange != ExchangeType::IKE_AUTH {
            ctx.reject(Rejection::UnexpectedExchange);
            return State::EapServing(self);
        }
        match opened.payloads(ctx) {
            Err(error) => refuse_malformed(core, ctx, &error),
            Ok(payloads) => self.serve(core, ctx, &payloads),
        }
    }

    /// A peer that does not get on may say so in an exchange of its own (RFC 7296 s2.21.2), and leave unacknowledged what
    /// its method was told.
    fn informational(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, opened: &Opened) -> State {
        let gives_up = opened
            .payloads(ctx)
            .is_ok_and(|payloads| find_notify(&payloads, NotifyType::AUTHENTICATION_FAILED).is_some());
        if !gives_up {
            ctx.reject(Rejection::UnexpectedExchange);
            return State::EapServing(self);
        }
        core.respond(ctx, ExchangeType::INFORMATIONAL, &[]);
        let verdict = match &self.stage {
            Stage::Running(server) => server.verdict(),
            Stage::Succeeded { .. } => None,
        };
        match verdict {
            Some(error) => failed(&self.accepted, core, ctx, error),
            // It does not accept us, rather than we it.
            None => told(&self.accepted, core, ctx, "the peer gave up"),
        }
        State::refused(ctx)
    }

    fn serve(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, payloads: &[Payload<'_>]) -> State {
        let mut server = match self.stage {
            Stage::Running(server) => server,
            Stage::Succeeded { ref msk, ref identity } => {
                let (msk, identity) = (msk.clone(), identity.clone());
                return self.finish(core, ctx, payloads, &msk, identity);
            }
        };
        let Some(eap) = only_eap(payloads) else {
            return refuse(core, ctx, Rejection::Eap, "one EAP payload expected");
        };
        let step = server.handle(&eap.to_packet(), ctx.unix, ctx.rng);
        let connection = &self.accepted.connection;
        let (packet, stage) = match step {
            ServerStep::Request(packet) => (packet, Stage::Running(server)),
            ServerStep::Success { packet, msk, identity, method } => {
                match proved(connection, &self.peer_id, &identity, method) {
                    Ok(identity) => (packet, Stage::Succeeded { msk, identity }),
                    Err(why) => return self.accepted.refuse(core, ctx, Rejection::Identity, &why),
                }
            }
            ServerStep::Failure { packet, error } => {
                failed(&self.accepted, core, ctx, &error);
                let packet = Eap::from_packet(&packet).map(Payload::Eap);
                core.respond(ctx, ExchangeType::IKE_AUTH, packet.as_slice());
                return State::refused(ctx);
            }
        };
        let Some(packet) = Eap::from_packet(&packet) else {
            return refuse(core, ctx, Rejection::Eap, "an EAP packet of ours is malformed");
        };
        core.respond(ctx, ExchangeType::IKE_AUTH, &[Payload::Eap(packet)]);
        self.stage = stage;
        State::EapServing(self)
    }

    /// The AUTH payload that ties EAP to this IKE SA.
    fn finish(
        self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
        msk: &Secret,
        identity: Identity,
    ) -> State {
        let Self { mut accepted, peer_id, our_id, request, .. } = *self;
        let mut auths = payloads.iter().filter_map(|payload| match payload {
            Payload::Auth(auth) => Some(auth),
            _ => None,
        });
        let (Some(auth), None) = (auths.next(), auths.next()) else {
            return refuse(core, ctx, Rejection::Authentication, "one AUTH payload expected after EAP");
        };
        accepted.peer = identity;
        let (with_ppk, auth): (bool, Auth<'_>) = match mix_ppk(core, &accepted.connection, payloads, auth) {
            Ok(settled) => settled,
            Err(why) => return accepted.refuse(core, ctx, Rejection::Authentication, &why),
        };
        let proofs = accepted.proofs(core);
        let proved = proofs
            .check_msk(&peer_id, &auth, msk, &accepted.peer)
            .and_then(|()| proofs.prove_msk(&our_id, msk));
        let ours = match proved {
            Ok(ours) => ours,
            Err(why) => return accepted.refuse(core, ctx, Rejection::Authentication, &why.to_string()),
        };
        let mut answer = vec![Payload::Auth(ours)];
        if with_ppk {
            answer.push(Payload::Notify(Notify::bare(NotifyType::PPK_IDENTITY)));
        }
        // It was parsed before.
        let asked = request.payloads(ctx).unwrap_or_default();
        accepted.establish(core, ctx, &asked, answer)
    }

    /// The peer did not go on.
    pub fn timeout(self: Box<Self>, core: &Core, ctx: &mut Context<'_>) -> State {
        if ctx.now < self.expires {
            return State::EapServing(self);
        }
        let connection = &self.accepted.connection.name;
        if ctx.may_log() {
            info!(%connection, peer = %self.peer_id, remote = %core.path.remote, "EAP was not finished in time");
        }
        ctx.reject(Rejection::EapLength);
        State::gone(ctx)
    }
}

/// The peer is not let in.
fn failed(accepted: &Accepted, core: &Core, ctx: &mut Context<'_>, error: &EapError) {
    ctx.reject(error.rejection());
    told(accepted, core, ctx, &error.to_string());
}

/// Operators learn why nothing came of it.
fn told(accepted: &Accepted, core: &Core, ctx: &mut Context<'_>, why: &str) {
    let (connection, peer, remote) = (&accepted.connection.name, &accepted.peer, core.path.remote);
    if ctx.may_log() {
        warn!(%connection, %peer, %remote, error = why, "EAP failed");
    }
    let why = format!("EAP of {peer} failed: {why}");
    ctx.out.events.push_back(Event::Refused { connection: connection.clone(), remote, why });
}

/// The name that EAP proved, which counts from now on (RFC 7296 s2.16). It has to be one that the connection is
/// for: otherwise whoever has a password could claim another's name in IDi and get the other's connection.
fn proved(
    connection: &Connection,
    peer_id: &Id<'_>,
    name: &str,
    method: MethodKind,
) -> Result<Identity, String> {
    let identity = Identity::parse(name).unwrap_or_else(|_| Identity::KeyId(name.as_bytes().to_vec()));
    if connection.remote_id.matches(&identity).is_none() {
        return Err(format!("EAP proved {identity}, expected {} (IDi is {peer_id})", connection.remote_id));
    }
    if matches!(connection.local_auth, LocalProof::EapOnly) && !method.allows_eap_only() {
        return Err("this EAP method needs a certificate of ours".into());
    }
    info!(connection = %connection.name, peer = %identity, ?method, "EAP succeeded");
    Ok(identity)
}
