//! SAs and connections against ports, routes and each other.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use controlplane::config::PeerLimits;
use dataplane::crypto::KeyMaterial;
use dataplane::policy::Selector;
use dataplane::sa::{Protocol, Spi};
use ipnet::IpNet;

use super::super::connection::Connection;
use super::super::error::Problems;
use super::super::manual::ManualSa;
use super::super::node::{Named, nearest, quoted};
use super::super::path::FieldPath;
use super::super::pool::Pool;
use super::links::Links;
use super::routes::Routes;

/// Checks the section `manual_sas`.
pub(super) fn manual_sas(
    sas: &Named<ManualSa>,
    state: Option<&Path>,
    links: &Links,
    routes: &Routes,
    claims: &mut Claims,
    problems: &Problems,
) {
    let top = FieldPath::of(["manual_sas"]);
    if !sas.entries.is_empty() {
        problems.warning(top.clone(), by_hand(state));
    }
    let mut inbound: HashMap<Spi, &str> = HashMap::new();
    let mut outbound: HashMap<(IpAddr, bool, Spi), &str> = HashMap::new();
    let mut keys = Keys::default();
    for (name, sa) in &sas.entries {
        let path = || top.clone().key(name);
        own(sa.local, &path().key("local"), links, problems);
        peer(sa.remote, &path().key("remote"), links, routes, problems);
        let spi = sa.inbound.spi;
        // One table for ESP and AH: RFC 4301 s4.1 lets the receiver choose, and we look up the SPI alone.
        if let Some(other) = inbound.insert(spi, name) {
            problems.error(
                path().key("inbound").key("spi"),
                format!("{spi:#x} is the inbound SPI of {other} already"),
            );
        }
        let spi = sa.outbound.spi;
        let protocol = sa.options.protocol == Protocol::Esp;
        if let Some(other) = outbound.insert((sa.remote, protocol, spi), name) {
            let remote = sa.remote;
            problems.error(
                path().key("outbound").key("spi"),
                format!("{spi:#x} is the outbound SPI of {other} to {remote} already"),
            );
        }
        for (direction, key) in [("outbound", &sa.outbound.key), ("inbound", &sa.inbound.key)] {
            if let Some(other) = keys.add(key, name, direction) {
                let message =
                    format!("the key is that of {other} too: each direction of each SA needs its own");
                problems.error(path().key(direction).key("key_file"), message);
            }
        }
        if state.is_none() && sa.suite.implicit_iv() {
            let message = format!(
                "the IVs of {} are sequence numbers (RFC 8750 s2), which start again with every start: `gateway.state` is off",
                sa.suite
            );
            problems.error(path().key("suite"), message);
        }
        claims.claim_all(&sa.selectors, &path(), problems);
    }
}

/// What manual SAs ask of the operator, with or without state.
fn by_hand(state: Option<&Path>) -> String {
    match state {
        Some(directory) => format!(
            "keys that are set by hand are for laboratories: nobody replaces them. Their sequence numbers are kept in \
             {}; when that is lost, or comes from a backup, both sides need new keys (RFC 4303 s5, RFC 4106 s2)",
            directory.display()
        ),
        None => "keys that are set by hand are for laboratories, and `gateway.state` is off: sequence numbers start again \
                 at 1 with every start, so the peer drops packets as replays (RFC 4303 s3.4.3) and AEAD nonces repeat \
                 (RFC 4106 s2) until both sides have new keys"
            .to_owned(),
    }
}

/// Checks the section `connections`.
pub(super) fn connections(
    connections: &Named<Connection>,
    links: &Links,
    routes: &Routes,
    claims: &mut Claims,
    problems: &Problems,
) {
    let top = FieldPath::of(["connections"]);
    for (name, connection) in &connections.entries {
        let path = || top.clone().key(name);
        // One address stands by itself, several in a list.
        let address_path = |end: &str, place, others: &[IpAddr]| {
            let path = path().key(end).key("address");
            if others.is_empty() { path } else { path.index(place) }
        };
        for (place, local) in connection.local.addresses().enumerate() {
            let path = address_path("local", place, &connection.local.others);
            own(local, &path, links, problems);
        }
        for (place, remote) in connection.remote.addresses().enumerate() {
            let path = address_path("remote", place, &connection.remote.others);
            peer(remote, &path, links, routes, problems);
        }
        for (child_name, child) in &connection.children {
            // Peers without a fixed address are told apart by what they negotiate.
            if connection.remote.address.is_some() {
                let path = path().key("children").key(child_name);
                claims.claim_all(&child.selectors, &path, problems);
            }
        }
    }
}

