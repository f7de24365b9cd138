//! Ports against each other: devices, addresses, links.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::error::Problems;
use super::super::gateway::Workers;
use super::super::node::Named;
use super::super::path::FieldPath;
use super::super::port::Port;
use super::prefix_table::PrefixTable;

/// Addresses and links of all ports.
pub(super) struct Links {
    /// Our addresses and the index of the port that each is on.
    addresses: HashMap<IpAddr, usize>,
    /// The ports' own prefixes.
    connected: PrefixTable<usize>,
    /// Whether all ports are known, so that what is not on them can be called wrong.
    complete: bool,
}

impl Links {
    /// Collects them and reports what does not go together.
    pub(super) fn new(ports: &Named<Port>, workers: &Workers, problems: &Problems) -> Self {
        let top = FieldPath::of(["ports"]);
        if ports.complete && ports.entries.is_empty() {
            problems.error(top.clone(), "found no port, expected one at least");
        }
        if ports.entries.len() > usize::from(u16::MAX) {
            problems
                .error(top.clone(), format!("found {} ports, expected 65535 at most", ports.entries.len()));
        }
        let mut links =
            Self { addresses: HashMap::new(), connected: PrefixTable::default(), complete: ports.complete };
        let mut devices: HashMap<&str, &str> = HashMap::new();
        let mut prefixes: Vec<(IpNet, usize, FieldPath)> = Vec::new();
        for (index, (name, port)) in ports.entries.iter().enumerate() {
            let path = top.clone().key(name);
            if let Some(device) = port.driver.device()
                && let Some(other) = devices.insert(device, name)
            {
                problems.error(
                    path.clone().key("device"),
                    format!("{device} is the device of port {other} already"),
                );
            }
            if let Some(queues) = port.queues
                && queues != workers.cores.len()
            {
                let message = format!(
                    "found {queues}, expected {}: one for each of `workers.cores`; it may be left out",
                    workers.cores.len()
                );
                problems.error(path.clone().key("queues"), message);
            }
            for (place, address) in port.addresses.iter().enumerate() {
                let path = path.clone().key("addresses").index(place);
                if let Some(other) = links.addresses.insert(address.addr(), index) {
                    let other = name_of(ports, other);
                    problems.error(path.clone(), format!("{} is on port {other} already", address.addr()));
                    continue;
                }
                links.connected.insert(address.trunc(), index);
                if !is_link_local(address.addr()) {
                    prefixes.push((address.trunc(), index, path));
                }
            }
        }
        overlaps(prefixes, ports, problems);
        links
    }

    /// Whether an address is ours. `None` when that cannot be told.
    pub(super) fn is_ours(&self, address: IpAddr) -> Option<bool> {
        match self.addresses.contains_key(&address) {
            false if !self.complete => None,
            known => Some(known),
        }
    }

    /// The port on whose link an address is.
    pub(super) fn port_towards(&self, address: IpAddr) -> Option<usize> {
        self.connected.longest_match(address).copied()
    }

    /// The port whose link has exactly this prefix.
    pub(super) fn port_of_link(&self, prefix: IpNet) -> Option<usize> {
        self.connected.get(prefix).copied()
    }

    /// Whether all ports are known.
    pub(super) fn complete(&self) -> bool {
        self.complete
    }
}

/// Whether an address means something on one link only.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

pub(super) fn name_of(ports: &Named<Port>, index: usize) -> &str {
    ports.entries.get_index(index).map_or("?", |(name, _)| name)
}

/// Reports links of different ports that overlap. In order of network and length, a prefix that overlaps
/// another comes behind it and before any that does not.
fn overlaps(mut prefixes: Vec<(IpNet, usize, FieldPath)>, ports: &Named<Port>, problems: &Problems) {
    prefixes.sort_by_key(|(prefix, ..)| (prefix.network(), prefix.prefix_len()));
    let mut around: Vec<(IpNet, usize)> = Vec::new();
    for (prefix, port, path) in prefixes {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&prefix)) {
            around.pop();
        }
        if let Some((outer, other)) = around.iter().find(|(_, other)| *other != port) {
            let other = name_of(ports, *other);
            problems.error(path, format!("{prefix} overlaps {outer}, the link of port {other}"));
        }
        around.push((prefix, port));
    }
}
