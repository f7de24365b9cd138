//! What the workers report, and what is done about it.

use dataplane::clock;
use dataplane::fleet::Fleet;
use dataplane::host::feedback::{Feedback, Flow, Problem};
use dataplane::message::{Direction, Event, Refused, Retired, SaUpdate};
use dataplane::sa::counters::SaCounters;
use dataplane::sa::{Endpoints, Spi, TunnelId};

use controlplane::selector::Packet;

use super::Gateway;
use super::ike::Ike;
use super::tunnels::Tunnels;

impl Gateway<'_> {
    /// Deals with one event.
    pub(super) fn handle(&mut self, event: Event) {
        let Self { fleet, tunnels, spd, ike, collector, .. } = self;
        match event {
            Event::Neighbour(neighbour) => fleet.share_neighbour(neighbour),
            Event::Conflict(other) => collector.conflict(&other),
            Event::Feedback(feedback) => heed(&feedback, tunnels),
            Event::Expired { tunnel, spi, hard, .. } if ike.has(tunnel) => ike.expired(tunnel, spi, hard),
            Event::Expired { tunnel, spi, direction, hard } => expired(tunnels, tunnel, spi, direction, hard),
            Event::PeerMoved { tunnel, endpoints, .. } if ike.has(tunnel) => {
                ike.peer_moved(tunnel, endpoints)
            }
            Event::PeerMoved { tunnel, spi, endpoints } => moved(fleet, tunnels, tunnel, spi, endpoints),
            Event::Refused(refused) => refuse(refused, tunnels, ike),
            Event::Retired { worker, sa, counters } => {
                collector.retired(worker, &sa);
                tunnels.retire(&sa, &counters);
            }
            Event::Snapshot(snapshot) => collector.worker(*snapshot, tunnels, spd),
            Event::SaPage(page) => collector.page(page, fleet, tunnels, spd),
            Event::Barrier { worker, number: 0 } => {
                tracing::debug!(worker, "worker has applied the configuration");
            }
            Event::Barrier { number, .. } => ike.passed(number),
            Event::Finished { worker } => {
                tracing::debug!(worker, "all ports of the worker came to their end");
                self.finished += 1;
            }
            // The fleet hears it while it stops.
            Event::Drained { .. } => {}
            Event::Acquire { tunnel, source, destination, protocol, ports } => {
                tracing::debug!(tunnel = tunnel.0, %source, %destination, protocol, "a packet found no SA");
                ike.acquire(tunnel, Packet { source, destination, protocol, ports });
            }
            Event::Punt(datagram) => {
                let (from, to) = (datagram.remote, datagram.local);
                if !ike.receive(datagram) {
                    tracing::debug!(%from, %to, "an IKE message was dropped");
                }
            }
        }
    }
}

/// An ICMP error about a packet of ours. It lowers a path MTU (RFC 4301 s8.2.1) and changes nothing else.
fn heed(feedback: &Feedback, tunnels: &Tunnels) {
    let remote = feedback.remote;
    let tunnel = match feedback.flow {
        Flow::Esp(spi) | Flow::Ah(spi) | Flow::Udp { spi: Some(spi), .. } => tunnels.sending(remote, spi),
        Flow::Udp { spi: None, .. } => tunnels.only_one_to(remote),
    };
    let reporter = feedback.reporter;
    let Some(tunnel) = tunnel else {
        tracing::debug!(%reporter, %remote, flow = ?feedback.flow, "ICMP error about no SA of ours");
        return;
    };
    let name = tunnels.name(tunnel);
    match feedback.problem {
        Problem::PathMtu(mtu) => {
            if let Some(outbound) = tunnels.get(tunnel).and_then(|live| live.outbound.as_ref()) {
                outbound.sa.path_mtu.lower(mtu.into(), clock::now());
            }
            tracing::info!(tunnel = name, %reporter, %remote, mtu, "the path to the peer got narrower");
        }
        problem => {
            tracing::warn!(tunnel = name, %reporter, %remote, ?problem, "packets to the peer do not arrive")
        }
    }
}

fn expired(tunnels: &Tunnels, tunnel: TunnelId, spi: Spi, direction: Direction, hard: bool) {
    let (name, spi) = (tunnels.name(tunnel), format!("{spi:#010x}"));
    if hard {
        tracing::error!(
            tunnel = name,
            spi,
            ?direction,
            "the SA reached its hard lifetime and carries nothing more; replace its keys and SPIs, and restart"
        );
    } else {
        tracing::warn!(
            tunnel = name,
            spi,
            ?direction,
            "the SA reached its soft lifetime; it needs new keys soon"
        );
    }
}

/// An authenticated packet came from elsewhere. With UDP encapsulation that is a NAT that changed its mapping, and
/// the peer is followed at once (RFC 7296 s2.23); without, the operator configured another address.
fn moved(fleet: &Fleet, tunnels: &mut Tunnels, id: TunnelId, spi: Spi, to: Endpoints) {
    let Some(from) = tunnels.get(id).map(|live| live.endpoints) else { return };
    let name = tunnels.name(id);
    let spi = format!("{spi:#010x}");
    if from.udp.is_some() && to.udp.is_some() && from.local == to.local {
        tracing::info!(tunnel = name, spi, ?from, ?to, "the peer's NAT mapping changed; it is followed");
        tunnels.move_peer(id, to);
        fleet.update_sa(&SaUpdate::MovePeer(id, to));
    } else {
        tracing::warn!(
            tunnel = name, spi, expected = ?from, found = ?to,
            "packets with good keys come from an unexpected address; they are accepted, and ours still go to the configured one"
        );
    }
}

/// A worker has no room. A negotiated SA is given up; one that is keyed by hand stays on the other workers.
fn refuse(refused: Refused, tunnels: &mut Tunnels, ike: &Ike) {
    let (sa, tunnel, spi, direction) = match refused {
        Refused::Policy(id) => return tracing::error!(policy = id.0, "a worker refuses the policy"),
        Refused::Inbound(sa) => {
            let (tunnel, spi) = (sa.params.tunnel, sa.spi);
            (Retired::Inbound(sa), tunnel, spi, "inbound")
        }
        Refused::Outbound(sa) => {
            let (tunnel, spi) = (sa.params.tunnel, sa.spi);
            (Retired::Outbound(sa), tunnel, spi, "outbound")
        }
    };
    tracing::error!(tunnel = tunnels.name(tunnel), direction, "a worker has no room for the SA");
    tunnels.retire(&sa, &SaCounters::default());
    if ike.has(tunnel) {
        ike.expired(tunnel, spi, true);
    }
}
