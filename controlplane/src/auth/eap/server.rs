//! The server's end of EAP: the IKE responder.

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use super::packet::{self, Packet};
use super::{EapError, EapLimits, MethodKind, MethodStep, TlsServerConfig, Users, mschapv2, tls};
use crate::auth::Identity;
use crate::crypto::{Random, Secret};

/// What a server offers.
#[derive(Debug)]
pub struct ServerConfig {
    /// The name that EAP-MSCHAPv2 shows to peers.
    pub name: String,
    /// Whether to ask for an EAP identity. Without, the identity of the IKE payload counts. Peers like Windows
    /// put an IP address there, so asking is usual.
    pub ask_identity: bool,
    /// The methods, the preferred one first. There is at least one.
    pub methods: Vec<ServerMethod>,
}

/// A method that a server offers.
#[derive(Clone, Debug)]
pub enum ServerMethod {
    /// EAP-TLS.
    Tls(Arc<TlsServerConfig>),
    /// EAP-MSCHAPv2 against a user file.
    Mschapv2(Arc<Users>),
}

impl ServerMethod {
    /// Which method it is.
    pub fn kind(&self) -> MethodKind {
        match self {
            Self::Tls(_) => MethodKind::Tls,
            Self::Mschapv2(_) => MethodKind::Mschapv2,
        }
    }
}

/// What to do next.
#[derive(Debug)]
pub enum ServerStep {
    /// Send this EAP request.
    Request(Vec<u8>),
    /// The peer is who it says.
    Success {
        /// EAP-Success, to be sent.
        packet: Vec<u8>,
        /// The key for both AUTH payloads (RFC 7296 s2.16).
        msk: Secret,
        /// The name that was proven.
        identity: String,
        /// By which method.
        method: MethodKind,
    },
    /// The peer is not let in.
    Failure {
        /// EAP-Failure, to be sent.
        packet: Vec<u8>,
        /// For the log.
        error: EapError,
    },
}

/// One run of EAP.
pub struct EapServer {
    config: Arc<ServerConfig>,
    /// Identifier of the request that was sent last.
    identifier: u8,
    /// The identity that is claimed so far.
    claimed: String,
    state: State,
    packets: u16,
    limits: EapLimits,
}

enum State {
    Identity,
    /// The first request of a method is out; a Nak may answer it.
    Offered(Running),
    Running(Running),
    Over,
}

enum Running {
    Tls(Box<tls::Server>),
    Mschapv2(mschapv2::Server, Arc<Users>),
}

impl Running {
    fn kind(&self) -> MethodKind {
        match self {
            Self::Tls(_) => MethodKind::Tls,
            Self::Mschapv2(..) => MethodKind::Mschapv2,
        }
    }
}

impl EapServer {
    /// Starts EAP with the peer whose ID payload claims `identity`, and makes the first request.
    pub fn start(
        config: Arc<ServerConfig>,
        identity: &Identity,
        random: &mut dyn Random,
        limits: EapLimits,
    ) -> (Self, ServerStep) {
        let mut first = [0];
        random.fill(&mut first);
        let [identifier] = first;
        let mut server = Self {
            config,
            identifier,
            claimed: identity.to_string(),
            state: State::Identity,
            packets: 0,
            limits,
        };
        let step = match server.config.ask_identity {
            true => ServerStep::Request(packet::request(identifier, packet::IDENTITY, &[])),
            false => server.offer(server.config.methods.first().cloned(), &[], random),
        };
        (server, step)
    }

