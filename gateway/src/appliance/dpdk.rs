//! Ports that DPDK drives: all of a configuration are opened at once, and bring the workers' threads with them.

use anyhow::Result;
use dataplane::crew::Crew;
use dataplane::port::Device;

use crate::config::Config;

/// Open devices, in the order of the configuration.
#[derive(Default)]
pub(super) struct Opened {
    devices: std::vec::IntoIter<Box<dyn Device>>,
    /// What the workers must run on.
    pub(super) crew: Option<Box<dyn Crew>>,
}

impl Opened {
    /// The device of the next port.
    pub(super) fn next_device(&mut self) -> Option<Box<dyn Device>> {
        self.devices.next()
    }
}

/// Everything that would keep the DPDK ports of a configuration from starting on this machine, each with what mends it.
pub fn probe(config: &Config) -> Vec<String> {
    with_dpdk::probe(config)
}

/// Opens the DPDK ports of a configuration, if it has any.
pub(super) fn open(config: &Config) -> Result<Opened> {
    with_dpdk::open(config)
}

#[cfg(feature = "dpdk")]
mod with_dpdk {
    use anyhow::{Context, Result};
    use dataplane::port::dpdk::{self, PortConfig};

    use super::Opened;
    use crate::config::{Config, Driver, HugePages};

    pub(super) fn probe(config: &Config) -> Vec<String> {
        settings(config).map(|settings| dpdk::probe(&settings)).unwrap_or_default()
    }

    pub(super) fn open(config: &Config) -> Result<Opened> {
        let Some(settings) = settings(config) else { return Ok(Opened::default()) };
        let opened = dpdk::open(settings).context("DPDK ports")?;
        Ok(Opened { devices: opened.devices.into_iter(), crew: Some(opened.crew) })
    }

    /// What the data plane needs, if there is a port of this driver.
    fn settings(config: &Config) -> Option<dpdk::Config> {
        let ports = config.ports.values().filter_map(|port| match &port.driver {
            Driver::Dpdk { device, descriptors } => {
                Some(PortConfig { device: device.clone(), mtu: port.mtu, descriptors: *descriptors })
            }
            _ => None,
        });
        let ports: Vec<_> = ports.collect();
        (!ports.is_empty()).then(|| dpdk::Config {
            ports,
            cores: config.workers.cores.clone(),
            control_core: config.workers.control_core,
            huge_pages: config.dpdk.huge_pages == HugePages::Auto,
            memory: config.dpdk.memory,
            buffers: crate::appliance::FRAMES,
            eal: config.dpdk.eal.clone(),
        })
    }
}

#[cfg(not(feature = "dpdk"))]
mod with_dpdk {
    use anyhow::Result;

    use super::Opened;
    use crate::config::Config;

    pub(super) fn probe(_config: &Config) -> Vec<String> {
        Vec::new()
    }

    /// No configuration that was read has such ports.
    pub(super) fn open(_config: &Config) -> Result<Opened> {
        Ok(Opened::default())
    }
}
