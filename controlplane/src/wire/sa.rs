//! Security Association payload: proposals, transforms, attributes (RFC 7296 s3.3).

use std::fmt;

use super::payload::MessageLimits;
use super::reader::{Reader, WireError, WireErrorKind};
use super::registry::{AttributeType, EncrId, EsnId, IntegId, KeId, PrfId, ProtocolId, TransformType};

/// The format bit of an attribute: type and value, no length (RFC 7296 s3.3.5).
const FORMAT_TV: u16 = 0x8000;

/// One proposal: a protocol and the transforms offered for it (RFC 7296 s3.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// 1 for the first, one more for each that follows.
    pub number: u8,
    /// Protocol to be keyed.
    pub protocol: ProtocolId,
    /// SPI that the sender will receive on.
    pub spi: ProposalSpi,
    /// In the order of the sender's preference.
    pub transforms: Vec<Transform>,
}

/// The SPI of a proposal: its size is that of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalSpi {
    /// None: IKE in IKE_SA_INIT.
    None,
    /// AH or ESP.
    Child(u32),
    /// IKE in a rekey.
    Ike(u64),
}

/// One transform (RFC 7296 s3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transform {
    /// Its type.
    pub kind: TransformType,
    /// Its number within the type.
    pub id: u16,
    /// Key length in bits, for ciphers with more than one (RFC 7296 s3.3.5).
    pub key_length: Option<u16>,
    /// An attribute that we do not know, which makes the transform unacceptable (RFC 7296 s3.3.6).
    pub unknown_attribute: Option<AttributeType>,
}

impl Transform {
    /// A transform without attributes.
    pub const fn new(kind: TransformType, id: u16) -> Self {
        Self { kind, id, key_length: None, unknown_attribute: None }
    }

    /// An encryption algorithm.
    pub const fn encr(id: EncrId, key_length: Option<u16>) -> Self {
        Self { kind: TransformType::ENCR, id: id.0, key_length, unknown_attribute: None }
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TransformType::ENCR => EncrId(self.id).fmt(f)?,
            TransformType::PRF => PrfId(self.id).fmt(f)?,
            TransformType::INTEG => IntegId(self.id).fmt(f)?,
            TransformType::ESN => EsnId(self.id).fmt(f)?,
            TransformType::KE => KeId(self.id).fmt(f)?,
            kind if (TransformType::ADDKE1..=TransformType::ADDKE7).contains(&kind) => {
                write!(f, "KE{}_{}", kind.0 - TransformType::ADDKE1.0 + 1, KeId(self.id))?;
            }
            kind => write!(f, "{kind} {}", self.id)?,
        }
        if let Some(bits) = self.key_length {
            write!(f, "_{bits}")?;
        }
        if let Some(attribute) = self.unknown_attribute {
            write!(f, " with {attribute}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.protocol)?;
        for (index, transform) in self.transforms.iter().enumerate() {
            let separator = if index == 0 { "" } else { "/" };
            write!(f, "{separator}{transform}")?;
        }
        Ok(())
    }
}

pub(super) fn parse(reader: &mut Reader<'_>, limits: &MessageLimits) -> Result<Vec<Proposal>, WireError> {
    let mut proposals: Vec<Proposal> = Vec::new();
    loop {
        if proposals.len() == limits.proposals {
            return Err(reader.error(WireErrorKind::Proposals(limits.proposals)));
        }
        let start = *reader;
        let (more, mut body) = substructure(reader, 2)?;
        let proposal = parse_proposal(&mut body)?;
        // RFC 7296 s3.3.1: numbers go up by one. A response carries the one that was chosen.
        if proposals.last().is_some_and(|before| before.number.checked_add(1) != Some(proposal.number)) {
            let found = u32::from(proposal.number);
            let expected = "one more than the proposal before";
            return Err(start.error(WireErrorKind::Value { field: "proposal number", found, expected }));
        }
        proposals.push(proposal);
        if !more {
            return Ok(proposals);
        }
    }
}

pub(super) fn emit(proposals: &[Proposal], out: &mut Vec<u8>) -> Result<(), WireErrorKind> {
    for (index, proposal) in proposals.iter().enumerate() {
        let more = if index + 1 < proposals.len() { 2 } else { 0 };
        let start = open(more, out);
        let found = proposal.transforms.len();
        let count = u8::try_from(found)
            .map_err(|_| WireErrorKind::Length { found, expected: "at most 255 transforms" })?;
        let spi_size = match proposal.spi {
            ProposalSpi::None => 0,
            ProposalSpi::Child(_) => 4,
            ProposalSpi::Ike(_) => 8,
        };
        out.extend_from_slice(&[proposal.number, proposal.protocol.0, spi_size, count]);
        match proposal.spi {
            ProposalSpi::None => {}
            ProposalSpi::Child(spi) => out.extend_from_slice(&spi.to_be_bytes()),
            ProposalSpi::Ike(spi) => out.extend_from_slice(&spi.to_be_bytes()),
        }
        for (index, transform) in proposal.transforms.iter().enumerate() {
            let more = if index + 1 < proposal.transforms.len() { 3 } else { 0 };
            let start = open(more, out);
            out.extend_from_slice(&[transform.kind.0, 0]);
            out.extend_from_slice(&transform.id.to_be_bytes());
            if let Some(bits) = transform.key_length {
                out.extend_from_slice(&(FORMAT_TV | AttributeType::KEY_LENGTH.0).to_be_bytes());
                out.extend_from_slice(&bits.to_be_bytes());
            }
            close(start, out)?;
        }
        close(start, out)?;
    }
    Ok(())
}

/// Reads the 4 bytes that proposals and transforms start with. Returns whether another follows, and the body.
fn substructure<'a>(reader: &mut Reader<'a>, more: u8) -> Result<(bool, Reader<'a>), WireError> {
    let start = *reader;
    let last = reader.u8()?;
    reader.u8()?;
    if last != 0 && last != more {
        let expected = if more == 2 { "0 or 2" } else { "0 or 3" };
        let found = u32::from(last);
        return Err(start.error(WireErrorKind::Value { field: "last substructure", found, expected }));
    }
    let length_at = *reader;
    let length = usize::from(reader.u16()?);
    let Some(body) = length.checked_sub(4) else {
        let expected = "at least 4 bytes";
        return Err(length_at.error(WireErrorKind::Length { found: length, expected }));
    };
    Ok((last == more, reader.sub(body)?))
}

