//! INFORMATIONAL: deletes, notifies and signs of life (RFC 7296 s1.4, s1.5, s2.4, s2.25), and NAT keepalives.

use std::collections::BTreeMap;
use std::time::Instant;

use dataplane::message::Datagram;
use tracing::{debug, info, warn};

use super::Context;
use super::child::Stage;
use super::core::{Core, Opened, Path};
use super::established::{Active, Established, Next, Phase};
use super::init::notifies;
use crate::config::Connection;
use crate::update::DownReason;
use crate::wire::{Delete, ExchangeType, Notify, NotifyType, Payload, ProtocolId, WireError, WireErrorKind};

/// The one byte of a NAT keepalive (RFC 3948 s2.3). It goes out without non-ESP marker.
pub(crate) const KEEPALIVE: &[u8] = &[0xff];

impl Established {
    /// Serves INFORMATIONAL.
    pub(super) fn informational_request(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Next {
        for notify in notifies(payloads) {
            // RFC 7296 s2.21.2: the initiator could not authenticate us, and has closed.
            if notify.kind == NotifyType::AUTHENTICATION_FAILED {
                warn!(connection = %self.connection.name, "peer does not accept our authentication");
                core.respond(ctx, ExchangeType::INFORMATIONAL, &[]);
                return Next::Close(DownReason::Rejected(notify.kind));
            }
            if notify.kind.is_error() {
                info!(connection = %self.connection.name, notify = %notify.kind, "peer reports an error");
            }
        }
        if core.began {
            self.hear_lifetime(ctx, payloads);
        }
        if is_ike_delete(payloads) {
            core.respond(ctx, ExchangeType::INFORMATIONAL, &[]);
            return Next::Close(match &self.phase {
                // Both wanted it gone (RFC 7296 s2.25.2).
                Phase::Leaving(reason) => reason.clone(),
                _ => DownReason::PeerDeleted,
            });
        }
        let mobike = self.mobike_request(core, ctx, payloads);
        let mut deleted: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
        for payload in payloads {
            if let Payload::Delete(Delete::Child { protocol, spis }) = payload {
                for &spi in spis {
                    if let Some(ours) = self.delete_child(ctx, *protocol, spi) {
                        deleted.entry(protocol.0).or_default().push(ours);
                    }
                }
            }
        }
        let answer: Vec<_> = mobike
            .into_iter()
            .chain(deleted.into_iter().map(|(protocol, spis)| {
                Payload::Delete(Delete::Child { protocol: ProtocolId(protocol), spis })
            }))
            .collect();
        core.respond(ctx, ExchangeType::INFORMATIONAL, &answer);
        Next::Stay
    }

    /// The peer deletes the SA that it receives on. Returns our SPI of the pair for the answer, unless we
    /// asked for its deletion ourselves (RFC 7296 s1.4.1, s2.25.1).
    pub(super) fn delete_child(
        &mut self,
        ctx: &mut Context<'_>,
        protocol: ProtocolId,
        spi_out: u32,
    ) -> Option<u32> {
        let Some(child) = self.children.by_outbound(protocol, spi_out) else {
            if let Some(request) = self.child_asked_for() {
                request.note_deleted(protocol, spi_out);
            }
            return None;
        };
        let (spi_in, tunnel) = (child.spi_in, child.tunnel);
        let asked = matches!(self.active, Some(Active::DeleteChild { spi, .. }) if spi == spi_in);
        let succeeded = child.stage != Stage::Up;
        let went_on = child.stage == Stage::Succeeded;
        debug!(connection = %self.connection.name, spi = spi_in, succeeded, "peer deletes a Child SA");
        if went_on {
            self.note_went_on(spi_in);
        }
        let connection = self.connection.clone();
        self.children.remove(ctx, &connection, spi_in, &DownReason::PeerDeleted);
        if !self.children.iter().any(|other| other.tunnel == tunnel) {
            self.forget_rekey_of(spi_in);
        }
        (!asked).then_some(spi_in)
    }
}

/// The peer deletes the IKE SA.
pub(super) fn is_ike_delete(payloads: &[Payload<'_>]) -> bool {
    payloads.iter().any(|payload| matches!(payload, Payload::Delete(Delete::Ike)))
}

/// The same, of a message that is not parsed yet.
pub(super) fn deletes_ike(ctx: &Context<'_>, exchange: ExchangeType, opened: &Opened) -> bool {
    exchange == ExchangeType::INFORMATIONAL
        && opened.payloads(ctx).is_ok_and(|payloads| is_ike_delete(&payloads))
}

/// The notify that answers a malformed request.
pub(super) fn error_notify(error: &WireError) -> Notify<'static> {
    match error.kind {
        // RFC 7296 s2.5: the data is the payload type.
        WireErrorKind::UnsupportedCritical(kind) => Notify::new(error.notify(), vec![kind.0]),
        _ => Notify::bare(error.notify()),
    }
}

/// When the peer is to be asked whether it is alive (RFC 7296 s2.4).
pub(super) fn probe_at(connection: &Connection, core: &Core) -> Option<Instant> {
    connection.dpd.map(|after| core.last_heard + after)
}

/// When the NAT that we are behind must see a packet again (RFC 3948 s4).
pub(super) fn keepalive_at(connection: &Connection, core: &Core) -> Option<Instant> {
    core.nat.local.then(|| core.last_sent + connection.nat_keepalive)
}

/// Sends a NAT keepalive when it is time.
pub(super) fn keepalive(connection: &Connection, core: &mut Core, ctx: &mut Context<'_>) {
    if keepalive_at(connection, core).is_some_and(|at| at <= ctx.now) {
        let Path { local, remote } = core.path;
        core.last_sent = ctx.now;
        ctx.out.transmit.push_back(Datagram { local, remote, payload: KEEPALIVE.to_vec() });
    }
}
