//! CREATE_CHILD_SA for the IKE SA itself, both roles, and its collisions (RFC 7296 s1.3.2, s2.8.2, s2.18, s2.25.2).
//!
//! The children go over to the new IKE SA at once on the side that asked for the rekey and won. The other side
//! keeps them on the old one until the peer shows that it has the answer: by deleting the old IKE SA, or by using
//! the new one. Until then the old one still answers, so nothing is ever asked on an IKE SA that the peer does
//! not know.

use tracing::{debug, info, warn};

use super::child::{Denied, lower};
use super::core::{Core, Protection};
use super::established::{Active, Established, Next, Phase, RETRY_LATER, RETRY_SOON, Task};
use super::followup::{Chain, Progress, What};
use super::init::{Essentials, NONCE_LEN, ike_suite, notifies};
use super::{Command, Context, IkeSa, State};
use crate::crypto::{CryptoError, Exchange, Group, IkeKeys, KeyExchange, Secret, kex, keys};
use crate::proposal::{self, Chosen, Proposal};
use crate::rejection::Rejection;
use crate::update::{DownReason, Event};
use crate::wire::{self, ExchangeType, KeId, Notify, NotifyType, Payload, ProposalSpi};

/// Our request to rekey the IKE SA.
pub(crate) struct Request {
    /// Our SPI of the new IKE SA.
    spi: u64,
    nonce: Vec<u8>,
    key_exchange: KeyExchange,
    rival: Option<Rival>,
    /// The peer agreed, and additional key exchanges are under way (RFC 9370 s2.2.4).
    agreed: Option<(Agreed, Chain)>,
}

/// The IKE SA that the peer's rekey makes when it crosses ours.
struct Rival {
    spi: u64,
    lowest: Vec<u8>,
}

/// What both ends agreed on for a new IKE SA. Its keys take the secrets of the additional key exchanges too.
pub(crate) struct Agreed {
    /// Our SPI of it.
    pub spi: u64,
    peer_spi: u64,
    /// We asked for it.
    initiator: bool,
    chosen: Chosen,
    shared: Secret,
    ni: Vec<u8>,
    nr: Vec<u8>,
}

impl Established {
    /// Asks for a new IKE SA.
    pub(super) fn start_rekey(&mut self, core: &mut Core, ctx: &mut Context<'_>, group: Option<Group>) {
        let current = self.connection.proposals.iter().flat_map(Proposal::key_exchanges).next();
        let group = group.or_else(|| current.and_then(|id| Group::from_iana(id.0)));
        let Some(Ok(key_exchange)) = group.map(KeyExchange::generate) else {
            warn!(connection = %self.connection.name, "no key exchange for a rekey of the IKE SA");
            return;
        };
        let (spi, nonce) = (ctx.ike_spi(), ctx.random::<NONCE_LEN>().to_vec());
        let payloads = [
            Payload::Sa(proposal::offer(&self.connection.proposals, ProposalSpi::Ike(spi))),
            Payload::Nonce(nonce.clone().into()),
            Payload::Ke(wire::KeyExchange {
                method: KeId(key_exchange.group().iana()),
                data: key_exchange.public().to_vec().into(),
            }),
        ];
        core.request(ctx, ExchangeType::CREATE_CHILD_SA, &payloads);
        let request = Request { spi, nonce, key_exchange, rival: None, agreed: None };
        self.active = Some(Active::RekeyIke(Box::new(request)));
    }

