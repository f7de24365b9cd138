//! EAP in IKE_AUTH: every method, every way to fail, and what an attacker tries with it.

use rustls_pki_types::PrivateKeyDer;

use super::*;
use crate::auth::eap::{
    PeerConfig, PeerMethod, ServerConfig, ServerMethod, TlsPeerConfig, TlsServerConfig, Users,
};
use crate::auth::x509::testing::{Authority, Leaf};
use crate::auth::{Certificate, TrustStore};
use crate::config::Ppk;
use crate::crypto::RsaPadding;
use crate::endpoint::Forgery;
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{Eap, EapCode, ExchangeType, NotifyType, Payload, PayloadType};

const SOON: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(1000);
const GATEWAY: &str = "b.example.net";

/// What both ends are made from.
struct Setup {
    root: Authority,
    gateway: Leaf,
    /// The user's certificate, for EAP-TLS.
    user: Leaf,
}

impl Setup {
    fn new() -> Self {
        let root = Authority::root("Root");
        let gateway = root.issue("gateway", &[GATEWAY]);
        let user = root.issue("carol", &["carol@example.net"]);
        Self { root, gateway, user }
    }

    fn store(&self) -> Arc<TrustStore> {
        let mut store = TrustStore::default();
        store.add_authority(Certificate::from_der(&self.root.der).unwrap()).unwrap();
        Arc::new(store)
    }

    fn users(&self) -> ServerMethod {
        ServerMethod::Mschapv2(Arc::new(Users::parse("carol@example.net: Ar3etTnp\ndave: Xyzzy").unwrap()))
    }

    fn server_tls(&self) -> ServerMethod {
        let (chain, key) = (vec![self.gateway.der.clone()], key(&self.gateway));
        ServerMethod::Tls(Arc::new(TlsServerConfig::new(self.store(), chain, key).unwrap()))
    }

    fn peer_tls(&self, leaf: &Leaf, server: &str) -> PeerMethod {
        let expected = IdPattern::parse(server).unwrap();
        let config = TlsPeerConfig::new(self.store(), vec![leaf.der.clone()], key(leaf), expected).unwrap();
        PeerMethod::Tls(Arc::new(config))
    }

    /// A user A and a gateway B that has a certificate.
    fn configs(&self, peer: PeerConfig, server: Vec<ServerMethod>) -> [Config; 2] {
        let chain = Arc::from([Certificate::from_der(&self.gateway.der).unwrap()]);
        let key = Arc::new(self.gateway.signing_key());
        let gateway = LocalProof::Certificate { key, chain, rsa: RsaPadding::Pkcs1 };
        let server = Arc::new(ServerConfig { name: "gw".into(), ask_identity: true, methods: server });
        let peer = Arc::new(peer);
        configs(|side, connection| {
            if side == A {
                connection.local_id = Identity::parse("carol@example.net").unwrap();
                connection.local_auth = LocalProof::Eap(peer.clone());
                connection.remote_auth = RemoteProof::Certificate(self.store());
            } else {
                connection.remote_id = IdPattern::parse("*@example.net").unwrap();
                connection.local_auth = gateway.clone();
                connection.remote_auth = RemoteProof::Eap(server.clone());
            }
        })
    }
}

fn key(leaf: &Leaf) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(leaf.key.serialize_der().into())
}

fn password(user: &str, password: &str) -> PeerConfig {
    let method = PeerMethod::Mschapv2 { user: user.into(), password: Secret::copy_of(password.as_bytes()) };
    PeerConfig { identity: user.into(), methods: vec![method] }
}

fn carol() -> PeerConfig {
    password("carol@example.net", "Ar3etTnp")
}

fn certificate(method: PeerMethod) -> PeerConfig {
    PeerConfig { identity: "carol@example.net".into(), methods: vec![method] }
}

/// Changes the connection of one side.
fn change(configs: &mut [Config; 2], side: usize, change: impl FnOnce(&mut Connection)) {
    change(Arc::make_mut(&mut configs[side].connections[0]));
}

