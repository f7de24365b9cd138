//! CREATE_CHILD_SA for Child SAs, both roles, and its collisions (RFC 7296 s1.3, s2.8.1, s2.25.1).

use tracing::{debug, info};

use super::super::Context;
use super::super::core::Core;
use super::super::established::{
    Active, Established, Inherits, Next, Phase, RETRY_LATER, RETRY_SOON, Rival, Task,
};
use super::super::followup::What;
use super::super::init::find_notify;
use super::respond::{Answer, negotiate};
use super::{Denied, Request, Settled, Stage, make};
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{ExchangeType, Notify, NotifyType, Payload, ProtocolId};

/// The lower of the two nonces of an exchange; the lowest of four loses (RFC 7296 s2.8.1).
pub(in crate::sa) fn lower<'a>(ni: &'a [u8], nr: &'a [u8]) -> &'a [u8] {
    ni.min(nr)
}

impl Established {
    /// Serves CREATE_CHILD_SA of any kind.
    pub(in crate::sa) fn create_child_request(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Next {
        let for_ike = payloads.iter().any(|payload| {
            matches!(payload, Payload::Sa(proposals) if proposals.iter().any(|one| one.protocol == ProtocolId::IKE))
        });
        let answer = if for_ike {
            self.rekey_ike_request(core, ctx, payloads)
        } else {
            self.child_request(core, ctx, payloads)
        };
        self.answer(core, ctx, ExchangeType::CREATE_CHILD_SA, answer)
    }

    fn child_request(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Result<Vec<Payload<'static>>, Denied> {
        let busy = || Denied::new(Rejection::Collision, NotifyType::TEMPORARY_FAILURE);
        // RFC 7296 s2.25.2: while the IKE SA is rekeyed or closed, no Child SA is made on it.
        if self.phase != Phase::Up || matches!(self.active, Some(Active::RekeyIke(_))) {
            return Err(busy());
        }
        // The peer is rekeying the IKE SA; if it has given up without a word, that is over soon.
        if self.awaited.rekeys_ike() {
            return Err(busy());
        }
        let rekey = find_notify(payloads, NotifyType::REKEY_SA);
        // A rekey makes one more for a while.
        let most = ctx.config.peers.children * if rekey.is_some() { 2 } else { 1 };
        if self.children.len() >= most {
            return Err(Denied::new(Rejection::ChildLimit, NotifyType::NO_ADDITIONAL_SAS));
        }
        let Some(rekeyed) = rekey else {
            let connection = self.connection.clone();
            let made = negotiate(ctx, core, &connection, payloads, None, None)?;
            // Both ends ask for the same child at once: whoever tries again first makes the one.
            if matches!(&self.active, Some(Active::CreateChild(ours)) if ours.config.name == made.terms.config.name)
            {
                made.discard(ctx);
                return Err(busy());
            }
            return self.agree(core, ctx, made, None);
        };
        let spi_out =
            rekeyed.child_spi().ok_or_else(|| Denied::new(Rejection::Syntax, NotifyType::INVALID_SYNTAX))?;
        let protocol = rekeyed.protocol;
        let Some(old) = self.children.by_outbound(protocol, spi_out) else {
            // It may be what the peer made for our request, whose response is late. Were it told that there is no
            // such SA, it would drop it, and the response would then give it to us alone.
            if self.child_asked_for().is_some() {
                return Err(busy());
            }
            // RFC 7296 s2.25: the notify names the SPI that was not found.
            let notify = Notify::about_child(NotifyType::CHILD_SA_NOT_FOUND, protocol, spi_out);
            return Err(Denied { rejection: Rejection::ChildNotFound, notify });
        };
        let old = old.spi_in;
        // The peer has forgotten the rekey that it had begun.
        self.forget_rekey_by_peer(ctx, old);
        let ours = matches!(&self.active, Some(Active::RekeyChild { old: ours, .. }) if *ours == old);
        // RFC 9370 s2.2.4: our own rekey is past the exchange that could cross this one.
        if ours && self.child_asked_for().is_some_and(|request| request.lowest().is_some()) {
            return Err(busy());
        }
        if self.is_to_go(old) {
            return Err(busy());
        }
        // RFC 7296 s2.25.1: not while we close it; nor twice.
        let Some(rekeyed) = self.children.by_inbound(old).filter(|old| old.stage == Stage::Up) else {
            return Err(busy());
        };
        let connection = self.connection.clone();
        let made = negotiate(ctx, core, &connection, payloads, Some(rekeyed), None)?;
        let (spi, lowest) = (made.terms.spi_in, made.terms.lowest().to_vec());
        let answer = self.agree(core, ctx, made, Some(old))?;
        if let Some(child) = self.children.by_inbound(old) {
            child.stage = Stage::Succeeded;
        }
        if let (true, Some(Active::RekeyChild { rival, .. })) = (ours, &mut self.active) {
            debug!(connection = %connection.name, old, "simultaneous rekey of a Child SA");
            *rival = Some(Rival { spi, lowest, went_on: false });
        }
        Ok(answer)
    }

    /// Makes the Child SA that we agree to, at once or when the additional key exchanges are done.
    fn agree(
        &mut self,
        core: &Core,
        ctx: &mut Context<'_>,
        made: Answer,
        old: Option<u32>,
    ) -> Result<Vec<Payload<'static>>, Denied> {
        let methods = made.terms.chosen.additional();
        if methods.is_empty() {
            let pair = make(ctx, core, &self.connection, made.terms)?;
            let spi = self.children.accept(ctx, *pair);
            if old.is_none() && !self.children.offer(ctx, spi) {
                self.inherits = Inherits::UntilAsked;
            }
            return Ok(made.payloads);
        }
        if self.awaits_too_much(ctx) {
            made.discard(ctx);
            return Err(Denied::new(Rejection::FollowupLimit, NotifyType::TEMPORARY_FAILURE));
        }
        let Answer { terms, mut payloads } = made;
        payloads.push(self.await_followup(ctx, methods, What::Child(Box::new(terms), old)));
        Ok(payloads)
    }

