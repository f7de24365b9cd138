//! The chain of payloads (RFC 7296 s3.2).

use std::borrow::Cow;

use super::cp::Configuration;
use super::eap::Eap;
use super::reader::{Place, Reader, WireError, WireErrorKind};
use super::registry::PayloadType;
use super::sa::{self, Proposal};
use super::simple::{Auth, Cert, CertReq, Delete, Id, KeyExchange, Notify};
use super::ts::{self, TrafficSelector};
use crate::limits::FloodLimits;

const CRITICAL: u8 = 0x80;

/// Bounds on what is read of one message, all of it before its sender has proved anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// No more payloads.
    pub payloads: usize,
    /// No more proposals in an SA payload.
    pub proposals: usize,
    /// No longer identity.
    pub identity: usize,
}

impl Default for MessageLimits {
    /// Those of a configuration that says nothing of them.
    fn default() -> Self {
        FloodLimits::default().of_message()
    }
}

/// A payload as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPayload<'a> {
    /// Its type, from the Next Payload field before it.
    pub kind: PayloadType,
    /// The critical bit.
    pub critical: bool,
    /// The Next Payload field: for SK and SKF the type of the first payload inside.
    pub next: PayloadType,
    /// Offset of the body from the start of the message.
    pub offset: usize,
    /// What follows the generic header.
    pub body: &'a [u8],
}

impl<'a> RawPayload<'a> {
    /// A reader of the body.
    pub fn reader(&self) -> Reader<'a> {
        Reader::new(self.body, self.offset, Place::Payload(self.kind))
    }
}

/// Walks a chain of payloads. Ends after the last one, after SK or SKF (whose Next Payload names what is
/// inside), or after the first error.
pub struct Payloads<'a> {
    reader: Reader<'a>,
    next: PayloadType,
}

impl<'a> Payloads<'a> {
    /// Walks `bytes`, which start at `offset` of the message; `first` is the type of the first payload.
    pub fn new(first: PayloadType, bytes: &'a [u8], offset: usize) -> Self {
        Self { reader: Reader::new(bytes, offset, Place::Payload(first)), next: first }
    }

    fn step(&mut self) -> Result<Option<RawPayload<'a>>, WireError> {
        let kind = self.next;
        if kind == PayloadType::NONE {
            return self.reader.finish().map(|()| None);
        }
        self.reader = Reader::new(self.reader.remaining_view(), self.reader.offset(), Place::Payload(kind));
        let next = PayloadType(self.reader.u8()?);
        let critical = self.reader.u8()? & CRITICAL != 0;
        let length_at = self.reader;
        let length = usize::from(self.reader.u16()?);
        let Some(body_len) = length.checked_sub(4) else {
            let expected = "at least the 4 bytes of the generic header";
            return Err(length_at.error(WireErrorKind::Length { found: length, expected }));
        };
        let offset = self.reader.offset();
        let body = self.reader.take(body_len)?;
        if matches!(kind, PayloadType::SK | PayloadType::SKF) {
            // RFC 7296 s3.14: SK is the last payload.
            self.reader.finish()?;
            self.next = PayloadType::NONE;
        } else {
            self.next = next;
        }
        Ok(Some(RawPayload { kind, critical, next, offset, body }))
    }
}

impl<'a> Iterator for Payloads<'a> {
    type Item = Result<RawPayload<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.next = PayloadType::NONE;
            self.reader.remaining();
        }
        step.transpose()
    }
}

