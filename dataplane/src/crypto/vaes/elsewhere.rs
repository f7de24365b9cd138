//! The engines where there is no x86-64: they are never there.

use crate::crypto::engine::Engine;
use crate::crypto::{EngineChoice, EngineError, EngineKey, Job, Key, KeyError, KeyMaterial, Suite};

/// The engine that was chosen. Cannot exist.
#[derive(Clone, Copy, Debug)]
pub enum Fastest {}

/// Its keys. Cannot exist.
pub enum VaesKey {}

impl Fastest {
    /// `None` when none was asked for.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when one was.
    pub fn new(choice: EngineChoice) -> Result<Option<Self>, EngineError> {
        match choice {
            EngineChoice::AwsLc | EngineChoice::Auto => Ok(None),
            _ => {
                let reason = "the CPU is not an x86-64".to_owned();
                Err(EngineError::Unavailable { engine: "vaes", reason })
            }
        }
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn prove<J: Engine>(&self, _: &J) -> Result<(), EngineError> {
        match *self {}
    }

    /// Never called.
    pub fn name(&self) -> &'static str {
        match *self {}
    }

    /// Never called.
    pub fn supports(&self, _: Suite) -> bool {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn key(&self, _: Suite, _: bool, _: &KeyMaterial) -> Result<Key, KeyError> {
        match *self {}
    }

    /// Never called.
    pub fn prefetch(&self, _: &EngineKey, _: usize) {
        match *self {}
    }

    /// Never called.
    pub fn seal(&self, _: &mut [Job<'_>]) {
        match *self {}
    }

    /// Never called.
    pub fn open(&self, _: &mut [Job<'_>]) {
        match *self {}
    }
}
