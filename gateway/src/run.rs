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
    if let Some((name, _)) = config.connections.first() {
        bail!(
            "the configuration has connections (`{name}` is the first of {}), and this build has no IKEv2 yet: \
             take them out, and use `manual_sas`",
            config.connections.len()
        );
    }
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

    #[test]
    fn connections_are_refused_until_there_is_ikev2() {
        let text = "\
ports: { a: { driver: tap, device: a, addresses: [198.51.100.1/24] } }
connections:
  branch:
    local: { address: 198.51.100.1, id: a.example.net }
    remote: { address: 198.51.100.2, id: b.example.net }
    auth: { psk_file: branch.psk }
    children: { lan: { local: 10.1.0.0/16, remote: 10.2.0.0/16 } }
";
        let directory = tempfile::tempdir().unwrap();
        let psk = directory.path().join("branch.psk");
        std::fs::write(&psk, "correct horse").unwrap();
        std::fs::set_permissions(&psk, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let host = Host { cores: vec![0, 1] };
        let loaded = parse(text, "gateway.yaml", directory.path(), &host).unwrap();
        let error = preflight(&loaded.config, &host).unwrap_err().to_string();
        assert!(error.contains("`branch` is the first of 1") && error.contains("no IKEv2 yet"), "{error}");
    }
}
