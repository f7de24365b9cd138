//! Whole runs of EAP, server against peer.

use std::sync::Arc;

use proptest::prelude::*;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::auth::x509::TrustStore;
use crate::auth::x509::testing::{Authority, Leaf, authority_params, now};
use crate::auth::{Certificate, CertificateError, IdPattern, Identity};
use crate::crypto::{Random, Seeded};

const LIMITS: EapLimits = EapLimits { packets: 50, message: 65_536 };

/// How a run ended, on each side.
struct Outcome {
    server: ServerStep,
    peer: PeerStep,
    rounds: usize,
}

fn run(server: ServerConfig, peer: PeerConfig) -> Outcome {
    let id = Identity::parse("192.0.2.9").unwrap();
    let mut random = Seeded(1);
    let (mut server, mut server_step) = EapServer::start(Arc::new(server), &id, &mut random, LIMITS);
    let mut peer = EapPeer::new(Arc::new(peer), LIMITS);
    for rounds in 0..100 {
        let packet = match &server_step {
            ServerStep::Request(packet) => packet,
            ServerStep::Success { packet, .. } | ServerStep::Failure { packet, .. } => {
                let peer = peer.handle(packet, now(), &mut random);
                return Outcome { server: server_step, peer, rounds };
            }
        };
        match peer.handle(packet, now(), &mut random) {
            PeerStep::Response(response) => server_step = server.handle(&response, now(), &mut random),
            peer => return Outcome { server: server_step, peer, rounds },
        }
    }
    panic!("EAP does not end");
}

fn mschapv2_server() -> ServerConfig {
    let users = Arc::new(Users::parse("carol: Ar3etTnp").unwrap());
    ServerConfig { name: "gw".into(), ask_identity: true, methods: vec![ServerMethod::Mschapv2(users)] }
}

fn mschapv2_peer(user: &str, password: &str) -> PeerConfig {
    let method = PeerMethod::Mschapv2 { user: user.into(), password: Secret::copy_of(password.as_bytes()) };
    PeerConfig { identity: user.into(), methods: vec![method] }
}

fn store(authority: &Authority) -> Arc<TrustStore> {
    let mut store = TrustStore::default();
    store.add_authority(Certificate::from_der(&authority.der).unwrap()).unwrap();
    Arc::new(store)
}

fn key(leaf: &Leaf) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(leaf.key.serialize_der().into())
}

fn tls_server(authority: &Authority, chain: Vec<CertificateDer<'static>>, leaf: &Leaf) -> ServerConfig {
    let config = TlsServerConfig::new(store(authority), chain, key(leaf)).unwrap();
    ServerConfig { name: "gw".into(), ask_identity: true, methods: vec![ServerMethod::Tls(Arc::new(config))] }
}

