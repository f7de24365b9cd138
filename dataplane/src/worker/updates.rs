//! Updates from the control side, applied in order at the batch boundary.

use crossbeam::channel::TrySendError;

use crate::message::{
    AddressUpdate, Direction, Event, PolicyUpdate, Refused, Retired, RouteUpdate, SaUpdate, Update,
};
use crate::snapshot::{PAGE, SaPage, SaReading, Snapshot};
use crate::worker::slots::{InboundSlot, OutboundSlot};
use crate::worker::{Reception, UPDATES_PER_POLL, Worker};

impl Worker {
    pub(super) fn apply_updates(&mut self, now: u64) {
        // What the control side must learn goes first, in order; when it still does not fit, updates wait too.
        while let Some(event) = self.unsent.pop_front() {
            // When nobody listens any more there is nobody to wait for.
            if let Err(TrySendError::Full(event)) = self.channels.events.try_send(event) {
                self.unsent.push_front(event);
                return;
            }
        }
        for _ in 0..UPDATES_PER_POLL {
            match self.channels.updates.try_recv() {
                Ok(update) => self.apply(update, now),
                Err(_) => break,
            }
        }
    }

    fn apply(&mut self, update: Update, now: u64) {
        match update {
            Update::Sa(update) => self.apply_sa(update),
            Update::Policy(PolicyUpdate::Add(policy)) => {
                let id = policy.id;
                if self.tables.spd.insert(policy).is_err() {
                    self.report(Event::Refused(Refused::Policy(id)));
                }
                self.waiting.hope();
            }
            Update::Policy(PolicyUpdate::Remove(id)) => {
                self.tables.spd.remove(id);
            }
            Update::Route(RouteUpdate::Add(route)) => {
                self.tables.routes.insert(route);
            }
            Update::Route(RouteUpdate::Remove(prefix)) => {
                self.tables.routes.remove(prefix);
            }
            Update::Address(AddressUpdate::Add(address)) => self.tables.addresses.add(address),
            Update::Address(AddressUpdate::Remove(address)) => self.tables.addresses.remove(address),
            Update::Neighbour(neighbour) => self.neighbour_learned(&neighbour, now),
            Update::Inject(datagram) => self.inject(datagram, now),
            Update::Announce => self.announce(now),
            Update::Snapshot(mut snapshot) => {
                self.fill(&mut snapshot);
                self.report(Event::Snapshot(snapshot));
            }
            Update::SaPage(mut page) => {
                self.fill_page(&mut page);
                self.report(Event::SaPage(page));
            }
            Update::Barrier(number) => self.report(Event::Barrier { worker: self.index, number }),
            Update::Receive if self.reception == Reception::Held => self.reception = Reception::Open,
            Update::Receive => {}
            Update::Drain if self.reception == Reception::Drained => {}
            Update::Drain => self.reception = Reception::Draining,
        }
    }

    fn apply_sa(&mut self, update: SaUpdate) {
        match update {
            SaUpdate::AddInbound(sa) => {
                let spi = sa.spi;
                match self.tables.inbound.insert(spi, InboundSlot::new(sa, self.tables.moves)) {
                    Ok(None) => {}
                    Ok(Some(old)) => self.report(retired_inbound(self.index, old)),
                    Err(refused) => self.report(Event::Refused(Refused::Inbound(refused.0.sa))),
                }
            }
            SaUpdate::RemoveInbound(spi) => {
                if let Some(old) = self.tables.inbound.remove(spi) {
                    self.report(retired_inbound(self.index, old));
                }
            }
            SaUpdate::SetOutbound(sa, endpoints) => {
                let tunnel = sa.params.tunnel;
                let slot = OutboundSlot::new(sa, endpoints);
                match self.tables.tunnel(tunnel) {
                    Some(old) if old.endpoints == endpoints => slot.sa.path_mtu.inherit(&old.sa.path_mtu),
                    Some(_) => self.tables.moves = self.tables.moves.wrapping_add(1),
                    None => {}
                }
                match self.tables.outbound.insert(tunnel.0, slot) {
                    Ok(None) => {}
                    Ok(Some(old)) => self.report(retired_outbound(self.index, old)),
                    Err(refused) => self.report(Event::Refused(Refused::Outbound(refused.0.sa))),
                }
                self.waiting.hope();
            }
            SaUpdate::RemoveOutbound(tunnel) => {
                if let Some(old) = self.tables.outbound.remove(tunnel.0) {
                    self.report(retired_outbound(self.index, old));
                }
            }
            SaUpdate::MovePeer(tunnel, endpoints) => {
                self.tables.moves = self.tables.moves.wrapping_add(1);
                if let Some(slot) = self.tables.tunnel_mut(tunnel) {
                    slot.move_to(endpoints);
                }
            }
        }
    }

    fn fill(&mut self, snapshot: &mut Snapshot) {
        snapshot.worker = self.index;
        snapshot.drops = self.drops.clone();
        snapshot.ports.clear();
        snapshot.ports.extend(self.ports.iter_mut().map(|port| port.driver.counters()));
        snapshot.latency.reset();
        // Same bounds on both sides, so this neither fails nor allocates.
        let _ = snapshot.latency.add(&self.latency);
        (snapshot.busy_polls, snapshot.idle_polls, snapshot.sleeps) =
            (self.busy_polls, self.idle_polls, self.sleeps);
        snapshot.frames = (self.pool.available(), self.pool.capacity());
        snapshot.inbound_sas = self.tables.inbound.len();
        snapshot.outbound_sas = self.tables.outbound.len();
        snapshot.policies = self.tables.spd.len();
        snapshot.routes = self.tables.routes.len();
        snapshot.neighbours.clear();
        let room = snapshot.neighbours.capacity();
        snapshot.neighbours.extend(self.local.neighbours.resolved().take(room));
    }

    fn fill_page(&self, page: &mut SaPage) {
        page.worker = self.index;
        page.entries.clear();
        let from = page.cursor.unwrap_or(0);
        page.cursor = match page.direction {
            Direction::Inbound => self.tables.inbound.walk(from, PAGE, |slot| {
                page.entries.push(SaReading {
                    tunnel: slot.sa.params.tunnel,
                    spi: slot.sa.spi,
                    counters: slot.counters,
                });
            }),
            Direction::Outbound => self.tables.outbound.walk(from, PAGE, |_, slot| {
                page.entries.push(SaReading {
                    tunnel: slot.sa.params.tunnel,
                    spi: slot.sa.spi,
                    counters: slot.counters,
                });
            }),
        };
    }
}

fn retired_inbound(worker: usize, slot: InboundSlot) -> Event {
    Event::Retired { worker, sa: Retired::Inbound(slot.sa), counters: slot.counters }
}

fn retired_outbound(worker: usize, slot: OutboundSlot) -> Event {
    Event::Retired { worker, sa: Retired::Outbound(slot.sa), counters: slot.counters }
}
