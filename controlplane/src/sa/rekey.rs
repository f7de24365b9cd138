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
use super::init::{Essentials, NONCE_LEN, ike_suite, notifies};
use super::{Command, Context, IkeSa, State};
use crate::config::Connection;
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
}

/// The IKE SA that the peer's rekey made when it crossed ours.
struct Rival {
    spi: u64,
    lowest: Vec<u8>,
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
            Payload::Sa(proposal::offer(&proposals(&self.connection), ProposalSpi::Ike(spi))),
            Payload::Nonce(nonce.clone().into()),
            Payload::Ke(wire::KeyExchange {
                method: KeId(key_exchange.group().iana()),
                data: key_exchange.public().to_vec().into(),
            }),
        ];
        core.request(ctx, ExchangeType::CREATE_CHILD_SA, &payloads);
        self.active = Some(Active::RekeyIke(Box::new(Request { spi, nonce, key_exchange, rival: None })));
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
        if self.phase != Phase::Up || with_child {
            return Err(Denied::new(Rejection::Collision, NotifyType::TEMPORARY_FAILURE));
        }
        let syntax = || Denied::new(Rejection::Syntax, NotifyType::INVALID_SYNTAX);
        let essentials = Essentials::find(payloads).ok_or_else(syntax)?;
        let ke = essentials.ke.ok_or_else(syntax)?;
        let chosen = proposal::select(&proposals(&self.connection), essentials.sa).map_err(|error| {
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
        let mut heir =
            successor(core, ctx, spi, peer_spi, false, &chosen, &shared, (essentials.nonce, &nonce))
                .map_err(|_| syntax())?;
        let mut established = Self::new(ctx, self.connection.clone(), self.peer.clone());
        established.reauth_at = self.reauth_at;
        established.heir_of = Some(core.spi);
        heir.state = State::Established(Box::new(established));
        debug!(connection = %self.connection.name, old = core.spi, new = spi, "peer rekeys the IKE SA");
        let deadline = ctx.now + ctx.config.retransmit.total();
        self.phase = Phase::Answered { successor: spi, deadline };
        if let Some(Active::RekeyIke(request)) = &mut self.active {
            debug!(connection = %self.connection.name, "simultaneous rekey of the IKE SA");
            let lowest = lower(essentials.nonce, &nonce).to_vec();
            request.rival = Some(Rival { spi, lowest });
        }
        ctx.out.commands.push(Command::Adopt(Box::new(heir)));
        Ok(vec![
            Payload::Sa(vec![chosen.answer(ProposalSpi::Ike(spi))]),
            Payload::Nonce(nonce.into()),
            Payload::Ke(wire::KeyExchange { method, data: public.into() }),
        ])
    }

    /// The response to our wish for a new IKE SA.
    pub(super) fn rekey_ike_response(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        request: Request,
        payloads: &[Payload<'_>],
    ) -> Next {
        if let Some(error) = notifies(payloads).find(|notify| notify.kind.is_error()) {
            self.rekey_ike_refused(ctx, &request, error);
            return Next::Stay;
        }
        match request.finish(core, ctx, &proposals(&self.connection), payloads) {
            Ok((new, lowest)) => self.succeed(core, ctx, request, new, &lowest),
            Err(why) => {
                // The peer has a new IKE SA now that we do not: keys and views differ, so all of it goes.
                warn!(connection = %self.connection.name, %why, "rekey of the IKE SA failed");
                ctx.reject(Rejection::Syntax);
                self.leave(ctx, DownReason::Failed(why));
            }
        }
        Next::Stay
    }

    fn rekey_ike_refused(&mut self, ctx: &mut Context<'_>, request: &Request, error: &Notify<'_>) {
        if request.rival.is_some() {
            // The peer did not see its own request cross ours: its new IKE SA is the one.
            return;
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
            _ if error.kind == NotifyType::TEMPORARY_FAILURE => (RETRY_SOON, None),
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
        let rival = request.rival.filter(
            |rival| matches!(self.phase, Phase::Answered { successor, .. } if successor == rival.spi),
        );
        if rival.as_ref().is_some_and(|rival| lowest < rival.lowest.as_slice()) {
            info!(connection = %self.connection.name, redundant = new_spi, "simultaneous rekey: the peer's IKE SA stays");
            established.quiet = true;
            established.leave(ctx, DownReason::Terminated);
            new.state = State::Established(Box::new(established));
            ctx.out.commands.push(Command::Adopt(Box::new(new)));
            return;
        }
        established.inherit(&new.core, ctx, self.estate(core));
        if let Phase::Leaving(reason) = &self.phase {
            // It was to go while we waited. The peer has the new one, so that is what has to go now.
            established.quiet = self.quiet;
            established.leave(ctx, reason.clone());
        }
        new.state = State::Established(Box::new(established));
        ctx.out.commands.push(Command::Adopt(Box::new(new)));
        ctx.out.commands.push(Command::Succeeded { from: core.spi, to: new_spi });
        if let Some(rival) = rival {
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

/// What is offered and accepted in a rekey.
fn proposals(connection: &Connection) -> Vec<Proposal> {
    connection.proposals.iter().map(Proposal::without_additional).collect()
}

impl Request {
    /// The new IKE SA, without state, and the lower nonce of the exchange.
    fn finish(
        &self,
        core: &Core,
        ctx: &Context<'_>,
        ours: &[Proposal],
        payloads: &[Payload<'_>],
    ) -> Result<(IkeSa, Vec<u8>), String> {
        let essentials = Essentials::find(payloads).ok_or("SA and Nonce are needed once each")?;
        let chosen = proposal::verify(ours, essentials.sa).map_err(|error| error.to_string())?;
        let ProposalSpi::Ike(peer_spi @ 1..) = chosen.proposal.spi else {
            return Err("no SPI in the proposal".into());
        };
        let method = KeId(self.key_exchange.group().iana());
        let ke = essentials.ke.filter(|ke| ke.method == method && chosen.ke() == Some(method));
        let ke = ke.ok_or("KE payload does not fit the proposal")?;
        let shared = self.key_exchange.finish(&ke.data).map_err(|error| error.to_string())?;
        let nonces = (self.nonce.as_slice(), essentials.nonce);
        let new = successor(core, ctx, self.spi, peer_spi, true, &chosen, &shared, nonces)
            .map_err(|error| error.to_string())?;
        Ok((new, lower(nonces.0, nonces.1).to_vec()))
    }
}

/// The new IKE SA with its keys (RFC 7296 s2.18). It takes path and abilities from the old one; message IDs start
/// again at 0.
#[allow(clippy::too_many_arguments)]
fn successor(
    old: &Core,
    ctx: &Context<'_>,
    spi: u64,
    peer_spi: u64,
    initiator: bool,
    chosen: &Chosen,
    shared: &Secret,
    (ni, nr): (&[u8], &[u8]),
) -> Result<IkeSa, CryptoError> {
    let suite = ike_suite(chosen).ok_or(CryptoError::Library)?;
    let protection = old.protection.as_ref().ok_or(CryptoError::Library)?;
    let mut core = Core::new(ctx.now, spi, initiator, old.path);
    core.peer_spi = peer_spi;
    core.nat = old.nat;
    core.carried = old.carried;
    core.mobike = old.mobike.clone();
    core.settled = true;
    (core.began, core.since, core.renews, core.peer_key) = (old.began, old.since, old.renews, old.peer_key);
    core.inner = old.inner.clone();
    core.fragment_size = old.fragment_size;
    let (spi_i, spi_r) = core.spis();
    let exchange = Exchange { ni, nr, spi_i, spi_r };
    let seed = keys::skeyseed_rekey(protection.suite.prf, &protection.d, shared, &[], &exchange)?;
    let keys = IkeKeys::derive(&suite, &seed, &exchange)?;
    core.protection = Some(Protection::new(suite, &keys, initiator)?);
    Ok(IkeSa { core, state: State::gone(ctx) })
}
