//! Which connection a peer belongs to.

use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::Identity;
use crate::auth::identity::MatchQuality;
use crate::config::Connection;
use crate::wire::Id;

/// The connections whose addresses fit, in the order of the configuration.
pub(crate) fn candidates(
    connections: &[Arc<Connection>],
    local: IpAddr,
    remote: IpAddr,
) -> Vec<Arc<Connection>> {
    let fits = |connection: &&Arc<Connection>| {
        let ours = &connection.local_addresses;
        (ours.is_empty() || ours.contains(&local)) && connection.remote.allows(remote)
    };
    connections.iter().filter(fits).cloned().collect()
}

/// The connection that expects this identity, best match first; `wanted` is whom the peer wants to talk to
/// (RFC 7296 s3.5, IDr). The error says what was expected and what came.
pub(crate) fn identify(
    candidates: &[Arc<Connection>],
    id: &Id<'_>,
    wanted: Option<&Id<'_>>,
) -> Result<(Arc<Connection>, Identity), String> {
    let identity =
        Identity::from_payload(id.kind.0, &id.data).map_err(|error| format!("IDi {id}: {error}"))?;
    let ours = |connection: &Connection| {
        let matches = |id: &Id<'_>| {
            Identity::from_payload(id.kind.0, &id.data).is_ok_and(|id| id == connection.local_id)
        };
        wanted.is_none_or(matches)
    };
    let mut best: Option<(MatchQuality, &Arc<Connection>)> = None;
    for connection in candidates.iter().filter(|connection| ours(connection)) {
        let Some(quality) = connection.remote_id.matches(&identity) else { continue };
        if best.is_none_or(|(before, _)| quality > before) {
            best = Some((quality, connection));
        }
    }
    let Some((_, connection)) = best else {
        let expected = candidates.iter().map(|one| format!("{} <- {}", one.local_id, one.remote_id));
        let expected = expected.collect::<Vec<_>>().join(", ");
        let wanted = wanted.map_or("anybody".into(), ToString::to_string);
        return Err(format!("no connection for {identity} to {wanted}; expected {expected}"));
    };
    Ok((connection.clone(), identity))
}