fn eap_only(configs: &mut [Config; 2]) {
    change(configs, A, |connection| connection.remote_auth = RemoteProof::EapOnly);
    change(configs, B, |connection| connection.local_auth = LocalProof::EapOnly);
}

fn run(configs: [Config; 2]) -> World {
    log();
    let mut world = World::new(1, configs);
    world.initiate(A);
    world.run(SOON);
    world
}

/// Sets up, and checks whom the gateway takes the peer for; then rekeys, and takes down.
fn assert_comes_up(configs: [Config; 2]) {
    let mut world = run(configs);
    world.assert_agreement(&["lan"]);
    let carol = Identity::parse("carol@example.net").unwrap();
    assert!(world.has_event(B, |event| matches!(event, Event::IkeUp { peer, .. } if *peer == carol)));
    for side in [A, B] {
        world.at(side, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
        world.run(Duration::from_secs(10));
        world.assert_agreement(&["lan"]);
    }
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(LONG);
    world.assert_empty();
}

/// The attempt fails, B counts it, A knows why, and nothing is left.
#[track_caller]
fn assert_fails(mut world: World, side: usize, rejection: Rejection, reason: &str) {
    assert_eq!(world.sides[side].endpoint.counters().get(rejection), 1, "{:?}", world.sides[A].events);
    assert_reason(&world, reason);
    for side in [A, B] {
        assert!(!world.has_event(side, |event| matches!(event, Event::IkeUp { .. })), "side {side}");
    }
    world.run(LONG);
    world.assert_empty();
}

#[track_caller]
fn assert_reason(world: &World, expected: &str) {
    let reasons: Vec<_> = world.sides[A]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::IkeDown { reason, .. } => Some(reason.to_string()),
            _ => None,
        })
        .collect();
    assert!(reasons.iter().any(|reason| reason.contains(expected)), "{reasons:?}, expected {expected}");
}

#[test]
fn a_password() {
    let setup = Setup::new();
    assert_comes_up(setup.configs(carol(), vec![setup.users()]));
}

#[test]
fn a_certificate_inside_tls() {
    let setup = Setup::new();
    let method = setup.peer_tls(&setup.user, GATEWAY);
    assert_comes_up(setup.configs(certificate(method), vec![setup.server_tls()]));
}

#[test]
fn eap_alone_with_a_method_that_proves_both() {
    let setup = Setup::new();
    let method = setup.peer_tls(&setup.user, GATEWAY);
    let mut configs = setup.configs(certificate(method), vec![setup.server_tls()]);
    eap_only(&mut configs);
    assert_comes_up(configs);
}

#[test]
fn the_peer_chooses_among_the_methods_of_the_gateway() {
    let setup = Setup::new();
    assert_comes_up(setup.configs(carol(), vec![setup.server_tls(), setup.users()]));
}

