//! The configuration payload in IKE_AUTH: inner addresses, name servers and subnets (RFC 7296 s2.19, s3.15).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tracing::{info, warn};

use super::child::Denied;
use super::{Context, Core};
use crate::auth::Identity;
use crate::config::Connection;
use crate::lease::Lease;
use crate::rejection::Rejection;
use crate::update::Assigned;
use crate::wire::{CfgAttribute, CfgAttributeType, CfgType, Configuration, NotifyType, Payload};

/// What we ask for as a client: `present` is what we have, when we authenticate anew.
pub(super) fn request(connection: &Connection, present: &[IpAddr]) -> Option<Payload<'static>> {
    let mut attributes = Vec::new();
    for address in &connection.request_addresses {
        let kept = present.iter().find(|one| address.is_unspecified() && one.is_ipv4() == address.is_ipv4());
        let address = kept.unwrap_or(address);
        match address {
            IpAddr::V4(v4) => {
                let wanted = if v4.is_unspecified() { Vec::new() } else { v4.octets().to_vec() };
                attributes.push(CfgAttribute::new(CfgAttributeType::INTERNAL_IP4_ADDRESS, wanted));
                attributes.push(CfgAttribute::new(CfgAttributeType::INTERNAL_IP4_DNS, Vec::new()));
                attributes.push(CfgAttribute::new(CfgAttributeType::INTERNAL_IP4_SUBNET, Vec::new()));
            }
            IpAddr::V6(v6) => {
                // RFC 7296 s3.15.1: address and prefix length.
                let wanted =
                    if v6.is_unspecified() { Vec::new() } else { [&v6.octets()[..], &[128]].concat() };
                attributes.push(CfgAttribute::new(CfgAttributeType::INTERNAL_IP6_ADDRESS, wanted));
                attributes.push(CfgAttribute::new(CfgAttributeType::INTERNAL_IP6_DNS, Vec::new()));
                attributes.push(CfgAttribute::new(CfgAttributeType::INTERNAL_IP6_SUBNET, Vec::new()));
            }
        }
    }
    (!attributes.is_empty()).then_some(Payload::Cp(Configuration { kind: CfgType::REQUEST, attributes }))
}

