//! Reauthentication without a gap (RFC 7296 s2.8.3), and the lifetime that a responder sets (RFC 4478).
//!
//! The end that began the IKE SA makes a new one with all children, and deletes the old one when they are all there.
//! The tunnels stay the same for the data plane: only the SAs that they send on change, at the initiator when it has
//! the new Child SA, at the responder when the peer has shown that it has it too. A responder that has `reauth` tells
//! the peer, and waits a tenth longer before it does something itself.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::child::{Stage, Wanted};
use super::core::Core;
use super::established::{Active, Established, Inherits, Phase, Task};
use super::init::find_notify;
use super::{Command, Context, Renewal};
use crate::config::Connection;
use crate::wire::{Notify, NotifyType, Payload};

/// A new attempt is made so long after one that failed.
const RETRY: Duration = Duration::from_secs(15);

/// It is not done more often than this, and a responder waits so much longer than it has said.
const SHORTEST: Duration = Duration::from_secs(10);

/// When we as the initiator authenticate anew.
pub(super) fn initiator_deadline(connection: &Connection, ctx: &mut Context<'_>) -> Option<Instant> {
    let jitter = ctx.jitter(connection.rekey_jitter);
    connection.reauth.map(|after| ctx.now + after.saturating_sub(jitter).max(SHORTEST))
}

/// When the peer should have done it. Then we do it ourselves where we can.
pub(super) fn responder_deadline(connection: &Connection, now: Instant) -> Option<Instant> {
    connection.reauth.map(|after| now + after + (after / 10).max(SHORTEST))
}

/// What a responder says of it.
pub(super) fn lifetime(connection: &Connection) -> Option<Payload<'static>> {
    let seconds = u32::try_from(connection.reauth?.as_secs()).unwrap_or(u32::MAX);
    Some(Payload::Notify(Notify::new(NotifyType::AUTH_LIFETIME, seconds.to_be_bytes().to_vec())))
}

impl Established {
    /// The responder says how long our authentication holds. We are a tenth earlier (RFC 4478 s3).
    pub fn hear_lifetime(&mut self, ctx: &Context<'_>, payloads: &[Payload<'_>]) {
        let lifetime = find_notify(payloads, NotifyType::AUTH_LIFETIME);
        let seconds =
            lifetime.and_then(|notify| <[u8; 4]>::try_from(&*notify.data).ok()).map(u32::from_be_bytes);
        let Some(seconds) = seconds else { return };
        let after =
            Duration::from_secs(u64::from(seconds)).mul_f64(0.9).max(ctx.config.peers.shortest_reauth);
        info!(connection = %self.connection.name, seconds, "peer wants us to authenticate anew");
        let at = ctx.now + after;
        self.reauth_at = Some(self.reauth_at.map_or(at, |ours| ours.min(at)));
    }

    /// Asks for a new IKE SA with what this one has.
    pub fn renew(&mut self, core: &Core, ctx: &mut Context<'_>) {
        self.reauth_at = None;
        let children = self.children_in_use();
        info!(connection = %self.connection.name, ike = core.spi, "authenticating anew");
        ctx.out.commands.push(Command::Renew(Box::new(Renewal {
            old: core.spi,
            connection: self.connection.clone(),
            children,
            path: core.path,
            inner: core.inner.local.clone(),
        })));
    }

    /// The children that it has, each once.
    pub fn children_in_use(&self) -> Vec<Wanted> {
        let mut children: Vec<Wanted> = Vec::new();
        for child in self.children.iter().filter(|child| child.stage == Stage::Up) {
            let wanted = Wanted::again(child);
            if !children.iter().any(|one| wanted.is_covered_by(one)) {
                children.push(wanted);
            }
        }
        children
    }

    /// In use, and not being rekeyed.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Up && self.heir_of.is_none() && !matches!(self.active, Some(Active::RekeyIke(_)))
    }

    /// A new attempt later.
    pub fn renew_later(&mut self, ctx: &mut Context<'_>) {
        warn!(connection = %self.connection.name, "authenticating anew failed; the old IKE SA stays, and it is tried again");
        self.reauth_at = Some(ctx.now + RETRY + ctx.jitter(RETRY));
    }

    /// This IKE SA takes the place of another: when all children are here, that one can go.
    pub fn finish_renewal(&self, core: &mut Core, ctx: &mut Context<'_>) {
        if !core.renews || self.phase != Phase::Up || self.heir_of.is_some() {
            return;
        }
        let creates = |task: &Task| matches!(task, Task::CreateChild { .. });
        let busy = matches!(self.active, Some(Active::CreateChild(_)))
            || self.tasks.iter().any(|(_, task)| creates(task));
        if !busy {
            core.renews = false;
            ctx.out.commands.push(Command::Renewed(core.spi));
        }
    }

    /// The peer has shown that it has this IKE SA, so it has the Child SAs too.
    pub fn take_tunnels(&mut self, ctx: &mut Context<'_>) {
        if std::mem::replace(&mut self.inherits, Inherits::Nothing) != Inherits::Nothing {
            self.children.take_tunnels(ctx);
        }
    }
}