    /// Answers the peer's wish for a new IKE SA.
    pub(super) fn rekey_ike_request(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Result<Vec<Payload<'static>>, Denied> {
        // RFC 7296 s2.25.2: not while we close it, nor while a Child SA is made, rekeyed or closed.
        let with_child = matches!(
            self.active,
            Some(
                Active::CreateChild(_)
                    | Active::RekeyChild { .. }
                    | Active::DeleteChild { .. }
                    | Active::DeleteUnwanted { .. }
            )
        );
        // RFC 9370 s2.2.4: our own rekey is past the exchange that could cross this one.
        let past = matches!(&self.active, Some(Active::RekeyIke(request)) if request.agreed.is_some());
        if self.phase != Phase::Up || with_child || past {
            return Err(Denied::new(Rejection::Collision, NotifyType::TEMPORARY_FAILURE));
        }
        let syntax = || Denied::new(Rejection::Syntax, NotifyType::INVALID_SYNTAX);
        let essentials = Essentials::find(payloads).ok_or_else(syntax)?;
        let ke = essentials.ke.ok_or_else(syntax)?;
        let chosen = proposal::select(&self.connection.proposals, essentials.sa).map_err(|error| {
            info!(connection = %self.connection.name, %error, "rekey of the IKE SA refused");
            Denied::new(Rejection::NoProposal, NotifyType::NO_PROPOSAL_CHOSEN)
        })?;
        let ProposalSpi::Ike(peer_spi @ 1..) = chosen.proposal.spi else { return Err(syntax()) };
        let method = chosen.ke().ok_or_else(syntax)?;
        if ke.method != method {
            let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, method.0.to_be_bytes().to_vec());
            return Err(Denied { rejection: Rejection::KeyExchange, notify });
        }
        let group = Group::from_iana(method.0).ok_or_else(syntax)?;
        let kex::Response { public, shared } = kex::respond(group, &ke.data)
            .map_err(|_| Denied::new(Rejection::KeyExchange, NotifyType::INVALID_SYNTAX))?;
        let (spi, nonce) = (ctx.ike_spi(), ctx.random::<NONCE_LEN>().to_vec());
        let (ni, nr, initiator) = (essentials.nonce.to_vec(), nonce.clone(), false);
        let agreed = Agreed { spi, peer_spi, initiator, chosen, shared, ni, nr };
        let mut answer = vec![
            Payload::Sa(vec![agreed.chosen.answer(ProposalSpi::Ike(spi))]),
            Payload::Nonce(nonce.into()),
            Payload::Ke(wire::KeyExchange { method, data: public.into() }),
        ];
        // Whatever else the peer had under way, it has given up.
        self.forget_all_followups(ctx);
        if let Some(Active::RekeyIke(request)) = &mut self.active {
            debug!(connection = %self.connection.name, "simultaneous rekey of the IKE SA");
            request.rival = Some(Rival { spi, lowest: agreed.lowest().to_vec() });
        }
        let methods = agreed.chosen.additional();
        if methods.is_empty() {
            self.give_way(core, ctx, &agreed, &[])?;
        } else {
            answer.push(self.await_followup(ctx, methods, What::Ike(Box::new(agreed))));
        }
        Ok(answer)
    }

    /// The peer's rekey of the IKE SA is done: its successor waits until the peer shows that it knows that.
    pub(super) fn give_way(
        &mut self,
        core: &Core,
        ctx: &mut Context<'_>,
        agreed: &Agreed,
        additional: &[Secret],
    ) -> Result<(), Denied> {
        let mut heir = agreed
            .build(core, ctx, additional)
            .map_err(|_| Denied::new(Rejection::Syntax, NotifyType::INVALID_SYNTAX))?;
        let mut established = Self::new(ctx, self.connection.clone(), self.peer.clone());
        established.reauth_at = self.reauth_at;
        established.heir_of = Some(core.spi);
        heir.state = State::Established(Box::new(established));
        debug!(connection = %self.connection.name, old = core.spi, new = agreed.spi, "peer rekeys the IKE SA");
        let deadline = ctx.now + ctx.config.retransmit.total();
        self.phase = Phase::Answered { successor: agreed.spi, deadline };
        ctx.out.commands.push(Command::Adopt(Box::new(heir)));
        Ok(())
    }

    /// The response to our wish for a new IKE SA, or to an additional key exchange for it.
    pub(super) fn rekey_ike_response(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        mut request: Box<Request>,
        payloads: &[Payload<'_>],
    ) -> Next {
        if let Some((agreed, chain)) = request.agreed.take() {
            match chain.proceed(payloads) {
                Progress::Next(chain) => self.go_on(core, ctx, request, agreed, chain),
                Progress::Done(secrets) => self.conclude(core, ctx, *request, &agreed, &secrets),
                Progress::Refused(kind) => {
                    self.note_refusal(ctx, kind);
                    self.rekey_ike_refused(ctx, &request, &Notify::bare(kind));
                }
                Progress::Broken(why) => self.rekey_broken(ctx, why),
            }
            return Next::Stay;
        }
        if let Some(error) = notifies(payloads).find(|notify| notify.kind.is_error()) {
            self.rekey_ike_refused(ctx, &request, error);
            return Next::Stay;
        }
        let agreed = match request.agree(&self.connection.proposals, payloads) {
            Ok(agreed) => agreed,
            Err(why) => {
                self.rekey_broken(ctx, why);
                return Next::Stay;
            }
        };
        let methods = agreed.chosen.additional();
        if methods.is_empty() {
            self.conclude(core, ctx, *request, &agreed, &[]);
        } else if self.yields_to_rival(ctx, &mut request, &agreed) {
            // If nothing comes of the peer's.
            self.add_task(ctx.now, Task::RekeyIke { group: None });
        } else {
            match Chain::start(methods, payloads) {
                Ok(chain) => self.go_on(core, ctx, request, agreed, chain),
                Err(why) => self.rekey_broken(ctx, why),
            }
        }
        Next::Stay
    }

    /// The peer agreed, and additional key exchanges come next. When the peer began a rekey at the same time, whoever
    /// began the exchange with the lowest nonce stops here, since there is nothing to delete yet (RFC 9370 s2.2.4).
    fn yields_to_rival(&mut self, ctx: &mut Context<'_>, request: &mut Request, agreed: &Agreed) -> bool {
        let Some(rival) = request.rival.take().filter(|rival| self.ike_is_there(rival.spi)) else {
            return false;
        };
        if agreed.lowest() < rival.lowest.as_slice() {
            info!(connection = %self.connection.name, "simultaneous rekey: the peer's goes on");
            return true;
        }
        info!(connection = %self.connection.name, "simultaneous rekey: ours goes on");
        self.forget_new_ike(ctx, rival.spi);
        if self.is_succeeded_by(rival.spi) {
            // It took no additional key exchange, so the peer has it, and deletes it.
            ctx.out.commands.push(Command::Redundant(rival.spi));
            self.phase = Phase::Up;
        }
        false
    }

    /// What the peer made in a rekey that crossed ours is there, or comes.
    fn ike_is_there(&self, spi: u64) -> bool {
        self.is_succeeded_by(spi) || self.awaited.makes_ike(spi)
    }

    /// Sends the next additional key exchange, unless the IKE SA is to go.
    fn go_on(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        mut request: Box<Request>,
        agreed: Agreed,
        chain: Chain,
    ) {
        if matches!(self.phase, Phase::Leaving(_)) {
            return;
        }
        core.request(ctx, ExchangeType::IKE_FOLLOWUP_KE, &chain.payloads());
        request.agreed = Some((agreed, chain));
        self.active = Some(Active::RekeyIke(request));
    }

    /// All key exchanges of our rekey are done.
    fn conclude(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        request: Request,
        agreed: &Agreed,
        additional: &[Secret],
    ) {
        self.forgotten = 0;
        match agreed.build(core, ctx, additional) {
            Ok(new) => self.succeed(core, ctx, request, new, agreed.lowest()),
            Err(error) => self.rekey_broken(ctx, error.to_string()),
        }
    }

    /// The peer may have a new IKE SA now that we do not: keys and views differ, so all of it goes.
    fn rekey_broken(&mut self, ctx: &mut Context<'_>, why: String) {
        warn!(connection = %self.connection.name, %why, "rekey of the IKE SA failed");
        ctx.reject(Rejection::Syntax);
        self.leave(ctx, DownReason::Failed(why));
    }

    fn rekey_ike_refused(&mut self, ctx: &mut Context<'_>, request: &Request, error: &Notify<'_>) {
        if request.rival.is_some() {
            // The peer did not see its own request cross ours: its new IKE SA is the one, unless nothing comes of it.
            return self.add_task(ctx.now + RETRY_SOON, Task::RekeyIke { group: None });
        }
        let wanted = match (error.kind, error.data.as_ref()) {
            (NotifyType::INVALID_KE_PAYLOAD, &[high, low]) => Some(KeId(u16::from_be_bytes([high, low]))),
            _ => None,
        };
        let offered = |id: &KeId| {
            self.connection.proposals.iter().any(|one| one.key_exchanges().any(|ours| ours == *id))
        };
        let group = wanted.filter(offered).and_then(|id| Group::from_iana(id.0));
        let (wait, group) = match group {
            Some(group) if group != request.key_exchange.group() => (std::time::Duration::ZERO, Some(group)),
            _ if matches!(error.kind, NotifyType::TEMPORARY_FAILURE | NotifyType::STATE_NOT_FOUND) => {
                (RETRY_SOON, None)
            }
            _ => {
                warn!(connection = %self.connection.name, notify = %error.kind, "peer refused to rekey the IKE SA");
                (RETRY_LATER, None)
            }
        };
        let at = ctx.now + wait + ctx.jitter(wait);
        self.add_task(at, Task::RekeyIke { group });
    }

    /// Our rekey made a new IKE SA. When the peer made one at the same time, the one whose exchange has the lowest
    /// nonce is redundant, and whoever made it deletes it (RFC 7296 s2.8.2).
    fn succeed(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        request: Request,
        mut new: IkeSa,
        lowest: &[u8],
    ) {
        let new_spi = new.core.spi;
        let mut established = Self::new(ctx, self.connection.clone(), self.peer.clone());
        established.reauth_at = self.reauth_at;
        // The rival counts only as long as the peer has not deleted it.
        let rival = request.rival.filter(|rival| self.ike_is_there(rival.spi));
        if rival.as_ref().is_some_and(|rival| lowest < rival.lowest.as_slice()) {
            info!(connection = %self.connection.name, redundant = new_spi, "simultaneous rekey: the peer's IKE SA stays");
            established.quiet = true;
            established.leave(ctx, DownReason::Terminated);
            new.state = State::Established(Box::new(established));
            ctx.out.commands.push(Command::Adopt(Box::new(new)));
            return;
        }
        established.inherit(&mut new.core, ctx, self.estate(core));
        if let Phase::Leaving(reason) = &self.phase {
            // It was to go while we waited. The peer has the new one, so that is what has to go now.
            established.quiet = self.quiet;
            established.leave(ctx, reason.clone());
        }
        new.state = State::Established(Box::new(established));
        ctx.out.commands.push(Command::Adopt(Box::new(new)));
        ctx.out.commands.push(Command::Succeeded { from: core.spi, to: new_spi });
        if let Some(rival) = rival.filter(|rival| self.is_succeeded_by(rival.spi)) {
            info!(connection = %self.connection.name, redundant = rival.spi, "simultaneous rekey: our IKE SA stays");
            ctx.out.commands.push(Command::Redundant(rival.spi));
        }
        let connection = self.connection.name.clone();
        ctx.out.events.push_back(Event::IkeRekeyed { connection, old: core.spi, new: new_spi });
        self.quiet = true;
        self.phase = Phase::Up;
        self.leave(ctx, DownReason::Terminated);
    }
}

