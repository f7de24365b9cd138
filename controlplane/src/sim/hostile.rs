//! What strangers try: garbage, replays, reflections, bent messages and floods.

use std::cell::RefCell;
use std::rc::Rc;

use super::cleartext::{payloads, rebuild};
use super::*;
use crate::endpoint::Forgery;
use crate::rejection::Rejection;
use crate::wire::{ExchangeType, HEADER_LEN, Header, Notify, NotifyType, Payload, PayloadType, emit_chain};

type Captured = Rc<RefCell<Vec<(usize, Datagram)>>>;

/// A tunnel that was set up, rekeyed both ways and is up, and every datagram of it.
fn captured() -> (World, Captured) {
    log();
    let mut world = World::new(1, configs(|_, connection| connection.fragment_size = 576));
    let captured = Captured::default();
    let keep = captured.clone();
    world.filter = Some(Box::new(move |side, datagram| {
        keep.borrow_mut().push((side, datagram.clone()));
        true
    }));
    world.initiate(A);
    world.run(Duration::from_secs(2));
    for side in [A, B] {
        world.at(side, |endpoint, now, rng| endpoint.rekey_child(now, rng, "net", "lan")).unwrap();
        world.run(Duration::from_secs(10));
        world.at(side, |endpoint, now, rng| endpoint.rekey_ike(now, rng, "net")).unwrap();
        world.run(Duration::from_secs(10));
    }
    world.assert_agreement(&["lan"]);
    (world, captured)
}

/// As the other side gets it.
fn received(datagram: &Datagram) -> Datagram {
    Datagram { local: datagram.remote, remote: datagram.local, payload: datagram.payload.clone() }
}

fn is_cleartext(datagram: &Datagram) -> bool {
    datagram.payload[18] == ExchangeType::IKE_SA_INIT.0
}

/// All SPIs in use, which nothing from outside may change.
fn fingerprint(world: &World) -> Vec<(u32, u32)> {
    let mut all: Vec<_> = world
        .sides
        .iter()
        .flat_map(|side| {
            side.endpoint.status().flat_map(|ike| ike.children).map(|one| (one.spi_in, one.spi_out))
        })
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn replays_and_reflections_change_nothing() {
    let (mut world, captured) = captured();
    let before = fingerprint(&world);
    let all = captured.borrow().clone();
    for (side, datagram) in &all {
        // Replayed to its receiver, and thrown back at its sender.
        world.inject(1 - side, received(datagram));
        world.inject(*side, received(datagram));
        world.inject(*side, Datagram { local: datagram.local, ..received(datagram) });
    }
    world.run(Duration::from_secs(300));
    world.assert_agreement(&["lan"]);
    assert_eq!(fingerprint(&world), before);
}

#[test]
fn bent_messages_change_nothing() {
    let (mut world, captured) = captured();
    let before = fingerprint(&world);
    let all = captured.borrow().clone();
    for (side, datagram) in all.iter().filter(|(_, datagram)| !is_cleartext(datagram)) {
        for at in 0..datagram.payload.len() {
            let mut bent = received(datagram);
            bent.payload[at] ^= 1 << (at % 8);
            world.inject(1 - side, bent);
        }
        for cut in (0..datagram.payload.len()).step_by(7) {
            let mut short = received(datagram);
            short.payload.truncate(cut);
            world.inject(1 - side, short);
        }
    }
    world.run(Duration::from_secs(300));
    world.assert_agreement(&["lan"]);
    assert_eq!(fingerprint(&world), before);
}

/// Copies with a flipped bit arrive just before the true message, at every step of the set-up.
#[test]
fn bent_copies_do_not_disturb_an_exchange_that_is_under_way() {
    log();
    for bit in 0..40 {
        let mut world = World::new(bit, configs(|_, _| {}));
        world.held = Some(Default::default());
        world.initiate(A);
        for _ in 0..10 {
            for to in [A, B] {
                let Some(datagram) = world.held.as_mut().and_then(|held| held[to].pop_front()) else {
                    continue;
                };
                if !is_cleartext(&datagram) {
                    for at in (bit as usize..datagram.payload.len()).step_by(40) {
                        let mut bent = datagram.clone();
                        bent.payload[at] ^= 0x40;
                        world.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, bent, rng));
                    }
                }
                world.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
            }
        }
        world.held = None;
        world.run(Duration::from_secs(60));
        world.assert_agreement(&["lan"]);
        assert!(world.sides[B].endpoint.counters().get(Rejection::Integrity) > 0);
    }
}