/// A parsed payload, or one to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Security Association.
    Sa(Vec<Proposal>),
    /// Key Exchange.
    Ke(KeyExchange<'a>),
    /// Identification of the initiator.
    IdI(Id<'a>),
    /// Identification of the responder.
    IdR(Id<'a>),
    /// Certificate.
    Cert(Cert<'a>),
    /// Certificate Request.
    CertReq(CertReq<'a>),
    /// Authentication.
    Auth(Auth<'a>),
    /// Nonce.
    Nonce(Cow<'a, [u8]>),
    /// Notify.
    Notify(Notify<'a>),
    /// Delete.
    Delete(Delete),
    /// Vendor ID.
    Vendor(Cow<'a, [u8]>),
    /// Traffic Selectors of the initiator's side.
    TsI(Vec<TrafficSelector>),
    /// Traffic Selectors of the responder's side.
    TsR(Vec<TrafficSelector>),
    /// Configuration.
    Cp(Configuration<'a>),
    /// Extensible Authentication Protocol.
    Eap(Eap<'a>),
    /// Puzzle Solution: four keys of one size (RFC 8019 s8.2).
    PuzzleSolution(Cow<'a, [u8]>),
    /// A registered or unregistered type that is not used here and was not critical: skipped.
    Other(PayloadType),
}

impl<'a> Payload<'a> {
    /// Its type on the wire.
    pub fn kind(&self) -> PayloadType {
        match self {
            Self::Sa(_) => PayloadType::SA,
            Self::Ke(_) => PayloadType::KE,
            Self::IdI(_) => PayloadType::ID_I,
            Self::IdR(_) => PayloadType::ID_R,
            Self::Cert(_) => PayloadType::CERT,
            Self::CertReq(_) => PayloadType::CERTREQ,
            Self::Auth(_) => PayloadType::AUTH,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::Delete(_) => PayloadType::DELETE,
            Self::Vendor(_) => PayloadType::VENDOR,
            Self::TsI(_) => PayloadType::TS_I,
            Self::TsR(_) => PayloadType::TS_R,
            Self::Cp(_) => PayloadType::CP,
            Self::Eap(_) => PayloadType::EAP,
            Self::PuzzleSolution(_) => PayloadType::PS,
            Self::Other(kind) => *kind,
        }
    }

    /// Parses one payload. An unknown one is an error only when it is critical (RFC 7296 s2.5).
    pub fn parse(raw: &RawPayload<'a>, limits: &MessageLimits) -> Result<Self, WireError> {
        let mut reader = raw.reader();
        let parsed = match raw.kind {
            PayloadType::SA => Self::Sa(sa::parse(&mut reader, limits)?),
            PayloadType::KE => Self::Ke(KeyExchange::parse(&mut reader)?),
            PayloadType::ID_I => Self::IdI(Id::parse(&mut reader, limits)?),
            PayloadType::ID_R => Self::IdR(Id::parse(&mut reader, limits)?),
            PayloadType::CERT => Self::Cert(Cert::parse(&mut reader)?),
            PayloadType::CERTREQ => Self::CertReq(CertReq::parse(&mut reader)?),
            PayloadType::AUTH => Self::Auth(Auth::parse(&mut reader)?),
            PayloadType::NONCE => Self::Nonce(parse_nonce(&mut reader)?),
            PayloadType::NOTIFY => Self::Notify(Notify::parse(&mut reader)?),
            PayloadType::DELETE => Self::Delete(Delete::parse(&mut reader)?),
            PayloadType::VENDOR => Self::Vendor(Cow::Borrowed(reader.remaining())),
            PayloadType::TS_I => Self::TsI(ts::parse(&mut reader)?),
            PayloadType::TS_R => Self::TsR(ts::parse(&mut reader)?),
            PayloadType::CP => Self::Cp(Configuration::parse(&mut reader)?),
            PayloadType::EAP => Self::Eap(Eap::parse(&mut reader)?),
            PayloadType::PS => Self::PuzzleSolution(parse_solution(&mut reader)?),
            kind if raw.critical => return Err(reader.error(WireErrorKind::UnsupportedCritical(kind))),
            kind => return Ok(Self::Other(kind)),
        };
        reader.finish()?;
        Ok(parsed)
    }

    fn emit_body(&self, out: &mut Vec<u8>) -> Result<(), WireErrorKind> {
        match self {
            Self::Sa(proposals) => sa::emit(proposals, out)?,
            Self::Ke(ke) => ke.emit(out),
            Self::IdI(id) | Self::IdR(id) => id.emit(out),
            Self::Cert(cert) => cert.emit(out),
            Self::CertReq(request) => request.emit(out),
            Self::Auth(auth) => auth.emit(out),
            Self::Nonce(bytes) | Self::Vendor(bytes) | Self::PuzzleSolution(bytes) => {
                out.extend_from_slice(bytes)
            }
            Self::Notify(notify) => notify.emit(out)?,
            Self::Delete(delete) => delete.emit(out)?,
            Self::TsI(selectors) | Self::TsR(selectors) => ts::emit(selectors, out)?,
            Self::Cp(configuration) => configuration.emit(out)?,
            Self::Eap(eap) => eap.emit(out)?,
            Self::Other(_) => {}
        }
        Ok(())
    }
}

/// Parses a whole chain.
pub fn parse_chain<'a>(
    first: PayloadType,
    bytes: &'a [u8],
    offset: usize,
    limits: &MessageLimits,
) -> Result<Vec<Payload<'a>>, WireError> {
    let mut payloads = Vec::with_capacity(8);
    for raw in Payloads::new(first, bytes, offset) {
        let raw = raw?;
        if payloads.len() == limits.payloads {
            return Err(raw.reader().error(WireErrorKind::Payloads(limits.payloads)));
        }
        payloads.push(Payload::parse(&raw, limits)?);
    }
    Ok(payloads)
}

/// Appends a chain to `out` and returns the type of its first payload. Fails when a payload does not fit
/// its 16-bit length field.
pub fn emit_chain(payloads: &[Payload<'_>], out: &mut Vec<u8>) -> Result<PayloadType, WireError> {
    for (index, payload) in payloads.iter().enumerate() {
        let next = payloads.get(index + 1).map_or(PayloadType::NONE, Payload::kind);
        let start = out.len();
        out.extend_from_slice(&[next.0, 0, 0, 0]);
        let place = Place::Payload(payload.kind());
        payload.emit_body(out).map_err(|kind| WireError { place, offset: start, kind })?;
        let found = out.len() - start;
        let Ok(length) = u16::try_from(found) else {
            let kind = WireErrorKind::Length { found, expected: "at most 65535 bytes" };
            return Err(WireError { place, offset: start, kind });
        };
        if let Some(field) = out.get_mut(start + 2..start + 4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(payloads.first().map_or(PayloadType::NONE, Payload::kind))
}

/// RFC 7296 s3.9: 16 to 256 bytes.
fn parse_nonce<'a>(reader: &mut Reader<'a>) -> Result<Cow<'a, [u8]>, WireError> {
    if !(16..=256).contains(&reader.len()) {
        return Err(reader.error(WireErrorKind::Length { found: reader.len(), expected: "16 to 256 bytes" }));
    }
    Ok(Cow::Borrowed(reader.remaining()))
}

/// RFC 8019 s8.2: not empty, and a multiple of four.
fn parse_solution<'a>(reader: &mut Reader<'a>) -> Result<Cow<'a, [u8]>, WireError> {
    if reader.is_empty() || !reader.len().is_multiple_of(4) {
        let expected = "four keys of one size";
        return Err(reader.error(WireErrorKind::Length { found: reader.len(), expected }));
    }
    Ok(Cow::Borrowed(reader.remaining()))
}

#[cfg(test)]
mod tests;
