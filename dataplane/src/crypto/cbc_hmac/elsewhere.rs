//! The engine where there is no x86-64: it is never there.

use crate::crypto::engine::Engine;
use crate::crypto::{EngineError, EngineKey, Job, KeyError, KeyMaterial, Suite};

/// The engine. Cannot exist.
#[derive(Clone, Copy, Debug)]
pub enum CbcHmac {}

/// Its keys. Cannot exist.
pub enum CbcHmacKey {}

impl CbcHmac {
    /// Why not.
    ///
    /// # Errors
    /// Always.
    pub fn new() -> Result<Self, String> {
        Err("the CPU is not an x86-64".to_owned())
    }

    /// Why not.
    ///
    /// # Errors
    /// Always.
    pub fn sha_ni() -> Result<Self, String> {
        Self::new()
    }

    /// Why not.
    ///
    /// # Errors
    /// Always.
    pub fn avx512() -> Result<Self, String> {
        Self::new()
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn prove<J: Engine>(&self, _: &J) -> Result<(), EngineError> {
        match *self {}
    }

    /// Never called.
    pub fn prefetch(&self, _: &EngineKey) {
        match *self {}
    }
}

impl Engine for CbcHmac {
    const NAME: &'static str = "cbc-hmac";

    fn supports(&self, _: Suite) -> bool {
        match *self {}
    }

    fn key(&self, _: Suite, _: bool, _: &KeyMaterial) -> Result<EngineKey, KeyError> {
        match *self {}
    }

    fn seal(&self, _: &mut [Job<'_>]) {
        match *self {}
    }

    fn open(&self, _: &mut [Job<'_>]) {
        match *self {}
    }
}
