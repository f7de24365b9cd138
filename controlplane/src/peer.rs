//! Which connection a peer belongs to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::identity::MatchQuality;
use crate::auth::{Identity, RemoteProof, Roles};
use crate::config::{Connection, RemoteAddress};
use crate::wire::Id;

/// The connections of a configuration, found without a look at all of them: there may be one for each of tens of
/// thousands of peers.
pub(crate) struct Directory {
    connections: Vec<Arc<Connection>>,
    by_name: HashMap<Arc<str>, usize>,
    /// Those whose peer is at an address, in the order of the configuration.
    by_remote: HashMap<IpAddr, Vec<usize>>,
    /// Those whose peer may be anywhere.
    anywhere: Vec<usize>,
}

impl Directory {
    pub fn new(connections: &[Arc<Connection>]) -> Self {
        let (mut by_name, mut by_remote, mut anywhere) = (HashMap::new(), HashMap::new(), Vec::new());
        for (index, connection) in connections.iter().enumerate() {
            // Of several with one name the first counts.
            by_name.entry(connection.name.clone()).or_insert(index);
            match &connection.remote {
                RemoteAddress::Any => anywhere.push(index),
                RemoteAddress::Addresses(addresses) => {
                    for &address in addresses {
                        let there: &mut Vec<usize> = by_remote.entry(address).or_default();
                        if there.last() != Some(&index) {
                            there.push(index);
                        }
                    }
                }
            }
        }
        Self { connections: connections.to_vec(), by_name, by_remote, anywhere }
    }

    /// The connection of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Connection>> {
        self.by_name.get(name).and_then(|&index| self.connections.get(index))
    }

    /// The connections that we may answer on and whose addresses fit, in the order of the configuration.
    pub fn candidates(&self, local: IpAddr, remote: IpAddr) -> Vec<Arc<Connection>> {
        let there = self.by_remote.get(&remote).into_iter().flatten();
        let mut indices: Vec<usize> = there.chain(&self.anywhere).copied().collect();
        indices.sort_unstable();
        let found = indices.into_iter().filter_map(|index| self.connections.get(index));
        let ours = |connection: &&Arc<Connection>| {
            let roles = Roles::of(&connection.local_auth, &connection.remote_auth);
            (connection.local_addresses.is_empty() || connection.local_addresses.contains(&local))
                && roles.is_ok_and(Roles::may_respond)
        };
        found.filter(ours).cloned().collect()
    }
}

/// Connections that one line about a stranger names.
const NAMED: usize = 8;

/// The connection that expects this identity, best match first; `wanted` is whom the peer wants to talk to
/// (RFC 7296 s3.5, IDr). `eap`: the peer wants to authenticate by EAP. The error says what was expected and what came.
pub(crate) fn identify(
    candidates: &[Arc<Connection>],
    id: &Id<'_>,
    wanted: Option<&Id<'_>>,
    eap: bool,
) -> Result<(Arc<Connection>, Identity), String> {
    let identity =
        Identity::from_payload(id.kind.0, &id.data).map_err(|error| format!("IDi {id}: {error}"))?;
    let ours = |connection: &Connection| {
        let matches = |id: &Id<'_>| {
            Identity::from_payload(id.kind.0, &id.data).is_ok_and(|id| id == connection.local_id)
        };
        wanted.is_none_or(matches)
    };
    let by_eap = |connection: &Connection| matches!(connection.remote_auth, RemoteProof::Eap(_));
    let mut best: Option<(MatchQuality, &Arc<Connection>)> = None;
    let mut other_way = false;
    for connection in candidates.iter().filter(|connection| ours(connection)) {
        if by_eap(connection) != eap {
            other_way |= connection.remote_id.matches(&identity).is_some();
            continue;
        }
        let Some(quality) = connection.remote_id.matches(&identity) else { continue };
        if best.is_none_or(|(before, _)| quality > before) {
            best = Some((quality, connection));
        }
    }
    let Some((_, connection)) = best else {
        let expected = candidates.iter().take(NAMED);
        let mut expected: Vec<_> =
            expected.map(|one| format!("{} <- {}", one.local_id, one.remote_id)).collect();
        let rest = candidates.len() - expected.len();
        expected.extend((rest > 0).then(|| format!("and {rest} more")));
        let expected = expected.join(", ");
        let wanted = wanted.map_or("anybody".into(), ToString::to_string);
        let why = match (other_way, eap) {
            (true, true) => " that authenticates by EAP",
            (true, false) => " that authenticates without EAP",
            (false, _) => "",
        };
        return Err(format!("no connection for {identity} to {wanted}{why}; expected {expected}"));
    };
    Ok((connection.clone(), identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{A, connection};
    use crate::wire::IdType;

    #[test]
    fn candidates_come_in_the_order_of_the_configuration() {
        let addresses =
            |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let one = |name: &str, local: &[&str], remote: Option<&[&str]>| {
            let remote = remote.map_or(RemoteAddress::Any, |list| RemoteAddress::Addresses(addresses(list)));
            let local_addresses = addresses(local);
            Arc::new(Connection { name: name.into(), local_addresses, remote, ..connection(A) })
        };
        let directory = Directory::new(&[
            one("a", &[], None),
            one("b", &["198.51.100.1"], Some(&["203.0.113.1", "203.0.113.2", "203.0.113.1"])),
            one("c", &["198.51.100.2"], Some(&["203.0.113.1"])),
            one("d", &["198.51.100.1"], None),
            one("e", &["198.51.100.1", "198.51.100.2"], Some(&["203.0.113.2"])),
            one("b", &[], Some(&["203.0.113.9"])),
        ]);
        let names = |local: &str, remote: &str| {
            let found = directory.candidates(local.parse().unwrap(), remote.parse().unwrap());
            found.iter().map(|one| one.name.to_string()).collect::<String>()
        };
        assert_eq!(names("198.51.100.1", "203.0.113.1"), "abd");
        assert_eq!(names("198.51.100.1", "203.0.113.2"), "abde");
        assert_eq!(names("198.51.100.2", "203.0.113.1"), "ac");
        assert_eq!(names("198.51.100.1", "203.0.113.3"), "ad");
        assert_eq!(names("2001:db8::1", "2001:db8::2"), "a");
        assert_eq!(directory.named("b").unwrap().local_addresses, addresses(&["198.51.100.1"]));
        assert!(directory.named("z").is_none());
    }

    /// What an operator reads when a peer comes that he did not expect.
    #[test]
    fn an_identity_that_no_connection_expects_is_told_beside_those_that_are() {
        let candidates = [Arc::new(connection(A))];
        let id =
            |name: &str| Id { kind: IdType::FQDN, reserved: [0; 3], data: name.as_bytes().to_vec().into() };
        let (us, them) = (candidates[0].local_id.to_string(), candidates[0].remote_id.to_string());
        let said = |from: &str, to: Option<&str>, eap| {
            let found = identify(&candidates, &id(from), to.map(id).as_ref(), eap);
            found.map(|(connection, _)| connection.name.to_string())
        };
        assert_eq!(said(&them, Some(&us), false), Ok(candidates[0].name.to_string()));
        let refused = |asked: &str| Err(format!("no connection for {asked}; expected {us} <- {them}"));
        assert_eq!(said("x.example.org", None, false), refused("x.example.org to anybody"));
        assert_eq!(
            said(&them, Some("y.example.org"), false),
            refused(&format!("{them} to {}", id("y.example.org")))
        );
        let by_eap = format!("{them} to anybody that authenticates by EAP");
        assert_eq!(said(&them, None, true), refused(&by_eap));
    }
}