/// What a bent message of IKE_SA_INIT makes both ends believe is covered by AUTH: whatever bit it is, either both ends
/// agree afterwards or there is nothing.
#[test]
fn no_bit_of_the_first_exchange_can_be_bent_to_an_end() {
    log();
    let (mut runs, mut up) = (0, 0);
    for bender in [A, B] {
        for at in 0.. {
            let mut world = World::new(1, configs(|_, _| {}));
            let (mut len, mut bent) = (0, false);
            world.held = Some(Default::default());
            world.initiate(A);
            let first =
                |world: &mut World, to: usize| world.held.as_mut().and_then(|held| held[to].pop_front());
            let mut request = first(&mut world, B).unwrap();
            let bend =
                |datagram: &mut Datagram| datagram.payload.get_mut(at).map(|byte| *byte ^= 1 << (at % 8));
            if bender == A {
                (len, bent) = (request.payload.len(), bend(&mut request).is_some());
            }
            world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, request, rng));
            if let Some(mut response) = first(&mut world, A) {
                if bender == B {
                    (len, bent) = (response.payload.len(), bend(&mut response).is_some());
                }
                world.at(A, |endpoint, now, rng| endpoint.handle_datagram(now, response, rng));
            }
            if !bent {
                assert!(at >= len && at > 100);
                break;
            }
            for (to, queue) in world.held.take().into_iter().flatten().enumerate() {
                queue.into_iter().for_each(|datagram| world.inject(to, datagram));
            }
            world.run(Duration::from_secs(400));
            world.assert_consistent();
            runs += 1;
            up += usize::from(!world.sides[A].plane.outbound.is_empty());
        }
    }
    assert!(up * 4 > runs && up < runs, "{up} of {runs}");
}

/// An error in IKE_SA_INIT is not authentic: the true answer, which comes after it, is taken (RFC 7296 s2.21.1).
#[test]
fn forged_errors_before_the_true_answer_do_no_harm() {
    log();
    let errors: [(NotifyType, &[u8]); 5] = [
        (NotifyType::NO_PROPOSAL_CHOSEN, &[]),
        (NotifyType::AUTHENTICATION_FAILED, &[]),
        (NotifyType::INVALID_SYNTAX, &[]),
        // A group that was not offered, and none.
        (NotifyType::INVALID_KE_PAYLOAD, &[0, 14]),
        (NotifyType::INVALID_KE_PAYLOAD, &[]),
    ];
    for (kind, data) in errors {
        let mut world = World::new(1, configs(|_, _| {}));
        world.held = Some(Default::default());
        world.initiate(A);
        let request = world.held.as_mut().and_then(|held| held[B].pop_front()).unwrap();
        let header = Header::parse(&request.payload).unwrap();
        let mut body = Vec::new();
        let notify = Notify::new(kind, data.to_vec());
        let next_payload = emit_chain(&[Payload::Notify(notify)], &mut body).unwrap();
        let header = Header { next_payload, initiator: false, response: true, ..header };
        let mut forged =
            Datagram { payload: header.emit(HEADER_LEN + body.len()).to_vec(), ..received(&request) };
        forged.payload.extend(body);
        world.at(A, |endpoint, now, rng| endpoint.handle_datagram(now, forged, rng));
        world.held = None;
        world.inject(B, request);
        world.run(Duration::from_secs(60));
        world.assert_agreement(&["lan"]);
    }
}

/// RFC 7296 s2.5: answered with its type, and the IKE SA stays; without the critical bit it is passed over.
#[test]
fn an_unknown_payload_under_encryption_is_refused_when_it_is_critical() {
    for (flags, refused) in [(0x80, 1), (0, 0)] {
        log();
        let mut world = World::new(1, configs(|_, _| {}));
        world.initiate(A);
        world.run(Duration::from_secs(2));
        let before = fingerprint(&world);
        let forgery = Forgery {
            which: 0,
            exchange: ExchangeType::INFORMATIONAL,
            response: false,
            first: PayloadType(200),
            plain: vec![0, flags, 0, 4],
        };
        let message = world.at(A, |endpoint, _, rng| endpoint.forge(rng, &forgery)).unwrap();
        world.held = Some(Default::default());
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, message, rng));
        assert_eq!(world.held.take().unwrap()[A].len(), 1, "it is answered");
        assert_eq!(world.sides[B].endpoint.counters().get(Rejection::CriticalPayload), refused);
        assert_eq!(fingerprint(&world), before);
    }
}

