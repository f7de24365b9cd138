//! EAP-TLS (RFC 5216, with TLS 1.3 by RFC 9190), over rustls.

mod config;
mod framing;

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{ClientConnection, Connection, ProtocolVersion, ServerConnection};
use rustls_pki_types::{ServerName, UnixTime};
use zeroize::Zeroizing;

use self::config::{Clock, explain};
pub use self::config::{TlsPeerConfig, TlsServerConfig};
use self::framing::{EMPTY, Framing, Received, START_REQUEST};
use super::{EapError, MethodStep};
use crate::auth::{Certificate, CertificateError, Identity};
use crate::crypto::Secret;

/// The server's end.
pub(super) struct Server {
    session: Session,
    clock: Arc<Clock>,
    /// Why the handshake failed, while the alert is on its way.
    failed: Option<EapError>,
}

impl Server {
    pub(super) fn start(config: &TlsServerConfig, longest: usize) -> Result<(Self, Vec<u8>), EapError> {
        let connection = ServerConnection::new(config.tls.clone()).map_err(explain)?;
        let session = Session::new(connection.into(), longest);
        Ok((Self { session, clock: config.clock.clone(), failed: None }, START_REQUEST.to_vec()))
    }

    /// `claimed` is the EAP identity, which the peer's certificate has to name.
    pub(super) fn handle(&mut self, data: &[u8], claimed: &str, now: UnixTime) -> MethodStep {
        self.clock.set(now);
        let received = match self.session.framing.receive(data) {
            Ok(received) => received,
            Err(error) => return MethodStep::Fail(error),
        };
        match received {
            Received::Partial => MethodStep::Send(EMPTY.to_vec()),
            Received::Acknowledged => match (self.session.framing.next(), self.failed.take()) {
                (Some(fragment), failed) => {
                    self.failed = failed;
                    MethodStep::Send(fragment)
                }
                (None, Some(error)) => MethodStep::Fail(error),
                (None, None) if self.session.is_established() => self.finish(claimed),
                (None, None) => MethodStep::Fail(EapError::Unexpected),
            },
            Received::Message(message) if !self.session.framing.is_sending() && self.failed.is_none() => {
                self.advance(&message)
            }
            Received::Message(_) | Received::Start => MethodStep::Fail(EapError::Unexpected),
        }
    }

    /// Why the handshake failed, while the peer is told so.
    pub(super) fn verdict(&self) -> Option<&EapError> {
        self.failed.as_ref()
    }

    fn advance(&mut self, message: &[u8]) -> MethodStep {
        let was_handshaking = self.session.connection.is_handshaking();
        let mut result = self.session.read(message);
        if result.is_ok() && was_handshaking && self.session.is_established() && self.session.is_tls13() {
            // The protected success indication (RFC 9190 s2.1.1).
            result = self
                .session
                .connection
                .writer()
                .write_all(&[0])
                .map_err(|error| EapError::Tls(error.to_string()));
        }
        self.session.flush();
        match (self.session.framing.next(), result) {
            (Some(fragment), result) => {
                self.failed = result.err();
                MethodStep::Send(fragment)
            }
            (None, Err(error)) => MethodStep::Fail(error),
            (None, Ok(())) => MethodStep::Fail(EapError::Unexpected),
        }
    }

    /// The certificate is verified; now it has to be that of the claimed identity. An anonymous one (RFC 9190
    /// s2.1.7, RFC 7542 s2.4) claims nothing, so the certificate itself says who it is.
    fn finish(&self, claimed: &str) -> MethodStep {
        let checked = || {
            let chain = self.session.connection.peer_certificates().unwrap_or_default();
            let certificate = Certificate::from_der(chain.first().ok_or(CertificateError::Missing)?)?;
            let anonymous =
                claimed.is_empty() || claimed.starts_with('@') || claimed.starts_with("anonymous");
            if anonymous {
                return Ok((self.session.msk()?, certificate.own_identity().to_string()));
            }
            let identity = Identity::parse(claimed).map_err(|_| EapError::Malformed("EAP identity"))?;
            certificate.check_identity(&identity)?;
            Ok((self.session.msk()?, identity.to_string()))
        };
        match checked() {
            Ok((msk, identity)) => MethodStep::Done { msk, identity: Some(identity) },
            Err(error) => MethodStep::Fail(error),
        }
    }
}

/// The peer's end.
pub(super) struct Peer {
    config: Arc<TlsPeerConfig>,
    session: Option<Session>,
    longest: usize,
}