fn parse_proposal(reader: &mut Reader<'_>) -> Result<Proposal, WireError> {
    let number = reader.u8()?;
    let protocol = ProtocolId(reader.u8()?);
    let spi_size_at = *reader;
    let spi_size = reader.u8()?;
    let count = usize::from(reader.u8()?);
    let spi = match (protocol, spi_size) {
        (_, 0) => ProposalSpi::None,
        (ProtocolId::IKE, 8) => ProposalSpi::Ike(reader.u64()?),
        (protocol, 4) if protocol != ProtocolId::IKE => ProposalSpi::Child(reader.u32()?),
        _ => {
            let found = u32::from(spi_size);
            let expected = "0 or 8 for IKE, 4 for AH and ESP";
            return Err(spi_size_at.error(WireErrorKind::Value { field: "SPI size", found, expected }));
        }
    };
    let mut transforms = Vec::with_capacity(count);
    while !reader.is_empty() {
        let start = *reader;
        let (more, mut body) = substructure(reader, 3)?;
        transforms.push(parse_transform(&mut body)?);
        if more == reader.is_empty() {
            let (field, found) = ("last substructure", u32::from(more) * 3);
            let expected = "3 before another transform, 0 in the last";
            return Err(start.error(WireErrorKind::Value { field, found, expected }));
        }
    }
    if transforms.len() != count {
        let expected = "the number of transforms that follow";
        return Err(spi_size_at.error(WireErrorKind::Length { found: count, expected }));
    }
    Ok(Proposal { number, protocol, spi, transforms })
}

fn parse_transform(reader: &mut Reader<'_>) -> Result<Transform, WireError> {
    let kind = TransformType(reader.u8()?);
    reader.u8()?;
    let mut transform = Transform::new(kind, reader.u16()?);
    while !reader.is_empty() {
        let format = reader.u16()?;
        let attribute = AttributeType(format & !FORMAT_TV);
        let value = reader.u16()?;
        if format & FORMAT_TV == 0 {
            reader.take(usize::from(value))?;
        }
        // RFC 7296 s3.3.5: KEY_LENGTH is TV, and at most one of a type.
        let is_key_length = attribute == AttributeType::KEY_LENGTH && format & FORMAT_TV != 0;
        if is_key_length && transform.key_length.is_none() {
            transform.key_length = Some(value);
        } else {
            transform.unknown_attribute = Some(attribute);
        }
    }
    Ok(transform)
}

fn open(more: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[more, 0, 0, 0]);
    start
}

fn close(start: usize, out: &mut [u8]) -> Result<(), WireErrorKind> {
    let found = out.len() - start;
    let length =
        u16::try_from(found).map_err(|_| WireErrorKind::Length { found, expected: "at most 65535 bytes" })?;
    if let Some(field) = out.get_mut(start + 2..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}
