//! IKE_SA_INIT as the initiator.
//!
//! Nothing in the response is authenticated yet, so a forged one must not end the attempt: an error is noted,
//! and the attempt goes on for a short while in case the true response follows (RFC 7296 s2.21.1, s2.6).

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::message::Datagram;
use tracing::{debug, info, warn};

use super::super::child::Wanted;
use super::super::core::NAT_PORT;
use super::super::intermediate::{self, Opening};
use super::super::{Context, Core, IkeSa, Path, State, auth};
use super::solving::{Solving, Work};
use super::{
    Essentials, NONCE_LEN, PeerSupport, Transcript, detect_nat, find_notify, hash_notify, ike_suite,
    nat_notifies, notifies, protect,
};
use crate::auth::{IntAuth, Roles};
use crate::config::Connection;
use crate::crypto::{CryptoError, Group, KeyExchange};
use crate::proposal::{self, Chosen};
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{
    self, ExchangeType, HEADER_LEN, Header, KeId, Notify, NotifyType, Payload, ProposalSpi, WireError,
    parse_chain,
};

/// After an unauthenticated error a true response may still come for this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// Our IKE_SA_INIT is out.
pub(crate) struct Sent {
    pub connection: Arc<Connection>,
    /// Children to set up, the first in IKE_AUTH.
    pub children: Vec<Wanted>,
    nonce: Vec<u8>,
    key_exchange: KeyExchange,
    cookie: Option<Vec<u8>>,
    /// The puzzle that came with the cookie, while we work on it.
    work: Option<Work>,
    /// Content of the Puzzle Solution payload, in the end.
    solution: Option<Vec<u8>>,
    attempts: u8,
    /// An unauthenticated error, and when to believe it.
    failure: Option<(Instant, DownReason)>,
    /// Why the last response was not accepted, for the reason of a timeout.
    note: String,
}

/// What a response says.
enum Outcome {
    /// Also PUZZLE, when it came with the cookie.
    Cookie(Vec<u8>, Option<Notify<'static>>),
    OtherMethod(Group),
    Refused(NotifyType),
    Accepted(Box<Accepted>),
}

struct Accepted {
    chosen: Chosen,
    nr: Vec<u8>,
    ke: Vec<u8>,
    support: PeerSupport,
    /// PUZZLE, to be solved before IKE_AUTH.
    puzzle: Option<Notify<'static>>,
}

impl Sent {
    /// Starts an IKE SA.
    pub fn start(
        ctx: &mut Context<'_>,
        connection: Arc<Connection>,
        children: Vec<Wanted>,
        path: Path,
    ) -> Result<IkeSa, DownReason> {
        let roles = Roles::of(&connection.local_auth, &connection.remote_auth);
        let roles = roles.map_err(|why| DownReason::Failed(why.into()))?;
        if !roles.may_initiate() {
            let why = "the peer authenticates by EAP, so only it can begin (RFC 7296 s2.16)";
            return Err(DownReason::Failed(why.into()));
        }
        let spi = ctx.ike_spi();
        let mut core = Core::new(ctx.now, spi, true, path);
        let method = connection.proposals.iter().flat_map(proposal::Proposal::key_exchanges).next();
        let group = method
            .and_then(|id| Group::from_iana(id.0))
            .ok_or_else(|| DownReason::Failed("no usable key exchange method in the proposals".into()))?;
        let key_exchange = generate(group)?;
        let nonce = ctx.random::<NONCE_LEN>().to_vec();
        let mut sent = Self {
            connection,
            children,
            nonce,
            key_exchange,
            cookie: None,
            work: None,
            solution: None,
            attempts: 0,
            failure: None,
            note: String::new(),
        };
        info!(connection = %sent.connection.name, ike = spi, remote = %path.remote, "initiating");
        sent.send(&mut core, ctx);
        Ok(IkeSa { core, state: State::InitSent(Box::new(sent)) })
    }

