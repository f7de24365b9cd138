//! Which proofs of the two ends go together, and which end may begin (RFC 7296 s2.16, RFC 5998).

use super::{LocalProof, RemoteProof};

/// Which roles we can have with a pair of proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    /// Either end may begin.
    Both,
    /// We prove ourselves by EAP, which only an initiator can.
    Initiator,
    /// The peer proves itself by EAP.
    Responder,
}

impl Roles {
    /// The roles that these proofs allow; the error says why they do not go together.
    pub fn of(local: &LocalProof, remote: &RemoteProof) -> Result<Self, &'static str> {
        match (local, remote) {
            (LocalProof::Eap(_), RemoteProof::Eap(_)) => {
                Err("only one end can authenticate by EAP: the initiator (RFC 7296 s2.16)")
            }
            (LocalProof::Eap(config), RemoteProof::EapOnly) => {
                match config.methods.iter().any(|method| method.kind().allows_eap_only()) {
                    true => Ok(Self::Initiator),
                    false => Err(
                        "without a certificate of the peer EAP-TLS is needed, the only method that proves \
                                  safely who the peer is (RFC 5998 s4)",
                    ),
                }
            }
            (LocalProof::EapOnly, RemoteProof::Eap(config)) => {
                match config.methods.iter().all(|method| method.kind().allows_eap_only()) {
                    true => Ok(Self::Responder),
                    false => Err(
                        "without a certificate of ours EAP-TLS is the only EAP method that may be offered \
                                  (RFC 5998 s4)",
                    ),
                }
            }
            (LocalProof::Eap(_), remote) if remote.is_signature() => Ok(Self::Initiator),
            (LocalProof::Eap(_), _) => Err(
                "with EAP the peer must prove itself by a certificate or a raw key first (RFC 7296 s2.16)",
            ),
            (local, RemoteProof::Eap(_)) if local.is_signature() => Ok(Self::Responder),
            (_, RemoteProof::Eap(_)) => {
                Err("with EAP we must prove ourselves by a certificate or a raw key first (RFC 7296 s2.16)")
            }
            (LocalProof::EapOnly, _) | (_, RemoteProof::EapOnly) => {
                Err("EAP alone is a proof only where the other end authenticates by EAP (RFC 5998)")
            }
            _ => Ok(Self::Both),
        }
    }

    /// We may begin.
    pub const fn may_initiate(self) -> bool {
        matches!(self, Self::Both | Self::Initiator)
    }

    /// The peer may begin.
    pub const fn may_respond(self) -> bool {
        matches!(self, Self::Both | Self::Responder)
    }
}
