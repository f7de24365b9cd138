//! What concerns more than one IKE SA.

use std::time::Instant;

use super::Endpoint;
use crate::auth::Identity;
use crate::config::Connection;
use crate::crypto::Random;
use crate::sa::{Command, Estate, Retire, State, Task};
use crate::update::{DownReason, Event};

impl Endpoint {
    /// Carries out what the step of the IKE SA `spi` asked for.
    pub(super) fn carry_out(&mut self, now: Instant, rng: &mut dyn Random, spi: u64) {
        for Retire { at, tunnel, spi } in std::mem::take(&mut self.out.retire) {
            self.retiring.insert((at, spi), tunnel);
        }
        for command in std::mem::take(&mut self.out.commands) {
            match command {
                Command::NoLongerHalfOpen => self.half_open.remove(spi),
                Command::Adopt(sa) => {
                    let spi = sa.core.spi;
                    self.put_back(now, *sa);
                    // It may have something to do at once.
                    self.serve(now, rng, spi, |sa, ctx| sa.timeout(ctx));
                }
                Command::Handover { from, to, estate } => self.hand_over(now, rng, from, to, estate),
                Command::Redundant(spi) => self.serve(now, rng, spi, |sa, ctx| {
                    if let State::Established(established) = &mut sa.state {
                        established.expect_delete(ctx);
                    }
                }),
                Command::Replace { connection, peer, except, before } => {
                    self.replace(now, rng, (&connection, &peer), except, before);
                }
                Command::Restart { connection, child, after } => {
                    self.restarts.push((now + after, connection, child));
                }
            }
        }
    }

    /// The peer uses the new IKE SA `to` before it has deleted the old one `from`: the children come over.
    pub(super) fn take_over(&mut self, now: Instant, rng: &mut dyn Random, from: u64, to: u64) {
        let mut estate = None;
        self.serve(now, rng, from, |sa, _| {
            if let State::Established(established) = &mut sa.state
                && established.is_succeeded_by(to)
            {
                estate = Some(established.estate());
            }
        });
        match estate {
            Some(estate) => self.hand_over(now, rng, from, to, estate),
            None => self.serve(now, rng, to, |sa, _| {
                if let State::Established(established) = &mut sa.state {
                    established.heir_of = None;
                }
            }),
        }
    }

    fn hand_over(&mut self, now: Instant, rng: &mut dyn Random, from: u64, to: u64, estate: Estate) {
        let mut estate = Some(estate);
        let mut connection = None;
        self.serve(now, rng, to, |sa, ctx| {
            if let State::Established(established) = &mut sa.state
                && let Some(estate) = estate.take()
            {
                connection = Some(established.connection.name.clone());
                established.inherit(estate);
                established.advance(&mut sa.core, ctx);
            }
        });
        if let Some(connection) = connection {
            self.out.events.push_back(Event::IkeRekeyed { connection, old: from, new: to });
        }
        // The successor is gone: so are the children.
        if let Some(Estate { connection, mut children, tasks, leases }) = estate {
            for (_, task) in tasks {
                if let Task::DeleteUnwanted { spi, .. } = task {
                    self.spis.release(spi);
                }
            }
            leases.iter().for_each(|lease| self.pools.give_back(lease));
            children.clear(&mut self.context(now, rng), &connection, &DownReason::IkeDown);
            self.carry_out(now, rng, from);
        }
    }

    /// The peer has no other IKE SA with us than `except` (RFC 7296 s2.4, INITIAL_CONTACT).
    fn replace(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        (connection, peer): (&Connection, &Identity),
        except: u64,
        before: Instant,
    ) {
        let is_stale = |spi: &u64| match self.sas.get(spi).map(|sa| &sa.state) {
            Some(State::Established(established)) => established.since < before && established.peer == *peer,
            _ => false,
        };
        let others = self.connections.of(&connection.name).filter(|&spi| spi != except);
        let stale: Vec<_> = others.filter(is_stale).collect();
        for spi in stale {
            self.serve(now, rng, spi, |sa, ctx| sa.abolish(ctx, DownReason::Replaced));
        }
    }
}
