//! IKE_AUTH as the responder.

use std::borrow::Cow;
use std::sync::Arc;

use tracing::warn;

use super::super::child::{self, Denied};
use super::super::core::Opened;
use super::super::established::Inherits;
use super::super::init::{Answered, find_notify};
use super::super::mobike::{self, Mobike};
use super::super::reauth;
use super::super::{Command, Context, Core, Established, State, Task, configuration, informational, ppk};
use super::{Proofs, Serving, certificates, claims, id_payload};
use crate::auth::Identity;
use crate::config::{Connection, Ppk};
use crate::peer;
use crate::rejection::Rejection;
use crate::update::Event;
use crate::wire::{Auth, ExchangeType, Notify, NotifyType, Payload, WireError};

/// Serves the first request as the responder.
pub(in crate::sa) fn respond(
    answered: Box<Answered>,
    core: &mut Core,
    ctx: &mut Context<'_>,
    opened: Opened,
) -> State {
    let payloads = match opened.payloads(ctx) {
        Ok(payloads) => payloads,
        Err(error) => return refuse_malformed(core, ctx, &error),
    };
    let Some(claims) = claims(&payloads, true) else {
        return refuse(core, ctx, Rejection::Authentication, "request without IDi, or with a payload twice");
    };
    let wanted = payloads.iter().find_map(|payload| match payload {
        Payload::IdR(id) => Some(id),
        _ => None,
    });
    let candidates = answered.candidates(ctx);
    let (connection, peer) = match peer::identify(&candidates, claims.id, wanted, claims.auth.is_none()) {
        Ok(found) => found,
        Err(why) => {
            if let [connection] = &candidates[..] {
                tell(core, ctx, connection, &why);
            }
            return refuse(core, ctx, Rejection::Identity, &why);
        }
    };
    let message_id = core.responses.expected();
    let Some(auth) = claims.auth else {
        if ctx.eap_full {
            // The peer repeats its request, and may find room then.
            ctx.reject(Rejection::EapLimit);
            drop(payloads);
            return State::Answered(answered);
        }
        let eap_only = find_notify(&payloads, NotifyType::EAP_ONLY_AUTHENTICATION).is_some();
        let peer_id = claims.id.clone().into_owned();
        drop(payloads);
        let accepted = Accepted { connection, peer, answered, message_id };
        return Serving::start(core, ctx, accepted, peer_id, eap_only, opened);
    };
    let accepted = Accepted { connection, peer, answered, message_id };
    let settled = mix_ppk(core, &accepted.connection, &payloads, auth);
    let (with_ppk, auth) = match settled {
        Ok(settled) => settled,
        Err(why) => return accepted.refuse(core, ctx, Rejection::Authentication, &why),
    };
    if let Err(why) = accepted.proofs(core).check(&claims, &auth, &accepted.peer, ctx.unix) {
        return accepted.refuse(core, ctx, why.rejection(), &why.to_string());
    }
    let our_id = id_payload(&accepted.connection.local_id);
    let hashes = accepted.answered.support.hashes.as_deref();
    let our_auth = match accepted.proofs(core).prove(&our_id, hashes) {
        Ok(auth) => auth,
        Err(error) => return accepted.refuse(core, ctx, Rejection::Authentication, &error.to_string()),
    };
    let connection = accepted.connection.clone();
    let mut answer = vec![Payload::IdR(our_id)];
    answer.extend(certificates(&connection.local_auth));
    answer.push(Payload::Auth(our_auth));
    if with_ppk {
        answer.push(Payload::Notify(Notify::bare(NotifyType::PPK_IDENTITY)));
    }
    accepted.establish(core, ctx, &payloads, answer)
}

/// Whom we talk to, and on which terms.
pub(super) struct Accepted {
    pub connection: Arc<Connection>,
    /// Who the peer claims to be, or has proved to be.
    pub peer: Identity,
    pub answered: Box<Answered>,
    /// Message ID of the first IKE_AUTH request.
    pub message_id: u32,
}

impl Accepted {
    pub fn proofs<'a>(&'a self, core: &'a Core) -> Proofs<'a> {
        let Self { connection, answered, message_id, .. } = self;
        Proofs { core, connection, transcript: &answered.transcript, message_id: *message_id }
    }

    /// As [`refuse`], and the connection tells operators why.
    pub fn refuse(&self, core: &mut Core, ctx: &mut Context<'_>, rejection: Rejection, why: &str) -> State {
        tell(core, ctx, &self.connection, why);
        refuse(core, ctx, rejection, &format!("{}: {why}", self.connection.name))
    }