fn tls_peer(
    authority: &Authority,
    leaf: &Leaf,
    identity: &str,
    server: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> PeerConfig {
    let (expected, chain) = (IdPattern::parse(server).unwrap(), vec![leaf.der.clone()]);
    let config =
        TlsPeerConfig::with_versions(store(authority), chain, key(leaf), expected, versions).unwrap();
    PeerConfig { identity: identity.into(), methods: vec![PeerMethod::Tls(Arc::new(config))] }
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

fn assert_success(outcome: &Outcome, who: &str) {
    let (ServerStep::Success { msk, identity, method, .. }, PeerStep::Success { msk: other, method: same }) =
        (&outcome.server, &outcome.peer)
    else {
        panic!("{:?} {:?}", outcome.server, outcome.peer)
    };
    assert_eq!((msk, method), (other, same));
    assert_eq!(msk.len(), 64);
    assert_eq!(identity, who);
}

#[test]
fn mschapv2_with_the_right_password() {
    assert_success(&run(mschapv2_server(), mschapv2_peer("carol", "Ar3etTnp")), "carol");
}

#[test]
fn mschapv2_without_asking_for_the_identity() {
    let server = ServerConfig { ask_identity: false, ..mschapv2_server() };
    assert_success(&run(server, mschapv2_peer("carol", "Ar3etTnp")), "carol");
}

#[test]
fn mschapv2_with_a_wrong_password() {
    let outcome = run(mschapv2_server(), mschapv2_peer("carol", "wrong"));
    let ServerStep::Failure { error, .. } = outcome.server else { panic!() };
    assert_eq!(error.to_string(), "wrong password for user \"carol\"");
    assert!(
        matches!(outcome.peer, PeerStep::Failure(EapError::Refused { message }) if message.contains("E=691"))
    );
}

#[test]
fn tls_of_both_versions() {
    let root = Authority::root("Root");
    let (gateway, carol) =
        (root.issue("gw", &["gw.example.net"]), root.issue("carol", &["carol@example.net"]));
    for versions in [TLS13, TLS12] {
        let server = tls_server(&root, vec![gateway.der.clone()], &gateway);
        let peer = tls_peer(&root, &carol, "carol@example.net", "gw.example.net", versions);
        assert_success(&run(server, peer), "carol@example.net");
    }
}

#[test]
fn tls_fragments_a_long_chain() {
    let root = Authority::root("Root");
    let mut chain = Vec::new();
    let mut authority = root.subordinate(authority_params("Level 1"));
    chain.push(authority.der.clone());
    for level in ["Level 2", "Level 3", "Level 4", "Level 5"] {
        authority = authority.subordinate(authority_params(level));
        chain.push(authority.der.clone());
    }
    let gateway = authority.issue("gw", &["gw.example.net"]);
    chain.push(gateway.der.clone());
    chain.reverse();
    let carol = root.issue("carol", &["carol@example.net"]);
    for versions in [TLS13, TLS12] {
        let server = tls_server(&root, chain.clone(), &gateway);
        let peer = tls_peer(&root, &carol, "carol@example.net", "*.example.net", versions);
        let outcome = run(server, peer);
        assert_success(&outcome, "carol@example.net");
        assert!(outcome.rounds >= 6, "{} rounds", outcome.rounds);
    }
}

#[test]
fn tls_refuses_a_server_of_another_name_or_authority() {
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let (gateway, carol) =
        (root.issue("gw", &["gw.example.net"]), root.issue("carol", &["carol@example.net"]));
    for versions in [TLS13, TLS12] {
        let server = tls_server(&root, vec![gateway.der.clone()], &gateway);
        let outcome = run(server, tls_peer(&root, &carol, "carol@example.net", "hq.example.net", versions));
        assert!(
            matches!(&outcome.peer, PeerStep::Failure(EapError::Certificate(CertificateError::Identity { claimed, .. }))
                if claimed == "hq.example.net"),
            "{:?}",
            outcome.peer
        );
        assert!(matches!(outcome.server, ServerStep::Failure { error: EapError::Tls(_), .. }));

        let server = tls_server(&root, vec![gateway.der.clone()], &gateway);
        let outcome = run(server, tls_peer(&other, &carol, "carol@example.net", "gw.example.net", versions));
        let unknown = matches!(
            outcome.peer,
            PeerStep::Failure(EapError::Certificate(CertificateError::UnknownIssuer { .. }))
        );
        assert!(unknown, "{:?}", outcome.peer);
    }
}

#[test]
fn tls_refuses_a_peer_of_another_name_or_authority() {
    let (root, other) = (Authority::root("Root"), Authority::root("Other"));
    let gateway = root.issue("gw", &["gw.example.net"]);
    let (carol, stranger) =
        (root.issue("carol", &["carol@example.net"]), other.issue("carol", &["carol@example.net"]));
    for versions in [TLS13, TLS12] {
        let server = tls_server(&root, vec![gateway.der.clone()], &gateway);
        let outcome = run(server, tls_peer(&root, &carol, "dave@example.net", "gw.example.net", versions));
        let ServerStep::Failure { error, .. } = outcome.server else { panic!("{versions:?}") };
        assert_eq!(
            error.to_string(),
            "the peer claims to be dave@example.net, but its certificate is for carol@example.net; \
             C=CH, O=Example, CN=carol"
        );
        assert!(matches!(outcome.peer, PeerStep::Failure(_)));

        let server = tls_server(&root, vec![gateway.der.clone()], &gateway);
        let outcome =
            run(server, tls_peer(&root, &stranger, "carol@example.net", "gw.example.net", versions));
        let ServerStep::Failure { error, .. } = outcome.server else { panic!("{versions:?}") };
        assert!(matches!(error, EapError::Certificate(CertificateError::UnknownIssuer { .. })), "{error}");
        assert!(matches!(outcome.peer, PeerStep::Failure(_)), "{:?}", outcome.peer);
    }
}

#[test]
fn an_anonymous_peer_is_who_its_certificate_says() {
    let root = Authority::root("Root");
    let (gateway, carol) =
        (root.issue("gw", &["gw.example.net"]), root.issue("carol", &["carol@example.net"]));
    let server = tls_server(&root, vec![gateway.der.clone()], &gateway);
    let peer = tls_peer(&root, &carol, "@example.net", "gw.example.net", TLS13);
    assert_success(&run(server, peer), "carol@example.net");
}

#[test]
fn a_nak_leads_to_the_method_of_the_peer() {
    let root = Authority::root("Root");
    let gateway = root.issue("gw", &["gw.example.net"]);
    let mut server = tls_server(&root, vec![gateway.der.clone()], &gateway);
    server.methods.extend(mschapv2_server().methods);
    assert_success(&run(server, mschapv2_peer("carol", "Ar3etTnp")), "carol");
}

#[test]
fn no_common_method_is_told_apart() {
    let root = Authority::root("Root");
    let gateway = root.issue("gw", &["gw.example.net"]);
    let server = tls_server(&root, vec![gateway.der.clone()], &gateway);
    let outcome = run(server, mschapv2_peer("carol", "Ar3etTnp"));
    let ServerStep::Failure { error, .. } = outcome.server else { panic!() };
    assert_eq!(error.to_string(), "no EAP method in common: configured are TLS; the peer wants MSCHAPv2");
}

#[test]
fn success_out_of_nowhere_is_no_success() {
    let mut random = Seeded(1);
    let success = packet::success(1);
    let mut peer = EapPeer::new(Arc::new(mschapv2_peer("carol", "Ar3etTnp")), LIMITS);
    assert!(matches!(peer.handle(&success, now(), &mut random), PeerStep::Failure(EapError::Unexpected)));

    // In the middle of a method.
    let id = Identity::parse("192.0.2.9").unwrap();
    let server = ServerConfig { ask_identity: false, ..mschapv2_server() };
    let (_, step) = EapServer::start(Arc::new(server), &id, &mut random, LIMITS);
    let ServerStep::Request(challenge) = step else { panic!() };
    let mut peer = EapPeer::new(Arc::new(mschapv2_peer("carol", "Ar3etTnp")), LIMITS);
    assert!(matches!(peer.handle(&challenge, now(), &mut random), PeerStep::Response(_)));
    assert!(matches!(peer.handle(&success, now(), &mut random), PeerStep::Failure(EapError::Unexpected)));
    // And a machine that is over stays over.
    assert!(matches!(peer.handle(&success, now(), &mut random), PeerStep::Failure(_)));
}

#[test]
fn tls_without_the_success_indication_is_no_success() {
    let root = Authority::root("Root");
    let (gateway, carol) =
        (root.issue("gw", &["gw.example.net"]), root.issue("carol", &["carol@example.net"]));
    let id = Identity::parse("carol@example.net").unwrap();
    let mut random = Seeded(1);
    let server =
        ServerConfig { ask_identity: false, ..tls_server(&root, vec![gateway.der.clone()], &gateway) };
    let (mut server, mut step) = EapServer::start(Arc::new(server), &id, &mut random, LIMITS);
    let mut peer =
        EapPeer::new(Arc::new(tls_peer(&root, &carol, "carol@example.net", "gw.example.net", TLS13)), LIMITS);
    // Up to the short request with the indication: the peer has finished its part of TLS by then.
    let mut indication = false;
    for _ in 0..6 {
        let ServerStep::Request(request) = &step else { panic!("{step:?}") };
        let PeerStep::Response(response) = peer.handle(request, now(), &mut random) else { break };
        step = server.handle(&response, now(), &mut random);
        indication = matches!(&step, ServerStep::Request(request) if (12..60).contains(&request.len()));
        if indication {
            break;
        }
    }
    assert!(indication);
    assert!(matches!(
        peer.handle(&packet::success(9), now(), &mut random),
        PeerStep::Failure(EapError::Unexpected)
    ));
}

#[test]
fn a_packet_of_another_request_ends_the_run() {
    let mut random = Seeded(1);
    let id = Identity::parse("192.0.2.9").unwrap();
    let (mut server, step) = EapServer::start(Arc::new(mschapv2_server()), &id, &mut random, LIMITS);
    let ServerStep::Request(request) = step else { panic!() };
    let stale = packet::response(request[1].wrapping_add(1), packet::IDENTITY, b"carol");
    assert!(matches!(
        server.handle(&stale, now(), &mut random),
        ServerStep::Failure { error: EapError::Unexpected, .. }
    ));
}

#[test]
fn endless_notifications_end() {
    let mut random = Seeded(1);
    let mut peer = EapPeer::new(Arc::new(mschapv2_peer("carol", "Ar3etTnp")), LIMITS);
    let notification = packet::request(1, packet::NOTIFICATION, b"hello");
    for _ in 0..LIMITS.packets {
        assert!(matches!(peer.handle(&notification, now(), &mut random), PeerStep::Response(_)));
    }
    assert!(matches!(
        peer.handle(&notification, now(), &mut random),
        PeerStep::Failure(EapError::TooLong(_))
    ));
}

#[test]
fn only_tls_may_stand_alone() {
    assert!(MethodKind::Tls.allows_eap_only());
    assert!(!MethodKind::Mschapv2.allows_eap_only());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A run in which one packet of either side is bent never ends with success on both sides and different
    /// keys, and never panics.
    #[test]
    fn bent_packets_never_make_two_keys(seed: u64, at in 0..8usize, bit in 0..2048usize) {
        let id = Identity::parse("192.0.2.9").unwrap();
        let mut random = Seeded(seed);
        let (mut server, mut step) = EapServer::start(Arc::new(mschapv2_server()), &id, &mut random, LIMITS);
        let mut peer = EapPeer::new(Arc::new(mschapv2_peer("carol", "Ar3etTnp")), LIMITS);
        let mut count = 0;
        let mut bend = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            if count == at {
                let bit = bit % (packet.len() * 8);
                packet[bit / 8] ^= 1 << (bit % 8);
            }
            count += 1;
            packet
        };
        for _ in 0..20 {
            let request = match &step {
                ServerStep::Request(packet) | ServerStep::Success { packet, .. } | ServerStep::Failure { packet, .. } => bend(packet),
            };
            match peer.handle(&request, now(), &mut random) {
                PeerStep::Response(response) => step = server.handle(&bend(&response), now(), &mut random),
                PeerStep::Success { msk, .. } => {
                    if let ServerStep::Success { msk: other, .. } = &step {
                        prop_assert_eq!(&msk, other);
                    }
                    break;
                }
                PeerStep::Failure(_) => break,
            }
        }
    }

    #[test]
    fn any_packets_are_taken_or_refused(packets: Vec<Vec<u8>>) {
        let mut random = Seeded(1);
        let id = Identity::parse("192.0.2.9").unwrap();
        let (mut server, _) = EapServer::start(Arc::new(mschapv2_server()), &id, &mut random, LIMITS);
        let mut peer = EapPeer::new(Arc::new(mschapv2_peer("carol", "Ar3etTnp")), LIMITS);
        let mut byte = [0];
        for packet in &packets {
            random.fill(&mut byte);
            let _ = server.handle(packet, now(), &mut random);
            let success = matches!(peer.handle(packet, now(), &mut random), PeerStep::Success { .. });
            prop_assert!(!success);
        }
    }
}
