//! What sections say of each other: addresses of SAs are on ports, routes lead to ports, SPIs and selectors are
//! claimed once. Each check is linear in the number of entries, or a sort.

mod links;
mod prefix_table;
mod routes;
mod tunnels;

use super::error::Problems;
use super::gateway::Workers;
use super::load::Sections;
use super::path::FieldPath;
use super::{ClearPolicy, Config};
use crate::host::Host;
use links::Links;

/// Checks the sections against each other, and makes a configuration of them. It is valid when no error was
/// reported.
pub(super) fn validate(sections: Sections, problems: &Problems, host: &Host) -> Config {
    workers(&sections.workers, problems, host);
    let links = Links::new(&sections.ports, &sections.workers, problems);
    let routes = routes::resolve(&sections.routes, &sections.ports, &links, problems);
    let mut claims = tunnels::Claims::default();
    tunnels::manual_sas(
        &sections.manual_sas,
        sections.gateway.state.as_deref(),
        &links,
        &routes,
        &mut claims,
        problems,
    );
    tunnels::connections(&sections.connections, &links, &routes, &mut claims, problems);
    tunnels::sizes(&sections.connections, &sections.ike.limits.peers, problems);
    tunnels::pools(&sections.connections, &sections.pools, problems);
    for (path, policy) in &sections.policies {
        claims.claim_all(&policy.selectors, path, problems);
    }
    let policies = sections.policies.into_iter().flat_map(|(_, entry)| {
        entry.selectors.into_iter().map(move |selector| ClearPolicy { action: entry.action, selector })
    });
    Config {
        gateway: sections.gateway,
        log: sections.log,
        workers: sections.workers,
        dpdk: sections.dpdk,
        ports: sections.ports.entries,
        routes: routes.list,
        ike: sections.ike,
        pools: sections.pools.entries,
        connections: sections.connections.entries,
        manual_sas: sections.manual_sas.entries,
        policies: policies.collect(),
    }
}

fn workers(workers: &Workers, problems: &Problems, host: &Host) {
    let path = FieldPath::of(["workers", "cores"]);
    let unknown = |core| !host.cores.is_empty() && !host.cores.contains(&core);
    let message = |core| {
        let cores: Vec<_> = host.cores.iter().map(usize::to_string).collect();
        format!("this machine has no core {core}, only {}; `spillway run` refuses it here", cores.join(", "))
    };
    let mut seen = std::collections::HashSet::new();
    for (index, core) in workers.cores.iter().enumerate() {
        if !seen.insert(core) {
            problems.error(path.clone().index(index), format!("core {core} is there twice"));
        } else if unknown(*core) {
            problems.warning(path.clone().index(index), message(*core));
        }
    }
    let path = FieldPath::of(["workers", "control_core"]);
    if unknown(workers.control_core) {
        problems.warning(path, message(workers.control_core));
    } else if workers.cores.contains(&workers.control_core) {
        problems.warning(path, format!("core {} is a worker's too: both will wait", workers.control_core));
    }
}
