//! The tunnels of a bench: one concentrator with many peers.
//!
//! The gateway has 198.51.100.1 on its WAN, a router at 198.51.100.254 behind which all peers are, and hosts in
//! 10.1.0.0/16 on its LAN. Peer `i` has an address in 198.18.0.0/15 (RFC 2544), and 4 addresses of 10.64.0.0/10
//! behind it. Each has SAs of its own in both directions, and a policy of its own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use dataplane::clock;
use dataplane::crypto::{Crypto, Key, KeyMaterial, Suite};
use dataplane::message::{PolicyUpdate, SaUpdate, Update};
use dataplane::policy::{Action, Policy, PolicyId, Selector};
use dataplane::sa::allocator::SpiAllocator;
use dataplane::sa::{
    Endpoints, InboundSa, Lifetime, Limits, Mode, OutboundOptions, OutboundSa, Protocol, SaParams, Spi,
    TunnelId,
};
use ipnet::{IpNet, Ipv4Net};

/// The gateway's outer address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The gateway's address on its LAN.
pub const GATEWAY_LAN: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The way to all peers.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
/// The host on the LAN that sends and receives.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);
/// The most tunnels that there are addresses for.
pub const MOST: usize = 1 << 20;

/// Numbers in the replay window: the default of the gateway.
const REPLAY_WINDOW: u32 = 4096;

/// SAs of all tunnels, by number of the tunnel.
pub struct Tunnels {
    /// From the gateway to the peers.
    pub outbound: Vec<Arc<OutboundSa>>,
    /// From the peers to the gateway.
    pub inbound: Vec<Arc<InboundSa>>,
    /// The gateway's SPIs.
    pub spis: SpiAllocator,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// From the LAN into the tunnels.
    Outbound,
    /// Out of the tunnels to the LAN.
    Inbound,
}

impl Direction {
    /// As in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Tunnels {
    /// New SAs for `count` tunnels, and SPIs for `more` of them: ESP in tunnel mode with ESN, a replay window of 4,096, and limits as an operator
    /// sets them, which are never reached here.
    ///
    /// # Errors
    /// When a key is refused, or there are more tunnels than [`MOST`].
    pub fn new(crypto: &Crypto, suite: Suite, count: usize, more: usize) -> anyhow::Result<Self> {
        ensure!((1..=MOST).contains(&count), "from 1 to {MOST} tunnels, not {count}");
        let mut spis = SpiAllocator::new((count + more) as u32);
        let (mut outbound, mut inbound) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for number in 0..count {
            let spi = spis.allocate().context("no SPI left")?;
            outbound.push(outbound_sa(crypto, suite, number, 0x8000_0000 | number as u32)?);
            inbound.push(inbound_sa(crypto, suite, number, spi)?);
        }
        Ok(Self { outbound, inbound, spis })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.outbound.len()
    }

    /// What installs them in a worker: both SAs and the policy of each.
    pub fn updates(&self) -> impl Iterator<Item = Update> + '_ {
        self.outbound.iter().zip(&self.inbound).enumerate().flat_map(|(number, (outbound, inbound))| {
            set_up(number, Arc::clone(outbound), Arc::clone(inbound))
        })
    }
}

/// What installs one tunnel: both SAs and the policy.
pub fn set_up(number: usize, outbound: Arc<OutboundSa>, inbound: Arc<InboundSa>) -> [Update; 3] {
    let (id, tunnel) = (PolicyId(number as u32), TunnelId(number as u32));
    let policy = Policy { id, selector: selector(number), action: Action::Protect(tunnel) };
    [
        Update::Sa(SaUpdate::AddInbound(inbound)),
        Update::Sa(SaUpdate::SetOutbound(outbound, endpoints(number))),
        Update::Policy(PolicyUpdate::Add(policy)),
    ]
}

/// What takes it away.
pub fn tear_down(number: usize, inbound: Spi) -> [Update; 3] {
    [
        Update::Policy(PolicyUpdate::Remove(PolicyId(number as u32))),
        Update::Sa(SaUpdate::RemoveOutbound(TunnelId(number as u32))),
        Update::Sa(SaUpdate::RemoveInbound(inbound)),
    ]
}

/// An SA to the peer of a tunnel.
///
/// # Errors
/// When the key is refused.
pub fn outbound_sa(
    crypto: &Crypto,
    suite: Suite,
    number: usize,
    spi: Spi,
) -> anyhow::Result<Arc<OutboundSa>> {
    let options = OutboundOptions { ttl: 64, ..OutboundOptions::default() };
    let material = key_material(suite, number, Direction::Outbound);
    OutboundSa::new(crypto, params(suite, number), spi, options, &material, clock::now())
        .with_context(|| format!("a key of {suite}"))
}

