//! Puzzles (RFC 8019): who solves them is served while strangers flood, and a solution is good for one IKE SA.

use std::cell::RefCell;
use std::rc::Rc;

use super::cleartext::{payloads, rebuild};
use super::hostile::first_request;
use super::limits::many_prefixes;
use super::*;
use crate::crypto::Prf;
use crate::endpoint::ServedUnderAttack;
use crate::rejection::Rejection;
use crate::sa::Puzzle;
use crate::update::DownReason;
use crate::wire::{
    ExchangeType, HEADER_LEN, Header, Notify, NotifyType, Payload, PayloadType, Payloads, TransformType,
};

const SOON: Duration = Duration::from_secs(5);
/// Zero bits: a thousand keys are tried for a solution.
const DIFFICULTY: u8 = 8;

fn count(world: &World, side: usize, rejection: Rejection) -> u64 {
    world.sides[side].endpoint.counters().get(rejection)
}

fn is_up(world: &World) -> bool {
    world.has_event(A, |event| matches!(event, Event::IkeUp { .. }))
}

/// B gives puzzles from the first request on, and serves nobody who does not solve one.
fn world(limit: impl Fn(usize, &mut Config)) -> World {
    log();
    let mut configs = configs(|_, _| {});
    for side in [A, B] {
        let limits = &mut configs[side].limits;
        (limits.cookie_threshold, limits.puzzle_threshold) = (0, Some(0));
        (limits.puzzle_difficulty, limits.puzzle_difficulty_max) = (DIFFICULTY, DIFFICULTY);
        limits.puzzle_unsolved_per_second = 0;
        limit(side, &mut configs[side]);
    }
    World::new(1, configs)
}

/// The puzzle, the cookie and the solution in a message.
fn parts(datagram: &Datagram) -> (Option<Puzzle>, Vec<u8>, Option<Vec<u8>>) {
    let (mut puzzle, mut cookie, mut solution) = (None, Vec::new(), None);
    for payload in payloads(datagram) {
        match payload {
            Payload::Notify(notify) if notify.kind == NotifyType::PUZZLE => {
                puzzle = Puzzle::from_notify(&notify);
            }
            Payload::Notify(notify) if notify.kind == NotifyType::COOKIE => cookie = notify.data.to_vec(),
            Payload::PuzzleSolution(keys) => solution = Some(keys.to_vec()),
            _ => {}
        }
    }
    (puzzle, cookie, solution)
}

