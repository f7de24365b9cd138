//! Any bytes inside an Encrypted payload: what a peer can do that has the keys.

use std::hash::Hasher;
use std::time::Duration;

use super::Input;
use crate::crypto::repeat_key_exchanges;
use crate::endpoint::Forgery;
use crate::sim::{A, B, World, configs};
use crate::wire::{ExchangeType, PayloadType};

const SOON: Duration = Duration::from_secs(2);

/// Types of payloads that have a meaning to us.
const KINDS: [PayloadType; 15] = [
    PayloadType::SA,
    PayloadType::KE,
    PayloadType::ID_I,
    PayloadType::ID_R,
    PayloadType::CERT,
    PayloadType::CERTREQ,
    PayloadType::AUTH,
    PayloadType::NONCE,
    PayloadType::NOTIFY,
    PayloadType::DELETE,
    PayloadType::VENDOR,
    PayloadType::TS_I,
    PayloadType::TS_R,
    PayloadType::CP,
    PayloadType::EAP,
];

const EXCHANGES: [ExchangeType; 5] = [
    ExchangeType::IKE_AUTH,
    ExchangeType::CREATE_CHILD_SA,
    ExchangeType::INFORMATIONAL,
    ExchangeType::IKE_INTERMEDIATE,
    ExchangeType::IKE_FOLLOWUP_KE,
];

/// The first byte says in which state the receiver is, the second which exchange, the third the type of the first
/// payload; the rest is the payloads. Nothing panics, and both ends can be taken down to nothing afterwards.
pub fn decrypted(data: &[u8]) -> u64 {
    repeat_key_exchanges();
    let mut input = Input(data);
    let (state, exchange, first) = (input.index(10), EXCHANGES[input.index(5)], KINDS[input.index(15)]);
    let (mut world, to, response) = prepare(state);
    let forgery = Forgery { which: 0, exchange, response, first, plain: input.0.to_vec() };
    forge(&mut world, to, &forgery);
    // What was under way is lost, and is repeated.
    world.held = None;
    world.run(Duration::from_secs(100));
    take_down(&mut world);
    world.digest.finish()
}

/// Brings both ends to where the message comes: for whom, and whether it answers the request that is outstanding there.
fn prepare(state: usize) -> (World, usize, bool) {
    let hybrid = state >= 5;
    let mut world = World::new(
        1,
        configs(|_, connection| {
            connection.dpd = Some(Duration::from_secs(20));
            if hybrid {
                let keywords = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
                connection.proposals = vec![crate::proposal::Proposal::ike(keywords).expect("it is one")];
                let keywords = "aes128gcm16-x25519-ke1_mlkem512-esn";
                for child in &mut connection.children {
                    let proposals = vec![crate::proposal::Proposal::esp(keywords).expect("it is one")];
                    std::sync::Arc::make_mut(child).proposals = proposals;
                }
            }
        }),
    );
    let (to, response) = match state {
        // IKE_AUTH, or with the hybrid IKE_INTERMEDIATE, is awaited; then its response.
        0 | 5 => (B, false),
        1 => (A, true),
        // Both are established: a request; a response to a rekey of a child, and of the IKE SA.
        2 => (A, false),
        3 | 4 => (B, true),
        // A has asked for a rekey of the child, or of the IKE SA, and B awaits an additional key exchange; then its
        // response.
        6 | 7 => (B, false),
        _ => (A, true),
    };
    if state < 2 || state == 5 {
        world.held = Some(Default::default());
        world.initiate(A);
        deliver(&mut world, B);
        deliver(&mut world, A);
    } else {
        world.initiate(A);
        world.run(SOON);
        if response || hybrid {
            world.held = Some(Default::default());
            world
                .at(if hybrid { A } else { to }, |endpoint, now, rng| match state {
                    3 | 6 | 8 => endpoint.rekey_child(now, rng, "net", "lan"),
                    _ => endpoint.rekey_ike(now, rng, "net"),
                })
                .expect("it is up");
        }
        if hybrid {
            deliver(&mut world, B);
            deliver(&mut world, A);
        }
    }
    (world, to, response)
}

/// Hands over everything that is held for a side.
fn deliver(world: &mut World, to: usize) {
    while let Some(datagram) = world.held.as_mut().and_then(|held| held[to].pop_front()) {
        world.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
    }
}

/// The other end of `to` sends it an authentic message.
pub(super) fn forge(world: &mut World, to: usize, forgery: &Forgery) {
    let Some(datagram) = world.at(1 - to, |endpoint, _, rng| endpoint.forge(rng, forgery)) else { return };
    world.at(to, |endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng));
}

/// Takes everything down, whatever there is, and checks that nothing is left.
pub(super) fn take_down(world: &mut World) {
    for side in [A, B] {
        // An error says that there is nothing.
        let _down = world.at(side, |endpoint, now, rng| endpoint.terminate(now, rng, "net", None));
    }
    world.run(Duration::from_secs(2000));
    world.assert_empty();
}
