//! Any bytes as a message.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Instant;

use dataplane::message::Datagram;

use crate::Endpoint;
use crate::config::Config;
use crate::crypto::{Seeded, repeat_key_exchanges};
use crate::sim::{A, B, configs, socket, wall_clock};
use crate::wire::{Encrypted, HEADER_LEN, Header, MessageLimits, Payload, emit_chain, parse_chain};

thread_local!(static CONFIGS: RefCell<Option<[Arc<Config>; 2]>> = const { RefCell::new(None) });

/// What parses means the same after it was written again, and whatever it is, a gateway that knows nobody keeps at
/// most one half-open IKE SA for it and sends at most one answer; under attack it keeps none, since no bytes solve a puzzle
/// that was never given.
pub fn message(data: &[u8]) -> u64 {
    repeat_key_exchanges();
    parse(data);
    let configs = CONFIGS.with_borrow_mut(|both| {
        let fresh = || {
            let [mut attacked, quiet] = [(); 2].map(|()| {
                let [_, b] = configs(|_, _| {});
                b
            });
            (attacked.limits.cookie_threshold, attacked.limits.puzzle_threshold) = (0, Some(0));
            attacked.limits.puzzle_unsolved_per_second = 0;
            [attacked, quiet].map(Arc::new)
        };
        both.get_or_insert_with(fresh).clone()
    });
    let [(_, kept), (digest, _)] = configs.map(|config| serve(config, data));
    assert_eq!(kept, 0, "a stranger was served without solving a puzzle");
    digest
}

/// What the gateway answers, and how many half-open IKE SAs it keeps.
fn serve(config: Arc<Config>, data: &[u8]) -> (u64, usize) {
    let now = Instant::now();
    let (mut endpoint, mut rng) = (Endpoint::new(config, wall_clock(now)), Seeded(1));
    let datagram = Datagram { local: socket(B, 500), remote: socket(A, 500), payload: data.to_vec() };
    endpoint.handle_datagram(now, datagram, &mut rng);
    let answers: Vec<_> = std::iter::from_fn(|| endpoint.poll_transmit()).collect();
    assert!(answers.len() <= 1 && endpoint.half_open() <= answers.len());
    let kept = endpoint.half_open();
    assert!(endpoint.poll_sa_update().is_none(), "a stranger changed a Child SA");
    let mut digest = DefaultHasher::new();
    for answer in answers {
        digest.write(&answer.payload);
        let header = Header::parse(&answer.payload).expect("what we send parses");
        parse_chain(
            header.next_payload,
            &answer.payload[HEADER_LEN..],
            HEADER_LEN,
            &MessageLimits::default(),
        )
        .expect("and its payloads");
    }
    while let Some(deadline) = endpoint.next_deadline() {
        endpoint.handle_timeout(deadline, &mut rng);
    }
    assert!(endpoint.is_empty(), "state is left behind");
    (digest.finish(), kept)
}

fn parse(data: &[u8]) {
    let Ok(header) = Header::parse(data) else { return };
    assert_eq!(Header::parse(&[&header.emit(data.len()), &data[HEADER_LEN..]].concat()), Ok(header));
    if let Ok(Encrypted::Sk { body_at, .. } | Encrypted::Skf { body_at, .. }) = Encrypted::find(&header, data)
    {
        assert!((HEADER_LEN..=data.len()).contains(&body_at));
    }
    let Ok(mut payloads) =
        parse_chain(header.next_payload, &data[HEADER_LEN..], HEADER_LEN, &MessageLimits::default())
    else {
        return;
    };
    for payload in &mut payloads {
        if let Payload::Sa(proposals) = payload {
            // That there was an attribute which we do not know is noted and not kept, and we never send one.
            let transforms = proposals.iter_mut().flat_map(|proposal| &mut proposal.transforms);
            transforms.for_each(|transform| transform.unknown_attribute = None);
        }
    }
    let mut again = Vec::new();
    let first = emit_chain(&payloads, &mut again).expect("what came in a message fits one");
    assert_eq!(parse_chain(first, &again, HEADER_LEN, &MessageLimits::default()).as_ref(), Ok(&payloads));
}