/// Changes what B says as long as it asks for puzzles.
fn rewrite_puzzles(world: &mut World, change: impl Fn(&mut Vec<Payload<'static>>) + 'static) {
    world.rewrite[B] = Some(Box::new(move |datagram| {
        let header = Header::parse(&datagram.payload).unwrap();
        if header.exchange == ExchangeType::IKE_SA_INIT && header.spi_r == 0 {
            rebuild(datagram, &change);
        }
    }));
}

fn is_puzzle(payload: &Payload<'_>) -> bool {
    matches!(payload, Payload::Notify(notify) if notify.kind == NotifyType::PUZZLE)
}

fn set_difficulty(to: u8) -> impl Fn(&mut Vec<Payload<'static>>) {
    move |payloads| {
        for payload in payloads {
            if let Payload::Notify(notify) = payload
                && notify.kind == NotifyType::PUZZLE
            {
                notify.data.to_mut()[2] = to;
            }
        }
    }
}

fn deliver(world: &mut World, to: usize, datagram: Datagram) {
    world.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
}

fn held(world: &mut World, to: usize) -> Option<Datagram> {
    world.held.as_mut().and_then(|held| held[to].pop_front())
}

/// A world in which A has solved B's puzzle, and the request with the solution, which B does not have yet.
fn solved() -> (World, Datagram) {
    let mut world = world(|_, _| {});
    world.held = Some(Default::default());
    world.initiate(A);
    let request = held(&mut world, B).unwrap();
    deliver(&mut world, B, request);
    let answer = held(&mut world, A).unwrap();
    assert!(answer.payload.len() < 128, "{} bytes: that would amplify a flood", answer.payload.len());
    deliver(&mut world, A, answer);
    world.run(Duration::from_millis(100));
    let request = held(&mut world, B).unwrap();
    (world, request)
}

#[test]
fn an_initiator_that_solves_its_puzzle_comes_through_a_flood() {
    let mut world = world(|side, config| {
        if side == B {
            (config.limits.cookie_threshold, config.limits.puzzle_threshold) = (4, Some(8));
        }
    });
    // Strangers at their true addresses: each gets its cookie back to us, and none of them computes anything.
    world.held = Some(Default::default());
    for number in 1..=200_u16 {
        let mut request = first_request();
        request.payload[..8].copy_from_slice(&u64::from(number).to_be_bytes());
        request.remote.set_port(20_000 + number);
        deliver(&mut world, B, request.clone());
        let answer = held(&mut world, A).unwrap();
        let (_, cookie, _) = parts(&answer);
        if !cookie.is_empty() {
            let cookie = Payload::Notify(Notify::new(NotifyType::COOKIE, cookie));
            rebuild(&mut request, |payloads| payloads.insert(0, cookie));
            deliver(&mut world, B, request);
        }
        world.held = Some(Default::default());
    }
    assert_eq!(world.sides[B].endpoint.half_open(), 8);
    assert_eq!(count(&world, B, Rejection::CookieRequired), 4);
    assert_eq!(count(&world, B, Rejection::PuzzleRequired), 192);
    assert_eq!(count(&world, B, Rejection::PuzzleMissing), 192);
    world.held = None;
    world.initiate(A);
    world.run(SOON);
    world.assert_agreement_of_established(&["lan"]);
    assert_eq!(count(&world, B, Rejection::PuzzleRequired), 193);
    assert_eq!(count(&world, B, Rejection::PuzzleWrong), 0);
    assert_eq!(world.sides[B].endpoint.served_under_attack(), ServedUnderAttack { solved: 1, by_lot: 0 });
    world.run(Duration::from_secs(60));
    world.assert_agreement(&["lan"]);
}

/// It takes PUZZLE for a notify that it does not know.
#[test]
fn an_initiator_that_knows_no_puzzles_comes_through_by_lot() {
    for (most, up) in [(1, true), (0, false)] {
        let mut world = world(|_, config| config.limits.puzzle_unsolved_per_second = most);
        rewrite_puzzles(&mut world, |payloads| payloads.retain(|payload| !is_puzzle(payload)));
        world.initiate(A);
        world.run(SOON);
        assert_eq!(is_up(&world), up);
        assert_eq!(count(&world, B, Rejection::PuzzleRequired), 1);
        assert_eq!(count(&world, B, Rejection::PuzzleMissing) > 0, !up);
        let served = world.sides[B].endpoint.served_under_attack();
        assert_eq!(served, ServedUnderAttack { solved: 0, by_lot: most.into() });
    }
}

/// Who shows no cookie has no place in the lottery (RFC 8019 s7.1).
#[test]
fn nobody_is_served_by_lot_without_a_cookie() {
    let mut world = world(|_, config| config.limits.puzzle_unsolved_per_second = 1000);
    world.held = Some(Default::default());
    for cookie in [None, Some(vec![7; 24])] {
        let mut request = first_request();
        let cookie = cookie.map(|cookie| Payload::Notify(Notify::new(NotifyType::COOKIE, cookie)));
        rebuild(&mut request, |payloads| payloads.splice(..0, cookie).for_each(drop));
        deliver(&mut world, B, request);
        assert!(parts(&held(&mut world, A).unwrap()).0.is_some());
    }
    assert_eq!(world.sides[B].endpoint.half_open(), 0);
    assert_eq!(count(&world, B, Rejection::Cookie), 1);
}

#[test]
fn a_solution_is_good_for_one_half_open_ike_sa() {
    let (mut world, request) = solved();
    let (_, cookie, solution) = parts(&request);
    let puzzle = Puzzle { prf: Prf::HmacSha384, difficulty: DIFFICULTY };
    assert!(puzzle.is_solved(&solution.unwrap(), &cookie));
    let other_port = {
        let mut request = request.clone();
        request.remote.set_port(501);
        request
    };
    deliver(&mut world, B, other_port);
    assert_eq!((count(&world, B, Rejection::Cookie), world.sides[B].endpoint.half_open()), (1, 0));
    world.held = Some(Default::default());
    deliver(&mut world, B, request.clone());
    assert_eq!(world.sides[B].endpoint.half_open(), 1);
    let answer = held(&mut world, A).unwrap();
    // Lost on the way, and sent again: that costs nothing.
    deliver(&mut world, B, request.clone());
    assert_eq!(held(&mut world, A).unwrap().payload, answer.payload);
    // With another value, which would cost us a key pair.
    let mut again = request.clone();
    rebuild(&mut again, |payloads| {
        for payload in payloads {
            if let Payload::Ke(ke) = payload {
                ke.data.to_mut()[0] ^= 1;
            }
        }
    });
    deliver(&mut world, B, again.clone());
    assert!(held(&mut world, A).is_none());
    assert_eq!((count(&world, B, Rejection::PuzzleSpent), world.sides[B].endpoint.half_open()), (1, 1));
    // And when nobody is half open any more, the cookie is too old.
    world.at(A, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None)).unwrap();
    world.run(Duration::from_secs(31));
    assert_eq!(world.sides[B].endpoint.half_open(), 0);
    deliver(&mut world, B, again);
    assert_eq!((count(&world, B, Rejection::Cookie), world.sides[B].endpoint.half_open()), (2, 0));
}

