//! The portable engine: aws-lc-rs, for every suite, one packet at a time. It is also the judge of the others.

use super::engine::Engine;
use super::suite::Encryption;
use super::{AhJob, EngineKey, Job, KeyError, KeyMaterial, Suite};

mod aead;
mod ah;
mod cbc;
mod cbc_mac;
mod gmac;
mod mac;
mod separate;

use aead::AeadKey;
use ah::AhKey;
use gmac::GmacKey;
use separate::SeparateKey;

/// The engine. It has no state: all of it is in the keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

/// Its key of one SA direction. What is long is boxed: most keys are AEAD keys.
pub struct AwsLcKey(Kind);

enum Kind {
    Aead(AeadKey),
    Gmac(GmacKey),
    Separate(Box<SeparateKey>),
    Ah(AhKey),
}

impl AwsLc {
    /// The engine.
    pub fn new() -> Self {
        Self
    }

    /// Writes the ICV of every AH packet. Sets [`AhJob::ok`].
    pub fn seal_ah(&self, jobs: &mut [AhJob<'_>]) {
        for job in jobs {
            job.ok = match own(job.key.engine()) {
                Some(Kind::Ah(key)) => key.seal(job),
                _ => false,
            };
        }
    }

    /// Verifies the ICV of every AH packet. Sets [`AhJob::ok`].
    pub fn open_ah(&self, jobs: &mut [AhJob<'_>]) {
        for job in jobs {
            job.ok = match own(job.key.engine()) {
                Some(Kind::Ah(key)) => key.open(job),
                _ => false,
            };
        }
    }
}

impl Engine for AwsLc {
    const NAME: &'static str = "aws-lc";

    fn supports(&self, _suite: Suite) -> bool {
        true
    }

    fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError> {
        let material = material.expose();
        let kind = match suite.encryption() {
            None => AhKey::new(suite, esn, material).map(Kind::Ah),
            Some(Encryption::AesGmac(key)) => GmacKey::new(key, esn, material).map(Kind::Gmac),
            Some(_) if suite.is_aead() => AeadKey::new(suite, esn, material).map(Kind::Aead),
            Some(_) => SeparateKey::new(suite, esn, material).map(Box::new).map(Kind::Separate),
        };
        kind.map(|kind| EngineKey::AwsLc(AwsLcKey(kind))).ok_or(KeyError::Rejected { suite })
    }

    #[inline]
    fn seal(&self, jobs: &mut [Job<'_>]) {
        for job in jobs {
            job.ok = match own(job.key.engine()) {
                Some(Kind::Aead(key)) => key.seal(job.packet, job.seq),
                Some(Kind::Gmac(key)) => key.seal(job.packet, job.seq),
                Some(Kind::Separate(key)) => key.seal(job.packet, job.seq),
                Some(Kind::Ah(_)) | None => false,
            };
        }
    }

    #[inline]
    fn open(&self, jobs: &mut [Job<'_>]) {
        for job in jobs {
            job.ok = match own(job.key.engine()) {
                Some(Kind::Aead(key)) => key.open(job.packet, job.seq),
                Some(Kind::Gmac(key)) => key.open(job.packet, job.seq),
                Some(Kind::Separate(key)) => key.open(job.packet, job.seq),
                Some(Kind::Ah(_)) | None => false,
            };
        }
    }
}

/// The key, when it is this engine's, as it is in every run that [`Crypto`](super::Crypto) hands over.
#[inline]
fn own(key: &EngineKey) -> Option<&Kind> {
    match key {
        EngineKey::AwsLc(AwsLcKey(kind)) => Some(kind),
        EngineKey::Vaes(_) | EngineKey::CbcHmac(_) => None,
    }
}
