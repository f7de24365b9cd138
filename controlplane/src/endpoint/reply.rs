//! Answers that leave no state: to garbage, to what we know nothing of, and to floods.

use std::net::SocketAddr;
use std::time::Instant;

use dataplane::message::Datagram;

use crate::per_second::PerSecond;
use crate::rejection::Rejection;
use crate::sa::Output;
use crate::wire::{
    ExchangeType, HEADER_LEN, Header, Notify, NotifyType, Payload, PayloadType, WireError, WireErrorKind,
    emit_chain,
};

/// Counts stateless answers.
#[derive(Debug)]
pub(super) struct Replies(PerSecond);

impl Replies {
    pub fn new(per_second: u32) -> Self {
        Self(PerSecond::new(per_second))
    }

    /// One more may be sent.
    pub fn allowed(&mut self, now: Instant, out: &mut Output) -> bool {
        let allowed = self.0.allows(now);
        if !allowed {
            out.counters.count(Rejection::AnswerLimit);
        }
        allowed
    }

    /// Answers a request for an IKE SA that does not exist (RFC 7296 s2.21.4): the SPIs of the request, the bits of
    /// a response. An answer to a response would make a loop.
    pub fn unknown_spi(&mut self, now: Instant, out: &mut Output, request: &Header, datagram: &Datagram) {
        if self.allowed(now, out) {
            let notify = Payload::Notify(Notify::bare(NotifyType::INVALID_IKE_SPI));
            send(out, &answer_to(request), datagram.local, datagram.remote, &[notify]);
        }
    }

    /// Answers a request of a higher major version (RFC 7296 s2.5). Its fields are where version 2 has them, or
    /// there would be no common header at all.
    pub fn major_version(&mut self, now: Instant, out: &mut Output, datagram: &Datagram) {
        let mut as_ours = datagram.payload.clone();
        let Some(version) = as_ours.get_mut(17) else { return };
        *version = 0x20;
        let Ok(request) = Header::parse(&as_ours) else { return };
        if !request.response && self.allowed(now, out) {
            let notify = Payload::Notify(Notify::bare(NotifyType::INVALID_MAJOR_VERSION));
            send(out, &answer_to(&request), datagram.local, datagram.remote, &[notify]);
        }
    }
}

/// Answers an IKE_SA_INIT with notifies. The responder's SPI stays 0 (RFC 7296 s2.6).
pub(super) fn stateless(
    out: &mut Output,
    request: &Header,
    local: SocketAddr,
    remote: SocketAddr,
    notifies: &[Payload<'_>],
) {
    send(out, &Header { spi_r: 0, ..answer_to(request) }, local, remote, notifies);
}

/// The notify that answers a malformed request.
pub(super) fn error_notify(error: &WireError) -> Notify<'static> {
    match error.kind {
        WireErrorKind::UnsupportedCritical(kind) => Notify::new(error.notify(), vec![kind.0]),
        _ => Notify::bare(error.notify()),
    }
}

fn answer_to(request: &Header) -> Header {
    Header {
        next_payload: PayloadType::NOTIFY,
        minor: 0,
        initiator: !request.initiator,
        version: false,
        response: true,
        exchange: if request.exchange.name().is_some() {
            request.exchange
        } else {
            ExchangeType::INFORMATIONAL
        },
        ..*request
    }
}

fn send(out: &mut Output, header: &Header, local: SocketAddr, remote: SocketAddr, notifies: &[Payload<'_>]) {
    let mut message = vec![0; HEADER_LEN];
    if emit_chain(notifies, &mut message).is_ok() {
        let header = header.emit(message.len());
        message.splice(..HEADER_LEN, header);
        out.transmit.push_back(Datagram { local, remote, payload: message });
    }
}