#[test]
fn what_does_not_solve_the_puzzle_gets_another_one() {
    let (mut world, request) = solved();
    let solution = parts(&request).2.unwrap();
    let mut repeated = solution.clone();
    repeated.copy_within(..4, 12);
    let mut bent = solution.clone();
    bent[15] ^= 1;
    for (number, keys) in [repeated, bent, solution[..12].to_vec(), vec![0; 4 * 48]].into_iter().enumerate() {
        let mut request = request.clone();
        rebuild(&mut request, |payloads| payloads[1] = Payload::PuzzleSolution(keys.into()));
        deliver(&mut world, B, request);
        assert_eq!(count(&world, B, Rejection::PuzzleWrong), number as u64 + 1);
        assert!(parts(&held(&mut world, A).unwrap()).0.is_some());
    }
    assert_eq!(world.sides[B].endpoint.half_open(), 0);
    let mut cut = request.clone();
    rebuild(&mut cut, |payloads| payloads[1] = Payload::PuzzleSolution(vec![1; 15].into()));
    deliver(&mut world, B, cut);
    assert_eq!(count(&world, B, Rejection::Malformed), 1);
    deliver(&mut world, B, request);
    assert_eq!(world.sides[B].endpoint.half_open(), 1);
}

/// Somebody on the way makes it easier: what counts is in the cookie.
#[test]
fn an_easier_puzzle_than_was_given_does_not_count() {
    let mut world = world(|_, _| {});
    rewrite_puzzles(&mut world, set_difficulty(1));
    world.initiate(A);
    world.run(SOON);
    assert!(!is_up(&world));
    assert!(count(&world, B, Rejection::PuzzleWrong) > 1);
    assert_eq!(world.sides[B].endpoint.half_open(), 0);
}

/// RFC 8019 s7.1.1.1: then we do what we would ask for.
#[test]
fn a_responder_may_leave_the_difficulty_to_us() {
    for (ours, up) in [(DIFFICULTY, true), (0, false)] {
        let mut world = world(|side, config| {
            if side == A {
                config.limits.puzzle_difficulty = ours;
            }
        });
        rewrite_puzzles(&mut world, set_difficulty(0));
        world.initiate(A);
        world.run(SOON);
        assert_eq!(is_up(&world), up);
    }
}

/// RFC 8019 s7.1.2: then we go on without a solution, and may be lucky.
#[test]
fn a_puzzle_that_is_too_hard_is_not_solved() {
    for (most, lot, up) in [(DIFFICULTY, 0, true), (DIFFICULTY - 1, 0, false), (DIFFICULTY - 1, 1, true)] {
        let mut world = world(|_, config| {
            config.limits.puzzle_solve = most;
            config.limits.puzzle_unsolved_per_second = lot;
        });
        world.initiate(A);
        world.run(SOON);
        assert_eq!(is_up(&world), up);
        assert_eq!(count(&world, A, Rejection::PuzzleUnsolved) > 0, most < DIFFICULTY);
        assert_eq!(count(&world, B, Rejection::PuzzleMissing) > 0, !up);
    }
}

/// RFC 8019 s7.1.2: it is ignored.
#[test]
fn a_puzzle_without_a_cookie_is_no_answer() {
    let mut world = world(|_, _| {});
    rewrite_puzzles(&mut world, |payloads| payloads.retain(is_puzzle));
    world.initiate(A);
    world.run(Duration::from_secs(1));
    assert!(count(&world, A, Rejection::Syntax) > 1, "and the request is repeated");
    world.rewrite[B] = None;
    world.run(SOON);
    assert!(is_up(&world));
}

#[test]
fn without_a_common_prf_there_is_no_puzzle() {
    let mut world = world(|_, _| {});
    world.held = Some(Default::default());
    let mut request = first_request();
    rebuild(&mut request, |payloads| {
        for payload in payloads {
            if let Payload::Sa(proposals) = payload {
                proposals[0].transforms.retain(|one| one.kind != TransformType::PRF);
            }
        }
    });
    deliver(&mut world, B, request);
    let answer = held(&mut world, A).unwrap();
    assert!(
        matches!(&payloads(&answer)[..], [Payload::Notify(one)] if one.kind == NotifyType::NO_PROPOSAL_CHOSEN)
    );
    assert_eq!(count(&world, B, Rejection::NoProposal), 1);
}

