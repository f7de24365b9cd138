//! Why no proposal was chosen, in words that an operator can act on.

use std::fmt;

use super::words::REFUSED;
use super::{Proposal, combine};
use crate::wire::{self, Transform, TransformType};

/// No proposal was chosen: both sides, and what is missing in the pair that came closest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoMatch {
    /// What we accept, one entry a proposal.
    pub ours: Vec<String>,
    /// What the peer offered or chose.
    pub theirs: Vec<String>,
    /// The transform types without a common transform, in the pair of proposals that came closest.
    pub missing: Vec<Missing>,
}

/// A transform type on which two proposals have nothing in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The type.
    pub kind: TransformType,
    /// Our transforms of it.
    pub ours: Vec<String>,
    /// The peer's.
    pub theirs: Vec<String>,
}

impl fmt::Display for NoMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no proposal chosen: we accept {}; peer has {}", list(&self.ours), list(&self.theirs))?;
        for missing in &self.missing {
            let (ours, theirs) = (list(&missing.ours), list(&missing.theirs));
            write!(f, "; no common {}: ours {ours}, theirs {theirs}", missing.kind)?;
        }
        Ok(())
    }
}

impl std::error::Error for NoMatch {}

/// Of all pairs of the same protocol, reports the one that disagrees on the fewest types.
pub(super) fn explain(ours: &[Proposal], theirs: &[wire::Proposal]) -> NoMatch {
    let pairs = ours.iter().flat_map(|our| theirs.iter().map(move |their| (our, their)));
    let closest = pairs
        .filter(|(our, their)| our.protocol() == their.protocol)
        .map(|(our, their)| missing(our, their))
        .min_by_key(Vec::len);
    NoMatch {
        ours: ours.iter().map(ToString::to_string).collect(),
        theirs: theirs.iter().map(ToString::to_string).collect(),
        missing: closest.unwrap_or_default(),
    }
}

/// Every type that stands in the way: found by dropping it from both sides and trying again.
fn missing(our: &Proposal, their: &wire::Proposal) -> Vec<Missing> {
    let (mut our, mut their) = (our.clone(), their.clone());
    let mut missing = Vec::new();
    while let Err(kind) = combine(&our, &their) {
        let take = |transforms: &mut Vec<Transform>, show: fn(Transform) -> String| {
            transforms.extract_if(.., |transform| transform.kind == kind).map(show).collect()
        };
        let ours = take(&mut our.transforms, |one| one.to_string());
        let theirs = take(&mut their.transforms, with_reason);
        missing.push(Missing { kind, ours, theirs });
    }
    missing
}

/// An algorithm of the peer, and why it is never accepted if that is so.
fn with_reason(theirs: Transform) -> String {
    let is_it = |kind, id| (kind, id) == (theirs.kind, Some(theirs.id));
    let mut refused = REFUSED.iter().filter(|(_, kind, id, _)| is_it(*kind, *id));
    refused.next().map_or_else(|| theirs.to_string(), |(.., why)| format!("{theirs} (refused: {why})"))
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "nothing".into() } else { items.join(", ") }
}
