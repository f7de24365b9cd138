//! Where the encrypted part of a message is: SK (RFC 7296 s3.14) and SKF (RFC 7383 s2.5).

use super::header::{HEADER_LEN, Header};
use super::payload::Payloads;
use super::reader::{WireError, WireErrorKind};
use super::registry::PayloadType;

/// Length of the generic payload header.
pub const GENERIC_LEN: usize = 4;

/// Length of what SKF puts between its generic header and the IV: fragment number and total.
pub const SKF_HEADER_LEN: usize = 4;

/// The encrypted payload of a message. It is the only payload of the messages that IKEv2 defines, so one
/// with cleartext payloads before it is refused rather than half believed; but for the solution of a puzzle, which has
/// to stand there (RFC 8019 s7.2.2), and which the ICV covers too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encrypted {
    /// A whole message.
    Sk {
        /// Type of the first payload inside.
        first: PayloadType,
        /// Where the IV starts: what is before is authenticated and not encrypted.
        body_at: usize,
    },
    /// A fragment of a message.
    Skf {
        /// Type of the first payload inside, in fragment 1; `NONE` in the others.
        first: PayloadType,
        /// Number of this fragment, from 1.
        number: u16,
        /// Number of fragments.
        total: u16,
        /// Where the IV starts.
        body_at: usize,
    },
}

impl Encrypted {
    /// Finds the encrypted payload of a message whose header is already parsed.
    pub fn find(header: &Header, message: &[u8]) -> Result<Self, WireError> {
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let mut payloads = Payloads::new(header.next_payload, body, HEADER_LEN);
        let expected = "an SK or SKF payload";
        let none = |offset| WireError {
            place: super::Place::Payload(header.next_payload),
            offset,
            kind: WireErrorKind::Value {
                field: "payload type",
                found: header.next_payload.0.into(),
                expected,
            },
        };
        let mut raw = payloads.next().ok_or_else(|| none(HEADER_LEN))??;
        if raw.kind == PayloadType::PS {
            raw = payloads.next().ok_or_else(|| none(raw.offset))??;
        }
        match raw.kind {
            PayloadType::SK => Ok(Self::Sk { first: raw.next, body_at: raw.offset }),
            PayloadType::SKF => {
                let mut reader = raw.reader();
                let (number, total) = (reader.u16()?, reader.u16()?);
                // RFC 7383 s2.5: both start at 1, and only the first fragment names a payload.
                let ordered = number >= 1 && number <= total;
                if !ordered || (number > 1 && raw.next != PayloadType::NONE) {
                    let (field, found) = ("fragment number", number.into());
                    let expected = "1 to the total, and no next payload after the first";
                    return Err(raw.reader().error(WireErrorKind::Value { field, found, expected }));
                }
                Ok(Self::Skf { first: raw.next, number, total, body_at: reader.offset() })
            }
            _ => Err(none(HEADER_LEN)),
        }
    }
}