/// An SA from the peer of a tunnel.
///
/// # Errors
/// When the key is refused.
pub fn inbound_sa(crypto: &Crypto, suite: Suite, number: usize, spi: Spi) -> anyhow::Result<Arc<InboundSa>> {
    let material = key_material(suite, number, Direction::Inbound);
    let (endpoints, selectors) = (endpoints(number), [selector(number)]);
    let params = params(suite, number);
    InboundSa::new(crypto, params, spi, &selectors, endpoints, REPLAY_WINDOW, &material, clock::now())
        .with_context(|| format!("a key of {suite}"))
}

/// The peer's own copy of a tunnel's key, so that its use does not warm the gateway's.
///
/// # Errors
/// When the key is refused.
pub fn peer_key(crypto: &Crypto, suite: Suite, number: usize, direction: Direction) -> anyhow::Result<Key> {
    crypto
        .key(suite, true, &key_material(suite, number, direction))
        .with_context(|| format!("a key of {suite}"))
}

/// The outer address of a tunnel's peer. With more than 131,072 tunnels some share one.
pub fn peer_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (number as u32 & 0x1_ffff))
}

/// A host behind the peer of a tunnel.
pub fn remote_host(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(remote_net(number).network()) + 1)
}

/// Outer addresses of a tunnel as the gateway sees them.
pub fn endpoints(number: usize) -> Endpoints {
    Endpoints { local: GATEWAY.into(), remote: peer_address(number).into(), udp: None }
}

/// Our side of all tunnels.
pub fn local_net() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 1, 0, 0), 16)
}

/// Where a packet of a tunnel comes from and goes to.
pub fn inner_addresses(number: usize, direction: Direction) -> (Ipv4Addr, Ipv4Addr) {
    match direction {
        Direction::Outbound => (HOST, remote_host(number)),
        Direction::Inbound => (remote_host(number), HOST),
    }
}

fn remote_net(number: usize) -> Ipv4Net {
    let first = u32::from(Ipv4Addr::new(10, 64, 0, 0)) + 4 * number as u32;
    Ipv4Net::new_assert(first.into(), 30)
}

fn selector(number: usize) -> Selector {
    Selector::between(IpNet::V4(local_net()), IpNet::V4(remote_net(number)))
}

fn params(suite: Suite, number: usize) -> SaParams {
    let terabytes = |count: u64| Some(count << 40);
    let hours = |count: u64| Some(Duration::from_secs(count * 3600));
    SaParams {
        tunnel: TunnelId(number as u32),
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        suite,
        esn: true,
        lifetime: Lifetime {
            soft: Limits { time: hours(8), bytes: terabytes(64), packets: None },
            hard: Limits { time: hours(9), bytes: terabytes(72), packets: None },
        },
        ecn: true,
    }
}

/// Different for every tunnel and direction. These keys protect nothing.
fn key_material(suite: Suite, number: usize, direction: Direction) -> KeyMaterial {
    let mark = (number as u64) << 1 | u64::from(direction == Direction::Inbound);
    let mut bytes: Vec<u8> = (0..suite.key_len()).map(|at| (at * 7 + 3) as u8).collect();
    bytes.iter_mut().zip(mark.to_be_bytes()).for_each(|(to, from)| *to ^= from);
    KeyMaterial::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_have_addresses_of_their_own() {
        for number in [0, 1, 63, 131_071, 131_072, MOST - 1] {
            assert!(remote_net(number).contains(&remote_host(number)));
            assert!(!remote_net(number + 1).contains(&remote_host(number)));
        }
        assert_eq!(peer_address(131_071), Ipv4Addr::new(198, 19, 255, 255));
        assert_eq!(remote_net(MOST - 1).broadcast(), Ipv4Addr::new(10, 127, 255, 255));
        assert!(!local_net().contains(&remote_host(0)));
    }

    #[test]
    fn keys_differ_between_tunnels_and_directions() {
        let suite: Suite = "aes128gcm16".parse().unwrap();
        let mut all: Vec<_> = (0..300)
            .flat_map(|number| [Direction::Outbound, Direction::Inbound].map(|d| (number, d)))
            .map(|(number, direction)| key_material(suite, number, direction).expose().to_vec())
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 600);
    }
}
