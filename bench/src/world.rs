//! A gateway with its tunnels, the host behind it and the peers in front of it: rounds of traffic through all of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use dataplane::buffer::Pool;
use dataplane::crypto::{Crypto, Job, Suite};
use dataplane::esp;
use dataplane::packet::ip;
use dataplane::sa::Mode;

use crate::frames::{self, Frames, MARKED, Peers};
use crate::gateway::{Gateway, Pools};
use crate::measure::Round;
use crate::traffic::{Pick, Stream};
use crate::tunnels::{self, Direction, Tunnels};

/// How a round is cut.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Packets that wait when the worker starts to poll, and are timed together.
    pub ahead: usize,
    /// How many times.
    pub times: usize,
    /// How many times before that, not timed: what belongs to the case is then where it would be if nothing else ran.
    pub warm: usize,
}

/// Everything that one bench case needs.
pub struct World {
    /// The gateway.
    pub gateway: Gateway,
    peers: Peers,
    crypto: Arc<Crypto>,
    suite: Suite,
    pool: Pool,
    frames: Frames,
}

impl World {
    /// A gateway with `sas` new tunnels installed and its neighbours resolved, and peers for them. One packet was sent
    /// each way and came out right.
    ///
    /// # Errors
    /// When something does not fit or does not work.
    pub fn new(crypto: &Arc<Crypto>, suite: Suite, sas: usize, pools: Pools) -> anyhow::Result<Self> {
        let tunnels = Tunnels::new(crypto, suite, sas, 0)?;
        let mut world = Self::over(crypto, suite, &tunnels, 0, 0, pools)?;
        world.prove(0)?;
        Ok(world)
    }

    /// A gateway with tunnels that others have too: the worker with this index, with room for `more` tunnels. Its
    /// neighbours are not resolved.
    ///
    /// # Errors
    /// When something does not fit.
    pub fn over(
        crypto: &Arc<Crypto>,
        suite: Suite,
        tunnels: &Tunnels,
        more: usize,
        index: usize,
        pools: Pools,
    ) -> anyhow::Result<Self> {
        let mut gateway = Gateway::new(index, tunnels.len() + more, Arc::clone(crypto), pools)?;
        gateway.apply(tunnels.updates())?;
        let spis = tunnels.inbound.iter().map(|sa| sa.spi);
        let peers = Peers::new(Arc::clone(crypto), suite, spis, pools.frames)?;
        Ok(Self {
            gateway,
            peers,
            crypto: Arc::clone(crypto),
            suite,
            pool: pools.frames,
            frames: Frames::default(),
        })
    }

    /// Sends one packet of a tunnel each way, whose sequence number is 1, and looks whether it comes out right. This
    /// also resolves the neighbours.
    ///
    /// # Errors
    /// When it does not.
    pub fn prove(&mut self, tunnel: usize) -> anyhow::Result<()> {
        let pick = Pick { tunnel, length: 100 };
        self.prove_outbound(pick)?;
        let out = self.one_packet(Direction::Inbound, pick)?;
        expect_forwarded(&out, Direction::Inbound, pick, 1)
    }

    /// Seals packets of peers with these sequence numbers.
    ///
    /// # Errors
    /// When the engine refuses a packet.
    pub fn seal_numbered(&self, work: &[(Pick, u64)], frames: &mut Frames) -> anyhow::Result<()> {
        self.peers.seal_numbered(work, Gateway::mac(Direction::Inbound), frames)
    }

    /// Prepares a round of packets, then lets the worker carry them. Only the polls are timed.
    ///
    /// # Errors
    /// When not every packet came out.
    pub fn round(
        &mut self,
        direction: Direction,
        stream: &mut Stream,
        shape: Shape,
    ) -> anyhow::Result<Round> {
        let (warm, packets) = (shape.ahead * shape.warm, shape.ahead * (shape.warm + shape.times));
        let mut frames = std::mem::take(&mut self.frames);
        self.prepare(direction, stream.take(packets), &mut frames)?;
        let mut round = Round::default();
        for start in (0..packets).step_by(shape.ahead) {
            let chunk = (start..start + shape.ahead).filter_map(|at| frames.get(at));
            let time = self.carry(direction, chunk)?;
            if start >= warm {
                round.time += time;
            }
        }
        round.packets = (packets - warm) as u64;
        self.frames = frames;
        Ok(round)
    }

    /// Makes the frames of a round: what comes in is sealed by the peers, with fresh sequence numbers.
    ///
    /// # Errors
    /// When the engine refuses a packet.
    pub fn prepare(
        &mut self,
        direction: Direction,
        picks: impl Iterator<Item = Pick>,
        frames: &mut Frames,
    ) -> anyhow::Result<()> {
        frames.clear();
        let mac = Gateway::mac(direction);
        match direction {
            Direction::Outbound => frames::from_host(picks, mac, 0, frames),
            Direction::Inbound => self.peers.seal(picks, mac, frames)?,
        }
        Ok(())
    }