/// Checks that what is configured fits the limits: what a peer may not have we do not ask for.
pub(super) fn sizes(connections: &Named<Connection>, limits: &PeerLimits, problems: &Problems) {
    for (name, connection) in &connections.entries {
        let path = || FieldPath::of(["connections"]).key(name).key("children");
        let check = |path: FieldPath, found: usize, most: usize, what: &str, key: &str| {
            if found > most {
                let message = format!("found {found} {what}, expected {most} at most: `ike.limits.{key}`");
                problems.error(path, message);
            }
        };
        check(path(), connection.children.len(), limits.children, "children", "children");
        for (child_name, child) in &connection.children {
            let pairs = child.selectors.len();
            check(path().key(child_name), pairs, limits.policies, "pairs of prefixes", "policies");
        }
    }
}

/// Checks that connections name pools that there are.
pub(super) fn pools(connections: &Named<Connection>, pools: &Named<Pool>, problems: &Problems) {
    for (name, connection) in &connections.entries {
        for (index, pool) in connection.pools.iter().enumerate() {
            if !pools.complete || pools.entries.contains_key(pool) {
                continue;
            }
            let path = FieldPath::of(["connections"]).key(name).key("pools").index(index);
            let advice = match nearest(pool, pools.entries.keys().map(String::as_str)) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => String::new(),
            };
            problems.error(path, format!("there is no pool {}{advice}", quoted(pool)));
        }
    }
}

fn own(local: IpAddr, path: &FieldPath, links: &Links, problems: &Problems) {
    if links.is_ours(local) == Some(false) {
        problems.error(path.clone(), format!("{local} is on no port"));
    }
}

fn peer(remote: IpAddr, path: &FieldPath, links: &Links, routes: &Routes, problems: &Problems) {
    if links.is_ours(remote) == Some(true) {
        problems.error(path.clone(), format!("{remote} is an address of our own"));
    } else if routes.reach(remote, links) == Some(false) {
        problems.warning(path.clone(), format!("no route leads to {remote}"));
    }
}

/// Traffic that is spoken for. Two tunnels for the same traffic are a mistake; one within the other is not.
#[derive(Default)]
pub(super) struct Claims(HashMap<Claim, FieldPath>);

#[derive(PartialEq, Eq, Hash)]
struct Claim {
    local: IpNet,
    remote: IpNet,
    protocol: Option<u8>,
    ports: [u16; 4],
}

impl Claims {
    /// Claims selectors for the entry at `path`, and reports what is taken.
    pub(super) fn claim_all(&mut self, selectors: &[Selector], path: &FieldPath, problems: &Problems) {
        for selector in selectors {
            let Selector { local, remote, protocol, local_ports, remote_ports } = selector;
            let ports =
                [*local_ports.start(), *local_ports.end(), *remote_ports.start(), *remote_ports.end()];
            let claim = Claim { local: *local, remote: *remote, protocol: *protocol, ports };
            if let Some(first) = self.0.get(&claim) {
                let message = format!("the traffic {local} to {remote} belongs to {first} already");
                problems.error(path.clone(), message);
            } else {
                self.0.insert(claim, path.clone());
            }
        }
    }
}

/// Keys that are in use. They are found by a hash that is secret and random with each start, and compared in
/// constant time.
#[derive(Default)]
struct Keys<'a> {
    hasher: RandomState,
    known: HashMap<u64, Vec<(&'a KeyMaterial, &'a str, &'static str)>>,
}

impl<'a> Keys<'a> {
    /// Adds the key of an SA. Returns the SA and direction that have it already.
    fn add(&mut self, key: &'a KeyMaterial, name: &'a str, direction: &'static str) -> Option<String> {
        let known = self.known.entry(self.hasher.hash_one(key.expose())).or_default();
        let same = |(other, ..): &&(&KeyMaterial, &str, &str)| {
            verify_slices_are_equal(other.expose(), key.expose()).is_ok()
        };
        let found = known.iter().find(same).map(|(_, name, direction)| format!("{name}.{direction}"));
        known.push((key, name, direction));
        found
    }
}
