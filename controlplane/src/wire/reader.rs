//! A cursor over received bytes that knows where in the message it stands.

use std::fmt;

use thiserror::Error;

use super::registry::{NotifyType, PayloadType};

/// Why a message could not be parsed: in which payload, at which byte of the message, and what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{place} at byte {offset}: {kind}")]
pub struct WireError {
    /// The header, or the payload that was being parsed.
    pub place: Place,
    /// Offset from the start of the message (of the plaintext, inside SK).
    pub offset: usize,
    /// What was wrong.
    pub kind: WireErrorKind,
}

impl WireError {
    /// The error notify that answers such a request (RFC 7296 s2.21, s2.5).
    pub fn notify(&self) -> NotifyType {
        match self.kind {
            WireErrorKind::UnsupportedCritical(_) => NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
            WireErrorKind::MajorVersion(_) => NotifyType::INVALID_MAJOR_VERSION,
            _ => NotifyType::INVALID_SYNTAX,
        }
    }
}

/// Where in a message an error was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The IKE header (RFC 7296 s3.1).
    Header,
    /// A payload.
    Payload(PayloadType),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("IKE header"),
            Self::Payload(kind) => write!(f, "{kind} payload"),
        }
    }
}

/// What was wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireErrorKind {
    /// A field goes past the end of what contains it.
    #[error("{needed} bytes needed, {have} left")]
    Truncated {
        /// Bytes that the field takes.
        needed: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// A length field contradicts what it measures.
    #[error("length field says {found}, which is not {expected}")]
    Length {
        /// What the field says.
        found: usize,
        /// What it may say.
        expected: &'static str,
    },
    /// Bytes follow where the structure has ended.
    #[error("{0} bytes after the end")]
    Trailing(usize),
    /// Major version other than 2 (RFC 7296 s2.5).
    #[error("major version {0}, expected 2")]
    MajorVersion(u8),
    /// A payload that we do not know has the critical bit (RFC 7296 s2.5).
    #[error("payload type {} is critical and not supported", .0.0)]
    UnsupportedCritical(PayloadType),
    /// A field has a value that the RFC does not allow.
    #[error("{field} is {found}, expected {expected}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// What was found.
        found: u32,
        /// What is allowed.
        expected: &'static str,
    },
    /// More payloads than [`MessageLimits`](super::MessageLimits) allow.
    #[error("more than {0} payloads in a message")]
    Payloads(usize),
    /// More proposals than [`MessageLimits`](super::MessageLimits) allow.
    #[error("more than {0} proposals")]
    Proposals(usize),
    /// A longer identity than [`MessageLimits`](super::MessageLimits) allow.
    #[error("an identity of {found} octets, {most} at most are looked at")]
    Identity {
        /// Its length.
        found: usize,
        /// The longest that is taken.
        most: usize,
    },
}

/// Reads big-endian fields from a slice; every failure says where.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
    place: Place,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which start at `offset` of the message.
    pub fn new(bytes: &'a [u8], offset: usize, place: Place) -> Self {
        Self { rest: bytes, offset, place }
    }

    /// Offset of the next byte from the start of the message.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not read yet.
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// All bytes are read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// An error of this kind at the current place.
    pub fn error(&self, kind: WireErrorKind) -> WireError {
        WireError { place: self.place, offset: self.offset, kind }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let have = self.rest.len();
        let Some((head, tail)) = self.rest.split_at_checked(count) else {
            return Err(self.error(WireErrorKind::Truncated { needed: count, have }));
        };
        self.rest = tail;
        self.offset += count;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let have = self.rest.len();
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.error(WireErrorKind::Truncated { needed: N, have }));
        };
        self.rest = tail;
        self.offset += N;
        Ok(*head)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, big endian.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big endian.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big endian.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Everything that is left.
    pub fn remaining(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.offset += rest.len();
        self.rest = &[];
        rest
    }

    /// What is left, without reading it.
    pub fn remaining_view(&self) -> &'a [u8] {
        self.rest
    }

    /// A reader of the next `count` bytes alone; this one goes on behind them.
    pub fn sub(&mut self, count: usize) -> Result<Reader<'a>, WireError> {
        let offset = self.offset;
        let place = self.place;
        Ok(Reader::new(self.take(count)?, offset, place))
    }

    /// Fails when something is left.
    pub fn finish(&self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.error(WireErrorKind::Trailing(left))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_payload_and_offset() {
        let mut reader = Reader::new(&[0, 1, 2], 40, Place::Payload(PayloadType::KE));
        assert_eq!(reader.u16(), Ok(1));
        let error = reader.u16().unwrap_err();
        assert_eq!(error.offset, 42);
        assert_eq!(error.to_string(), "KE payload at byte 42: 2 bytes needed, 1 left");
        assert_eq!(error.notify(), NotifyType::INVALID_SYNTAX);
        assert_eq!(reader.u8(), Ok(2));
        assert!(reader.finish().is_ok());
    }
}
