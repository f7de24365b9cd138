//! Inner addresses that peers gave us (RFC 7296 s2.19): while their tunnels are up they are the gateway's own.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use dataplane::message::AddressUpdate;
use dataplane::policy::Selector;
use dataplane::sa::TunnelId;
use ipnet::IpNet;

use crate::config::{Config, is_unicast};

/// Which tunnels bring which addresses. Two may bring the same one: the children of a connection share it.
#[derive(Default)]
pub(super) struct InnerAddresses {
    tunnels: HashMap<TunnelId, BTreeSet<IpAddr>>,
    /// The links of our ports: no peer can give us an address there, which is another station's or ours already.
    links: Vec<IpNet>,
}

impl InnerAddresses {
    pub(super) fn new(config: &Config) -> Self {
        let links = config.ports.values().flat_map(|port| port.addresses.iter().map(IpNet::trunc));
        Self { tunnels: HashMap::new(), links: links.collect() }
    }

    /// A tunnel carries the traffic of these selectors from now on. Returns what the workers must be told.
    pub(super) fn set(&mut self, tunnel: TunnelId, selectors: &[Selector]) -> Vec<AddressUpdate> {
        // Whatever is wider than an address is nobody's address.
        let hosts = selectors.iter().filter(|one| one.local.prefix_len() == one.local.max_prefix_len());
        let after: BTreeSet<IpAddr> =
            hosts.map(|one| one.local.addr()).filter(|&address| self.may_be_ours(address)).collect();
        let before = match after.is_empty() {
            true => self.tunnels.remove(&tunnel),
            false => self.tunnels.insert(tunnel, after.clone()),
        };
        let before = before.unwrap_or_default();
        let others = |address: &IpAddr| {
            self.tunnels.iter().any(|(other, addresses)| *other != tunnel && addresses.contains(address))
        };
        let gone = before.difference(&after).filter(|address| !others(address));
        let new = after.difference(&before).filter(|address| !others(address));
        let gone = gone.map(|&address| AddressUpdate::Remove(address));
        new.map(|&address| AddressUpdate::Add(address)).chain(gone).collect()
    }

    fn may_be_ours(&self, address: IpAddr) -> bool {
        let fits = is_unicast(address) && !self.links.iter().any(|link| link.contains(&address));
        if !fits {
            tracing::warn!(%address, "the peer gave us an inner address that is on a link of ours, or no host's: it is not taken");
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TunnelId = TunnelId(1);
    const B: TunnelId = TunnelId(2);

    fn selectors(local: &[&str]) -> Vec<Selector> {
        let remote = |local: &str| if local.contains(':') { "::/0" } else { "0.0.0.0/0" };
        local
            .iter()
            .map(|one| Selector::between(one.parse().unwrap(), remote(one).parse().unwrap()))
            .collect()
    }

    fn text(updates: &[AddressUpdate]) -> Vec<String> {
        let text = |update: &AddressUpdate| match update {
            AddressUpdate::Add(address) => format!("+{address}"),
            AddressUpdate::Remove(address) => format!("-{address}"),
        };
        updates.iter().map(text).collect()
    }

    #[test]
    fn an_address_is_ours_while_one_tunnel_brings_it() {
        let mut inner = InnerAddresses::default();
        assert_eq!(
            text(&inner.set(A, &selectors(&["10.9.0.1/32", "fd00::1/128"]))),
            ["+10.9.0.1", "+fd00::1"]
        );
        assert!(inner.set(A, &selectors(&["10.9.0.1/32", "fd00::1/128"])).is_empty(), "a rekey");
        assert!(inner.set(B, &selectors(&["10.9.0.1/32"])).is_empty());
        assert_eq!(text(&inner.set(A, &[])), ["-fd00::1"]);
        assert_eq!(text(&inner.set(B, &selectors(&["10.9.0.7/32"]))), ["+10.9.0.7", "-10.9.0.1"]);
        assert_eq!(text(&inner.set(B, &[])), ["-10.9.0.7"]);
        assert!(inner.tunnels.is_empty());
    }

    #[test]
    fn networks_links_of_ours_and_what_no_host_has_are_not_taken() {
        let links = vec!["10.1.0.0/16".parse().unwrap()];
        let mut inner = InnerAddresses { links, ..InnerAddresses::default() };
        for local in ["10.9.0.0/24", "0.0.0.0/0", "10.1.0.2/32", "224.0.0.1/32", "127.0.0.1/32", "::1/128"] {
            assert!(inner.set(A, &selectors(&[local])).is_empty(), "{local}");
        }
        assert_eq!(inner.set(A, &selectors(&["10.2.0.2/32"])).len(), 1);
    }
}
