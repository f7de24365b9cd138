//! Ports of the configuration become open devices.

use anyhow::{Context, Result, bail};
use dataplane::crew::Crew;
use dataplane::port::{Device, DeviceInfo, af_packet, af_xdp, pcap, tap};
use dataplane::worker::PortConfig;
use ipnet::IpNet;

use super::dpdk;
use crate::config::{Config, Driver, Port, Rpf, XdpMode};

/// Devices in the order of the configuration, and what the workers must know of them.
pub(super) struct OpenPorts {
    ports: Vec<(PortConfig, Box<dyn Device>)>,
    frames: usize,
    /// The threads that the workers must run on, where a driver has its own.
    crew: Option<Box<dyn Crew>>,
}

impl OpenPorts {
    /// Opens all ports of a configuration, each with one queue a worker.
    pub(super) fn open(config: &Config) -> Result<Self> {
        let queues = config.workers.cores.len();
        let mut dpdk = dpdk::open(config)?;
        let ports = Vec::with_capacity(config.ports.len());
        let mut opened = Self { ports, frames: 0, crew: dpdk.crew.take() };
        for (name, port) in &config.ports {
            let (device, frames) = open(port, config, queues, &mut dpdk)
                .with_context(|| format!("ports.{name} ({})", port.driver.keyword()))?;
            let info = device.info();
            let settings = PortConfig {
                addresses: port.addresses.clone(),
                mac: info.mac,
                mtu: port.mtu.min(info.mtu),
                vlan: port.vlan,
                reverse_path: port.rpf == Rpf::Strict,
            };
            opened.frames += frames;
            opened.ports.push((settings, device));
        }
        Ok(opened)
    }

    pub(super) fn infos(&self) -> Vec<DeviceInfo> {
        self.ports.iter().map(|(_, device)| device.info().clone()).collect()
    }

    pub(super) fn largest_mtu(&self) -> u32 {
        self.ports.iter().map(|(settings, _)| settings.mtu).max().unwrap_or(1500)
    }

    /// Frames that the rings of the devices hold, a worker.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    pub(super) fn worker_ports(&self) -> Vec<PortConfig> {
        self.ports.iter().map(|(settings, _)| settings.clone()).collect()
    }

    /// The threads that the workers must run on, if any.
    pub(super) fn take_crew(&mut self) -> Option<Box<dyn Crew>> {
        self.crew.take()
    }

    pub(super) fn into_devices(self) -> Vec<Box<dyn Device>> {
        self.ports.into_iter().map(|(_, device)| device).collect()
    }
}

/// Opens one port. Also returns how many frames of a worker its rings hold.
fn open(
    port: &Port,
    config: &Config,
    queues: usize,
    dpdk: &mut dpdk::Opened,
) -> Result<(Box<dyn Device>, usize)> {
    let mtu = Some(port.mtu);
    Ok(match &port.driver {
        Driver::AfPacket { device } => {
            (af_packet::open(af_packet::Config { queues, mtu, ..af_packet::Config::new(device) })?, 0)
        }
        Driver::AfXdp { device, share, mode } => {
            let xdp = af_xdp::Config {
                queues,
                mtu,
                zero_copy: match mode {
                    XdpMode::Auto => af_xdp::ZeroCopy::Auto,
                    XdpMode::ZeroCopy => af_xdp::ZeroCopy::Require,
                    XdpMode::Copy => af_xdp::ZeroCopy::Off,
                },
                share: share.then(|| ours(port, config)),
                ..af_xdp::Config::new(device)
            };
            let frames = xdp.frames();
            (af_xdp::open(xdp)?, frames)
        }
        Driver::Tap { device } => (tap::open(tap::Config { queues, mtu, ..tap::Config::new(device) })?, 0),
        Driver::Pcap { read, write } => {
            let files = pcap::Config {
                input: read.clone(),
                output: write.clone(),
                mtu: port.mtu,
                queues,
                ..pcap::Config::default()
            };
            (pcap::open(files)?, 0)
        }
        Driver::Dpdk { .. } => match dpdk.next_device() {
            Some(device) => (device, 0),
            None => bail!("this build has no DPDK"),
        },
    })
}

/// What the gateway takes from a port that it shares with the kernel: packets to its own addresses, and to the
/// prefixes on our side and on the peers' side of its tunnels and bypass policies.
fn ours(port: &Port, config: &Config) -> Vec<IpNet> {
    let mut prefixes: Vec<IpNet> = port.addresses.iter().map(|address| address.addr().into()).collect();
    let tunnels = config.manual_sas.values().flat_map(|sa| &sa.selectors);
    let clear = config.policies.iter().map(|policy| &policy.selector);
    prefixes.extend(tunnels.chain(clear).flat_map(|selector| [selector.local, selector.remote]));
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}
