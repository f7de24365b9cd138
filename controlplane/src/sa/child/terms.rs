//! What both ends agreed on for a Child SA, and its keys (RFC 7296 s2.17, RFC 9370 s2.2.4).

use std::sync::Arc;

use dataplane::sa::{Mode, TunnelId};

use super::super::Context;
use super::super::core::Core;
use super::lower;
use super::wanted::is_narrowed;
use crate::config::{ChildConfig, Connection};
use crate::crypto::{ChildKeys, CryptoError, Secret, keys};
use crate::proposal::{self, Chosen};
use crate::rejection::Rejection;
use crate::selector;
use crate::update::{ChildInstall, ChildSuite, DirectionKeys};
use crate::wire::{IntegId, TrafficSelector};

/// Two directions and what they were negotiated for.
pub(crate) struct Pair {
    pub inbound: Box<ChildInstall>,
    pub outbound: Box<ChildInstall>,
    pub local: Vec<TrafficSelector>,
    pub remote: Vec<TrafficSelector>,
    /// They are less than the configuration names.
    pub narrowed: bool,
}

/// The negotiated parameters that a [`Pair`] is made from, once all key exchanges are done.
pub(crate) struct Terms {
    pub config: Arc<ChildConfig>,
    /// Of the Child SA that is replaced.
    pub tunnel: Option<TunnelId>,
    pub chosen: Chosen,
    pub spi_in: u32,
    pub spi_out: u32,
    pub mode: Mode,
    pub local: Vec<TrafficSelector>,
    pub remote: Vec<TrafficSelector>,
    /// We initiated the exchange: KEYMAT starts with what we send (RFC 7296 s2.17).
    pub initiated: bool,
    /// Secret of the exchange's own key exchange.
    pub shared: Option<Secret>,
    /// Secrets of the additional key exchanges, in their order.
    pub additional: Vec<Secret>,
    pub ni: Vec<u8>,
    pub nr: Vec<u8>,
}

impl Terms {
    /// Whether a Child SA can be made of them.
    pub fn check(&self, ctx: &Context<'_>) -> Result<(), (Rejection, String)> {
        self.suite().map_err(|why| (Rejection::NoProposal, why))?;
        self.policies(ctx).map(|_| ())
    }

    /// The lower nonce of the exchange (RFC 7296 s2.8.1).
    pub fn lowest(&self) -> &[u8] {
        lower(&self.ni, &self.nr)
    }

    /// Derives the keys.
    pub fn settle(
        self,
        ctx: &mut Context<'_>,
        core: &Core,
        connection: &Connection,
    ) -> Result<Box<Pair>, String> {
        let (suite, encr_len, integ_len) = self.suite()?;
        let protection = core.protection.as_ref().ok_or("no keys yet")?;
        let keymat = keys::child_keymat(
            protection.suite.prf,
            &protection.d,
            self.shared.as_ref(),
            &self.additional,
            &self.ni,
            &self.nr,
            ChildKeys::keymat_len(encr_len, integ_len),
        )
        .map_err(|error| error.to_string())?;
        let keys = ChildKeys::split(&keymat, encr_len, integ_len).ok_or(CryptoError::Library.to_string())?;
        let initiator = DirectionKeys { encr: keys.encr_i, integ: keys.integ_i };
        let responder = DirectionKeys { encr: keys.encr_r, integ: keys.integ_r };
        let (ours, theirs) = if self.initiated { (initiator, responder) } else { (responder, initiator) };
        let selectors = self.policies(ctx).map_err(|(_, why)| why)?;
        let tunnel = self.tunnel.unwrap_or_else(|| self.new_tunnel(ctx, core, connection));
        let install = |spi, keys| {
            Box::new(ChildInstall {
                tunnel,
                connection: connection.name.clone(),
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
        let narrowed = is_narrowed(&self.config, core, connection, (&self.local, &self.remote));
        Ok(Box::new(Pair { inbound, outbound, local: self.local, remote: self.remote, narrowed }))
    }

    fn suite(&self) -> Result<(ChildSuite, usize, usize), String> {
        let Self { chosen, .. } = self;
        let protocol = chosen.proposal.protocol;
        let suite = ChildSuite { protocol, encr: chosen.encr(), integ: chosen.integ(), esn: chosen.esn() };
        let (encr_len, integ_len) = key_lengths(&suite).ok_or_else(|| format!("no keys for {chosen}"))?;
        Ok((suite, encr_len, integ_len))
    }

    fn policies(&self, ctx: &Context<'_>) -> Result<Vec<dataplane::policy::Selector>, (Rejection, String)> {
        let most = ctx.config.peers.policies;
        match selector::policies(&self.local, &self.remote, most) {
            Some(policies) if !policies.is_empty() => Ok(policies),
            Some(_) => Err((Rejection::Selectors, "selectors make no policy".into())),
            None => Err((Rejection::PolicyLimit, format!("selectors make more than {most} policies"))),
        }
    }

    /// A tunnel of its own, or the one that this takes over when the peer authenticates anew: connection, child, peer
    /// and selectors say which.
    fn new_tunnel(&self, ctx: &mut Context<'_>, core: &Core, connection: &Connection) -> TunnelId {
        let selectors = (selector::display(&self.local), selector::display(&self.remote));
        let key = ctx.tunnels.key((&*connection.name, &*self.config.name, core.peer_key, selectors));
        let older = if !self.initiated {
            // When each end begins an IKE SA, neither of the two takes the place of the other.
            ctx.tunnels.share(core.spi, key, core.since, Some(core.began))
        } else if core.renews {
            ctx.tunnels.share(core.spi, key, ctx.now, None)
        } else {
            None
        };
        older.unwrap_or_else(|| ctx.tunnels.allocate(core.spi, key, core.since, core.began))
    }
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
