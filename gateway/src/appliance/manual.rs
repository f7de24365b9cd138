//! Tunnels that are keyed by hand.

use std::sync::Arc;

use anyhow::{Context, Result};
use dataplane::clock;
use dataplane::crypto::Crypto;
use dataplane::sa::{Endpoints, InboundSa, OutboundSa, SaParams, Start, TunnelId};

use super::state::{Kept, State};
use super::tunnels::{RowId, Tunnels};
use crate::config::{Config, ManualSa};

/// One of them.
pub(super) struct Manual {
    pub(super) row: RowId,
    pub(super) endpoints: Endpoints,
    pub(super) outbound: Arc<OutboundSa>,
    pub(super) inbound: Arc<InboundSa>,
}

/// Makes the SAs of the configuration, the first with tunnel id 0. Sequence numbers go on where `state` says.
///
/// # Errors
/// A key that is refused.
pub(super) fn make(
    config: &Config,
    crypto: &Crypto,
    state: Option<&State>,
    tunnels: &mut Tunnels,
) -> Result<Vec<Manual>> {
    let now = clock::now();
    let mut made = Vec::with_capacity(config.manual_sas.len());
    for (name, sa) in &config.manual_sas {
        let id = TunnelId(u32::try_from(made.len()).context("too many tunnels")?);
        let starts = match state {
            Some(state) => state.starts(sa, now).with_context(|| name.clone())?,
            None => (now.into(), now.into()),
        };
        let row = tunnels.add_row(name, Some(sa.local), Some(sa.remote));
        made.push(Manual::new(id, row, sa, crypto, starts).with_context(|| name.clone())?);
    }
    Ok(made)
}

/// The SAs whose sequence numbers are to survive the process.
pub(super) fn kept(manual: &[Manual], config: &Config) -> Vec<Kept> {
    let kept = |(manual, (name, sa)): (&Manual, (&String, &ManualSa))| {
        Kept::new(name, sa, Arc::clone(&manual.outbound), Arc::clone(&manual.inbound))
    };
    manual.iter().zip(&config.manual_sas).map(kept).collect()
}

impl Manual {
    fn new(
        id: TunnelId,
        row: RowId,
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
        Ok(Self { row, endpoints, outbound, inbound })
    }
}
