//! What the workers report, and what is done about it.

use dataplane::clock;
use dataplane::fleet::Fleet;
use dataplane::host::feedback::{Feedback, Flow, Problem};
use dataplane::message::{Direction, Event, Refused, SaUpdate};
use dataplane::sa::{Endpoints, Spi, TunnelId};

use super::readings::Collector;
use super::tunnels::Tunnels;

/// Deals with one event.
pub(super) fn handle(event: Event, fleet: &Fleet, tunnels: &mut Tunnels, collector: &mut Collector) {
    match event {
        Event::Neighbour(neighbour) => fleet.share_neighbour(neighbour),
        Event::Feedback(feedback) => heed(&feedback, tunnels),
        Event::Expired { tunnel, spi, direction, hard } => expired(tunnels, tunnel, spi, direction, hard),
        Event::PeerMoved { tunnel, spi, endpoints } => moved(fleet, tunnels, tunnel, spi, endpoints),
        Event::Refused(refused) => refuse(&refused, tunnels),
        Event::Retired(sa, counters) => tunnels.retire(&sa, &counters),
        Event::Snapshot(snapshot) => collector.worker(*snapshot, tunnels),
        Event::SaPage(page) => collector.page(page, fleet, tunnels),
        Event::Barrier { worker, number } => {
            tracing::debug!(worker, number, "worker has applied the configuration")
        }
        Event::Acquire { tunnel, source, destination, protocol } => {
            tracing::debug!(tunnel = name(tunnels, tunnel), %source, %destination, protocol, "a packet found no SA");
        }
        Event::Punt(datagram) => {
            tracing::debug!(from = %datagram.remote, to = %datagram.local, "IKE message, and nobody here speaks IKE");
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
    match feedback.problem {
        Problem::PathMtu(mtu) => {
            tunnel.outbound.path_mtu.lower(mtu.into(), clock::now());
            tracing::info!(tunnel = tunnel.name, %reporter, %remote, mtu, "the path to the peer got narrower");
        }
        problem => {
            tracing::warn!(tunnel = tunnel.name, %reporter, %remote, ?problem, "packets to the peer do not arrive")
        }
    }
}

fn expired(tunnels: &Tunnels, tunnel: TunnelId, spi: Spi, direction: Direction, hard: bool) {
    let (name, spi) = (name(tunnels, tunnel), format!("{spi:#010x}"));
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
    let Some(tunnel) = tunnels.get_mut(id) else { return };
    let from = tunnel.endpoints;
    let spi = format!("{spi:#010x}");
    if from.udp.is_some() && to.udp.is_some() && from.local == to.local {
        tracing::info!(
            tunnel = tunnel.name,
            spi,
            ?from,
            ?to,
            "the peer's NAT mapping changed; it is followed"
        );
        tunnel.endpoints = to;
        fleet.update_sa(&SaUpdate::MovePeer(id, to));
    } else {
        tracing::warn!(
            tunnel = tunnel.name, spi, expected = ?from, found = ?to,
            "packets with good keys come from an unexpected address; they are accepted, and ours still go to the configured one"
        );
    }
}

fn refuse(refused: &Refused, tunnels: &Tunnels) {
    match refused {
        Refused::Inbound(sa) => {
            tracing::error!(
                tunnel = name(tunnels, sa.params.tunnel),
                "a worker has no room for the inbound SA"
            );
        }
        Refused::Outbound(sa) => {
            tracing::error!(
                tunnel = name(tunnels, sa.params.tunnel),
                "a worker has no room for the outbound SA"
            );
        }
        Refused::Policy(id) => tracing::error!(policy = id.0, "a worker refuses the policy"),
    }
}

fn name(tunnels: &Tunnels, id: TunnelId) -> &str {
    tunnels.get(id).map_or("?", |tunnel| &tunnel.name)
}