    fn send(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        self.attempts += 1;
        let connection = &self.connection;
        let mut payloads = Vec::new();
        // RFC 7296 s2.6: the cookie comes first, the rest stays as it was.
        if let Some(cookie) = &self.cookie {
            payloads.push(Payload::Notify(Notify::new(NotifyType::COOKIE, cookie.clone())));
        }
        // RFC 8019 s7.1.2.
        payloads.extend(self.solution.clone().map(|keys| Payload::PuzzleSolution(keys.into())));
        payloads.push(Payload::Sa(proposal::offer(&connection.proposals, ProposalSpi::None)));
        payloads.push(Payload::Ke(wire::KeyExchange {
            method: KeId(self.key_exchange.group().iana()),
            data: self.key_exchange.public().to_vec().into(),
        }));
        payloads.push(Payload::Nonce(self.nonce.clone().into()));
        payloads.extend(nat_notifies(&core.path, (core.spi, 0), connection.force_encapsulation));
        if connection.fragmentation {
            payloads.push(Payload::Notify(Notify::bare(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)));
        }
        payloads.push(hash_notify());
        if connection.ppk.is_some() {
            payloads.push(Payload::Notify(Notify::bare(NotifyType::USE_PPK)));
        }
        if connection.proposals.iter().any(proposal::Proposal::has_additional) {
            payloads.push(Payload::Notify(Notify::bare(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)));
        }
        match core.cleartext(ExchangeType::IKE_SA_INIT, false, &payloads) {
            Ok(message) => {
                core.requests.restart();
                core.transmit(ctx, std::slice::from_ref(&message));
                let retransmit = ctx.config.retransmit;
                core.requests.sent(ctx.now, ExchangeType::IKE_SA_INIT, vec![message], &retransmit);
            }
            Err(error) => self.failure = Some((ctx.now, DownReason::Failed(error.to_string()))),
        }
    }

    /// A message for our SPI came.
    pub fn receive(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        header: &Header,
        datagram: Datagram,
    ) -> State {
        let fits = header.response && header.exchange == ExchangeType::IKE_SA_INIT && header.message_id == 0;
        if !fits {
            ctx.reject(Rejection::UnexpectedExchange);
            return State::InitSent(self);
        }
        match self.judge(core, ctx, header, &datagram.payload) {
            Ok(Outcome::Accepted(accepted)) => self.accept(core, ctx, header, datagram, *accepted),
            Ok(_) if self.work.is_some() => {
                // We are busy with what it asked for, and nobody can make us begin anew.
                ctx.reject(Rejection::Unsolicited);
                State::InitSent(self)
            }
            Ok(Outcome::Cookie(cookie, puzzle)) => self.repeat_with(core, ctx, cookie, puzzle),
            Ok(Outcome::OtherMethod(group)) => {
                debug!(connection = %self.connection.name, %group, "peer wants another key exchange method");
                match generate(group) {
                    Ok(key_exchange) => {
                        self.key_exchange = key_exchange;
                        self.retry(core, ctx)
                    }
                    Err(reason) => self.fail_later(ctx, reason),
                }
            }
            Ok(Outcome::Refused(NotifyType::NO_PROPOSAL_CHOSEN)) => {
                let offer = proposal::display(&self.connection.proposals);
                self.fail_later(ctx, DownReason::Declined(NotifyType::NO_PROPOSAL_CHOSEN, offer))
            }
            Ok(Outcome::Refused(kind)) => self.fail_later(ctx, DownReason::Rejected(kind)),
            Err((rejection, note)) => {
                debug!(connection = %self.connection.name, %note, "response not accepted");
                ctx.reject(rejection);
                self.note = format!("; its last response was not acceptable: {note}");
                State::InitSent(self)
            }
        }
    }

    /// The responder wants its cookie back, and a puzzle solved when there is one. When we do not solve it, we may
    /// still be served (RFC 8019 s7.1.2).
    fn repeat_with(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        cookie: Vec<u8>,
        puzzle: Option<Notify<'static>>,
    ) -> State {
        if let Some(notify) = puzzle.filter(|_| self.may_retry(ctx)) {
            match Work::begin(ctx, &notify, cookie.clone()) {
                Ok(work) => {
                    debug!(connection = %self.connection.name, ike = core.spi, "solving a puzzle");
                    self.failure = None;
                    self.work = Some(work);
                }
                Err(why) => {
                    ctx.reject(Rejection::PuzzleUnsolved);
                    let (connection, remote) = (&self.connection.name, core.path.remote);
                    warn!(%connection, %remote, %why, "responder under attack: tried without solving its puzzle");
                }
            }
        }
        (self.cookie, self.solution) = (Some(cookie), None);
        if self.work.is_some() { State::InitSent(self) } else { self.retry(core, ctx) }
    }