#[test]
fn garbage_leaves_no_state_and_gets_few_answers() {
    log();
    let mut world = World::new(1, configs(|_, _| {}));
    world.held = Some(Default::default());
    let mut dice = Seeded(99);
    for round in 0..50_000u32 {
        let mut payload = vec![0; 28 + (round % 200) as usize];
        dice.fill(&mut payload);
        // Half of them look like IKE.
        if round % 2 == 0 {
            let length = payload.len() as u32;
            payload[17] = 0x20;
            payload[18] = 34 + (round % 4) as u8;
            payload[24..28].copy_from_slice(&length.to_be_bytes());
        }
        let datagram = Datagram { local: socket(B, 500), remote: socket(A, 500), payload };
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
    }
    let answers = world.held.as_ref().unwrap()[A].len();
    assert!(answers <= 1000, "{answers} answers in a second");
    world.run(Duration::from_secs(100));
    world.assert_empty();
}

/// The first datagram of an attempt, as the responder gets it.
pub(super) fn first_request() -> Datagram {
    let mut world = World::new(5, configs(|_, _| {}));
    world.held = Some(Default::default());
    world.initiate(A);
    world.held.as_mut().and_then(|held| held[B].pop_front()).unwrap()
}

#[test]
fn a_flood_of_spoofed_requests_is_bounded_and_an_honest_peer_comes_through() {
    log();
    let mut configs = configs(|side, connection| {
        if side == B {
            connection.remote = RemoteAddress::Any;
        }
    });
    configs[B].limits.cookie_threshold = 64;
    let mut world = World::new(1, configs);
    world.held = Some(Default::default());
    let mut spoofed = first_request();
    for number in 0..100_000u64 {
        spoofed.payload[..8].copy_from_slice(&(number + 1).to_be_bytes());
        spoofed.remote =
            SocketAddr::from((number.to_be_bytes()[4..].try_into().map(|ip: [u8; 4]| ip).unwrap(), 500));
        let datagram = spoofed.clone();
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
    }
    assert_eq!(world.sides[B].endpoint.half_open(), 64);
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::CookieRequired), 100_000 - 64);
    world.held = None;
    world.initiate(A);
    world.run(Duration::from_secs(2));
    world.assert_agreement_of_established(&["lan"]);
    world.run(Duration::from_secs(100));
    assert_eq!(world.sides[B].endpoint.half_open(), 0);
    world.assert_agreement(&["lan"]);
}

/// A shared secret is computed for who comes back with an encrypted message to the SPI that only the true address learns,
/// and once.
#[test]
fn a_first_request_costs_no_shared_secret() {
    log();
    let mut world = World::new(1, configs(|_, _| {}));
    world.held = Some(Default::default());
    let request = first_request();
    world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, request.clone(), rng));
    let keyed = |world: &World| world.sides[B].endpoint.keyed();
    let spi = world.sides[B].endpoint.status().next().unwrap().spi;
    let answer = |id: u32, spi: u64| {
        let mut payload = vec![0; 28 + 60];
        payload[..8].copy_from_slice(&request.payload[..8]);
        payload[8..16].copy_from_slice(&spi.to_be_bytes());
        payload[16..20].copy_from_slice(&[PayloadType::SK.0, 0x20, ExchangeType::IKE_AUTH.0, 0x08]);
        payload[20..24].copy_from_slice(&id.to_be_bytes());
        payload[24..28].copy_from_slice(&88u32.to_be_bytes());
        payload[28..32].copy_from_slice(&[PayloadType::ID_I.0, 0, 0, 60]);
        Datagram { payload, ..request.clone() }
    };
    for (id, spi, keys) in [(1, spi ^ 1, 0), (0, spi, 0), (2, spi, 0), (1, spi, 1), (1, spi, 1)] {
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, answer(id, spi), rng));
        assert_eq!(keyed(&world), keys, "message {id}");
    }
    assert_eq!(world.sides[B].endpoint.counters().get(Rejection::Integrity), 2);
    // An invalid value is noticed then, and makes nothing.
    let mut world = World::new(1, configs(|_, _| {}));
    world.held = Some(Default::default());
    let mut zero = request.clone();
    rebuild(&mut zero, |payloads| {
        for payload in payloads {
            if let Payload::Ke(ke) = payload {
                ke.data = vec![0; ke.data.len()].into();
            }
        }
    });
    world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, zero, rng));
    let spi = world.sides[B].endpoint.status().next().unwrap().spi;
    for _ in 0..2 {
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, answer(1, spi), rng));
    }
    assert_eq!(keyed(&world), 0);
    let counters = world.sides[B].endpoint.counters();
    let counts = [Rejection::KeyExchange, Rejection::UnexpectedExchange].map(|one| counters.get(one));
    assert_eq!(counts, [1, 1]);
}