impl Request {
    /// What the peer agreed to.
    fn agree(&self, ours: &[Proposal], payloads: &[Payload<'_>]) -> Result<Agreed, String> {
        let essentials = Essentials::find(payloads).ok_or("SA and Nonce are needed once each")?;
        let chosen = proposal::verify(ours, essentials.sa).map_err(|error| error.to_string())?;
        let ProposalSpi::Ike(peer_spi @ 1..) = chosen.proposal.spi else {
            return Err("no SPI in the proposal".into());
        };
        let method = KeId(self.key_exchange.group().iana());
        let ke = essentials.ke.filter(|ke| ke.method == method && chosen.ke() == Some(method));
        let ke = ke.ok_or("KE payload does not fit the proposal")?;
        let shared = self.key_exchange.finish(&ke.data).map_err(|error| error.to_string())?;
        let (ni, nr) = (self.nonce.clone(), essentials.nonce.to_vec());
        Ok(Agreed { spi: self.spi, peer_spi, initiator: true, chosen, shared, ni, nr })
    }
}

impl Agreed {
    /// The lower nonce of the exchange.
    fn lowest(&self) -> &[u8] {
        lower(&self.ni, &self.nr)
    }

    /// The new IKE SA with its keys, without state (RFC 7296 s2.18, RFC 9370 s2.2.4). It takes path and abilities from
    /// the old one; message IDs start again at 0.
    fn build(&self, old: &Core, ctx: &Context<'_>, additional: &[Secret]) -> Result<IkeSa, CryptoError> {
        let suite = ike_suite(&self.chosen).ok_or(CryptoError::Library)?;
        let protection = old.protection.as_ref().ok_or(CryptoError::Library)?;
        let mut core = Core::new(ctx.now, self.spi, self.initiator, old.path);
        core.peer_spi = self.peer_spi;
        core.nat = old.nat;
        core.carried = old.carried;
        core.mobike = old.mobike.clone();
        core.settled = true;
        (core.began, core.since, core.renews, core.peer_key) =
            (old.began, old.since, old.renews, old.peer_key);
        core.inner = old.inner.clone();
        core.fragment_size = old.fragment_size;
        let (spi_i, spi_r) = core.spis();
        let exchange = Exchange { ni: &self.ni, nr: &self.nr, spi_i, spi_r };
        let seed =
            keys::skeyseed_rekey(protection.suite.prf, &protection.d, &self.shared, additional, &exchange)?;
        let keys = IkeKeys::derive(&suite, &seed, &exchange)?;
        core.protection = Some(Protection::new(suite, &keys, self.initiator)?);
        Ok(IkeSa { core, state: State::gone(ctx) })
    }
}
