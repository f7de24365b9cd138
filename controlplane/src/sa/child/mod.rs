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

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::sa::{Mode, TunnelId};

use super::core::Core;
use super::{Command, Context, Retire};
use crate::config::{ChildConfig, Connection, OnDown};
use crate::crypto::{ChildKeys, CryptoError, Secret, keys};
use crate::pool::Released;
use crate::proposal::{self, Chosen};
use crate::selector;
use crate::update::{ChildInstall, ChildSuite, ChildUpdate, DirectionKeys, DownReason, Event};
use crate::wire::{IntegId, ProtocolId, TrafficSelector};

pub(super) use exchange::lower;
pub(super) use request::{Request, Settled};
pub(super) use respond::{Denied, respond};

/// A Child SA: one SA each way.
#[derive(Debug)]
pub(crate) struct Child {
    pub config: Arc<ChildConfig>,
    pub tunnel: TunnelId,
    pub protocol: ProtocolId,
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
}

/// What a tunnel is known by when the peer authenticates anew: connection, child, peer and selectors.
fn tunnel_key(
    ctx: &Context<'_>,
    core: &Core,
    connection: &Connection,
    child: &str,
    (local, remote): (&[TrafficSelector], &[TrafficSelector]),
) -> u64 {
    let selectors = (selector::display(local), selector::display(remote));
    ctx.tunnels.key((&*connection.name, child, core.peer_key, selectors))
}

/// Where a Child SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In use.
    Up,
    /// The peer has made its successor and will delete it.
    Succeeded,
    /// We have made its successor, or it is redundant, or unwanted: our delete is queued or sent.
    Leaving,
}

/// Two directions and what they were negotiated for.
pub(crate) struct Pair {
    pub inbound: Box<ChildInstall>,
    pub outbound: Box<ChildInstall>,
    pub local: Vec<TrafficSelector>,
    pub remote: Vec<TrafficSelector>,
}

/// The negotiated parameters that a [`Pair`] is made from.
pub(super) struct Terms<'a> {
    pub connection: &'a Connection,
    pub config: &'a Arc<ChildConfig>,
    pub tunnel: TunnelId,
    pub chosen: &'a Chosen,
    pub spi_in: u32,
    pub spi_out: u32,
    pub mode: Mode,
    pub local: Vec<TrafficSelector>,
    pub remote: Vec<TrafficSelector>,
    /// We initiated the exchange: KEYMAT starts with what we send (RFC 7296 s2.17).
    pub initiated: bool,
    /// Secret of the exchange's own key exchange.
    pub shared: Option<&'a Secret>,
    pub ni: &'a [u8],
    pub nr: &'a [u8],
}

impl Terms<'_> {
    /// Derives the keys.
    pub fn settle(self, core: &Core) -> Result<Pair, String> {
        let suite = suite(self.chosen)?;
        let (encr_len, integ_len) =
            key_lengths(&suite).ok_or_else(|| format!("no keys for {}", self.chosen))?;
        let protection = core.protection.as_ref().ok_or("no keys yet")?;
        let keymat = keys::child_keymat(
            protection.suite.prf,
            &protection.d,
            self.shared,
            &[],
            self.ni,
            self.nr,
            ChildKeys::keymat_len(encr_len, integ_len),
        )
        .map_err(|error| error.to_string())?;
        let keys = ChildKeys::split(&keymat, encr_len, integ_len).ok_or(CryptoError::Library.to_string())?;
        let initiator = DirectionKeys { encr: keys.encr_i, integ: keys.integ_i };
        let responder = DirectionKeys { encr: keys.encr_r, integ: keys.integ_r };
        let (ours, theirs) = if self.initiated { (initiator, responder) } else { (responder, initiator) };
        let selectors = selector::policies(&self.local, &self.remote)
            .filter(|policies| !policies.is_empty())
            .ok_or("selectors make no policy, or too many")?;
        let install = |spi, keys| {
            Box::new(ChildInstall {
                tunnel: self.tunnel,
                connection: self.connection.name.clone(),
                child: self.config.clone(),
                spi,
                suite,
                keys,
                mode: self.mode,
                selectors: selectors.clone().into(),
                endpoints: core.endpoints(),
            })
        };
        let (inbound, outbound) = (install(self.spi_in, theirs), install(self.spi_out, ours));
        Ok(Pair { inbound, outbound, local: self.local, remote: self.remote })
    }
}

fn suite(chosen: &Chosen) -> Result<ChildSuite, String> {
    let protocol = chosen.proposal.protocol;
    Ok(ChildSuite { protocol, encr: chosen.encr(), integ: chosen.integ(), esn: chosen.esn() })
}

/// Bytes of encryption key with salt, and of integrity key.
fn key_lengths(suite: &ChildSuite) -> Option<(usize, usize)> {
    let encr = match suite.encr {
        Some((id, bits)) => proposal::encr_key_lengths(id, bits).map(|(key, salt)| key + salt)?,
        None => 0,
    };
    let integ = match suite.integ {
        Some(IntegId::NONE) | None => 0,
        Some(id) => proposal::integ_key_length(id)?,
    };
    Some((encr, integ))
}

impl Child {
    /// From negotiated directions. Nothing is installed yet.
    pub fn new(ctx: &mut Context<'_>, pair: Pair) -> (Self, Box<ChildInstall>) {
        let Pair { inbound, outbound, local, remote } = pair;
        let config = inbound.child.clone();
        let jitter = ctx.jitter(config.rekey_jitter);
        let rekey_at = config.rekey.map(|after| ctx.now + after.saturating_sub(jitter));
        let expires_at = config.lifetime.hard.time.map(|after| ctx.now + after);
        let child = Self {
            tunnel: inbound.tunnel,
            protocol: inbound.suite.protocol,
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
    pub fn iter(&self) -> impl Iterator<Item = &Child> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Child> {
        self.0.iter_mut()
    }

    pub fn by_inbound(&mut self, spi: u32) -> Option<&mut Child> {
        self.0.iter_mut().find(|child| child.spi_in == spi)
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
        let at = ctx.now + child.config.grace;
        ctx.out.retire.push(Retire { at, tunnel: child.tunnel, spi: child.spi_in });
        let mut others = self.0.iter().filter(|other| other.tunnel == child.tunnel);
        let successor = others.clone().rfind(|other| other.stage == Stage::Up).map(|other| other.spi_in);
        if others.next().is_none() {
            self.tunnel_down(ctx, connection, &child, reason);
        } else if let Some(successor) = successor.filter(|_| child.active) {
            self.switch(ctx, successor, false);
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
            let (connection, child) = (connection.clone(), Some(child.config.clone()));
            ctx.out.commands.push(Command::Restart { connection, child, after: Duration::ZERO });
        }
    }
}
