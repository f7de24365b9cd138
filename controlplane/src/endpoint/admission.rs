//! What a first request has to bring before it may cost us something: a cookie (RFC 7296 s2.6), or the solution of a
//! puzzle (RFC 8019).
//!
//! Nothing is kept of who is asked: the cookie says what its bearer was given. Under attack who brings a solution is
//! served. Who brings a good cookie without one may not know puzzles: such requests are served by lot, a few a second.

use std::time::{Duration, Instant};

use super::cookie::{Claim, Given};
use super::half_open::Admission;
use super::{Endpoint, reply};
use crate::crypto::Random;
use crate::rejection::Rejection;
use crate::sa::{Path, Puzzle, find_notify};
use crate::wire::{Header, Notify, NotifyType, Payload};

/// First requests that were served while puzzles were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedUnderAttack {
    /// With the solution of their puzzle.
    pub solved: u64,
    /// Without one, by lot.
    pub by_lot: u64,
}

impl Endpoint {
    /// First requests that were served while puzzles were given.
    pub fn served_under_attack(&self) -> ServedUnderAttack {
        self.served
    }

    /// Whether the request may cost us something. If not, it is answered or dropped here.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        header: &Header,
        path: Path,
        payloads: &[Payload<'_>],
        rng: &mut dyn Random,
    ) -> bool {
        let Path { local, remote } = path;
        let puzzle = match self.half_open.admit(remote.ip(), &self.config.limits) {
            Admission::Free => return true,
            Admission::Full => {
                self.out.counters.count(Rejection::HalfOpen);
                return false;
            }
            Admission::AddressFull => {
                self.out.counters.count(Rejection::HalfOpenAddress);
                return false;
            }
            Admission::WithCookie => None,
            Admission::WithPuzzle(difficulty) => {
                let puzzle = payloads.iter().find_map(|payload| match payload {
                    Payload::Sa(offered) => Puzzle::of_offer(offered, difficulty),
                    _ => None,
                });
                if puzzle.is_none() {
                    // RFC 8019 s7.1.1.2: without a common PRF there is no common proposal.
                    let notify = Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN);
                    self.refuse(now, header, local, remote, Rejection::NoProposal, notify);
                    return false;
                }
                puzzle
            }
        };
        let nonce = payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.as_ref()),
            _ => None,
        });
        let Some(nonce) = nonce else {
            self.out.counters.count(Rejection::Syntax);
            return false;
        };
        let claim = Claim { nonce, remote, spi: header.spi_i };
        match self.judge(now, payloads, &claim, puzzle.is_some(), rng) {
            Ok(()) => return true,
            Err(rejection) => {
                self.out.counters.count(rejection);
                if rejection == Rejection::PuzzleSpent {
                    return false;
                }
            }
        }
        let cookie = self.cookies.make(now, rng, &claim, puzzle);
        let cookie = Payload::Notify(Notify::new(NotifyType::COOKIE, cookie));
        let puzzle = puzzle.map(|puzzle| Payload::Notify(puzzle.to_notify()));
        let answer: Vec<_> = [cookie].into_iter().chain(puzzle).collect();
        reply::stateless(&mut self.out, header, local, remote, &answer);
        false
    }

    /// Whether what the request brings is enough (RFC 8019 s7.1.4, s7.1.5).
    fn judge(
        &mut self,
        now: Instant,
        payloads: &[Payload<'_>],
        claim: &Claim<'_>,
        with_puzzle: bool,
        rng: &mut dyn Random,
    ) -> Result<(), Rejection> {
        let Some(cookie) = find_notify(payloads, NotifyType::COOKIE) else {
            return Err(if with_puzzle { Rejection::PuzzleRequired } else { Rejection::CookieRequired });
        };
        let given = self.cookies.verify(now, &cookie.data, claim).ok_or(Rejection::Cookie)?;
        if !with_puzzle {
            return Ok(());
        }
        let solution = payloads.iter().find_map(|payload| match payload {
            Payload::PuzzleSolution(solution) => Some(solution.as_ref()),
            _ => None,
        });
        match (given, solution) {
            (Given::Puzzle(puzzle), Some(solution)) => {
                // One solution is for one half-open IKE SA, and its cookie gets too old before that ends.
                if self.half_open.find(claim.remote, claim.spi).is_some() {
                    Err(Rejection::PuzzleSpent)
                } else if puzzle.is_solved(solution, &cookie.data) {
                    self.served.solved += 1;
                    Ok(())
                } else {
                    Err(Rejection::PuzzleWrong)
                }
            }
            _ if self.lottery.draw(now, rng) => {
                self.served.by_lot += 1;
                Ok(())
            }
            (Given::Puzzle(_), None) => Err(Rejection::PuzzleMissing),
            (Given::Cookie, _) => Err(Rejection::PuzzleRequired),
        }
    }
}

/// So many of all who come in a second, each with the same chance: else those who come first in each second, which are
/// those who send most, would have all of it (RFC 8019 s7.1).
#[derive(Debug, Default)]
pub(super) struct Lottery {
    most: u32,
    since: Option<Instant>,
    drawn: u32,
    won: u32,
    /// How many came in the second before.
    before: u32,
}

impl Lottery {
    pub fn new(most: u32) -> Self {
        Self { most, ..Self::default() }
    }

    /// One more is served.
    pub fn draw(&mut self, now: Instant, rng: &mut dyn Random) -> bool {
        let second = Duration::from_secs(1);
        if self.since.is_none_or(|since| now >= since + second) {
            let recent = self.since.is_some_and(|since| now < since + second * 2);
            self.before = if recent { self.drawn } else { 0 };
            (self.since, self.drawn, self.won) = (Some(now), 0, 0);
        }
        self.drawn = self.drawn.saturating_add(1);
        let expected = u64::from(self.before.max(self.drawn));
        let mut dice = [0; 4];
        rng.fill(&mut dice);
        let place = (u64::from(u32::from_be_bytes(dice)) * expected) >> 32;
        let wins = self.won < self.most && place < u64::from(self.most);
        self.won += u32::from(wins);
        wins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Seeded;

    #[test]
    fn the_lot_serves_so_many_a_second_and_not_the_first_ones_alone() {
        let (mut lottery, mut rng, start) = (Lottery::new(10), Seeded(1), Instant::now());
        let mut second = |number: u64, count: usize| -> Vec<bool> {
            let now = start + Duration::from_secs(number);
            (0..count).map(|_| lottery.draw(now, &mut rng)).collect()
        };
        let served = |drawn: &[bool]| drawn.iter().filter(|won| **won).count();
        assert_eq!(served(&second(0, 10)), 10, "all, while they are few");
        assert_eq!(served(&second(1, 5)), 5);
        second(2, 1000);
        let (mut early, mut late) = (0, 0);
        for number in 3..103 {
            let drawn = second(number, 1000);
            assert!(served(&drawn) <= 10);
            early += served(&drawn[..500]);
            late += served(&drawn[500..]);
        }
        assert!(early > 350 && late > 300, "{early} and {late} of 1000");
        assert_eq!(served(&second(200, 10)), 10, "the flood is over");
    }

    #[test]
    fn none_is_none() {
        assert!(!Lottery::new(0).draw(Instant::now(), &mut Seeded(1)));
    }
}
