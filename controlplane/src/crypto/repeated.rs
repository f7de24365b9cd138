//! Key exchanges that repeat themselves: for fuzzing alone, where a run must do what it did before, and fast. Private values are
//! the same in every run of a thread, and what was computed once is remembered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::kem;

use super::kex::{self, Response};
use super::{CryptoError, Group, KeyExchange, Secret};

/// Results that are remembered at most. Those that every run needs come first.
const MOST: usize = 4096;

thread_local!(static REPEATED: RefCell<Option<Repeated>> = const { RefCell::new(None) });

#[derive(Default)]
struct Repeated {
    /// The private values of a run, in the order in which it asks for them.
    own: HashMap<Group, Vec<Arc<KeyExchange>>>,
    /// How many the run has had.
    taken: HashMap<Group, usize>,
    /// By both public values.
    shared: HashMap<(Vec<u8>, Vec<u8>), Result<Secret, CryptoError>>,
    responses: HashMap<Vec<u8>, Response>,
}

/// From here on the key exchanges of this thread are those of the run before, from the first one on.
pub(crate) fn repeat_key_exchanges() {
    REPEATED.with_borrow_mut(|repeated| repeated.get_or_insert_default().taken.clear());
}

pub(super) fn generate(group: Group) -> Option<Result<KeyExchange, CryptoError>> {
    REPEATED.with_borrow_mut(|repeated| {
        let Repeated { own, taken, .. } = repeated.as_mut()?;
        let (own, taken) = (own.entry(group).or_default(), taken.entry(group).or_default());
        if *taken == own.len() {
            match KeyExchange::fresh(group) {
                Ok(fresh) => own.push(Arc::new(fresh)),
                Err(error) => return Some(Err(error)),
            }
        }
        *taken += 1;
        Some(Ok(KeyExchange::repeat(Arc::clone(&own[*taken - 1]))))
    })
}

pub(super) fn finish(own: &KeyExchange, peer_public: &[u8]) -> Result<Secret, CryptoError> {
    REPEATED.with_borrow_mut(|repeated| {
        let Some(Repeated { shared, .. }) = repeated else { return own.finish(peer_public) };
        let key = (own.public().to_vec(), peer_public.to_vec());
        if let Some(known) = shared.get(&key) {
            return known.clone();
        }
        let result = own.finish(peer_public);
        if shared.len() < MOST {
            shared.insert(key, result.clone());
        }
        result
    })
}

pub(super) fn encapsulate(
    group: Group,
    algorithm: &'static kem::Algorithm<kem::AlgorithmId>,
    peer_public: &[u8],
) -> Option<Result<Response, CryptoError>> {
    REPEATED.with_borrow_mut(|repeated| {
        let Repeated { responses, .. } = repeated.as_mut()?;
        if let Some(known) = responses.get(peer_public) {
            return Some(Ok(known.clone()));
        }
        let result = kex::encapsulate(group, algorithm, peer_public);
        if let Ok(response) = &result
            && responses.len() < MOST
        {
            responses.insert(peer_public.to_vec(), response.clone());
        }
        Some(result)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An exchange in each group and the values on the wire, twice.
    #[test]
    fn runs_repeat_each_other_and_both_ends_agree() {
        let run = || {
            repeat_key_exchanges();
            let one = |group| {
                let own = KeyExchange::generate(group).unwrap();
                let response = kex::respond(group, own.public()).unwrap();
                assert_eq!(own.finish(&response.public).unwrap(), response.shared, "{group}");
                (own.public().to_vec(), response.public)
            };
            [Group::X25519, Group::Ecp256, Group::MlKem512, Group::X25519].map(one)
        };
        let first = run();
        assert_ne!(first[0], first[3], "a run has each private value once");
        assert_eq!(first, run());
    }

    #[test]
    fn nobody_who_does_not_ask_for_it_gets_a_value_twice() {
        let of_a_thread =
            || std::thread::spawn(|| KeyExchange::generate(Group::X25519).unwrap().public().to_vec());
        let values = [(); 2].map(|()| of_a_thread().join().unwrap());
        assert_ne!(values[0], values[1]);
        let own = KeyExchange::generate(Group::X25519).unwrap();
        assert_ne!(own.public(), KeyExchange::generate(Group::X25519).unwrap().public());
    }

    #[test]
    fn a_bad_value_is_refused_again_and_again() {
        repeat_key_exchanges();
        let own = KeyExchange::generate(Group::X25519).unwrap();
        for _ in 0..2 {
            assert_eq!(own.finish(&[0; 32]), Err(CryptoError::PublicValue { group: Group::X25519 }));
        }
    }
}
