//! Tunnels of the configuration, their SAs and the SPD.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use dataplane::clock;
use dataplane::crypto::Crypto;
use dataplane::message::Retired;
use dataplane::policy::{Action, Policy, PolicyId};
use dataplane::sa::counters::SaCounters;
use dataplane::sa::{Endpoints, InboundSa, OutboundSa, SaParams, Spi, Start, TunnelId};

use super::state::{Kept, State};
use crate::config::{ClearAction, Config, ManualSa};

/// All tunnels, by their ids.
pub(super) struct Tunnels {
    tunnels: Vec<Tunnel>,
    policies: Vec<Policy>,
    /// Outbound SAs by the peer's address and SPI, as ICMP errors quote them.
    outbound: HashMap<(IpAddr, Spi), TunnelId>,
}

/// One tunnel with its SAs.
pub(super) struct Tunnel {
    pub(super) name: String,
    pub(super) endpoints: Endpoints,
    pub(super) outbound: Arc<OutboundSa>,
    pub(super) inbound: Arc<InboundSa>,
    /// What SAs carried that are gone: inbound, outbound.
    pub(super) retired: (SaCounters, SaCounters),
}

impl Tunnels {
    /// The tunnels that are keyed by hand, and the policies of the whole configuration. Sequence numbers go on
    /// where `state` says.
    pub(super) fn from_manual(config: &Config, crypto: &Crypto, state: Option<&State>) -> Result<Self> {
        let now = clock::now();
        let mut tunnels = Self { tunnels: Vec::new(), policies: Vec::new(), outbound: HashMap::new() };
        for (name, sa) in &config.manual_sas {
            let id = TunnelId(u32::try_from(tunnels.tunnels.len()).context("too many tunnels")?);
            let starts = match state {
                Some(state) => state.starts(sa, now).with_context(|| name.clone())?,
                None => (now.into(), now.into()),
            };
            let tunnel = Tunnel::manual(id, name, sa, crypto, starts).with_context(|| name.clone())?;
            tunnels.outbound.insert((sa.remote, sa.outbound.spi), id);
            tunnels.tunnels.push(tunnel);
            for selector in &sa.selectors {
                tunnels.add_policy(selector.clone(), Action::Protect(id));
            }
        }
        for policy in &config.policies {
            let action = match policy.action {
                ClearAction::Bypass => Action::Bypass,
                ClearAction::Discard => Action::Discard,
            };
            tunnels.add_policy(policy.selector.clone(), action);
        }
        Ok(tunnels)
    }

    /// The SAs whose sequence numbers are to survive the process.
    pub(super) fn kept(&self, config: &Config) -> Vec<Kept> {
        let kept = |(tunnel, sa): (&Tunnel, &ManualSa)| {
            Kept::new(&tunnel.name, sa, Arc::clone(&tunnel.outbound), Arc::clone(&tunnel.inbound))
        };
        self.tunnels.iter().zip(config.manual_sas.values()).map(kept).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.tunnels.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Tunnel> {
        self.tunnels.iter()
    }

    pub(super) fn get(&self, id: TunnelId) -> Option<&Tunnel> {
        self.tunnels.get(id.0 as usize)
    }

    pub(super) fn get_mut(&mut self, id: TunnelId) -> Option<&mut Tunnel> {
        self.tunnels.get_mut(id.0 as usize)
    }

    /// The tunnel that sends to this peer with this SPI.
    pub(super) fn sending(&self, remote: IpAddr, spi: Spi) -> Option<&Tunnel> {
        self.outbound.get(&(remote, spi)).and_then(|&id| self.get(id))
    }

    /// The only tunnel to a peer, for errors that do not quote an SPI.
    pub(super) fn only_one_to(&self, remote: IpAddr) -> Option<&Tunnel> {
        let mut found = self.tunnels.iter().filter(|tunnel| tunnel.endpoints.remote == remote);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// The SPD, in no order.
    pub(super) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Keeps what an SA carried that a worker has let go.
    pub(super) fn retire(&mut self, sa: &Retired, counters: &SaCounters) {
        let id = match sa {
            Retired::Inbound(sa) => sa.params.tunnel,
            Retired::Outbound(sa) => sa.params.tunnel,
        };
        if let Some(tunnel) = self.get_mut(id) {
            match sa {
                Retired::Inbound(_) => tunnel.retired.0.merge(counters),
                Retired::Outbound(_) => tunnel.retired.1.merge(counters),
            }
        }
    }

    fn add_policy(&mut self, selector: dataplane::policy::Selector, action: Action) {
        let id = PolicyId(self.policies.len() as u32);
        self.policies.push(Policy { id, selector, action });
    }
}

impl Tunnel {
    fn manual(
        id: TunnelId,
        name: &str,
        sa: &ManualSa,
        crypto: &Crypto,
        (sent, received): (Start, Start),
    ) -> Result<Self> {
        let params = SaParams {
            tunnel: id,
            protocol: sa.options.protocol,
            mode: sa.options.mode,
            suite: sa.suite,
            esn: sa.esn,
            lifetime: sa.lifetime,
            ecn: sa.options.ecn,
        };
        let endpoints = Endpoints { local: sa.local, remote: sa.remote, udp: sa.encap };
        let outbound = OutboundSa::new(
            crypto,
            params.clone(),
            sa.outbound.spi,
            sa.options.outbound.clone(),
            &sa.outbound.key,
            sent,
        )?;
        let inbound = InboundSa::new(
            crypto,
            params,
            sa.inbound.spi,
            sa.selectors.clone(),
            endpoints,
            sa.options.replay_window.unwrap_or(0),
            &sa.inbound.key,
            received,
        )?;
        let retired = (SaCounters::default(), SaCounters::default());
        Ok(Self { name: name.to_owned(), endpoints, outbound, inbound, retired })
    }
}
