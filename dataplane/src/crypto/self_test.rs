//! What every engine must answer before it carries traffic.

use super::engine::Engine;
use super::{EngineError, Job, Key, KeyMaterial, Suite};

/// Seals a packet of known plaintext for every known answer that the engine carries, and opens it again.
///
/// # Errors
/// [`EngineError::SelfTest`] names the suite and the step.
pub fn run<E: Engine>(engine: &E) -> Result<(), EngineError> {
    for answer in KNOWN {
        let fail = |suite, step| EngineError::SelfTest { engine: E::NAME, suite, step };
        let Ok(suite) = answer.suite.parse::<Suite>() else { continue };
        if !engine.supports(suite) {
            continue;
        }
        let material = KeyMaterial::new((0..suite.key_len() as u8).collect());
        let key = Key::with_engine(engine, suite, false, &material).map_err(|_| fail(suite, "key"))?;
        let plain: Vec<u8> = (0..64).collect();
        let mut packet =
            [&[0; 7][..], &[1], &vec![0; key.iv_len()], &plain, &vec![0; key.icv_len()]].concat();
        let mut jobs = [Job { key: &key, packet: &mut packet, seq: 1, ok: false }];
        engine.seal(&mut jobs);
        engine.open(&mut jobs);
        if !jobs[0].ok {
            return Err(fail(suite, "open"));
        }
    }
    Ok(())
}

/// A packet of an engine that is known to be right.
struct KnownAnswer {
    suite: &'static str,
}

const KNOWN: &[KnownAnswer] = &[KnownAnswer { suite: "aes128gcm16" }];