/// The thread of the initiator never waits for a puzzle: between two slices there is time for everything else, and
/// whoever sends more puzzles meanwhile gets nothing for it.
#[test]
fn puzzles_are_solved_in_slices() {
    let hard = DIFFICULTY + 6;
    let mut world = world(|_, config| config.limits.puzzle_difficulty_max = hard);
    rewrite_puzzles(&mut world, set_difficulty(hard));
    world.held = Some(Default::default());
    world.initiate(A);
    let request = held(&mut world, B).unwrap();
    deliver(&mut world, B, request);
    let answer = held(&mut world, A).unwrap();
    deliver(&mut world, A, answer.clone());
    let mut slices = 0;
    while held(&mut world, B).is_none() {
        let at = world.sides[A].endpoint.next_deadline().unwrap();
        assert!(slices == 0 || at > world.now, "it wants to go on at once");
        world.now = at;
        world.at(A, |endpoint, now, rng| endpoint.handle_timeout(now, rng));
        deliver(&mut world, A, answer.clone());
        slices += 1;
    }
    assert!((5..1000).contains(&slices), "{slices} slices for four keys of {hard} bits");
    assert!(count(&world, A, Rejection::Unsolicited) >= slices - 1);
}

type Seen = Rc<RefCell<Vec<Datagram>>>;

/// B asks for another puzzle before IKE_AUTH, which it would never do by itself. Also all that A sends.
fn before_auth(
    difficulty: u8,
    change: impl Fn(usize, &mut Connection),
    limit: impl Fn(&mut Config),
) -> (World, Seen) {
    log();
    let mut configs = configs(change);
    limit(&mut configs[A]);
    let mut world = World::new(1, configs);
    world.sides[B].endpoint.bend(Some(Box::new(move |exchange, response, payloads| {
        if exchange == ExchangeType::IKE_SA_INIT && response {
            let puzzle = Puzzle { prf: Prf::HmacSha256, difficulty };
            payloads.push(Payload::Notify(puzzle.to_notify()));
        }
    })));
    let seen = Seen::default();
    let keep = seen.clone();
    world.filter = Some(Box::new(move |side, datagram| {
        if side == A || datagram.payload[18] == ExchangeType::IKE_SA_INIT.0 {
            keep.borrow_mut().push(datagram.clone());
        }
        true
    }));
    world.initiate(A);
    world.run(SOON);
    (world, seen)
}

/// Types and bodies of the payloads of a message, up to the Encrypted one.
fn outside(datagram: &Datagram) -> Vec<(PayloadType, Vec<u8>)> {
    let header = Header::parse(&datagram.payload).unwrap();
    let all = Payloads::new(header.next_payload, &datagram.payload[HEADER_LEN..], HEADER_LEN);
    all.map(|raw| raw.map(|raw| (raw.kind, raw.body.to_vec())).unwrap()).collect()
}

#[test]
fn a_puzzle_before_ike_auth_is_solved_outside_of_the_encrypted_payload() {
    for fragmented in [false, true] {
        let (world, seen) = if fragmented {
            before_auth(DIFFICULTY, many_prefixes, |_| {})
        } else {
            before_auth(DIFFICULTY, |_, _| {}, |_| {})
        };
        world.assert_agreement(&["lan"]);
        let seen = seen.borrow();
        let of = |exchange: ExchangeType| seen.iter().filter(move |one| one.payload[18] == exchange.0);
        let answer = of(ExchangeType::IKE_SA_INIT).nth(1).unwrap();
        let nonce = payloads(answer).into_iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.to_vec()),
            _ => None,
        });
        let string = [nonce.unwrap().as_slice(), &answer.payload[8..16]].concat();
        let requests: Vec<_> = of(ExchangeType::IKE_AUTH).map(outside).collect();
        assert_eq!(requests.len() > 1, fragmented);
        let [(PayloadType::PS, keys), (encrypted, _)] = &requests[0][..] else { panic!("{requests:?}") };
        assert_eq!(*encrypted, if fragmented { PayloadType::SKF } else { PayloadType::SK });
        assert!(Puzzle { prf: Prf::HmacSha256, difficulty: DIFFICULTY }.is_solved(keys, &string));
        assert!(requests[1..].iter().all(|request| request[0].0 == PayloadType::SKF));
        assert!(of(ExchangeType::IKE_AUTH).all(|one| one.payload.len() <= 576));
    }
}

#[test]
fn a_puzzle_before_ike_auth_that_is_too_hard_ends_the_attempt() {
    let (world, _) = before_auth(DIFFICULTY, |_, _| {}, |config| config.limits.puzzle_solve = DIFFICULTY - 1);
    let why = "its puzzle of difficulty 8 is more than `ike.limits.puzzle_solve`, 7";
    let told = |event: &Event| matches!(event, Event::IkeDown { reason: DownReason::Failed(reason), .. } if reason.contains(why));
    assert!(world.has_event(A, told));
    assert_eq!(count(&world, A, Rejection::PuzzleUnsolved), 1);
}
