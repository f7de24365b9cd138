//! IKE_INTERMEDIATE: additional key exchanges between IKE_SA_INIT and IKE_AUTH (RFC 9242, RFC 9370 s2.2.2).
//!
//! ML-KEM values are too long for IKE_SA_INIT, which cannot be fragmented; here they can. After each exchange all
//! keys are made anew. An attacker who strips the offer or an exchange changes what AUTH covers: the proposals and
//! notifies in both messages of IKE_SA_INIT, every IKE_INTERMEDIATE message, and their number.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::{debug, warn};

use super::child::Wanted;
use super::core::{Opened, Protection};
use super::init::{Answered, PeerSupport, Transcript};
use super::{Context, Core, State, auth};
use crate::config::Connection;
use crate::crypto::{CryptoError, Exchange, Group, IkeKeys, KeyExchange, Secret, kex, keys};
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{self, ExchangeType, Header, KeId, Notify, NotifyType, Payload, WireError, emit_chain};

/// What the initiator carries from IKE_SA_INIT to IKE_AUTH.
pub(crate) struct Opening {
    pub connection: Arc<Connection>,
    pub children: Vec<Wanted>,
    pub transcript: Transcript,
    pub support: PeerSupport,
    /// Content of the Puzzle Solution payload that the responder wants to see (RFC 8019 s7.2).
    pub solution: Option<Vec<u8>>,
}

/// Our IKE_INTERMEDIATE is out.
pub(crate) struct Sent {
    pub opening: Opening,
    key_exchange: KeyExchange,
    /// Key exchanges after this one.
    remaining: VecDeque<KeId>,
}

/// Sends the next IKE_INTERMEDIATE, or IKE_AUTH after the last.
pub(super) fn next(
    core: &mut Core,
    ctx: &mut Context<'_>,
    mut opening: Opening,
    mut remaining: VecDeque<KeId>,
) -> State {
    let Some(method) = remaining.pop_front() else {
        return auth::Sent::start(core, ctx, opening);
    };
    let group = Group::from_iana(method.0);
    let Some(key_exchange) = group.and_then(|group| KeyExchange::generate(group).ok()) else {
        return fail(core, ctx, &opening, DownReason::Failed(format!("no key exchange by {method}")));
    };
    let data = key_exchange.public().to_vec().into();
    let payloads = [Payload::Ke(wire::KeyExchange { method, data })];
    let message_id = core.requests.next_id();
    let header = core.header(ExchangeType::IKE_INTERMEDIATE, false, message_id, wire::PayloadType::SK);
    if let Err(error) = cover(core, &mut opening.transcript, &header, &payloads) {
        return fail(core, ctx, &opening, DownReason::Failed(error.to_string()));
    }
    core.request(ctx, ExchangeType::IKE_INTERMEDIATE, &payloads);
    State::IntermediateSent(Box::new(Sent { opening, key_exchange, remaining }))
}

impl Sent {
    /// The response.
    pub fn response(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        header: &Header,
        opened: &Opened,
    ) -> State {
        let method = KeId(self.key_exchange.group().iana());
        let public = match key_exchange(ctx, opened, method) {
            Ok(public) => public,
            Err((rejection, why)) => {
                warn!(connection = %self.opening.connection.name, %why, "IKE_INTERMEDIATE failed");
                ctx.reject(rejection);
                return fail(core, ctx, &self.opening, DownReason::Failed(why));
            }
        };
        let transcript = &mut self.opening.transcript;
        let mixed = cover_received(core, transcript, header, opened)
            .and_then(|()| self.key_exchange.finish(&public))
            .and_then(|shared| mix(core, transcript, &shared));
        if let Err(error) = mixed {
            ctx.reject(Rejection::KeyExchange);
            return fail(core, ctx, &self.opening, DownReason::Failed(error.to_string()));
        }
        debug!(ike = core.spi, %method, "additional key exchange done");
        let Self { opening, remaining, .. } = *self;
        next(core, ctx, opening, remaining)
    }

    /// Repeats the request, or gives up.
    pub fn timeout(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        if core.retransmit(ctx) {
            return State::IntermediateSent(self);
        }
        fail(core, ctx, &self.opening, DownReason::Unreachable(" in IKE_INTERMEDIATE".into()))
    }
}

