//! Keeps a datagram back until every worker accepts packets on the Child SA that it tells the peer of.
//!
//! What waits is one path, so other IKE SAs go on. All that follows on that path waits too: a repetition of the same
//! response must not slip past it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use dataplane::message::Datagram;

/// Datagrams that wait for barriers. Barriers are numbered upwards, and opened in that order.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    held: BTreeMap<u64, Vec<Datagram>>,
    /// The last barrier that each path waits for.
    paths: HashMap<(SocketAddr, SocketAddr), u64>,
}

impl Gate {
    /// Gives the datagram back when it may go, or keeps it: behind `barrier`, or behind what its path waits for.
    pub fn pass(&mut self, barrier: Option<u64>, datagram: Datagram) -> Option<Datagram> {
        let path = (datagram.local, datagram.remote);
        if let Some(barrier) = barrier {
            self.paths.insert(path, barrier);
        }
        let Some(&after) = self.paths.get(&path) else { return Some(datagram) };
        self.held.entry(after).or_default().push(datagram);
        None
    }

    /// Everything before the barrier is in force: what waited for it may go.
    pub fn open(&mut self, barrier: u64) -> impl Iterator<Item = Datagram> + use<> {
        let later = self.held.split_off(&(barrier + 1));
        let free = std::mem::replace(&mut self.held, later);
        self.paths.retain(|_, after| *after > barrier);
        free.into_values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(peer: u8, text: &str) -> Datagram {
        Datagram {
            local: ([198, 51, 100, 1], 500).into(),
            remote: ([198, 51, 100, peer], 500).into(),
            payload: text.as_bytes().to_vec(),
        }
    }

    fn open(gate: &mut Gate, barrier: u64) -> Vec<String> {
        gate.open(barrier).map(|one| String::from_utf8(one.payload).unwrap()).collect()
    }

    #[test]
    fn one_peer_waits_and_the_others_do_not() {
        let mut gate = Gate::default();
        assert!(gate.pass(Some(1), datagram(2, "response")).is_none());
        assert!(gate.pass(None, datagram(3, "other")).is_some());
        assert!(
            gate.pass(None, datagram(2, "repeated response")).is_none(),
            "it must not overtake the first"
        );
        assert_eq!(open(&mut gate, 1), ["response", "repeated response"]);
        assert!(gate.pass(None, datagram(2, "later")).is_some());
    }

    #[test]
    fn barriers_open_up_to_their_number() {
        let mut gate = Gate::default();
        for (barrier, peer, text) in [(1, 2, "a"), (2, 3, "b"), (3, 2, "c")] {
            assert!(gate.pass(Some(barrier), datagram(peer, text)).is_none());
        }
        assert!(gate.pass(None, datagram(3, "d")).is_none());
        assert_eq!(open(&mut gate, 1), ["a"]);
        assert!(gate.pass(None, datagram(2, "e")).is_none(), "peer 2 still waits for barrier 3");
        assert_eq!(open(&mut gate, 3), ["b", "d", "c", "e"]);
        assert_eq!(open(&mut gate, 9), [""; 0]);
        assert!(gate.held.is_empty() && gate.paths.is_empty());
    }
}
