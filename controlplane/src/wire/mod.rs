//! The wire format of IKEv2: header, payloads and their numbers (RFC 7296 s3, and the RFCs that add to it).
//!
//! A received message is first a *view*: [`Header`] and an iterator of [`RawPayload`]s that borrow it. Each
//! payload is then parsed into its *repr* ([`Payload`]), which is also what is emitted. Large fields stay
//! borrowed (`Cow`), so parsing copies only what has structure of its own.
//!
//! Parsing never panics, whatever the bytes; it never reads past the message; and every failure is a
//! [`WireError`] that names the payload, the offset and what was wrong. What is legal but unknown (transform
//! types, attributes, notify types, traffic selector types, non-critical payloads) is not an error: RFC 7296
//! wants it skipped or refused one level up.

mod cp;
mod eap;
mod header;
mod payload;
mod reader;
pub mod registry;
mod sa;
mod simple;
mod sk;
mod ts;

pub use cp::{CfgAttribute, Configuration};
pub use eap::{Eap, EapCode};
pub use header::{HEADER_LEN, Header, LENGTH_AT, NEXT_PAYLOAD_AT};
pub use payload::{MessageLimits, Payload, Payloads, RawPayload, emit_chain, parse_chain};
pub use reader::{Place, Reader, WireError, WireErrorKind};
pub use registry::*;
pub use sa::{Proposal, ProposalSpi, Transform};
pub use simple::{Auth, Cert, CertReq, Delete, Id, KeyExchange, Notify};
pub use sk::{Encrypted, GENERIC_LEN, SKF_HEADER_LEN};
pub use ts::TrafficSelector;