#[test]
fn an_inner_address_and_a_ppk_together_with_eap() {
    let setup = Setup::new();
    let long = "a post-quantum preshared key of 256 bits or more";
    let ppk = |id: &str, required| {
        Some(Ppk { id: id.as_bytes().into(), secret: Secret::copy_of(long.as_bytes()), required })
    };
    for (a, b, comes_up) in [
        (ppk("one", true), ppk("one", true), true),
        (ppk("one", false), ppk("two", false), true),
        (ppk("one", true), ppk("two", false), false),
        (ppk("one", false), ppk("two", true), false),
        (ppk("one", true), None, false),
        (None, ppk("one", true), false),
    ] {
        let mut configs = setup.configs(carol(), vec![setup.users()]);
        let shown = format!("{a:?} {b:?}");
        change(&mut configs, A, |connection| {
            connection.ppk = a;
            connection.request_addresses = vec!["0.0.0.0".parse().unwrap()];
        });
        change(&mut configs, B, |connection| {
            connection.ppk = b;
            connection.pools = vec!["v4".into()];
        });
        configs[B].pools =
            vec![crate::config::PoolConfig { name: "v4".into(), prefix: "10.9.0.0/24".parse().unwrap() }];
        let mut world = run(configs);
        let up = |side| world.has_event(side, |event| matches!(event, Event::IkeUp { .. }));
        assert_eq!((up(A), up(B)), (comes_up, comes_up), "{shown}");
        assert_eq!(world.has_event(A, |event| matches!(event, Event::Configured { .. })), comes_up);
        if comes_up {
            world.at(B, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
        }
        world.run(LONG);
        world.assert_empty();
    }
}

#[test]
fn over_a_bad_network_and_in_fragments() {
    log();
    let setup = Setup::new();
    for seed in 0..10 {
        println!("seed {seed}");
        let method = setup.peer_tls(&setup.user, GATEWAY);
        let mut configs = setup.configs(certificate(method), vec![setup.server_tls()]);
        configs[B].limits.half_open_timeout = Duration::from_secs(120);
        configs[B].limits.eap_timeout = Duration::from_secs(480);
        for side in [A, B] {
            change(&mut configs, side, |connection| connection.fragment_size = 576);
        }
        let mut world = World::new(seed, configs);
        world.network = Network::BAD;
        world.initiate(A);
        world.run(Duration::from_secs(120));
        world.assert_agreement(&["lan"]);
    }
}

#[test]
fn wrong_password_and_unknown_user_are_refused_alike() {
    let setup = Setup::new();
    let mut sizes = Vec::new();
    for user in ["carol@example.net", "frank@example.net"] {
        let mut world = World::new(1, setup.configs(password(user, "wrong"), vec![setup.users()]));
        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let keep = seen.clone();
        world.filter = Some(Box::new(move |side, datagram| {
            if side == B && datagram.payload[18] == ExchangeType::IKE_AUTH.0 {
                keep.borrow_mut().push(datagram.payload.len());
            }
            true
        }));
        world.initiate(A);
        world.run(SOON);
        // All but the first answer, whose signature varies in length.
        sizes.push(seen.borrow()[1..].to_vec());
        assert_fails(world, B, Rejection::Eap, "E=691");
    }
    assert_eq!(sizes[0], sizes[1]);
}

/// The peer closes by itself when it hears that its password is wrong, as strongSwan does, and acknowledges nothing.
#[test]
fn a_peer_that_gives_up_is_closed_at_once_and_the_reason_is_known() {
    let setup = Setup::new();
    let mut world = World::new(1, setup.configs(password("carol@example.net", "wrong"), vec![setup.users()]));
    world.filter = Some(Box::new(|side, datagram| side == B || datagram.payload[20..24] != [0, 0, 0, 4]));
    world.initiate(A);
    world.run(SOON);
    assert_eq!(world.sides[B].endpoint.half_open(), 1);
    let say = |what: NotifyType| {
        let [high, low] = what.0.to_be_bytes();
        Forgery {
            which: 0,
            exchange: ExchangeType::INFORMATIONAL,
            response: false,
            first: PayloadType::NOTIFY,
            plain: vec![0, 0, 0, 8, 0, 0, high, low],
        }
    };
    for what in [NotifyType::INVALID_SYNTAX, NotifyType::AUTHENTICATION_FAILED] {
        let message = world.at(A, |endpoint, _, rng| endpoint.forge(rng, &say(what))).unwrap();
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, message, rng));
        // Giving up leaves no more room for others than not coming back.
        assert_eq!(world.sides[B].endpoint.half_open(), 1, "{what}");
    }
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Eap), 1);
    let known = |event: &Event| matches!(event, Event::Refused { why, .. } if why.contains("wrong password"));
    assert!(world.has_event(B, known));
}

#[test]
fn certificates_inside_tls_are_checked_by_both() {
    let setup = Setup::new();
    let stranger = Authority::root("Other").issue("carol", &["carol@example.net"]);
    let method = setup.peer_tls(&stranger, GATEWAY);
    assert_fails(
        run(setup.configs(certificate(method), vec![setup.server_tls()])),
        B,
        Rejection::Eap,
        "EAP failed",
    );
    let method = setup.peer_tls(&setup.user, "hq.example.net");
    let world = run(setup.configs(certificate(method), vec![setup.server_tls()]));
    assert_reason(&world, "hq.example.net");
    assert_fails(world, A, Rejection::Eap, "EAP failed");
}

