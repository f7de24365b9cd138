//! The bodies of the fuzz targets of `controlplane/fuzz`, each a function of bytes. The fuzzer runs them with what it
//! makes up, and the tests below with the corpus in `controlplane/fuzz/corpus`, so that what was found once stays found.
//!
//! A body panics when something that must always hold does not. It returns a digest of all that was sent, so that a test can
//! see that nothing is left from the inputs before.

#[cfg(test)]
#[path = "../../../dataplane/src/fuzzing/corpus.rs"]
mod corpus;
mod decrypted;
mod machine;
mod message;

pub use decrypted::decrypted;
pub use machine::machine;
pub use message::message;

/// Reads an input piece by piece. Behind its end there are zeros, and in the end nothing.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn index(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// The next `len` bytes, or as many as there are.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::corpus::replay;
    use crate::crypto::{Random, Seeded};

    /// Inputs without a pattern, the same ones every time. `SPILLWAY_FUZZ_RUNS=n` makes it more of them.
    fn random(target: &str, body: fn(&[u8]) -> u64, longest: usize, runs: u64) {
        let more = std::env::var("SPILLWAY_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok());
        for seed in 0..more.unwrap_or(runs) {
            println!("{target} {seed}");
            let mut dice = Seeded(seed);
            let mut len = [0; 2];
            dice.fill(&mut len);
            let mut input = vec![0; usize::from(u16::from_be_bytes(len)) % longest];
            dice.fill(&mut input);
            body(&input);
        }
    }

    #[test]
    fn random_inputs_of_machine() {
        random("machine", super::machine, 400, 300);
    }

    #[test]
    fn random_inputs_of_decrypted() {
        random("decrypted", super::decrypted, 60, 100);
    }

    #[test]
    fn corpus_of_message() {
        replay("message", super::message);
    }

    #[test]
    fn corpus_of_decrypted() {
        replay("decrypted", super::decrypted);
    }

    #[test]
    fn corpus_of_machine() {
        replay("machine", super::machine);
    }
}
