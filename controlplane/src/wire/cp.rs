//! Configuration payload (RFC 7296 s3.15).

use std::borrow::Cow;

use super::reader::{Reader, WireError, WireErrorKind};
use super::registry::{CfgAttributeType, CfgType};

/// Configuration payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration<'a> {
    /// Request, reply, set or acknowledgement.
    pub kind: CfgType,
    /// Attributes, in order; a type may come more than once.
    pub attributes: Vec<CfgAttribute<'a>>,
}

/// One configuration attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CfgAttribute<'a> {
    /// Its type.
    pub kind: CfgAttributeType,
    /// Its value; empty in a request that leaves it to the responder.
    pub value: Cow<'a, [u8]>,
}

impl<'a> CfgAttribute<'a> {
    /// An attribute.
    pub fn new(kind: CfgAttributeType, value: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { kind, value: value.into() }
    }
}

impl<'a> Configuration<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let kind = CfgType(reader.u8()?);
        reader.array::<3>()?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            // The high bit is reserved and ignored (RFC 7296 s3.15.1).
            let kind = CfgAttributeType(reader.u16()? & 0x7fff);
            let length = usize::from(reader.u16()?);
            attributes.push(CfgAttribute { kind, value: Cow::Borrowed(reader.take(length)?) });
        }
        Ok(Self { kind, attributes })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) -> Result<(), WireErrorKind> {
        out.extend_from_slice(&[self.kind.0, 0, 0, 0]);
        for attribute in &self.attributes {
            let found = attribute.value.len();
            let length = u16::try_from(found)
                .map_err(|_| WireErrorKind::Length { found, expected: "at most 65535 bytes" })?;
            out.extend_from_slice(&(attribute.kind.0 & 0x7fff).to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&attribute.value);
        }
        Ok(())
    }
}