#[test]
fn methods_that_do_not_fit() {
    let setup = Setup::new();
    let world = run(setup.configs(carol(), vec![setup.server_tls()]));
    assert_fails(world, B, Rejection::Eap, "EAP failed");
}

/// Whoever has a password cannot take another's name: the name that EAP proves has to fit the connection.
#[test]
fn a_proven_name_that_is_not_the_connections_is_refused() {
    let setup = Setup::new();
    let mut configs = setup.configs(password("dave", "Xyzzy"), vec![setup.users()]);
    let world = run(configs.clone());
    assert_fails(world, B, Rejection::Identity, "AUTHENTICATION_FAILED");
    change(&mut configs, B, |connection| connection.remote_id = IdPattern::Any);
    let world = run(configs);
    world.assert_agreement(&["lan"]);
    let dave = Identity::parse("dave").unwrap();
    assert!(world.has_event(B, |event| matches!(event, Event::IkeUp { peer, .. } if *peer == dave)));
}

#[test]
fn who_does_not_want_eap_finds_no_connection_for_it_and_the_reverse() {
    let setup = Setup::new();
    // A has a preshared key, B wants EAP.
    let mut configs = setup.configs(carol(), vec![setup.users()]);
    change(&mut configs, A, |connection| {
        connection.local_auth = LocalProof::Psk(Secret::copy_of(b"swordfish"));
    });
    assert_fails(run(configs), B, Rejection::Identity, "AUTHENTICATION_FAILED");
    // A wants EAP, B has a preshared key for it.
    let mut configs = setup.configs(carol(), vec![setup.users()]);
    change(&mut configs, B, |connection| {
        connection.remote_auth = RemoteProof::Psk(Secret::copy_of(b"swordfish"));
    });
    assert_fails(run(configs), B, Rejection::Identity, "AUTHENTICATION_FAILED");
}

#[test]
fn proofs_that_do_not_go_together_are_not_even_tried() {
    let setup = Setup::new();
    let reason = |change_a: &dyn Fn(&mut Connection)| {
        let mut configs = setup.configs(carol(), vec![setup.users()]);
        change(&mut configs, A, |connection| change_a(connection));
        let world = run(configs);
        let Some(Event::IkeDown { reason, .. }) = world.sides[A].events.last() else { panic!() };
        assert_eq!(world.sides[B].endpoint.half_open(), 0);
        reason.to_string()
    };
    let psk = || RemoteProof::Psk(Secret::copy_of(b"swordfish"));
    assert!(reason(&|one| one.remote_auth = psk()).contains("RFC 7296 s2.16"));
    assert!(reason(&|one| one.remote_auth = RemoteProof::Null).contains("RFC 7296 s2.16"));
    // EAP-MSCHAPv2 proves nothing that may stand alone.
    assert!(reason(&|one| one.remote_auth = RemoteProof::EapOnly).contains("EAP-TLS"));
    assert!(reason(&|one| one.local_auth = LocalProof::EapOnly).contains("RFC 5998"));
    let server = ServerConfig { name: "gw".into(), ask_identity: true, methods: vec![setup.users()] };
    let server = RemoteProof::Eap(Arc::new(server));
    assert!(reason(&|one| one.remote_auth = server.clone()).contains("only one end"));
    // The gateway's side of it: only the peer can begin.
    let mut world = World::new(1, setup.configs(carol(), vec![setup.users()]));
    world.initiate(B);
    let begins = |event: &Event| matches!(event, Event::IkeDown { reason, .. } if reason.to_string().contains("only it can begin"));
    assert!(world.has_event(B, begins));
    // And a gateway whose own proofs do not go together answers nobody.
    let mut configs = setup.configs(carol(), vec![setup.users()]);
    change(&mut configs, B, |connection| connection.local_auth = LocalProof::EapOnly);
    let world = run(configs);
    assert!(world.sides[B].endpoint.counters().get(Rejection::NoConnection) > 0);
}

