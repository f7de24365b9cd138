//! Child SAs: what one is, how its keys come about, and which SA of a tunnel is used.
//!
//! A rekey loses no packet, because at every moment each end can receive on what the other may send on:
//!
//! 1. the responder accepts packets on the new SA before its response is out, and goes on sending on the old;
//! 2. the initiator gets the response: it accepts on the new SA, then sends on it, then deletes the old one;
//! 3. the responder gets the delete: now the initiator surely knows the new SA, so it sends on it too;
//! 4. both accept packets on the old SA for a grace time after its deletion, for those that are under way.

mod exchange;
mod request;
mod respond;
mod terms;
mod wanted;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::sa::TunnelId;

use super::retry::RETRY_UNREACHABLE;
use super::{Command, Context, Retire};
use crate::config::{ChildConfig, Connection, OnDown};
use crate::pool::Released;
use crate::update::{ChildInstall, ChildUpdate, DownReason, Event};
use crate::wire::{ProtocolId, TrafficSelector};

pub(super) use exchange::lower;
pub(super) use request::{Request, Settled};
pub(super) use respond::{Denied, make, respond};
pub(crate) use terms::{Pair, Terms};
pub(crate) use wanted::{LeftOut, SinglePairs, Traffic, Wanted};

/// A tunnel that lasts so long was wanted by both ends.
const SETTLED: Duration = Duration::from_secs(10);

/// A Child SA: one SA each way.
#[derive(Debug)]
pub(crate) struct Child {
    pub config: Arc<ChildConfig>,
    pub tunnel: TunnelId,
    pub protocol: ProtocolId,
    pub since: Instant,
    /// Our SPI, which names it.
    pub spi_in: u32,
    /// The peer's SPI.
    pub spi_out: u32,
    pub stage: Stage,
    /// The outbound SA, as long as the tunnel does not send on it yet.
    pub waiting: Option<Box<ChildInstall>>,
    /// The tunnel sends on it.
    pub active: bool,
    pub rekey_at: Option<Instant>,
    pub expires_at: Option<Instant>,
    /// Negotiated selectors, which a rekey proposes again.
    pub local: Vec<TrafficSelector>,
    pub remote: Vec<TrafficSelector>,
    /// That is less than the configuration names.
    pub narrowed: bool,
}

/// Where a Child SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In use.
    Up,
    /// The peer has made its successor and will delete it, or is about to make one: there are additional key
    /// exchanges left to do (RFC 9370 s2.2.4).
    Succeeded,
    /// We have made its successor, or it is redundant, or unwanted: our delete is queued or sent.
    Leaving,
}

impl Child {
    /// From negotiated directions. Nothing is installed yet.
    pub fn new(ctx: &mut Context<'_>, pair: Pair) -> (Self, Box<ChildInstall>) {
        let Pair { inbound, outbound, local, remote, narrowed } = pair;
        let config = inbound.child.clone();
        let jitter = ctx.jitter(config.rekey_jitter);
        let rekey_at = config.rekey.map(|after| ctx.now + after.saturating_sub(jitter));
        let expires_at = config.lifetime.hard.time.map(|after| ctx.now + after);
        let child = Self {
            tunnel: inbound.tunnel,
            protocol: inbound.suite.protocol,
            since: ctx.now,
            spi_in: inbound.spi,
            spi_out: outbound.spi,
            stage: Stage::Up,
            waiting: Some(outbound),
            active: false,
            rekey_at,
            expires_at,
            config,
            local,
            remote,
            narrowed,
        };
        (child, inbound)
    }

    /// When the child itself wants something done.
    pub fn deadline(&self) -> Option<Instant> {
        let rekey = self.rekey_at.filter(|_| self.stage == Stage::Up);
        let expires = self.expires_at.filter(|_| self.stage != Stage::Leaving);
        rekey.into_iter().chain(expires).min()
    }
}

/// The Child SAs of an IKE SA.
#[derive(Debug, Default)]
pub(crate) struct Children(Vec<Child>);

impl Children {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Child> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Child> {
        self.0.iter_mut()
    }

