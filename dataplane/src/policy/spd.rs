//! The SPD of a worker: which policy a packet matches.

use std::net::IpAddr;

use crate::packet::ip::IpInfo;
use crate::policy::{Action, Policy, PolicyId, Selector};
use crate::prefix_table::Full;

/// Policies, looked up by packet.
#[derive(Debug)]
pub struct Spd {
    /// In the order in which they are tried.
    policies: Vec<Policy>,
    capacity: usize,
}

impl Spd {
    /// An SPD without policies, with room for `capacity`.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { policies: Vec::new(), capacity }
    }

    /// Adds a policy, or replaces the one with its id.
    ///
    /// # Errors
    /// [`Full`]; nothing changes then.
    pub fn insert(&mut self, policy: Policy) -> Result<Option<Policy>, Full> {
        let old = self.remove(policy.id);
        if self.policies.len() >= self.capacity {
            return Err(Full);
        }
        self.policies.push(policy);
        self.policies.sort_by_key(Policy::order);
        Ok(old)
    }

    /// Removes a policy.
    pub fn remove(&mut self, id: PolicyId) -> Option<Policy> {
        let at = self.policies.iter().position(|policy| policy.id == id)?;
        Some(self.policies.remove(at))
    }

    /// Number of policies.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The policy of packets from `local` to `remote`.
    pub fn lookup(
        &self,
        local: IpAddr,
        remote: IpAddr,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> Option<(PolicyId, Action)> {
        self.policies
            .iter()
            .find(|policy| policy.selector.matches(local, remote, protocol, ports))
            .map(|policy| (policy.id, policy.action))
    }

    /// The policy of a packet that leaves.
    pub fn lookup_outbound(&self, info: &IpInfo) -> Option<(PolicyId, Action)> {
        self.lookup(info.source, info.destination, info.protocol, info.ports)
    }

    /// The policy of a packet that arrives.
    pub fn lookup_inbound(&self, info: &IpInfo) -> Option<(PolicyId, Action)> {
        let ports = info.ports.map(|(source, destination)| (destination, source));
        self.lookup(info.destination, info.source, info.protocol, ports)
    }
}

impl Selector {
    /// Whether a packet that came out of an SA matches (RFC 4301 s5.2 step 4).
    pub fn matches_inbound(&self, info: &IpInfo) -> bool {
        let ports = info.ports.map(|(source, destination)| (destination, source));
        self.matches(info.destination, info.source, info.protocol, ports)
    }

    fn matches(&self, local: IpAddr, remote: IpAddr, protocol: u8, ports: Option<(u16, u16)>) -> bool {
        let any_port = self.local_ports == (0..=u16::MAX) && self.remote_ports == (0..=u16::MAX);
        self.local.contains(&local)
            && self.remote.contains(&remote)
            && self.protocol.is_none_or(|wanted| wanted == protocol)
            && (any_port
                || ports
                    .is_some_and(|(l, r)| self.local_ports.contains(&l) && self.remote_ports.contains(&r)))
    }
}