#[test]
fn eap_that_is_not_finished_leaves_nothing_and_the_number_is_bounded() {
    log();
    let setup = Setup::new();
    let mut configs = setup.configs(carol(), vec![setup.users()]);
    configs[B].limits.eap = 0;
    let mut world = World::new(1, configs.clone());
    world.initiate(A);
    world.run(SOON);
    assert!(world.sides[B].endpoint.counters().get(Rejection::EapLimit) > 1);
    assert_eq!(world.sides[B].endpoint.half_open(), 1);
    world.run(LONG);
    world.assert_empty();
    // With room for one, which is there again after each.
    (configs[B].limits.eap, configs[B].limits.eap_timeout) = (1, Duration::from_secs(16));
    let mut world = World::new(1, configs);
    for _ in 0..3 {
        world.initiate(A);
        world.run(SOON);
        world.assert_agreement(&["lan"]);
        world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
        world.run(LONG);
        world.assert_empty();
    }
    // The peer vanishes in the middle of it.
    let mut messages = 0;
    world.filter = Some(Box::new(move |side, _| {
        messages += usize::from(side == A);
        messages < 4
    }));
    world.initiate(A);
    world.run(SOON);
    assert_eq!(world.sides[B].endpoint.half_open(), 1);
    world.run(Duration::from_secs(17) - SOON);
    assert_eq!(world.sides[B].endpoint.half_open(), 0, "not longer than the configuration says");
    world.run(LONG);
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::EapLength), 1);
    world.assert_empty();
}

/// Runs with payloads of one side changed before they are sealed: a peer with valid keys that breaks the rules.
fn bent(
    configs: [Config; 2],
    side: usize,
    bend: impl FnMut(ExchangeType, bool, &mut Vec<Payload<'_>>) + 'static,
) -> World {
    log();
    let mut world = World::new(1, configs);
    world.sides[side].endpoint.bend(Some(Box::new(bend)));
    world.initiate(A);
    world.run(SOON);
    world
}

/// Somebody who can do the key exchange but has no certificate asks for the password.
#[test]
fn eap_without_server_authentication_is_refused() {
    let setup = Setup::new();
    let world = bent(setup.configs(carol(), vec![setup.users()]), B, |_, _, payloads| {
        payloads.retain(|payload| !matches!(payload, Payload::Auth(_) | Payload::Cert(_)));
    });
    let sent = |event: &Event| matches!(event, Event::IkeDown { reason: DownReason::Failed(why), .. } if why.contains("without proving itself"));
    assert!(world.has_event(A, sent));
    // No packet of the method went out: the EAP identity stays unsaid.
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Eap), 0);
    assert_fails(world, A, Rejection::Authentication, "expected a certificate or a raw key");
    // A responder that is not asked for EAP alone does not try it.
    let method = setup.peer_tls(&setup.user, GATEWAY);
    let mut configs = setup.configs(certificate(method), vec![setup.server_tls()]);
    change(&mut configs, B, |connection| connection.local_auth = LocalProof::EapOnly);
    assert_fails(run(configs), B, Rejection::Authentication, "AUTHENTICATION_FAILED");
}