    pub fn by_inbound(&mut self, spi: u32) -> Option<&mut Child> {
        self.0.iter_mut().find(|child| child.spi_in == spi)
    }

    /// Nothing comes of what was to succeed this one: it can be rekeyed again.
    pub fn reopen(&mut self, spi_in: u32) {
        let Some(tunnel) = self.by_inbound(spi_in).map(|child| child.tunnel) else { return };
        let others = |child: &&Child| child.tunnel == tunnel && child.spi_in != spi_in;
        if self.0.iter().filter(others).any(|other| other.stage == Stage::Up) {
            return;
        }
        if let Some(child) = self.by_inbound(spi_in).filter(|child| child.stage == Stage::Succeeded) {
            child.stage = Stage::Up;
        }
    }

    pub fn by_outbound(&mut self, protocol: ProtocolId, spi: u32) -> Option<&mut Child> {
        self.0.iter_mut().find(|child| child.spi_out == spi && child.protocol == protocol)
    }

    /// Starts to accept packets on a new Child SA.
    pub fn accept(&mut self, ctx: &mut Context<'_>, pair: Pair) -> u32 {
        let (child, inbound) = Child::new(ctx, pair);
        let spi = child.spi_in;
        ctx.tunnels.hold(inbound.tunnel);
        ctx.out.updates.push_back(ChildUpdate::AddInbound(inbound));
        self.0.push(child);
        spi
    }

    /// Starts to send on a Child SA, instead of on the one before. The peer has it.
    pub fn send_on(&mut self, ctx: &mut Context<'_>, spi_in: u32) {
        let Some(tunnel) = self.by_inbound(spi_in).map(|child| child.tunnel) else { return };
        let taken = ctx.tunnels.take(tunnel, ctx.ike);
        let first = !taken && !self.0.iter().any(|child| child.tunnel == tunnel && child.active);
        self.switch(ctx, spi_in, first);
    }

    /// Starts to send on a Child SA that the peer may not have yet, unless the tunnel is still another IKE SA's, which
    /// goes on carrying it. `false` in that case.
    pub fn offer(&mut self, ctx: &mut Context<'_>, spi_in: u32) -> bool {
        let Some(tunnel) = self.by_inbound(spi_in).map(|child| child.tunnel) else { return true };
        let ours = ctx.tunnels.owner(tunnel) == Some(ctx.ike);
        if ours {
            self.send_on(ctx, spi_in);
        }
        ours
    }

    /// Starts to send on all Child SAs that wait for the peer to know this IKE SA.
    pub fn take_tunnels(&mut self, ctx: &mut Context<'_>) {
        // The oldest one of a tunnel: of a later one, from a rekey, the peer may not know yet.
        let waiting = self.0.iter().filter(|child| child.stage != Stage::Leaving && child.waiting.is_some());
        for (spi, tunnel) in waiting.map(|child| (child.spi_in, child.tunnel)).collect::<Vec<_>>() {
            if ctx.tunnels.take(tunnel, ctx.ike) {
                self.switch(ctx, spi, false);
            }
        }
    }

    /// The tunnel's holder is gone, and it is ours now.
    pub fn inherit_tunnel(&mut self, ctx: &mut Context<'_>, tunnel: TunnelId) {
        let fits = |child: &&Child| child.stage != Stage::Leaving && child.waiting.is_some();
        let child = self.0.iter().filter(|child| child.tunnel == tunnel).find(fits);
        if let Some(spi) = child.map(|child| child.spi_in) {
            self.switch(ctx, spi, false);
        }
    }

    fn switch(&mut self, ctx: &mut Context<'_>, spi_in: u32, first: bool) {
        let Some(child) = self.by_inbound(spi_in) else { return };
        if ctx.tunnels.owner(child.tunnel) != Some(ctx.ike) {
            return;
        }
        let Some(outbound) = child.waiting.take() else { return };
        let tunnel = child.tunnel;
        self.0
            .iter_mut()
            .filter(|child| child.tunnel == tunnel)
            .for_each(|child| child.active = child.spi_in == spi_in);
        let (connection, child) = (outbound.connection.clone(), outbound.child.name.clone());
        ctx.out.updates.push_back(ChildUpdate::SetOutbound(outbound));
        ctx.out.events.push_back(if first {
            Event::ChildUp { connection, child, tunnel }
        } else {
            Event::ChildRekeyed { connection, child, tunnel, spi: spi_in }
        });
    }

