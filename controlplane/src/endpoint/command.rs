//! What concerns more than one IKE SA.

use std::time::Instant;

use super::Endpoint;
use crate::auth::{Identity, Roles};
use crate::config::{Connection, RemoteAddress};
use crate::crypto::Random;
use crate::sa::{Command, Estate, IkeSa, Renewal, Retire, Sent, State, Task, Wanted};
use crate::update::{DownReason, Event};

/// An IKE SA whose place another one takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewed {
    pub old: u64,
    /// The other one has everything: this one goes as soon as no rekey of it is under way.
    pub done: bool,
    /// What it got meanwhile was asked for too. That is done once, since the peer may refuse it.
    pub completed: bool,
}

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
                Command::Handover { from, to, estate } => self.hand_over(now, rng, from, to, *estate),
                Command::Redundant(spi) => self.serve(now, rng, spi, |sa, ctx| {
                    if let State::Established(established) = &mut sa.state {
                        established.expect_delete(ctx);
                    }
                }),
                Command::Replace { connection, peer, except, before } => {
                    self.replace(now, rng, (&connection, &peer), except, before);
                }
                Command::Succeeded { from, to } => {
                    self.rename_renewals(from, to);
                    self.finish_renewal(now, rng, to);
                }
                Command::TakeTunnel { ike, tunnel } => self.serve(now, rng, ike, |sa, ctx| {
                    if let State::Established(established) = &mut sa.state {
                        established.children.inherit_tunnel(ctx, tunnel);
                    }
                }),
                Command::Renew(renewal) => self.renew(now, rng, *renewal),
                Command::CreateElsewhere { connection, children } => {
                    let other =
                        |sa: &&IkeSa| matches!(sa.state, State::Established(_)) && sa.takes_children();
                    let other = self.of(&connection).find(other).map(|sa| sa.core.spi);
                    if let Some(other) = other {
                        self.serve(now, rng, other, |sa, ctx| sa.add_children(ctx, &children));
                    }
                }
                Command::Renewed(new) if self.lacks_children(now, rng, new) => {}
                Command::Renewed(new) => {
                    if let Some(renewed) = self.renewals.get_mut(&new) {
                        renewed.done = true;
                        let old = renewed.old;
                        self.finish_renewal(now, rng, old);
                    }
                }
                Command::NotRenewed(new) => {
                    if let Some(Renewed { old, .. }) = self.renewals.remove(&new) {
                        self.serve(now, rng, old, |sa, ctx| {
                            if let State::Established(established) = &mut sa.state {
                                established.renew_later(ctx);
                            }
                        });
                    }
                }
                Command::Restart { connection, child, after } => {
                    self.restarts.push((now + after, connection, child));
                }
            }
        }
        self.finish_renewal(now, rng, spi);
    }

    /// The peer uses the new IKE SA `to` before it has deleted the old one `from`: the children come over.
    pub(super) fn take_over(&mut self, now: Instant, rng: &mut dyn Random, from: u64, to: u64) {
        let mut estate = None;
        self.serve(now, rng, from, |sa, _| {
            if let State::Established(established) = &mut sa.state
                && established.is_succeeded_by(to)
            {
                estate = Some(established.estate(&sa.core));
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

    /// Authenticates anew: sets up another IKE SA beside the old one, on the same path.
    fn renew(&mut self, now: Instant, rng: &mut dyn Random, renewal: Renewal) {
        let Renewal { old, connection, children, path, inner } = renewal;
        let roles = Roles::of(&connection.local_auth, &connection.remote_auth);
        if !roles.is_ok_and(Roles::may_initiate) || connection.remote == RemoteAddress::Any {
            return self.serve(now, rng, old, |sa, ctx| {
                if let State::Established(established) = &mut sa.state {
                    let why = "the peer did not authenticate anew in time (RFC 4478)";
                    established.leave(ctx, DownReason::Failed(why.into()));
                    established.advance(&mut sa.core, ctx);
                }
            });
        }
        match Sent::start(&mut self.context(now, rng, 0), connection, children, path) {
            Ok(mut sa) => {
                sa.core.renews = true;
                sa.core.inner.local = inner;
                self.renewals.insert(sa.core.spi, Renewed { old, done: false, completed: false });
                self.put_back(now, sa);
            }
            Err(_) => self.serve(now, rng, old, |sa, ctx| {
                if let State::Established(established) = &mut sa.state {
                    established.renew_later(ctx);
                }
            }),
        }
    }

    /// The IKE SA that is to be renewed got more children meanwhile: the new one asks for them too.
    fn lacks_children(&mut self, now: Instant, rng: &mut dyn Random, new: u64) -> bool {
        let children = |spi: &u64| match self.sas.get(spi).map(|sa| &sa.state) {
            Some(State::Established(established)) => established.children_in_use(),
            _ => Vec::new(),
        };
        let Some(old) = self.renewals.get(&new).filter(|one| !one.completed).map(|one| one.old) else {
            return false;
        };
        let (wanted, there) = (children(&old), children(&new));
        let missing = |child: &Wanted| !there.iter().any(|one| child.is_covered_by(one));
        let missing: Vec<_> = wanted.into_iter().filter(missing).collect();
        if missing.is_empty() {
            return false;
        }
        if let Some(renewed) = self.renewals.get_mut(&new) {
            renewed.completed = true;
        }
        self.serve(now, rng, new, |sa, ctx| {
            sa.core.renews = true;
            sa.add_children(ctx, &missing);
        });
        true
    }

    /// Another IKE SA has everything that this one had: it goes, once no rekey of it is under way, or else what the
    /// rekey makes.
    fn finish_renewal(&mut self, now: Instant, rng: &mut dyn Random, old: u64) {
        let mut done = self.renewals.iter().filter(|(_, renewed)| renewed.done && renewed.old == old);
        let Some(new) = done.next().map(|(&new, _)| new) else { return };
        let Some(State::Established(established)) = self.sas.get(&old).map(|sa| &sa.state) else { return };
        if !established.is_settled() {
            return;
        }
        self.renewals.remove(&new);
        let connection = established.connection.name.clone();
        self.serve(now, rng, old, |sa, ctx| {
            if let State::Established(established) = &mut sa.state {
                established.quiet = true;
                established.leave(ctx, DownReason::Terminated);
                established.advance(&mut sa.core, ctx);
            }
        });
        self.out.events.push_back(Event::IkeRekeyed { connection, old, new });
    }

    /// A renewal of an IKE SA, or by it, goes on after a rekey.
    fn rename_renewals(&mut self, from: u64, to: u64) {
        self.renewals.values_mut().filter(|one| one.old == from).for_each(|one| one.old = to);
        if let Some(renewed) = self.renewals.remove(&from) {
            self.renewals.insert(to, renewed);
        }
    }

    fn hand_over(&mut self, now: Instant, rng: &mut dyn Random, from: u64, to: u64, estate: Estate) {
        self.rename_renewals(from, to);
        let mut estate = Some(estate);
        let mut connection = None;
        self.serve(now, rng, to, |sa, ctx| {
            if let State::Established(established) = &mut sa.state
                && let Some(estate) = estate.take()
            {
                connection = Some(established.connection.name.clone());
                established.inherit(&mut sa.core, ctx, estate);
                established.advance(&mut sa.core, ctx);
            }
        });
        if let Some(connection) = connection {
            self.out.events.push_back(Event::IkeRekeyed { connection, old: from, new: to });
        }
        // The successor is gone: so are the children.
        if let Some(Estate { connection, mut children, tasks, leases, .. }) = estate {
            for (_, task) in tasks {
                if let Task::DeleteUnwanted { spi, .. } = task {
                    self.spis.release(spi);
                }
            }
            leases.iter().for_each(|lease| self.pools.give_back(lease));
            children.clear(&mut self.context(now, rng, from), &connection, &DownReason::IkeDown);
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