    fn carry<'f>(
        &mut self,
        direction: Direction,
        frames: impl Iterator<Item = &'f [u8]>,
    ) -> anyhow::Result<Duration> {
        let packets = self.gateway.arrive(direction, frames)?;
        let time = self.gateway.work(packets)?;
        let sent = self.gateway.collect(&mut |_, _| {})?;
        if sent != packets {
            bail!("{packets} packets went in, {sent} came out; dropped: {}", self.gateway.drops()?);
        }
        Ok(time)
    }

    /// Sends one packet from the host, and opens what comes out with the peer's key.
    fn prove_outbound(&mut self, pick: Pick) -> anyhow::Result<()> {
        let out = self.one_packet(Direction::Outbound, pick)?;
        let Ok(outer) = ip::parse(&out) else { bail!("the gateway sent a malformed packet") };
        let at = usize::from(outer.header_len);
        let key = tunnels::peer_key(&self.crypto, self.suite, pick.tunnel, Direction::Outbound)?;
        let mut packet = self.pool.alloc_from(&out).context("no free frame")?;
        let protected = packet.data_mut().get_mut(at..).context("a packet without ESP")?;
        let mut jobs = [Job { key: &key, packet: protected, seq: 1, ok: false }];
        self.crypto.open(&mut jobs);
        ensure!(jobs.iter().all(|job| job.ok), "the peer cannot open what the gateway sent");
        esp::inbound::unwrap(&mut packet, esp::inbound::Layout::of(self.suite), Mode::Tunnel, at, at)
            .map_err(|reason| anyhow!("what the gateway sent is not ESP: {}", reason.name()))?;
        expect_forwarded(packet.data(), Direction::Outbound, pick, 0)
    }

    fn one_packet(&mut self, direction: Direction, pick: Pick) -> anyhow::Result<Vec<u8>> {
        let mut frames = Frames::default();
        self.prepare(direction, std::iter::once(pick), &mut frames)?;
        self.gateway.arrive(direction, frames.iter())?;
        self.gateway.work(1)?;
        let mut out = Vec::new();
        let sent = self.gateway.collect(&mut |_, packet| out = packet.to_vec())?;
        if sent != 1 {
            bail!(
                "the first {} packet did not come out; dropped: {}",
                direction.name(),
                self.gateway.drops()?
            );
        }
        Ok(out)
    }
}

/// Checks that a packet is as it was sent, but for the TTL.
fn expect_forwarded(packet: &[u8], direction: Direction, pick: Pick, mark: u64) -> anyhow::Result<()> {
    debug_assert!(pick.length >= MARKED, "a packet without a mark proves little");
    let mut expected = Vec::new();
    frames::inner_packet(pick, direction, mark, &mut expected);
    ip::decrement_ttl(&mut expected).map_err(|reason| anyhow!("{}", reason.name()))?;
    ensure!(packet == expected, "the {} packet is not what was sent", direction.name());
    Ok(())
}

#[cfg(test)]
mod tests {
    use dataplane::crypto::EngineChoice;

    use super::*;
    use crate::traffic::{Order, Size};

    fn world(count: usize) -> World {
        let crypto = Arc::new(Crypto::new(EngineChoice::AwsLc).unwrap());
        World::new(&crypto, "aes128gcm16".parse().unwrap(), count, Pools::new().unwrap()).unwrap()
    }

    #[test]
    fn rounds_carry_every_packet_both_ways() {
        let mut world = world(5);
        let shape = Shape { ahead: 100, times: 2, warm: 1 };
        for direction in [Direction::Outbound, Direction::Inbound] {
            for order in [Order::Random, Order::RoundRobin] {
                let mut stream = Stream::new(Size::Imix, 5, order);
                let round = world.round(direction, &mut stream, shape).unwrap();
                assert_eq!(round.packets, 200);
                assert!(round.time > Duration::ZERO);
            }
        }
        assert_eq!(world.gateway.drops().unwrap(), "");
    }

    #[test]
    fn a_packet_that_is_lost_is_an_error_that_names_the_drop() {
        let mut world = world(1);
        // Of a tunnel that there is no policy for.
        let mut stream = Stream::new(Size::Fixed(64), 2, Order::RoundRobin);
        let shape = Shape { ahead: 4, times: 1, warm: 0 };
        let error = world.round(Direction::Outbound, &mut stream, shape).unwrap_err().to_string();
        assert_eq!(error, "4 packets went in, 2 came out; dropped: policy_discard 2");
    }
}
