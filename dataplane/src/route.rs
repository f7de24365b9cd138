//! The routing table of one worker: connected and static routes, longest prefix first.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::lpm::Lpm;
use crate::message::{Route, RouteUpdate};
use crate::port::PortId;

/// How many gateways may stand behind each other until one is on a link of ours. A route that leads to itself
/// ends here too.
const MAX_DEPTH: usize = 4;

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// By this port.
    pub port: PortId,
    /// To this neighbour on the port's link: a gateway, or the destination itself.
    pub address: IpAddr,
}

/// Routes by destination.
#[derive(Debug)]
pub struct RouteTable {
    routes: Lpm<Route>,
    generation: u64,
}

impl RouteTable {
    /// An empty table.
    pub fn new() -> Self {
        Self { routes: Lpm::new(), generation: 1 }
    }

    /// Adds a route, or replaces the one to the same prefix and returns it.
    pub fn insert(&mut self, route: Route) -> Option<Route> {
        self.generation += 1;
        self.routes.insert(route.to, route)
    }

    /// Removes the route to a prefix and returns it.
    pub fn remove(&mut self, to: IpNet) -> Option<Route> {
        let old = self.routes.remove(to);
        self.generation += u64::from(old.is_some());
        old
    }

    /// Applies an update.
    pub fn apply(&mut self, update: RouteUpdate) {
        match update {
            RouteUpdate::Add(route) => _ = self.insert(route),
            RouteUpdate::Remove(to) => _ = self.remove(to),
        }
    }

    /// Changes whenever a route does, and is never 0. A next hop that was kept is good while this number is
    /// the one that it was kept with.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The next hop to a destination: that of the longest prefix whose gateway can be reached.
    ///
    /// A gateway without a port is looked up in turn. It must be reached through a route of its own, which
    /// may have a gateway too. Costs one longest-prefix match and one more for each gateway; keep the result.
    pub fn lookup(&self, destination: IpAddr) -> Option<NextHop> {
        self.routes.matches(destination).find_map(|route| self.resolve(route, destination))
    }

    /// The longest route to a destination, whether its gateway can be reached or not.
    pub fn route(&self, destination: IpAddr) -> Option<&Route> {
        self.routes.lookup(destination)
    }

    /// Routes in the table.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    fn resolve(&self, route: &Route, destination: IpAddr) -> Option<NextHop> {
        let mut route = route;
        let mut address = destination;
        for _ in 0..MAX_DEPTH {
            address = route.via.unwrap_or(address);
            if let Some(port) = route.port {
                return Some(NextHop { port, address });
            }
            // Without a port and a gateway this would look up the same address again, to no end.
            route = self.routes.lookup(route.via?)?;
        }
        None
    }
}

impl Default for RouteTable {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, port: Option<PortId>, via: Option<&str>) -> Route {
        Route { to: to.parse().unwrap(), port, via: via.map(|via| via.parse().unwrap()) }
    }

    fn table(routes: &[Route]) -> RouteTable {
        let mut table = RouteTable::new();
        for &route in routes {
            assert_eq!(table.insert(route), None);
        }
        table
    }

    fn hop(port: PortId, address: &str) -> Option<NextHop> {
        Some(NextHop { port, address: address.parse().unwrap() })
    }

    fn lookup(table: &RouteTable, destination: &str) -> Option<NextHop> {
        table.lookup(destination.parse().unwrap())
    }

    #[test]
    fn a_connected_destination_is_its_own_neighbour() {
        let table = table(&[route("198.51.100.0/24", Some(0), None), route("2001:db8::/64", Some(1), None)]);
        assert_eq!(lookup(&table, "198.51.100.7"), hop(0, "198.51.100.7"));
        assert_eq!(lookup(&table, "2001:db8::7"), hop(1, "2001:db8::7"));
        assert_eq!(lookup(&table, "198.51.101.7"), None);
    }

    #[test]
    fn a_gateway_without_a_port_is_found_on_its_link() {
        let table = table(&[
            route("198.51.100.0/24", Some(3), None),
            route("0.0.0.0/0", None, Some("198.51.100.254")),
            route("203.0.113.0/24", Some(5), Some("198.51.100.1")),
        ]);
        assert_eq!(lookup(&table, "192.0.2.1"), hop(3, "198.51.100.254"));
        assert_eq!(lookup(&table, "203.0.113.9"), hop(5, "198.51.100.1"), "its own port wins");
    }

    #[test]
    fn gateways_behind_gateways_resolve_to_the_one_on_our_link() {
        let table = table(&[
            route("198.51.100.0/24", Some(0), None),
            route("203.0.113.0/24", None, Some("198.51.100.1")),
            route("10.0.0.0/8", None, Some("203.0.113.1")),
        ]);
        assert_eq!(lookup(&table, "10.1.1.1"), hop(0, "198.51.100.1"));
    }

    #[test]
    fn a_mixed_family_gateway_works() {
        let table = table(&[route("fe80::/64", Some(2), None), route("10.0.0.0/8", None, Some("fe80::1"))]);
        assert_eq!(lookup(&table, "10.1.1.1"), hop(2, "fe80::1"));
    }

    #[test]
    fn routes_that_lead_nowhere_give_way_to_shorter_ones() {
        let table = table(&[
            route("198.51.100.0/24", Some(0), None),
            route("0.0.0.0/0", None, Some("198.51.100.254")),
            // To itself, in a circle, and without port and gateway.
            route("10.1.0.0/16", None, Some("10.1.0.1")),
            route("10.2.0.0/16", None, Some("10.3.0.1")),
            route("10.3.0.0/16", None, Some("10.2.0.1")),
            route("10.4.0.0/16", None, None),
        ]);
        for destination in ["10.1.2.3", "10.2.0.9", "10.3.0.9", "10.4.0.9"] {
            assert_eq!(lookup(&table, destination), hop(0, "198.51.100.254"), "{destination}");
            assert_ne!(table.route(destination.parse().unwrap()).unwrap().to, "0.0.0.0/0".parse().unwrap());
        }
    }

    #[test]
    fn a_default_route_does_not_lead_to_its_own_gateway() {
        let table = table(&[route("0.0.0.0/0", None, Some("198.51.100.254"))]);
        assert_eq!(lookup(&table, "192.0.2.1"), None);
    }

    #[test]
    fn every_change_makes_a_new_generation() {
        let mut table = RouteTable::default();
        let mut seen = vec![table.generation()];
        assert_ne!(seen[0], 0);
        let mut changed = |table: &RouteTable| {
            assert!(!seen.contains(&table.generation()));
            seen.push(table.generation());
        };
        table.apply(RouteUpdate::Add(route("10.0.0.0/8", Some(0), None)));
        changed(&table);
        table.apply(RouteUpdate::Add(route("10.0.0.0/8", Some(1), None)));
        changed(&table);
        assert_eq!(table.len(), 1);
        assert_eq!(lookup(&table, "10.0.0.1"), hop(1, "10.0.0.1"));
        table.apply(RouteUpdate::Remove("10.0.0.0/8".parse().unwrap()));
        changed(&table);
        assert!(table.is_empty());
        table.apply(RouteUpdate::Remove("10.0.0.0/8".parse().unwrap()));
        assert_eq!(table.generation(), *seen.last().unwrap(), "nothing changed");
    }
}