impl Peer {
    pub(super) fn new(config: Arc<TlsPeerConfig>, longest: usize) -> Self {
        Self { config, session: None, longest }
    }

    pub(super) fn handle(&mut self, data: &[u8], now: UnixTime) -> MethodStep {
        self.config.clock.set(now);
        let step = match &mut self.session {
            Some(session) => session.peer_step(data),
            None => self.start(data),
        };
        step.unwrap_or_else(MethodStep::Fail)
    }

    fn start(&mut self, data: &[u8]) -> Result<MethodStep, EapError> {
        if Framing::new(self.longest).receive(data)? != Received::Start {
            return Err(EapError::Unexpected);
        }
        // The verifier looks at identities of IKE, never at this name, and it is not sent.
        let name = ServerName::try_from("eap.invalid").map_err(|error| EapError::Tls(error.to_string()))?;
        let connection = ClientConnection::new(self.config.tls.clone(), name).map_err(explain)?;
        let session = self.session.insert(Session::new(connection.into(), self.longest));
        session.flush();
        session.framing.next().map(MethodStep::Send).ok_or(EapError::Unexpected)
    }
}

/// A TLS connection whose records travel in EAP.
struct Session {
    connection: Connection,
    framing: Framing,
}

impl Session {
    fn new(connection: Connection, longest: usize) -> Self {
        Self { connection, framing: Framing::new(longest) }
    }

    fn peer_step(&mut self, data: &[u8]) -> Result<MethodStep, EapError> {
        let message = match self.framing.receive(data)? {
            Received::Partial => return Ok(MethodStep::Send(EMPTY.to_vec())),
            Received::Acknowledged => {
                return self.framing.next().map(MethodStep::Send).ok_or(EapError::Unexpected);
            }
            Received::Message(message) if !self.framing.is_sending() => message,
            Received::Message(_) | Received::Start => return Err(EapError::Unexpected),
        };
        let result = self.read(&message);
        let success = result.is_ok() && self.is_established() && self.has_success_indication();
        self.flush();
        match (self.framing.next(), result) {
            (Some(fragment), Ok(())) => Ok(MethodStep::Send(fragment)),
            (Some(data), Err(error)) => Ok(MethodStep::SendThenFail { data, error }),
            // An alert is answered with an empty response, so that EAP-Failure can follow (RFC 5216 s2.1.3).
            (None, Err(error)) => Ok(MethodStep::SendThenFail { data: EMPTY.to_vec(), error }),
            (None, Ok(())) if success => Ok(MethodStep::SendLast { data: EMPTY.to_vec(), msk: self.msk()? }),
            (None, Ok(())) => Ok(MethodStep::Send(EMPTY.to_vec())),
        }
    }

    /// Feeds a whole message.
    fn read(&mut self, mut message: &[u8]) -> Result<(), EapError> {
        while !message.is_empty() {
            let taken =
                self.connection.read_tls(&mut message).map_err(|error| EapError::Tls(error.to_string()))?;
            if taken == 0 {
                return Err(EapError::Unexpected);
            }
            self.connection.process_new_packets().map_err(explain)?;
        }
        Ok(())
    }

    /// Takes out what TLS wants to send, and queues it.
    fn flush(&mut self) {
        let mut out = Vec::new();
        while self.connection.wants_write()
            && self.connection.write_tls(&mut out).is_ok_and(|written| written > 0)
        {}
        if !out.is_empty() {
            self.framing.queue(out);
        }
    }

    fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    fn is_tls13(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// TLS 1.3 needs the octet 0 from the server, without which a peer cannot know that its certificate was
    /// accepted (RFC 9190 s2.1.1). In TLS 1.2 the server's Finished says so.
    fn has_success_indication(&mut self) -> bool {
        if !self.is_tls13() {
            return true;
        }
        let mut indication = [0xff; 2];
        matches!(self.connection.reader().read(&mut indication), Ok(1)) && indication == [0, 0xff]
    }

    /// The first 64 octets of the exported key material (RFC 5216 s2.3, RFC 9190 s2.3).
    fn msk(&self) -> Result<Secret, EapError> {
        let (label, context): (&[u8], Option<&[u8]>) = match self.is_tls13() {
            true => (b"EXPORTER_EAP_TLS_Key_Material", Some(&[13])),
            false => (b"client EAP encryption", None),
        };
        let material = self
            .connection
            .export_keying_material(Zeroizing::new([0u8; 128]), label, context)
            .map_err(|error| EapError::Tls(error.to_string()))?;
        Ok(Secret::copy_of(material.split_at(64).0))
    }
}
