//! IKE_FOLLOWUP_KE: additional key exchanges after CREATE_CHILD_SA (RFC 9370 s2.2.4).
//!
//! CREATE_CHILD_SA agrees on everything and does the first key exchange; what it is for is made when the last
//! additional one is done. The initiator goes on at once, and does nothing else meanwhile. The responder keeps what was
//! agreed on under a link that comes back with the next request, and for a while only: an initiator may have forgotten
//! about it.
//!
//! Rekeys that cross each other are decided after CREATE_CHILD_SA: whoever began the exchange with the lowest nonce
//! stops. Whoever has gone on already refuses the other's request.

use std::collections::VecDeque;
use std::time::Instant;

use tracing::{debug, warn};

use super::Context;
use super::child::{Denied, Stage, Terms, make};
use super::core::Core;
use super::established::{Established, Inherits, Next};
use super::init::{find_notify, notifies};
use super::intermediate::value;
use super::rekey;
use crate::crypto::{Group, KeyExchange, Secret, kex};
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{self, ExchangeType, KeId, Notify, NotifyType, Payload};

/// Additional key exchanges that we initiate.
pub(super) struct Chain {
    key_exchange: KeyExchange,
    /// Methods after this one.
    remaining: VecDeque<KeId>,
    /// What the responder knows it by.
    link: Vec<u8>,
    secrets: Vec<Secret>,
}

/// What a response means.
pub(super) enum Progress {
    /// Another key exchange comes next.
    Next(Chain),
    /// All are done.
    Done(Vec<Secret>),
    /// The peer refuses.
    Refused(NotifyType),
    /// It is not as it must be.
    Broken(String),
}

impl Chain {
    /// After CREATE_CHILD_SA with this response, which agreed on at least one method.
    pub fn start(methods: Vec<KeId>, payloads: &[Payload<'_>]) -> Result<Self, String> {
        Self::next(methods.into(), Vec::new(), payloads)
    }

    fn next(
        mut remaining: VecDeque<KeId>,
        secrets: Vec<Secret>,
        payloads: &[Payload<'_>],
    ) -> Result<Self, String> {
        let link = find_notify(payloads, NotifyType::ADDITIONAL_KEY_EXCHANGE)
            .ok_or("response without ADDITIONAL_KEY_EXCHANGE, and there is one left to do")?;
        let method = remaining.pop_front().ok_or("no key exchange is left")?;
        let group = Group::from_iana(method.0).ok_or_else(|| format!("no key exchange by {method}"))?;
        let key_exchange = KeyExchange::generate(group).map_err(|error| error.to_string())?;
        Ok(Self { key_exchange, remaining, link: link.data.to_vec(), secrets })
    }

    /// The payloads of the request.
    pub fn payloads(&self) -> [Payload<'static>; 2] {
        let method = KeId(self.key_exchange.group().iana());
        let data = self.key_exchange.public().to_vec().into();
        [
            Payload::Ke(wire::KeyExchange { method, data }),
            Payload::Notify(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, self.link.clone())),
        ]
    }

    /// The response.
    pub fn proceed(mut self, payloads: &[Payload<'_>]) -> Progress {
        if let Some(error) = notifies(payloads).find(|notify| notify.kind.is_error()) {
            return Progress::Refused(error.kind);
        }
        let method = KeId(self.key_exchange.group().iana());
        let shared = value(payloads, method)
            .and_then(|public| self.key_exchange.finish(public).map_err(|error| error.to_string()));
        match shared {
            Ok(shared) => self.secrets.push(shared),
            Err(why) => return Progress::Broken(why),
        }
        if self.remaining.is_empty() {
            return Progress::Done(self.secrets);
        }
        Self::next(self.remaining, self.secrets, payloads).map_or_else(Progress::Broken, Progress::Next)
    }
}

/// Additional key exchanges that the peer initiates.
#[derive(Default)]
pub(crate) struct Awaited(Vec<Pending>);

/// The peer's next request is awaited.
struct Pending {
    link: [u8; 8],
    expires: Instant,
    /// The methods that are left; there is one at least.
    remaining: VecDeque<KeId>,
    secrets: Vec<Secret>,
    what: What,
}

/// What is made in the end.
pub(super) enum What {
    /// A Child SA, in the place of the one with this inbound SPI of ours.
    Child(Box<Terms>, Option<u32>),
    Ike(Box<rekey::Agreed>),
}

impl Awaited {
    /// When the first one has taken too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|pending| pending.expires).min()
    }

    /// The peer is rekeying the IKE SA.
    pub fn rekeys_ike(&self) -> bool {
        self.0.iter().any(|pending| matches!(pending.what, What::Ike(_)))
    }

    /// The new IKE SA with this SPI of ours is among them.
    pub fn makes_ike(&self, spi: u64) -> bool {
        self.0.iter().any(|pending| matches!(&pending.what, What::Ike(agreed) if agreed.spi == spi))
    }

    /// The new Child SA with this inbound SPI is among them.
    pub fn makes_child(&self, spi: u32) -> bool {
        self.0.iter().any(|pending| matches!(&pending.what, What::Child(terms, _) if terms.spi_in == spi))
    }

    /// When the peer's rekey of a Child SA is given up, if there is one.
    pub fn rekey_until(&self, old: u32) -> Option<Instant> {
        self.until(|what| matches!(what, What::Child(_, Some(spi)) if *spi == old))
    }

    /// The same of a new Child SA of this name.
    pub fn creation_until(&self, name: &str) -> Option<Instant> {
        self.until(|what| matches!(what, What::Child(terms, None) if &*terms.config.name == name))
    }

    fn until(&self, wanted: impl Fn(&What) -> bool) -> Option<Instant> {
        self.0.iter().filter(|pending| wanted(&pending.what)).map(|pending| pending.expires).max()
    }

    #[cfg(any(test, fuzzing))]
    pub fn links(&self) -> impl Iterator<Item = Vec<u8>> {
        self.0.iter().map(|pending| pending.link.to_vec())
    }

    fn take(&mut self, link: &[u8]) -> Option<Pending> {
        let index = self.0.iter().position(|pending| pending.link == *link)?;
        Some(self.0.remove(index))
    }
}

impl Established {
    /// Another one would be too much.
    pub(super) fn awaits_too_much(&self, ctx: &Context<'_>) -> bool {
        self.awaited.0.len() >= ctx.config.peers.followups
    }

