//! EAP payload: one EAP packet (RFC 7296 s3.16, RFC 3748 s4).

use std::borrow::Cow;

use super::reader::{Reader, WireError, WireErrorKind};

/// An EAP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eap<'a> {
    /// What kind of packet it is.
    pub code: EapCode,
    /// Matches responses with requests.
    pub identifier: u8,
    /// Type and type data in a request or response, empty in success and failure.
    pub data: Cow<'a, [u8]>,
}

/// Code of an EAP packet (RFC 3748 s4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EapCode {
    /// From the authenticator.
    Request = 1,
    /// From the peer.
    Response = 2,
    /// Authentication succeeded.
    Success = 3,
    /// Authentication failed.
    Failure = 4,
}

impl<'a> Eap<'a> {
    /// A packet of one of the EAP machines, which make valid ones only.
    pub fn from_packet(packet: &'a [u8]) -> Option<Self> {
        let (&[code, identifier, _, _], data) = packet.split_first_chunk::<4>()?;
        let code = match code {
            1 => EapCode::Request,
            2 => EapCode::Response,
            3 => EapCode::Success,
            4 => EapCode::Failure,
            _ => return None,
        };
        Some(Self { code, identifier, data: Cow::Borrowed(data) })
    }

    /// The packet, from the code on.
    pub fn to_packet(&self) -> Vec<u8> {
        // A payload has at most 65,531 bytes, so the length fits when it was parsed.
        let length = u16::try_from(self.data.len() + 4).unwrap_or(u16::MAX);
        let mut packet = vec![self.code as u8, self.identifier];
        packet.extend_from_slice(&length.to_be_bytes());
        packet.extend_from_slice(&self.data);
        packet
    }

    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let start = *reader;
        let code = match reader.u8()? {
            1 => EapCode::Request,
            2 => EapCode::Response,
            3 => EapCode::Success,
            4 => EapCode::Failure,
            other => {
                let (field, found) = ("EAP code", u32::from(other));
                return Err(start.error(WireErrorKind::Value { field, found, expected: "1 to 4" }));
            }
        };
        let identifier = reader.u8()?;
        let length_at = *reader;
        let length = usize::from(reader.u16()?);
        if length != start.len() {
            let expected = "the length of the EAP packet";
            return Err(length_at.error(WireErrorKind::Length { found: length, expected }));
        }
        let has_type = matches!(code, EapCode::Request | EapCode::Response);
        if has_type == reader.is_empty() {
            let expected = "5 or more in a request or response, 4 in success and failure";
            return Err(length_at.error(WireErrorKind::Length { found: length, expected }));
        }
        Ok(Self { code, identifier, data: Cow::Borrowed(reader.remaining()) })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) -> Result<(), WireErrorKind> {
        let found = self.data.len() + 4;
        let length = u16::try_from(found)
            .map_err(|_| WireErrorKind::Length { found, expected: "at most 65535 bytes" })?;
        out.extend_from_slice(&[self.code as u8, self.identifier]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.data);
        Ok(())
    }
}
