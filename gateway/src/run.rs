//! `spillway run`: from a configuration to a gateway at work.

use anyhow::{Result, bail};

use crate::appliance;
use crate::config::Config;
use crate::host::Host;

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// What this machine or this build cannot do.
pub fn run(config: &Config) -> Result<()> {
    preflight(config, &Host::detect())?;
    appliance::run(config)
}

/// What a valid configuration may ask for and cannot have, here and now.
fn preflight(config: &Config, host: &Host) -> Result<()> {
    let workers = &config.workers;
    for core in workers.cores.iter().chain([&workers.control_core]) {
        if !host.cores.is_empty() && !host.cores.contains(core) {
            bail!("this machine has no core {core}: see `workers` in the configuration");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn preflight_of(text: &str, cores: &[usize]) -> Result<()> {
        let host = Host { cores: cores.to_vec() };
        let loaded = parse(text, "gateway.yaml", Path::new(""), &host).unwrap();
        preflight(&loaded.config, &host)
    }

    #[test]
    fn cores_that_the_machine_does_not_have_are_refused() {
        let text = "{ workers: { cores: [1], control_core: 0 }, ports: { a: { driver: tap, device: a } } }";
        assert!(preflight_of(text, &[0, 1]).is_ok());
        let error = preflight_of(text, &[0]).unwrap_err().to_string();
        assert_eq!(error, "this machine has no core 1: see `workers` in the configuration");
    }
}
