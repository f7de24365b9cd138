//! Packet sizes and the order in which SAs are used.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// IMIX by inner IP packet: 7 of 64, 4 of 594 and 1 of 1420 bytes, spread out over twelve. The largest is 1420, not
/// 1518, so that it fits an MTU of 1500 with the headers of every suite.
const IMIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1420, 64, 594, 64, 594, 64];

/// The smallest packet: IPv4 and UDP header.
pub const SMALLEST: usize = 28;

/// Lengths of inner IP packets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All the same.
    Fixed(usize),
    /// 7:4:1 of 64, 594 and 1420.
    Imix,
}

impl Size {
    /// Lengths that repeat.
    pub fn cycle(self) -> Vec<usize> {
        match self {
            Self::Fixed(length) => vec![length],
            Self::Imix => IMIX.to_vec(),
        }
    }

    /// Mean length in bytes.
    pub fn mean(self) -> f64 {
        let cycle = self.cycle();
        cycle.iter().sum::<usize>() as f64 / cycle.len() as f64
    }

    /// The longest.
    pub fn longest(self) -> usize {
        self.cycle().into_iter().max().unwrap_or_default()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "{length}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        match text.parse() {
            Ok(length) if (SMALLEST..=9000).contains(&length) => Ok(Self::Fixed(length)),
            _ => Err(format!("{text:?} is neither imix nor a number of bytes from {SMALLEST} to 9000")),
        }
    }
}

/// Which SA the next packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Any of them: with many SAs every packet finds its SA cold.
    Random,
    /// One after the other.
    RoundRobin,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::RoundRobin => "round robin",
        })
    }
}

/// A stream of packets over some tunnels, without end.
#[derive(Clone, Debug)]
pub struct Stream {
    lengths: Vec<usize>,
    tunnels: usize,
    order: Order,
    random: Random,
    count: usize,
}

/// One packet of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Number of its tunnel.
    pub tunnel: usize,
    /// Bytes of the inner IP packet.
    pub length: usize,
}

impl Stream {
    /// Packets of this size over `tunnels` tunnels.
    pub fn new(size: Size, tunnels: usize, order: Order) -> Self {
        Self { lengths: size.cycle(), tunnels, order, random: Random::default(), count: 0 }
    }

    /// Packets after which most SAs were used, at most 4,096: with many more SAs than that, they stay cold anyway.
    pub fn lap(&self) -> usize {
        (2 * self.tunnels).min(4096)
    }
}

impl Iterator for Stream {
    type Item = Pick;

    fn next(&mut self) -> Option<Pick> {
        let length = *self.lengths.get(self.count % self.lengths.len())?;
        let tunnel = match self.order {
            Order::Random => self.random.below(self.tunnels),
            Order::RoundRobin => self.count % self.tunnels,
        };
        self.count += 1;
        Some(Pick { tunnel, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let count = |length| Size::Imix.cycle().into_iter().filter(|&one| one == length).count();
        assert_eq!((count(64), count(594), count(1420)), (7, 4, 1));
        assert_eq!(Size::Imix.cycle().len(), 12);
        assert!((Size::Imix.mean() - 353.666).abs() < 0.001);
        assert_eq!(Size::Imix.longest(), 1420);
        let stream: Vec<_> =
            Stream::new(Size::Imix, 1, Order::Random).take(24).map(|pick| pick.length).collect();
        assert_eq!(stream[..12], IMIX);
        assert_eq!(stream[12..], IMIX);
    }

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!("imix".parse(), Ok(Size::Imix));
        assert_eq!("64".parse(), Ok(Size::Fixed(64)));
        for size in ["27", "9001", "", "64B"] {
            assert!(size.parse::<Size>().unwrap_err().contains(size), "{size}");
        }
        assert_eq!(Size::Fixed(1420).to_string(), "1420");
    }

    #[test]
    fn round_robin_visits_all_in_turn_and_random_visits_all() {
        let tunnels = |order| Stream::new(Size::Fixed(64), 5, order).map(|pick| pick.tunnel);
        assert_eq!(tunnels(Order::RoundRobin).take(7).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 0, 1]);
        let seen: std::collections::BTreeSet<_> = tunnels(Order::Random).take(200).collect();
        assert_eq!(seen, (0..5).collect());
    }
}
