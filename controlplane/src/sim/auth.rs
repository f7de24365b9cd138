//! Authentication by certificate, raw key and nothing, and IKE_INTERMEDIATE with ML-KEM.

use super::cleartext::rebuild;
use super::*;
use crate::auth::x509::testing::Authority;
use crate::auth::{Certificate, TrustStore};
use crate::config::Ppk;
use crate::crypto::{PublicKey, RsaPadding};
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{ExchangeType, Header, NotifyType, Payload, TransformType};

const SOON: Duration = Duration::from_secs(5);
const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";

fn up(change: impl Fn(usize, &mut Connection)) -> World {
    log();
    let mut world = World::new(1, configs(change));
    world.initiate(A);
    world.run(SOON);
    world
}

fn trust(authority: &Authority) -> RemoteProof {
    let mut store = TrustStore::default();
    store.add_authority(Certificate::from_der(&authority.der).unwrap()).unwrap();
    RemoteProof::Certificate(Arc::new(store))
}

fn name(side: usize) -> &'static str {
    if side == A { "a.example.net" } else { "b.example.net" }
}

fn certificates(authority: &Authority) -> [LocalProof; 2] {
    [A, B].map(|side| {
        let leaf = authority.issue("gateway", &[name(side)]);
        let chain = Arc::from([Certificate::from_der(&leaf.der).unwrap()]);
        LocalProof::Certificate { key: Arc::new(leaf.signing_key()), chain, rsa: RsaPadding::Pkcs1 }
    })
}

#[test]
fn certificates_of_a_common_authority() {
    let authority = Authority::root("Root");
    let proofs = certificates(&authority);
    let world = up(|side, connection| {
        connection.local_auth = proofs[side].clone();
        connection.remote_auth = trust(&authority);
        // The chain makes IKE_AUTH longer than a small packet.
        connection.fragment_size = 576;
    });
    world.assert_agreement(&["lan"]);
}

#[test]
fn a_certificate_of_another_authority_or_another_name_is_refused() {
    let (authority, other) = (Authority::root("Root"), Authority::root("Other"));
    let proofs = certificates(&authority);
    let mut world = up(|side, connection| {
        connection.local_auth = proofs[side].clone();
        connection.remote_auth = trust(if side == B { &other } else { &authority });
    });
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Authentication), 1);
    world.run(Duration::from_secs(1000));
    world.assert_empty();
    let mut world = up(|side, connection| {
        connection.local_auth = proofs[1 - side].clone();
        connection.remote_auth = trust(&authority);
    });
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Authentication), 1);
    world.run(Duration::from_secs(1000));
    world.assert_empty();
}

#[test]
fn psk_on_one_side_and_certificate_on_the_other() {
    let authority = Authority::root("Root");
    let proofs = certificates(&authority);
    let world = up(|side, connection| {
        if side == A {
            connection.remote_auth = trust(&authority);
        } else {
            connection.local_auth = proofs[B].clone();
        }
    });
    world.assert_agreement(&["lan"]);
}

#[test]
fn raw_public_keys_and_null() {
    let authority = Authority::root("Root");
    let leaves = [A, B].map(|side| authority.issue("gateway", &[name(side)]));
    let keys = leaves.each_ref().map(|leaf| Arc::new(leaf.signing_key()));
    let world = up(|side, connection| {
        connection.local_auth = LocalProof::RawKey { key: keys[side].clone(), rsa: RsaPadding::Pkcs1 };
        let theirs = PublicKey::from_spki(keys[1 - side].public().spki()).unwrap();
        connection.remote_auth = RemoteProof::RawKey(Arc::from([theirs]));
    });
    world.assert_agreement(&["lan"]);
    let world = up(|_, connection| {
        connection.local_auth = LocalProof::Null;
        connection.remote_auth = RemoteProof::Null;
        connection.local_id = Identity::Null;
        connection.remote_id = IdPattern::Exact(Identity::Null);
    });
    world.assert_agreement(&["lan"]);
    let world = up(|side, connection| {
        if side == A {
            connection.local_auth = LocalProof::Null;
        }
    });
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Authentication), 1);
}

