//! The crypto engines that run on this machine.

use std::sync::Arc;

use anyhow::Context;
use dataplane::crypto::{Crypto, EngineChoice, EngineError, Suite};

/// Starts the engines that were asked for; aws-lc and the fastest when none was.
///
/// # Errors
/// When one that was asked for cannot run, or one fails its self-test.
pub fn start(wanted: &[EngineChoice]) -> anyhow::Result<Vec<Arc<Crypto>>> {
    let wanted = if wanted.is_empty() { &[EngineChoice::AwsLc, EngineChoice::Auto] } else { wanted };
    wanted.iter().map(|&choice| Crypto::new(choice).map(Arc::new).context("--engines")).collect()
}

/// Starts all engines that run here.
///
/// # Errors
/// When one fails its self-test.
pub fn all() -> anyhow::Result<Vec<Arc<Crypto>>> {
    let mut engines = Vec::new();
    for (_, choice) in EngineChoice::KEYWORDS {
        match Crypto::new(choice) {
            Ok(crypto) => engines.push(Arc::new(crypto)),
            Err(EngineError::Unavailable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(engines)
}

/// The engines that carry a suite, by name: each once, since an engine leaves suites that it has not to aws-lc.
pub fn of_suite(engines: &[Arc<Crypto>], suite: Suite) -> Vec<(&'static str, Arc<Crypto>)> {
    let mut found: Vec<(&'static str, Arc<Crypto>)> = Vec::new();
    for crypto in engines {
        let name = crypto.engine_name(suite);
        if found.iter().all(|&(known, _)| known != name) {
            found.push((name, Arc::clone(crypto)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_carried_by_an_engine_once() {
        let engines = start(&[EngineChoice::AwsLc, EngineChoice::AwsLc]).unwrap();
        let found = of_suite(&engines, "aes128-sha256".parse().unwrap());
        assert_eq!(found.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["aws-lc"]);
        assert_eq!(start(&[]).unwrap().len(), 2);
    }

    #[test]
    fn every_engine_is_there_once() {
        let suite = "aes128gcm16".parse().unwrap();
        let found = of_suite(&all().unwrap(), suite);
        let names: std::collections::BTreeSet<_> = found.iter().map(|(name, _)| *name).collect();
        assert!(names.contains("aws-lc"));
        assert_eq!(names.len(), found.len());
    }
}
