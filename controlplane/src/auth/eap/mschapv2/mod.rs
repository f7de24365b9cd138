//! EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2-02, RFC 2759): both ends prove that they know a password.
//!
//! It withstands no guessing by the one it is run against, and its DES keys can be searched. So an initiator
//! runs it only after the responder has proved itself by a certificate, never as the only authentication
//! (RFC 5998 s4 leaves it out of the safe methods).

mod hash;
mod wire;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use self::wire::Message;
use super::{EapError, MethodStep, Users};
use crate::crypto::{Random, Secret};

/// The hash that authenticates a user: NtPasswordHash (RFC 2759 s8.3).
pub(super) fn nt_hash(password: &str) -> Secret {
    hash::nt_hash(password)
}

/// The server's end.
pub(super) struct Server {
    id: u8,
    challenge: [u8; 16],
    state: ServerState,
}

enum ServerState {
    Challenged,
    Succeeded { user: String, msk: Secret },
    Failed { error: EapError },
    Over,
}

impl Server {
    /// Makes the challenge. `id` is the identifier of the EAP request that carries it.
    pub(super) fn start(id: u8, name: &str, random: &mut dyn Random) -> (Self, Vec<u8>) {
        let mut challenge = [0; 16];
        random.fill(&mut challenge);
        let data = wire::challenge(id, &challenge, name.as_bytes());
        (Self { id, challenge, state: ServerState::Challenged }, data)
    }

    pub(super) fn handle(&mut self, data: &[u8], users: &Users) -> MethodStep {
        let message = match Message::parse(data) {
            Ok(message) => message,
            Err(error) => return MethodStep::Fail(error),
        };
        match (std::mem::replace(&mut self.state, ServerState::Over), message) {
            (ServerState::Challenged, Message::Response { id, peer_challenge, nt_response, name })
                if id == self.id =>
            {
                self.check(&peer_challenge, &nt_response, name, users)
            }
            (ServerState::Succeeded { user, msk }, Message::SuccessAck | Message::Success { .. }) => {
                MethodStep::Done { msk, identity: Some(user) }
            }
            (ServerState::Failed { error }, _) => MethodStep::Fail(error),
            _ => MethodStep::Fail(EapError::Unexpected),
        }
    }

    /// Why the peer is refused, while it is told so.
    pub(super) fn verdict(&self) -> Option<&EapError> {
        match &self.state {
            ServerState::Failed { error } => Some(error),
            _ => None,
        }
    }

    /// An unknown user gets the same steps and the same work as a wrong password, so that names cannot be probed.
    fn check(
        &mut self,
        peer_challenge: &[u8; 16],
        nt_response: &[u8; 24],
        name: &[u8],
        users: &Users,
    ) -> MethodStep {
        let user = String::from_utf8_lossy(name).into_owned();
        let known = users.nt_hash(&user);
        let nobody = Secret::copy_of(&self.challenge);
        let nt_hash = known.unwrap_or(&nobody);
        let challenge = hash::challenge_hash(peer_challenge, &self.challenge, name);
        let expected = hash::nt_response(challenge, nt_hash);
        let right = verify_slices_are_equal(&expected, nt_response).is_ok();
        if known.is_some() && right {
            let text = format!("S={} M=OK", hash::authenticator_response(nt_hash, nt_response, challenge));
            let msk = hash::msk(nt_hash, nt_response);
            self.state = ServerState::Succeeded { user, msk };
            return MethodStep::Send(wire::success(self.id, &text));
        }
        let error = match known {
            Some(_) => EapError::WrongPassword { user },
            None => EapError::UnknownUser { user },
        };
        self.state = ServerState::Failed { error };
        // ERROR_AUTHENTICATION_FAILURE, no retry, version 3 (RFC 2759 s6).
        let challenge = data_encoding::HEXUPPER.encode(&self.challenge);
        MethodStep::Send(wire::failure(
            self.id,
            &format!("E=691 R=0 C={challenge} V=3 M=Authentication failed"),
        ))
    }
}

/// The peer's end.
pub(super) struct Peer {
    user: String,
    nt_hash: Secret,
    state: PeerState,
}

enum PeerState {
    Idle,
    Responded { expected: String, msk: Secret },
    Over,
}

