//! The choice of a tier.

use super::{AesNi, Avx2, Avx512, Tier, Vaes, key};
use crate::crypto::engine::Engine;
use crate::crypto::{
    EngineChoice, EngineError, EngineKey, Job, Key, KeyError, KeyMaterial, Suite, self_test,
};

/// The engine of the tier that was chosen.
#[derive(Clone, Copy, Debug)]
pub enum Fastest {
    /// Of [`Avx512`].
    Avx512(Vaes<Avx512>),
    /// Of [`Avx2`].
    Avx2(Vaes<Avx2>),
    /// Of [`AesNi`].
    AesNi(Vaes<AesNi>),
}

/// Does the same with the engine of whatever tier.
macro_rules! each {
    ($fastest:expr, $engine:ident => $do:expr) => {
        match $fastest {
            Fastest::Avx512($engine) => $do,
            Fastest::Avx2($engine) => $do,
            Fastest::AesNi($engine) => $do,
        }
    };
}

impl Fastest {
    /// The fastest tier that is allowed and that the CPU has; `None` when there is none and none was asked for.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when the CPU has not what was asked for.
    pub fn new(choice: EngineChoice) -> Result<Option<Self>, EngineError> {
        let avx512 = || Vaes::new().map(Self::Avx512).map_err(missing::<Avx512>);
        let avx2 = || Vaes::new().map(Self::Avx2).map_err(missing::<Avx2>);
        let aes_ni = || Vaes::new().map(Self::AesNi).map_err(missing::<AesNi>);
        match choice {
            EngineChoice::AwsLc => Ok(None),
            EngineChoice::Auto => Ok(avx512().or_else(|_| avx2()).or_else(|_| aes_ni()).ok()),
            EngineChoice::Vaes => avx512().or_else(|_| avx2()).map(Some),
            EngineChoice::VaesAvx512 => avx512().map(Some),
            EngineChoice::VaesAvx2 => avx2().map(Some),
            EngineChoice::AesNi => aes_ni().map(Some),
        }
    }

    /// Puts the engine to its self-tests.
    ///
    /// # Errors
    /// [`EngineError::SelfTest`] names what it did wrong.
    pub fn prove<J: Engine>(&self, judge: &J) -> Result<(), EngineError> {
        each!(self, engine => {
            self_test::esp(engine)?;
            engine.agrees_with(judge)
        })
    }

    /// [`Engine::NAME`].
    pub fn name(&self) -> &'static str {
        each!(self, engine => name(engine))
    }

    /// See [`Engine::supports`].
    pub fn supports(&self, suite: Suite) -> bool {
        each!(self, engine => engine.supports(suite))
    }

    /// See [`Key::with_engine`].
    ///
    /// # Errors
    /// What [`Key::with_engine`] refuses.
    pub fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<Key, KeyError> {
        each!(self, engine => Key::with_engine(engine, suite, esn, material))
    }

    /// Asks for what a packet of `len` bytes needs of a key of this engine.
    #[inline]
    pub fn prefetch(&self, key: &EngineKey, len: usize) {
        key::prefetch(key, len);
    }

    /// See [`Engine::seal`].
    #[inline]
    pub fn seal(&self, jobs: &mut [Job<'_>]) {
        each!(self, engine => engine.seal(jobs));
    }

    /// See [`Engine::open`].
    #[inline]
    pub fn open(&self, jobs: &mut [Job<'_>]) {
        each!(self, engine => engine.open(jobs));
    }
}

fn missing<T: Tier>(reason: String) -> EngineError {
    EngineError::Unavailable { engine: T::NAME, reason }
}

fn name<E: Engine>(_: &E) -> &'static str {
    E::NAME
}
