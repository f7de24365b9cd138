//! CREATE_CHILD_SA for Child SAs, both roles, and its collisions (RFC 7296 s1.3, s2.8.1, s2.25.1).

use tracing::{debug, info};

use super::super::Context;
use super::super::core::Core;
use super::super::established::{
    Active, Established, Inherits, Next, Phase, RETRY_LATER, RETRY_SOON, Rival, Task,
};
use super::super::init::find_notify;
use super::{Denied, Request, Settled, Stage, respond};
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
        let answer = answer.unwrap_or_else(|Denied { rejection, notify }| {
            debug!(connection = %self.connection.name, reason = rejection.name(), notify = %notify.kind, "refused");
            ctx.reject(rejection);
            vec![Payload::Notify(notify)]
        });
        core.respond(ctx, ExchangeType::CREATE_CHILD_SA, &answer);
        Next::Stay
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
        let Some(rekeyed) = find_notify(payloads, NotifyType::REKEY_SA) else {
            let made = respond(ctx, core, &self.connection, payloads, None, None)?;
            // Both ends ask for the same child at once: whoever tries again first makes the one.
            if matches!(&self.active, Some(Active::CreateChild(ours)) if ours.config.name == made.pair.inbound.child.name)
            {
                made.discard(ctx);
                return Err(busy());
            }
            let spi = self.children.accept(ctx, made.pair);
            if !self.children.offer(ctx, spi) {
                self.inherits = Inherits::UntilAsked;
            }
            return Ok(made.payloads);
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
        // RFC 7296 s2.25.1: not while we close it; nor twice.
        if old.stage != Stage::Up {
            return Err(busy());
        }
        let (old_spi, connection) = (old.spi_in, self.connection.clone());
        let made = respond(ctx, core, &connection, payloads, Some(old), None)?;
        old.stage = Stage::Succeeded;
        let lowest = payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(ni) => Some(lower(ni, &made.nr).to_vec()),
            _ => None,
        });
        let spi = self.children.accept(ctx, made.pair);
        if let (Some(Active::RekeyChild { old, rival, .. }), Some(lowest)) = (&mut self.active, lowest)
            && *old == old_spi
        {
            debug!(connection = %connection.name, old = old_spi, "simultaneous rekey of a Child SA");
            *rival = Some(Rival { spi, lowest });
        }
        Ok(made.payloads)
    }

    /// The response to our request for a new Child SA.
    pub(in crate::sa) fn child_response(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        request: Request,
        payloads: &[Payload<'_>],
    ) -> Next {
        let config = request.config.clone();
        match request.settle(ctx, core, &self.connection, payloads, None) {
            Settled::Made(pair, _) => {
                let spi_out = pair.outbound.spi;
                let spi = self.children.accept(ctx, *pair);
                self.children.send_on(ctx, spi);
                self.catch_up(ctx, &request, spi_out);
            }
            Settled::OtherMethod(group) => {
                request.discard(ctx);
                self.add_task(ctx.now, Task::CreateChild { config, group: Some(group) });
            }
            Settled::Refused(NotifyType::TEMPORARY_FAILURE) => {
                request.discard(ctx);
                let at = ctx.now + RETRY_SOON + ctx.jitter(RETRY_SOON);
                self.add_task(at, Task::CreateChild { config, group: None });
            }
            settled => self.child_failed(ctx, request, &settled),
        }
        Next::Stay
    }

    /// The response to our rekey of a Child SA.
    pub(in crate::sa) fn rekey_child_response(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        old: u32,
        request: Request,
        rival: Option<Rival>,
        payloads: &[Payload<'_>],
    ) -> Next {
        match request.settle(ctx, core, &self.connection, payloads, None) {
            Settled::Made(pair, nr) => {
                let lowest = lower(&request.nonce, &nr).to_vec();
                let spi_out = pair.outbound.spi;
                let spi = self.children.accept(ctx, *pair);
                self.resolve(ctx, old, spi, &lowest, rival);
                self.catch_up(ctx, &request, spi_out);
            }
            Settled::OtherMethod(group) => {
                request.discard(ctx);
                self.add_task(ctx.now, Task::RekeyChild { spi: old, group: Some(group) });
            }
            Settled::Refused(NotifyType::CHILD_SA_NOT_FOUND) => {
                let config = request.config.clone();
                request.discard(ctx);
                // RFC 7296 s2.25: ours is silently deleted, and made anew unless the peer already did that.
                let gone = self.children.by_inbound(old).is_some_and(|old| old.stage == Stage::Up);
                if gone {
                    let connection = self.connection.clone();
                    self.children.remove(ctx, &connection, old, &DownReason::PeerDeleted);
                    self.add_task(ctx.now, Task::CreateChild { config, group: None });
                }
            }
            settled => {
                let soon = matches!(settled, Settled::Refused(NotifyType::TEMPORARY_FAILURE));
                let wait = if soon { RETRY_SOON } else { RETRY_LATER };
                if soon {
                    request.discard(ctx);
                } else {
                    self.child_failed(ctx, request, &settled);
                }
                let at = ctx.now + wait + ctx.jitter(wait);
                self.add_task(at, Task::RekeyChild { spi: old, group: None });
            }
        }
        Next::Stay
    }

    /// Our rekey made a Child SA. When the peer made one at the same time, the one whose exchange has the lowest
    /// of the four nonces is redundant, and whoever made it deletes it; whoever made the other one deletes the
    /// old SA (RFC 7296 s2.8.1).
    fn resolve(&mut self, ctx: &mut Context<'_>, old: u32, ours: u32, lowest: &[u8], rival: Option<Rival>) {
        let rival = rival.filter(|rival| self.children.by_inbound(rival.spi).is_some());
        let lost = rival.as_ref().is_some_and(|rival| lowest < rival.lowest.as_slice());
        let delete = if lost {
            info!(connection = %self.connection.name, redundant = ours, "simultaneous rekey: the peer's SA stays");
            ours
        } else {
            if let Some(theirs) = rival.and_then(|rival| self.children.by_inbound(rival.spi)) {
                info!(connection = %self.connection.name, redundant = theirs.spi_in, "simultaneous rekey: our SA stays");
                theirs.stage = Stage::Succeeded;
            }
            self.children.send_on(ctx, ours);
            old
        };
        if let Some(child) = self.children.by_inbound(delete) {
            child.stage = Stage::Leaving;
            let reason = DownReason::Terminated;
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
