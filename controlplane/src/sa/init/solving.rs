//! A responder's puzzle, which we solve as the initiator (RFC 8019), a slice at a time: the thread has other things to do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::intermediate::{self, Opening};
use super::super::puzzle::{Puzzle, Solver};
use super::super::{Context, Core, State};
use crate::wire::{KeId, Notify};

/// Between two slices all else has its turn.
const PAUSE: Duration = Duration::from_micros(500);

/// A puzzle under work.
pub(super) struct Work {
    solver: Solver,
    /// When the next slice is due.
    pub at: Instant,
}

impl Work {
    /// Begins. Where the responder leaves it to us how hard it is (RFC 8019 s7.1.1.1), we take what we ask of others.
    ///
    /// # Errors
    /// Why we do not solve it.
    pub fn begin(ctx: &Context<'_>, notify: &Notify<'_>, string: Vec<u8>) -> Result<Self, String> {
        let limits = &ctx.config.limits;
        let Some(puzzle) = Puzzle::from_notify(notify) else {
            return Err("its puzzle is malformed, or by a PRF that we do not know".into());
        };
        let most = limits.puzzle_solve;
        let difficulty = match puzzle.difficulty {
            0 => limits.puzzle_difficulty.min(most),
            given if given > most => {
                let why = "is more than `ike.limits.puzzle_solve`";
                return Err(format!("its puzzle of difficulty {given} {why}, {most}"));
            }
            given => given,
        };
        Ok(Self { solver: Solver::new(Puzzle { difficulty, ..puzzle }, string), at: ctx.now })
    }

    /// Goes on when it is time. The content of the Puzzle Solution payload, in the end.
    pub fn go_on(&mut self, ctx: &mut Context<'_>) -> Option<Vec<u8>> {
        if self.at > ctx.now {
            return None;
        }
        self.at = ctx.now + PAUSE;
        // What is left of the slice when one is solved, or when several are under work.
        self.solver.work(&mut ctx.out.tries)
    }
}

/// IKE_SA_INIT is over, and the responder wants a puzzle solved before IKE_AUTH (RFC 8019 s7.2).
pub(crate) struct Solving {
    pub opening: Opening,
    additional: VecDeque<KeId>,
    work: Work,
}

impl Solving {
    pub(super) fn start(opening: Opening, additional: VecDeque<KeId>, work: Work) -> State {
        State::Solving(Box::new(Self { opening, additional, work }))
    }

    /// Goes on.
    pub fn timeout(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        let Some(solution) = self.work.go_on(ctx) else { return State::Solving(self) };
        let Self { mut opening, additional, .. } = *self;
        opening.solution = Some(solution);
        intermediate::next(core, ctx, opening, additional)
    }

    /// When [`Solving::timeout`] is due.
    pub fn deadline(&self) -> Instant {
        self.work.at
    }
}