/// Serves a request as the gateway: takes addresses from the pools. `None` when there is no request, or no pool
/// for what is asked.
pub(super) fn reply(
    ctx: &mut Context<'_>,
    connection: &Connection,
    peer: &Identity,
    payloads: &[Payload<'_>],
) -> Result<Option<(Payload<'static>, Vec<Lease>)>, Denied> {
    let Some(asked) = find(payloads, CfgType::REQUEST) else { return Ok(None) };
    let name = peer.to_string();
    let mut leases: Vec<Lease> = Vec::new();
    let mut attributes = Vec::new();
    for attribute in &asked.attributes {
        let Some(wanted) = wanted(attribute) else { continue };
        // One address of each family, however often it is asked for.
        if leases.iter().any(|lease| lease.address.is_ipv4() == wanted.is_ipv4()) {
            continue;
        }
        match ctx.pools.take(&connection.pools, wanted, &name) {
            Ok(Some(lease)) => {
                attributes.push(address_attribute(lease.address));
                leases.push(lease);
            }
            Ok(None) => {}
            Err(_) => {
                warn!(connection = %connection.name, peer = %name, "no inner address left");
                leases.iter().for_each(|lease| ctx.pools.give_back(lease));
                return Err(Denied::new(Rejection::Configuration, NotifyType::INTERNAL_ADDRESS_FAILURE));
            }
        }
    }
    if leases.is_empty() {
        return Ok(None);
    }
    attributes.extend(connection.dns.iter().map(|&address| match address {
        IpAddr::V4(v4) => CfgAttribute::new(CfgAttributeType::INTERNAL_IP4_DNS, v4.octets().to_vec()),
        IpAddr::V6(v6) => CfgAttribute::new(CfgAttributeType::INTERNAL_IP6_DNS, v6.octets().to_vec()),
    }));
    attributes.extend(connection.subnets.iter().map(|subnet| match subnet {
        IpNet::V4(net) => {
            let value = [net.network().octets(), net.netmask().octets()].concat();
            CfgAttribute::new(CfgAttributeType::INTERNAL_IP4_SUBNET, value)
        }
        IpNet::V6(net) => {
            let value = [&net.network().octets()[..], &[net.prefix_len()]].concat();
            CfgAttribute::new(CfgAttributeType::INTERNAL_IP6_SUBNET, value)
        }
    }));
    let addresses: Vec<_> = leases.iter().map(|lease| lease.address.to_string()).collect();
    info!(connection = %connection.name, peer = %name, addresses = addresses.join(" "), "inner address assigned");
    Ok(Some((Payload::Cp(Configuration { kind: CfgType::REPLY, attributes }), leases)))
}

/// Reads the gateway's reply as a client. The error says what was expected.
pub(super) fn accept(connection: &Connection, payloads: &[Payload<'_>]) -> Result<Option<Assigned>, String> {
    if connection.request_addresses.is_empty() {
        return Ok(None);
    }
    let reply =
        find(payloads, CfgType::REPLY).ok_or("peer assigns no inner address, which the connection needs")?;
    let mut assigned = Assigned::default();
    for CfgAttribute { kind, value } in &reply.attributes {
        let value = value.as_ref();
        match *kind {
            CfgAttributeType::INTERNAL_IP4_ADDRESS => assigned.addresses.extend(ipv4(value)),
            CfgAttributeType::INTERNAL_IP6_ADDRESS => assigned.addresses.extend(ipv6(value)),
            CfgAttributeType::INTERNAL_IP4_DNS => assigned.dns.extend(ipv4(value)),
            CfgAttributeType::INTERNAL_IP6_DNS => assigned.dns.extend(ipv6(value)),
            CfgAttributeType::INTERNAL_IP4_SUBNET => assigned.subnets.extend(subnet4(value)),
            CfgAttributeType::INTERNAL_IP6_SUBNET => assigned.subnets.extend(subnet6(value)),
            _ => {}
        }
    }
    if assigned.addresses.is_empty() {
        return Err("peer's configuration has no inner address".into());
    }
    Ok(Some(assigned))
}

/// Addresses that stand for our side in dynamic selectors: what was assigned to us; while that is still being asked
/// for, anything of the family, which the gateway narrows (RFC 7296 s2.19).
pub(super) fn local_hosts(core: &Core, connection: &Connection) -> Vec<(IpAddr, IpAddr)> {
    if core.inner.asking && !connection.request_addresses.is_empty() {
        let any = connection.request_addresses.iter().map(|address| match address {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from_bits(u128::MAX).into()),
        });
        return any.collect();
    }
    if core.inner.local.is_empty() { single(&[core.path.local.ip()]) } else { single(&core.inner.local) }
}

/// Addresses that stand for the peer's side in dynamic selectors: what we assigned, or else its outer address.
pub(super) fn remote_hosts(core: &Core) -> Vec<(IpAddr, IpAddr)> {
    if core.inner.remote.is_empty() { single(&[core.path.remote.ip()]) } else { single(&core.inner.remote) }
}

fn single(addresses: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    addresses.iter().map(|&address| (address, address)).collect()
}

fn find<'p, 'a>(payloads: &'p [Payload<'a>], kind: CfgType) -> Option<&'p Configuration<'a>> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Cp(configuration) if configuration.kind == kind => Some(configuration),
        _ => None,
    })
}

/// The address that a request asks for; unspecified when it leaves the choice to us.
fn wanted(attribute: &CfgAttribute<'_>) -> Option<IpAddr> {
    match attribute.kind {
        CfgAttributeType::INTERNAL_IP4_ADDRESS => {
            Some(ipv4(&attribute.value).unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
        }
        CfgAttributeType::INTERNAL_IP6_ADDRESS => {
            Some(ipv6(&attribute.value).unwrap_or(Ipv6Addr::UNSPECIFIED.into()))
        }
        _ => None,
    }
}

fn address_attribute(address: IpAddr) -> CfgAttribute<'static> {
    match address {
        IpAddr::V4(v4) => CfgAttribute::new(CfgAttributeType::INTERNAL_IP4_ADDRESS, v4.octets().to_vec()),
        IpAddr::V6(v6) => {
            let value: Cow<'static, [u8]> = Cow::Owned([&v6.octets()[..], &[128]].concat());
            CfgAttribute::new(CfgAttributeType::INTERNAL_IP6_ADDRESS, value)
        }
    }
}

fn ipv4(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value).ok().map(IpAddr::from)
}

/// With or without prefix length.
fn ipv6(value: &[u8]) -> Option<IpAddr> {
    value.first_chunk::<16>().filter(|_| value.len() <= 17).map(|octets| IpAddr::from(*octets))
}

fn subnet4(value: &[u8]) -> Option<IpNet> {
    let octets = <[u8; 8]>::try_from(value).ok()?;
    let (address, mask) = (octets.first_chunk::<4>()?, octets.last_chunk::<4>()?);
    Ipv4Net::with_netmask(Ipv4Addr::from(*address), Ipv4Addr::from(*mask)).ok().map(|net| net.trunc().into())
}

fn subnet6(value: &[u8]) -> Option<IpNet> {
    let (octets, prefix) = (value.first_chunk::<16>()?, *value.get(16)?);
    Ipv6Net::new(Ipv6Addr::from(*octets), prefix).ok().map(|net| net.trunc().into())
}
