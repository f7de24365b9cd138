//! The peer's end of EAP: the IKE initiator.

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use super::packet::{self, Packet};
use super::{EapError, EapLimits, MethodKind, MethodStep, TlsPeerConfig, mschapv2, tls};
use crate::crypto::{Random, Secret};

/// What a peer can do.
#[derive(Debug)]
pub struct PeerConfig {
    /// The EAP identity to answer with.
    pub identity: String,
    /// The methods. There is at least one; the server chooses.
    pub methods: Vec<PeerMethod>,
}

/// A method of a peer, with its credentials.
#[derive(Clone, Debug)]
pub enum PeerMethod {
    /// EAP-TLS.
    Tls(Arc<TlsPeerConfig>),
    /// EAP-MSCHAPv2.
    Mschapv2 {
        /// The user name, with its domain if it has one.
        user: String,
        /// The password in UTF-8.
        password: Secret,
    },
}

impl PeerMethod {
    /// Which method it is.
    pub fn kind(&self) -> MethodKind {
        match self {
            Self::Tls(_) => MethodKind::Tls,
            Self::Mschapv2 { .. } => MethodKind::Mschapv2,
        }
    }
}

/// What to do next.
#[derive(Debug)]
pub enum PeerStep {
    /// Send this EAP response.
    Response(Vec<u8>),
    /// Both ends are authentic. The AUTH payloads with `msk` follow (RFC 7296 s2.16).
    Success {
        /// The key for both AUTH payloads.
        msk: Secret,
        /// By which method.
        method: MethodKind,
    },
    /// EAP is over without success.
    Failure(EapError),
}

/// One run of EAP.
pub struct EapPeer {
    config: Arc<PeerConfig>,
    state: State,
    packets: u16,
    limits: EapLimits,
}

enum State {
    Idle,
    Running(Running),
    /// The method is done; only Success is missing.
    Succeeded {
        msk: Secret,
        method: MethodKind,
    },
    /// The method has failed; only Failure is missing.
    Failed(EapError),
    Over,
}

enum Running {
    Tls(Box<tls::Peer>),
    Mschapv2(mschapv2::Peer),
}

impl Running {
    fn kind(&self) -> MethodKind {
        match self {
            Self::Tls(_) => MethodKind::Tls,
            Self::Mschapv2(_) => MethodKind::Mschapv2,
        }
    }
}

impl EapPeer {
    /// Waits for the first request.
    pub fn new(config: Arc<PeerConfig>, limits: EapLimits) -> Self {
        Self { config, state: State::Idle, packets: 0, limits }
    }

    /// Takes a packet of the server. `now` is the wall clock, for certificates.
    pub fn handle(&mut self, packet: &[u8], now: UnixTime, random: &mut dyn Random) -> PeerStep {
        self.packets = self.packets.saturating_add(1);
        if self.packets > self.limits.packets {
            return self.fail(EapError::TooLong(self.limits.packets));
        }
        let packet = match Packet::parse(packet) {
            Ok(packet) => packet,
            Err(error) => return self.fail(error),
        };
        match (std::mem::replace(&mut self.state, State::Over), packet) {
            (State::Succeeded { msk, method }, Packet::Success) => PeerStep::Success { msk, method },
            (State::Failed(error), _) => self.fail(error),
            (_, Packet::Failure) => self.fail(EapError::Refused { message: "EAP-Failure".to_owned() }),
            (state, Packet::Request { identifier, kind, data }) => {
                self.request(state, identifier, kind, data, now, random)
            }
            _ => self.fail(EapError::Unexpected),
        }
    }

    fn request(
        &mut self,
        state: State,
        identifier: u8,
        kind: u8,
        data: &[u8],
        now: UnixTime,
        random: &mut dyn Random,
    ) -> PeerStep {
        match (state, kind) {
            (state @ State::Idle, packet::IDENTITY) => {
                self.state = state;
                PeerStep::Response(packet::response(
                    identifier,
                    packet::IDENTITY,
                    self.config.identity.as_bytes(),
                ))
            }
            // RFC 3748 s5.2: a notification is acknowledged at any time.
            (state, packet::NOTIFICATION) => {
                self.state = state;
                PeerStep::Response(packet::response(identifier, packet::NOTIFICATION, &[]))
            }
            (State::Idle, kind) => {
                let chosen = self.config.methods.iter().find(|method| method.kind().eap_type() == kind);
                let running = match chosen {
                    Some(PeerMethod::Tls(config)) => {
                        Running::Tls(Box::new(tls::Peer::new(config.clone(), self.limits.message)))
                    }
                    Some(PeerMethod::Mschapv2 { user, password }) => {
                        let Ok(password) = std::str::from_utf8(password.expose()) else {
                            return self.fail(EapError::Malformed("password: it is not UTF-8"));
                        };
                        Running::Mschapv2(mschapv2::Peer::new(user, password))
                    }
                    None => {
                        let wanted: Vec<_> =
                            self.config.methods.iter().map(|method| method.kind().eap_type()).collect();
                        self.state = State::Idle;
                        return PeerStep::Response(packet::response(identifier, packet::NAK, &wanted));
                    }
                };
                self.run(running, identifier, data, now, random)
            }
            (State::Running(running), kind) if kind == running.kind().eap_type() => {
                self.run(running, identifier, data, now, random)
            }
            _ => self.fail(EapError::Unexpected),
        }
    }

    fn run(
        &mut self,
        mut running: Running,
        identifier: u8,
        data: &[u8],
        now: UnixTime,
        random: &mut dyn Random,
    ) -> PeerStep {
        let method = running.kind();
        let step = match &mut running {
            Running::Tls(peer) => peer.handle(data, now),
            Running::Mschapv2(peer) => peer.handle(data, random),
        };
        let (data, state) = match step {
            MethodStep::Send(data) => (data, State::Running(running)),
            MethodStep::SendLast { data, msk } => (data, State::Succeeded { msk, method }),
            MethodStep::SendThenFail { data, error } => (data, State::Failed(error)),
            MethodStep::Fail(error) => return self.fail(error),
            MethodStep::Done { .. } => return self.fail(EapError::Unexpected),
        };
        self.state = state;
        PeerStep::Response(packet::response(identifier, method.eap_type(), &data))
    }

    fn fail(&mut self, error: EapError) -> PeerStep {
        self.state = State::Over;
        PeerStep::Failure(error)
    }
}