    /// The response to our request for a new Child SA.
    pub(in crate::sa) fn child_response(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        mut request: Request,
        payloads: &[Payload<'_>],
    ) -> Next {
        let wanted = request.wanted();
        match request.settle(ctx, core, &self.connection, payloads, None) {
            Settled::More if matches!(self.phase, Phase::Leaving(_)) => request.discard(ctx),
            Settled::More => {
                self.request_followup(core, ctx, &request);
                self.active = Some(Active::CreateChild(Box::new(request)));
            }
            Settled::Made(pair, _) => {
                self.forgotten = 0;
                let spi_out = pair.outbound.spi;
                let spi = self.children.accept(ctx, *pair);
                self.children.send_on(ctx, spi);
                self.catch_up(ctx, &request, spi_out);
            }
            Settled::OtherMethod(group) => {
                request.discard(ctx);
                self.add_task(ctx.now, Task::CreateChild { wanted, group: Some(group) });
            }
            Settled::Refused(kind @ (NotifyType::TEMPORARY_FAILURE | NotifyType::STATE_NOT_FOUND)) => {
                request.discard(ctx);
                self.note_refusal(ctx, kind);
                let at = ctx.now + RETRY_SOON + ctx.jitter(RETRY_SOON);
                self.add_task(at, Task::CreateChild { wanted, group: None });
            }
            settled => self.ask_for_less_or_fail(ctx, request, &settled),
        }
        Next::Stay
    }

    /// The response to our rekey of a Child SA.
    pub(in crate::sa) fn rekey_child_response(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        old: u32,
        mut request: Request,
        rival: Option<Rival>,
        payloads: &[Payload<'_>],
    ) -> Next {
        match request.settle(ctx, core, &self.connection, payloads, None) {
            Settled::More if matches!(self.phase, Phase::Leaving(_)) || self.is_to_go(old) => {
                request.discard(ctx);
            }
            Settled::More if self.yields(ctx, &request, rival.as_ref()) => {
                request.discard(ctx);
                // If nothing comes of the peer's.
                self.add_task(ctx.now, Task::RekeyChild { spi: old, group: None });
            }
            Settled::More => {
                self.request_followup(core, ctx, &request);
                self.active = Some(Active::RekeyChild { old, request: Box::new(request), rival });
            }
            Settled::Made(pair, lowest) => {
                self.forgotten = 0;
                let spi_out = pair.outbound.spi;
                let spi = self.children.accept(ctx, *pair);
                if self.is_to_go(old) {
                    // The tunnel was taken down meanwhile, so this goes too.
                    self.add_task(ctx.now, Task::DeleteChild { spi, reason: DownReason::Terminated });
                }
                self.resolve(ctx, old, spi, &lowest, rival);
                self.catch_up(ctx, &request, spi_out);
            }
            Settled::OtherMethod(group) => {
                request.discard(ctx);
                self.add_task(ctx.now, Task::RekeyChild { spi: old, group: Some(group) });
            }
            Settled::Refused(NotifyType::CHILD_SA_NOT_FOUND) => {
                let wanted = request.wanted();
                request.discard(ctx);
                // RFC 7296 s2.25: ours is silently deleted, and made anew unless the peer already did that.
                let gone = self.children.by_inbound(old).is_some_and(|old| old.stage == Stage::Up);
                if gone {
                    let connection = self.connection.clone();
                    self.children.remove(ctx, &connection, old, &DownReason::PeerDeleted);
                    self.add_task(ctx.now, Task::CreateChild { wanted, group: None });
                }
            }
            settled => {
                let wait = match settled {
                    Settled::Refused(
                        kind @ (NotifyType::TEMPORARY_FAILURE | NotifyType::STATE_NOT_FOUND),
                    ) => {
                        request.discard(ctx);
                        self.note_refusal(ctx, kind);
                        RETRY_SOON
                    }
                    _ => {
                        self.child_failed(ctx, request, &settled);
                        RETRY_LATER
                    }
                };
                let at = ctx.now + wait + ctx.jitter(wait);
                self.add_task(at, Task::RekeyChild { spi: old, group: None });
            }
        }
        Next::Stay
    }

    fn request_followup(&mut self, core: &mut Core, ctx: &mut Context<'_>, request: &Request) {
        if let Some(payloads) = request.followup() {
            core.request(ctx, ExchangeType::IKE_FOLLOWUP_KE, &payloads);
        }
    }

    /// The peer agreed to our rekey of a Child SA, and additional key exchanges come next. When the peer began a rekey
    /// of it at the same time, whoever began the exchange with the lowest nonce stops here, since there is nothing to
    /// delete yet (RFC 9370 s2.2.4).
    fn yields(&mut self, ctx: &mut Context<'_>, request: &Request, rival: Option<&Rival>) -> bool {
        let Some(rival) = rival.filter(|rival| self.child_is_there(rival)) else { return false };
        if request.lowest().is_some_and(|lowest| lowest < rival.lowest.as_slice()) {
            info!(connection = %self.connection.name, "simultaneous rekey: the peer's goes on");
            return true;
        }
        info!(connection = %self.connection.name, "simultaneous rekey: ours goes on");
        self.forget_new_child(ctx, rival.spi);
        false
    }

    /// What the peer made in a rekey that crossed ours is there, or comes, or has a successor already.
    fn child_is_there(&mut self, rival: &Rival) -> bool {
        rival.went_on || self.children.by_inbound(rival.spi).is_some() || self.awaited.makes_child(rival.spi)
    }

    /// The peer deletes a Child SA after it has made its successor. Our rekey that crossed its own may still wait for a
    /// response that is late.
    pub(in crate::sa) fn note_went_on(&mut self, spi_in: u32) {
        if let Some(Active::RekeyChild { rival: Some(rival), .. }) = &mut self.active
            && rival.spi == spi_in
        {
            rival.went_on = true;
        }
    }

    /// Our rekey made a Child SA. When the peer made one at the same time, the one whose exchange has the lowest
    /// of the four nonces is redundant, and whoever made it deletes it; whoever made the other one deletes the
    /// old SA (RFC 7296 s2.8.1).
    fn resolve(&mut self, ctx: &mut Context<'_>, old: u32, ours: u32, lowest: &[u8], rival: Option<Rival>) {
        let rival = rival.filter(|rival| self.child_is_there(rival));
        let lost = rival.as_ref().is_some_and(|rival| lowest < rival.lowest.as_slice());
        let delete = if lost {
            info!(connection = %self.connection.name, redundant = ours, "simultaneous rekey: the peer's SA stays");
            ours
        } else {
            if let Some(rival) = &rival {
                self.forget_new_child(ctx, rival.spi);
            }
            if let Some(theirs) = rival.and_then(|rival| self.children.by_inbound(rival.spi)) {
                info!(connection = %self.connection.name, redundant = theirs.spi_in, "simultaneous rekey: our SA stays");
                theirs.stage = Stage::Succeeded;
            }
            self.children.send_on(ctx, ours);
            old
        };
        if let Some(child) = self.children.by_inbound(delete) {
            child.stage = Stage::Leaving;
            let reason = DownReason::Replaced;
            self.add_task(ctx.now, Task::DeleteChild { spi: delete, reason });
        }
    }

    /// The peer's delete of what it made for our request came before the response, which was lost or late. Each end
    /// has message IDs of its own (RFC 7296 s2.2), so nothing keeps the two in order. All is as if they had come in
    /// order.
    fn catch_up(&mut self, ctx: &mut Context<'_>, request: &Request, spi_out: u32) {
        if request.was_deleted(spi_out) {
            self.delete_child(ctx, request.config.protocol, spi_out);
        }
    }

    /// An operator wants this Child SA gone, and its delete is queued.
    pub(in crate::sa) fn is_to_go(&self, spi_in: u32) -> bool {
        self.tasks.iter().any(|(_, task)| {
            matches!(task, Task::DeleteChild { spi, reason: DownReason::Terminated } if *spi == spi_in)
        })
    }

    /// Our request for a Child SA that is under way.
    pub(in crate::sa) fn child_asked_for(&mut self) -> Option<&mut Request> {
        match &mut self.active {
            Some(Active::CreateChild(request) | Active::RekeyChild { request, .. }) => Some(request),
            _ => None,
        }
    }

    /// A Child SA is gone whose rekey we asked for: if the peer still agrees, it is a new tunnel.
    pub(in crate::sa) fn forget_rekey_of(&mut self, old: u32) {
        if let Some(Active::RekeyChild { old: rekeyed, request, .. }) = &mut self.active
            && *rekeyed == old
        {
            request.forget_tunnel();
        }
    }
}