#[test]
fn ml_kem_in_an_intermediate_exchange() {
    for ike in [
        HYBRID,
        "aes128-sha256-ecp256-ke1_mlkem512-ke2_mlkem1024",
        "chacha20poly1305-prfsha256-x25519-ke1_none-ke3_mlkem1024-ke1_mlkem768",
    ] {
        let mut world = up(|_, connection| connection.proposals = vec![Proposal::ike(ike).unwrap()]);
        world.assert_agreement(&["lan"]);
        world.at(B, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
        world.run(SOON);
        world.assert_agreement(&["lan"]);
        world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
        world.run(Duration::from_secs(1000));
        world.assert_empty();
    }
}

#[test]
fn ml_kem_over_a_bad_network_in_fragments() {
    log();
    for seed in 0..30 {
        println!("seed {seed}");
        let mut world = World::new(
            seed,
            configs(|side, connection| {
                connection.proposals = vec![Proposal::ike(HYBRID).unwrap()];
                connection.fragment_size = if side == A { 576 } else { 1280 };
            }),
        );
        world.network = Network::BAD;
        world.initiate(A);
        world.run(Duration::from_secs(60));
        world.assert_agreement(&["lan"]);
    }
}

#[test]
fn who_insists_on_ml_kem_is_not_talked_out_of_it() {
    // The responder insists, the initiator does not offer.
    let mut world = up(|side, connection| {
        if side == B {
            connection.proposals = vec![Proposal::ike(HYBRID).unwrap()];
        }
    });
    assert!(world.sides[B].endpoint.counters().get(Rejection::NoProposal) > 0);
    world.run(Duration::from_secs(1000));
    world.assert_empty();
    // Somebody in the middle removes the notify from the response: the initiator does not go on.
    log();
    let mut world =
        World::new(1, configs(|_, connection| connection.proposals = vec![Proposal::ike(HYBRID).unwrap()]));
    world.rewrite[B] = Some(Box::new(strip));
    world.initiate(A);
    world.run(Duration::from_secs(1000));
    assert!(world.sides[A].endpoint.counters().get(Rejection::NoProposal) > 0);
    let unreachable =
        |event: &Event| matches!(event, Event::IkeDown { reason: DownReason::Unreachable(_), .. });
    assert!(world.has_event(A, unreachable));
    world.assert_empty();
}

/// Takes INTERMEDIATE_EXCHANGE_SUPPORTED out of a cleartext message.
fn strip(datagram: &mut Datagram) {
    rebuild_init(datagram, |payloads| {
        payloads.retain(|payload| {
            !matches!(payload, Payload::Notify(one) if one.kind == NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)
        });
    });
}

/// Changes the payloads of a message of IKE_SA_INIT, and no other.
fn rebuild_init(datagram: &mut Datagram, change: impl FnOnce(&mut Vec<Payload<'static>>)) {
    if Header::parse(&datagram.payload).unwrap().exchange == ExchangeType::IKE_SA_INIT {
        rebuild(datagram, change);
    }
}

/// A downgrade that both ends would accept: the offer of ML-KEM is optional, and somebody in the middle takes it
/// out. AUTH covers the messages as they were sent, so neither end authenticates.
#[test]
fn a_downgrade_of_the_offer_fails_in_auth() {
    log();
    let optional = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none";
    let mut world =
        World::new(1, configs(|_, connection| connection.proposals = vec![Proposal::ike(optional).unwrap()]));
    world.rewrite[A] = Some(Box::new(|datagram| {
        rebuild_init(datagram, |payloads| {
            for payload in payloads {
                if let Payload::Sa(proposals) = payload {
                    proposals[0].transforms.retain(|one| one.kind != TransformType::ADDKE1 || one.id == 0);
                }
            }
        });
    }));
    world.initiate(A);
    world.run(Duration::from_secs(1000));
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Authentication), 1);
    assert!(!world.has_event(A, |event| matches!(event, Event::IkeUp { .. })));
    assert!(!world.has_event(B, |event| matches!(event, Event::IkeUp { .. })));
    world.assert_empty();
}

fn ppk(id: &str, secret: &str, required: bool) -> Option<Ppk> {
    Some(Ppk { id: id.as_bytes().into(), secret: Secret::copy_of(secret.as_bytes()), required })
}

#[test]
fn a_ppk_goes_into_the_keys_or_is_left_out_by_agreement() {
    let long = "a post-quantum preshared key of 256 bits or more";
    for (a, b, comes_up) in [
        (ppk("one", long, true), ppk("one", long, true), true),
        (ppk("one", long, true), ppk("one", long, false), true),
        // The responder does not have it: only without, and only when nobody insists.
        (ppk("one", long, false), ppk("two", long, false), true),
        (ppk("one", long, true), ppk("two", long, false), false),
        (ppk("one", long, false), ppk("two", long, true), false),
        // One end has none at all.
        (ppk("one", long, false), None, true),
        (ppk("one", long, true), None, false),
        (None, ppk("one", long, false), true),
        (None, ppk("one", long, true), false),
        // The same name for another key.
        (ppk("one", long, false), ppk("one", "something else that is long enough", false), false),
    ] {
        let shown = format!("{a:?} {b:?}");
        for hybrid in [false, true] {
            let mut world = up(|side, connection| {
                connection.ppk = if side == A { a.clone() } else { b.clone() };
                if hybrid {
                    connection.proposals = vec![Proposal::ike(HYBRID).unwrap()];
                }
            });
            let is_up = world.has_event(B, |event| matches!(event, Event::IkeUp { .. }))
                && world.has_event(A, |event| matches!(event, Event::IkeUp { .. }));
            assert_eq!(is_up, comes_up, "{shown}");
            if comes_up {
                world.assert_agreement(&["lan"]);
                world.at(B, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
                world.run(SOON);
                world.assert_agreement(&["lan"]);
            } else {
                world.run(Duration::from_secs(1000));
                world.assert_empty();
            }
        }
    }
}

/// RFC 7296 s2.4: whether it has another IKE SA is known when IKE_AUTH goes out, whatever exchanges come before.
#[test]
fn initial_contact_is_said_after_additional_key_exchanges_too() {
    use std::cell::Cell;
    use std::rc::Rc;

    use crate::wire::{ExchangeType, NotifyType, Payload};
    for keywords in ["aes256gcm16-prfsha384-x25519", "aes256gcm16-prfsha384-x25519-ke1_mlkem768"] {
        log();
        let proposals = |_: usize, connection: &mut Connection| {
            connection.proposals = vec![Proposal::ike(keywords).unwrap()];
        };
        let mut world = World::new(1, configs(proposals));
        let said = Rc::new(Cell::new(false));
        let seen = said.clone();
        world.sides[A].endpoint.bend(Some(Box::new(move |exchange, response, payloads| {
            let is_it = |payload: &Payload<'_>| matches!(payload, Payload::Notify(one) if one.kind == NotifyType::INITIAL_CONTACT);
            if exchange == ExchangeType::IKE_AUTH && !response && payloads.iter().any(is_it) {
                seen.set(true);
            }
        })));
        world.initiate(A);
        world.run(Duration::from_secs(5));
        world.assert_agreement(&["lan"]);
        assert!(said.get(), "{keywords}");
    }
}