    /// Removes a Child SA. The tunnel goes over to its successor, or is down when there is none. Packets that
    /// are under way are accepted for the grace time.
    pub fn remove(
        &mut self,
        ctx: &mut Context<'_>,
        connection: &Arc<Connection>,
        spi_in: u32,
        reason: &DownReason,
    ) -> Option<Child> {
        let index = self.0.iter().position(|child| child.spi_in == spi_in)?;
        let child = self.0.remove(index);
        // What was to replace it is gone too: the peer has deleted that, and the tunnel ends by it.
        let reason = if *reason == DownReason::Replaced { &DownReason::PeerDeleted } else { reason };
        let at = ctx.now + child.config.grace;
        ctx.out.retire.push(Retire { at, tunnel: child.tunnel, spi: child.spi_in });
        let mut others = self.0.iter().filter(|other| other.tunnel == child.tunnel);
        let successor = others.clone().rfind(|other| other.stage == Stage::Up).map(|other| other.spi_in);
        let reopened = others.clone().find(|other| other.stage == Stage::Succeeded).map(|other| other.spi_in);
        if others.next().is_none() {
            self.tunnel_down(ctx, connection, &child, reason);
        } else if let Some(successor) = successor.filter(|_| child.active) {
            self.switch(ctx, successor, false);
        }
        // The peer has deleted what was to succeed this one.
        if let Some(reopened) = reopened {
            self.reopen(reopened);
        }
        Some(child)
    }

    /// Removes everything at once: the IKE SA is gone. Grace is for tunnels that another IKE SA goes on with.
    pub fn clear(&mut self, ctx: &mut Context<'_>, connection: &Arc<Connection>, reason: &DownReason) {
        while let Some(child) = self.0.pop() {
            let goes_on = ctx.tunnels.outlives(child.tunnel, ctx.ike);
            let at = if goes_on { ctx.now + child.config.grace } else { ctx.now };
            ctx.out.retire.push(Retire { at, tunnel: child.tunnel, spi: child.spi_in });
            if !self.0.iter().any(|other| other.tunnel == child.tunnel) {
                self.tunnel_down(ctx, connection, &child, reason);
            }
        }
    }

    /// Hands all of them over.
    pub fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
    }

    fn tunnel_down(
        &self,
        ctx: &mut Context<'_>,
        connection: &Arc<Connection>,
        child: &Child,
        reason: &DownReason,
    ) {
        match ctx.tunnels.release(child.tunnel, ctx.ike) {
            Released::Gone => {}
            Released::Kept => return,
            Released::Inherited(ike) => {
                return ctx.out.commands.push(Command::TakeTunnel { ike, tunnel: child.tunnel });
            }
        }
        ctx.out.updates.push_back(ChildUpdate::RemoveOutbound(child.tunnel));
        ctx.out.events.push_back(Event::ChildDown {
            connection: connection.name.clone(),
            child: child.config.name.clone(),
            tunnel: child.tunnel,
            reason: reason.clone(),
        });
        let wanted = !matches!(reason, DownReason::Terminated | DownReason::Replaced);
        if wanted && connection.on_down == OnDown::Restart {
            // A peer that takes it away again and again is not asked as fast as it can do that.
            let wait = if ctx.now < child.since + SETTLED { RETRY_UNREACHABLE } else { Duration::ZERO };
            let after = wait + ctx.jitter(wait);
            // With what the peer allows now; what it leaves out comes with a packet, if at all.
            let (connection, child) = (connection.clone(), Some(Wanted::all(&child.config)));
            ctx.out.commands.push(Command::Restart { connection, child, after });
        }
    }
}
