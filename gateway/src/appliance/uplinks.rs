//! What follows from ports that lose their link or get it back: which routes are in force, and which of our addresses
//! peers can be reached from.

use std::net::IpAddr;

use dataplane::message::{Route, RouteUpdate};
use indexmap::IndexMap;
use ipnet::IpNet;

use super::links::LinkStates;
use crate::config::Config;

/// Routes of the configuration. Of several to one destination the first whose port has its link is in force; the first
/// when none has.
pub(super) struct Routes(IndexMap<IpNet, Vec<Route>>);

impl Routes {
    pub(super) fn new(config: &Config) -> Self {
        let mut routes: IndexMap<IpNet, Vec<Route>> = IndexMap::new();
        for &route in &config.routes {
            routes.entry(route.to).or_default().push(route);
        }
        Self(routes)
    }

    /// What is in force.
    pub(super) fn in_force<'a>(&'a self, links: &'a LinkStates) -> impl Iterator<Item = Route> + 'a {
        let usable = |route: &&Route| route.port.is_none_or(|port| links.usable(port.into()));
        self.0.values().filter_map(move |choices| choices.iter().find(usable).or(choices.first()).copied())
    }

    /// What the workers must be told when links changed.
    pub(super) fn changes(&self, before: &LinkStates, now: &LinkStates) -> Vec<RouteUpdate> {
        let both = self.in_force(before).zip(self.in_force(now));
        both.filter(|(old, new)| old != new).map(|(_, new)| RouteUpdate::Add(new)).collect()
    }
}

/// Our addresses on ports that may carry packets, in the order of the configuration.
pub(super) fn addresses(config: &Config, links: &LinkStates) -> Vec<IpAddr> {
    let ports = config.ports.values().enumerate().filter(|(port, _)| links.usable(*port));
    ports.flat_map(|(_, port)| port.addresses.iter().map(IpNet::addr)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, port: u16) -> Route {
        Route { to: to.parse().unwrap(), port: Some(port), via: Some(IpAddr::from([192, 0, 2, port as u8])) }
    }

    #[test]
    fn the_first_route_whose_port_has_its_link_is_in_force() {
        let (net, any) = ("10.9.0.0/16", "0.0.0.0/0");
        let routes = Routes(IndexMap::from([
            (net.parse().unwrap(), vec![route(net, 2)]),
            (any.parse().unwrap(), vec![route(any, 0), route(any, 1)]),
        ]));
        let links = |states: [Option<bool>; 3]| LinkStates(states.to_vec());
        let ports =
            |links: &LinkStates| routes.in_force(links).map(|route| route.port.unwrap()).collect::<Vec<_>>();
        let all = links([Some(true), Some(true), None]);
        let second = links([Some(false), Some(true), None]);
        let none = links([Some(false), Some(false), Some(false)]);
        assert_eq!((ports(&all), ports(&second), ports(&none)), (vec![2, 0], vec![2, 1], vec![2, 0]));
        let told = |before, now| {
            let updates = routes.changes(before, now).into_iter();
            updates
                .map(|update| match update {
                    RouteUpdate::Add(route) => route.port.unwrap(),
                    RouteUpdate::Remove(_) => panic!("a destination keeps a route"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!((told(&all, &second), told(&second, &all)), (vec![1], vec![0]));
        assert!(told(&all, &all).is_empty() && told(&all, &none).is_empty());
    }
}
