//! The portable engine: aws-lc-rs, for every suite, one packet at a time. It is also the judge of the others.

use super::engine::Engine;
use super::{EngineKey, Job, KeyError, KeyMaterial, Suite};

mod aead;

use aead::AeadKey;

/// The engine. Without state: all of it is in the keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

/// Its keys.
pub struct AwsLcKey(Kind);

enum Kind {
    Aead(AeadKey),
}

impl AwsLc {
    /// The engine.
    pub fn new() -> Self {
        Self
    }
}

impl Engine for AwsLc {
    const NAME: &'static str = "aws-lc";

    fn supports(&self, _suite: Suite) -> bool {
        true
    }

    fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError> {
        let kind = AeadKey::new(suite, esn, material.expose()).map(Kind::Aead);
        kind.map(|kind| EngineKey::AwsLc(AwsLcKey(kind))).ok_or(KeyError::Rejected { suite })
    }

    #[inline]
    fn seal(&self, jobs: &mut [Job<'_>]) {
        for job in jobs {
            job.ok = own(job).is_some_and(|kind| match kind {
                Kind::Aead(key) => key.seal(job.packet, job.seq),
            });
        }
    }

    #[inline]
    fn open(&self, jobs: &mut [Job<'_>]) {
        for job in jobs {
            job.ok = own(job).is_some_and(|kind| match kind {
                Kind::Aead(key) => key.open(job.packet, job.seq),
            });
        }
    }
}

/// The key of a job, which is this engine's in every run that [`Crypto`](super::Crypto) hands it.
#[inline]
fn own<'a>(job: &Job<'a>) -> Option<&'a Kind> {
    match job.key.engine() {
        EngineKey::AwsLc(AwsLcKey(kind)) => Some(kind),
    }
}