/// Serves the request as the responder. The response goes out under the old keys.
pub(super) fn respond(
    mut answered: Box<Answered>,
    core: &mut Core,
    ctx: &mut Context<'_>,
    header: &Header,
    opened: &Opened,
) -> State {
    let Some(&method) = answered.additional.front() else { return State::Answered(answered) };
    let agreed = key_exchange(ctx, opened, method).and_then(|public| {
        let failed = |why: String| (Rejection::KeyExchange, why);
        let group = Group::from_iana(method.0).ok_or_else(|| failed("no such group".into()))?;
        kex::respond(group, &public).map_err(|error| failed(error.to_string()))
    });
    let kex::Response { public, shared } = match agreed {
        Ok(agreed) => agreed,
        Err((rejection, why)) => return refuse(core, ctx, rejection, &why),
    };
    let payloads = [Payload::Ke(wire::KeyExchange { method, data: public.into() })];
    let response =
        core.header(ExchangeType::IKE_INTERMEDIATE, true, header.message_id, wire::PayloadType::SK);
    let transcript = &mut answered.transcript;
    let covered = cover_received(core, transcript, header, opened)
        .and_then(|()| cover(core, transcript, &response, &payloads));
    if let Err(error) = covered {
        return refuse(core, ctx, Rejection::KeyExchange, &error.to_string());
    }
    core.respond(ctx, ExchangeType::IKE_INTERMEDIATE, &payloads);
    if let Err(error) = mix(core, transcript, &shared) {
        warn!(ike = core.spi, %error, "IKE_INTERMEDIATE failed");
        return State::refused(ctx);
    }
    answered.additional.pop_front();
    debug!(ike = core.spi, %method, "additional key exchange done");
    State::Answered(answered)
}

fn refuse(core: &mut Core, ctx: &mut Context<'_>, rejection: Rejection, why: &str) -> State {
    if ctx.may_log() {
        warn!(ike = core.spi, remote = %core.path.remote, why, "IKE_INTERMEDIATE refused");
    }
    ctx.reject(rejection);
    let notify = Payload::Notify(Notify::bare(NotifyType::INVALID_SYNTAX));
    core.respond(ctx, ExchangeType::IKE_INTERMEDIATE, &[notify]);
    State::refused(ctx)
}

fn fail(core: &Core, ctx: &mut Context<'_>, opening: &Opening, reason: DownReason) -> State {
    auth::initiation_failed(core, ctx, &opening.connection, &opening.children, reason);
    State::gone(ctx)
}

/// The one KE payload of a message.
fn key_exchange(ctx: &Context<'_>, opened: &Opened, method: KeId) -> Result<Vec<u8>, (Rejection, String)> {
    let malformed = |error: WireError| (Rejection::from(&error), error.to_string());
    let payloads = opened.payloads(ctx).map_err(malformed)?;
    value(&payloads, method).map(<[u8]>::to_vec).map_err(|why| (Rejection::KeyExchange, why))
}

/// The value of the one KE payload among these.
pub(super) fn value<'p>(payloads: &'p [Payload<'_>], method: KeId) -> Result<&'p [u8], String> {
    let mut values = payloads.iter().filter_map(|payload| match payload {
        Payload::Ke(ke) => Some(ke),
        _ => None,
    });
    match (values.next(), values.next()) {
        (Some(ke), None) if ke.method == method => Ok(&ke.data),
        (Some(ke), None) => Err(format!("key exchange by {}, expected {method}", ke.method)),
        _ => {
            let error = super::init::notifies(payloads).find(|notify| notify.kind.is_error());
            Err(error.map_or("one KE payload expected".into(), |error| format!("peer says {}", error.kind)))
        }
    }
}

/// Adds a message of ours to what AUTH covers.
fn cover(
    core: &Core,
    transcript: &mut Transcript,
    header: &Header,
    payloads: &[Payload<'_>],
) -> Result<(), CryptoError> {
    let mut plain = Vec::new();
    let first = emit_chain(payloads, &mut plain).map_err(|_| CryptoError::Library)?;
    cover_received(core, transcript, header, &Opened { first, plain })
}

/// Adds a message to what AUTH covers, with the keys of its time (RFC 9242 s3.3.2).
fn cover_received(
    core: &Core,
    transcript: &mut Transcript,
    header: &Header,
    opened: &Opened,
) -> Result<(), CryptoError> {
    let protection = core.protection.as_ref().ok_or(CryptoError::Library)?;
    let head = Core::intermediate_head(header, opened.first);
    let prf = protection.suite.prf;
    if header.response {
        transcript.int_auth.add_response(prf, &protection.pr, &head, &opened.plain)
    } else {
        transcript.int_auth.add_request(prf, &protection.pi, &head, &opened.plain)
    }
}

/// New keys from the old SK_d and the new secret (RFC 9370 s2.2.2).
fn mix(core: &mut Core, transcript: &Transcript, shared: &Secret) -> Result<(), CryptoError> {
    let protection = core.protection.as_ref().ok_or(CryptoError::Library)?;
    let suite = protection.suite;
    let (spi_i, spi_r) = core.spis();
    let exchange = Exchange { ni: &transcript.ni, nr: &transcript.nr, spi_i, spi_r };
    let seed = keys::skeyseed_intermediate(suite.prf, &protection.d, shared, &exchange)?;
    let keys = IkeKeys::derive(&suite, &seed, &exchange)?;
    let fresh = Protection::new(suite, &keys, core.initiator)?;
    core.change_keys(fresh);
    Ok(())
}