    /// Takes the peer's response. `now` is the wall clock, for certificates.
    pub fn handle(&mut self, response: &[u8], now: UnixTime, random: &mut dyn Random) -> ServerStep {
        self.packets = self.packets.saturating_add(1);
        if self.packets > self.limits.packets {
            return self.fail(EapError::TooLong(self.limits.packets));
        }
        let (kind, data) = match Packet::parse(response) {
            Ok(Packet::Response { identifier, kind, data }) if identifier == self.identifier => (kind, data),
            Ok(_) => return self.fail(EapError::Unexpected),
            Err(error) => return self.fail(error),
        };
        match (std::mem::replace(&mut self.state, State::Over), kind) {
            (State::Identity, packet::IDENTITY) => {
                // Longer ones do not even fit the smallest link (RFC 3748 s5.1).
                if data.len() > 1015 {
                    return self.fail(EapError::Malformed("EAP identity"));
                }
                self.claimed = String::from_utf8_lossy(data).into_owned();
                self.offer(self.config.methods.first().cloned(), &[], random)
            }
            (State::Offered(_), packet::NAK) => {
                let wanted =
                    self.config.methods.iter().find(|method| data.contains(&method.kind().eap_type()));
                self.offer(wanted.cloned(), data, random)
            }
            (State::Offered(running) | State::Running(running), kind)
                if kind == running.kind().eap_type() =>
            {
                self.run(running, data, now)
            }
            _ => self.fail(EapError::Unexpected),
        }
    }

    /// What the method has found wrong with the peer, while the peer is told so and has not acknowledged it.
    pub fn verdict(&self) -> Option<&EapError> {
        match &self.state {
            State::Offered(running) | State::Running(running) => match running {
                Running::Tls(server) => server.verdict(),
                Running::Mschapv2(server, _) => server.verdict(),
            },
            State::Identity | State::Over => None,
        }
    }

    /// Makes the first request of a method. `wanted` is the list of a Nak.
    fn offer(&mut self, method: Option<ServerMethod>, wanted: &[u8], random: &mut dyn Random) -> ServerStep {
        self.identifier = self.identifier.wrapping_add(1);
        let started = match method {
            None => {
                let ours: Vec<_> = self
                    .config
                    .methods
                    .iter()
                    .map(|method| MethodKind::name_of(method.kind().eap_type()))
                    .collect();
                let theirs: Vec<_> = wanted.iter().map(|method| MethodKind::name_of(*method)).collect();
                return self
                    .fail(EapError::NoCommonMethod { ours: ours.join(", "), theirs: theirs.join(", ") });
            }
            Some(ServerMethod::Mschapv2(users)) => {
                let (server, data) = mschapv2::Server::start(self.identifier, &self.config.name, random);
                Ok((Running::Mschapv2(server, users), data))
            }
            Some(ServerMethod::Tls(config)) => tls::Server::start(&config, self.limits.message)
                .map(|(server, data)| (Running::Tls(Box::new(server)), data)),
        };
        match started {
            Ok((running, data)) => {
                let request = packet::request(self.identifier, running.kind().eap_type(), &data);
                // After a Nak there is no second one: the peer has named what it wants.
                self.state =
                    if wanted.is_empty() { State::Offered(running) } else { State::Running(running) };
                ServerStep::Request(request)
            }
            Err(error) => self.fail(error),
        }
    }

    fn run(&mut self, mut running: Running, data: &[u8], now: UnixTime) -> ServerStep {
        let method = running.kind();
        let step = match &mut running {
            Running::Tls(server) => server.handle(data, &self.claimed, now),
            Running::Mschapv2(server, users) => server.handle(data, users),
        };
        match step {
            MethodStep::Send(data) => {
                self.identifier = self.identifier.wrapping_add(1);
                self.state = State::Running(running);
                ServerStep::Request(packet::request(self.identifier, method.eap_type(), &data))
            }
            MethodStep::Done { msk, identity } => {
                let identity = identity.unwrap_or_else(|| self.claimed.clone());
                ServerStep::Success { packet: packet::success(self.identifier), msk, identity, method }
            }
            MethodStep::Fail(error) | MethodStep::SendThenFail { error, .. } => self.fail(error),
            MethodStep::SendLast { .. } => self.fail(EapError::Unexpected),
        }
    }

    fn fail(&mut self, error: EapError) -> ServerStep {
        self.state = State::Over;
        ServerStep::Failure { packet: packet::failure(self.identifier), error }
    }
}
