//! Traffic Selector payloads (RFC 7296 s3.13).

use std::fmt;
use std::net::IpAddr;

use super::reader::{Reader, WireError, WireErrorKind};
use super::registry::TsType;

/// Addresses, a protocol and ports of one side (RFC 7296 s3.13.1). Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// First port; for ICMP the type in the high byte and the code in the low one (RFC 7296 s3.13.1).
    pub start_port: u16,
    /// Last port. 65535 to 0 is OPAQUE: the port is not visible.
    pub end_port: u16,
    /// First address.
    pub start: IpAddr,
    /// Last address.
    pub end: IpAddr,
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match crate::selector::range_to_prefix(self.start, self.end) {
            Some(prefix) => prefix.fmt(f)?,
            None => write!(f, "{}-{}", self.start, self.end)?,
        }
        if self.protocol == 0 && (self.start_port, self.end_port) == (0, u16::MAX) {
            return Ok(());
        }
        write!(f, "[{}", self.protocol)?;
        match (self.start_port, self.end_port) {
            (0, u16::MAX) => {}
            (u16::MAX, 0) => f.write_str("/opaque")?,
            (start, end) if start == end => write!(f, "/{start}")?,
            (start, end) => write!(f, "/{start}-{end}")?,
        }
        f.write_str("]")
    }
}

/// Selectors of types that we do not know are left out: the responder narrows to what it understands
/// (RFC 7296 s2.9).
pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Vec<TrafficSelector>, WireError> {
    let count_at = *reader;
    let count = usize::from(reader.u8()?);
    reader.array::<3>()?;
    let mut selectors = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = TsType(reader.u8()?);
        let protocol = reader.u8()?;
        let length_at = *reader;
        let length = usize::from(reader.u16()?);
        let (addresses, expected) = match kind {
            TsType::IPV4_ADDR_RANGE => (Some(16), "16 for TS_IPV4_ADDR_RANGE"),
            TsType::IPV6_ADDR_RANGE => (Some(40), "40 for TS_IPV6_ADDR_RANGE"),
            _ => (None, "at least 4"),
        };
        let Some(body_len) =
            length.checked_sub(4).filter(|_| addresses.is_none_or(|expected| expected == length))
        else {
            return Err(length_at.error(WireErrorKind::Length { found: length, expected }));
        };
        let mut body = reader.sub(body_len)?;
        if addresses.is_none() {
            continue;
        }
        let (start_port, end_port) = (body.u16()?, body.u16()?);
        let addresses_at = body;
        let (start, end) = if kind == TsType::IPV4_ADDR_RANGE {
            (IpAddr::from(body.array::<4>()?), IpAddr::from(body.array::<4>()?))
        } else {
            (IpAddr::from(body.array::<16>()?), IpAddr::from(body.array::<16>()?))
        };
        if start > end {
            let (field, expected) = ("starting address", "not above the ending address");
            return Err(addresses_at.error(WireErrorKind::Value { field, found: 0, expected }));
        }
        selectors.push(TrafficSelector { protocol, start_port, end_port, start, end });
    }
    if count == 0 {
        let (field, expected) = ("number of selectors", "at least 1");
        return Err(count_at.error(WireErrorKind::Value { field, found: 0, expected }));
    }
    Ok(selectors)
}

pub(super) fn emit(selectors: &[TrafficSelector], out: &mut Vec<u8>) -> Result<(), WireErrorKind> {
    let found = selectors.len();
    let count = u8::try_from(found)
        .map_err(|_| WireErrorKind::Length { found, expected: "at most 255 selectors" })?;
    out.extend_from_slice(&[count, 0, 0, 0]);
    for selector in selectors {
        let (kind, length): (TsType, u16) = match selector.start {
            IpAddr::V4(_) => (TsType::IPV4_ADDR_RANGE, 16),
            IpAddr::V6(_) => (TsType::IPV6_ADDR_RANGE, 40),
        };
        out.extend_from_slice(&[kind.0, selector.protocol]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&selector.start_port.to_be_bytes());
        out.extend_from_slice(&selector.end_port.to_be_bytes());
        for address in [selector.start, selector.end] {
            match address {
                IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
            }
        }
    }
    Ok(())
}