#[test]
fn many_users_behind_one_nat_are_asked_for_cookies_and_not_refused() {
    log();
    let mut configs = configs(|_, _| {});
    configs[B].limits.cookie_threshold_per_address = 4;
    let mut world = World::new(1, configs);
    world.held = Some(Default::default());
    for number in 0..50u16 {
        let mut request = first_request();
        request.payload[..8].copy_from_slice(&u64::from(number + 1).to_be_bytes());
        request.remote.set_port(20_000 + number);
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, request, rng));
    }
    assert_eq!(world.sides[B].endpoint.half_open(), 4);
    let cookies = world.held.as_ref().unwrap()[A].iter().filter(|answer| {
        matches!(&payloads(answer)[..], [Payload::Notify(Notify { kind: NotifyType::COOKIE, .. })])
    });
    assert_eq!(cookies.count(), 46);
    world.held = None;
    world.initiate(A);
    world.run(Duration::from_secs(2));
    world.assert_agreement_of_established(&["lan"]);
}

#[test]
fn a_repeated_first_request_gets_the_same_answer_and_no_second_state() {
    log();
    let mut world = World::new(1, configs(|_, _| {}));
    world.held = Some(Default::default());
    let request = first_request();
    for _ in 0..5 {
        world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, request.clone(), rng));
    }
    assert_eq!(world.sides[B].endpoint.half_open(), 1);
    let answers: Vec<_> = world.held.as_ref().unwrap()[A].iter().map(|one| one.payload.clone()).collect();
    assert_eq!(answers.len(), 5);
    let (asked, answered) = (request.payload.len(), answers[0].len());
    assert!(answered < asked + 64, "{answered} bytes for {asked}: that would amplify a flood");
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

/// The one notify of the answer to a changed first request.
fn answer_to(change: impl FnOnce(&mut Datagram)) -> Option<(NotifyType, Vec<u8>)> {
    log();
    let mut world = World::new(1, configs(|_, _| {}));
    world.held = Some(Default::default());
    let mut request = first_request();
    change(&mut request);
    world.at(B, |endpoint, now, rng| endpoint.handle_datagram(now, request, rng));
    let answer = world.held.as_mut().and_then(|held| held[A].pop_front())?;
    let header = Header::parse(&answer.payload).unwrap();
    assert!(header.response && !header.initiator);
    let [Payload::Notify(notify)] = &payloads(&answer)[..] else { return None };
    Some((notify.kind, notify.data.to_vec()))
}

#[test]
fn errors_are_answered_as_the_rfc_says() {
    let version = answer_to(|request| request.payload[17] = 0x30);
    assert_eq!(version, Some((NotifyType::INVALID_MAJOR_VERSION, vec![])));
    let ikev1 = answer_to(|request| request.payload[17] = 0x10);
    assert_eq!(ikev1, None, "IKEv1 gets no answer");
    let unknown = answer_to(|request| request.payload[8] = 1);
    assert_eq!(unknown, Some((NotifyType::INVALID_IKE_SPI, vec![])));
    let critical = answer_to(|request| append(request, PayloadType(200), 0x80));
    assert_eq!(critical, Some((NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![200])));
    let harmless = answer_to(|request| append(request, PayloadType(200), 0));
    assert_eq!(harmless, None, "an unknown payload without the critical bit is skipped");
    let twice = answer_to(|request| {
        let nonce = Payload::Nonce(vec![7; 32].into());
        rebuild(request, |payloads| payloads.push(nonce));
    });
    assert_eq!(twice, Some((NotifyType::INVALID_SYNTAX, vec![])));
}

/// Adds an empty payload of a type that nobody knows.
fn append(datagram: &mut Datagram, kind: PayloadType, flags: u8) {
    rebuild(datagram, |payloads| payloads.push(Payload::Other(kind)));
    let critical = datagram.payload.len() - 3;
    datagram.payload[critical] = flags;
}