    fn may_retry(&self, ctx: &Context<'_>) -> bool {
        self.attempts < ctx.config.peers.init_attempts
    }

    fn retry(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        if !self.may_retry(ctx) {
            let reason = "peer keeps asking for cookies or other key exchange methods";
            return self.fail_later(ctx, DownReason::Failed(reason.into()));
        }
        self.failure = None;
        self.send(core, ctx);
        State::InitSent(self)
    }

    fn fail_later(mut self: Box<Self>, ctx: &mut Context<'_>, reason: DownReason) -> State {
        if self.failure.is_none() {
            self.failure = Some((ctx.now + PATIENCE, reason));
        }
        State::InitSent(self)
    }

    /// Reads a response without changing anything.
    fn judge(
        &self,
        core: &Core,
        ctx: &Context<'_>,
        header: &Header,
        message: &[u8],
    ) -> Result<Outcome, (Rejection, String)> {
        let payloads =
            parse(ctx, header, message).map_err(|error| (Rejection::from(&error), error.to_string()))?;
        if let Some(error) = notifies(&payloads).find(|notify| notify.kind.is_error()) {
            return Ok(self.judge_error(error));
        }
        let puzzle = find_notify(&payloads, NotifyType::PUZZLE);
        let puzzle = puzzle.map(|notify| Notify::new(NotifyType::PUZZLE, notify.data.to_vec()));
        if let Some(cookie) = find_notify(&payloads, NotifyType::COOKIE)
            && header.spi_r == 0
        {
            // RFC 7296 s2.6: 1 to 64 bytes.
            if !(1..=64).contains(&cookie.data.len()) {
                return Err((Rejection::Cookie, "cookie is not 1 to 64 bytes long".into()));
            }
            return Ok(Outcome::Cookie(cookie.data.to_vec(), puzzle));
        }
        // A puzzle without a cookie is no answer either (RFC 8019 s7.1.2).
        if header.spi_r == 0 {
            return Err((Rejection::Syntax, "responder's SPI is 0".into()));
        }
        let syntax = || (Rejection::Syntax, "SA, KE and Nonce are needed once each".to_string());
        let essentials = Essentials::find(&payloads).ok_or_else(syntax)?;
        let ke = essentials.ke.ok_or_else(syntax)?;
        let chosen = proposal::verify(&self.connection.proposals, essentials.sa)
            .map_err(|error| (Rejection::NoProposal, error.to_string()))?;
        let group = self.key_exchange.group();
        if chosen.ke() != Some(ke.method) || ke.method != KeId(group.iana()) {
            let note = format!("key exchange method {} does not fit {chosen} and our {group}", ke.method);
            return Err((Rejection::KeyExchange, note));
        }
        let support = PeerSupport::of(&payloads);
        if !chosen.additional().is_empty() && !support.intermediate {
            let note = format!("{chosen} without support for IKE_INTERMEDIATE (RFC 9370 s2.2.2)");
            return Err((Rejection::NoProposal, note));
        }
        debug!(ike = core.spi, %chosen, "proposal chosen");
        Ok(Outcome::Accepted(Box::new(Accepted {
            chosen,
            nr: essentials.nonce.to_vec(),
            ke: ke.data.to_vec(),
            support,
            puzzle,
        })))
    }

    fn judge_error(&self, error: &Notify<'_>) -> Outcome {
        let wanted = match (error.kind, error.data.as_ref()) {
            (NotifyType::INVALID_KE_PAYLOAD, &[high, low]) => Some(KeId(u16::from_be_bytes([high, low]))),
            _ => None,
        };
        // RFC 7296 s2.7: only a method that we offered, or an attacker could choose for us.
        let offered = |id: &KeId| {
            self.connection.proposals.iter().any(|proposal| proposal.key_exchanges().any(|ours| ours == *id))
        };
        let group = wanted.filter(offered).and_then(|id| Group::from_iana(id.0));
        match group {
            Some(group) if group != self.key_exchange.group() => Outcome::OtherMethod(group),
            _ => Outcome::Refused(error.kind),
        }
    }