impl Peer {
    pub(super) fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), nt_hash: nt_hash(password), state: PeerState::Idle }
    }

    pub(super) fn handle(&mut self, data: &[u8], random: &mut dyn Random) -> MethodStep {
        let message = match Message::parse(data) {
            Ok(message) => message,
            Err(error) => return MethodStep::Fail(error),
        };
        match (std::mem::replace(&mut self.state, PeerState::Over), message) {
            (PeerState::Idle, Message::Challenge { id, challenge, .. }) => {
                let mut peer_challenge = [0; 16];
                random.fill(&mut peer_challenge);
                let name = self.user.as_bytes();
                let hashed = hash::challenge_hash(&peer_challenge, &challenge, name);
                let nt_response = hash::nt_response(hashed, &self.nt_hash);
                let expected = hash::authenticator_response(&self.nt_hash, &nt_response, hashed);
                let msk = hash::msk(&self.nt_hash, &nt_response);
                self.state = PeerState::Responded { expected, msk };
                MethodStep::Send(wire::response(id, &peer_challenge, &nt_response, name))
            }
            (PeerState::Responded { expected, msk }, Message::Success { text }) => {
                let proof = text.strip_prefix(b"S=").and_then(|text| text.get(..expected.len()));
                let right = proof.is_some_and(|proof| {
                    verify_slices_are_equal(&proof.to_ascii_uppercase(), expected.as_bytes()).is_ok()
                });
                if !right {
                    return MethodStep::Fail(EapError::ServerNotAuthentic);
                }
                MethodStep::SendLast { data: wire::SUCCESS_ACK.to_vec(), msk }
            }
            (PeerState::Responded { .. }, Message::Failure { text }) => MethodStep::SendThenFail {
                data: wire::FAILURE_ACK.to_vec(),
                error: EapError::Refused { message: super::printable(text) },
            },
            _ => MethodStep::Fail(EapError::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Seeded;

    fn users() -> Users {
        Users::parse("carol: Ar3etTnp\n").unwrap()
    }

    fn send(step: MethodStep) -> Vec<u8> {
        match step {
            MethodStep::Send(data)
            | MethodStep::SendLast { data, .. }
            | MethodStep::SendThenFail { data, .. } => data,
            MethodStep::Done { .. } => panic!("done"),
            MethodStep::Fail(error) => panic!("{error}"),
        }
    }

    #[test]
    fn both_ends_get_the_same_key() {
        let (mut server, challenge) = Server::start(7, "gw", &mut Seeded(1));
        let mut peer = Peer::new("carol", "Ar3etTnp");
        let response = send(peer.handle(&challenge, &mut Seeded(2)));
        let success = send(server.handle(&response, &users()));
        let MethodStep::SendLast { data, msk } = peer.handle(&success, &mut Seeded(2)) else { panic!() };
        let MethodStep::Done { msk: other, identity } = server.handle(&data, &users()) else { panic!() };
        assert_eq!(msk, other);
        assert_eq!(identity.as_deref(), Some("carol"));
    }

    #[test]
    fn a_wrong_password_and_an_unknown_user_look_alike_to_the_peer() {
        let mut lengths = Vec::new();
        for (user, password) in [("carol", "wrong"), ("mallory", "Ar3etTnp")] {
            let (mut server, challenge) = Server::start(7, "gw", &mut Seeded(1));
            let mut peer = Peer::new(user, password);
            let response = send(peer.handle(&challenge, &mut Seeded(2)));
            let failure = send(server.handle(&response, &users()));
            lengths.push(failure.clone());
            let MethodStep::SendThenFail { data, error } = peer.handle(&failure, &mut Seeded(2)) else {
                panic!()
            };
            assert!(matches!(error, EapError::Refused { message } if message.starts_with("E=691")));
            let MethodStep::Fail(error) = server.handle(&data, &users()) else { panic!() };
            match user {
                "carol" => assert_eq!(error, EapError::WrongPassword { user: user.into() }),
                _ => assert_eq!(error, EapError::UnknownUser { user: user.into() }),
            }
        }
        assert_eq!(lengths[0], lengths[1]);
    }

    #[test]
    fn a_server_without_the_password_is_noticed() {
        let (_, challenge) = Server::start(7, "gw", &mut Seeded(1));
        for text in ["S=407A5589115FD0D6209F510FE9C04566932CDA56 M=OK", "S=", "M=OK", ""] {
            let mut peer = Peer::new("carol", "Ar3etTnp");
            send(peer.handle(&challenge, &mut Seeded(2)));
            let step = peer.handle(&wire::success(7, text), &mut Seeded(2));
            assert!(matches!(step, MethodStep::Fail(EapError::ServerNotAuthentic)), "{text}");
        }
    }

    #[test]
    fn steps_out_of_order_fail_and_the_machine_stays_over() {
        let (mut server, challenge) = Server::start(7, "gw", &mut Seeded(1));
        assert!(matches!(server.handle(wire::SUCCESS_ACK, &users()), MethodStep::Fail(EapError::Unexpected)));
        let mut peer = Peer::new("carol", "Ar3etTnp");
        let response = send(peer.handle(&challenge, &mut Seeded(2)));
        assert!(matches!(server.handle(&response, &users()), MethodStep::Fail(EapError::Unexpected)));
        let mut peer = Peer::new("carol", "Ar3etTnp");
        assert!(matches!(
            peer.handle(&wire::success(7, "S=00"), &mut Seeded(2)),
            MethodStep::Fail(EapError::Unexpected)
        ));
        assert!(matches!(peer.handle(&challenge, &mut Seeded(2)), MethodStep::Fail(EapError::Unexpected)));
    }

    #[test]
    fn a_response_to_another_challenge_is_refused() {
        let (mut server, _) = Server::start(7, "gw", &mut Seeded(1));
        let (_, other) = Server::start(8, "gw", &mut Seeded(3));
        let mut peer = Peer::new("carol", "Ar3etTnp");
        let response = send(peer.handle(&other, &mut Seeded(2)));
        assert!(matches!(server.handle(&response, &users()), MethodStep::Fail(EapError::Unexpected)));
    }
}