    /// Waits for the peer's additional key exchanges before something is made. Returns what our response says of it.
    pub(super) fn await_followup(
        &mut self,
        ctx: &mut Context<'_>,
        methods: Vec<KeId>,
        what: What,
    ) -> Payload<'static> {
        self.await_next(ctx, methods.into(), Vec::new(), what)
    }

    fn await_next(
        &mut self,
        ctx: &mut Context<'_>,
        remaining: VecDeque<KeId>,
        secrets: Vec<Secret>,
        what: What,
    ) -> Payload<'static> {
        let (link, expires) = (ctx.random(), ctx.now + ctx.config.peers.followup_timeout);
        self.awaited.0.push(Pending { link, expires, remaining, secrets, what });
        Payload::Notify(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, link.to_vec()))
    }

    /// Serves IKE_FOLLOWUP_KE.
    pub(super) fn followup_request(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Next {
        let answer = self.follow_up(core, ctx, payloads);
        self.answer(core, ctx, ExchangeType::IKE_FOLLOWUP_KE, answer)
    }

    fn follow_up(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Result<Vec<Payload<'static>>, Denied> {
        let unknown = || Denied::new(Rejection::FollowupUnknown, NotifyType::STATE_NOT_FOUND);
        let link = find_notify(payloads, NotifyType::ADDITIONAL_KEY_EXCHANGE).ok_or_else(unknown)?;
        let Pending { mut remaining, mut secrets, what, .. } =
            self.awaited.take(&link.data).ok_or_else(unknown)?;
        if let Err(denied) = self.still_wanted(&what) {
            self.give_up(ctx, what);
            return Err(denied);
        }
        let method = remaining.pop_front().ok_or_else(unknown)?;
        let agreed = value(payloads, method).and_then(|public| {
            let group = Group::from_iana(method.0).ok_or("no such group")?;
            kex::respond(group, public).map_err(|error| error.to_string())
        });
        let kex::Response { public, shared } = match agreed {
            Ok(agreed) => agreed,
            Err(why) => {
                debug!(connection = %self.connection.name, %why, "additional key exchange failed");
                self.give_up(ctx, what);
                return Err(Denied::new(Rejection::KeyExchange, NotifyType::INVALID_SYNTAX));
            }
        };
        debug!(ike = core.spi, %method, "additional key exchange done");
        secrets.push(shared);
        let mut answer = vec![Payload::Ke(wire::KeyExchange { method, data: public.into() })];
        if remaining.is_empty() {
            self.complete(core, ctx, what, secrets)?;
        } else {
            answer.push(self.await_next(ctx, remaining, secrets, what));
        }
        Ok(answer)
    }

    /// The Child SA that is to be replaced is still there, and stays.
    fn still_wanted(&mut self, what: &What) -> Result<(), Denied> {
        let What::Child(_, Some(old)) = what else { return Ok(()) };
        let to_go = self.is_to_go(*old);
        match self.children.by_inbound(*old) {
            Some(child) if child.stage != Stage::Leaving && !to_go => Ok(()),
            Some(_) => Err(Denied::new(Rejection::Collision, NotifyType::TEMPORARY_FAILURE)),
            None => Err(Denied::new(Rejection::FollowupUnknown, NotifyType::STATE_NOT_FOUND)),
        }
    }

    /// The last key exchange is done.
    fn complete(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        what: What,
        secrets: Vec<Secret>,
    ) -> Result<(), Denied> {
        match what {
            What::Child(mut terms, old) => {
                terms.additional = secrets;
                let pair = make(ctx, core, &self.connection, *terms)?;
                let spi = self.children.accept(ctx, *pair);
                if old.is_none() && !self.children.offer(ctx, spi) {
                    self.inherits = Inherits::UntilAsked;
                }
                Ok(())
            }
            What::Ike(agreed) => self.give_way(core, ctx, &agreed, &secrets),
        }
    }

    /// Gives up what the peer has not gone on with in time.
    pub(super) fn expire_followups(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        self.forget_followups(ctx, |pending| pending.expires <= now);
    }

    /// Nothing of what the peer has under way is made.
    pub(super) fn forget_all_followups(&mut self, ctx: &mut Context<'_>) {
        self.forget_followups(ctx, |_| true);
    }

    /// The peer's rekey that made an IKE SA with this SPI of ours is void.
    pub(super) fn forget_new_ike(&mut self, ctx: &mut Context<'_>, spi: u64) {
        self.forget_followups(ctx, |pending| matches!(&pending.what, What::Ike(agreed) if agreed.spi == spi));
    }

    /// The peer's rekey that was to make a Child SA with this inbound SPI is void.
    pub(super) fn forget_new_child(&mut self, ctx: &mut Context<'_>, spi: u32) {
        self.forget_followups(
            ctx,
            |pending| matches!(&pending.what, What::Child(terms, _) if terms.spi_in == spi),
        );
    }

    /// The peer begins its rekey of a Child SA again.
    pub(super) fn forget_rekey_by_peer(&mut self, ctx: &mut Context<'_>, old: u32) {
        self.forget_followups(ctx, |pending| matches!(pending.what, What::Child(_, Some(spi)) if spi == old));
    }

    fn forget_followups(&mut self, ctx: &mut Context<'_>, mut which: impl FnMut(&Pending) -> bool) {
        for pending in self.awaited.0.extract_if(.., |pending| which(pending)).collect::<Vec<_>>() {
            debug!(connection = %self.connection.name, "additional key exchanges given up");
            self.give_up(ctx, pending.what);
        }
    }

    fn give_up(&mut self, ctx: &mut Context<'_>, what: What) {
        if let What::Child(terms, old) = what {
            ctx.spis.release(terms.spi_in);
            if let Some(old) = old {
                self.children.reopen(old);
            }
        }
    }

    /// The peer refused to go on. It may forget what is under way, but not for ever.
    pub(super) fn note_refusal(&mut self, ctx: &mut Context<'_>, kind: NotifyType) {
        if kind != NotifyType::STATE_NOT_FOUND {
            return;
        }
        self.forgotten = self.forgotten.saturating_add(1);
        if self.forgotten >= ctx.config.peers.followup_retries {
            warn!(connection = %self.connection.name, "peer forgets additional key exchanges again and again");
            self.leave(ctx, DownReason::Rejected(kind));
        }
    }
}