    fn accept(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        header: &Header,
        datagram: Datagram,
        accepted: Accepted,
    ) -> State {
        core.peer_spi = header.spi_r;
        let Accepted { chosen, nr, ke, support, puzzle } = accepted;
        let keys = ike_suite(&chosen).ok_or(CryptoError::Library).and_then(|suite| {
            let shared = self.key_exchange.finish(&ke)?;
            protect(core, suite, &self.nonce, &nr, &shared)
        });
        if let Err(error) = keys {
            core.peer_spi = 0;
            ctx.reject(Rejection::KeyExchange);
            self.note = format!("; its last response was not acceptable: {error}");
            return State::InitSent(self);
        }
        let request = core.requests.packets().first().cloned().unwrap_or_default();
        core.requests.answered();
        let payloads = parse(ctx, header, &datagram.payload).unwrap_or_default();
        core.nat = detect_nat(&core.path, core.spis(), &payloads, self.connection.force_encapsulation);
        drop(payloads);
        // RFC 7296 s2.23: with a NAT in between, the initiator moves to port 4500. With MOBIKE always, since it may
        // come behind a NAT later (RFC 4555 s3.3).
        if core.nat.encapsulate() || self.connection.mobike && support.nat_traversal {
            core.path.local.set_port(NAT_PORT);
            core.path.remote.set_port(NAT_PORT);
        }
        if support.fragmentation && self.connection.fragmentation {
            core.fragment_size = Some(self.connection.fragment_size);
        }
        core.last_heard = ctx.now;
        let int_auth = IntAuth::default();
        let transcript = Transcript { ni: self.nonce, nr, request, response: datagram.payload, int_auth };
        let string = [transcript.nr.as_slice(), &core.peer_spi.to_be_bytes()].concat();
        let Self { connection, children, .. } = *self;
        let opening = Opening { connection, children, transcript, support, solution: None };
        let additional = chosen.additional().into();
        let Some(notify) = puzzle else { return intermediate::next(core, ctx, opening, additional) };
        // RFC 8019 s7.2.2, s7.2.3: without a solution the responder hears nothing that we say.
        match Work::begin(ctx, &notify, string) {
            Ok(work) => Solving::start(opening, additional, work),
            Err(why) => {
                ctx.reject(Rejection::PuzzleUnsolved);
                let reason = DownReason::Failed(format!("responder under attack: {why}"));
                auth::initiation_failed(core, ctx, &opening.connection, &opening.children, reason);
                State::gone(ctx)
            }
        }
    }

    /// Goes on with a puzzle, repeats the request, or gives up.
    pub fn timeout(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        if let Some(work) = &mut self.work {
            if let Some(solution) = work.go_on(ctx) {
                (self.work, self.solution) = (None, Some(solution));
                self.send(core, ctx);
            }
            return State::InitSent(self);
        }
        let reason = match &self.failure {
            Some((at, reason)) if *at <= ctx.now => reason.clone(),
            _ if core.retransmit(ctx) => return State::InitSent(self),
            _ => DownReason::Unreachable(self.note.clone()),
        };
        auth::initiation_failed(core, ctx, &self.connection, &self.children, reason);
        State::gone(ctx)
    }

    /// When [`Sent::timeout`] is due.
    pub fn deadline(&self, core: &Core) -> Option<Instant> {
        if let Some(work) = &self.work {
            return Some(work.at);
        }
        let failure = self.failure.as_ref().map(|(at, _)| *at);
        failure.into_iter().chain(core.requests.deadline()).min()
    }
}

fn parse<'m>(ctx: &Context<'_>, header: &Header, message: &'m [u8]) -> Result<Vec<Payload<'m>>, WireError> {
    let body = message.get(HEADER_LEN..).unwrap_or_default();
    parse_chain(header.next_payload, body, HEADER_LEN, &ctx.config.limits.of_message())
}

fn generate(group: Group) -> Result<KeyExchange, DownReason> {
    KeyExchange::generate(group).map_err(|error| DownReason::Failed(error.to_string()))
}
