//! Messages in the clear, read and written anew.

use dataplane::message::Datagram;

use crate::wire::{HEADER_LEN, Header, MessageLimits, Payload, emit_chain, parse_chain};

/// The payloads of a message.
pub(super) fn payloads(datagram: &Datagram) -> Vec<Payload<'_>> {
    parse(&datagram.payload).1
}

/// Changes the payloads of a message.
pub(super) fn rebuild(datagram: &mut Datagram, change: impl FnOnce(&mut Vec<Payload<'static>>)) {
    let payload: &'static [u8] = Box::leak(datagram.payload.clone().into_boxed_slice());
    let (header, mut payloads) = parse(payload);
    change(&mut payloads);
    let mut body = Vec::new();
    let next_payload = emit_chain(&payloads, &mut body).unwrap();
    datagram.payload = Header { next_payload, ..header }.emit(HEADER_LEN + body.len()).to_vec();
    datagram.payload.extend(body);
}

fn parse(message: &[u8]) -> (Header, Vec<Payload<'_>>) {
    let header = Header::parse(message).unwrap();
    let payloads =
        parse_chain(header.next_payload, &message[HEADER_LEN..], HEADER_LEN, &MessageLimits::default());
    (header, payloads.unwrap())
}
