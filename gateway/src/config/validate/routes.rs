//! Routes against ports.

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane::message::Route;
use ipnet::IpNet;

use super::super::error::Problems;
use super::super::node::{Named, nearest, quoted};
use super::super::path::FieldPath;
use super::super::port::Port;
use super::super::route::RouteEntry;
use super::links::{Links, is_link_local, name_of};
use super::prefix_table::PrefixTable;

/// The routes that lead somewhere.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) list: Vec<Route>,
    /// Destinations, and the line that each was first given in.
    table: PrefixTable<FieldPath>,
    /// Destinations with the port that leads there, and the line that said so.
    by_port: HashMap<(IpNet, u16), FieldPath>,
    /// Whether none was left out because of a problem.
    complete: bool,
}

impl Routes {
    /// Whether packets to an address have a way out. `None` when that cannot be told.
    pub(super) fn reach(&self, address: IpAddr, links: &Links) -> Option<bool> {
        match links.port_towards(address).is_some() || self.table.longest_match(address).is_some() {
            false if !(self.complete && links.complete()) => None,
            reached => Some(reached),
        }
    }
}

/// Finds the port of every route, and reports those that lead nowhere.
pub(super) fn resolve(
    entries: &[(FieldPath, RouteEntry)],
    ports: &Named<Port>,
    links: &Links,
    problems: &Problems,
) -> Routes {
    let mut routes = Routes { complete: problems.errors() == 0, ..Routes::default() };
    for (path, route) in entries {
        if routes.table.get(route.to).is_none() {
            routes.table.insert(route.to, path.clone());
        }
        if let Some(port) = links.port_of_link(route.to) {
            let port = name_of(ports, port);
            problems
                .error(path.clone().key("to"), format!("{} is the link of port {port} already", route.to));
        }
        if let Some(via) = route.via
            && links.is_ours(via) == Some(true)
        {
            problems.error(path.clone().key("via"), format!("the next hop {via} is an address of our own"));
            continue;
        }
        let port = match (&route.port, route.via) {
            (Some(name), via) => named_port(name, via, path, ports, links, problems),
            (None, Some(via)) => port_towards(via, path, links, problems),
            (None, None) => None,
        };
        if let Some(port) = port.and_then(|port| u16::try_from(port).ok()) {
            // Another one is for when the port of the first has no link.
            if let Some(first) = routes.by_port.insert((route.to, port), path.clone()) {
                let message = format!("{} is routed by {first} by the same port already", route.to);
                problems.error(path.clone().key("to"), message);
            }
            routes.list.push(Route { to: route.to, port: Some(port), via: route.via });
        }
    }
    routes
}

fn named_port(
    name: &str,
    via: Option<IpAddr>,
    path: &FieldPath,
    ports: &Named<Port>,
    links: &Links,
    problems: &Problems,
) -> Option<usize> {
    let Some(index) = ports.entries.get_index_of(name) else {
        if links.complete() {
            let advice = match nearest(name, ports.entries.keys().map(String::as_str)) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => String::new(),
            };
            problems.error(path.clone().key("port"), format!("there is no port {}{advice}", quoted(name)));
        }
        return None;
    };
    if let Some(via) = via
        && !is_link_local(via)
        && links.port_towards(via) != Some(index)
        && links.complete()
    {
        let message = format!("the next hop {via} is not on the link of port {name}");
        problems.error(path.clone().key("via"), message);
        return None;
    }
    Some(index)
}

fn port_towards(via: IpAddr, path: &FieldPath, links: &Links, problems: &Problems) -> Option<usize> {
    if is_link_local(via) {
        problems.error(path.clone().key("via"), format!("{via} is link-local: the route needs a `port` too"));
        return None;
    }
    let port = links.port_towards(via);
    if port.is_none() && links.complete() {
        problems.error(path.clone().key("via"), format!("the next hop {via} is on no port's link"));
    }
    port
}
