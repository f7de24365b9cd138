//! EAP inside IKE_AUTH (RFC 3748, RFC 7296 s2.16): EAP-MSCHAPv2 and EAP-TLS, both ends.
//!
//! ```text
//! (EapServer, request) = EapServer::start(config, id, random, limits)     responder, on an IKE_AUTH without AUTH
//! server.handle(response, now, random) -> ServerStep              Request | Success { msk, identity } | Failure
//! peer = EapPeer::new(config, limits)                             initiator
//! peer.handle(request, now, random) -> PeerStep                   Response | Success { msk } | Failure
//! ```
//!
//! The machines have no clock, no socket and no retransmission: IKE delivers each packet once. A machine that has
//! ended answers with a failure for ever.
//!
//! # Attacks
//!
//! - *A Success out of nowhere.* EAP-Success is not authenticated. The peer takes it only after its method has
//!   verified the server and made a key, and both sides then prove that key in their AUTH payloads.
//! - *A server that is none.* In EAP-TLS the server's certificate has to name who the configuration expects. In
//!   EAP-MSCHAPv2 the server proves that it knows the password. Only EAP-TLS may go without a certificate of
//!   the responder (RFC 5998): see [`MethodKind::allows_eap_only`].
//! - *Probing for user names.* An unknown user gets the same answers as a wrong password.
//! - *Endless or huge exchanges.* Packets, and the size of a TLS message, are bounded.

mod mschapv2;
mod packet;
mod peer;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod users;

pub use peer::{EapPeer, PeerConfig, PeerMethod, PeerStep};
pub use server::{EapServer, ServerConfig, ServerMethod, ServerStep};
pub use tls::{TlsPeerConfig, TlsServerConfig};
pub use users::{Users, UsersError};

use super::CertificateError;
use crate::crypto::Secret;
use crate::rejection::Rejection;

/// An EAP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// EAP-TLS (RFC 5216, RFC 9190).
    Tls,
    /// EAP-MSCHAPv2.
    Mschapv2,
}

impl MethodKind {
    const ALL: [Self; 2] = [Self::Tls, Self::Mschapv2];

    /// The EAP type.
    pub const fn eap_type(self) -> u8 {
        match self {
            Self::Tls => 13,
            Self::Mschapv2 => 26,
        }
    }

    /// Whether it may be the only authentication of the responder (RFC 5998 s4): mutual, with a key, and safe
    /// against guessing.
    pub const fn allows_eap_only(self) -> bool {
        matches!(self, Self::Tls)
    }

    /// The name of a method, also of one that Spillway does not know.
    fn name_of(eap_type: u8) -> String {
        match Self::ALL.into_iter().find(|method| method.eap_type() == eap_type) {
            Some(Self::Tls) => "TLS".to_owned(),
            Some(Self::Mschapv2) => "MSCHAPv2".to_owned(),
            None => format!("type {eap_type}"),
        }
    }
}

/// Why EAP failed. It goes to the log; the peer learns nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EapError {
    /// Bytes that are no message.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A message that does not belong here.
    #[error("an EAP message out of order")]
    Unexpected,
    /// An exchange that goes on and on.
    #[error("EAP did not end within {0} packets")]
    TooLong(u16),
    /// A TLS message beyond the bound.
    #[error("a TLS message of more than {0} bytes")]
    TooLarge(usize),
    /// The peer wants methods that are not configured.
    #[error("no EAP method in common: configured are {ours}; the peer wants {theirs}")]
    NoCommonMethod {
        /// The configured methods.
        ours: String,
        /// The methods of the other side.
        theirs: String,
    },
    /// The user file has no such name.
    #[error("unknown user {user:?}")]
    UnknownUser {
        /// The name that came.
        user: String,
    },
    /// The name is known, the password is another.
    #[error("wrong password for user {user:?}")]
    WrongPassword {
        /// The name that came.
        user: String,
    },
    /// The server does not know the password, so it is not the one that it claims to be.
    #[error("the server could not prove that it knows the password")]
    ServerNotAuthentic,
    /// The server says no.
    #[error("the server refused: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// A certificate inside EAP-TLS.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Something else inside TLS.
    #[error("TLS: {0}")]
    Tls(String),
}

/// What a method answers to the data of one packet.
enum MethodStep {
    /// Send and go on.
    Send(Vec<u8>),
    /// The peer's last message: the method has succeeded, EAP-Success may come.
    SendLast { data: Vec<u8>, msk: Secret },
    /// The peer's last message: the method has failed, EAP-Failure will come.
    SendThenFail { data: Vec<u8>, error: EapError },
    /// The server's end: the method has succeeded. Without an identity, the one that was claimed is proven.
    Done { msk: Secret, identity: Option<String> },
    /// The method has failed.
    Fail(EapError),
}

/// Bounds of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EapLimits {
    /// The most packets in one direction.
    pub packets: u16,
    /// The longest message inside EAP-TLS, put together.
    pub message: usize,
}

impl EapError {
    /// What it is counted as.
    pub(crate) fn rejection(&self) -> Rejection {
        match self {
            Self::TooLong(_) | Self::TooLarge(_) => Rejection::EapLength,
            Self::Certificate(error) => error.limit().unwrap_or(Rejection::Eap),
            _ => Rejection::Eap,
        }
    }
}

/// Text of the other side for a log line: short and without control characters.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(120).flat_map(char::escape_debug).collect()
}
