//! Replays the corpus of a fuzz target of the crate that this file is compiled into; the control plane has it too.

use std::path::{Path, PathBuf};

/// Runs each input twice, among others in another order: it must do the same whatever came before it.
pub(super) fn replay(target: &str, body: fn(&[u8]) -> u64) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "no corpus for {target}");
    let run = |input: &PathBuf| {
        println!("{}", input.display());
        body(&std::fs::read(input).unwrap())
    };
    let empty = body(&[]);
    let forwards: Vec<_> = inputs.iter().map(run).collect();
    let mut backwards: Vec<_> = inputs.iter().rev().map(run).collect();
    backwards.reverse();
    assert_eq!(forwards, backwards);
    assert_eq!(empty, body(&[]));
}