#[test]
fn an_auth_payload_that_is_cut_short_is_refused() {
    let setup = Setup::new();
    // The responder's signature, then the MSK's AUTH of either end; to nothing, and by one byte.
    for keep_all_but in [usize::MAX, 1] {
        let cut = move |data: &mut std::borrow::Cow<'_, [u8]>| {
            let length = data.len().saturating_sub(keep_all_but);
            data.to_mut().truncate(length);
        };
        for (side, which) in [(B, 1), (A, 1), (B, 2)] {
            let mut seen = 0;
            let world = bent(setup.configs(carol(), vec![setup.users()]), side, move |_, _, payloads| {
                for payload in payloads {
                    if let Payload::Auth(auth) = payload {
                        seen += 1;
                        if seen == which {
                            cut(&mut auth.data);
                        }
                    }
                }
            });
            let reason = if side == A { "AUTHENTICATION_FAILED" } else { "" };
            let up_at_server = (side, which) == (B, 2);
            assert_eq!(world.sides[1 - side].endpoint.counters().get(Rejection::Authentication), 1);
            assert_reason(&world, reason);
            assert!(!world.has_event(A, |event| matches!(event, Event::IkeUp { .. })));
            assert_eq!(world.has_event(B, |event| matches!(event, Event::IkeUp { .. })), up_at_server);
            let mut world = world;
            world.run(LONG);
            world.assert_empty();
        }
    }
}

#[test]
fn a_success_that_the_method_did_not_reach_is_refused() {
    let setup = Setup::new();
    // Right after the identity.
    let mut packets = 0;
    let world = bent(setup.configs(carol(), vec![setup.users()]), B, move |_, _, payloads| {
        for payload in payloads {
            if let Payload::Eap(eap) = payload {
                packets += 1;
                if packets == 2 {
                    *eap =
                        Eap { code: EapCode::Success, identifier: eap.identifier, data: Vec::new().into() };
                }
            }
        }
    });
    assert_fails(world, A, Rejection::Eap, "out of order");
}

#[test]
fn messages_out_of_place_end_the_attempt() {
    let setup = Setup::new();
    // A peer that leaves EAP out where it belongs, and one that leaves AUTH out at the end.
    for (kind, rejection) in [("eap", Rejection::Eap), ("auth", Rejection::Authentication)] {
        let world = bent(setup.configs(carol(), vec![setup.users()]), A, move |_, _, payloads| {
            payloads.retain(|payload| match payload {
                Payload::Eap(_) => kind != "eap",
                Payload::Auth(_) => kind != "auth",
                _ => true,
            });
        });
        assert_fails(world, B, rejection, "AUTHENTICATION_FAILED");
    }
    // A responder that ends EAP with an error.
    let mut packets = 0;
    let world = bent(setup.configs(carol(), vec![setup.users()]), B, move |_, _, payloads| {
        packets += 1;
        if packets == 3 {
            *payloads = vec![Payload::Notify(crate::wire::Notify::bare(NotifyType::AUTHENTICATION_FAILED))];
        }
    });
    assert_reason(&world, "AUTHENTICATION_FAILED");
}

/// AUTH by the MSK covers the exchange: with somebody between two IKE SAs, who hands EAP through, both ends notice.
#[test]
fn the_key_of_eap_ties_it_to_this_ike_sa() {
    let setup = Setup::new();
    // The gateway takes the peer for another one than the one that AUTH covers.
    let mut first = true;
    let world = bent(setup.configs(carol(), vec![setup.users()]), A, move |_, _, payloads| {
        if std::mem::take(&mut first) {
            for payload in payloads {
                if let Payload::IdI(id) = payload {
                    id.data = b"erin@example.net".to_vec().into();
                }
            }
        }
    });
    assert_fails(world, B, Rejection::Authentication, "AUTHENTICATION_FAILED");
}

/// A chain of certificates that takes more packets, or a longer message, than either end puts up with.
#[test]
fn packets_and_messages_of_eap_are_bounded_as_configured() {
    let setup = Setup::new();
    for side in [A, B] {
        for (packets, message) in [(3, 64 << 10), (200, 300), (200, 64 << 10)] {
            let method = setup.peer_tls(&setup.user, GATEWAY);
            let mut configs = setup.configs(certificate(method), vec![setup.server_tls()]);
            (configs[side].limits.eap_packets, configs[side].limits.eap_message) = (packets, message);
            let world = run(configs);
            let up = (packets, message) == (200, 64 << 10);
            assert_eq!(world.has_event(B, |event| matches!(event, Event::IkeUp { .. })), up);
            assert_eq!(world.sides[side].endpoint.counters().get(Rejection::EapLength), u64::from(!up));
        }
    }
}
