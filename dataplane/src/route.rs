//! The routing table of a worker: connected and static routes, by longest prefix.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::message::Route;
use crate::prefix_table::{Full, PrefixTable};

/// Routes by destination.
#[derive(Debug)]
pub struct RouteTable {
    routes: PrefixTable<Route>,
    generation: u64,
}

impl RouteTable {
    /// An empty table for `capacity` routes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { routes: PrefixTable::with_capacity(capacity), generation: 1 }
    }

    /// Adds a route, or replaces the one to its prefix.
    ///
    /// # Errors
    /// [`Full`]; nothing changes then.
    pub fn insert(&mut self, route: Route) -> Result<Option<Route>, Full> {
        self.generation += 1;
        self.routes.insert(route.to, route)
    }

    /// Removes the route to exactly this prefix.
    pub fn remove(&mut self, to: &IpNet) -> Option<Route> {
        self.generation += 1;
        self.routes.remove(to)
    }

    /// The route to an address.
    #[inline]
    pub fn lookup(&self, destination: IpAddr) -> Option<Route> {
        self.routes.lookup(destination).next().map(|(_, route)| route)
    }

    /// Changes with every change, so that what was looked up can be kept until it does.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Routes in the table.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, port: u16, via: Option<&str>) -> Route {
        Route { to: to.parse().unwrap(), port, via: via.map(|via| via.parse().unwrap()) }
    }

    #[test]
    fn the_longest_prefix_wins_and_changes_show() {
        let mut table = RouteTable::with_capacity(16);
        let default = route("0.0.0.0/0", 0, Some("198.51.100.254"));
        let lan = route("10.1.0.0/16", 1, None);
        table.insert(default).unwrap();
        table.insert(lan).unwrap();
        let generation = table.generation();
        assert_eq!(table.lookup("10.1.2.3".parse().unwrap()), Some(lan));
        assert_eq!(table.lookup("10.2.2.3".parse().unwrap()), Some(default));
        assert_eq!(table.lookup("2001:db8::1".parse().unwrap()), None);
        assert_eq!(table.remove(&lan.to), Some(lan));
        assert_eq!(table.lookup("10.1.2.3".parse().unwrap()), Some(default));
        assert_ne!(table.generation(), generation);
    }
}
