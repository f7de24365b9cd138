//! A Child SA that we want, and for which traffic (RFC 7296 s2.9).
//!
//! A child of the configuration may need several Child SAs: the peer narrows what we propose, and what it leaves out is
//! asked for when a packet comes that needs it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::super::Context;
use super::super::configuration::{local_hosts, remote_hosts};
use super::super::core::Core;
use super::Child;
use crate::config::{ChildConfig, Connection};
use crate::selector::{self, Packet};
use crate::wire::TrafficSelector;

/// A Child SA that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub config: Arc<ChildConfig>,
    pub traffic: Traffic,
}

/// What it is to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// All that the configuration names.
    All,
    /// The same, and above all this packet.
    Packet(Packet),
    /// The two hosts of this packet and nothing else: the peer makes no other Child SAs (SINGLE_PAIR_REQUIRED).
    Alone(Packet),
    /// What the peer has narrowed it to before: local and remote.
    Same(Box<(Vec<TrafficSelector>, Vec<TrafficSelector>)>),
}

impl Wanted {
    /// All that the configuration names.
    pub fn all(config: &Arc<ChildConfig>) -> Self {
        Self { config: config.clone(), traffic: Traffic::All }
    }

    /// What this one carries, once more.
    pub fn again(child: &Child) -> Self {
        let traffic = if child.narrowed {
            Traffic::Same(Box::new((child.local.clone(), child.remote.clone())))
        } else {
            Traffic::All
        };
        Self { config: child.config.clone(), traffic }
    }

    /// The selectors to propose, local and remote. Those of the packet that asks come first (RFC 7296 s2.9).
    pub fn selectors(
        &self,
        core: &Core,
        connection: &Connection,
    ) -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
        let (mut local, mut remote) = configured(&self.config, core, connection);
        match &self.traffic {
            Traffic::All => {}
            Traffic::Same(selectors) => (local, remote) = (**selectors).clone(),
            Traffic::Alone(packet) => {
                if let Some((ours, theirs)) = packet.hosts(&local, &remote) {
                    (local, remote) = (vec![ours], vec![theirs]);
                }
            }
            Traffic::Packet(packet) => {
                if let Some((ours, theirs)) = packet.within(&local, &remote) {
                    for (side, first) in [(&mut local, ours), (&mut remote, theirs)] {
                        side.truncate(selector::MAX_SELECTORS - 1);
                        side.insert(0, first);
                    }
                }
            }
        }
        (local, remote)
    }

    /// The packet that it is wanted for.
    pub fn packet(&self) -> Option<&Packet> {
        match &self.traffic {
            Traffic::Packet(packet) | Traffic::Alone(packet) => Some(packet),
            Traffic::All | Traffic::Same(_) => None,
        }
    }

    /// This Child SA is what is wanted.
    pub fn is_met_by(&self, child: &Child) -> bool {
        let fits = match &self.traffic {
            Traffic::All => true,
            Traffic::Packet(packet) | Traffic::Alone(packet) => {
                packet.within(&child.local, &child.remote).is_some()
            }
            Traffic::Same(selectors) => selectors.0 == child.local && selectors.1 == child.remote,
        };
        fits && self.is_of(&child.config)
    }

    /// Whoever gets the other one gets this one, as far as can be said before the peer has narrowed it.
    pub fn is_covered_by(&self, other: &Self) -> bool {
        let first = |traffic: &Traffic| !matches!(traffic, Traffic::Same(_));
        let both_first = first(&self.traffic) && first(&other.traffic);
        self.is_of(&other.config) && (both_first || self.traffic == other.traffic)
    }

    pub fn is_of(&self, config: &ChildConfig) -> bool {
        self.config.name == config.name
    }
}

/// The peer keeps to less than the configuration names. With the hosts' own addresses that is not said, since they change.
pub(super) fn is_narrowed(
    config: &ChildConfig,
    core: &Core,
    connection: &Connection,
    (local, remote): (&[TrafficSelector], &[TrafficSelector]),
) -> bool {
    let (all_local, all_remote) = configured(config, core, connection);
    let dynamic = [&config.local, &config.remote].into_iter().any(|side| selector::is_dynamic(side));
    !dynamic && (selector::minimal(&all_local) != local || selector::minimal(&all_remote) != remote)
}

fn configured(
    config: &ChildConfig,
    core: &Core,
    connection: &Connection,
) -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
    let local = selector::resolve(&config.local, &local_hosts(core, connection));
    (local, selector::resolve(&config.remote, &remote_hosts(core)))
}

/// Children of which the peer makes Child SAs for single pairs of addresses only (RFC 7296 s2.9). It has said so once,
/// and is not asked for anything else.
#[derive(Debug, Default)]
pub(crate) struct SinglePairs(Vec<Arc<str>>);

impl SinglePairs {
    pub fn add(&mut self, child: &ChildConfig) {
        if !self.has(child) {
            self.0.push(child.name.clone());
        }
    }

    pub fn has(&self, child: &ChildConfig) -> bool {
        self.0.contains(&child.name)
    }

    /// What to ask for instead of this, if there is anything.
    pub fn shape(&self, wanted: Wanted) -> Wanted {
        match wanted.traffic {
            Traffic::Packet(packet) if self.has(&wanted.config) => {
                Wanted { traffic: Traffic::Alone(packet), ..wanted }
            }
            _ => wanted,
        }
    }
}

/// Packets that the peer's policy leaves out, though ours does not: it is not asked again at once.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    packets: Vec<(Arc<str>, Key, Instant)>,
    /// The log has heard that there are too many Child SAs, and hears it again after this.
    told_until: Option<Instant>,
}

/// Two hosts and a protocol.
type Key = (IpAddr, IpAddr, u8);

impl LeftOut {
    pub fn add(&mut self, ctx: &Context<'_>, wanted: &Wanted) {
        if let Some(key) = wanted.packet().map(key) {
            let until = ctx.now + ctx.config.peers.left_out_pause;
            self.packets.push((wanted.config.name.clone(), key, until));
        }
    }

    /// The peer is not to be asked: it said no a short time ago, or to too many.
    pub fn forbids(&mut self, ctx: &Context<'_>, wanted: &Wanted) -> bool {
        self.packets.retain(|(.., until)| *until > ctx.now);
        let asked = wanted.packet().map(key);
        let mut of_it = self.packets.iter().filter(|(name, ..)| *name == wanted.config.name);
        of_it.clone().count() >= ctx.config.peers.left_out || of_it.any(|(_, key, _)| Some(*key) == asked)
    }

    /// Whether the log hears of it now.
    pub fn is_to_be_told(&mut self, ctx: &Context<'_>) -> bool {
        let silent = self.told_until.is_some_and(|until| ctx.now < until);
        if !silent {
            self.told_until = Some(ctx.now + ctx.config.peers.left_out_pause);
        }
        !silent
    }
}

fn key(packet: &Packet) -> Key {
    (packet.source, packet.destination, packet.protocol)
}
