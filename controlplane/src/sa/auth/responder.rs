//! IKE_AUTH as the responder.

use std::borrow::Cow;

use tracing::warn;

use super::super::child::{self, Denied};
use super::super::core::Opened;
use super::super::init::{Answered, find_notify};
use super::super::{Command, Context, Core, Established, State, configuration, informational, ppk};
use super::{certificates, check, claims, id_payload, prove};
use crate::config::{Connection, Ppk};
use crate::peer;
use crate::rejection::Rejection;
use crate::update::Event;
use crate::wire::{Auth, ExchangeType, Notify, NotifyType, Payload, WireError, parse_chain};

/// Serves the request as the responder.
pub(in crate::sa) fn respond(
    answered: Answered,
    core: &mut Core,
    ctx: &mut Context<'_>,
    opened: &Opened,
) -> State {
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
        let (name, remote) = (connection.name.clone(), core.path.remote);
        ctx.out.events.push_back(Event::Refused { connection: name, remote, why: why.to_string() });
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
    let notify = Payload::Notify(informational::error_notify(error));
    ctx.reject(Rejection::Malformed);
    core.respond(ctx, ExchangeType::IKE_AUTH, &[notify]);
    State::closed(ctx)
}