    /// The peer has proved itself: sets everything up that the first request asked for, and answers with it.
    /// `answer` starts with what proves us.
    pub fn establish(
        self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        asked: &[Payload<'_>],
        mut answer: Vec<Payload<'_>>,
    ) -> State {
        let Self { connection, peer, answered, .. } = self;
        if mobike::unexpected_nat(core, asked) {
            let why = format!("{}: the peer forbids NATs, and there is one", connection.name);
            tell(core, ctx, &connection, &why);
            return refuse_with(core, ctx, Rejection::Addresses, &why, NotifyType::UNEXPECTED_NAT_DETECTED);
        }
        if find_notify(asked, NotifyType::INITIAL_CONTACT).is_some() && connection.unique {
            let (connection, peer) = (connection.clone(), peer.clone());
            ctx.out.commands.push(Command::Replace {
                connection,
                peer,
                except: core.spi,
                before: answered.since,
            });
        }
        if core.fragment_size.is_some() {
            core.fragment_size = (connection.fragmentation && answered.support.fragmentation)
                .then_some(connection.fragment_size);
        }
        let mut established = Established::new(ctx, connection.clone(), peer);
        established.announce(core, ctx);
        established.reauth_at = reauth::responder_deadline(&connection, ctx.now);
        answer.extend(reauth::lifetime(&connection));
        core.mobike = Mobike::of(&connection, core, ctx, asked);
        if core.mobike.is_some() {
            answer.extend(mobike::announcement(&connection, core, ctx));
        }
        let mut denied = false;
        let configured = configuration::reply(ctx, &connection, &established.peer, asked);
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
        if !denied && asked.iter().any(|payload| matches!(payload, Payload::Sa(_))) {
            let nonces = (answered.transcript.ni.as_slice(), answered.transcript.nr.as_slice());
            match child::respond(ctx, core, &connection, asked, nonces) {
                Ok((pair, payloads)) => {
                    let spi = established.children.accept(ctx, *pair);
                    if !established.children.offer(ctx, spi) {
                        // The peer authenticates anew. Its answer shows that it has the new IKE SA.
                        established.inherits = Inherits::UntilKnown;
                        established.add_task(ctx.now, Task::Probe);
                    }
                    answer.extend(payloads);
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
}

/// Mixes the PPK into the keys when both ends have it. Also gives the AUTH payload that counts then.
pub(super) fn mix_ppk<'a>(
    core: &mut Core,
    connection: &Connection,
    payloads: &'a [Payload<'_>],
    auth: &'a Auth<'_>,
) -> Result<(bool, Auth<'a>), String> {
    match choose_ppk(connection, payloads) {
        PpkChoice::Mix(ppk) => {
            ppk::mix(core, ppk).map_err(|error| error.to_string())?;
            Ok((true, auth.clone()))
        }
        PpkChoice::Without(None) => Ok((false, auth.clone())),
        // RFC 8784 s3: NO_PPK_AUTH stands in for AUTH.
        PpkChoice::Without(Some(data)) => {
            Ok((false, Auth { method: auth.method, data: Cow::Borrowed(data) }))
        }
        PpkChoice::Refuse(why) => Err(why.into()),
    }
}

/// What a responder does about the PPK.
enum PpkChoice<'c, 'p> {
    Mix(&'c Ppk),
    /// Goes on without, with the AUTH data that was made without.
    Without(Option<&'p [u8]>),
    Refuse(&'static str),
}

/// RFC 8784 s3, the table of the responder's choices.
fn choose_ppk<'c, 'p>(connection: &'c Connection, payloads: &'p [Payload<'_>]) -> PpkChoice<'c, 'p> {
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

/// Answers AUTHENTICATION_FAILED and closes. The peer learns no more than that, so identities cannot be probed;
/// the log says what was expected (RFC 7296 s2.21.2).
pub(super) fn refuse(core: &mut Core, ctx: &mut Context<'_>, rejection: Rejection, why: &str) -> State {
    refuse_with(core, ctx, rejection, why, NotifyType::AUTHENTICATION_FAILED)
}

fn refuse_with(
    core: &mut Core,
    ctx: &mut Context<'_>,
    rejection: Rejection,
    why: &str,
    kind: NotifyType,
) -> State {
    if ctx.may_log() {
        warn!(ike = core.spi, remote = %core.path.remote, why, "peer not accepted");
    }
    ctx.reject(rejection);
    let notify = Payload::Notify(Notify::bare(kind));
    core.respond(ctx, ExchangeType::IKE_AUTH, &[notify]);
    State::refused(ctx)
}

/// Who asks for the connection learns why nothing comes of it.
fn tell(core: &Core, ctx: &mut Context<'_>, connection: &Connection, why: &str) {
    let (connection, remote, why) = (connection.name.clone(), core.path.remote, why.into());
    ctx.out.events.push_back(Event::Refused { connection, remote, why });
}

pub(super) fn refuse_malformed(core: &mut Core, ctx: &mut Context<'_>, error: &WireError) -> State {
    if ctx.may_log() {
        warn!(ike = core.spi, remote = %core.path.remote, %error, "malformed IKE_AUTH");
    }
    let notify = Payload::Notify(informational::error_notify(error));
    ctx.reject(Rejection::from(error));
    core.respond(ctx, ExchangeType::IKE_AUTH, &[notify]);
    State::refused(ctx)
}
